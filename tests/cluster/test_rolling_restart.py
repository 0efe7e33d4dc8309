"""Nodes are stopped and started one after the other, in order, and no client notices (F22).

Clients are boto3 as it comes: its retries are the default ones.  They know the cluster by
one address, as users do: behind it a small balancer connects each of them to a node that
says it is ready.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.cluster.crew import Crew
from tests.cluster.registers import body_of, token_of
from tests.cluster.scoreboard import Scoreboard
from tests.harness import Cluster, Node, running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BUCKET = "rolling"


@attrs.define
class Balancer:
    """Connects each client to a node in turn; one that does not accept is passed over."""

    nodes: list[Node]
    _listener: socket.socket = attrs.field(init=False)
    _turn: int = 0

    def __attrs_post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._turn += 1
            threading.Thread(
                target=self._serve, args=(client, self._turn), daemon=True
            ).start()

    def _serve(self, client: socket.socket, turn: int) -> None:
        for number in range(len(self.nodes)):
            host, _, port = (
                self.nodes[(turn + number) % len(self.nodes)]
                .s3.removeprefix("http://")
                .partition(":")
            )
            try:
                node = socket.create_connection((host, int(port)), timeout=2)
            except OSError:
                continue
            node.settimeout(None)
            with client, node:
                upwards = threading.Thread(target=_copy, args=(client, node), daemon=True)
                upwards.start()
                _copy(node, client)
                upwards.join()
            return
        client.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@attrs.define
class Users(Crew):
    """boto3 clients that put, get, list and delete; every failure of theirs counts."""

    cluster: Cluster
    url: str
    board: Scoreboard
    count: int = 4
    failures: list[str] = attrs.Factory(list)
    requests: int = 0

    def begin(self) -> None:
        for number in range(self.count):
            s3 = self.cluster.s3(endpoint_url=self.url, config=None)
            self.start(self._work, number, s3)

    def _work(self, number: int, s3: Any) -> None:
        chance = random.Random(number)
        kept: dict[str, str] = {}
        turn = 0
        while not self.is_over:
            turn += 1
            key = f"user{number}-{chance.randrange(20)}"
            what = chance.choice(("put", "put", "get", "get", "list", "delete"))
            began = time.monotonic()
            try:
                self._do(s3, what, number, turn, key, chance, kept)
            except Exception as error:
                self.failures.append(f"{what} {key}: {error!r}")
            else:
                is_write = what in {"put", "delete"}
                self.board.note(0, what, 200, began, is_write=is_write)
            self.requests += 1

    def _do(
        self, s3: Any, what: str, number: int, turn: int, key: str, chance: Any, kept: Any
    ) -> None:
        if what == "put":
            token = f"{key}/{turn}"
            size = chance.choice((100, 5_000, 100_000))
            s3.put_object(Bucket=BUCKET, Key=key, Body=body_of(token, size))
            kept[key] = token
        elif what == "get" and key in kept:
            body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            token = token_of(body)
            if token is None:
                self.board.wrong.append(key)
            elif token != kept[key]:
                self.board.stale.append(f"{key}: {token}, {kept[key]} was written")
        elif what == "list":
            page = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"user{number}-")
            listed = {item["Key"] for item in page.get("Contents", ())}
            if listed != kept.keys():
                self.board.lost.append(f"list: {listed ^ kept.keys()}")
        elif what == "delete":
            s3.delete_object(Bucket=BUCKET, Key=key)
            kept.pop(key, None)


def roll(folder: Path, rounds: int) -> None:
    with running_cluster(folder) as cluster:
        cluster.s3().create_bucket(Bucket=BUCKET)
        balancer, board = Balancer(cluster.nodes), Scoreboard()
        restart_s: list[float] = []
        with balancer.running(), Users(cluster, balancer.url, board) as users:
            board.wait_for_acks(50)
            for _ in range(rounds):
                for node in cluster.nodes:
                    began = time.monotonic()
                    node.stop()
                    node.start()
                    restart_s.append(time.monotonic() - began)
                    board.wait_for_acks(30)
        board.judge(
            slowest_s=None,
            requests=users.requests,
            failed=len(users.failures),
            restarts=len(restart_s),
            slowest_restart=f"{max(restart_s):.1f}s",
        )
        assert not users.failures, users.failures[:5]


def test_a_rolling_restart_fails_no_request_of_a_client(tmp_path: Path) -> None:
    roll(tmp_path / "c", 1)


@pytest.mark.full
def test_rolling_restarts_again_and_again_fail_no_request_of_a_client(
    tmp_path: Path,
) -> None:
    roll(tmp_path / "c", 8)
