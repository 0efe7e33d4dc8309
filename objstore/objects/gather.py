"""Gather: a range of one chunk, from any k of its fragments.

    k = 1    the nearest copy -----------x    next copy, from the same byte on
    k > 1    k fragments, stripe by stripe ---> decode ---> the bytes wanted

Nearest first: this node's own, then nodes that gossip calls alive (in an order that
differs by chunk, so that readers spread), then the rest.  When no block has come for
`read.hedge_after`, one more source is asked for it, and whoever answers first goes on.

Every block was verified by the store that read it and again on arrival, so what is yielded
is right, or the stream raises: when a source fails midway, the next one continues at the
byte where it stopped.  A fragment that is corrupt, or is not where it should be, is told to
`on_damage`; a node that does not answer is not damage.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import lru_cache
from typing import Protocol

import structlog
import trio

from objstore.buffer import Buffer
from objstore.chunks.client import BlockStream, ChunkClient, DamagedOnTheWay
from objstore.chunks.fragment import Block, FragmentOwner
from objstore.config import ReadConfig
from objstore.ec.codec import codec_for
from objstore.ec.scheme import Scheme
from objstore.errors import CorruptData, NotFound, ObjstoreError, Unavailable
from objstore.frozen import frozen
from objstore.host.threads import Threads
from objstore.ids import ChunkId, FragmentId, NodeId
from objstore.limits import BLOCK_SIZE
from objstore.meta.values import ChunkRef
from objstore.sums import crc32c

log = structlog.get_logger()

# A step that nobody has answered for so long fails: hedges were asked long before.
STEP_TIMEOUT_S = 30.0
_OWNER_TIMEOUT_S = 2.0
BLOCKS_AHEAD = 4  # What a stream may hold: for the memory budget.


scheme_of = lru_cache(maxsize=64)(Scheme.parse)


def memory_of(size: int) -> int:
    """Bytes that reading `size` of a chunk holds at most, for the memory budget."""
    return min(size, BLOCKS_AHEAD * BLOCK_SIZE)


@frozen
class FragmentDamage:
    """A fragment that `node` should have in good order, and has not."""

    ref: ChunkRef
    index: int
    node: NodeId
    reason: str  # "corrupt" | "missing"
    is_at_home: bool  # Whether `node` is the fragment's owner by the ring of its epoch.
    owner: FragmentOwner | None  # Of the chunk, as a good fragment says; None: unknown.


OnDamage = Callable[[FragmentDamage], None]


class NoGoodCopy(CorruptData):
    """Every fragment that could be asked is damaged or missing."""


class NoCopyReachable(Unavailable):
    """The fragments are on nodes that do not answer now."""


class Placement(Protocol):
    """What is needed of `ring.ring.Ring`."""

    def owners(self, chunk: ChunkId, width: int) -> tuple[NodeId | None, ...]: ...


@frozen
class _Source:
    """Where one fragment is said to be."""

    index: int
    node: NodeId
    is_at_home: bool


class Gather:
    """Reads chunks."""

    def __init__(
        self,
        *,
        chunks: ChunkClient,
        is_alive: Callable[[NodeId], bool],
        on_damage: OnDamage,
        config: ReadConfig,
        threads: Threads | None = None,
    ) -> None:
        """`threads`: for the arithmetic of k > 1; None: it is done inline."""
        self.chunks = chunks
        self.on_damage = on_damage
        self.hedge_s = config.hedge_after_ms / 1000
        self._is_alive = is_alive
        self._threads = threads

    def read_chunk(
        self,
        ref: ChunkRef,
        scheme: Scheme | str,
        *,
        ring: Placement,
        offset: int,
        size: int,
    ) -> ChunkStream:
        """Bytes [offset, offset + size) of the chunk, in pieces as they come.

        ring: of the chunk's epoch.
        For `async for`.  A step raises NoCopyReachable (Unavailable) or NoGoodCopy
        (CorruptData) where too few fragments can be had; what came before is right all
        the same.
        """
        assert min(offset, size) >= 0
        assert offset + size <= ref.size
        if isinstance(scheme, str):
            scheme = scheme_of(scheme)
        return ChunkStream(self, ref, scheme, ring, (offset, offset + size))

    async def decode(
        self, scheme: Scheme, fragments: Sequence[Buffer | None], size: int
    ) -> Buffer:
        """The stripe of `size` bytes that k fragments make."""
        codec = codec_for(scheme)
        if self._threads is None:
            return codec.decode(fragments, size)
        return await self._threads.run(codec.decode, fragments, size)

    def local_source(
        self, ref: ChunkRef, scheme: Scheme, ring: Placement
    ) -> _Source | None:
        """This node's own copy, of a chunk that nothing else is to be known of.

        It is the first of `sources`, and most often the only one that is asked.
        """
        if scheme.k > 1 or ref.displaced:
            return None
        owners = ring.owners(ref.chunk, scheme.width)
        node = self.chunks.node
        return _Source(owners.index(node), node, True) if node in owners else None

    def sources(self, ref: ChunkRef, scheme: Scheme, ring: Placement) -> list[_Source]:
        """All fragments that are somewhere, in the order in which to ask for them."""
        owners = ring.owners(ref.chunk, scheme.width)
        places: dict[int, NodeId | None] = dict(enumerate(owners))
        places |= {displaced.index: displaced.node for displaced in ref.displaced}
        sources = [
            _Source(index, node, node == owners[index])
            for index, node in places.items()
            if node is not None
        ]
        turn = crc32c(ref.chunk)

        def distance(source: _Source) -> tuple[bool, bool, bool, int]:
            return (
                source.node != self.chunks.node,
                not self._is_alive(source.node),
                # With k > 1 data fragments need no arithmetic.
                scheme.k > 1 and source.index >= scheme.k,
                (source.index + turn) % scheme.width,
            )

        return sorted(sources, key=distance)


class ChunkStream:
    """One read of a chunk: which streams are open, and which sources are left.

    A plain iterator and not a generator: it may be dropped anywhere.  What it has under
    way then ends by itself; `aclose` ends it at once.
    """

    def __init__(
        self,
        gather: Gather,
        ref: ChunkRef,
        scheme: Scheme,
        ring: Placement,
        wanted: tuple[int, int],
    ) -> None:
        self.ref = ref
        self.scheme = scheme
        self.streams: dict[_Source, BlockStream] = {}
        self._gather = gather
        self._ring = ring
        self._first = gather.local_source(ref, scheme, ring)
        self._left: list[_Source] | None = None  # Behind the first; None: not looked for.
        self._position, self._end = wanted  # In the chunk: what is still to be given.
        self._range = (0, 0)  # In a fragment: what a new stream is asked for.
        self._damaged: list[tuple[_Source, str]] = []  # Not told yet.
        self._failures: list[ObjstoreError] = []
        self.timed_out = False  # Somebody did not answer in time.
        self._opened: set[_Source] = set()
        self._tried_again: set[_Source] = set()

    def __aiter__(self) -> AsyncIterator[memoryview]:
        return self

    async def __anext__(self) -> memoryview:
        if self._position >= self._end:
            await self.aclose()
            raise StopAsyncIteration
        piece = await (self._next_copied() if self.scheme.k == 1 else self._next_decoded())
        self._position += len(piece)
        return piece

    async def aclose(self) -> None:
        """End what is under way."""
        for stream in self.streams.values():
            stream.close()
        self.streams.clear()
        self._end = self._position

    async def _next_copied(self) -> memoryview:
        self._range = (self._position, self._end)
        if not self.streams and self.open_next() is None:
            raise self._exhausted()
        block = await self._quick_step()
        if block is None:
            (block,) = (await self._race(hurry=True)).values()
        assert block.offset == self._position, "a stream jumped"
        return memoryview(block.data)

    async def _next_decoded(self) -> memoryview:
        """The rest of the stripe at hand: its fragments, decoded, cut to what is wanted."""
        number = self._position // BLOCK_SIZE
        start = number * BLOCK_SIZE
        size = min(BLOCK_SIZE, self.ref.size - start)
        last = min(-(-self._end // BLOCK_SIZE) * BLOCK_SIZE, self.ref.size)
        self._range = (
            number * self.scheme.fragment_size(BLOCK_SIZE),
            self.scheme.chunk_fragment_size(last, block_size=BLOCK_SIZE),
        )
        fragments: list[Buffer | None] = [None] * self.scheme.width
        for source, block in (await self._collect()).items():
            assert block.offset == self._range[0], "a stream jumped"
            if len(block.data) != self.scheme.fragment_size(size):
                raise NoGoodCopy(f"fragment {source.index} has blocks of another size")
            fragments[source.index] = block.data
        data = await self._gather.decode(self.scheme, fragments, size)
        return memoryview(data)[self._position - start : self._end - start]

    @property
    def hedge_s(self) -> float:
        return self._gather.hedge_s

    # ---- one step ---------------------------------------------------------------------

    async def _collect(self) -> dict[_Source, Block]:
        """The next block of k sources."""
        while len(self.streams) < self.scheme.k:
            if self.open_next() is None:
                raise self._exhausted()
        return await self._race(hurry=False)

    async def _race(self, *, hurry: bool) -> dict[_Source, Block]:
        """The next block of k sources; those that failed are replaced on the way.

        Streams beyond the k that answered first are closed.
        """
        blocks = await _Race(self, hurry=hurry).run()
        if len(blocks) < self.scheme.k:
            raise self._exhausted()
        for source in [source for source in self.streams if source not in blocks]:
            self.streams.pop(source).close()
        if self._damaged:
            await self._tell_damage(next(iter(blocks)))
        return blocks

    async def _quick_step(self) -> Block | None:
        """The usual case of copies without a nursery: the one stream answers in time."""
        ((source, stream),) = self.streams.items()
        try:
            if stream.is_ready:
                return await anext(stream)
            with trio.move_on_after(self._gather.hedge_s):
                return await anext(stream)
        except ObjstoreError as error:
            self.failed(source, error)
        return None

    def open_next(self) -> _Source | None:
        """Open a stream to the next source, if there is one."""
        source, self._first = self._first, None
        if source is None:
            left = self._others()
            if not left:
                return None
            source = left.pop(0)
        start, end = self._range
        self._opened.add(source)
        self.streams[source] = self._gather.chunks.read(
            source.node, FragmentId(self.ref.chunk, source.index), start, end - start
        )
        return source

    def _others(self) -> list[_Source]:
        """The sources that are left, but for the first."""
        if self._left is None:
            sources = self._gather.sources(self.ref, self.scheme, self._ring)
            self._left = [source for source in sources if source not in self._opened]
        return self._left

    def failed(self, source: _Source, error: ObjstoreError) -> None:
        """Take a source out, and remember what its failure means."""
        self.streams.pop(source).close()
        self._failures.append(error)
        log.info(
            "objects.source_failed",
            peer=source.node,
            chunk=self.ref.chunk.hex(),
            reason=str(error),
        )
        if isinstance(error, NotFound):
            self._damaged.append((source, "missing"))
        elif isinstance(error, CorruptData) and not isinstance(error, DamagedOnTheWay):
            self._damaged.append((source, "corrupt"))
        elif source not in self._tried_again:
            # A link lost, a frame garbled: once more, after all others.
            self._tried_again.add(source)
            self._others().append(source)

    def _exhausted(self) -> ObjstoreError:
        """What to raise when too few sources are left."""
        self._report(None)
        reasons = (
            "; ".join(str(error) for error in self._failures) or "no fragment is known"
        )
        text = f"chunk {self.ref.chunk.hex()}: {reasons}"
        damaged = (NotFound, CorruptData)
        is_damage = not self.timed_out and all(
            isinstance(e, damaged) for e in self._failures
        )
        if self._failures and is_damage:
            return NoGoodCopy(text)
        return NoCopyReachable(text)

    async def _tell_damage(self, good: _Source) -> None:
        """Report damage, with the chunk's owner as a good fragment's header names it."""
        owner: FragmentOwner | None = None
        fragment = FragmentId(self.ref.chunk, good.index)
        try:
            with trio.move_on_after(_OWNER_TIMEOUT_S):
                stat = (await self._gather.chunks.stat(good.node, [fragment]))[0]
                owner = None if stat is None else stat.header.owner
        except ObjstoreError as error:
            log.info("objects.owner_unknown", peer=good.node, reason=str(error))
        self._report(owner)

    def _report(self, owner: FragmentOwner | None) -> None:
        damaged, self._damaged = self._damaged, []
        for source, reason in damaged:
            self._gather.on_damage(
                FragmentDamage(
                    self.ref, source.index, source.node, reason, source.is_at_home, owner
                )
            )


class _Race:
    """One step of several streams: the first k blocks win.

    Another source is begun for each that fails, and one more each time that nothing
    came for the hedge's time.
    """

    def __init__(self, reading: ChunkStream, *, hurry: bool) -> None:
        """`hurry`: a hedge's time is over already."""
        self._reading = reading
        self._hurry = hurry
        self._wanted = reading.scheme.k
        self._blocks: dict[_Source, Block] = {}
        self._running = 0
        self._nursery: trio.Nursery

    async def run(self) -> dict[_Source, Block]:
        """The blocks that came; fewer than k where no source is left."""
        reading = self._reading
        is_waiting = bool(reading.streams)
        while len(reading.streams) < self._wanted and reading.open_next() is not None:
            pass
        with trio.move_on_after(STEP_TIMEOUT_S) as scope:
            async with trio.open_nursery() as self._nursery:
                for source in list(reading.streams):
                    self._begin(source)
                if self._hurry and is_waiting:
                    self._begin_another()
                self._nursery.start_soon(self._hedge)
                self._end_if_over()
        reading.timed_out |= scope.cancelled_caught
        return self._blocks

    def _begin(self, source: _Source) -> None:
        self._running += 1
        self._nursery.start_soon(self._pull, source, self._reading.streams[source])

    def _begin_another(self) -> bool:
        source = self._reading.open_next()
        if source is not None:
            self._begin(source)
        return source is not None

    async def _pull(self, source: _Source, stream: BlockStream) -> None:
        try:
            block = await anext(stream)
            if len(self._blocks) < self._wanted:
                self._blocks[source] = block
        except ObjstoreError as error:
            self._reading.failed(source, error)
            self._begin_another()
        self._running -= 1
        self._end_if_over()

    def _end_if_over(self) -> None:
        if len(self._blocks) >= self._wanted or self._running == 0:
            self._nursery.cancel_scope.cancel()

    async def _hedge(self) -> None:
        while True:
            await trio.sleep(self._reading.hedge_s)
            if not self._begin_another():
                return
