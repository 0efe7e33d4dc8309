"""`objstore key`: access keys of the S3 dialect."""

from __future__ import annotations

from urllib.parse import quote

import click

from objstore.cli.client import client_for
from objstore.cli.options import config_option, json_option
from objstore.cli.output import Column, print_json, print_table, say


@click.group("key")
def command() -> None:
    """Access keys: create, list, delete."""


@command.command()
@click.option("--name", required=True, help="What people call it.")
@config_option
@json_option
def create(name: str, config_path: str, as_json: bool) -> None:
    """Make a key pair.  Its secret is shown now and never again."""
    key = client_for(config_path).call("POST", "keys", {"name": name})
    if as_json:
        print_json(key)
        return
    print_table([key], [Column("name", "name"), Column("access key", "access_key")])
    say("its secret, shown only now:")
    print(key["secret_key"])


@command.command("list")
@config_option
@json_option
def list_keys(config_path: str, as_json: bool) -> None:
    """All keys, without their secrets."""
    keys = client_for(config_path).call("GET", "keys")["keys"]
    if as_json:
        print_json({"keys": keys})
        return
    columns = [
        Column("name", "name"),
        Column("access key", "access_key"),
        Column("root", "is_root"),
        Column("canonical id", "canonical_id"),
    ]
    print_table(keys, columns)


@command.command()
@click.argument("access_key")
@config_option
@json_option
def delete(access_key: str, config_path: str, as_json: bool) -> None:
    """Take a key back; it stops working within auth.max_staleness."""
    client_for(config_path).call("DELETE", f"keys/{quote(access_key, safe='')}")
    if as_json:
        print_json({"deleted": access_key})
    else:
        say(f"deleted {access_key}")
