"""What commands print: data to stdout, the rest to stderr; errors with a hint.

Exit codes (docs/reference/cli.md): 0 done; 1 refused or failed; 2 bad usage; 3 nobody
answered; 4 the configuration or data folder cannot be used; 5 not built yet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import attrs
import click

FAILED = 1
UNREACHABLE = 3
UNUSABLE = 4
NOT_BUILT = 5


class Failure(click.ClickException):
    """A command's end without success: one sentence, perhaps a hint, and an exit code."""

    def __init__(self, sentence: str, *, hint: str = "", code: int = FAILED) -> None:
        super().__init__(sentence)
        self.hint = hint
        self.exit_code = code  # type: ignore[misc]  # click says that it is the class's.

    def show(self, file: object = None) -> None:
        del file
        say(f"objstore: {self.message}")
        if self.hint:
            say(f"hint: {self.hint}")


@attrs.frozen
class Column:
    """A column of a table: its title, and the key of a row it shows."""

    title: str
    key: str


def say(text: str) -> None:
    """Tell a person something that is not data."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """One line of JSON, for programs."""
    print(json.dumps(value), flush=True)


def print_table(rows: Sequence[dict[str, object]], columns: Sequence[Column]) -> None:
    """A table for people; readable without colour and in a pipe."""
    # Late: a daemon prints no table.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, overflow="fold")
    for row in rows:
        # As Text: a name with brackets in it is no markup.
        table.add_row(*(Text(_shown(row.get(column.key))) for column in columns))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(table)


def _shown(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
