"""The worker that frees what committed commands provably let go of, of led shards.

A Released row names chunks that no row will ever refer to again.  After a delay, for
reads in progress, their fragments are deleted on every holder, and only when all have
answered is the row forgotten.  A holder that is away keeps the row; one that is no
member any more is not waited for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import attrs
import structlog
import trio

from objstore import metrics
from objstore.chunks.client import ChunkClient
from objstore.ec.scheme import Scheme
from objstore.errors import ObjstoreError
from objstore.host.clock import Clock
from objstore.ids import FragmentId, NodeId, Slot
from objstore.meta.client import MetaClient
from objstore.meta.commands import ForgetReleased
from objstore.meta.queries import ListReleased
from objstore.meta.values import Released
from objstore.meta.view import ClusterView
from objstore.repair.plan import holders_of
from objstore.repair.worker import WorkerState

log = structlog.get_logger()

_PAGE = 64
_TIMEOUT_MS = 10_000


@attrs.define
class Freer:
    """Frees what the shards led by this node have released."""

    meta: MetaClient
    view: ClusterView
    chunks: ChunkClient
    clock: Clock
    slots_released: Callable[[], list[Slot]]  # Of led shards, with a Released row.
    is_alive: Callable[[NodeId], bool]
    delay_ms: int

    async def work_once(self) -> WorkerState:
        """Free one page of every slot that has something."""
        freed = 0
        before_ms = self.clock.utc_now_ms() - self.delay_ms
        for slot in self.slots_released():
            rows = await self.meta.query(
                ListReleased(slot, before_ms, _PAGE), timeout_ms=_TIMEOUT_MS
            )
            freed += await self._free(slot, rows)
        return WorkerState.BUSY if freed else WorkerState.IDLE

    async def _free(self, slot: Slot, rows: tuple[Released, ...]) -> int:
        by_node: dict[NodeId, list[FragmentId]] = defaultdict(list)
        wanting: dict[int, set[NodeId]] = {}
        for row in rows:
            places = self._places(row)
            wanting[row.sequence] = {node for node, _ in places}
            for node, fragment in places:
                by_node[node].append(fragment)
        done = await self._delete(by_node)
        finished = tuple(sequence for sequence, nodes in wanting.items() if nodes <= done)
        if finished:
            await self.meta.propose(ForgetReleased(slot, finished), timeout_ms=_TIMEOUT_MS)
        return len(finished)

    def _places(self, row: Released) -> list[tuple[NodeId, FragmentId]]:
        """Every (member, fragment) that may hold bytes of the row's chunks.

        For a displaced fragment both its owner and its stand-in are asked: a mend may
        have been cut off between copy and record.
        """
        width = Scheme.parse(row.scheme).width
        places: list[tuple[NodeId, FragmentId]] = []
        for ref in row.chunks:
            owners = self.view.ring_at(ref.epoch).owners(ref.chunk, width)
            for index, (owner, holder) in enumerate(
                zip(owners, holders_of(ref, owners), strict=True)
            ):
                places += [
                    (node, FragmentId(ref.chunk, index))
                    for node in dict.fromkeys((owner, holder))
                    if node is not None and self.view.layout.find(node) is not None
                ]
        return places

    async def _delete(self, by_node: dict[NodeId, list[FragmentId]]) -> set[NodeId]:
        """Delete on each node; those that confirmed."""
        done: set[NodeId] = set()

        async def delete(node: NodeId, fragments: list[FragmentId]) -> None:
            try:
                await self.chunks.delete(node, fragments)
            except ObjstoreError as error:
                log.warning("repair.free_failed", peer=node, reason=str(error))
                return
            metrics.REPAIR_FREED.inc(len(fragments))
            done.add(node)

        async with trio.open_nursery() as nursery:
            for node, fragments in sorted(by_node.items()):
                if self.is_alive(node):
                    nursery.start_soon(delete, node, fragments)
        return done
