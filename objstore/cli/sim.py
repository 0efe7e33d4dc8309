"""`objstore sim`: whole clusters on virtual time.  Not built yet."""

from __future__ import annotations

import click

from objstore.cli.output import NOT_BUILT, Failure


@click.command("sim")
def command() -> None:
    """Run whole clusters on virtual time (not built yet)."""
    raise Failure(
        "the cluster simulator is not built yet",
        hint="Raft and gossip are simulated by the tests in tests/sim",
        code=NOT_BUILT,
    )
