"""The worker that frees what committed commands provably let go of, of led shards.

    Released row  -> old enough?  -> fragments deleted on every holder  -> row forgotten

A Released row names chunks that no row will ever refer to again; only those are freed.
Reads in progress get time: a row is old enough once its shard's cluster time had passed it
`delay` ago, by this process's own monotonic clock.  So no wall clock, however wrong, frees
anything early; a new leader begins to count anew.

The row goes when every holder has confirmed.  A holder that is away keeps it, and costs
others nothing: rows behind it are freed, and who has confirmed is not asked again.  One
that is no member any more is not waited for.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import attrs
import structlog
import trio

from objstore import metrics
from objstore.chunks.client import ChunkClient
from objstore.ec.scheme import Scheme
from objstore.errors import ObjstoreError
from objstore.ids import FragmentId, NodeId, ShardId, Slot
from objstore.limits import RELEASED_CONFIRMED_MAX, REPAIR_FAILURES_KEPT
from objstore.meta.client import MetaClient
from objstore.meta.commands import ForgetReleased
from objstore.meta.queries import ListReleased
from objstore.meta.values import ChunkRef, Released
from objstore.meta.view import ClusterView
from objstore.repair.backoff import Backoff
from objstore.repair.plan import holders_of
from objstore.repair.worker import FATAL, WorkerState, within

log = structlog.get_logger()

ROUND_S = 5.0
_PAGE = 64
_FRAGMENTS_AT_ONCE = 1000  # Of one round of deletions, over all nodes.
_TIMEOUT_MS = 10_000
_SAMPLES = 16  # Of a shard's time, over the delay.

_Place = tuple[NodeId, FragmentId]
_RowId = tuple[Slot, int]


@attrs.define
class Aging:
    """Which of a shard's rows are old: cluster times seen, and when.  Pure."""

    delay_s: float
    _seen: deque[tuple[float, int]] = attrs.field(factory=deque)  # (monotonic, cluster)
    _old_ms: int | None = None  # Cluster time that was passed `delay_s` ago.

    def note(self, now: float, cluster_ms: int) -> None:
        """Take that at `now` the shard's newest command was of `cluster_ms`."""
        if not self._seen or now - self._seen[-1][0] >= self.delay_s / _SAMPLES:
            self._seen.append((now, cluster_ms))
        while self._seen and now - self._seen[0][0] >= self.delay_s:
            self._old_ms = self._seen.popleft()[1]

    @property
    def before_ms(self) -> int | None:
        """Rows of an earlier cluster time than this are old; None: none is."""
        return None if self._old_ms is None else self._old_ms + 1


@attrs.frozen
class _Deletion:
    """A row whose chunks are being deleted."""

    row: _RowId
    places: tuple[_Place, ...]  # On members; all must confirm.
    also: tuple[_Place, ...]  # May have something: asked, not waited for.


@attrs.define
class Freer:
    """Frees what the shards led by this node have released."""

    meta: MetaClient
    view: ClusterView
    chunks: ChunkClient
    slots_released: Callable[[], list[Slot]]  # Of led shards, with a Released row.
    cluster_time_ms: Callable[[Slot], int]  # Of the newest command applied here.
    is_alive: Callable[[NodeId], bool]
    delay_ms: int
    _ages: dict[ShardId, Aging] = attrs.field(factory=dict, init=False)
    # Where a round ended for lack of time, and the row behind which it goes on.
    _resume: tuple[Slot, int] | None = attrs.field(default=None, init=False)
    # Rows that wait for somebody -> who has confirmed.  What is forgotten is asked again.
    _confirmed: OrderedDict[_RowId, set[NodeId]] = attrs.field(
        factory=OrderedDict, init=False
    )
    _nodes: Backoff[NodeId] = attrs.field(
        factory=lambda: Backoff(REPAIR_FAILURES_KEPT), init=False
    )

    async def work_once(self) -> WorkerState:
        """Free what is old, slot by slot, for ROUND_S; the next round goes on there."""
        until = trio.current_time() + ROUND_S
        silent: set[ShardId] = set()
        freed = 0
        resume = self._resume
        is_cut_off = False
        for slot in self._in_turn(self.slots_released(), resume):
            shard = self.view.shard_of(slot)
            before_ms = self._before_ms(shard, slot)
            if before_ms is None or shard in silent:
                continue
            after = resume[1] if resume is not None and resume[0] == slot else -1
            try:
                while trio.current_time() < until:
                    page = await self._page(slot, before_ms, after)
                    if not page:
                        break
                    freed += await self._free(slot, page)
                    after = page[-1].sequence
                else:
                    is_cut_off = True
            except FATAL:
                raise
            except ObjstoreError as error:
                silent.add(shard)  # Its other slots would take as long.
                log.warning("repair.shard_silent", shard=shard, reason=str(error))
            if is_cut_off:
                self._resume = (slot, after)
                return WorkerState.BUSY
        self._resume = None
        return WorkerState.BUSY if freed else WorkerState.IDLE

    @staticmethod
    def _in_turn(slots: Sequence[Slot], resume: tuple[Slot, int] | None) -> list[Slot]:
        """From the one where the last round ended, all the way round."""
        if resume is None:
            return sorted(slots)
        return sorted(slots, key=lambda slot: (slot < resume[0], slot))

    def _before_ms(self, shard: ShardId, slot: Slot) -> int | None:
        age = self._ages.setdefault(shard, Aging(self.delay_ms / 1000))
        age.note(trio.current_time(), self.cluster_time_ms(slot))
        return age.before_ms

    # ---- one slot ---------------------------------------------------------------------

    async def _page(self, slot: Slot, before_ms: int, after: int) -> Sequence[Released]:
        query = ListReleased(slot, before_ms, _PAGE, after)
        page: Sequence[Released] = await self.meta.query(query, timeout_ms=_TIMEOUT_MS)
        return page

    async def _free(self, slot: Slot, rows: Sequence[Released]) -> int:
        """How many of the rows are done with."""
        freed = 0
        for deletions in self._batches(slot, rows):
            freed += await self._carry_out(slot, deletions)
        return freed

    def _batches(self, slot: Slot, rows: Sequence[Released]) -> Iterator[list[_Deletion]]:
        batch: list[_Deletion] = []
        count = 0
        for row in rows:
            deletion = self._deletion(slot, row)
            if deletion is None:
                continue
            batch.append(deletion)
            count += len(deletion.places)
            if count >= _FRAGMENTS_AT_ONCE:
                yield batch
                batch, count = [], 0
        yield batch

    def _deletion(self, slot: Slot, row: Released) -> _Deletion | None:
        """None for a row that cannot be understood here: it stays, and others go on."""
        places: list[_Place] = []
        also: list[_Place] = []
        try:
            width = Scheme.parse(row.scheme).width
            for ref in row.chunks:
                places += self._places(ref, width)
                if not ref.size:
                    also += self._stand_ins(ref, width)
        except ObjstoreError as error:
            log.warning(
                "repair.row_not_understood",
                slot=slot,
                sequence=row.sequence,
                reason=str(error),
            )
            return None
        return _Deletion((slot, row.sequence), tuple(places), tuple(also))

    def _places(self, ref: ChunkRef, width: int) -> Iterator[_Place]:
        """Every (member, fragment) that may hold bytes of the chunk.

        For a displaced fragment both its owner and its stand-in are asked: a mend may
        have been cut off between copy and record.
        """
        owners = self.view.ring_at(ref.epoch).owners(ref.chunk, width)
        for index, pair in enumerate(zip(owners, holders_of(ref, owners), strict=True)):
            for node in dict.fromkeys(pair):
                if node is not None and self._is_member(node):
                    yield node, FragmentId(ref.chunk, index)

    def _stand_ins(self, ref: ChunkRef, width: int) -> Iterator[_Place]:
        """Where a write that was given up, and noted no places, may have tried too."""
        ring = self.view.ring_at(ref.epoch)
        for _, node in zip(range(width), ring.stand_ins(ref.chunk, width), strict=False):
            for index in range(width):
                yield node, FragmentId(ref.chunk, index)

    def _is_member(self, node: NodeId) -> bool:
        return self.view.layout.find(node) is not None

    # ---- deleting ---------------------------------------------------------------------

    async def _carry_out(self, slot: Slot, deletions: Sequence[_Deletion]) -> int:
        """Delete on all that can be asked; forget the rows that all have confirmed."""
        wanted: dict[NodeId, list[tuple[_RowId, FragmentId]]] = defaultdict(list)
        for deletion in deletions:
            confirmed = self._confirmed.get(deletion.row, set())
            for node, fragment in (*deletion.places, *deletion.also):
                if node not in confirmed and self._may_ask(node):
                    wanted[node].append((deletion.row, fragment))
        await self._delete(wanted)
        done = []
        for deletion in deletions:
            waiting = {node for node, _ in deletion.places}
            if waiting <= self._confirmed.get(deletion.row, set()):
                done.append(deletion.row[1])
        if done:
            await self.meta.propose(
                ForgetReleased(slot, tuple(done)), timeout_ms=_TIMEOUT_MS
            )
            for sequence in done:
                self._confirmed.pop((slot, sequence), None)
        return len(done)

    def _may_ask(self, node: NodeId) -> bool:
        return self.is_alive(node) and self._nodes.is_due(node, trio.current_time())

    async def _delete(self, wanted: dict[NodeId, list[tuple[_RowId, FragmentId]]]) -> None:
        """Delete on each node, and note who has confirmed."""

        async def delete(node: NodeId, asked: list[tuple[_RowId, FragmentId]]) -> None:
            fragments = [fragment for _, fragment in asked]
            work = partial(self.chunks.delete, node, fragments)
            try:
                await within(self.chunks, work, what=f"node {node}")
            except FATAL:
                raise
            except ObjstoreError as error:
                self._nodes.failed(node, trio.current_time())
                log.warning("repair.free_failed", peer=node, reason=str(error))
                return
            self._nodes.worked(node)
            metrics.REPAIR_FREED.inc(len(fragments))
            for row in {row for row, _ in asked}:
                self._confirm(row, node)

        async with trio.open_nursery() as nursery:
            for node, asked in sorted(wanted.items()):
                nursery.start_soon(delete, node, asked)

    def _confirm(self, row: _RowId, node: NodeId) -> None:
        self._confirmed.setdefault(row, set()).add(node)
        while len(self._confirmed) > RELEASED_CONFIRMED_MAX:
            self._confirmed.popitem(last=False)
