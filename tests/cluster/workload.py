"""A seeded workload whose every answer can be judged alone.

Writers put unique keys whose bodies name themselves (header, then keyed pseudo-random
bytes), delete some of them, and remember what was acknowledged.  Afterwards every
acknowledged key must be there, right, and listed, and what was deleted must be gone (I1,
I2, I3L, I8 of the fault matrix).
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
import xml.etree.ElementTree as ET

import attrs

from objstore.cli.load import Client, Target
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
class Workload:
    """Writers on all nodes until stopped."""

    cluster: Cluster
    bucket: str
    writers: int = 6
    seed: int = 1
    sizes: tuple[int, ...] = SIZES
    deleting: float = 0.0  # How often an acknowledged key is deleted again.
    acked: set[str] = attrs.Factory(set)
    tried: set[str] = attrs.Factory(set)
    deleted: set[str] = attrs.Factory(set)  # Acknowledged.
    doomed: set[str] = attrs.Factory(set)  # Deleting it was tried: it may be gone.
    statuses: dict[int, int] = attrs.Factory(dict)
    slowest_s: float = 0.0
    longest_gap_s: float = 0.0
    _last_ack: float = attrs.field(factory=time.monotonic)
    _stopping: threading.Event = attrs.Factory(threading.Event)
    _threads: list[threading.Thread] = attrs.Factory(list)
    _lock: threading.Lock = attrs.Factory(threading.Lock)

    def __enter__(self) -> Workload:  # noqa: PYI034 - typing.Self adds nothing here.
        self._last_ack = time.monotonic()
        for number in range(self.writers):
            thread = threading.Thread(target=self._write, args=(number,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _write(self, writer: int) -> None:
        target = target_of(self.cluster, self.bucket)
        chance = random.Random(self.seed * 1000 + writer)
        clients = [Client(target, url) for url in target.urls]
        count = 0
        while not self._stopping.is_set():
            at = chance.randrange(len(clients))
            count += 1
            key = f"w{self.seed}-{writer}-{count}-{chance.choice(self.sizes)}"
            with self._lock:
                self.tried.add(key)
            started = time.monotonic()
            status, _ = clients[at].request(
                "PUT", f"/{self.bucket}/{key}", body=body_of(key, size_of(key))
            )
            self._note(key, status, time.monotonic() - started)
            if status != 200:
                time.sleep(0.05)
            elif chance.random() < self.deleting:
                self._delete(clients[chance.randrange(len(clients))], key)

    def _delete(self, client: Client, key: str) -> None:
        with self._lock:
            self.doomed.add(key)
        status, _ = client.request("DELETE", f"/{self.bucket}/{key}")
        with self._lock:
            if status == 204:
                self.deleted.add(key)

    def _note(self, key: str, status: int, took_s: float) -> None:
        with self._lock:
            now = time.monotonic()
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status != 0:  # A node that is down answers nothing.
                self.slowest_s = max(self.slowest_s, took_s)
            if status == 200:
                self.acked.add(key)
                self.longest_gap_s = max(self.longest_gap_s, now - self._last_ack)
                self._last_ack = now

    def wait_for_acks(self, count: int, *, timeout_s: float = 30) -> None:
        """Until `count` more writes were acknowledged."""
        wanted = len(self.acked) + count
        deadline = time.monotonic() + timeout_s
        while len(self.acked) < wanted:
            assert time.monotonic() < deadline, f"no progress: {self.statuses}"
            time.sleep(0.02)


def verify(cluster: Cluster, bucket: str, workload: Workload) -> None:
    """Every acknowledged key is there, right and listed; nothing else is there."""
    target = target_of(cluster, bucket)
    clients = [Client(target, url) for url in target.urls]
    kept = workload.acked - workload.doomed
    for number, key in enumerate(sorted(kept)):
        status, data = clients[number % len(clients)].request("GET", f"/{bucket}/{key}")
        assert status == 200, (key, status, data[:200])
        wanted = body_of(key, size_of(key))
        assert data == wanted, f"{key}: {hashlib.md5(data).hexdigest()}"
    for client in clients:
        listed = list_keys(client, bucket, prefix=f"w{workload.seed}-")
        assert listed == sorted(listed)
        assert len(listed) == len(set(listed))
        assert kept <= set(listed)
        assert set(listed) <= workload.tried - workload.deleted


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
