"""kill -9 of nodes under load: nothing acknowledged is lost, nothing wrong is served (F01)."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.load import Load
from tests.cluster.workload import Workload, verify
from tests.harness import Cluster, running_cluster, start_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("kill")) as running:
        running.s3().create_bucket(Bucket="kills")
        yield running


def kill_rounds(cluster: Cluster, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    with Load(cluster, "kills", seed=seed) as load:
        for _ in range(rounds):
            load.board.wait_for_acks(chance.randrange(10, 60))
            number = chance.randrange(3)
            with load.board.away(number):
                cluster.nodes[number].kill()
                load.board.wait_for_acks(chance.randrange(5, 40))
                cluster.nodes[number].start()
    load.judge(kills=rounds)


def test_any_one_node_may_be_killed_five_times(cluster: Cluster) -> None:
    kill_rounds(cluster, 5, seed=11)


@pytest.mark.full
@pytest.mark.timeout(3000)
def test_any_one_node_may_be_killed_fifty_times(cluster: Cluster) -> None:
    kill_rounds(cluster, 50, seed=12)


def kill_all(cluster: Cluster, orders: Sequence[tuple[int, ...]], seed: int) -> None:
    """All at once, then started one after the other in each order; all under one load."""
    slowest_recovery_s = 0.0
    with Load(cluster, "kills", seed=seed) as load:
        for order in orders:
            load.board.wait_for_acks(60)
            with load.board.away(0, 1, 2):
                for node in cluster.nodes:
                    node.kill()
                for number in order:
                    cluster.nodes[number].start(wait=False)
                    time.sleep(0.5)  # Enough to be the first to ask for votes.
                began = time.monotonic()
                for node in cluster.nodes:
                    node.wait_ready(timeout_s=60)
            load.board.wait_for_acks(1)
            slowest_recovery_s = max(slowest_recovery_s, time.monotonic() - began)
    load.judge(rounds=len(orders), recovery=f"{slowest_recovery_s:.1f}s")


def test_all_nodes_killed_at_once_keep_every_acknowledged_byte(cluster: Cluster) -> None:
    kill_all(cluster, [(2, 1, 0)], seed=21)


@pytest.mark.full
def test_nodes_may_be_started_again_in_any_order(cluster: Cluster) -> None:
    kill_all(cluster, list(itertools.permutations(range(3))), seed=22)


def kill_leaders(cluster: Cluster, seconds: float, seed: int) -> None:
    """Every five seconds the leader of what is written is killed, and started again (F24)."""
    kills = 0
    with Load(cluster, "kills", seed=seed) as load:
        load.board.wait_for_acks(50)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            number = cluster.leader_of("kills")
            with load.board.away(number):
                cluster.nodes[number].kill()
                kills += 1
                cluster.nodes[number].start()
            time.sleep(max(0.0, 5 - (time.monotonic() - began)))
    load.judge(kills=kills, goodput=f"{load.board.acked / seconds:.0f}/s")


@pytest.mark.full
def test_the_leader_may_be_killed_every_five_seconds(cluster: Cluster) -> None:
    kill_leaders(cluster, 10, seed=41)


@pytest.mark.full
def test_the_leader_may_be_killed_every_five_seconds_for_a_minute(
    cluster: Cluster,
) -> None:
    kill_leaders(cluster, 60, seed=42)


def test_what_was_written_while_a_node_was_away_is_made_whole(cluster: Cluster) -> None:
    """Fragments missing at commit are mended once their owner is back (issue 3, part 4)."""
    cluster.nodes[2].kill()
    with Workload(cluster, "kills", seed=31, sizes=(200_000,), nodes=(0, 1)) as workload:
        workload.wait_for_acks(20)
    # Shards that the dead node led are counted once they have another leader.
    wait_until(
        lambda: cluster.status()["below_promise"]["objects"] > 0,
        timeout_s=30,
        what="the damage to be counted",
    )
    cluster.nodes[2].start()
    wait_until(
        lambda: cluster.status()["below_promise"] == {"objects": 0, "bytes": 0},
        timeout_s=60,
        what="repair of what was missing",
    )
    verify(cluster, "kills", workload)


def test_a_stopped_cluster_resumes_with_all_its_data(tmp_path: Path) -> None:
    first = start_cluster(tmp_path / "c")
    try:
        first.s3().create_bucket(Bucket="kept")
        first.s3().put_object(Bucket="kept", Key="k", Body=b"kept" * 50_000)
    finally:
        assert first.stop() == 0
    second = start_cluster(tmp_path / "c", resume=True)
    try:
        assert second.description["nodes"][0]["id"] == first.nodes[0].id
        assert second.access_key == first.access_key
        for node in range(3):
            got = second.s3(node).get_object(Bucket="kept", Key="k")["Body"].read()
            assert got == b"kept" * 50_000
    finally:
        assert second.stop() == 0
