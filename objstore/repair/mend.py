"""The worker that mends known damage: missing fragments and stand-ins, of led shards.

    below-promise index (kept by commits)  ->  plan (pure)  ->  copy, fsynced
        -> ChangeDisplaced  ->  a stand-in's copy is deleted

Only after the row says that the fragment is elsewhere is a copy deleted, and only the one
that was there before: who sends the deletion may have slept, and the fragment have been
sent back meanwhile.  Where the answer did not come, or another mend came between, nothing
is.  Where the row is gone meanwhile, what was copied is deleted: a linearizable answer says
that nothing refers to it.  A copy that is left without a row (cancelled, cut off) is
garbage, for the search for orphans.

Rounds take turns, each of them ROUND_S at most:

    from the top     the most endangered first, by rank: what was damaged a moment ago is
                     seen soon, even while a million stand-ins go home
    from where the   so that the end of a long index is reached too, although what is
    last one ended   above it cannot be mended now

A chunk whose mend failed is left alone for a while (`repair.backoff`).
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import attrs
import structlog
import trio

from objstore import metrics
from objstore.chunks.client import BlockStream, ChunkClient, ChunkWriter, DamagedOnTheWay
from objstore.chunks.fragment import (
    Block,
    DriveFenced,
    FragmentStat,
    NoSuchFragment,
    RecordRef,
)
from objstore.ec.scheme import Scheme
from objstore.errors import (
    CorruptData,
    NotFound,
    ObjstoreError,
    OutOfSpace,
    Unavailable,
)
from objstore.ids import ChunkId, FragmentId, NodeId, ShardId, Slot
from objstore.limits import REPAIR_FAILURES_KEPT
from objstore.meta.client import MetaClient
from objstore.meta.commands import ChangeDisplaced
from objstore.meta.errors import NoSuchKey
from objstore.meta.queries import BelowEntry, ListBelow
from objstore.meta.view import ClusterView
from objstore.repair.backoff import Backoff
from objstore.repair.plan import Mend, Source, plan_mends, recorded_at
from objstore.repair.throttle import Throttle
from objstore.repair.worker import FATAL, STEP_TIMEOUT_S, WorkerState, within

log = structlog.get_logger()

ROUND_S = 5.0
_PAGE = 64
_AT_ONCE = 2
_TIMEOUT_MS = 10_000


@attrs.define
class _Sweep:
    """A pass over the index of some slots: the least rank first, wherever it is."""

    # (rank that comes next at the least, slot, cursor behind the last entry seen)
    places: list[tuple[int, Slot, bytes]]
    fragments: int = 0  # Seen.
    mended: int = 0

    @classmethod
    def over(cls, slots: Sequence[Slot]) -> _Sweep:
        return cls(sorted((0, slot, b"") for slot in slots))


class _SourceFailed(Exception):
    """A source could not give; another one may."""

    def __init__(self, error: ObjstoreError) -> None:
        super().__init__(str(error))
        self.error = error


@attrs.define
class Mender:
    """Mends the chunks that the shards led by this node know to be damaged."""

    meta: MetaClient
    view: ClusterView
    chunks: ChunkClient
    slots_below: Callable[[], list[Slot]]  # Of led shards, with a row in the index.
    is_usable: Callable[[NodeId], bool]  # Alive, and meant to hold data.
    throttle: Throttle
    is_alive: Callable[[NodeId], bool] | None = None  # May be copied from.
    queued: int = 0  # Fragments that wait, as the last round found.
    _cut_off: _Sweep | None = attrs.field(default=None, init=False)
    _is_next_from_top: bool = attrs.field(default=True, init=False)
    _failures: Backoff[ChunkId] = attrs.field(
        factory=lambda: Backoff(REPAIR_FAILURES_KEPT), init=False
    )
    # Nodes that did not answer, or are full: each chunk would wait for them anew.
    _nodes: Backoff[NodeId] = attrs.field(
        factory=lambda: Backoff(REPAIR_FAILURES_KEPT), init=False
    )

    async def work_once(self) -> WorkerState:
        """One round: from the top, or on from where one was cut off."""
        resumed = None if self._is_next_from_top else self._cut_off
        sweep = resumed or _Sweep.over(self.slots_below())
        mended_before = sweep.mended
        await self._run(sweep)
        is_complete = not sweep.places
        if is_complete:  # One from the top has also seen what the one cut off has not.
            self._cut_off = None
        elif self._cut_off is None:
            self._cut_off = sweep
        self._is_next_from_top = resumed is not None or self._cut_off is None
        waiting = sweep.fragments - sweep.mended
        self.queued = waiting if is_complete else max(self.queued, waiting)
        metrics.REPAIR_QUEUE.set(self.queued)
        is_busy = sweep.mended > mended_before or not self._is_next_from_top
        return WorkerState.BUSY if is_busy else WorkerState.IDLE

    async def _run(self, sweep: _Sweep) -> None:
        """Go on with a sweep until its end or for ROUND_S."""
        until = trio.current_time() + ROUND_S
        silent: set[ShardId] = set()
        while sweep.places and trio.current_time() < until:
            rank, slot, cursor = heapq.heappop(sweep.places)
            page = await self._page(slot, cursor, silent)
            if not page:
                continue
            found = _rank(page[0])
            if found > rank and sweep.places and found > sweep.places[0][0]:
                heapq.heappush(sweep.places, (found, slot, cursor))
                continue
            entries = [entry for entry in page if _rank(entry) == found]
            following = page[len(entries) :]
            following_rank = _rank(following[0]) if following else found
            heapq.heappush(sweep.places, (following_rank, slot, entries[-1].cursor))
            await self._mend_entries(sweep, slot, entries)

    async def _page(
        self, slot: Slot, cursor: bytes, silent: set[ShardId]
    ) -> Sequence[BelowEntry]:
        """The next entries of a slot; none where its shard does not answer."""
        shard = self.view.shard_of(slot)
        if shard in silent:
            return ()
        query = ListBelow(slots=(slot,), limit=_PAGE, after=cursor)
        try:
            page: Sequence[BelowEntry] = await self.meta.query(
                query, timeout_ms=_TIMEOUT_MS
            )
        except FATAL:
            raise
        except ObjstoreError as error:
            silent.add(shard)  # Its other slots would take as long.
            log.warning("repair.shard_silent", shard=shard, reason=str(error))
            return ()
        return page

    async def _mend_entries(
        self, sweep: _Sweep, slot: Slot, entries: Sequence[BelowEntry]
    ) -> None:
        limiter = trio.CapacityLimiter(_AT_ONCE)

        async def mend(entry: BelowEntry) -> None:
            async with limiter:  # Planned as late: meanwhile a node may have gone silent.
                if mends := self._plan(entry):
                    sweep.mended += await self._mend_entry(slot, entry, mends)

        async with trio.open_nursery() as nursery:
            for entry in entries:
                sweep.fragments += len(entry.ref.displaced)
                nursery.start_soon(mend, entry)

    def _plan(self, entry: BelowEntry) -> list[Mend]:
        """What can be done for a chunk now."""
        chunk = entry.ref.chunk
        if not self._failures.is_due(chunk, trio.current_time()):
            return []
        try:
            scheme = Scheme.parse(entry.scheme)
            if scheme.k != 1:  # Buckets are replicated only, until codes are offered.
                raise Unavailable(f"fragments of {entry.scheme} cannot be rebuilt yet")
            return plan_mends(
                entry.ref,
                width=scheme.width,
                ring=self.view.ring_at(entry.ref.epoch),
                newest=self.view.ring,
                may_take=lambda node: self.is_usable(node) and self._answers(node),
                may_give=lambda node: self._is_up(node) and self._answers(node),
            )
        except ObjstoreError as error:
            self._failed(entry, error)
        return []

    def _is_up(self, node: NodeId) -> bool:
        return (self.is_alive or self.is_usable)(node)

    def _answers(self, node: NodeId) -> bool:
        return self._nodes.is_due(node, trio.current_time())

    async def _mend_entry(self, slot: Slot, entry: BelowEntry, mends: list[Mend]) -> int:
        """How many fragments of the chunk were mended."""
        done = 0
        try:
            for mend in mends:
                done += await self._mend(slot, entry, mend)
        except FATAL:
            raise
        except Exception as error:  # One chunk's trouble is not the others'.
            self._failed(entry, error)
        else:
            self._failures.worked(entry.ref.chunk)
        return done

    def _failed(self, entry: BelowEntry, error: Exception) -> None:
        self._failures.failed(entry.ref.chunk, trio.current_time())
        is_bug = not isinstance(error, ObjstoreError)
        log.warning(
            "repair.mend_failed",
            chunk=entry.ref.chunk.hex(),
            reason=str(error) or type(error).__name__,
            exc_info=error if is_bug else None,
        )

    # ---- one fragment -----------------------------------------------------------------

    async def _mend(self, slot: Slot, entry: BelowEntry, mend: Mend) -> bool:
        fragment = FragmentId(entry.ref.chunk, mend.index)
        old = None if mend.found is None else await self._old_record(mend.found, fragment)
        await self._copy(slot, entry, mend, fragment)
        change = (mend.index, mend.found, mend.now)
        try:
            where = await self._record(slot, entry, change)
        except NoSuchKey:
            await self._drop_copy(mend.target, fragment)
            return False
        if where != mend.now:
            # Somebody else changed the row first.  What we copied may be wanted by the
            # next change already, so it is not deleted.
            log.info("repair.mend_overtaken", fragment=str(fragment), peer=mend.target)
            return False
        if not await self._is_there(slot, entry, mend):
            return False
        log.info("repair.fragment_mended", fragment=str(fragment), peer=mend.target)
        metrics.REPAIR_REBUILT.inc()
        if mend.found is not None:
            await self._drop_old(NodeId(mend.found), fragment, old)
        return True

    async def _is_there(self, slot: Slot, entry: BelowEntry, mend: Mend) -> bool:
        """Whether the target has what the row says of it; where it has not, it is told.

        The row may have gone forth and back while we slept, so that our change fitted it
        once more, and the target have lost our copy meanwhile.  Raises Unavailable where
        the target does not answer.
        """
        fragment = FragmentId(entry.ref.chunk, mend.index)
        if await self._record_of(mend.target, fragment) is not None:
            return True
        log.warning(
            "repair.damage_found",
            fragment=str(fragment),
            peer=mend.target,
            reason="what was copied to it is gone",
        )
        with suppress(NoSuchKey):
            await self._record(slot, entry, (mend.index, mend.now, None))
        return False

    async def _record(
        self, slot: Slot, entry: BelowEntry, change: tuple[int, str | None, str | None]
    ) -> str | None:
        """Change the row, and return where it says that the fragment is then.

        Raises NoSuchKey where nothing refers to the chunk any more.
        """
        command = ChangeDisplaced(slot, entry.place, (change,))
        displaced = await self.meta.propose(command, timeout_ms=_TIMEOUT_MS)
        return recorded_at(attrs.evolve(entry.ref, displaced=displaced), change[0])

    async def _record_of(self, node: NodeId, fragment: FragmentId) -> RecordRef | None:
        ask = partial(self.chunks.record_of, node, fragment)
        return await within(self.chunks, ask, what=f"node {node}")

    async def _old_record(self, node: str, fragment: FragmentId) -> RecordRef | None:
        """Where a stand-in has its copy, for `_drop_old`; None where it does not say."""
        try:
            return await self._record_of(NodeId(node), fragment)
        except FATAL:
            raise
        except ObjstoreError:
            return None

    async def _drop_old(
        self, node: NodeId, fragment: FragmentId, old: RecordRef | None
    ) -> None:
        """Delete the copy that was there before the row changed, and no other."""
        if old is None:
            self._left_behind(node, fragment, "it did not say where it has it")
            return
        delete = partial(self.chunks.delete_record, node, fragment, old)
        await self._drop(node, fragment, delete)

    async def _drop_copy(self, node: NodeId, fragment: FragmentId) -> None:
        """Delete a copy of a chunk that no row names any more."""
        await self._drop(node, fragment, partial(self.chunks.delete, node, [fragment]))

    async def _drop(
        self, node: NodeId, fragment: FragmentId, delete: Callable[[], Awaitable[None]]
    ) -> None:
        """Where this fails the copy is garbage."""
        try:
            await within(self.chunks, delete, what=f"node {node}")
        except FATAL:
            raise
        except ObjstoreError as error:
            self._left_behind(node, fragment, str(error))

    def _left_behind(self, node: NodeId, fragment: FragmentId, reason: str) -> None:
        log.info(
            "repair.fragment_left_behind",
            fragment=str(fragment),
            peer=node,
            reason=reason,
        )

    # ---- copying ----------------------------------------------------------------------

    async def _copy(
        self, slot: Slot, entry: BelowEntry, mend: Mend, fragment: FragmentId
    ) -> None:
        """Make `fragment` on the target from the first source that can give it."""
        problem: ObjstoreError = NoSuchFragment(f"nobody has chunk {entry.ref.chunk.hex()}")
        for source in mend.sources:
            if source.node == mend.target:
                continue
            try:
                await self._copy_from(entry, source, mend, fragment)
            except _SourceFailed as failed:
                problem = failed.error
                self._note_trouble(source.node, problem)
                await self._note_damage(slot, entry, source, problem)
            except ObjstoreError as error:
                self._note_trouble(mend.target, error)
                raise
            else:
                self._nodes.worked(source.node)
                self._nodes.worked(mend.target)
                return
        raise problem

    def _note_trouble(self, node: NodeId, error: ObjstoreError) -> None:
        if isinstance(error, Unavailable | OutOfSpace) and not isinstance(
            error, DriveFenced
        ):
            self._nodes.failed(node, trio.current_time())

    async def _copy_from(
        self, entry: BelowEntry, source: Source, mend: Mend, fragment: FragmentId
    ) -> None:
        have = FragmentId(entry.ref.chunk, source.index)
        stat = await self._stat(source.node, have)
        header = attrs.evolve(stat.header, fragment=fragment)
        stream = self.chunks.read(source.node, have, 0, header.payload_size)
        writer: ChunkWriter | None = None
        try:
            with _deadline(mend.target):
                # Space that is kept for this: what is missing may be the last copy's help.
                writer = await self.chunks.create(
                    mend.target, header, into_reserve=mend.found is None
                )
            while (block := await _next_block(stream)) is not None:
                await trio.sleep(self.throttle.spend(len(block.data), trio.current_time()))
                with _deadline(mend.target):
                    await writer.append(block.data, block.crc32c)
            with _deadline(mend.target):
                await writer.commit()
        except BaseException:
            if writer is not None:
                with trio.CancelScope(shield=True), trio.move_on_after(STEP_TIMEOUT_S):
                    await writer.abort()
            raise
        finally:
            stream.close()

    async def _stat(self, node: NodeId, have: FragmentId) -> FragmentStat:
        """Raises _SourceFailed, with the reason why the fragment cannot be had."""
        try:
            ask = partial(self.chunks.stat, node, [have])
            stat = (await within(self.chunks, ask, what=f"node {node}"))[0]
        except ObjstoreError as error:
            raise _SourceFailed(error) from error
        if stat is None:  # Gone, damaged, or on a fenced drive: a read tells which.
            stream = self.chunks.read(node, have, 0, 1)
            try:
                await _next_block(stream)
            finally:
                stream.close()
            raise _SourceFailed(Unavailable(f"node {node} does not describe {have}"))
        return stat

    async def _note_damage(
        self, slot: Slot, entry: BelowEntry, source: Source, error: ObjstoreError
    ) -> None:
        """Record that a source has not what the row says; a later round mends that too."""
        if isinstance(error, DamagedOnTheWay) or not isinstance(
            error, NotFound | CorruptData
        ):
            return
        found = recorded_at(entry.ref, source.index)
        if found is None:
            return
        log.warning(
            "repair.damage_found",
            fragment=str(FragmentId(entry.ref.chunk, source.index)),
            peer=source.node,
            reason=str(error),
        )
        try:
            await self._record(slot, entry, (source.index, found, None))
        except NoSuchKey:
            return


def _rank(entry: BelowEntry) -> int:
    return entry.cursor[0]


async def _next_block(stream: BlockStream) -> Block | None:
    """The next block, None at the end.  Raises _SourceFailed."""
    try:
        with _deadline(stream.node):
            return await anext(stream, None)
    except ObjstoreError as error:
        raise _SourceFailed(error) from error


@contextmanager
def _deadline(node: NodeId) -> Iterator[None]:
    """STEP_TIMEOUT_S for what is inside; then Unavailable."""
    with trio.move_on_after(STEP_TIMEOUT_S) as scope:
        yield
    if scope.cancelled_caught:
        raise Unavailable(f"node {node} did not answer in {STEP_TIMEOUT_S:.0f} s")
