"""The power fails (F03): what was not synced is gone, what was acknowledged is not.

Each node's folder is a file system of its own.  It is shut down under load, with its
journal unwritten, and the process killed; then it is mounted and the node started again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests import volumes
from tests.cluster.workload import Workload, verify
from tests.harness import Cluster, Node, running_cluster, wait_until
from tests.volumes import Kind, Volume

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# A small log, so that segments are rolled, released and used again meanwhile; segments of
# fragments likewise.
SETTINGS = {
    "chunks.reserve": "16MiB",
    "chunks.segment_size": "8MiB",
    "raft.wal_segment_size": "1MiB",
    "meta.flush_interval": "2s",
    "repair.free_delay": "2s",
    "repair.interval": "500ms",
}
SIZES = (0, 100, 5_000, 16_384, 16_385, 60_000, 200_000)


@attrs.define
class Powered:
    """A cluster, and the volumes that its nodes' folders are."""

    cluster: Cluster
    volumes: list[Volume]
    cuts: int = 0

    def cut(self, numbers: list[int]) -> None:
        """Lose the power of these nodes, one right after the other; all restart."""
        for number in numbers:
            self.volumes[number].lose_power()
        nodes = [self.cluster.nodes[number] for number in numbers]
        for node in nodes:
            if node.is_running():  # It may have met an error already, and ended.
                node.kill()
        for number, node in zip(numbers, nodes, strict=True):
            self.volumes[number].remount()
            node.start(wait=False)
        for node in nodes:
            node.wait_ready(timeout_s=90)
        self.cuts += len(numbers)

    def tails_cut(self) -> int:
        return sum(len(events(node, "raft.wal_tail_cut")) for node in self.cluster.nodes)


def events(node: Node, name: str) -> list[dict[str, object]]:
    """What a node's log says of one kind of event."""
    lines = node.log.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if f'"event": "{name}"' in line]


@contextmanager
def powered(folder: Path, kind: Kind, nodes: int = 3) -> Iterator[Powered]:
    if reason := volumes.reason_without(kind):
        pytest.skip(reason)
    disks = [
        Volume(folder / f"image{n}", folder / "c" / f"node{n}" / "data", kind)
        for n in range(1, nodes + 1)
    ]
    with (
        volumes.mounted(*disks),
        running_cluster(folder / "c", nodes=nodes, settings=SETTINGS) as cluster,
    ):
        cluster.s3().create_bucket(Bucket="power")
        yield Powered(cluster, disks)


def lose_power(powered: Powered, rounds: list[list[int]], seed: int) -> None:
    """Under load, lose the power of some nodes, round by round; nothing is lost by it."""
    chance = random.Random(seed)
    with Workload(
        powered.cluster, "power", seed=seed, sizes=SIZES, deleting=0.3
    ) as workload:
        for numbers in rounds:
            workload.wait_for_acks(chance.randrange(40, 120), timeout_s=120)
            powered.cut(numbers)
            # Not in the middle of a write alone: also between two of them.
            workload.wait_for_acks(5, timeout_s=120)
    verify(powered.cluster, "power", workload)
    if len(powered.volumes) > 1:  # One node alone keeps fewer copies than promised.
        wait_until(
            lambda: powered.cluster.status()["below_promise"] == {"objects": 0, "bytes": 0},
            timeout_s=120,
            what="repair of what was missing",
        )
    for node in powered.cluster.nodes:
        for name in ("raft.wal_damaged", "raft.replica_damaged", "meta.replica_diverged",
                     "chunks.fragment_corrupt"):  # fmt: skip
            assert not events(node, name), (node.number, name, events(node, name)[:3])
    print(
        f"power loss on {powered.volumes[0].kind}: cuts={powered.cuts}"
        f" acked={len(workload.acked)} deleted={len(workload.deleted)} lost=0 wrong=0"
        f" tails_cut={powered.tails_cut()} statuses={dict(workload.board.statuses)}"
        f" gap={workload.board.longest_gap_s:.1f}s"
    )


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        pytest.param("ext4", [[0], [1, 2, 0], [0, 1, 2]], id="ext4"),
        pytest.param("xfs", [[0, 1, 2]], id="xfs", marks=pytest.mark.full),
    ],
)
def test_no_acknowledged_write_is_lost_with_the_power(
    tmp_path: Path, kind: Kind, rounds: list[list[int]]
) -> None:
    """One node, then all at once."""
    with powered(tmp_path, kind) as cluster:
        lose_power(cluster, rounds, seed=41)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_no_acknowledged_write_is_lost_with_the_power_forty_times(
    tmp_path: Path, kind: Kind
) -> None:
    chance = random.Random(kind)
    rounds = [
        chance.choice([[0], [1], [2], [0, 1], [1, 2], [2, 0], [0, 1, 2], [2, 1, 0]])
        for _ in range(40)
    ]
    with powered(tmp_path, kind) as cluster:
        lose_power(cluster, rounds, seed=42)


def test_a_lone_node_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """No other has a copy, so nothing hides what a single disk forgets (R5)."""
    with powered(tmp_path, "ext4", nodes=1) as cluster:
        lose_power(cluster, [[0]] * 3, seed=43)
