"""Five nodes in two halves: three serve, two refuse (F16)."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from tests.cluster.load import Load
from tests.cluster.namespaces import can_make_namespaces, namespaced_cluster
from tests.cluster.rising import Rising
from tests.cluster.test_partition import (
    Elections,
    assert_nothing_is_stuck,
    assert_refused,
    refused,
    wait_until_whole,
)
from tests.cluster.workload import target_of
from tests.harness import wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and iproute2"),
]

BUCKET = "halves"
SPLITS = [((0, 1), (2, 3, 4)), ((3, 4), (0, 1, 2)), ((1, 3), (0, 2, 4))]


def test_three_of_five_serve_and_two_refuse(tmp_path: Path) -> None:
    with namespaced_cluster(tmp_path / "c", nodes=5) as cluster:
        cluster.s3().create_bucket(Bucket=BUCKET)
        elections, turned_away = Elections(cluster), 0
        with Load(cluster, BUCKET, seed=1, clients=6) as load:
            for number, (few, many) in enumerate(SPLITS):
                rising = Rising(
                    target_of(cluster, BUCKET),
                    load.board,
                    many,
                    few,
                    prefix=f"rise{number}",
                )
                with rising:
                    load.board.wait_for_acks(50)
                    cluster.network.cut(*itertools.product(few, many))
                    window = rising.open_window()
                    load.board.wait_for_acks(50)
                    time.sleep(8)
                    wait_until(lambda w=window: refused(w), what="a refusal")
                    window.close()
                    wait_until_whole(cluster)
                assert_refused(window)
                turned_away += refused(window)
        assert_nothing_is_stuck(cluster)
        load.judge(splits=len(SPLITS), refused=turned_away, elected=elections.leaders)
