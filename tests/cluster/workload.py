"""A seeded workload whose every answer can be judged alone.

Writers put unique keys whose bodies name themselves (header, then keyed pseudo-random
bytes), delete some of them, and remember what was acknowledged.  Afterwards every
acknowledged key must be there, right, and listed, and what was deleted must be gone (I1,
I2, I3L, I8 of the fault matrix).
"""

from __future__ import annotations

import random
import threading
import time
import xml.etree.ElementTree as ET

import attrs

from objstore.cli.load import Client, Target
from tests.cluster.crew import Crew
from tests.cluster.scoreboard import Scoreboard
from tests.harness import Cluster

SIZES = (0, 100, 5_000, 16_384, 16_385, 200_000, 1_500_000)
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def target_of(cluster: Cluster, bucket: str) -> Target:
    return Target(
        urls=tuple(node.s3 for node in cluster.nodes),
        access_key=cluster.access_key,
        secret_key=cluster.secret_key,
        region=str(cluster.description["region"]),
        bucket=bucket,
        ca_file=cluster.ca_file,
    )


def body_of(key: str, size: int) -> bytes:
    """The one body that `key` may have."""
    header = f"{key} {size}\n".encode()[:size]
    return header + random.Random(key).randbytes(size - len(header))


def size_of(key: str) -> int:
    return int(key.rpartition("-")[2])


@attrs.define
class Workload(Crew):
    """Writers on all nodes until stopped."""

    cluster: Cluster
    bucket: str
    writers: int = 6
    seed: int = 1
    sizes: tuple[int, ...] = SIZES
    nodes: tuple[int, ...] = ()  # Asked; none: all.
    deleting: float = 0.0  # How often an acknowledged key is deleted again.
    board: Scoreboard = attrs.Factory(Scoreboard)
    acked: set[str] = attrs.Factory(set)
    tried: set[str] = attrs.Factory(set)
    deleted: set[str] = attrs.Factory(set)  # Acknowledged.
    doomed: set[str] = attrs.Factory(set)  # Deleting it was tried: it may be gone.
    _lock: threading.Lock = attrs.Factory(threading.Lock)

    def begin(self) -> None:
        for number in range(self.writers):
            self.start(self._write, number)

    def _write(self, writer: int) -> None:
        target = target_of(self.cluster, self.bucket)
        chance = random.Random(self.seed * 1000 + writer)
        clients = [Client(target, url) for url in target.urls]
        count = 0
        nodes = self.nodes or tuple(range(len(clients)))
        while not self.is_over:
            at = nodes[writer % len(nodes)]
            count += 1
            key = f"w{self.seed}-{writer}-{count}-{chance.choice(self.sizes)}"
            with self._lock:
                self.tried.add(key)
            began = time.monotonic()
            status, _ = clients[at].request(
                "PUT", f"/{self.bucket}/{key}", body=body_of(key, size_of(key))
            )
            if status == 200:
                with self._lock:
                    self.acked.add(key)
            what = f"PUT {key} of node {at + 1}"
            self.board.note(at, what, status, began, is_write=True)
            if status != 200:
                time.sleep(0.05)
            elif chance.random() < self.deleting:
                at = chance.choice(nodes)
                self._delete(clients[at], at, key)

    def _delete(self, client: Client, at: int, key: str) -> None:
        with self._lock:
            self.doomed.add(key)
        began = time.monotonic()
        status, _ = client.request("DELETE", f"/{self.bucket}/{key}")
        if status == 204:
            with self._lock:
                self.deleted.add(key)
        what = f"DELETE {key} of node {at + 1}"
        self.board.note(at, what, status, began, is_write=True)

    def wait_for_acks(self, count: int, *, timeout_s: float = 60) -> None:
        """Until `count` more writes were acknowledged."""
        self.board.wait_for_acks(count, timeout_s=timeout_s)


def verify(cluster: Cluster, bucket: str, workload: Workload) -> None:
    """Every acknowledged key is there, right and listed; nothing else is there."""
    board = workload.board
    target = target_of(cluster, bucket)
    clients = [Client(target, url) for url in target.urls]
    kept = workload.acked - workload.doomed
    for number, key in enumerate(sorted(kept)):
        status, data = _get(clients[number % len(clients)], f"/{bucket}/{key}")
        if status != 200:
            board.lost.append(f"{key}: {status} {data[:200]!r}")
        elif data != body_of(key, size_of(key)):
            board.wrong.append(f"{key}: {len(data)} bytes {data[:60]!r}")
    for client in clients:
        listed = list_keys(client, bucket, prefix=f"w{workload.seed}-")
        if listed != sorted(set(listed)):
            board.wrong.append("a list out of order")
        unwanted = set(listed) - (workload.tried - workload.deleted)
        board.wrong += [f"{key}: listed, never written or deleted" for key in unwanted]
        board.lost += [f"{key}: not listed" for key in kept - set(listed)]
    assert not board.lost, board.lost[:5]
    assert not board.wrong, board.wrong[:5]


def _get(client: Client, path: str) -> tuple[int, bytes]:
    """Once the cluster is whole: a 503 or a dropped connection is asked again."""
    deadline = time.monotonic() + 30
    while True:
        status, data = client.request("GET", path)
        if status not in {0, 503} or time.monotonic() > deadline:
            return status, data
        time.sleep(0.1)


def list_keys(client: Client, bucket: str, *, prefix: str = "") -> list[str]:
    keys: list[str] = []
    token = ""
    while True:
        query = [("list-type", "2"), ("prefix", prefix)]
        if token:
            query.append(("continuation-token", token))
        status, data = client.request("GET", f"/{bucket}", query=query)
        assert status == 200, data
        page = ET.fromstring(data)
        keys += [str(item.text) for item in page.iter(f"{_NAMESPACE}Key")]
        token = page.findtext(f"{_NAMESPACE}NextContinuationToken") or ""
        if not token:
            return keys
