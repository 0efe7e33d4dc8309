"""The program that simulated hosts run, and what a checker sees of it.

`testing` never imports `node`: who starts a simulation hands the node's program in.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import trio

from objstore.admin.membership import Membership
from objstore.admin.status import ClusterStatus
from objstore.chunks.store import ChunkStore
from objstore.config import Config
from objstore.host.host import Host
from objstore.meta.server import MetaServer
from objstore.meta.store import MetaStore
from objstore.meta.view import ClusterView
from objstore.raft.driver import RaftHost


class RunningNode(Protocol):
    """A node that serves: the parts that checkers look at."""

    raft: RaftHost
    meta_server: MetaServer
    meta_store: MetaStore
    chunk_store: ChunkStore
    view: ClusterView
    membership: Membership
    status: ClusterStatus


class Program(Protocol):
    """Run one node until `stopping` is set; tell `started` of it once it serves."""

    def __call__(
        self,
        config: Config,
        host: Host,
        stopping: trio.Event,
        started: Callable[[RunningNode], None],
    ) -> Coroutine[Any, Any, None]: ...
