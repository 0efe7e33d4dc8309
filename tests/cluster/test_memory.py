"""Many large bodies at once: what a node holds of them is bounded, whoever is slow.

64 clients upload 64 MiB each, then 64 download them; a quarter of them are slow, so that
what they have in flight stays there.  Anonymous memory (RssAnon) of every node is looked
at ten times a second.  Some may be told 503: that is how a budget says that it is spent.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from objstore.units import MiB
from tests.cluster.raw import Raw, head_of, read_answer
from tests.harness import Cluster, running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(1500)]

BUCKET = "memory"
CLIENTS = 64
SIZE = 64 * MiB
MEMORY_MAX = 400 * MiB
TRIES_MAX = 40
STEP = 256 * 1024
SLOW_PAUSE_S = 0.05  # After each step: about 5 MiB a second at most.
BODY = hashlib.shake_128(b"memory").digest(STEP) * (SIZE // STEP)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("memory")) as running:
        running.s3().create_bucket(Bucket=BUCKET)
        yield running


class Watch:
    """The peak of every node's anonymous memory while the block runs."""

    def __init__(self, cluster: Cluster) -> None:
        self.peaks = dict.fromkeys((node.pid for node in cluster.nodes), 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for pid, peak in self.peaks.items():
                self.peaks[pid] = max(peak, anonymous_of(pid))

    def __enter__(self) -> Watch:  # noqa: PYI034 - typing.Self adds nothing here.
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def anonymous_of(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def upload(cluster: Cluster, number: int) -> int:
    """The status of one try."""
    raw = Raw.of(cluster, number % 3)
    target = f"/{BUCKET}/{number}"
    headers = raw.signed("PUT", target, payload="UNSIGNED-PAYLOAD")
    stream = raw.connect()
    stream.settimeout(300)
    with stream:
        try:
            head = headers | {"content-length": str(SIZE)}
            stream.sendall(head_of("PUT", target, head))
            for start in range(0, SIZE, STEP):
                stream.sendall(BODY[start : start + STEP])
                if number % 4 == 0:
                    time.sleep(SLOW_PAUSE_S)
        except OSError:
            pass  # It was told to go away before its last byte: the answer says why.
        return read_answer(stream, "PUT").status


def download(cluster: Cluster, number: int) -> int:
    """The status of one try; a body that came is the right one."""
    raw = Raw.of(cluster, number % 3)
    target = f"/{BUCKET}/{number}"
    stream = raw.connect()
    stream.settimeout(300)
    with stream:
        stream.sendall(head_of("GET", target, raw.signed("GET", target)))
        received = bytearray()
        while b"\r\n\r\n" not in received:
            if not (data := stream.recv(STEP)):
                return 0
            received += data
        head, _, rest = bytes(received).partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        size = 0
        while status == 200 and size < SIZE:
            assert rest == BODY[size % STEP : size % STEP + len(rest)], "a wrong byte"
            size += len(rest)
            if size == SIZE:
                break
            if number % 4 == 0:
                time.sleep(SLOW_PAUSE_S)
            if not (rest := stream.recv(min(STEP, SIZE - size))):
                return 0  # Broken off before its end: no whole answer.
        return status


def all_at_once(cluster: Cluster, work: Callable[[Cluster, int], int]) -> int:
    """Have all clients do it until each has; how many tries were refused."""

    def until_done(number: int) -> int:
        for tries in range(TRIES_MAX):
            status = 0
            with contextlib.suppress(OSError):
                status = work(cluster, number)
            if status == 200:
                return tries
            assert status in {0, 503}, status
            time.sleep(1)
        raise AssertionError(f"client {number} was never served")

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(until_done, range(CLIENTS)))


@pytest.mark.parametrize("work", [upload, download], ids=["uploads", "downloads"])
def test_64_large_bodies_at_once_are_held_in_bounded_memory(
    cluster: Cluster, work: Callable[[Cluster, int], int]
) -> None:
    with Watch(cluster) as watch:
        refused = all_at_once(cluster, work)
    peaks = [peak // MiB for peak in watch.peaks.values()]
    print(f"scoreboard: RssAnon at its peak {peaks} MiB; {refused} tries refused")
    assert max(watch.peaks.values()) <= MEMORY_MAX
