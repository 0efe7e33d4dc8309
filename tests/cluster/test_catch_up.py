"""A node that was away during many writes catches up, by log and by snapshot (F01, R9).

Which of the two it was, its log tells (`raft.snapshot_installed`).  That it has everything
is proved by ending another node: the returned one is then needed for every quorum.
"""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.registers import Connection
from tests.cluster.scoreboard import Scoreboard
from tests.cluster.workload import target_of
from tests.harness import Cluster, Node, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BUCKET = "absent"
AWAY = 2
KEYS = 500  # Written over and over, so that an old value is a wrong one.

# What a follower needs stays in the log until rows are flushed.
BY_LOG = {"meta.flush_interval": "1h"}
# Flushed and let go at once: what a follower needs is soon in no log any more.
BY_SNAPSHOT = {
    "meta.flush_interval": "1s",
    "meta.flush_size": "1MiB",
    "raft.wal_segment_size": "1MiB",
}


def snapshots(node: Node) -> int:
    return node.log.read_text().count('"raft.snapshot_installed"')


def write_many(
    cluster: Cluster, count: int, workers: int = 8, nodes: tuple[int, ...] = (0, 1)
) -> dict[str, int]:
    """`count` writes through the nodes that are there; the last acknowledged of each key."""
    target = target_of(cluster, BUCKET)
    newest: dict[str, int] = {}
    failed: list[object] = []

    def work(worker: int) -> None:
        connection = Connection(target, target.urls[nodes[worker % len(nodes)]])
        for number in range(worker, count, workers):
            key = f"k{worker}-{number % KEYS}"  # All its writes are one worker's, in order.
            body = body_of(key, number)
            status = connection.exchange("PUT", f"/{BUCKET}/{key}", body=body)[0]
            if status == 200:
                newest[key] = number
            else:
                newest.pop(key, None)  # Unknown.
                failed.append((key, status))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) <= count // 100, failed[:5]
    return newest


def body_of(key: str, number: int) -> bytes:
    header = f"{key} {number} ".encode()
    return header + random.Random(header).randbytes(1_000)


def verify(cluster: Cluster, nodes: list[int], newest: dict[str, int]) -> Scoreboard:
    target = target_of(cluster, BUCKET)
    board = Scoreboard(acked=len(newest))
    for node in nodes:
        connection = Connection(target, target.urls[node])
        for key, number in newest.items():
            status, _, body = connection.exchange("GET", f"/{BUCKET}/{key}")
            if status != 200:
                board.lost.append(f"{key} at node {node + 1}: {status}")
            elif body != body_of(key, number):
                board.stale.append(f"{key} at node {node + 1}: {body[:20]!r}, {number}")
    return board


def catch_up(
    folder: Path, settings: dict[str, str], count: int
) -> tuple[Scoreboard, dict[str, Any]]:
    with running_cluster(folder, settings=settings) as cluster:
        cluster.s3().create_bucket(Bucket=BUCKET)
        write_many(cluster, KEYS)
        returned = cluster.nodes[AWAY]
        before = snapshots(returned)
        returned.kill()
        newest = write_many(cluster, count)
        if settings is BY_SNAPSHOT:
            wait_until(
                lambda: all(
                    node.metric("objstore_raft_log_entries") < count / 2
                    for node in cluster.nodes
                    if node is not returned
                ),
                timeout_s=60,
                what="the others to forget what it missed",
            )
        returned.start()
        wait_until(
            lambda: (
                cluster.status()["metadata"]["leaderless"] == 0
                and returned.metric("objstore_raft_apply_lag_entries") == 0
                and returned.metric("objstore_raft_damaged_groups") == 0
            ),
            timeout_s=60,
            what="the returned node to apply what it missed",
        )
        cluster.nodes[0].kill()
        wait_until(lambda: returned.ready() == 200, timeout_s=60, what="a new quorum")
        wait_until(
            lambda: cluster.status(1)["metadata"]["leaderless"] == 0,
            timeout_s=60,
            what="leaders",
        )
        board = verify(cluster, [1, AWAY], newest)
        assert write_many(cluster, 8, nodes=(1, AWAY)), "nothing can be written"
        # Not before: a node that has just returned may not know yet what it missed.
        taken = snapshots(returned) - before
        return board, {"missed": count, "snapshots": taken}


@pytest.mark.full
def test_a_node_that_was_away_catches_up_by_log(tmp_path: Path) -> None:
    board, told = catch_up(tmp_path / "c", BY_LOG, 10_000)
    board.judge(**told)
    assert told["snapshots"] == 0


@pytest.mark.parametrize(
    "count", [pytest.param(2_500, id="short"), pytest.param(10_000, marks=pytest.mark.full)]
)
def test_a_node_that_was_away_catches_up_by_snapshot(tmp_path: Path, count: int) -> None:
    board, told = catch_up(tmp_path / "c", BY_SNAPSHOT, count)
    board.judge(**told)
    assert told["snapshots"] > 0
