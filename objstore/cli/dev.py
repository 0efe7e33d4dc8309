"""`objstore dev`: a whole cluster of real `serve` processes on loopback.

    DIR/cluster.json     what is printed: credentials and nodes
    DIR/ca.pem           the cluster's CA, for s3.tls=cluster
    DIR/node1/node.toml  each node's configuration, usable with every command
    DIR/node1/data/      its folder
    DIR/node1/log        its log

Run again on the same DIR it resumes.  A node that dies is not restarted: it is said, and
`objstore serve --config DIR/nodeN/node.toml` brings it back.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import attrs
import click
import trio

from objstore import config as configuration
from objstore.cli.client import AdminClient, admin_client, s3_url
from objstore.cli.output import UNUSABLE, Column, Failure, print_json, print_table, say
from objstore.cli.settings import parse_overrides, read_config
from objstore.cli.snippets import snippets
from objstore.errors import ConfigError
from objstore.host.disk import Directory
from objstore.host.real_host import real_host
from objstore.node.identity import Secrets, load_secrets

NODES_MAX = 64
DEFAULT_BASE_PORT = 9000
_CLUSTER_PORT_OFFSET = 100
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 2.0  # It may be another program that listens on the node's port.
_POLL_S = 0.05


@attrs.define
class DevNode:
    """One node of the cluster, and its process if we started one."""

    number: int  # From 1.
    folder: Path
    s3: str
    cluster: str
    process: trio.Process | None = None
    is_missed: bool = False  # Its death was told.

    @property
    def config_path(self) -> Path:
        return self.folder / "node.toml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def data_directory(self) -> Directory:
        return real_host().disks.directory(str(self.data))

    def node_id(self) -> str:
        document = json.loads((self.data / "node.json").read_text())
        return str(document["identity"]["node"])


@click.command("dev")
@click.option("--nodes", "count", default=3, show_default=True, help="How many.")
@click.option(
    "--data", "data", required=True, metavar="DIR", help="Where all of it is kept."
)
@click.option("--base-port", type=int, help="First S3 port less one.  [default: 9000]")
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="On every node."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON when ready.")
def command(
    count: int, data: str, base_port: int | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Run N nodes on loopback until SIGTERM or SIGINT."""
    if not 1 <= count <= NODES_MAX:
        raise Failure(f"--nodes {count}: 1 to {NODES_MAX} are possible", code=2)
    folder = Path(data).absolute()
    overrides = _checked(parse_overrides(settings))
    nodes = _plan(folder, count, base_port)
    failure: list[Failure] = []
    trio.run(_run, folder, nodes, overrides, as_json, failure)
    if failure:
        raise failure[0]


def _checked(overrides: dict[str, str]) -> dict[str, object]:
    try:
        return {
            key: configuration.parse_value(key, text) for key, text in overrides.items()
        }
    except ConfigError as error:
        raise Failure(str(error), code=UNUSABLE) from error


def _plan(folder: Path, count: int, base_port: int | None) -> list[DevNode]:
    """The nodes of a new cluster, or of the one that `folder` holds already."""
    known = sorted(
        (
            int(path.parent.name.removeprefix("node"))
            for path in folder.glob("node*/node.toml")
        ),
    )
    if len(known) > count:
        raise Failure(
            f"{folder} holds a cluster of {len(known)} nodes, not {count}",
            hint=f"use --nodes {len(known)}, or another folder",
            code=UNUSABLE,
        )
    nodes = []
    for number in range(1, count + 1):
        home = folder / f"node{number}"
        if number in known and base_port is None:
            written = read_config(str(home / "node.toml"))
            s3, cluster = written.s3.address, written.cluster.address
        else:
            base = DEFAULT_BASE_PORT if base_port is None else base_port
            s3 = f"127.0.0.1:{base + number}"
            cluster = f"127.0.0.1:{base + _CLUSTER_PORT_OFFSET + number}"
        nodes.append(DevNode(number, home, s3, cluster))
    return nodes


async def _run(
    folder: Path,
    nodes: list[DevNode],
    overrides: dict[str, object],
    as_json: bool,
    failure: list[Failure],
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def wait_for_signal() -> None:
                await anext(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_for_signal)
            try:
                await _start(nodes, overrides)
                description = await trio.to_thread.run_sync(_describe, folder, nodes)
                _announce(folder, nodes, description, overrides, as_json)
                await _watch(nodes)
            except Failure as error:
                failure.append(error)
                nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await _stop(nodes)


# ---- starting and stopping ------------------------------------------------------------


async def _start(nodes: list[DevNode], overrides: dict[str, object]) -> None:
    """Start all; the first founds the cluster, new others join it."""
    founder, others = nodes[0], nodes[1:]
    _write_config(founder, overrides)
    with _opened_log(founder) as log:
        await _spawn(founder, log)
    newcomers = [node for node in others if not (node.data / "secrets.json").exists()]
    if newcomers:
        await _until_ready(founder, overrides)
        token = await trio.to_thread.run_sync(_make_token, founder, len(newcomers))
    for node in others:
        is_new = node in newcomers
        extra = (
            {"cluster.join": (founder.cluster,), "cluster.token": token} if is_new else {}
        )
        _write_config(node, overrides | extra)
        with _opened_log(node) as log:
            await _spawn(node, log)
    for node in nodes:
        await _until_ready(node, overrides)
    await _until_grown(founder, len(nodes))
    for node in newcomers:
        _write_config(node, overrides)  # Without the token, which is spent.


def _write_config(node: DevNode, overrides: dict[str, object]) -> None:
    node.folder.mkdir(parents=True, exist_ok=True)
    values = {
        "node.data": str(node.data),
        "s3.address": node.s3,
        "cluster.address": node.cluster,
        **overrides,
    }
    text = configuration.render_file(values)
    try:
        configuration.load(text, path=str(node.config_path))
    except ConfigError as error:
        raise Failure(str(error), code=UNUSABLE) from error
    node.config_path.touch(mode=0o600)
    node.config_path.write_text(text)


@contextmanager
def _opened_log(node: DevNode) -> Iterator[IO[bytes]]:
    with node.log.open("ab") as log:
        yield log


async def _spawn(node: DevNode, log: IO[bytes]) -> None:
    arguments = [
        sys.executable,
        "-m",
        "objstore",
        "serve",
        "--config",
        str(node.config_path),
    ]
    node.process = await trio.lowlevel.open_process(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # Ctrl-C is for us; we pass it on in order.
    )


async def _until_ready(node: DevNode, overrides: dict[str, object]) -> None:
    del overrides
    reason = "it does not answer"
    with trio.move_on_after(_READY_TIMEOUT_S):
        while True:
            _require_alive(node)
            status, reason = await trio.to_thread.run_sync(_ask_ready, node)
            if status == 200:
                return
            await trio.sleep(_POLL_S)
    raise Failure(
        f"node{node.number} is not ready after {_READY_TIMEOUT_S:.0f} s: {reason}",
        hint=f"its log is {node.log}",
    )


def _ask_ready(node: DevNode) -> tuple[int, str]:
    try:
        status, answer = _client(node).request(
            "GET", "/-/health/ready", timeout_s=_ANSWER_TIMEOUT_S
        )
    except (Failure, ConfigError, OSError) as error:
        return 0, str(error)
    return status, str(answer)


async def _until_grown(founder: DevNode, count: int) -> None:
    """Wait until metadata has the voters that this many nodes allow."""
    with trio.move_on_after(_READY_TIMEOUT_S):
        while True:
            _require_alive(founder)
            status = await trio.to_thread.run_sync(_status_of, founder)
            members = [n for n in status.get("nodes", ()) if n["state"] == "alive"]
            if len(members) >= count and status["metadata"]["shards_below"] == 0:
                return
            await trio.sleep(_POLL_S)
    raise Failure(
        f"the cluster did not grow to {count} nodes in {_READY_TIMEOUT_S:.0f} s",
        hint=f'see "objstore status --config {founder.config_path}"',
    )


def _status_of(node: DevNode) -> dict[str, Any]:
    try:
        status = _client(node).call("GET", "status")
    except Failure:
        return {}
    assert isinstance(status, dict)
    return status


def _require_alive(node: DevNode) -> None:
    code = node.process.poll() if node.process else None
    if code is None:
        return
    tail = node.log.read_text(errors="replace").strip().splitlines()[-4:]
    raise Failure(
        f"node{node.number} ended with exit code {code}:\n  " + "\n  ".join(tail),
        hint=f"its log is {node.log}",
    )


def _make_token(founder: DevNode, uses: int) -> str:
    body = {"expires_in_ms": 600_000, "uses": uses}
    return str(_client(founder).call("POST", "tokens", body)["token"])


async def _watch(nodes: list[DevNode]) -> None:
    """Tell of nodes that die, until cancelled."""
    while True:
        for node in nodes:
            code = node.process.poll() if node.process else None
            if code is not None and not node.is_missed:
                node.is_missed = True
                say(f"node{node.number} ended (exit code {code}); its log is {node.log}")
                say(f"hint: objstore serve --config {node.config_path} brings it back")
        await trio.sleep(0.2)


async def _stop(nodes: list[DevNode]) -> None:
    """SIGTERM all and wait; SIGKILL what does not end in time."""
    running = [n for n in nodes if n.process is not None and n.process.poll() is None]
    for node in running:
        assert node.process is not None
        node.process.terminate()
    with trio.move_on_after(_STOP_TIMEOUT_S):
        for node in running:
            assert node.process is not None
            await node.process.wait()
    for node in running:
        assert node.process is not None
        if node.process.poll() is None:
            say(f"node{node.number} did not stop in {_STOP_TIMEOUT_S:.0f} s: killed")
            node.process.kill()
            await node.process.wait()


# ---- telling --------------------------------------------------------------------------


def _client(node: DevNode) -> AdminClient:
    secrets = load_secrets(node.data_directory())
    config = read_config(str(node.config_path))
    return admin_client(config, secrets.admin_token, secrets.authority_pem.decode())


def _describe(folder: Path, nodes: list[DevNode]) -> dict[str, Any]:
    secrets: Secrets = load_secrets(nodes[0].data_directory())
    (folder / "ca.pem").write_bytes(secrets.authority_pem)
    described = []
    for node in nodes:
        config = read_config(str(node.config_path))
        assert node.process is not None
        described.append(
            {
                "id": node.node_id(),
                "pid": node.process.pid,
                "s3": s3_url(config),
                "cluster": node.cluster,
                "config": str(node.config_path),
                "data": str(node.data),
                "log": str(node.log),
            }
        )
    config = read_config(str(nodes[0].config_path))
    return {
        "region": config.s3.region,
        "access_key": secrets.root_access_key,
        "secret_key": secrets.root_secret_key,
        "admin_token": secrets.admin_token,
        "ca_file": str(folder / "ca.pem"),
        "nodes": described,
    }


def _announce(
    folder: Path,
    nodes: list[DevNode],
    description: dict[str, Any],
    overrides: dict[str, object],
    as_json: bool,
) -> None:
    del overrides
    path = folder / "cluster.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(description) + "\n")
    if len(nodes) == 1:
        say("one node: nothing is redundant; a disk lost is data lost")
    if as_json:
        print_json(description)
        return
    columns = [Column("node", "id"), Column("s3", "s3"), Column("cluster", "cluster")]
    print_table(description["nodes"], [*columns, Column("pid", "pid")])
    print()
    credentials = [
        {"what": "region", "value": description["region"]},
        {"what": "access key", "value": description["access_key"]},
        {"what": "secret key", "value": description["secret_key"]},
        {"what": "admin token", "value": description["admin_token"]},
    ]
    print_table(credentials, [Column("credentials", "what"), Column("", "value")])
    print(snippets(description))
    print(f"All of it is in {path}.  Ctrl-C stops the cluster; its data stays.", flush=True)
