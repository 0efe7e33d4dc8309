"""The composition root: builds every part of one node and starts them bottom up.

    start   folder -> identity -> rpc -> raft -> meta -> chunks -> objects -> front door
    stop    front door drains -> leadership goes to others -> gossip says good-bye

This is the only place that knows who implements what.  Any part that raises ends the
process (crash-only); what it had promised is on disk.
"""

from __future__ import annotations

import signal
from functools import partial

import structlog
import trio

from objstore.config import Config
from objstore.errors import ConfigError
from objstore.host.host import Host
from objstore.log import hold_lines
from objstore.node.identity import DataFolder, Identity, IdentityState, open_data_folder
from objstore.node.joining import join, prepare_founding
from objstore.node.parts import Parts
from objstore.node.stopping import unless

log = structlog.get_logger()


async def serve(config: Config, host: Host) -> None:
    """Run one node until SIGTERM or SIGINT, or until it has left its cluster.

    The first signal stops it in order, the second at once: that loses nothing that was
    promised, only requests in progress and the others' time.
    Raises ConfigError where it must not start; whatever else it raises ended the node.
    """
    async with trio.open_nursery() as nursery:
        stopping = trio.Event()
        await nursery.start(hold_lines)
        await nursery.start(_watch_signals, stopping, nursery.cancel_scope)
        await run_node(config, host, stopping)
        nursery.cancel_scope.cancel()


async def _watch_signals(
    stopping: trio.Event,
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("node.stop_asked", reason=signal.Signals(number).name)
            if stopping.is_set():
                everything.cancel()
            stopping.set()


async def run_node(
    config: Config,
    host: Host,
    stopping: trio.Event,
    *,
    task_status: trio.TaskStatus[Parts] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run one node until `stopping` is set; started() once it serves clients."""
    folder = open_data_folder(host.disks, config.node.data)
    try:
        identity = await unless(stopping, partial(_identify, folder, config, host))
        if identity is None:
            return
        structlog.contextvars.bind_contextvars(node=identity.node)
        for name in ("wal", "meta"):  # Before the start is counted: see `identity`.
            folder.directory.folder(name, create=True)
        folder.directory.sync()
        identity = folder.start(identity)
        log.info("node.started", start=identity.start_count, cluster=identity.cluster)
        parts = Parts(config, host, folder, identity)
        await parts.run(stopping, task_status=task_status)
        # Only after an end in order: a store that failed is not written to again.
        parts.close()
        log.info("node.stopped")
    finally:
        folder.close()


async def _identify(folder: DataFolder, config: Config, host: Host) -> Identity:
    """Who this folder is; a new one founds a cluster or joins one first."""
    identity = folder.identity
    if identity is None and not config.cluster.join:
        return prepare_founding(folder, config, host)
    if identity is None or identity.state is IdentityState.JOINING:
        if not config.cluster.join:
            raise ConfigError(
                f"{folder.directory.path}: this node was about to join a cluster."
                " hint: start it with --join and --token, or on an empty folder"
            )
        return await join(folder, config, host)
    return identity
