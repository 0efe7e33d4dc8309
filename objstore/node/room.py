"""Room: which nodes' data folders are at their reserve, and take no more metadata.

    own folder --sampled--> room | full | brimful --gossip--> all nodes

    full       below the reserve: leads nothing where another can.  A shard of whose voters
               no majority has room refuses what grows (507); reads, deletes, repair go on
    brimful    below a quarter of it: takes no entries at all, as if it were away; its
               shards go on without it, and it catches up once there is room

A store or log that meets the end of its disk can only end its process.  So what grows is
refused before: the reserve lets deletes go on, and the store rewrite its files to give
space back.  Chunk drives have a reserve of their own (`chunks.reserve`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
import structlog
import trio

from objstore.host.clock import next_beat_s
from objstore.host.disk import Directory
from objstore.ids import NodeId
from objstore.units import MiB

log = structlog.get_logger()

# A few files of the log, and of the store while it rewrites some: but of a small disk no
# more than a tenth.
RESERVE = 256 * MiB
_SHARE = 10
_BRIM = 4  # This part of the reserve is for what was taken before: flushes, compactions.
_INTERVAL_S = 1.0


@attrs.define(eq=False)
class Room:
    """What is known of all nodes' room, and of our own at first hand."""

    node: NodeId
    directory: Directory
    on_change: Callable[[], None]  # Our own is full now, or has room again.
    is_alive: Callable[[NodeId], bool] = lambda _: True
    is_brimful: bool = attrs.field(default=False, init=False)
    _full: set[NodeId] = attrs.field(factory=set, init=False)

    @property
    def is_full(self) -> bool:
        """Whether our own folder is at its reserve."""
        return self.node in self._full

    def is_full_at(self, nodes: Iterable[NodeId]) -> bool:
        """Whether any of these nodes is full, as far as is known."""
        return bool(self._full) and not self._full.isdisjoint(nodes)

    def is_short_of(self, voters: Sequence[NodeId]) -> bool:
        """Whether so many of a shard's voters are full that no quorum could take more.

        One that is away may have room or not; it is of no help either way.
        """
        if not self.is_full_at(voters):
            return False
        roomy = [n for n in voters if n not in self._full and self.is_alive(n)]
        return len(roomy) <= len(voters) // 2

    def heard(self, node: NodeId, *, is_full: bool) -> None:
        """Note what a peer says of itself, or that it is gone and says nothing."""
        if node != self.node:
            (self._full.add if is_full else self._full.discard)(node)

    async def run(self) -> None:
        """Look at our own folder, until cancelled."""
        while True:
            self._look()
            await trio.sleep_until(next_beat_s(_INTERVAL_S))

    def _look(self) -> None:
        space = self.directory.space()
        reserve = min(RESERVE, space.total // _SHARE)
        self.is_brimful = space.free < reserve // _BRIM
        # Once full, until there is clearly more: not to and fro with every file.
        is_full = space.free < (reserve + reserve // 4 if self.is_full else reserve)
        if is_full == self.is_full:
            return
        (self._full.add if is_full else self._full.discard)(self.node)
        if is_full:
            log.error("node.folder_full", free=space.free, reserve=reserve)
        else:
            log.info("node.folder_has_room", free=space.free)
        self.on_change()
