"""Scatter: one chunk on its way to its owners.

    blocks --> codec --> a lane per place --> writer on the owner, or on a stand-in
                          queue of two         create, append ..., commit (fsynced)

Every lane gets every block at once; the slowest sets the pace, until it is a straggler.
A place whose owner fails, or is silent for `write.straggler_timeout`, is given a stand-in:

    before it begins     gossip says the owner is dead: the stand-in is the first choice
    early                the lane still has all blocks that it was given (the first
                         BLOCKS_KEPT of a chunk): they are sent again to the stand-in.
                         Chunks of one block, the most by far, are always in this case
    later                the lane is given up; once the others have committed, the stand-in
                         gets a copy, read from one of them.  With k > 1 that would be a
                         reconstruction: the fragment is left missing, repair rebuilds it

Silence after silence ends too: what is not durable GIVE_UP_S after the last block (and a
time for the chunk's size) is given up, stand-ins and copies included.  With a quorum by
then, the rest is missing; without, the write has failed.  Where the request has waited for
metadata already there is less, but time for one straggler.

So memory stays a few blocks a chunk, whatever fails.  A place that nobody could fill is
*missing* in the ChunkRef: the commit makes that known (`below promise`), repair mends it.
Below the write quorum all is given up: Unavailable, or OutOfSpace where that was why.

A lane that was given up may commit all the same (a call whose answer was lost): then an
owner has a fragment that the ChunkRef calls missing.  It is overwritten by the repair.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import structlog
import trio

from objstore.chunks.client import ChunkClient, ChunkWriter
from objstore.chunks.fragment import FragmentHeader, FragmentOwner
from objstore.config import WriteConfig
from objstore.ec.codec import codec_for
from objstore.ec.scheme import Scheme
from objstore.errors import ObjstoreError, OutOfSpace, Unavailable
from objstore.frozen import frozen
from objstore.host.clock import Clock
from objstore.host.threads import Threads
from objstore.ids import ChunkId, Epoch, FragmentId, NodeId
from objstore.limits import BLOCK_SIZE
from objstore.meta.values import ChunkRef, Displaced
from objstore.objects import patience
from objstore.objects.channels import take
from objstore.sums import Summed, Sums
from objstore.units import MiB

log = structlog.get_logger()

QUEUE_BLOCKS = 2  # Per lane; the blocks themselves are shared by all lanes (k = 1).
BLOCKS_KEPT = 1  # Of a chunk's beginning, to be sent again to a stand-in.
# All that owners and stand-ins get after a chunk's last block, beside a time for its size;
# and a silent one before that, where no stand-in helps and the quorum hangs on it.  Two
# stragglers in turn: more, and a client would wait longer than its ten seconds.
GIVE_UP_S = 6.0
# Bytes a second.  A copy to a stand-in that is slower leaves the fragment to repair.
COPY_RATE = 8 * MiB


class TooFewOwners(Unavailable):
    """Too few fragments of a chunk became durable."""

    def __init__(self, message: str, *, needed: int, answered: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.answered = answered


class Silent(Unavailable):
    """An owner took longer than `write.straggler_timeout`."""


class Placement(Protocol):
    """What is needed of `ring.ring.Ring`."""

    @property
    def epoch(self) -> Epoch: ...

    def owners(self, chunk: ChunkId, width: int) -> tuple[NodeId | None, ...]: ...

    def stand_ins(
        self, chunk: ChunkId, width: int, *, without: tuple[NodeId, ...] = ()
    ) -> Iterator[NodeId]: ...


def memory_of(size: int) -> int:
    """Bytes that writing a chunk of `size` holds at most, for the memory budget."""
    blocks = BLOCKS_KEPT + QUEUE_BLOCKS + 4  # Two on their way, one held, one coming.
    return min(size, blocks * BLOCK_SIZE)


class _StandIns:
    """Nodes that may stand in, alive and best first, each given out once."""

    def __init__(self, nodes: Iterator[NodeId]) -> None:
        self._nodes = nodes
        self._next: NodeId | None = None

    def is_empty(self) -> bool:
        if self._next is None:
            self._next = next(self._nodes, None)
        return self._next is None

    def take(self) -> NodeId | None:
        if self.is_empty():
            return None
        node, self._next = self._next, None
        return node


@frozen(kw_only=True)
class _Write:
    """One chunk being written, as all its lanes see it."""

    chunk: ChunkId
    size: int
    scheme: Scheme
    owner: FragmentOwner
    created_ms: int
    stand_ins: _StandIns
    floor: int  # The write quorum.
    give_up_s: float  # What owners and stand-ins get after the last block.

    def header(self, index: int) -> FragmentHeader:
        return FragmentHeader(
            fragment=FragmentId(self.chunk, index),
            owner=self.owner,
            scheme=self.scheme.written,
            payload_size=self.scheme.chunk_fragment_size(self.size, block_size=BLOCK_SIZE),
            block_size=self.scheme.fragment_size(BLOCK_SIZE),
            created_ms=self.created_ms,
        )


class _Lane:
    """The way of one fragment to one node, or to another in its place."""

    def __init__(
        self, write: _Write, chunks: ChunkClient, index: int, node: NodeId
    ) -> None:
        self.index = index
        self.node = node
        self.is_durable = False
        self.is_done = False  # Durable, or given up.
        self.error: ObjstoreError | None = None  # Of the last node that was tried.
        # When the node was asked for what it has not answered yet; None: it waits for us.
        self.asked_at: float | None = None
        self._write = write
        self._chunks = chunks
        self._sender, self._receiver = trio.open_memory_channel[Summed](QUEUE_BLOCKS)
        self._kept: list[Summed] | None = []  # None: a block is gone for good.
        self._attempt = trio.CancelScope()
        self._next: NodeId | None = None  # The stand-in to go on with.
        self._is_over = False  # Given up, and nobody stands in.

    @property
    def is_possible(self) -> bool:
        """Whether the fragment is durable, or may still become so."""
        return self.is_durable or not (self.is_done or self._is_over)

    @property
    def may_be_replaced(self) -> bool:
        """Whether a stand-in can have all blocks, those given so far too."""
        return self._kept is not None and not self._write.stand_ins.is_empty()

    async def run(self) -> None:
        """Bring the fragment to its node, or to a stand-in, or note why not."""
        try:
            while not await self._try_node():
                if self._next is None and self.may_be_replaced and not self._is_over:
                    self._next = self._write.stand_ins.take()
                if self._next is None:
                    return
                self.node, self._next = self._next, None
        finally:
            self._receiver.close()
            self._kept = None
            self.is_done = True

    async def _try_node(self) -> bool:
        self._attempt = trio.CancelScope()
        writer: ChunkWriter | None = None
        try:
            with self._attempt:
                self.asked_at = trio.current_time()
                header = self._write.header(self.index)
                writer = await self._chunks.create(self.node, header)
                for kept in list(self._kept or ()):
                    await self._append(writer, kept)
                self.asked_at = None
                while (block := await take(self._receiver)) is not None:
                    self._keep(block)
                    await self._append(writer, block)
                self.asked_at = trio.current_time()
                await writer.commit()
                self.is_durable = True
                return True
            self.error = Silent(f"node {self.node} is too slow")
        except ObjstoreError as error:
            self.error = error
        except trio.Cancelled:
            self.error = self.error or Silent(f"node {self.node} is too slow")
            raise
        finally:
            self.asked_at = None
            if writer is not None and not self.is_durable:
                with trio.CancelScope(shield=True):
                    await writer.abort()  # It only begins it, and waits for nobody.
        log.warning(
            "objects.owner_failed",
            peer=self.node,
            chunk=self._write.chunk.hex(),
            reason=str(self.error),
        )
        return False

    async def _append(self, writer: ChunkWriter, block: Summed) -> None:
        self.asked_at = trio.current_time()
        await writer.append(block.data, sums=block.sums)
        self.asked_at = None

    def _keep(self, block: Summed) -> None:
        if self._kept is None:
            return
        if len(self._kept) == BLOCKS_KEPT:
            self._kept = None
        else:
            self._kept.append(block)

    # The feeder's side.

    def offer(self, block: Summed) -> bool:
        """Queue `block`, unless the queue is full.  A lane given up takes all."""
        try:
            self._sender.send_nowait(block)
        except trio.WouldBlock:
            return False
        except trio.BrokenResourceError:
            pass
        return True

    async def push(self, block: Summed) -> None:
        """Queue `block` as soon as there is room, or the lane is given up."""
        try:
            await self._sender.send(block)
        except trio.BrokenResourceError:
            return

    def close(self) -> None:
        self._sender.close()

    def give_up_node(self) -> None:
        """End what the node is asked for; the lane goes on with a stand-in, if it can."""
        self.asked_at = None
        self._next = self._write.stand_ins.take() if self.may_be_replaced else None
        self._is_over = self._next is None
        self._attempt.cancel()


class Scatter:
    """Writes chunks."""

    def __init__(
        self,
        *,
        chunks: ChunkClient,
        is_alive: Callable[[NodeId], bool],
        clock: Clock,
        config: WriteConfig,
        threads: Threads | None = None,
    ) -> None:
        """`threads`: for the arithmetic of k > 1; None: it is done inline."""
        self._chunks = chunks
        self._is_alive = is_alive
        self._clock = clock
        self._threads = threads
        self._patience_s = config.straggler_timeout_ms / 1000
        self._watched: dict[int, tuple[list[_Lane], _Write]] = {}  # Under way.
        self._numbers = itertools.count()
        self._is_watching = False

    async def write_chunk(
        self,
        chunk: ChunkId,
        size: int,
        blocks: AsyncIterable[Summed],
        *,
        ring: Placement,
        scheme: Scheme | str,
        owner: FragmentOwner,
    ) -> ChunkRef:
        """Write a chunk; at least a write quorum of its fragments is durable on return.

        blocks: `size` bytes in all, BLOCK_SIZE each, the last what remains; none of them
            may change afterwards.
        Raises TooFewOwners (Unavailable), OutOfSpace, and what `blocks` raises.  If that
        happens, or it is cancelled, what was begun is aborted; fragments that were
        committed by then are deleted where that is possible, else they are garbage.
        """
        assert size > 0
        if isinstance(scheme, str):
            scheme = Scheme.parse(scheme)
        owners = ring.owners(chunk, scheme.width)
        present = [node for node in owners if node is not None]
        dead = tuple(node for node in present if not self._is_alive(node))
        stand_ins = ring.stand_ins(chunk, scheme.width, without=dead)
        write = _Write(
            chunk=chunk,
            size=size,
            scheme=scheme,
            owner=owner,
            created_ms=self._clock.utc_now_ms(),
            stand_ins=_StandIns(node for node in stand_ins if self._is_alive(node)),
            floor=scheme.write_quorum(len(present)),
            give_up_s=self._give_up_s(size),
        )
        lanes = self._lanes(write, owners, dead)
        try:
            deadline = await self._run(lanes, write, blocks)
            durable = [lane for lane in lanes if lane.is_durable]
            if len(durable) < write.floor:
                raise _too_few(lanes, write)
        except BaseException:
            self._forget(lanes, write)
            raise
        homes = {lane.index: lane.node for lane in durable}
        failed = [lane.index for lane in lanes if not lane.is_durable]
        if failed and scheme.k == 1:
            homes |= await self._copy_all(write, failed, durable[0], deadline)
        return ChunkRef(chunk, size, ring.epoch, _displaced(owners, homes))

    def _give_up_s(self, size: int) -> float:
        left_s = GIVE_UP_S - patience.spent_s()
        return max(self._patience_s, left_s) + size / COPY_RATE

    def _lanes(
        self, write: _Write, owners: tuple[NodeId | None, ...], dead: tuple[NodeId, ...]
    ) -> list[_Lane]:
        """A lane for each place that somebody can be asked to fill."""
        lanes: list[_Lane] = []
        spare: list[_Lane] = []
        for index, owner in enumerate(owners):
            if owner is None:
                continue
            node = owner if owner not in dead else write.stand_ins.take()
            lane = _Lane(write, self._chunks, index, node or owner)
            (spare if node is None else lanes).append(lane)
        if len(lanes) < write.floor:
            lanes += spare  # Gossip may be wrong, and there is nothing to lose.
        return lanes

    async def _run(
        self, lanes: list[_Lane], write: _Write, blocks: AsyncIterable[Summed]
    ) -> float:
        """Bring all blocks to all lanes; the trio time at which the write must be over."""
        failure: Exception | None = None
        number = self._watch(lanes, write)
        try:
            async with trio.open_nursery() as nursery:
                for lane in lanes:
                    nursery.start_soon(lane.run)
                try:
                    await self._feed(lanes, write, blocks)
                    deadline = trio.current_time() + write.give_up_s
                    nursery.cancel_scope.deadline = deadline
                except Exception as error:
                    # Raised outside, so that it does not come in an ExceptionGroup.
                    failure = error
                    nursery.cancel_scope.cancel()
        finally:
            del self._watched[number]
        if failure is not None:
            raise failure
        if nursery.cancel_scope.cancelled_caught:
            durable = sum(lane.is_durable for lane in lanes)
            log.warning("objects.chunk_cut_short", chunk=write.chunk.hex(), durable=durable)
        return deadline

    async def _feed(
        self, lanes: list[_Lane], write: _Write, blocks: AsyncIterable[Summed]
    ) -> None:
        left = write.size
        async for block in blocks:
            size = len(block.data)
            assert size == min(left, BLOCK_SIZE), "blocks do not add up"
            left -= size
            payloads = await self._encode(write.scheme, block)
            full = [lane for lane in lanes if not lane.offer(payloads[lane.index])]
            for lane in full:
                await lane.push(payloads[lane.index])
            if _possible(lanes) < write.floor:
                raise _too_few(lanes, write)
        assert left == 0, "blocks do not add up"
        for lane in lanes:
            lane.close()

    async def _encode(self, scheme: Scheme, block: Summed) -> Sequence[Summed]:
        """The block as each fragment has it."""
        if scheme.k == 1:
            return [block] * scheme.width
        codec, data = codec_for(scheme), block.data
        if self._threads is None:
            payloads = codec.encode(data)
        else:
            payloads = await self._threads.run(codec.encode, data)
        return [Summed(payload, Sums.of(payload)) for payload in payloads]

    def _watch(self, lanes: list[_Lane], write: _Write) -> int:
        """Have the watcher look at a write; its number among those under way."""
        if not self._is_watching:  # One for all, as most writes end before its first look.
            self._chunks.start(self._serve_watch)
            self._is_watching = True
        number = next(self._numbers)
        self._watched[number] = lanes, write
        return number

    async def _serve_watch(self) -> None:
        try:
            while self._watched:
                await trio.sleep(self._patience_s / 4)
                for lanes, write in list(self._watched.values()):
                    self._look_at(lanes, write)
        finally:
            self._is_watching = False

    def _look_at(self, lanes: list[_Lane], write: _Write) -> None:
        """Give up nodes that are silent, as far as the write can do without them."""
        now = trio.current_time()
        silent = [
            (now - lane.asked_at, lane) for lane in lanes if lane.asked_at is not None
        ]
        for silent_s, lane in sorted(silent, key=lambda entry: -entry[0]):
            if silent_s < self._patience_s:
                continue
            can_spare = lane.may_be_replaced or _possible(lanes) > write.floor
            if can_spare or silent_s > write.give_up_s:
                lane.give_up_node()

    # ---- afterwards -------------------------------------------------------------------

    async def _copy_all(
        self, write: _Write, failed: list[int], source: _Lane, deadline: float
    ) -> dict[int, NodeId]:
        """Copies on stand-ins for places whose lane was given up midway; who has them."""
        homes: dict[int, NodeId] = {}
        limit = trio.current_time() + self._patience_s + write.size / COPY_RATE
        with trio.CancelScope(deadline=min(limit, deadline)):
            async with trio.open_nursery() as nursery:
                for index in failed:
                    nursery.start_soon(self._copy, write, index, source, homes)
        return homes

    async def _copy(
        self, write: _Write, index: int, source: _Lane, homes: dict[int, NodeId]
    ) -> None:
        header = write.header(index)
        have = FragmentId(write.chunk, source.index)
        while (node := write.stand_ins.take()) is not None:
            writer: ChunkWriter | None = None
            stream = self._chunks.read(source.node, have, 0, header.payload_size)
            try:
                writer = await self._chunks.create(node, header)
                async for block in stream:
                    await writer.append(block.data, block.crc32c)
                await writer.commit()
            except ObjstoreError as error:
                log.warning("objects.copy_failed", peer=node, reason=str(error))
            else:
                homes[index] = node
                return
            finally:
                stream.close()
                if writer is not None and index not in homes:
                    with trio.CancelScope(shield=True):
                        await writer.abort()

    def _forget(self, lanes: list[_Lane], write: _Write) -> None:
        """Have the fragments deleted that were committed in vain; nobody waits for it."""
        for lane in lanes:
            if lane.is_durable:
                fragment = FragmentId(write.chunk, lane.index)
                with contextlib.suppress(Unavailable):
                    self._chunks.start(partial(self._delete, lane.node, fragment))

    async def _delete(self, node: NodeId, fragment: FragmentId) -> None:
        try:
            await self._chunks.delete(node, [fragment])
        except ObjstoreError as error:
            log.info("objects.fragment_left_behind", peer=node, reason=str(error))


def _possible(lanes: list[_Lane]) -> int:
    """How many fragments are durable or may still become so."""
    return sum(lane.is_possible for lane in lanes)


def _too_few(lanes: list[_Lane], write: _Write) -> ObjstoreError:
    answered = sum(lane.is_durable for lane in lanes)
    reasons = "; ".join(str(lane.error) for lane in lanes if lane.error is not None)
    text = f"chunk {write.chunk.hex()}: {answered} of {write.floor} fragments: {reasons}"
    if any(isinstance(lane.error, OutOfSpace) for lane in lanes):
        return OutOfSpace(text)
    return TooFewOwners(text, needed=write.floor, answered=answered)


def _displaced(
    owners: tuple[NodeId | None, ...], homes: dict[int, NodeId]
) -> tuple[Displaced, ...]:
    """What the ring does not say: stand-ins, and fragments that are missing."""
    return tuple(
        Displaced(index, homes.get(index))
        for index, owner in enumerate(owners)
        if owner is None or homes.get(index) != owner
    )
