"""A full disk (F09): writes are refused with 507, all else works, and room mends it.

Each node's folder is a small tmpfs, or its chunk drive is, filled by a ballast file: the end
of the disk comes from outside, as it does where somebody else's log grows on it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from objstore.cli.load import Client
from tests import volumes
from tests.cluster.workload import Workload, body_of, size_of, target_of, verify
from tests.harness import Cluster, running_cluster, wait_until
from tests.volumes import MiB, Volume

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SETTINGS = {
    "chunks.reserve": "16MiB",
    "chunks.segment_size": "8MiB",
    "raft.wal_segment_size": "1MiB",
    "meta.flush_interval": "2s",
    "repair.free_delay": "1s",
    "repair.interval": "500ms",
}
SIZES = (100, 5_000, 16_384, 60_000, 200_000)
SIZE = 200 * MiB


@attrs.define
class Small:
    """A cluster on small disks."""

    cluster: Cluster
    volumes: list[Volume]

    def put(self, node: int, key: str, size: int) -> tuple[int, bytes]:
        client = Client(self.target, self.target.urls[node])
        return client.request("PUT", f"/full/{key}", body=b"x" * size)

    @property
    def target(self):  # type: ignore[no-untyped-def]
        return target_of(self.cluster, "full")

    def wait_for(self, node: int, size: int, status: int, prefix: str) -> bytes:
        """Until a small or large write through a node is answered like this."""
        answers: list[tuple[int, bytes]] = []

        def is_so() -> bool:
            # Several keys, as each shard has nodes and fragments of its own.
            answers[:] = [self.put(node, f"{prefix}-{number}", size) for number in range(6)]
            return all(code == status for code, _ in answers)

        wait_until(is_so, timeout_s=60, what=f"{status} for {size} B: {answers}")
        return answers[0][1]


@contextmanager
def small_disks(
    folder: Path, under: str, nodes: Sequence[int] = (1, 2, 3), **settings: str
) -> Iterator[Small]:
    """`under`: what of a node's folder is the small disk: "data" or "data/chunks"."""
    if reason := volumes.reason_without("tmpfs"):
        pytest.skip(reason)
    disks = [
        Volume(folder / f"image{n}", folder / "c" / f"node{n}" / under, "tmpfs", SIZE)
        for n in nodes
    ]
    with (
        volumes.mounted(*disks),
        running_cluster(folder / "c", settings=SETTINGS | settings) as cluster,
    ):
        cluster.s3().create_bucket(Bucket="full")
        yield Small(cluster, disks)


def before(small: Small, seed: int) -> Workload:
    with Workload(small.cluster, "full", seed=seed, sizes=SIZES) as workload:
        workload.board.wait_for_acks(100)
    return workload


def problems(small: Small) -> str:
    return " ".join(small.cluster.status()["problems"])


each_disk = pytest.mark.parametrize(
    "under",
    [
        pytest.param("data", id="folder"),
        pytest.param("data/chunks", id="drive", marks=pytest.mark.full),
    ],
)


@each_disk
def test_all_disks_full_refuses_writes_and_serves_all_else(
    tmp_path: Path, under: str
) -> None:
    with small_disks(tmp_path, under) as small:
        cluster = small.cluster
        kept = before(small, seed=71)
        pids = [node.pid for node in cluster.nodes]
        ballast = [volume.fill(leave=8 * MiB) for volume in small.volumes]
        # A drive that is full is none of the log's business: what is inline is still taken.
        size = 100 if under == "data" else 200_000
        answer = small.wait_for(0, size, 507, "refused")
        assert b"<Code>InsufficientStorage</Code>" in answer
        assert not cluster.status()["writable"]
        assert "full" in problems(small) or "takes no new data" in problems(small)
        verify(cluster, "full", kept)  # Reads and lists.
        doomed = sorted(kept.acked)[:20]
        for number, key in enumerate(doomed):
            client = Client(small.target, small.target.urls[number % 3])
            status, answer = client.request("DELETE", f"/full/{key}")
            assert status == 204, answer
        kept.doomed |= set(doomed)
        kept.deleted |= set(doomed)
        for number in range(3):
            assert small.put(number, f"still-{number}", size)[0] == 507
        for file in ballast:
            file.unlink()
        small.wait_for(1, size, 200, "again")
        wait_until(lambda: cluster.status()["writable"], what="status to be writable")
        after = before(small, seed=72)
        assert [node.pid for node in cluster.nodes] == pids  # Without a restart.
        verify(cluster, "full", kept)
        verify(cluster, "full", after)
        after.board.judge(fault=f"all-{under}-full")


def test_a_full_drive_is_emptied_by_deletes_alone(tmp_path: Path) -> None:
    """No ballast: objects fill the drives, and their deletion makes room (compaction)."""
    with small_disks(tmp_path, "data/chunks") as small:
        cluster = small.cluster
        keys: list[str] = []
        while True:
            key = f"o{len(keys)}-1000000"
            status, answer = small.put(len(keys) % 3, key, 1_000_000)
            if status == 507:
                break
            assert status == 200, answer
            keys.append(key)
        assert len(keys) > 100
        # Two of three stay, each between others that go: whole segments are not enough.
        gone = [key for number, key in enumerate(keys) if number % 3 != 2]
        for key in gone:
            client = Client(small.target, small.target.urls[0])
            assert client.request("DELETE", f"/full/{key}")[0] == 204
        small.wait_for(2, 1_000_000, 200, "again")
        for number, key in enumerate(keys):
            client = Client(small.target, small.target.urls[number % 3])
            status, body = client.request("GET", f"/full/{key}")
            assert (status == 404) if key in gone else (body == b"x" * 1_000_000)
        print(f"scoreboard: filled={len(keys)} deleted={len(gone)} lost=0 wrong=0")
        assert all(node.is_running() for node in cluster.nodes)


def victim_lags(small: Small) -> bool:
    """Whether some shard is not led, or has fewer than its voters."""
    metadata = small.cluster.status()["metadata"]
    return bool(metadata["shards_below"] or metadata["leaderless"])


def verify_at(small: Small, nodes: list[int], workload: Workload) -> None:
    """Every acknowledged key, read through these nodes alone."""
    clients = [Client(small.target, small.target.urls[node]) for node in nodes]
    for number, key in enumerate(sorted(workload.acked - workload.doomed)):
        client = clients[number % len(clients)]
        deadline = time.monotonic() + 30  # An election may be under way.
        while True:
            status, body = client.request("GET", f"/full/{key}")
            if status == 200 or time.monotonic() > deadline:
                break
        assert (status, body) == (200, body_of(key, size_of(key))), key


@each_disk
def test_one_full_disk_of_three_stops_nobody(tmp_path: Path, under: str) -> None:
    with small_disks(tmp_path, under, nodes=[2]) as small:
        cluster = small.cluster
        kept = before(small, seed=73)
        (ballast,) = [volume.fill(leave=4 * MiB) for volume in small.volumes]
        victim = cluster.nodes[1]
        pid = victim.pid
        wait_until(
            lambda: victim.id in problems(small), timeout_s=30, what="status to tell"
        )
        assert cluster.status()["writable"]
        meanwhile = before(small, seed=74)  # Through the full node, too.
        assert meanwhile.board.statuses.keys() <= {200, 204}
        verify(cluster, "full", meanwhile)
        verify(cluster, "full", kept)
        ballast.unlink()
        small.wait_for(1, 200_000, 200, "again")
        wait_until(
            lambda: (
                cluster.status()["writable"]
                and cluster.status()["below_promise"] == {"objects": 0, "bytes": 0}
            ),
            timeout_s=200,  # What failed while it was full is tried again by and by.
            what="all to be whole",
        )
        assert victim.pid == pid
        assert victim.is_running()
        # It has all that it missed: with another gone, nothing is missing.
        wait_until(lambda: not victim_lags(small), timeout_s=60, what="it to catch up")
        cluster.nodes[2].kill()
        for workload in (kept, meanwhile):
            verify_at(small, [0, 1], workload)
        meanwhile.board.judge(fault=f"one-{under}-full")
