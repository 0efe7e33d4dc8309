"""One bit of a node's folder is another now (F06, F07, F08, R14): found, never served.

objstore check      finds each planted flip, and changes nothing
a start             mends it from the others, or refuses with what to do and exit code 1 or 4
clients             read every acknowledged byte, through whoever serves, all the while
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from objstore.cli.load import Client
from tests.cluster.workload import Workload, body_of, size_of, target_of, verify
from tests.harness import Cluster, Node, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SETTINGS = {
    "chunks.segment_size": "8MiB",
    "raft.wal_segment_size": "1MiB",
    "meta.flush_interval": "1s",
    "repair.interval": "500ms",
}
SIZES = (100, 5_000, 16_384, 60_000, 200_000)
VICTIM = 1


@pytest.fixture(scope="module")
def filled(tmp_path_factory: Any) -> Iterator[tuple[Cluster, Workload]]:
    """A cluster with something in every file."""
    with running_cluster(tmp_path_factory.mktemp("flips") / "c", settings=SETTINGS) as c:
        c.s3().create_bucket(Bucket="flips")
        with Workload(c, "flips", seed=81, sizes=SIZES, deleting=0.2) as workload:
            workload.board.wait_for_acks(250, timeout_s=120)
        for node in c.nodes:
            wait_until(lambda node=node: list(node.data.glob("meta/*.sst")), what="a table")
        time.sleep(3)  # Until the log's end is marked, which nothing tells.
        yield c, workload


# ---- places ---------------------------------------------------------------------------


def files(node: Node, pattern: str) -> list[Path]:
    found = sorted(node.data.glob(pattern))
    assert found, pattern
    return found


def last_used(path: Path) -> int:
    """Where what was written into a preallocated file ends."""
    return len(path.read_bytes().rstrip(b"\0"))


def middle(pattern: str, which: int = 0) -> Callable[[Node], tuple[Path, int]]:
    def place(node: Node) -> tuple[Path, int]:
        path = files(node, pattern)[which]
        return path, last_used(path) // 2

    return place


def at(pattern: str, offset: int, which: int = 0) -> Callable[[Node], tuple[Path, int]]:
    return lambda node: (files(node, pattern)[which], offset)


def tail_of_log(node: Node) -> tuple[Path, int]:
    path = files(node, "wal/segment-*")[-1]
    return path, last_used(path) - 20


def largest_table(node: Node) -> tuple[Path, int]:
    path = max(files(node, "meta/*.sst"), key=lambda path: path.stat().st_size)
    return path, path.stat().st_size // 3


@attrs.frozen
class Case:
    place: Callable[[Node], tuple[Path, int]]
    # How a start answers: it serves and is made whole, or refuses with these words.
    refuses: tuple[str, ...] = ()
    is_found_by_check: bool = True


CASES = {
    # It stays in the file that it is in, which is let go by and by.
    "log, closed segment": Case(middle("wal/segment-*")),
    # What was not marked may as well be a torn write: then it is cut, and a note.
    "log, live tail": Case(tail_of_log, is_found_by_check=False),
    # There are two copies of it.
    "log, header": Case(at("wal/segment-*", 12), is_found_by_check=False),
    "metadata, table": Case(largest_table, refuses=("metadata store", "hint:")),
    "metadata, manifest": Case(
        middle("meta/MANIFEST-*"), refuses=("metadata store", "hint:")
    ),
    "metadata, CURRENT": Case(at("meta/CURRENT", 3), refuses=("metadata store", "hint:")),
    "fragments, first segment": Case(middle("chunks/segment-*")),
    "fragments, last segment": Case(middle("chunks/segment-*", -1)),
    "identity": Case(middle("node.json"), refuses=("node.json", "hint:")),
    "drive identity": Case(middle("chunks/drive.json"), refuses=("drive.json", "hint:")),
}
SHORT = ("log, closed segment", "fragments, first segment")
every_place = pytest.mark.parametrize(
    "where",
    [
        name if name in SHORT else pytest.param(name, marks=pytest.mark.full)
        for name in CASES
    ],
)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def check(node: Node) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "objstore", "check", str(node.data), "--json"],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def snapshot(node: Node) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(node.data.rglob("*"))
        if path.is_file()
    }


def read_through(cluster: Cluster, workload: Workload, nodes: list[int]) -> None:
    """Every acknowledged byte, through these nodes alone."""
    target = target_of(cluster, "flips")
    clients = [Client(target, target.urls[node]) for node in nodes]
    for number, key in enumerate(sorted(workload.acked - workload.doomed)):
        client = clients[number % len(clients)]
        deadline = time.monotonic() + 30  # An election may be under way.
        while True:
            status, body = client.request("GET", f"/flips/{key}")
            if status != 503 or time.monotonic() > deadline:
                break
        assert (status, body) == (200, body_of(key, size_of(key))), (key, status)


def wait_until_whole(cluster: Cluster) -> None:
    def is_whole() -> bool:
        status = cluster.status()
        return status["below_promise"] == {"objects": 0, "bytes": 0} and not any(
            node.get("damaged_groups") for node in status["nodes"]
        )

    wait_until(is_whole, timeout_s=120, what="mending")


@every_place
def test_a_flip_in_a_stopped_node_is_found_and_mended_or_refused(
    filled: tuple[Cluster, Workload], where: str
) -> None:
    cluster, workload = filled
    case, victim = CASES[where], cluster.nodes[VICTIM]
    victim.kill()
    path, offset = case.place(victim)
    flip(path, offset)
    before = snapshot(victim)
    code, report = check(victim)
    assert snapshot(victim) == before
    if case.is_found_by_check:
        assert code == 1, report
        assert report["problems"]
    read_through(cluster, workload, [0, 2])
    size = victim.log.stat().st_size
    victim.start(wait=False)
    if case.refuses:
        assert victim.process is not None
        deadline = time.monotonic() + 60
        while victim.is_running() and time.monotonic() < deadline:
            # It meets the damage when it reads it; whoever else is asked answers rightly.
            ask(cluster, workload, VICTIM)
            read_through(cluster, workload, [0, 2])
        assert victim.process.wait(timeout=30) in {1, 4}
        said = victim.log.read_bytes()[size:].decode(errors="replace")
        for words in case.refuses:
            assert words in said, said[-2000:]
        read_through(cluster, workload, [0, 2])
        flip(path, offset)  # As it was: this node is needed for the next case.
        victim.start()
    else:
        victim.wait_ready(timeout_s=60)
        read_through(cluster, workload, [VICTIM])
        wait_until_whole(cluster)
    verify(cluster, "flips", workload)
    print(
        f"scoreboard: flip={where!r} acked={len(workload.acked)} lost=0 wrong=0"
        f" check={code} outcome={'refused' if case.refuses else 'mended'}"
    )


def ask(cluster: Cluster, workload: Workload, node: int) -> None:
    """Read all through a node that is about to end: what it answers is right."""
    target = target_of(cluster, "flips")
    client = Client(target, target.urls[node])
    client.request("GET", "/flips", query=[("list-type", "2")])
    for key in sorted(workload.acked - workload.doomed):
        status, body = client.request("GET", f"/flips/{key}")
        if status == 0:
            return
        assert status in {200, 503}, (key, status, body[:300])
        assert status != 200 or body == body_of(key, size_of(key))


@pytest.mark.full
def test_a_node_with_a_hole_in_its_log_wins_nothing_and_spoils_nothing(
    filled: tuple[Cluster, Workload],
) -> None:
    """R14, F07: its leader dies as soon as it is back; the hole must not become everybody's."""
    cluster, workload = filled
    victim, other = cluster.nodes[VICTIM], cluster.nodes[0]
    victim.kill()
    for path in files(victim, "wal/segment-*"):
        for tenth in range(1, 10):
            flip(path, max(4096, last_used(path) * tenth // 10))
    victim.start(wait=False)
    time.sleep(0.5)
    other.kill()
    # With one voter dead and one that cannot vouch for its past, there may be no quorum:
    # then nobody answers. What is answered is right.
    target = target_of(cluster, "flips")
    deadline = time.monotonic() + 10
    statuses: dict[int, int] = {}
    while time.monotonic() < deadline:
        for key in sorted(workload.acked - workload.doomed)[:40]:
            for node in (VICTIM, 2):
                client = Client(target, target.urls[node])
                status, body = client.request("GET", f"/flips/{key}")
                statuses[status] = statuses.get(status, 0) + 1
                assert status in {0, 200, 503}, (key, status, body[:300])
                assert status != 200 or body == body_of(key, size_of(key))
            if time.monotonic() > deadline:
                break
    other.start(wait=False)
    for node in (other, victim):
        node.wait_ready(timeout_s=90)
    wait_until_whole(cluster)
    verify(cluster, "flips", workload)
    with Workload(cluster, "flips", seed=82, sizes=SIZES) as more:
        more.board.wait_for_acks(50, timeout_s=120)
    verify(cluster, "flips", more)
    for node in cluster.nodes:
        assert "meta.replica_diverged" not in node.log.read_text(errors="replace")
    print(f"scoreboard: holes acked={len(workload.acked)} lost=0 wrong=0 {statuses=}")
