"""A real cluster for tests: `objstore dev` in a process of its own, on free ports.

Used by tests/cluster and tests/clients.  Nothing of objstore is imported for its work:
what is tested is what a person would start.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

READY_TIMEOUT_S = 90.0


def free_base_port(count: int) -> int:
    """A base port whose S3 and cluster ports are all free now."""
    for base in range(20_000, 30_000, 20):
        offset = (os.getpid() * 7919) % 10_000
        candidate = 20_000 + (base - 20_000 + offset) % 10_000
        ports = [candidate + i for i in range(1, count + 1)]
        ports += [candidate + 100 + i for i in range(1, count + 1)]
        if all(_is_free(port) for port in ports):
            return candidate
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def wait_until(
    condition: Callable[[], Any], *, timeout_s: float = 30.0, what: str = ""
) -> Any:
    """The condition's first true value; fails the test after the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"timed out after {timeout_s} s: {what}"
        time.sleep(0.05)


@attrs.define
class Node:
    """A node of the cluster: started by dev at first, by `serve` after a restart."""

    number: int
    description: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = attrs.Factory(dict)  # Beside our own.
    settings: dict[str, str] = attrs.Factory(dict)  # --set of a restart.

    @property
    def id(self) -> str:
        return str(self.description["id"])

    @property
    def s3(self) -> str:
        return str(self.description["s3"])

    @property
    def config(self) -> str:
        return str(self.description["config"])

    @property
    def data(self) -> Path:
        return Path(self.description["data"])

    @property
    def log(self) -> Path:
        return Path(self.description["log"])

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else int(self.description["pid"])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; for SIGKILL wait until the process is gone."""
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            if self.process is not None:
                self.process.wait()
            wait_until(lambda: not self.is_running(), what="a killed node to end")

    def stop(self, *, timeout_s: float = 60) -> None:
        """End it in order, by SIGTERM, and wait until it has ended."""
        self.kill(signal.SIGTERM)
        if self.process is not None:
            self.process.wait(timeout=timeout_s)
        wait_until(
            lambda: not self.is_running(), timeout_s=timeout_s, what="a stopped node to end"
        )

    def is_running(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        return state != "Z"

    def command_line(self, *extra: str) -> list[str]:
        """`objstore serve` for this node."""
        arguments = [sys.executable, "-m", "objstore", "serve", "--config", self.config]
        for key, value in self.settings.items():
            arguments += ["--set", f"{key}={value}"]
        return [*arguments, *extra]

    def start(self, *extra: str, wait: bool = True) -> None:
        """Bring the node back with `objstore serve`."""
        log = self.log.open("ab")
        self.process = subprocess.Popen(
            self.command_line(*extra),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | self.environment,
        )
        log.close()
        if wait:
            self.wait_ready()

    def wait_ready(self, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        wait_until(
            lambda: self.ready() == 200,
            timeout_s=timeout_s,
            what=f"node{self.number} ready",
        )

    def ready(self) -> int:
        return self.get("/-/health/ready")[0]

    def metric(self, name: str) -> float:
        """The sum of a metric's samples; 0.0 where nobody answers."""
        _, text = self.get("/-/metrics")
        samples = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text.decode(), re.MULTILINE)
        return sum(map(float, samples))

    def commits(self) -> float:
        """How many entries it has seen committed as their leader, since its start."""
        return self.metric("objstore_raft_commit_duration_seconds_count")

    def get(
        self, path: str, *, token: str = "", method: str = "GET", body: bytes | None = None
    ) -> tuple[int, bytes]:
        """(status, body) of a plain request; (0, why) where nobody answers."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(
            self.s3 + path, headers=headers, method=method, data=body
        )
        try:
            with urllib.request.urlopen(
                request, timeout=15, context=_unverified()
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError as error:
            return 0, str(error).encode()


def _unverified() -> Any:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@attrs.define
class Cluster:
    """A running cluster."""

    folder: Path
    description: dict[str, Any]
    nodes: list[Node]
    process: subprocess.Popen[bytes]

    @property
    def access_key(self) -> str:
        return str(self.description["access_key"])

    @property
    def secret_key(self) -> str:
        return str(self.description["secret_key"])

    @property
    def ca_file(self) -> str:
        return str(self.description["ca_file"])

    def s3(self, node: int = 0, **overrides: Any) -> Any:
        """A boto3 client of one node, without retries unless asked for."""
        import boto3
        from botocore.config import Config

        options: dict[str, Any] = {
            "retries": {"max_attempts": 1, "mode": "standard"},
            "s3": {"addressing_style": "path"},
            "connect_timeout": 5,
            "read_timeout": 60,
        }
        config = overrides.pop("config", {})
        if config is None:  # As boto3 comes.
            options = {"s3": {"addressing_style": "path"}}
        else:
            options |= config
        arguments: dict[str, Any] = {
            "endpoint_url": self.nodes[node].s3,
            "region_name": self.description["region"],
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "config": Config(**options),
        }
        if self.nodes[node].s3.startswith("https:"):
            arguments["verify"] = self.ca_file
        return boto3.client("s3", **(arguments | overrides))

    def command(self, *arguments: str, node: int = 0, check: bool = True) -> Any:
        """Run `objstore ARGUMENTS --config NODE --json`: the decoded answer."""
        done = subprocess.run(
            [sys.executable, "-m", "objstore", *arguments, "--config",
             self.nodes[node].config, "--json"],
            capture_output=True, timeout=90, check=False,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stderr.decode()
            return json.loads(done.stdout)
        return done

    def status(self, node: int = 0) -> dict[str, Any]:
        code, body = self.nodes[node].get(
            "/-/admin/v1/status", token=self.description["admin_token"]
        )
        assert code == 200, body
        answer = json.loads(body)
        assert isinstance(answer, dict)
        return answer

    def leader_of(self, bucket: str) -> int:
        """The node that leads most of what is written to `bucket`; writes a little to see."""
        client = self.s3(config={"retries": {"max_attempts": 5}})
        before = [node.commits() for node in self.nodes]
        for number in range(20):
            client.put_object(Bucket=bucket, Key=f"whose/{number}", Body=b"")
        after = [node.commits() for node in self.nodes]
        rose = [now - then for now, then in zip(after, before, strict=True)]
        assert max(rose) > 0, "nobody has led anything"
        return rose.index(max(rose))

    def stop(self) -> int:
        """End dev and all nodes; dev's exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=40)
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.terminate()
                node.process.wait(timeout=30)
        return code

    def kill(self) -> None:
        """End whatever of it still runs, at once."""
        for node in self.nodes:
            if node.is_running():
                node.kill()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def logs(self) -> str:
        return "\n".join(
            f"--- node{node.number}\n" + "\n".join(node.log.read_text().splitlines()[-15:])
            for node in self.nodes
        )


def start_cluster(
    folder: Path,
    *,
    nodes: int = 3,
    settings: dict[str, str] | None = None,
    resume: bool = False,
    environment: dict[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Cluster:
    """`objstore dev`, ready.  wrapper: a command that runs the one after it."""
    arguments = [*wrapper, sys.executable, "-m", "objstore", "dev", "--nodes", str(nodes)]
    arguments += ["--data", str(folder), "--json"]
    if not resume:
        arguments += ["--base-port", str(free_base_port(nodes))]
    for key, value in ({"chunks.reserve": "64MiB"} | (settings or {})).items():
        arguments += ["--set", f"{key}={value}"]
    folder.mkdir(parents=True, exist_ok=True)
    errors = (folder / "dev.log").open("ab")
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
        start_new_session=True, env=os.environ | (environment or {}),
    )  # fmt: skip
    errors.close()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait(timeout=30)
            raise AssertionError((folder / "dev.log").read_text())
        description = json.loads(line)
    except BaseException:  # The test's timeout too: nobody else knows of it yet.
        _end(process)
        raise
    listed = [
        Node(i + 1, described, environment=environment or {})
        for i, described in enumerate(description["nodes"])
    ]
    return Cluster(folder, description, listed, process)


def _end(dev: subprocess.Popen[bytes]) -> None:
    """End dev, which ends its nodes; kill it where it does not."""
    dev.terminate()
    try:
        dev.wait(timeout=40)
    except subprocess.TimeoutExpired:
        dev.kill()
        dev.wait()


running: list[Cluster] = []  # For `conftest`, which tells what their nodes said.
failures: list[str] = []  # Of this run's tests, as `conftest` saw them.


@contextmanager
def discarded(folder: Path) -> Iterator[None]:
    """Remove what nodes have stored at the end, as pytest keeps folders: 50 GiB in all.

    Not where a test has failed meanwhile: somebody will want to look.
    """
    before = len(failures)
    yield
    if len(failures) == before:
        for node in folder.glob("node*"):
            shutil.rmtree(node, ignore_errors=True)


@contextmanager
def running_cluster(
    folder: Path,
    *,
    nodes: int = 3,
    settings: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[Cluster]:
    """A cluster that is stopped, and whose processes and data are gone, at the end."""
    with discarded(folder):
        cluster = start_cluster(
            folder, nodes=nodes, settings=settings, environment=environment, wrapper=wrapper
        )
        running.append(cluster)
        try:
            yield cluster
        finally:
            running.remove(cluster)
            try:
                cluster.stop()
            finally:
                cluster.kill()
