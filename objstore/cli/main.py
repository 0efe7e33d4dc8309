"""The command line: `objstore COMMAND`.

Commands import late, so that `objstore --help` is quick.
"""

from __future__ import annotations

import gc
import importlib
from types import ModuleType

import click

import objstore

# command -> the module that holds it, as attribute `command`
_COMMANDS = {
    "serve": "objstore.cli.serve",
    "dev": "objstore.cli.dev",
    "status": "objstore.cli.status",
    "node": "objstore.cli.node",
    "bucket": "objstore.cli.bucket",
    "key": "objstore.cli.key",
    "check": "objstore.cli.check",
    "bench": "objstore.cli.bench.command",
    "sim": "objstore.cli.sim",
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
        command = _import(_COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command


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
