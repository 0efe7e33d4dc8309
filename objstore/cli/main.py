"""The command line: `objstore COMMAND`.

Commands import late, so that `objstore --help` is quick.
"""

from __future__ import annotations

import gc
import importlib
from types import ModuleType

import click

import objstore

# command -> the module that holds it, as attribute `command`, and its first line of help
_COMMANDS = {
    "serve": ("objstore.cli.serve", "Run one node until SIGTERM or SIGINT."),
    "dev": ("objstore.cli.dev", "Run N nodes on loopback until SIGTERM or SIGINT."),
    "status": ("objstore.cli.status", "The one page to look at."),
    "node": ("objstore.cli.node", "Nodes: list, token, join, leave."),
    "bucket": ("objstore.cli.bucket", "Buckets: list, info."),
    "key": ("objstore.cli.key", "Access keys: create, list, delete."),
    "check": (
        "objstore.cli.check",
        "Verify every record of a stopped node's folder, changing nothing.",
    ),
    "bench": ("objstore.cli.bench.command", "Measure a running dev cluster."),
    "sim": ("objstore.cli.sim", "Run whole clusters on virtual time, from seeds."),
}


class _Commands(click.Group):
    """Loads a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command = _import(_COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of them, without loading any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


def _import(name: str) -> ModuleType:
    """Import without collecting garbage: modules are none, and it takes a tenth."""
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.enable()


@click.command(cls=_Commands)
@click.version_option(objstore.__version__, prog_name="objstore")
def main() -> None:
    """An S3-compatible object store of N identical daemons.

    Begin with `objstore dev --nodes 3 --data DIR`.
    """
