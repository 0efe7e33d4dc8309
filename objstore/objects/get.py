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

from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, aclosing

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
    capability.require(*_READ_ACTIONS)

    def attempt(newer: Capability) -> Awaitable[Version]:
        slot, ref, key = store.place_of(newer)
        return store.query(GetVersion(slot, ref, key, newer.version_id))

    version = await store.fenced(capability, attempt)
    if version.draft is None:
        raise DeleteMarkerFound("the version is a delete marker", version=version)
    return version


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


async def read(
    store: Store,
    capability: Capability,
    version: Version,
    *,
    offset: int,
    size: int,
    is_budgeted: bool = False,
) -> AsyncGenerator[memoryview, None]:
    """Yield bytes [offset, offset + size) of the version, in pieces as they come.

    is_budgeted: the caller holds `memory_of` for it already.
    To be closed (`aclosing`) by who does not exhaust it.  Raises before the last byte
    where the bytes cannot be had: CorruptData, Unavailable, VersionReplaced.
    """
    capability.require(*_READ_ACTIONS)
    draft = draft_of(version)
    assert min(offset, size) >= 0
    assert offset + size <= draft.size
    location = draft.location
    if isinstance(location, Inline):
        yield memoryview(location.data)[offset : offset + size]
        return
    if isinstance(location, Parts):
        pieces = _read_parts(store, capability, version, offset, size)
    elif isinstance(location, Chunks):
        pieces = _read_location(store, location, offset, size)
    else:
        raise Unavailable(f"{location.target} is a tier that this build cannot read")
    async with AsyncExitStack() as stack:
        if not is_budgeted:
            await stack.enter_async_context(store.budget.hold(gather.memory_of(size)))
        await stack.enter_async_context(aclosing(pieces))
        async for piece in pieces:
            yield piece


def memory_of(version: Version, size: int) -> int:
    """Bytes that reading `size` of the version holds at most, for the memory budget."""
    return 0 if isinstance(draft_of(version).location, Inline) else gather.memory_of(size)


async def _read_parts(
    store: Store, capability: Capability, version: Version, offset: int, size: int
) -> AsyncGenerator[memoryview, None]:
    end = offset + size
    while offset < end:
        spans = await _read_spans(
            store, capability, version, offset=offset, size=end - offset
        )
        assert spans, "a version has no byte at an offset below its size"
        for span in spans:
            skipped = offset - span.offset
            wanted = min(span.size - skipped, end - offset)
            if wanted <= 0:
                continue
            pieces = _read_location(store, span.location, skipped, wanted)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
            offset += wanted


async def _read_location(
    store: Store, location: Inline | Chunks, offset: int, size: int
) -> AsyncGenerator[memoryview, None]:
    if isinstance(location, Inline):
        yield memoryview(location.data)[offset : offset + size]
        return
    for ref in location.chunks:
        wanted = min(ref.size - offset, size)
        if wanted > 0:
            stream = store.gather.read_chunk(
                ref,
                location.scheme,
                ring=await store.ring_of(ref.epoch),
                offset=offset,
                size=wanted,
            )
            async with aclosing(stream):
                async for piece in stream:
                    yield piece
            size -= wanted
        offset = max(0, offset - ref.size)
