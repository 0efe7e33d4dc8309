"""`objstore dev`: what it prints, keeps, tells and leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from tests.harness import Cluster, free_base_port, start_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "objstore", "dev", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def children(parent: int) -> set[int]:
    """The processes that a process started, and that still run."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # Ended meanwhile.
            state, of = path.read_text().rpartition(")")[2].split()[:2]
            if int(of) == parent and state != "Z":
                found.add(int(path.parent.name))
    return found


def stopped_by(cluster: Cluster, number: int) -> int:
    cluster.process.send_signal(number)
    code = cluster.process.wait(timeout=60)
    assert not any(node.is_running() for node in cluster.nodes)
    return code


def test_a_cluster_is_told_kept_stopped_and_resumed(tmp_path: Path) -> None:
    began = time.monotonic()
    first = start_cluster(tmp_path / "c", settings={"log.level": "debug"})
    print(f"three nodes ready after {time.monotonic() - began:.1f} s")
    try:
        told = first.description
        kept = tmp_path / "c" / "cluster.json"
        assert json.loads(kept.read_text()) == told
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert {"region", "access_key", "secret_key", "admin_token", "nodes"} <= told.keys()
        assert len(told["nodes"]) == 3
        for node, described in zip(first.nodes, told["nodes"], strict=True):
            assert {
                "id",
                "pid",
                "s3",
                "cluster",
                "config",
                "data",
                "log",
            } <= described.keys()
            assert described["s3"].startswith("http://127.0.0.1:")
            assert described["cluster"].startswith("127.0.0.1:")
            assert node.data.is_dir()
            assert node.log.is_file()
            command = Path(f"/proc/{described['pid']}/cmdline").read_bytes().split(b"\0")
            assert b"serve" in command
            config = tomllib.loads(Path(node.config).read_text())
            assert config["log"]["level"] == "debug"
            assert "join" not in config["cluster"]  # Spent; a restart needs it no more.
            assert "token" not in config["cluster"]

        # One dies: it is said, not restarted; `serve` with its file brings it back.
        first.nodes[1].kill()
        log = tmp_path / "c" / "dev.log"
        wait_until(lambda: "node2 ended (exit code -9)" in log.read_text(), what="the news")
        assert f"objstore serve --config {first.nodes[1].config}" in log.read_text()
        others = {first.nodes[0].pid, first.nodes[2].pid}
        time.sleep(0.5)
        assert children(first.process.pid) == others
        first.nodes[1].start()
        assert first.nodes[1].process is not None
        first.nodes[1].process.terminate()
        assert first.nodes[1].process.wait(timeout=30) == 0
        assert stopped_by(first, signal.SIGTERM) == 0
    finally:
        first.stop()

    again = start_cluster(tmp_path / "c", resume=True)
    try:
        same = ("region", "access_key", "secret_key", "admin_token")
        assert [again.description[name] for name in same] == [told[name] for name in same]
        assert [node.id for node in again.nodes] == [node.id for node in first.nodes]
        assert [node.s3 for node in again.nodes] == [node.s3 for node in first.nodes]
        assert stopped_by(again, signal.SIGINT) == 0
    finally:
        again.stop()
    assert "one node: nothing is redundant" not in log.read_text()


def test_one_node_is_told_that_nothing_is_redundant(tmp_path: Path) -> None:
    one = start_cluster(tmp_path / "one", nodes=1)
    try:
        assert len(one.nodes) == 1
        assert "nothing is redundant" in (tmp_path / "one" / "dev.log").read_text()
        assert stopped_by(one, signal.SIGTERM) == 0
    finally:
        one.stop()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--nodes", "0"), 2, "are possible"),
        (("--set", "chunks.reserv=1GiB"), 4, "chunks.reserve"),
        (("--set", "chunks.reserve=much"), 4, "a size such as"),
        (("--set", "chunks.reserve"), 2, "KEY=VALUE"),
        (("--set", "s3.part_size_min=0B"), 4, "1B to 5GiB"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    base = str(free_base_port(3))
    done = dev("--data", str(tmp_path / "c"), "--base-port", base, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "c" / "node1" / "data").exists()


def test_a_port_that_is_taken_is_told_and_nothing_stays_behind(tmp_path: Path) -> None:
    import socket

    base = free_base_port(3)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", base + 1))
        taken.listen()
        done = dev("--data", str(tmp_path / "c"), "--base-port", str(base))
    assert done.returncode != 0
    assert "node1 ended with exit code" in done.stderr
    assert "in use" in done.stderr
    running = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True,
        env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
    assert str(tmp_path) not in running.stdout
