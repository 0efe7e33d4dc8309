"""Conditional writes from all nodes at once: one winner, always (F39)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from objstore.cli.load import Client
from tests.cluster.workload import target_of
from tests.harness import Cluster, running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

WRITERS = 32
BUCKET = "races"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("races")) as running:
        running.s3().create_bucket(Bucket=BUCKET)
        yield running


def race(
    cluster: Cluster, key: str, headers: dict[str, str], kill: int | None = None
) -> Any:
    """32 writers of different bodies at once: [(status, body)]."""
    target = target_of(cluster, BUCKET)
    clients = [Client(target, target.urls[i % 3]) for i in range(WRITERS)]
    barrier = threading.Barrier(WRITERS + 1)
    results: list[tuple[int, bytes]] = [(0, b"")] * WRITERS

    def write(number: int) -> None:
        body = f"writer {number} of {key}".encode()
        barrier.wait()
        status, _ = clients[number].request(
            "PUT", f"/{BUCKET}/{key}", body=body, headers=headers
        )
        results[number] = (status, body)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(WRITERS)]
    for thread in threads:
        thread.start()
    barrier.wait()
    if kill is not None:
        cluster.nodes[kill].kill()
    for thread in threads:
        thread.join()
    return results


def content(cluster: Cluster, key: str, node: int = 0) -> tuple[bytes, str]:
    answer = cluster.s3(node).get_object(Bucket=BUCKET, Key=key)
    return answer["Body"].read(), answer["ETag"]


@pytest.mark.parametrize("number", range(10))
def test_creating_a_key_has_one_winner(cluster: Cluster, number: int) -> None:
    results = race(cluster, f"new-{number}", {"If-None-Match": "*"})
    assert Counter(status for status, _ in results) == {200: 1, 412: WRITERS - 1}
    (winner,) = [body for status, body in results if status == 200]
    for node in range(3):
        assert content(cluster, f"new-{number}", node)[0] == winner


@pytest.mark.parametrize("number", range(10))
def test_compare_and_swap_has_one_winner(cluster: Cluster, number: int) -> None:
    key = f"cas-{number}"
    cluster.s3().put_object(Bucket=BUCKET, Key=key, Body=b"before")
    etag = content(cluster, key)[1]
    results = race(cluster, key, {"If-Match": etag})
    assert Counter(status for status, _ in results) == {200: 1, 412: WRITERS - 1}
    (winner,) = [body for status, body in results if status == 200]
    assert content(cluster, key, 1)[0] == winner


@pytest.mark.parametrize("number", range(3))
def test_a_leader_killed_in_the_race_leaves_at_most_one_winner(
    cluster: Cluster, number: int
) -> None:
    key = f"killed-{number}"
    try:
        results = race(cluster, key, {"If-None-Match": "*"}, kill=number)
        statuses = Counter(status for status, _ in results)
        assert statuses[200] <= 1
        # 0: the client's own node was killed under it.
        assert set(statuses) <= {0, 200, 409, 412, 503}, statuses
        survivor = (number + 1) % 3
        winners = [body for status, body in results if status == 200]
        unknown = [body for status, body in results if status in {0, 503}]
        try:
            stored, _ = content(cluster, key, survivor)
        except cluster.s3().exceptions.NoSuchKey:
            assert not winners
            assert 412 not in statuses
        else:
            assert stored in (winners or unknown)
    finally:
        cluster.nodes[number].start()
