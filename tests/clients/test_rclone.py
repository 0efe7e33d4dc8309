"""rclone, as its users run it, with a node killed in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import Outage, Program, program, read_tree, unique, write_tree
from tests.harness import Cluster

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


def rclone_of(cluster: Cluster, home: Path, node: int) -> Program:
    prefix = "RCLONE_CONFIG_OBJSTORE_"
    settings = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ENDPOINT": cluster.nodes[node].s3,
        "REGION": str(cluster.description["region"]),
        "ACCESS_KEY_ID": cluster.access_key,
        "SECRET_ACCESS_KEY": cluster.secret_key,
    }
    extra = {prefix + key: value for key, value in settings.items()}
    extra["RCLONE_CA_CERT"] = cluster.ca_file
    rclone = program("rclone", cluster, home, **extra)
    del rclone.environment["AWS_CA_BUNDLE"]  # Its SDK refuses that; it has its own flag.
    return rclone


def test_sync_check_and_purge_while_a_node_dies(
    cluster: Cluster, outage: Outage, tmp_path: Path
) -> None:
    one, two = (rclone_of(cluster, tmp_path, node) for node in (0, 1))
    remote = f"objstore:{unique('rclone')}"
    tree = write_tree(tmp_path / "source")
    one("mkdir", remote)
    outage.begin_after(0.5)
    one("sync", str(tmp_path / "source"), remote)
    outage.begin()
    two("check", str(tmp_path / "source"), remote)
    two("sync", remote, str(tmp_path / "copy"))
    assert read_tree(tmp_path / "copy") == tree
    (tmp_path / "source" / "big.bin").unlink()
    two("sync", str(tmp_path / "source"), remote)
    outage.end()
    three = rclone_of(cluster, tmp_path, 2)
    assert "big.bin" not in three("lsf", "-R", remote)
    three("check", str(tmp_path / "source"), remote)
    three("moveto", f"{remote}/inline.txt", f"{remote}/elsewhere/inline.txt")
    assert "elsewhere/inline.txt" in one("lsf", "-R", remote)
    one("purge", remote)
