"""A network that loses, delays, doubles and reorders packets, TCP's and UDP's (F19)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.load import Load
from tests.cluster.namespaces import (
    NamespacedCluster,
    WetNetwork,
    can_make_namespaces,
    namespaced_cluster,
)
from tests.cluster.workload import SIZES

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and iproute2"),
]

BUCKET = "weather"
HEAVY_LOSS = 0.3
SMALL = SIZES[:-1]  # Megabytes alone take seconds where three packets in ten are lost.
STORMS: list[dict[str, float]] = [
    {"loss": 0.05},
    {"loss": HEAVY_LOSS},
    {"delay_ms": 50},
    {"double": 0.1, "delay_ms": 5},
    {"loss": 0.05, "delay_ms": 20, "double": 0.05},
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[NamespacedCluster]:
    folder = tmp_path_factory.mktemp("weather")
    with namespaced_cluster(folder, network=WetNetwork(3)) as running:
        running.s3().create_bucket(Bucket=BUCKET)
        yield running


def endure(
    cluster: NamespacedCluster, storm: dict[str, float], seconds: float, seed: int
) -> None:
    assert isinstance(cluster.network, WetNetwork)
    sizes = SMALL if storm.get("loss") == HEAVY_LOSS else SIZES
    with Load(cluster, BUCKET, seed=seed, clients=6, writers=3, sizes=sizes) as load:
        load.board.wait_for_acks(30)
        cluster.network.become(**storm)
        began, before = time.monotonic(), load.board.acked
        time.sleep(seconds)
        rate = (load.board.acked - before) / (time.monotonic() - began)
        cluster.network.become()
        load.board.wait_for_acks(30)
    load.judge(rate=f"{rate:.0f}/s", **storm)


def test_a_storm_of_everything(cluster: NamespacedCluster) -> None:
    endure(cluster, STORMS[-1], 6, seed=1)


@pytest.mark.full
@pytest.mark.parametrize("number", range(len(STORMS)))
def test_every_weather(cluster: NamespacedCluster, number: int) -> None:
    endure(cluster, STORMS[number], 30, seed=10 + number)
