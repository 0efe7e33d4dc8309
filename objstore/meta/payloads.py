"""Payloads: the values of a slot's rows as msgpack, packed by hand because they are hot.

    listed       [time as text, size, etag, bytes of traits]
    traits       [owner, class, checksum algorithm | nil, checksum kind | nil]
    version      [id, order, time, index, term, size, etag, bytes of traits,
                  checksum's value | nil, bytes of about, bytes of location | nil]
      about      [headers, user metadata, tags]
      location   nil: a delete marker
    part         [size, etag, time, checksum, bytes of location]
    location     [1, bytes] inline | [2, scheme, [chunk ...]] | [3, upload, part count]
                 | [4, target, reference] external
    chunk        [chunk id, size, epoch, [[fragment index, node | nil] ...]]
    checksum     nil | [algorithm, value, kind]
    fence        [config version, versioning, is open, is dropped]
    counters     u64be each: objects, versions, bytes, uploads, below objects, below bytes;
                 no msgpack: each put and delete reads and writes them
    state        [floor epoch, next released]

A list grows at its end only: a reader takes the items that it knows.  What lists and
conditions need not know of a version is packed apart, by the node that proposes it: no
replica unpacks it to apply it.  Values that are not
hot are packed by `rpc.codec` instead.  Nobody checks here: the envelope did (`schema`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import msgpack

from objstore.ids import BucketId, ChunkId, Epoch, NodeId, UploadId, VersionId
from objstore.meta.values import (
    BucketFence,
    Checksum,
    ChunkRef,
    Chunks,
    Displaced,
    Draft,
    External,
    Inline,
    Listed,
    ListedVersion,
    Location,
    PackedDraft,
    Part,
    Parts,
    Traits,
    Usage,
    Version,
)
from objstore.units import iso_time

# msgpack's stubs lack types: named once, with what it is.
_new_packer: Callable[[], Any] = msgpack.Packer  # type: ignore[attr-defined]
# One packer for all: what is packed here has no hook that could pack meanwhile, and is no
# larger than a log entry.
pack: Callable[[object], bytes] = _new_packer().pack
unpack: Callable[[bytes], Any] = partial(
    msgpack.unpackb,  # type: ignore[attr-defined]
    use_list=False,
    strict_map_key=False,
)

NO_BYTES = Inline(b"")  # Stands where a location was left out of an answer.

_USAGE = struct.Struct(">6Q")
_INLINE, _CHUNKS, _PARTS, _EXTERNAL = 1, 2, 3, 4

Packed = tuple[Any, ...]
Pairs = tuple[tuple[str, str], ...]


# ---- locations ------------------------------------------------------------------------


def pack_chunk(ref: ChunkRef) -> Packed:
    away = tuple([(d.index, d.node) for d in ref.displaced])
    return (ref.chunk, ref.size, ref.epoch, away)


def unpack_chunk(packed: Packed) -> ChunkRef:
    chunk, size, epoch, away = packed
    return ChunkRef(
        ChunkId(chunk), size, Epoch(epoch), tuple([Displaced(*item) for item in away])
    )


def pack_location(location: Location) -> Packed:
    match location:
        case Inline(data):
            return (_INLINE, data)
        case Chunks(scheme, chunks):
            return (_CHUNKS, scheme, tuple([pack_chunk(ref) for ref in chunks]))
        case Parts(upload, part_count):
            return (_PARTS, upload, part_count)
        case External(target, reference):
            return (_EXTERNAL, target, reference)


def unpack_location(packed: Packed) -> Location:
    """Raises ValueError, TypeError or IndexError for what `pack_location` did not make."""
    kind = packed[0]
    if kind == _INLINE:
        return Inline(packed[1])
    if kind == _CHUNKS:
        return Chunks(packed[1], tuple([unpack_chunk(ref) for ref in packed[2]]))
    if kind == _PARTS:
        return Parts(UploadId(packed[1]), packed[2])
    if kind == _EXTERNAL:
        return External(packed[1], packed[2])
    raise ValueError(f"no kind of location: {kind}")


def unpack_bytes_location(packed: Packed) -> Inline | Chunks:
    """The location of a part."""
    location = unpack_location(packed)
    assert isinstance(location, Inline | Chunks)
    return location


def _pack_checksum(checksum: Checksum | None) -> Packed | None:
    if checksum is None:
        return None
    return (checksum.algorithm, checksum.value, checksum.kind)


def _unpack_checksum(packed: Packed | None) -> Checksum | None:
    return None if packed is None else Checksum(*packed)


# ---- versions -------------------------------------------------------------------------


class VersionHead(NamedTuple):
    """A version without what only a reader of the object needs."""

    version_id: VersionId
    order: int
    time_ms: int
    log_index: int
    term: int
    size: int
    etag: str
    traits: bytes
    checksum: bytes | None
    about: bytes
    packed_location: bytes | None  # None: a delete marker.

    @property
    def is_delete_marker(self) -> bool:
        return self.packed_location is None

    def location(self) -> Location | None:
        packed = self.packed_location
        return None if packed is None else unpack_location(unpack(packed))


_VERSION_FIELDS = len(VersionHead._fields)
_LOCATION = VersionHead._fields.index("packed_location")
_MARKER = (0, "", b"", None, b"", None)
_INLINE_HEAD = pack((_INLINE, 0))[:2]


def pack_draft(draft: Draft) -> PackedDraft:
    checksum = draft.checksum or _NO_CHECKSUM
    algorithm, kind = checksum.algorithm or None, checksum.kind or None
    return PackedDraft(
        draft.size,
        draft.etag,
        _pack_traits(draft.owner, draft.storage_class, algorithm, kind),
        checksum.value or None,
        pack((draft.headers, draft.user_metadata, draft.tags)),
        pack(pack_location(draft.location)),
    )


_NO_CHECKSUM = Checksum("", b"", "")


def unpack_draft(packed: PackedDraft) -> Draft:
    """The draft; of bytes that nobody looked at, nothing is checked here."""
    location = unpack_location(unpack(packed.location))
    return _draft(packed, location)


def unpack_outside(packed: bytes | None) -> Location | None:
    """A version's location if bytes are outside its row.  Inline ones are not unpacked."""
    if packed is None or packed[:2] == _INLINE_HEAD:
        return None
    return unpack_location(unpack(packed))


def pack_version(
    version_id: VersionId,
    draft: PackedDraft | None,
    *,
    order: int,
    time_ms: int,
    index: int,
    term: int,
) -> bytes:
    """A row of VERSION; without a draft: of a delete marker."""
    if draft is None:
        return pack((version_id, order, time_ms, index, term, *_MARKER))
    return pack(
        (
            version_id,
            order,
            time_ms,
            index,
            term,
            draft.size,
            draft.etag,
            draft.traits,
            draft.checksum,
            draft.about,
            draft.location,
        )
    )


def unpack_head(payload: bytes) -> VersionHead:
    # Not by `_make`, which costs as much again: the list never had fewer items.
    return tuple.__new__(VersionHead, unpack(payload)[:_VERSION_FIELDS])


def unpack_version(payload: bytes) -> Version:
    """The whole version of a row of VERSION."""
    head = unpack_head(payload)
    location = head.location()
    return _version(head, None if location is None else _draft(head, location))


def listed(head: VersionHead) -> Listed:
    """A version as lists show it."""
    return Listed(iso_time(head.time_ms), head.size, head.etag, head.traits)


def pack_listed(draft: PackedDraft | VersionHead, time_ms: int) -> bytes:
    """A row of LISTED: what is, or becomes, a version at that time."""
    return pack((iso_time(time_ms), draft.size, draft.etag, draft.traits))


def listed_version(head: VersionHead) -> ListedVersion:
    """A version as lists of versions show it."""
    return ListedVersion(*listed(head), head.version_id, head.order, head.is_delete_marker)


def unpack_listed(rows: Sequence[bytes], field_count: int) -> tuple[Any, ...]:
    """Packed rows of one kind as plain tuples of its fields; None for nil.

    At one go, which costs half as much as one by one.  Raises ValueError.
    """
    unpacked: tuple[Packed | None, ...]
    unpacked = unpack(b"\xdd" + len(rows).to_bytes(4, "big") + b"".join(rows))
    if not {tuple, type(None)}.issuperset(map(type, unpacked)):
        raise ValueError("a row is no array")
    if not {field_count}.issuperset([len(row) for row in unpacked if row is not None]):
        raise ValueError("a row has too few or too many fields")
    return unpacked


@lru_cache(maxsize=1024)  # Each put needs them, and hardly ever others.
def _pack_traits(
    owner: str, storage_class: str, algorithm: str | None, kind: str | None
) -> bytes:
    return pack((owner, storage_class, algorithm, kind))


@lru_cache(maxsize=1024)
def unpack_traits(packed: bytes) -> Traits:
    return Traits._make(unpack(packed)[: len(Traits._fields)])


@lru_cache(maxsize=128)  # Most objects have nothing but a Content-Type; some have 16 KiB.
def unpack_about(packed: bytes) -> tuple[Pairs, Pairs, Pairs]:
    """(headers, user metadata, tags)."""
    headers, metadata, tags = unpack(packed)[:3]
    return headers, metadata, tags


def _draft(packed: PackedDraft | VersionHead, location: Location) -> Draft:
    headers, metadata, tags = unpack_about(packed.about)
    owner, storage_class, algorithm, kind = unpack_traits(packed.traits)
    checksum = None
    if packed.checksum is not None:
        assert algorithm is not None
        assert kind is not None
        checksum = Checksum(algorithm, packed.checksum, kind)
    return Draft(
        size=packed.size,
        etag=packed.etag,
        headers=headers,
        user_metadata=metadata,
        location=location,
        owner=owner,
        checksum=checksum,
        storage_class=storage_class,
        tags=tags,
    )


def _version(head: VersionHead, draft: Draft | None) -> Version:
    return Version(
        version_id=head.version_id,
        order=head.order,
        time_ms=head.time_ms,
        draft=draft,
        index=head.log_index,
        term=head.term,
    )


def relocated(payload: bytes, location: Location) -> bytes:
    """The payload of a version whose bytes are now at `location`."""
    fields = unpack(payload)
    packed = pack(pack_location(location))
    return pack((*fields[:_LOCATION], packed, *fields[_LOCATION + 1 :]))


# ---- parts ----------------------------------------------------------------------------


class PartHead(NamedTuple):
    """A part without its location, which stays packed."""

    size: int
    etag: str
    time_ms: int
    checksum: Packed | None
    location: bytes


_PART_FIELDS = len(PartHead._fields)


def pack_part(part: Part) -> bytes:
    return pack(
        (
            part.size,
            part.etag,
            part.time_ms,
            _pack_checksum(part.checksum),
            pack(pack_location(part.location)),
        )
    )


def unpack_part_head(payload: bytes) -> PartHead:
    return PartHead._make(unpack(payload)[:_PART_FIELDS])


def unpack_part(number: int, payload: bytes, *, with_location: bool = True) -> Part:
    head = unpack_part_head(payload)
    location = unpack_bytes_location(unpack(head.location)) if with_location else NO_BYTES
    return Part(
        number,
        head.size,
        head.etag,
        head.time_ms,
        location,
        _unpack_checksum(head.checksum),
    )


def relocated_part(payload: bytes, location: Inline | Chunks) -> bytes:
    """The payload of a part whose bytes are now at `location`."""
    fields = unpack(payload)
    return pack((*fields[:4], pack(pack_location(location)), *fields[5:]))


# ---- the rest -------------------------------------------------------------------------


def pack_fence(fence: BucketFence, *, is_dropped: bool = False) -> bytes:
    return pack((fence.config_version, fence.versioning, fence.is_open, is_dropped))


@lru_cache(maxsize=4096)  # Each command asks a fence, which hardly ever changes.
def unpack_fence_state(payload: bytes) -> tuple[int, str, bool]:
    """(config version, versioning, whether it is open)."""
    config_version, versioning, is_open = unpack(payload)[:3]
    return config_version, versioning, is_open


def unpack_fence(bucket: BucketId, payload: bytes) -> tuple[BucketFence, bool]:
    """(fence, whether the bucket was dropped)."""
    config_version, versioning, is_open, is_dropped = unpack(payload)[:4]
    return BucketFence(bucket, config_version, versioning, is_open), is_dropped


def pack_usage(counters: list[int]) -> bytes:
    return _USAGE.pack(*counters)


def unpack_usage(payload: bytes | None) -> list[int]:
    """[objects, versions, bytes, uploads, below objects, below bytes]."""
    return [0] * 6 if payload is None else list(_USAGE.unpack_from(payload))


def usage_of(counters: list[int]) -> Usage:
    return Usage(*counters[:6])


class Place(NamedTuple):
    """Where a chunk is referred to, packed: a version's order, or an upload's part."""

    bucket: int
    key: bytes
    order: int  # 0: in a part.
    upload: str  # "": in a version.
    part_number: int


class BelowRow(NamedTuple):
    """A chunk that is not wholly where it belongs."""

    place: Packed
    scheme: str
    ref: Packed


def pack_below(place: Place, scheme: str, ref: ChunkRef) -> bytes:
    return pack((tuple(place), scheme, pack_chunk(ref)))


def unpack_below(payload: bytes) -> tuple[Place, str, ChunkRef]:
    place, scheme, ref = unpack(payload)[:3]
    return Place._make(place), scheme, unpack_chunk(ref)


def node_or_none(text: str | None) -> NodeId | None:
    return None if text is None else NodeId(text)
