"""Cut networks: the majority serves, the minority refuses, and both are whole again after.

F16 to F18, F20, F21, F25.  A cut loses packets in silence (`namespaces`), clients reach
every node throughout.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from tests.cluster.load import Load
from tests.cluster.namespaces import (
    NamespacedCluster,
    can_make_namespaces,
    namespaced_cluster,
)
from tests.cluster.rising import Rising, Window
from tests.cluster.workload import target_of
from tests.harness import Cluster, wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and iproute2"),
]

BUCKET = "cuts"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[NamespacedCluster]:
    with namespaced_cluster(tmp_path_factory.mktemp("cuts")) as running:
        running.s3().create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture(autouse=True)
def _whole(cluster: NamespacedCluster) -> Iterator[None]:
    yield
    cluster.network.heal()
    for node in cluster.nodes:
        node.wait_ready()


@attrs.define
class Elections:
    """Leader changes and term growth since the block began, over all nodes."""

    cluster: Cluster
    _leaders: int = 0
    _term: float = 0

    def __attrs_post_init__(self) -> None:
        self._leaders, self._term = self._count()

    def _count(self) -> tuple[int, float]:
        logs = [node.log.read_text() for node in self.cluster.nodes]
        leaders = sum(len(re.findall('"raft.leader_elected"', text)) for text in logs)
        terms = [node.metric("objstore_raft_term_max") for node in self.cluster.nodes]
        return leaders, max(terms)

    @property
    def leaders(self) -> int:
        return self._count()[0] - self._leaders

    @property
    def terms(self) -> int:
        return int(self._count()[1] - self._term)


def wait_until_whole(cluster: NamespacedCluster) -> float:
    """Heal; seconds until all nodes are ready, and nobody is thought dead."""
    cluster.network.heal()
    began = time.monotonic()
    for node in cluster.nodes:
        node.wait_ready(timeout_s=60)
    took_s = time.monotonic() - began
    wait_until(
        lambda: all(
            member["state"] == "alive"
            for number in range(len(cluster.nodes))
            for member in cluster.status(number)["nodes"]
        ),
        timeout_s=60,
        what="all members to be alive for all",
    )
    return took_s


def assert_nothing_is_stuck(cluster: Cluster) -> None:
    """Every request has ended, in every node (F20)."""
    for node in cluster.nodes:
        wait_until(
            lambda node=node: node.metric("objstore_s3_requests_in_flight") == 0,
            timeout_s=60,
            what=f"requests in flight of node{node.number} to end",
        )


def refused(window: Window) -> int:
    return window.reads[503] + window.writes[503]


def assert_refused(window: Window) -> None:
    """A minority answers neither reads nor writes, and says when to come again."""
    assert refused(window)
    assert not window.reads[200], window
    assert not window.writes[200], window
    assert not window.without_retry_after


def isolate(cluster: NamespacedCluster, number: int, seconds: float, seed: int) -> None:
    """One node alone on its side for some seconds, under load on all nodes."""
    others = [n for n in range(3) if n != number]
    elections = Elections(cluster)
    with Load(cluster, BUCKET, seed=seed, clients=6) as load:
        rising = Rising(
            target_of(cluster, BUCKET), load.board, others, [number], prefix=f"rise{seed}"
        )
        with rising:
            load.board.wait_for_acks(50)
            cluster.network.isolate(number)
            window = rising.open_window()
            until = time.monotonic() + seconds
            load.board.wait_for_acks(50)
            time.sleep(max(0.0, until - time.monotonic()))
            wait_until(lambda: refused(window), what="a refusal")
            window.close()
            recovery_s = wait_until_whole(cluster)
            load.board.wait_for_acks(50)
    assert_refused(window)
    assert_nothing_is_stuck(cluster)
    load.judge(
        refused=refused(window),
        elected=elections.leaders,
        terms=elections.terms,
        ready_again=f"{recovery_s:.1f}s",
    )


def test_the_leader_is_cut_off(cluster: NamespacedCluster) -> None:
    isolate(cluster, cluster.leader_of(BUCKET), 8, seed=1)


@pytest.mark.full
@pytest.mark.parametrize("number", range(3))
def test_any_node_is_cut_off_for_half_a_minute(
    cluster: NamespacedCluster, number: int
) -> None:
    isolate(cluster, number, 30, seed=10 + number)


def cut_partly(
    cluster: NamespacedCluster, cuts: list[tuple[int, int]], seconds: float, seed: int
) -> None:
    """Some pairs cannot speak, in these directions, for some seconds."""
    elections = Elections(cluster)
    with Load(cluster, BUCKET, seed=seed, clients=6) as load:
        rising = Rising(
            target_of(cluster, BUCKET),
            load.board,
            range(3),
            sorted({node for cut in cuts for node in cut}),
            hunters=1,
            prefix=f"rise{seed}",
        )
        with rising:
            load.board.wait_for_acks(50)
            for source, target in cuts:
                cluster.network.cut_one_way(source, target)
            window = rising.open_window()
            until = time.monotonic() + seconds
            load.board.wait_for_acks(50)
            time.sleep(max(0.0, until - time.monotonic()))
            window.close()
            wait_until_whole(cluster)
            load.board.wait_for_acks(50)
    assert_nothing_is_stuck(cluster)
    load.judge(
        served=window.reads[200] + window.writes[200],
        refused=refused(window),
        elected=elections.leaders,
        terms=elections.terms,
    )
    # Thirty-three groups: each may have to change its leader, and to change it back.
    assert elections.terms <= 6


def test_two_nodes_cannot_speak_and_the_third_sees_both(cluster: NamespacedCluster) -> None:
    cut_partly(cluster, [(0, 1), (1, 0)], 8, seed=2)


@pytest.mark.full
def test_a_node_hears_another_and_is_not_heard(cluster: NamespacedCluster) -> None:
    cut_partly(cluster, [(1, 2)], 8, seed=3)


@pytest.mark.full
@pytest.mark.parametrize("cut", [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)])
def test_any_node_is_not_heard_by_any_other(
    cluster: NamespacedCluster, cut: tuple[int, int]
) -> None:
    cut_partly(cluster, [cut], 20, seed=20 + cut[0] * 3 + cut[1])


@pytest.mark.full
@pytest.mark.parametrize("number", range(3))
def test_a_node_hears_all_and_is_heard_by_nobody(
    cluster: NamespacedCluster, number: int
) -> None:
    others = [n for n in range(3) if n != number]
    cut_partly(cluster, [(number, other) for other in others], 20, seed=30 + number)


@pytest.mark.full
@pytest.mark.parametrize("number", range(3))
def test_any_two_nodes_cannot_speak_and_the_third_sees_both(
    cluster: NamespacedCluster, number: int
) -> None:
    one, other = (n for n in range(3) if n != number)
    cut_partly(cluster, [(one, other), (other, one)], 20, seed=40 + number)


def flap(cluster: NamespacedCluster, number: int, rounds: int, seed: int) -> None:
    """Three seconds away, three seconds back, again and again (F21)."""
    elections = Elections(cluster)
    with Load(cluster, BUCKET, seed=seed, clients=6) as load:
        load.board.wait_for_acks(50)
        for _ in range(rounds):
            cluster.network.isolate(number)
            time.sleep(3)
            cluster.network.heal()
            time.sleep(3)
        wait_until_whole(cluster)
        load.board.wait_for_acks(50)
    assert_nothing_is_stuck(cluster)
    load.judge(flaps=rounds, elected=elections.leaders, terms=elections.terms)
    # What it led is led by others after the first flap, and it may not ask for votes.
    assert elections.terms <= rounds + 3


@pytest.mark.full
def test_a_node_flaps(cluster: NamespacedCluster) -> None:
    flap(cluster, 0, 2, seed=4)


@pytest.mark.full
def test_a_node_flaps_for_a_minute(cluster: NamespacedCluster) -> None:
    flap(cluster, 1, 10, seed=5)


def lose_majority(cluster: NamespacedCluster, seconds: float, seed: int) -> None:
    """Every node alone, all hammered; whole again after (F25)."""
    with Load(cluster, BUCKET, seed=seed, clients=6) as load:
        rising = Rising(
            target_of(cluster, BUCKET), load.board, range(3), range(3), prefix=f"rise{seed}"
        )
        with rising:
            load.board.wait_for_acks(50)
            cluster.network.cut((0, 1), (0, 2), (1, 2))
            window = rising.open_window()
            time.sleep(seconds)
            wait_until(lambda: refused(window), what="a refusal")
            window.close()
            cluster.network.heal()
            began = time.monotonic()
            load.board.wait_for_acks(1)
            recovery_s = time.monotonic() - began
            wait_until_whole(cluster)
            load.board.wait_for_acks(50)
    assert_refused(window)
    assert_nothing_is_stuck(cluster)
    load.judge(
        refused=refused(window),
        first_write_after=f"{recovery_s:.1f}s",
    )


@pytest.mark.full
def test_no_majority_is_left_for_a_while(cluster: NamespacedCluster) -> None:
    lose_majority(cluster, 8, seed=6)


@pytest.mark.full
def test_no_majority_is_left_for_a_minute(cluster: NamespacedCluster) -> None:
    lose_majority(cluster, 60, seed=7)
