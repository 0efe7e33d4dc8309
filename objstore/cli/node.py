"""`objstore node`: who is in the cluster, and how nodes come and go."""

from __future__ import annotations

from urllib.parse import quote

import click
import trio

from objstore.cli.client import client_for
from objstore.cli.options import config_option, json_option, optional_config_option
from objstore.cli.output import (
    NOT_BUILT,
    UNUSABLE,
    Column,
    Failure,
    print_json,
    print_table,
    say,
)
from objstore.cli.settings import read_config
from objstore.errors import ObjstoreError
from objstore.units import parse_duration_ms

_LEAVE_TIMEOUT_S = 180.0  # Its votes move to others first.
NODE_COLUMNS = [
    Column("node", "id"),
    Column("state", "state"),
    Column("s3", "s3"),
    Column("cluster", "cluster"),
    Column("zone", "zone"),
    Column("weight", "weight"),
]


@click.group("node")
def command() -> None:
    """Nodes: list, token, join, leave."""


@command.command("list")
@config_option
@json_option
def list_nodes(config_path: str, as_json: bool) -> None:
    """All nodes of the cluster and how they are."""
    nodes = client_for(config_path).call("GET", "nodes")["nodes"]
    if as_json:
        print_json({"nodes": nodes})
    else:
        print_table(nodes, NODE_COLUMNS)


@command.command()
@click.option("--expires", default="1h", help='For how long, e.g. "1h".')
@click.option("--uses", default=1, help="For how many nodes.")
@config_option
@json_option
def token(expires: str, uses: int, config_path: str, as_json: bool) -> None:
    """Make a token that lets nodes join."""
    try:
        expires_in_ms = parse_duration_ms(expires)
    except ValueError as error:
        raise Failure(f"--expires: {error}", code=2) from error
    body = {"expires_in_ms": expires_in_ms, "uses": uses}
    answer = client_for(config_path).call("POST", "tokens", body)
    if as_json:
        print_json(answer)
        return
    print(answer["token"])
    say(f"objstore serve --data DIR --join {answer['join']} --token {answer['token']}")


@command.command()
@click.argument("address", metavar="HOST:PORT")
@click.option("--token", required=True, help='From "objstore node token".')
@config_option
@json_option
def join(address: str, token: str, config_path: str, as_json: bool) -> None:
    """Let this machine's node (not started yet) join; then start it with serve."""
    from objstore.host.real_host import real_host
    from objstore.node.joining import join_folder

    config = read_config(config_path, {"cluster.join": address, "cluster.token": token})
    try:
        identity = trio.run(join_folder, config, real_host())
    except ObjstoreError as error:
        sentence, _, hint = str(error).partition(" hint: ")
        raise Failure(sentence, hint=hint, code=UNUSABLE) from error
    if as_json:
        print_json({"node": identity.node, "cluster": identity.cluster})
    else:
        say(f"node {identity.node} joined; start it: objstore serve --config {config_path}")


@command.command()
@click.argument("node")
@config_option
@json_option
def leave(node: str, config_path: str, as_json: bool) -> None:
    """Take a node that holds no data out of the cluster."""
    client = client_for(config_path)
    path = f"nodes/{quote(node, safe='')}/leave"
    answer = client.call("POST", path, timeout_s=_LEAVE_TIMEOUT_S)
    if as_json:
        print_json(answer)
    elif answer["was_told"]:
        say(f"node {node} has left; its daemon stops by itself")
    else:
        say(f"node {node} has left, and could not be told: stop its daemon")


def _not_built(verb: str) -> Failure:
    return Failure(
        f"node {verb} is not built yet: data cannot be moved off a node",
        hint='an empty node can go with "objstore node leave"',
        code=NOT_BUILT,
    )


# With the options that they will have, so that a script is told what is missing.
@command.command()
@click.argument("node", required=False)
@optional_config_option
@json_option
def drain(node: str | None, config_path: str | None, as_json: bool) -> None:
    """Move everything off a node, then leave (not built yet)."""
    del node, config_path, as_json
    raise _not_built("drain")


@command.command()
@click.argument("node", required=False)
@optional_config_option
@json_option
def remove(node: str | None, config_path: str | None, as_json: bool) -> None:
    """Give a dead node's place up (not built yet)."""
    del node, config_path, as_json
    raise _not_built("remove")
