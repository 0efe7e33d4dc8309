"""Every test here runs on the real host and on a simulated one."""

from __future__ import annotations

import pytest

from objstore.host.disk import Directory
from objstore.host.host import Host
from objstore.host.real_host import real_host
from objstore.testing.host import SimulatedWorld

KINDS = ["real", "simulated"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def host(kind) -> Host:
    return real_host() if kind == "real" else SimulatedWorld(seed=1).host("a")


@pytest.fixture
def root(kind, host, tmp_path) -> Directory:
    path = str(tmp_path / "data") if kind == "real" else "/data"
    return host.disks.directory(path, create=True)
