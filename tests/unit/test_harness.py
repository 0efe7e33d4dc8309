"""The harness of real clusters: what it starts is gone when it fails, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.namespaces import Network, namespaced_cluster
from tests.harness import start_cluster


def test_a_cluster_that_does_not_come_up_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}; echo nonsense; exec sleep 600"
    with pytest.raises(ValueError, match="Expecting value"):
        start_cluster(tmp_path / "c", nodes=1, wrapper=["sh", "-c", script])
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_a_network_that_is_half_made_is_taken_away(tmp_path: Path) -> None:
    destroyed = []

    class HalfMade(Network):
        def create(self) -> None:
            raise OSError("no more devices")

        def destroy(self) -> None:
            destroyed.append(self.count)

    with pytest.raises(OSError, match="no more devices"):
        with namespaced_cluster(tmp_path, network=HalfMade(3)):
            raise AssertionError("it has no network")
    assert destroyed == [3]
