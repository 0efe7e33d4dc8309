"""Three real nodes, plain and under TLS, and the programs that users run."""

from __future__ import annotations

import os
import random
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.harness import Cluster, running_cluster, wait_until

TOOLS = Path(__file__).parents[2] / ".test-tools"


@pytest.fixture(
    scope="session",
    params=["plain", pytest.param("tls", marks=pytest.mark.full)],
)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Cluster]:
    settings = {"s3.tls": "cluster"} if request.param == "tls" else {}
    folder = tmp_path_factory.mktemp(f"cluster-{request.param}")
    with running_cluster(folder, settings=settings) as running:
        yield running


@pytest.fixture
def outage(cluster: Cluster) -> Iterator[Outage]:
    """The third node can be killed in mid-test; it is back, and whole, at the end."""
    outage = Outage(cluster)
    yield outage
    outage.end()


@attrs.define
class Outage:
    """SIGKILL of the third node, at once or in the middle of what follows."""

    cluster: Cluster
    _timer: threading.Timer | None = None
    _is_down: bool = False

    def begin(self) -> None:
        if not self._is_down:
            self._is_down = True
            self.cluster.nodes[2].kill()

    def begin_after(self, seconds: float) -> None:
        """Kill in the middle of the next command."""
        self._timer = threading.Timer(seconds, self.begin)
        self._timer.start()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.join()
        if self._is_down:
            self.cluster.nodes[2].start()
            self._is_down = False


@attrs.define
class Program:
    """A client program with the environment it needs."""

    path: str
    environment: dict[str, str]
    options: tuple[str, ...] = ()  # Given with every command.

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 110) -> str:
        done = subprocess.run(
            [self.path, *self.options, *arguments], env=self.environment, capture_output=True,
            timeout=timeout, check=False, text=True,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def program(name: str, cluster: Cluster, home: Path, **extra: str) -> Program:
    """The program, or a skip that says why."""
    path = TOOLS / "bin" / name
    if not path.exists():
        pytest.skip(f"{name} is not installed: tests/clients/install.sh says why")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": cluster.access_key,
        "AWS_SECRET_ACCESS_KEY": cluster.secret_key,
        "AWS_DEFAULT_REGION": str(cluster.description["region"]),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CA_BUNDLE": cluster.ca_file,
        **extra,
    }
    return Program(str(path), environment)


def python_of(name: str) -> str:
    """The interpreter of a client library's own environment, or a skip."""
    path = TOOLS / name / "bin" / "python"
    if not path.exists():
        pytest.skip(f"{name} is not installed: tests/clients/install.sh says why")
    return str(path)


def is_tls(cluster: Cluster) -> bool:
    return cluster.nodes[0].s3.startswith("https:")


def fetch(
    cluster: Cluster, url: str, *, method: str = "GET", body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:  # fmt: skip
    """(status, body) of a request without credentials; TLS by the cluster's CA."""
    context = ssl.create_default_context(cafile=cluster.ca_file)
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=15, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def write_tree(folder: Path, *, seed: int = 7) -> dict[str, bytes]:
    """Real files of many sizes and awkward names: relative path -> content."""
    chance = random.Random(seed)
    sizes = {
        "empty": 0,
        "one byte": 1,
        "inline.txt": 16 * 1024,
        "just-over-inline.bin": 16 * 1024 + 1,
        "dir/sub/deep file (1).bin": 300_000,
        "dir/ümläut-日本.txt": 5_000,
        "dir/plus+percent%20&.bin": 70_000,
        "big.bin": 9 * 1024 * 1024 + 17,
    }
    tree = {}
    for name, size in sizes.items():
        data = chance.randbytes(size)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        tree[name] = data
    return tree


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def unique(prefix: str) -> str:
    return f"{prefix}-{time.time_ns():x}"[-60:].lower()


__all__ = [
    "Outage",
    "fetch",
    "program",
    "python_of",
    "read_tree",
    "unique",
    "wait_until",
    "write_tree",
]
