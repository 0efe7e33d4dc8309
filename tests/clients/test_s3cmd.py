"""s3cmd, as its users run it, with a node down."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import (
    Outage,
    is_tls,
    program,
    read_tree,
    unique,
    write_tree,
)
from tests.harness import Cluster

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


def test_put_sync_and_get_with_a_node_down(
    cluster: Cluster, outage: Outage, tmp_path: Path
) -> None:
    s3cmd = program("s3cmd", cluster, tmp_path)
    security = ["--ca-certs", cluster.ca_file] if is_tls(cluster) else ["--no-ssl"]

    def run(node: int, *arguments: str) -> str:
        host = cluster.nodes[node].s3.partition("//")[2]
        return s3cmd(
            f"--host={host}", f"--host-bucket={host}", *security,
            f"--access_key={cluster.access_key}", f"--secret_key={cluster.secret_key}",
            f"--region={cluster.description['region']}", *arguments,
        )  # fmt: skip

    bucket = f"s3://{unique('s3cmd')}"
    tree = write_tree(tmp_path / "source")
    run(0, "mb", bucket)
    run(0, "sync", f"{tmp_path}/source/", f"{bucket}/")
    outage.begin()
    (tmp_path / "copy").mkdir()
    run(1, "sync", f"{bucket}/", f"{tmp_path}/copy/")
    assert read_tree(tmp_path / "copy") == tree
    run(
        1,
        "put",
        "--multipart-chunk-size-mb=5",
        f"{tmp_path}/source/big.bin",
        f"{bucket}/parts",
    )
    run(0, "get", f"{bucket}/parts", f"{tmp_path}/parts")
    assert (tmp_path / "parts").read_bytes() == tree["big.bin"]
    assert "parts" in run(1, "info", f"{bucket}/parts")
    run(1, "del", "--recursive", "--force", bucket)
    run(1, "rb", bucket)
