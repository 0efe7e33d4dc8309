"""`objstore bucket`: buckets and what they hold."""

from __future__ import annotations

from urllib.parse import quote

import click

from objstore.cli.client import client_for
from objstore.cli.options import config_option, json_option
from objstore.cli.output import Column, print_json, print_table
from objstore.units import human_size

COLUMNS = [
    Column("bucket", "name"),
    Column("objects", "objects"),
    Column("size", "shown_size"),
    Column("redundancy", "redundancy"),
    Column("below promise", "below_objects"),
    Column("state", "state"),
    Column("what is wrong", "problem"),
]


@click.group("bucket")
def command() -> None:
    """Buckets: list, info."""


@command.command("list")
@config_option
@json_option
def list_buckets(config_path: str, as_json: bool) -> None:
    """All buckets with their exact counters."""
    buckets = client_for(config_path).call("GET", "buckets")["buckets"]
    if as_json:
        print_json({"buckets": buckets})
    else:
        print_table([_shown(bucket) for bucket in buckets], COLUMNS)


@command.command()
@click.argument("name")
@config_option
@json_option
def info(name: str, config_path: str, as_json: bool) -> None:
    """One bucket."""
    bucket = client_for(config_path).call("GET", f"buckets/{quote(name, safe='')}")
    if as_json:
        print_json(bucket)
    else:
        print_table([_shown(bucket)], COLUMNS)


def _shown(bucket: dict[str, object]) -> dict[str, object]:
    size = bucket["bytes"]  # None where its shards do not answer.
    return bucket | {"shown_size": human_size(size) if isinstance(size, int) else None}
