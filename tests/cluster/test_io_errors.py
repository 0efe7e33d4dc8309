"""Disks that answer with errors, or late (F10, F11, F12), under the feet of real nodes.

An error of the log or the metadata store ends the process, and nothing is tried again; one
of a chunk drive fences that drive.  Either way nothing acknowledged is lost.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

from tests import shim
from tests.cluster.workload import Workload, verify
from tests.harness import Cluster, Node, running_cluster, wait_until
from tests.shim import Fault, Shim

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SETTINGS = {
    "raft.wal_segment_size": "1MiB",
    "meta.flush_interval": "1s",
    "repair.interval": "500ms",
}
SIZES = (0, 100, 5_000, 16_384, 16_385, 60_000, 200_000)
FAILED = 1  # docs/reference/cli.md
VICTIM = 1  # The node whose disk fails; node 0 is dev's founder.


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: Any) -> Iterator[tuple[Cluster, Shim]]:
    folder = tmp_path_factory.mktemp("errors")
    faults = shim.build(folder)
    with running_cluster(
        folder / "c", settings=SETTINGS, environment=faults.environment
    ) as cluster:
        cluster.s3().create_bucket(Bucket="errors")
        yield cluster, faults


def said_last(node: Node) -> list[str]:
    """What a node said to a person before it ended."""
    lines = node.log.read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith(("objstore:", "hint:"))][-2:]


def exit_code(cluster: Cluster, node: Node) -> int:
    """Of a node that ended by itself; dev says it of those that it started."""
    if node.process is not None:
        return node.process.wait(timeout=30)
    said = f"node{node.number} ended (exit code "
    log = cluster.folder / "dev.log"
    wait_until(lambda: said in log.read_text(), what="dev to notice")
    return int(log.read_text().rpartition(said)[2].partition(")")[0])


FATAL = {
    "log sync": (Fault("sync", "*/node2/data/wal/*", errno.EIO, count=1), "the log cannot"),
    "log write": (
        Fault("write", "*/node2/data/wal/*", errno.EIO, count=1),
        "the log cannot",
    ),
    "metadata sync": (
        Fault("sync", "*/node2/data/meta/*", errno.EIO, count=1),
        "metadata store",
    ),
    "metadata write": (
        Fault("write", "*/node2/data/meta/*.sst", errno.EIO, count=1),
        "metadata store",
    ),
}


@pytest.mark.parametrize(
    "what",
    [
        "log sync",
        pytest.param("log write", marks=pytest.mark.full),
        pytest.param("metadata sync", marks=pytest.mark.full),
        "metadata write",
    ],
)
def test_an_error_of_log_or_metadata_ends_the_node_and_nothing_is_lost(
    faulty: tuple[Cluster, Shim], what: str
) -> None:
    cluster, faults = faulty
    fault, named = FATAL[what]
    victim = cluster.nodes[VICTIM]
    pid = victim.pid
    before = len(faults.strikes())
    seed = 50 + list(FATAL).index(what)
    with Workload(cluster, "errors", seed=seed, sizes=SIZES, deleting=0.2) as workload:
        workload.wait_for_acks(20, timeout_s=60)
        faults.set(fault)
        # It would succeed if it were tried again: only an end shows that it is not.
        wait_until(lambda: not victim.is_running(), timeout_s=60, what="the node to end")
        strikes = faults.strikes()[before:]
        faults.set()
        workload.wait_for_acks(20, timeout_s=60)
        code = exit_code(cluster, victim)
        victim.start()
        workload.wait_for_acks(20, timeout_s=60)
    assert [strike.pid for strike in strikes] == [pid]
    assert code == FAILED
    said = " ".join(said_last(victim))
    assert named in said, said
    assert "Input/output error" in said, said
    assert "hint:" in said, said
    verify(cluster, "errors", workload)
    workload.board.judge(slowest_s=None, fault=what.replace(" ", "-"), exit=code)


# ---- chunk drives ---------------------------------------------------------------------

BODY = bytes(range(256)) * 1000


def metric(node: Node, name: str) -> list[float]:
    lines = node.get("/-/metrics")[1].decode().splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith(name)]


def drives_of(cluster: Cluster, number: int) -> dict[str, str]:
    """The state of each drive of a node, by its folder's name."""
    own = [n for n in cluster.status()["nodes"] if n["id"] == cluster.nodes[number].id]
    return {drive["path"].rpartition("/")[2]: drive["state"] for drive in own[0]["drives"]}


def put_and_read(cluster: Cluster, prefix: str, count: int = 12) -> None:
    """New objects through every node, and all of them back from the victim."""
    for number in range(count):
        client = cluster.s3(number % 3)
        client.put_object(Bucket="errors", Key=f"{prefix}{number}", Body=BODY)
    read_all(cluster, prefix, count)


def read_all(cluster: Cluster, prefix: str, count: int = 12) -> None:
    victim = cluster.s3(VICTIM)
    for number in range(count):
        got = victim.get_object(Bucket="errors", Key=f"{prefix}{number}")["Body"].read()
        assert got == BODY


@pytest.fixture
def two_drives(faulty: tuple[Cluster, Shim]) -> Iterator[tuple[Cluster, Shim]]:
    """The victim has two drives meanwhile."""
    cluster, faults = faulty
    victim = cluster.nodes[VICTIM]
    extra = f"node.drives={victim.data}/chunks,{victim.data.parent}/second"
    victim.kill()
    victim.start("--set", extra)
    try:
        yield cluster, faults
    finally:
        faults.set()
        if victim.is_running():
            victim.kill()
        victim.start("--set", extra)


@pytest.mark.parametrize(
    "operation",
    [
        "sync",
        pytest.param("write", marks=pytest.mark.full),
        pytest.param("read", marks=pytest.mark.full),
    ],
)
def test_an_error_of_a_drive_fences_it_and_the_node_goes_on(
    two_drives: tuple[Cluster, Shim], operation: Any
) -> None:
    cluster, faults = two_drives
    victim = cluster.nodes[VICTIM]
    put_and_read(cluster, f"before-{operation}")
    assert drives_of(cluster, VICTIM) == {"chunks": "ok", "second": "ok"}
    before = len(faults.strikes())
    # A sync would succeed if it were tried again; a read of the page cache alone may fail
    # and be one of the disk then, and a drive that cannot be read or written stays so.
    count = 1 if operation == "sync" else 0
    faults.set(Fault(operation, "*/node2/second/segment-*", errno.EIO, count=count))
    put_and_read(cluster, f"during-{operation}")
    # Read by way of the node itself: what lies on the drive comes from the others.
    read_all(cluster, f"before-{operation}")
    strikes = len(faults.strikes()) - before
    assert strikes == 1 if operation == "sync" else strikes >= 1
    assert victim.is_running()
    assert drives_of(cluster, VICTIM) == {"chunks": "ok", "second": "fenced"}
    assert sum(metric(victim, "objstore_chunks_drive_fenced")) == 1
    problems = " ".join(cluster.status()["problems"])
    assert "second: Input/output error" in problems, problems
    assert victim.ready() == 200
    faults.set()
    put_and_read(cluster, f"after-{operation}")
    assert drives_of(cluster, VICTIM)["second"] == "fenced"  # Until a person has looked.
    victim.kill()
    victim.start("--set", f"node.drives={victim.data}/chunks,{victim.data.parent}/second")
    for when in ("before", "during", "after"):
        read_all(cluster, f"{when}-{operation}")
    assert drives_of(cluster, VICTIM) == {"chunks": "ok", "second": "ok"}


# ---- slow -----------------------------------------------------------------------------


@pytest.mark.full
def test_a_slow_disk_of_the_log_loses_its_leaderships_and_slows_nobody_for_long(
    faulty: tuple[Cluster, Shim],
) -> None:
    """Two seconds a sync on one node (F12)."""
    cluster, faults = faulty
    victim = cluster.nodes[VICTIM]

    def leads() -> int:
        own = [n for n in cluster.status()["nodes"] if n["id"] == victim.id]
        return int(own[0]["leads"])

    with Workload(
        cluster, "errors", seed=60, sizes=(0, 100, 5_000), nodes=(0, 2)
    ) as workload:
        workload.board.wait_for_acks(50)
        wait_until(lambda: leads() > 0, what="the node to lead something")
        faults.set(Fault("sync", "*/node2/data/wal/*", delay_ms=2_000))
        wait_until(lambda: leads() == 0, timeout_s=60, what="leaderships to move away")
        said = [p for p in cluster.status()["problems"] if "seconds a sync" in p]
        assert len(said) == 1 and victim.id in said[0]
        assert metric(victim, "objstore_raft_wal_slow ") == [1]
    # Who waits for that disk waits two seconds. A busy machine may be as slow once, so the
    # best of a few runs tells.
    for seed in (61, 62, 63):
        with Workload(
            cluster, "errors", seed=seed, sizes=(0, 100, 5_000), nodes=(0, 2)
        ) as quick:
            quick.board.wait_for_acks(200, timeout_s=60)
        if quick.board.slowest_s < 2.0:
            break
    assert faults.strikes()[-1].operation == "sync"  # It is as slow as before.
    faults.set()
    verify(cluster, "errors", workload)
    verify(cluster, "errors", quick)
    workload.board.judge(fault="slow-log")
    quick.board.judge(slowest_s=2.0, fault="slow-log-of-a-follower")
