"""The worker that mends known damage: missing fragments and stand-ins, of led shards.

    below-promise index (kept by commits)  ->  plan (pure)  ->  copy, fsynced
        -> ChangeDisplaced  ->  a stand-in's copy is deleted

Only after the row says where the fragment is now is the other copy deleted.  Where the
row is gone meanwhile, what was copied is deleted: a linearizable answer says that nothing
refers to it.  If cancelled, a copy may be left without a row; it is garbage.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import structlog
import trio

from objstore import metrics
from objstore.chunks.client import ChunkClient
from objstore.chunks.fragment import FragmentHeader, NoSuchFragment
from objstore.ec.scheme import Scheme
from objstore.errors import CorruptData, NotFound, ObjstoreError
from objstore.ids import FragmentId, NodeId, Slot
from objstore.meta.client import MetaClient
from objstore.meta.commands import ChangeDisplaced
from objstore.meta.queries import BelowEntry, ListBelow
from objstore.meta.view import ClusterView
from objstore.repair.plan import Mend, holders_of, plan_mends
from objstore.repair.throttle import Throttle
from objstore.repair.worker import WorkerState

log = structlog.get_logger()

_PAGE = 64
_AT_ONCE = 2
_TIMEOUT_MS = 10_000


@attrs.define
class Mender:
    """Mends the chunks that the shards led by this node know to be damaged."""

    meta: MetaClient
    view: ClusterView
    chunks: ChunkClient
    slots_below: Callable[[], list[Slot]]  # Of led shards, with a row in the index.
    is_usable: Callable[[NodeId], bool]
    throttle: Throttle
    queued: int = 0  # Chunks the last round saw.

    async def work_once(self) -> WorkerState:
        """One pass over the led shards' indexes."""
        slots = self.slots_below()
        seen = mended = 0
        for slot in slots:
            entries = await self.meta.query(
                ListBelow(slots=(slot,), limit=_PAGE), timeout_ms=_TIMEOUT_MS
            )
            seen += len(entries)
            mended += await self._mend_entries(slot, entries)
        self.queued = max(0, seen - mended)
        metrics.REPAIR_QUEUE.set(self.queued)
        return WorkerState.BUSY if mended else WorkerState.IDLE

    async def _mend_entries(self, slot: Slot, entries: tuple[BelowEntry, ...]) -> int:
        mended = 0
        limiter = trio.CapacityLimiter(_AT_ONCE)

        async def mend(entry: BelowEntry) -> None:
            nonlocal mended
            async with limiter:
                mended += await self._mend_entry(slot, entry)

        async with trio.open_nursery() as nursery:
            for entry in entries:
                nursery.start_soon(mend, entry)
        return mended

    async def _mend_entry(self, slot: Slot, entry: BelowEntry) -> bool:
        """Whether anything of the chunk was mended."""
        scheme = Scheme.parse(entry.scheme)
        ring, newest = self.view.ring_at(entry.ref.epoch), self.view.ring
        mends = plan_mends(
            entry.ref,
            width=scheme.width,
            ring=ring,
            newest=newest,
            is_usable=self.is_usable,
        )
        done = False
        for mend in mends:
            try:
                if scheme.k != 1:
                    # Buckets are replicated only, until erasure coding is offered.
                    log.error("repair.scheme_not_built", chunk=entry.ref.chunk.hex())
                    return False
                done |= await self._mend(slot, entry, mend)
            except ObjstoreError as error:
                log.warning(
                    "repair.mend_failed",
                    chunk=entry.ref.chunk.hex(),
                    peer=mend.target,
                    reason=str(error),
                )
        return done

    async def _mend(self, slot: Slot, entry: BelowEntry, mend: Mend) -> bool:
        fragment = FragmentId(entry.ref.chunk, mend.index)
        await self._copy(entry, mend, fragment)
        command = ChangeDisplaced(slot, entry.place, ((mend.index, mend.found, mend.now),))
        try:
            await self.meta.propose(command, timeout_ms=_TIMEOUT_MS)
        except NotFound:
            await self.chunks.delete(mend.target, [fragment])
            return False
        log.info("repair.fragment_mended", fragment=str(fragment), peer=mend.target)
        metrics.REPAIR_REBUILT.inc()
        if mend.found is not None:
            await self.chunks.delete(NodeId(mend.found), [fragment])
        return True

    async def _copy(self, entry: BelowEntry, mend: Mend, fragment: FragmentId) -> None:
        """Make `fragment` on the target from the first source that can give it."""
        scheme = Scheme.parse(entry.scheme)
        ring = self.view.ring_at(entry.ref.epoch)
        holders = holders_of(entry.ref, ring.owners(entry.ref.chunk, scheme.width))
        problem: ObjstoreError = NoSuchFragment(f"nobody has chunk {entry.ref.chunk.hex()}")
        for source in mend.sources:
            index = mend.index if source == mend.found else holders.index(source)
            try:
                await self._copy_from(
                    source, FragmentId(entry.ref.chunk, index), mend.target, fragment
                )
            except (NotFound, CorruptData) as error:
                problem = error
                continue
            return
        raise problem

    async def _copy_from(
        self, source: NodeId, have: FragmentId, target: NodeId, fragment: FragmentId
    ) -> None:
        stat = (await self.chunks.stat(source, [have]))[0]
        if stat is None:
            raise NoSuchFragment(f"node {source} has no fragment {have}")
        header: FragmentHeader = attrs.evolve(stat.header, fragment=fragment)
        writer = await self.chunks.create(target, header)
        try:
            async for block in self.chunks.read(source, have, 0, header.payload_size):
                await trio.sleep(self.throttle.spend(len(block.data), trio.current_time()))
                await writer.append(block.data, block.crc32c)
            await writer.commit()
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(_TIMEOUT_MS / 1000):
                await writer.abort()
            raise
