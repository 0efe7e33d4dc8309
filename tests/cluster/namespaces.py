"""A cluster whose nodes have a network namespace each, so that its network can be cut.

    node 1  10.X.Y.1 ---.
    node 2  10.X.Y.2 ---+--- bridge in the tests' own namespace, 10.X.Y.254
    node 3  10.X.Y.3 ---'         clients reach every node, whatever is cut between nodes

A cut from A to B is a neighbour entry in A that gives B a hardware address nobody has: what
A sends to B is lost without a word, as by a broken switch.  No reset, no unreachable: who
waits for an answer waits until its own deadline (F20).  Needs root and iproute2.

With `WetNetwork` nodes speak to each other over a second device, whose packets pass through
a relay of ours that loses, delays, doubles and reorders them (F19): not every kernel has
netem.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.harness import Cluster, Node, discarded, wait_until

_NOBODY = "02:00:00:00:de:ad"
_HOST = 254
S3_PORT = 9000
CLUSTER_PORT = 7000


def can_make_namespaces() -> bool:
    """Whether this user may: root on a kernel with network namespaces, and iproute2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"objstore-probe-{os.getpid()}"
    return _try("netns", "add", name) and _try("netns", "del", name)


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.decode()}"


def _try(*arguments: str) -> bool:
    done = subprocess.run(["ip", *arguments], capture_output=True, check=False)
    return done.returncode == 0


@attrs.define
class Network:
    """The namespaces, by node number from 0, and the cuts between them."""

    count: int
    _cuts: set[tuple[int, int]] = attrs.Factory(set)

    @property
    def subnet(self) -> str:
        """10.64.0 to 10.127.255: one a process of tests."""
        return f"10.{64 + (os.getpid() >> 8 & 63)}.{os.getpid() & 255}"

    @property
    def bridge(self) -> str:
        return f"ob{os.getpid()}"

    def name(self, node: int) -> str:
        return f"objstore-{os.getpid()}-{node + 1}"

    def address(self, node: int) -> str:
        return f"{self.subnet}.{node + 1}"

    def cluster_address(self, node: int) -> str:
        """Where other nodes connect to."""
        return self.address(node)

    def create(self) -> None:
        self.destroy()
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.subnet}.{_HOST}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        for node in range(self.count):
            name, outer = self.name(node), f"{self.bridge}v{node + 1}"
            ip("netns", "add", name)
            ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", outer, "master", self.bridge, "up")
            ip("-n", name, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")

    def destroy(self) -> None:
        """All of it; what is not there is no matter."""
        for node in range(self.count):
            # The link first: a namespace's own go some time after it.
            _try("link", "del", f"{self.bridge}v{node + 1}")
            _try("netns", "del", self.name(node))
        _try("link", "del", self.bridge)

    # ---- cuts -------------------------------------------------------------------------

    def cut_one_way(self, source: int, target: int) -> None:
        """Nothing that `source` sends arrives at `target`."""
        address = self.address(target)
        ip("-n", self.name(source), "neigh", "replace", address, "lladdr", _NOBODY,
           "dev", "eth0", "nud", "permanent")  # fmt: skip
        self._cuts.add((source, target))

    def cut(self, *pairs: tuple[int, int]) -> None:
        """Both ways, between the two of each pair."""
        for one, other in pairs:
            self.cut_one_way(one, other)
            self.cut_one_way(other, one)

    def isolate(self, node: int) -> None:
        """One side of the cut is this node alone."""
        self.cut(*[(node, other) for other in range(self.count) if other != node])

    def heal(self) -> None:
        for source, target in list(self._cuts):
            ip("-n", self.name(source), "neigh", "del", self.address(target), "dev", "eth0")
            self._cuts.discard((source, target))


@attrs.define
class WetNetwork(Network):
    """Nodes speak to each other through `tests.cluster.weather`."""

    _relay: subprocess.Popen[bytes] | None = None

    def cluster_address(self, node: int) -> str:
        return self.address(node).replace("10.", "172.", 1)

    def create(self) -> None:
        super().create()
        names = [self.name(node) for node in range(self.count)]
        self._relay = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.weather", *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._relay.stdout is not None
        assert self._relay.stdout.readline() == b"ready\n", "the relay did not start"
        for node, name in enumerate(names):
            address = f"{self.cluster_address(node)}/24"
            ip("-n", name, "addr", "add", address, "dev", "wet0")

    def destroy(self) -> None:
        if self._relay is not None:
            relay, self._relay = self._relay, None
            assert relay.stdin is not None
            assert relay.stdout is not None
            relay.stdin.close()
            try:
                relay.wait(timeout=10)
            except subprocess.TimeoutExpired:
                relay.kill()
                relay.wait()
            relay.stdout.close()
        super().destroy()

    def become(
        self, *, loss: float = 0.0, delay_ms: float = 0.0, double: float = 0.0
    ) -> None:
        """Change the weather."""
        assert self._relay is not None
        assert self._relay.stdin is not None
        policy = {"loss": loss, "delay_ms": delay_ms, "double": double}
        self._relay.stdin.write(json.dumps(policy).encode() + b"\n")
        self._relay.stdin.flush()


@attrs.define
class NamespacedNode(Node):
    """A node that `serve` runs inside its namespace."""

    network: Network = attrs.field(kw_only=True)

    def command_line(self, *extra: str) -> list[str]:
        name = self.network.name(self.number - 1)
        return ["ip", "netns", "exec", name, *super().command_line(*extra)]


@attrs.define
class NamespacedCluster(Cluster):
    network: Network = attrs.field(kw_only=True)

    def stop(self) -> int:
        """End all nodes; the sum of their exit codes."""
        for node in self.nodes:
            if node.is_running():
                os.kill(node.pid, signal.SIGCONT)
                node.kill(signal.SIGTERM)
        return sum(node.process.wait(timeout=40) for node in self.nodes if node.process)


@contextmanager
def namespaced_cluster(
    folder: Path,
    *,
    nodes: int = 3,
    settings: dict[str, str] | None = None,
    network: Network | None = None,
) -> Iterator[NamespacedCluster]:
    """A cluster, a namespace a node; all gone at the end."""
    network = network or Network(nodes)
    configured = [
        _configure(folder / f"node{number + 1}", number, network, settings or {})
        for number in range(network.count)
    ]
    with discarded(folder):
        try:
            network.create()
            cluster = _start(folder, network, configured)
            try:
                yield cluster
            finally:
                network.heal()
                cluster.stop()
        finally:
            try:
                for node in configured:
                    if node.process is not None and node.is_running():
                        node.kill()
            finally:
                network.destroy()


def _start(
    folder: Path, network: Network, nodes: list[NamespacedNode]
) -> NamespacedCluster:
    founder, others = nodes[0], nodes[1:]
    founder.start()
    token = json.loads(
        _objstore("node", "token", "--uses", "9", "--config", founder.config)
    )
    for node in others:
        node.start("--join", token["join"], "--token", token["token"], wait=False)
    for node in nodes:
        node.wait_ready(timeout_s=90)
    secrets = json.loads((founder.data / "secrets.json").read_text())
    for node in nodes:
        identity = json.loads((node.data / "node.json").read_text())["identity"]
        node.description["id"] = identity["node"]
    description = {
        "region": "us-east-1",
        "access_key": secrets["root_access_key"],
        "secret_key": secrets["root_secret_key"],
        "admin_token": secrets["admin_token"],
        "ca_file": "",
    }
    assert founder.process is not None
    cluster = NamespacedCluster(
        folder, description, list(nodes), founder.process, network=network
    )
    wait_until(lambda: _is_grown(cluster), timeout_s=90, what="voters on all nodes")
    return cluster


def _configure(
    folder: Path, number: int, network: Network, settings: dict[str, str]
) -> NamespacedNode:
    folder.mkdir(parents=True)
    address = network.address(number)
    path = folder / "node.toml"
    path.write_text(
        f'[node]\ndata = "{folder / "data"}"\n'
        f'[s3]\naddress = "{address}:{S3_PORT}"\n'
        f'[cluster]\naddress = "{network.cluster_address(number)}:{CLUSTER_PORT}"\n'
    )
    described = {
        "id": "",
        "s3": f"http://{address}:{S3_PORT}",
        "config": str(path),
        "data": str(folder / "data"),
        "log": str(folder / "log"),
    }
    return NamespacedNode(
        number + 1,
        described,
        settings={"chunks.reserve": "64MiB"} | settings,
        network=network,
    )


def _is_grown(cluster: Cluster) -> bool:
    status = cluster.status()
    alive = [node for node in status["nodes"] if node["state"] == "alive"]
    return len(alive) == len(cluster.nodes) and status["metadata"]["shards_below"] == 0


def _objstore(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "objstore", *arguments, "--json"],
        capture_output=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
