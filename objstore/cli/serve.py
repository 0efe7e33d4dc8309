"""`objstore serve`: one node in the foreground."""

from __future__ import annotations

import gc

import click
import structlog
import trio

from objstore import log
from objstore.cli.output import FAILED, UNUSABLE, Failure
from objstore.cli.settings import parse_overrides, read_config
from objstore.errors import ConfigError, CorruptData, ObjstoreError
from objstore.host.real_host import prefer_batches, real_host
from objstore.host.real_memory import bound_arenas
from objstore.node.daemon import serve

# Flags for the keys that people give most; all others by --set.
_FLAGS = {
    "data": "node.data",
    "s3_address": "s3.address",
    "cluster_address": "cluster.address",
    "join": "cluster.join",
    "token": "cluster.token",
    "zone": "node.zone",
    "log_level": "log.level",
    "log_format": "log.format",
}

_HINT = (
    'nothing acknowledged is lost. See docs/operations.md, "A node is down";'
    ' "objstore check DATA_DIR" reads its folder'
)
_DAMAGE_HINT = (
    '"objstore check DATA_DIR" tells where the folder is damaged. The other nodes have'
    ' what it held: see docs/operations.md, "Replace a dead node"'
)


@click.command("serve")
@click.option(
    "--config", "config_path", metavar="FILE", help="TOML; see conf/objstore.toml."
)
@click.option("--data", metavar="DIR", help="The node's folder.")
@click.option("--s3-address", metavar="HOST:PORT", help="The front door.")
@click.option("--cluster-address", metavar="HOST:PORT", help="Where other nodes connect.")
@click.option("--join", metavar="HOST:PORT", help="A running node's cluster address.")
@click.option("--token", metavar="T", help='From "objstore node token".')
@click.option("--zone", metavar="NAME", help="Failure domain.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@click.option("--log-format", metavar="FORMAT", help="json or console.")
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any other key."
)
def command(
    config_path: str | None, settings: tuple[str, ...], **flags: str | None
) -> None:
    """Run one node until SIGTERM or SIGINT.

    On an empty folder it founds a cluster, or joins one with --join and --token.
    """
    overrides: dict[str, object] = {
        _FLAGS[name]: value for name, value in flags.items() if value is not None
    }
    overrides |= parse_overrides(settings)
    config = read_config(config_path, overrides)
    log.configure(level=config.log.level, format=config.log.format)  # type: ignore[arg-type]
    # Request handling makes few cycles; a full collection of a large heap costs latency.
    gc.freeze()
    bound_arenas()
    prefer_batches()
    try:
        trio.run(serve, config, real_host())
    except* ConfigError as errors:
        sentence, _, hint = _first(errors).partition(" hint: ")
        _tell_log(sentence, hint)
        raise Failure(sentence, hint=hint, code=UNUSABLE) from errors
    except* (ObjstoreError, OSError) as errors:
        sentence = f"the node stopped: {_first(errors)}"
        hint = _DAMAGE_HINT if errors.subgroup(CorruptData) else _HINT
        _tell_log(sentence, hint)
        raise Failure(sentence, hint=hint, code=FAILED) from errors


def _tell_log(sentence: str, hint: str) -> None:
    """The same for who reads the log by program."""
    structlog.get_logger().error("node.failed", reason=sentence, hint=hint)


def _first(errors: BaseExceptionGroup[BaseException]) -> str:
    """The first error of a group, as a sentence."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
