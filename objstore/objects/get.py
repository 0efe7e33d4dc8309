"""GetObject and HeadObject: a version, found once, and its bytes from there on.

`find_version` is the linearizable step.  A version is immutable, so everything after it
(ranges, parts, the stream) speaks of the same content, whatever happens to the key; freed
chunks stay for `repair.free_delay`, so a read under way ends well.

    Inline   bytes of the row
    Chunks   chunk after chunk through Gather
    Parts    spans, page after page (ReadSpans pins the version by its order)

A part-made version whose key is overwritten loses its part rows: a read that has yet to
ask for spans then fails with VersionReplaced, and its caller may find the version anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager

from objstore.errors import InvalidRequest, NotFound, Unavailable
from objstore.meta.errors import NoSuchKey
from objstore.meta.queries import GetVersion, ReadSpans
from objstore.meta.values import (
    Chunks,
    Draft,
    External,
    Inline,
    Parts,
    Span,
    Version,
)
from objstore.objects import gather
from objstore.objects.capability import Capability
from objstore.objects.gather import ChunkStream
from objstore.objects.store import Store

# One answer of part spans: a page covers most objects whole, so that a read seldom asks
# again for a version that may be gone by then; at some 100 bytes each it is a small answer.
_SPANS_PAGE = 1000

_READ_ACTIONS = ("s3:GetObject", "s3:GetObjectVersion")


class DeleteMarkerFound(NotFound):
    """The version asked for says that there is no object."""

    def __init__(self, message: str, *, version: Version) -> None:
        super().__init__(message)
        self.version = version


class NoSuchPart(InvalidRequest):
    """The object has no part of this number."""

    def __init__(self, message: str, *, part_count: int) -> None:
        super().__init__(message)
        self.part_count = part_count


class VersionReplaced(Unavailable):
    """The version went before its bytes were looked up: the key holds another by now."""


async def find_version(store: Store, capability: Capability) -> Version:
    """The current version of the capability's key, or the one it names.

    Raises NoSuchKey, NoSuchVersion, DeleteMarkerFound, NoSuchBucket, Unavailable.
    """
    version = await find_any_version(store, capability)
    if version.draft is None:
        raise DeleteMarkerFound("the version is a delete marker", version=version)
    return version


def find_any_version(store: Store, capability: Capability) -> Awaitable[Version]:
    """As `find_version`, but a delete marker is an answer."""
    capability.require(*_READ_ACTIONS)

    def attempt(newer: Capability) -> Awaitable[Version]:
        slot, ref, key = store.place_of(newer)
        return store.query(GetVersion(slot, ref, key, newer.version_id))

    return store.fenced(capability, attempt)


def draft_of(version: Version) -> Draft:
    """What a version that is not a delete marker holds."""
    assert version.draft is not None
    return version.draft


def part_count_of(version: Version) -> int | None:
    """How many parts a version was completed from; None: it is no multipart object."""
    location = draft_of(version).location
    return location.part_count if isinstance(location, Parts) else None


async def find_part(
    store: Store, capability: Capability, version: Version, number: int
) -> Span:
    """Where part `number` lies in the object; an object without parts is its part 1.

    Raises NoSuchPart.
    """
    draft = draft_of(version)
    location = draft.location
    if isinstance(location, Parts):
        try:
            spans = await _read_spans(store, capability, version, part_number=number)
        except VersionReplaced:
            # The same error says that there is no such part, while the version is there.
            current = await find_version(store, capability)
            if current.order != version.order:
                raise
            raise NoSuchPart(f"no part {number}", part_count=location.part_count) from None
        return spans[0]
    if number != 1:
        raise NoSuchPart(f"no part {number}", part_count=1)
    assert not isinstance(location, External)
    return Span(0, draft.size, location)


async def _read_spans(
    store: Store,
    capability: Capability,
    version: Version,
    *,
    offset: int = 0,
    size: int = 0,
    part_number: int | None = None,
) -> tuple[Span, ...]:
    async def attempt(newer: Capability) -> tuple[Span, ...]:
        spans: tuple[Span, ...] = await store.query(
            ReadSpans(
                slot=store.slot_of(newer.record, newer.object_key),
                ref=newer.ref,
                key=newer.object_key,
                order=version.order,
                offset=offset,
                size=size,
                part_number=part_number,
                spans_max=_SPANS_PAGE,
            )
        )
        return spans

    try:
        return await store.fenced(capability, attempt)
    except NoSuchKey as error:
        raise VersionReplaced("the version was replaced meanwhile") from error


def inline_bytes(version: Version) -> bytes | None:
    """The version's bytes, where they came with it."""
    location = draft_of(version).location
    return location.data if isinstance(location, Inline) else None


def read(
    store: Store,
    capability: Capability,
    version: Version,
    *,
    offset: int,
    size: int,
    is_budgeted: bool = False,
) -> Reading:
    """Bytes [offset, offset + size) of the version, in pieces as they come.

    is_budgeted: the caller holds `memory_of` for it already.
    To be closed (`aclosing`) by who does not exhaust it.  A step raises before the last
    byte where the bytes cannot be had: CorruptData, Unavailable, VersionReplaced.
    """
    capability.require(*_READ_ACTIONS)
    draft = draft_of(version)
    assert min(offset, size) >= 0
    assert offset + size <= draft.size
    location = draft.location
    budget = None if is_budgeted else store.budget.hold(gather.memory_of(size))
    if isinstance(location, Inline):
        return Reading(_Located(store, location, offset, size), None)
    if isinstance(location, Parts):
        return Reading(_Parts(store, capability, version, offset, size), budget)
    if isinstance(location, Chunks):
        return Reading(_Located(store, location, offset, size), budget)
    raise Unavailable(f"{location.target} is a tier that this build cannot read")


class Reading(AsyncGenerator[memoryview, None]):
    """The bytes of a version on their way.

    As an async generator is used, but it may be dropped once it has ended, and is none:
    one costs trio, which keeps a list of them, as much as the read of a small range.
    """

    def __init__(
        self, pieces: _Located | _Parts, budget: AbstractAsyncContextManager[None] | None
    ) -> None:
        """`budget`: to be held from the first step on; None: it is held."""
        self._pieces: _Located | _Parts | None = pieces
        self._budget = budget
        self._is_held = False
        self._unread: memoryview | None = None

    def unread(self, piece: memoryview) -> None:
        """Take a piece back: the next step gives it again."""
        self._unread = piece

    async def __anext__(self) -> memoryview:
        if self._pieces is None:
            raise StopAsyncIteration
        if self._unread is not None:
            unread, self._unread = self._unread, None
            return unread
        try:
            if self._budget is not None and not self._is_held:
                await self._budget.__aenter__()
                self._is_held = True
            piece = await self._pieces.next()
        except BaseException:
            await self.aclose()
            raise
        if piece is None:
            await self.aclose()
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """End it, and let go of what is held for it."""
        pieces, self._pieces, self._unread = self._pieces, None, None
        if pieces is not None:
            await pieces.aclose()
        if self._is_held:
            assert self._budget is not None
            self._is_held = False
            await self._budget.__aexit__(None, None, None)

    async def asend(self, value: None) -> memoryview:  # noqa: ARG002
        return await self.__anext__()

    async def athrow(self, *_: object) -> memoryview:
        await self.aclose()
        raise StopAsyncIteration


def memory_of(version: Version, size: int) -> int:
    """Bytes that reading `size` of the version holds at most, for the memory budget."""
    return 0 if isinstance(draft_of(version).location, Inline) else gather.memory_of(size)


class _Located:
    """Bytes of one location, from `offset` on."""

    def __init__(
        self, store: Store, location: Inline | Chunks, offset: int, size: int
    ) -> None:
        self._store = store
        self._location = location
        self._offset = offset  # Of what is left, from the chunk `_next` on.
        self._size = size
        self._next = 0
        self._stream: ChunkStream | None = None

    async def next(self) -> memoryview | None:
        """The next piece; None at the end."""
        if isinstance(self._location, Inline):
            start, size = self._offset, self._size
            self._size = 0
            return memoryview(self._location.data)[start : start + size] if size else None
        while True:
            if self._stream is not None:
                piece = await anext(self._stream, None)
                if piece is not None:
                    return piece
                self._stream = None
            if not self._size:
                return None
            ref = self._location.chunks[self._next]
            self._next += 1
            wanted = min(ref.size - self._offset, self._size)
            if wanted <= 0:
                self._offset -= ref.size
                continue
            self._stream = self._store.gather.read_chunk(
                ref,
                self._location.scheme,
                ring=await self._store.ring_of(ref.epoch),
                offset=self._offset,
                size=wanted,
            )
            self._offset = 0
            self._size -= wanted

    async def aclose(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()


class _Parts:
    """Bytes of an object of parts: of its spans, a page of which is asked for at a time."""

    def __init__(
        self, store: Store, capability: Capability, version: Version, offset: int, size: int
    ) -> None:
        self._store = store
        self._capability = capability
        self._version = version
        self._offset = offset  # In the object: behind what the span at hand gives.
        self._end = offset + size
        self._spans: deque[Span] = deque()
        self._span: _Located | None = None

    async def next(self) -> memoryview | None:
        while True:
            if self._span is not None:
                piece = await self._span.next()
                if piece is not None:
                    return piece
                self._span = None
            if self._offset >= self._end:
                return None
            if not self._spans:
                spans = await _read_spans(
                    self._store,
                    self._capability,
                    self._version,
                    offset=self._offset,
                    size=self._end - self._offset,
                )
                assert spans, "a version has no byte at an offset below its size"
                self._spans.extend(spans)
            span = self._spans.popleft()
            skipped = self._offset - span.offset
            wanted = min(span.size - skipped, self._end - self._offset)
            if wanted > 0:
                self._span = _Located(self._store, span.location, skipped, wanted)
                self._offset += wanted

    async def aclose(self) -> None:
        if self._span is not None:
            await self._span.aclose()
