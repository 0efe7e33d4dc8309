"""Options that several commands share."""

from __future__ import annotations

import os

import click


def _default_config() -> str | None:
    return os.environ.get("OBJSTORE_CONFIG")


config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    required=True,
    default=_default_config,
    help="A node's file (or OBJSTORE_CONFIG): tells the cluster and, here, its token.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
