"""Options that several commands share."""

from __future__ import annotations

import click

config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    required=True,
    envvar="OBJSTORE_CONFIG",
    help="A node's file (or OBJSTORE_CONFIG): tells the cluster and, here, its token.",
)
optional_config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    envvar="OBJSTORE_CONFIG",
    help="A node's file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
