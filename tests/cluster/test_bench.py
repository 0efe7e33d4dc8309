"""The bench against a real cluster: every operation is answered as it should be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Cluster, running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(
    params=[
        pytest.param({}, id="plain"),
        pytest.param({"s3.tls": "cluster"}, id="tls", marks=pytest.mark.full),
    ]
)
def cluster(tmp_path: Any, request: Any) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "c", settings=request.param) as running:
        yield running


def test_a_short_run_measures_every_operation(cluster: Cluster) -> None:
    arguments = ["--cluster", str(cluster.folder / "cluster.json"), "--json"]
    arguments += ["--sizes", "4KiB,256KiB", "--scale", "0.01"]
    done = subprocess.run(
        [sys.executable, "-m", "objstore", "bench", *arguments],
        capture_output=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert report["unit_ms"] > 0
    assert report["tls"] == cluster.nodes[0].s3.startswith("https:")
    operations = {row["operation"] for row in report["rows"]}
    assert {"put", "get", "head", "range", "list", "multipart", "cas"} <= operations
    assert all(row["failed"] == 0 for row in report["rows"])
    assert all(row["peak_rss_mib"] > 0 for row in report["rows"])
