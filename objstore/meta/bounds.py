"""Bounds of commands and queries, checked before they reach a log.

A command that is in the log is applied by every replica, so one that cannot be applied
would stop them all, again and again.  Whatever comes from a peer is therefore measured
here first: ranges of numbers, sizes of ids and keys, counts of what it lists.
"""

from __future__ import annotations

from typing import Any

from objstore.ec.scheme import Scheme
from objstore.errors import CorruptData, InvalidRequest
from objstore.ids import CHUNK_ID_SIZE, INTENT_ID_SIZE
from objstore.limits import (
    ENTRY_SIZE_MAX,
    KEY_SIZE_MAX,
    LIST_PAGE_MAX,
    OBJECT_SIZE_MAX,
    PART_NUMBER_MAX,
    SLOT_COUNT,
)
from objstore.meta import commands as c
from objstore.meta import payloads
from objstore.meta import queries as q
from objstore.meta.schema import is_hex_16
from objstore.meta.values import (
    Checksum,
    ChunkRef,
    Chunks,
    Draft,
    External,
    Inline,
    Location,
    PackedDraft,
    Parts,
    Traits,
)
from objstore.ring.layout import decode as decode_layout

_ENVELOPE_SIZE_MAX = 64
_U63_MAX = (1 << 63) - 1
_SPANS_MAX = 1024
_CHUNKS_ASKED_MAX = 4096


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvalidRequest(what)


def check_command(command: c.Command, *, encoded_size: int) -> None:
    """Raise InvalidRequest for a command that no front door makes."""
    _require(
        encoded_size <= ENTRY_SIZE_MAX - _ENVELOPE_SIZE_MAX,
        f"a command of {encoded_size} bytes does not fit a log entry",
    )
    slots = SLOT_COUNT + 1 if isinstance(command, c.PurgeStep) else SLOT_COUNT
    _check_common(command, slots=slots)
    match command:
        case c.PutVersion():
            _check_draft(command.draft)
        case c.OpenBucket(_, fence):
            _check_number(fence.bucket)
            _check_number(fence.config_version)
        case (
            c.CloseBucket(config_version=version) | c.SetBucketState(config_version=version)
        ):
            _check_number(version)
        case c.DropIntent(written=written, scheme=scheme):
            _check_location(Chunks(scheme, written))
        case c.CreateUpload(upload=upload):
            _check_key(upload.key)
        case c.PutPart(part=part):
            _check_number(part.size, OBJECT_SIZE_MAX)
            _check_location(part.location)
            _check_checksum(part.checksum)
        case c.CompleteUpload(parts=parts):
            _require(len(parts) <= PART_NUMBER_MAX, "too many parts")
        case c.ChangeDisplaced(place=place, changes=changes):
            _check_place(place)
            _require(all(0 <= change[0] <= 255 for change in changes), "fragment number")
        case c.ForgetReleased(sequences=sequences):
            for sequence in sequences:
                _check_number(sequence)
        case c.RaiseFloor(epoch=epoch):
            _check_number(epoch)
        case c.FoundCluster(layout=layout) | c.SetLayout(layout=layout):
            _check_layout(layout)
        case c.CreateBucketRecord(span=span, scheme=scheme):
            _require(0 < len(span) <= SLOT_COUNT, "a span has slots")
            _require(all(0 <= slot < SLOT_COUNT for slot in span), "slots of the span")
            _check_scheme(scheme)
        case _:
            pass


def _check_common(asked: Any, *, slots: int = SLOT_COUNT) -> None:
    """Fields that go by the same name everywhere."""
    slot = getattr(asked, "slot", None)
    if slot is not None:
        _require(0 <= slot < slots, f"slot {slot}")
    ref = getattr(asked, "ref", None)
    if ref is not None:
        _check_number(ref.bucket)
        _check_number(ref.config_version)
    key = getattr(asked, "key", None)
    if isinstance(key, bytes):
        _check_key(key)
    bucket = getattr(asked, "bucket", None)
    if bucket is not None:
        _check_number(bucket)
    intent = getattr(asked, "intent", None)
    if intent is not None:
        _require(len(intent) == INTENT_ID_SIZE, "an intent id has 12 bytes")
    upload = getattr(asked, "upload", None)
    if isinstance(upload, str):
        _require(len(upload) <= KEY_SIZE_MAX, "an upload id that long is none")


def _check_number(number: int, most: int = _U63_MAX) -> None:
    _require(0 <= number <= most, f"{number} is not within 0 and {most}")


def _check_key(key: bytes) -> None:
    _require(0 < len(key) <= KEY_SIZE_MAX, f"a key has 1 to {KEY_SIZE_MAX} bytes")


def _check_chunk(chunk: bytes, epoch: int) -> None:
    _require(len(chunk) == CHUNK_ID_SIZE, "a chunk id has 16 bytes")
    _check_number(epoch)


def _check_scheme(scheme: str) -> None:
    Scheme.parse(scheme)  # BadScheme is an InvalidRequest.


def _check_checksum(checksum: Checksum | None) -> None:
    if checksum is not None:
        _require(0 < len(checksum.value) <= 64, "a checksum of 1 to 64 bytes")


def _check_draft(packed: PackedDraft) -> None:
    """Unpack what replicas and readers will unpack: they trust what is in a log."""
    _check_number(packed.size, OBJECT_SIZE_MAX)
    try:
        traits = payloads.unpack_traits(packed.traits)
        draft = payloads.unpack_draft(packed)
        has_types = _has_types_of_draft(draft, traits)
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"a draft that cannot be unpacked: {error}") from error
    except AssertionError as error:
        raise InvalidRequest("a draft of parts that do not fit") from error
    _require(has_types, "a draft with fields of other types")
    has_checksum = traits.checksum_algorithm is not None
    _require(has_checksum == (packed.checksum is not None), "a checksum has a value")
    _check_checksum(draft.checksum)
    _require(not isinstance(draft.location, Parts), "only a completion makes parts")
    _check_location(draft.location)


def _has_types_of_draft(draft: Draft, traits: Traits) -> bool:
    """Whether fields that were packed are what their class says."""
    return (
        [type(text) for text in traits] in _TYPES_OF_TRAITS
        and all(map(_is_pairs, (draft.headers, draft.user_metadata, draft.tags)))
        and _has_types_of_location(draft.location)
    )


_NONE = type(None)
_TYPES_OF_TRAITS = ([str, str, str, str], [str, str, _NONE, _NONE])


def _is_pairs(pairs: object) -> bool:
    return type(pairs) is tuple and all(
        type(pair) is tuple and [type(text) for text in pair] == [str, str]
        for pair in pairs
    )


def _has_types_of_location(location: Location) -> bool:
    match location:
        case Inline(data):
            return type(data) is bytes
        case Chunks(scheme, chunks):
            return type(scheme) is str and all(map(_has_types_of_chunk, chunks))
        case Parts(upload, part_count):
            return type(upload) is str and type(part_count) is int
        case External(target, reference):
            return type(target) is str and type(reference) is bytes


def _has_types_of_chunk(ref: ChunkRef) -> bool:
    return (
        (type(ref.chunk), type(ref.size), type(ref.epoch)) == (bytes, int, int)
        and all(type(displaced.index) is int for displaced in ref.displaced)
        and all(type(displaced.node) in (str, _NONE) for displaced in ref.displaced)
    )


def _check_location(location: Location) -> None:
    match location:
        case Chunks(scheme, chunks):
            _check_scheme(scheme)
            for ref in chunks:
                _check_chunk(ref.chunk, ref.epoch)
                _check_number(ref.size, OBJECT_SIZE_MAX)
                _require(all(0 <= d.index <= 255 for d in ref.displaced), "fragment number")
        case External():
            raise InvalidRequest("external locations are not built yet")
        case Inline() | Parts():
            pass


def _check_place(place: Any) -> None:
    _check_key(place.key)
    _check_number(place.bucket)
    _check_number(place.order)
    _check_chunk(place.chunk, 0)
    if place.upload is not None:
        _require(is_hex_16(place.upload), "an upload id is 32 lower hex digits")
        _check_number(place.part_number, PART_NUMBER_MAX)


def _check_layout(layout: bytes) -> None:
    try:
        decode_layout(layout)
    except CorruptData as error:
        raise InvalidRequest(str(error)) from error


def check_query(query: q.Query) -> None:
    """Raise InvalidRequest for a query that no front door makes."""
    _check_common(query)
    slots: tuple[int, ...] = getattr(query, "slots", ())
    _require(len(slots) <= SLOT_COUNT, "more slots than there are")
    _require(all(0 <= slot < SLOT_COUNT for slot in slots), "slots")
    limit = getattr(query, "limit", 1)
    _require(0 < limit <= LIST_PAGE_MAX, f"a limit is 1 to {LIST_PAGE_MAX}")
    match query:
        case q.ListKeys():
            after_version = query.after_version
            if after_version is not None:
                _check_number(after_version)
            sizes = (len(query.prefix), len(query.delimiter), len(query.after))
            _require(max(sizes) <= KEY_SIZE_MAX, "longer than any key")
        case q.ListUploads():
            sizes = (len(query.prefix), len(query.delimiter), len(query.after))
            _require(max(sizes) <= KEY_SIZE_MAX, "longer than any key")
        case q.ReadSpans():
            _check_number(query.order)
            _check_number(query.offset)
            _check_number(query.size)
            _require(0 < query.spans_max <= _SPANS_MAX, "spans_max")
            if query.part_number is not None:
                _check_number(query.part_number, PART_NUMBER_MAX)
        case q.ListParts() | q.ListVersionParts():
            _check_number(query.after)
            _check_number(getattr(query, "order", 0))
        case q.IsWanted(chunks=chunks):
            _require(len(chunks) <= _CHUNKS_ASKED_MAX, "too many chunks asked for")
        case q.ListBelow(after=after):
            _require(len(after) in (0, 3 + CHUNK_ID_SIZE), "not a cursor")
        case q.ListReleased(after=after_row):
            _check_number(after_row + 1)
        case q.ClusterChanges(since, began):
            _check_number(since)
            _check_number(began)
        case _:
            pass
