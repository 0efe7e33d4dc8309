"""`objstore status`: is my data safe, what is wrong, what is done about it."""

from __future__ import annotations

from typing import Any

import click

from objstore.cli.client import client_for
from objstore.cli.options import config_option, json_option
from objstore.cli.output import Column, print_json, print_table
from objstore.units import human_size

_NODE_COLUMNS = [
    Column("node", "id"),
    Column("state", "state"),
    Column("s3", "s3"),
    Column("zone", "zone"),
    Column("leads", "leads"),
    Column("fragments", "fragments"),
    Column("free", "shown_free"),
    Column("what is wrong", "wrong"),
]


@click.command("status")
@config_option
@json_option
def command(config_path: str, as_json: bool) -> None:
    """The one page to look at."""
    status = client_for(config_path).call("GET", "status")
    if as_json:
        print_json(status)
        return
    print("\n".join(_summary(status)))
    print()
    print_table([_shown(node) for node in status["nodes"]], _NODE_COLUMNS)


def _summary(status: dict[str, Any]) -> list[str]:
    below = status["below_promise"]
    metadata = status["metadata"]
    if below["objects"]:
        data = (
            f"{below['objects']} objects ({human_size(below['bytes'])}) have fewer good"
            f" copies than promised; {status['repair']['queued']} fragments wait for repair"
        )
    else:
        data = "no object is known to have fewer copies than its bucket promises"
    voters = f"{metadata['voters']} voters a shard"
    if metadata["shards_below"]:
        voters += f", {metadata['shards_below']} of {metadata['shards']} shards have fewer"
    lines = [
        f"cluster   {status['cluster']}, epoch {status['epoch']}",
        f"writable  {'yes' if status['writable'] else 'NO'}",
        f"data      {data}",
        f"metadata  {voters}",
    ]
    lines += [f"problem   {problem}" for problem in status["problems"]]
    return lines


def _shown(node: dict[str, Any]) -> dict[str, Any]:
    drives = node.get("drives") or []
    free = sum(drive["free"] for drive in drives)
    wrong = [f"drive {d['path']}: {d['reason']}" for d in drives if d.get("reason")]
    return node | {
        "shown_free": human_size(free) if drives else "-",
        "wrong": "; ".join(wrong),
    }
