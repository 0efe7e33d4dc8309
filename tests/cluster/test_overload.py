"""More clients than can be served: some are told to slow down, soon, and all is well after.

F45, F46.  Clients are workers in a closed loop that ask again at once, the worst kind, but for
those who were refused: they wait for up to the time they were told.  They are as slow as the machine that they share with the nodes, so how long a request took is
asked of the nodes' logs.
"""

from __future__ import annotations

import multiprocessing
import random
import re
import time
from collections import Counter
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from objstore.cli.load import Target
from tests.cluster.registers import Connection
from tests.cluster.workload import target_of
from tests.harness import Cluster, running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BUCKET = "crowd"
BODY = b"x" * 4096


def crowd(target: Target, first: int, count: int, seconds: float, results: Any) -> None:
    """A process of many connections, each with one request under way all the time."""
    import threading

    statuses: Counter[int] = Counter()
    took_s: list[float] = []
    retry_after: Counter[bool] = Counter()
    until = time.monotonic() + seconds

    def work(number: int) -> None:
        connection = Connection(target, target.urls[number % len(target.urls)])
        chance, turn = random.Random(number), 0
        while time.monotonic() < until:
            turn += 1
            path = f"/{BUCKET}/crowd-{number}-{turn % 5}"
            method = "PUT" if turn % 2 else "GET"
            began = time.monotonic()
            status, headers, _ = connection.exchange(
                method, path, body=BODY if method == "PUT" else b""
            )
            took_s.append(time.monotonic() - began)
            statuses[status] += 1
            if status == 503:
                retry_after["retry-after" in headers] += 1
                time.sleep(float(headers.get("retry-after", "1")) * chance.uniform(0.2, 1))

    threads = [threading.Thread(target=work, args=(first + n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((statuses, took_s, retry_after))


def drive(target: Target, workers: int, seconds: float) -> dict[str, Any]:
    """Statuses, times and rate of so many workers."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(
            target=crowd, args=(target, n * 10_000, workers // 2, seconds, results)
        )
        for n in range(2)
    ]
    for process in processes:
        process.start()
    statuses: Counter[int] = Counter()
    took_s: list[float] = []
    bare = 0
    for _ in processes:
        try:
            one, some_s, retry_after = results.get(timeout=seconds + 120)
        except Empty:
            raise AssertionError("requests do not end") from None
        statuses += one
        took_s += some_s
        bare += retry_after[False]
    for process in processes:
        process.join()
    took_s.sort()
    return {
        "good": statuses[200],
        "refused": statuses[503],
        "other": sum(statuses.values()) - statuses[200] - statuses[503] - statuses[404],
        "p50": took_s[len(took_s) // 2],
        "p99": took_s[len(took_s) * 99 // 100],
        "slowest": took_s[-1],
        "without_retry_after": bare,
        "rate": statuses[200] / seconds,
    }


def slowest_served_s(cluster: Cluster) -> float:
    """The longest time from a request's head to the last byte of its answer."""
    found = [
        re.findall(r'"duration_ms": ?([0-9.]+)', line)
        for node in cluster.nodes
        for line in node.log.read_text().splitlines()
        if '"s3.request_done"' in line
    ]
    return max(float(duration[0]) for duration in found if duration) / 1000


def told(figures: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.2f}" if isinstance(value, float) else f"{name}={value}"
        for name, value in figures.items()
    )


def overload(folder: Path, workers: int, seconds: float) -> None:
    with running_cluster(folder) as cluster:
        cluster.s3().create_bucket(Bucket=BUCKET)
        target = target_of(cluster, BUCKET)
        before = drive(target, 32, 5)
        during = drive(target, workers, seconds)
        slowest_s = slowest_served_s(cluster)
        after = drive(target, 32, 5)
        for _ in range(3):  # Not its fault, where the machine had other work meanwhile.
            if after["rate"] > before["rate"] / 2:
                break
            after = drive(target, 32, 5)
        print(f"scoreboard: workers={workers} served_in={slowest_s:.2f} {told(during)}")
        print(f"scoreboard: before {told(before)}; after {told(after)}")
        assert not during["other"], "timeouts, resets, or internal errors"
        assert not during["without_retry_after"]
        assert during["good"]
        assert slowest_s < 10
        assert after["refused"] == 0
        assert after["rate"] > before["rate"] / 2, "it has not recovered"


@pytest.mark.full
def test_a_crowd_is_told_to_slow_down_and_leaves_nothing_behind(tmp_path: Path) -> None:
    overload(tmp_path / "c", 600, 8)


@pytest.mark.full
def test_a_large_crowd_for_half_a_minute(tmp_path: Path) -> None:
    overload(tmp_path / "c", 1_200, 30)
