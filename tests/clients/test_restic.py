"""restic: a backup made and restored while a node is down, compared byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import Outage, Program, program, read_tree, unique, write_tree
from tests.harness import Cluster

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


def restic_of(cluster: Cluster, home: Path, node: int, bucket: str) -> Program:
    restic = program(
        "restic",
        cluster,
        home,
        RESTIC_REPOSITORY=f"s3:{cluster.nodes[node].s3}/{bucket}",
        RESTIC_PASSWORD="a test",
    )
    restic.options = ("--cacert", cluster.ca_file)
    return restic


def test_init_backup_check_restore_while_a_node_dies(
    cluster: Cluster, outage: Outage, tmp_path: Path
) -> None:
    bucket = unique("restic")
    one, two = (restic_of(cluster, tmp_path, node, bucket) for node in (0, 1))
    tree = write_tree(tmp_path / "source")
    one("init")
    outage.begin_after(1)
    one("backup", str(tmp_path / "source"))
    outage.begin()
    (tmp_path / "source" / "later").write_bytes(b"more" * 100_000)
    two("backup", str(tmp_path / "source"))
    two("check", "--read-data")
    outage.end()
    three = restic_of(cluster, tmp_path, 2, bucket)
    three("restore", "latest", "--target", str(tmp_path / "restored"))
    restored = read_tree(tmp_path / "restored" / (tmp_path / "source").relative_to("/"))
    assert restored == tree | {"later": b"more" * 100_000}
    three("forget", "--keep-last", "1", "--prune")
    one("check")
