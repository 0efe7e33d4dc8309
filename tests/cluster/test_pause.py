"""Processes that stand still: SIGSTOP and SIGCONT (F14).

Who was paused does not know it.  What lies in its sockets when it wakes is the trap: it led
when it fell asleep, and somebody else has led since (R4, R7).
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.cluster.crew import Crew
from tests.cluster.load import Load
from tests.cluster.registers import Connection
from tests.cluster.scoreboard import Scoreboard
from tests.cluster.workload import target_of
from tests.harness import Cluster, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BUCKET = "pauses"
KEYS = [f"trap-{number}" for number in range(16)]  # In all four shards of the bucket.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("pause")) as running:
        running.s3().create_bucket(Bucket=BUCKET)
        yield running
        for node in running.nodes:
            node.kill(signal.SIGCONT)


def all_wait(sent: list[Connection], port: int) -> bool:
    """Whether what each connection sent lies unread in a socket of this port."""
    sockets = [connection._connection.sock for connection in sent]
    if not all(sockets):
        return False
    unread = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(f":{port:04X}") and int(queues.rpartition(":")[2], 16):
            unread.add(int(remote.rpartition(":")[2], 16))
    return {socket.getsockname()[1] for socket in sockets} <= unread


@attrs.define
class Traps(Crew):
    """Requests that lie in the sockets of a node that is paused."""

    cluster: Cluster
    number: int
    board: Scoreboard
    answers: Counter[str] = attrs.Factory(Counter)
    _warm: list[Connection] = attrs.Factory(list)

    def arm(self) -> None:
        """Before the pause: connections that are open already."""
        for _ in range(2 * len(KEYS)):
            connection = self._connection()
            connection.exchange("GET", f"/{BUCKET}/{KEYS[0]}")
            self._warm.append(connection)

    def set(self, values: dict[str, int], old_etags: dict[str, str]) -> None:
        """While it is paused: reads, and writes on the condition of what was before."""
        fresh = [self._connection() for _ in KEYS]
        for place, key in enumerate(KEYS):
            self.start(self._read, self._warm[place], key, values[key])
            self.start(self._read, fresh[place], key, values[key])
            swap = self._warm[len(KEYS) + place]
            self.start(self._swap, swap, key, old_etags[key])
        sent = [*self._warm, *fresh]
        port = int(self.cluster.nodes[self.number].s3.rpartition(":")[2])
        wait_until(lambda: all_wait(sent, port), what="requests in the node's sockets")

    def _connection(self) -> Connection:
        target = target_of(self.cluster, BUCKET)
        return Connection(target, target.urls[self.number])

    def _read(self, connection: Connection, key: str, least: int) -> None:
        for _ in range(5):  # The queued one, and some while it finds its way back.
            status, _, body = connection.exchange("GET", f"/{BUCKET}/{key}")
            self.answers[f"read:{status}"] += 1
            if status == 404 or (status == 200 and int(body) < least):
                self.board.stale.append(f"{key}: {status} {body!r}, {least} was written")

    def _swap(self, connection: Connection, key: str, old_etag: str) -> None:
        headers = {"If-Match": old_etag}
        status, _, _ = connection.exchange(
            "PUT", f"/{BUCKET}/{key}", body=b"0", headers=headers
        )
        self.answers[f"swap:{status}"] += 1
        if status == 200:
            self.board.stale.append(f"{key}: swapped for what was long overwritten")


def write_all(cluster: Cluster, number: int, value: int) -> dict[str, str]:
    """Put this value to all keys through a node, patiently; their etags."""
    target = target_of(cluster, BUCKET)
    connection = Connection(target, target.urls[number])
    etags = {}
    for key in KEYS:
        deadline = time.monotonic() + 30
        while True:
            status, headers, _ = connection.exchange(
                "PUT", f"/{BUCKET}/{key}", body=b"%d" % value
            )
            if status == 200:
                etags[key] = headers["etag"]
                break
            assert time.monotonic() < deadline, status
    return etags


def pause_each(cluster: Cluster, seconds: float, seed: int) -> None:
    """Every node in turn; every shard's leader is among them."""
    answers: Counter[str] = Counter()
    value = 0
    with Load(cluster, BUCKET, seed=seed, clients=6, writers=3) as load:
        for number, node in enumerate(cluster.nodes):
            value += 1
            old_etags = write_all(cluster, number, value)
            traps = Traps(cluster, number, load.board)
            traps.arm()
            load.board.wait_for_acks(20)
            with load.board.away(number):
                node.kill(signal.SIGSTOP)
                until = time.monotonic() + seconds
                value += 1
                write_all(cluster, (number + 1) % 3, value)
                time.sleep(max(0.0, until - time.monotonic()))
                with traps:
                    traps.set(dict.fromkeys(KEYS, value), old_etags)
                    node.kill(signal.SIGCONT)
            answers += traps.answers
            load.board.wait_for_acks(20)
    load.judge(pauses=3, **{name.replace(":", "_"): n for name, n in answers.items()})
    assert answers["read:200"]


def test_a_paused_leader_wakes_to_no_stale_read_and_no_stale_write(
    cluster: Cluster,
) -> None:
    pause_each(cluster, 3.0, seed=1)


@pytest.mark.full
def test_a_leader_paused_for_half_a_minute_wakes_to_nothing_stale(
    cluster: Cluster,
) -> None:
    pause_each(cluster, 30.0, seed=2)


def pause_often(cluster: Cluster, rounds: int, seed: int) -> None:
    """Short pauses of random nodes, some of them while another is still paused."""
    chance = random.Random(seed)
    with Load(cluster, BUCKET, seed=seed, clients=6, writers=3) as load:
        for _ in range(rounds):
            load.board.wait_for_acks(20)
            numbers = chance.sample(range(3), chance.choice((1, 1, 2)))
            with load.board.away(*numbers):
                for number in numbers:
                    cluster.nodes[number].kill(signal.SIGSTOP)
                    time.sleep(chance.uniform(0.3, 1.5))
                time.sleep(chance.uniform(0.5, 1.5))
                for number in numbers:
                    cluster.nodes[number].kill(signal.SIGCONT)
                    time.sleep(chance.uniform(0.0, 0.5))
    load.judge(pauses=rounds)


@pytest.mark.full
def test_nodes_are_paused_for_moments(cluster: Cluster) -> None:
    pause_often(cluster, 4, seed=3)


@pytest.mark.full
def test_nodes_are_paused_for_moments_again_and_again(cluster: Cluster) -> None:
    pause_often(cluster, 40, seed=4)
