"""Bounds of commands and queries, checked before they reach a log.

A command that is in the log is applied by every replica, so one that cannot be applied
would stop them all, again and again.  Whatever comes from a peer is therefore measured
here first: ranges of numbers, sizes of ids and keys, counts of what it lists.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import attrs

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
    External,
    Inline,
    Location,
    PackedDraft,
    Parts,
)
from objstore.ring.layout import decode as decode_layout

_ENVELOPE_SIZE_MAX = 64
_U63_MAX = (1 << 63) - 1
_SPANS_MAX = 1024
_CHUNKS_ASKED_MAX = 4096
_CHECKSUM_SIZE_MAX = 64
_NO_LIMIT = f"a limit is 1 to {LIST_PAGE_MAX}"


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvalidRequest(what)


def check_command(command: c.Command, *, encoded_size: int) -> None:
    """Raise InvalidRequest for a command that no front door makes."""
    if encoded_size > ENTRY_SIZE_MAX - _ENVELOPE_SIZE_MAX:
        raise InvalidRequest(f"a command of {encoded_size} bytes does not fit a log entry")
    if isinstance(command, c.DeleteVersion) and _is_about_object(command):
        return
    if isinstance(command, c.PutVersion):
        if command.intent is not None or not _is_about_object(command):
            _check_common(command)
        _check_draft(command.draft)
        return
    _check_common(command)
    match command:
        case c.OpenBucket(_, fence):
            _check_number(fence.bucket)
            _check_number(fence.config_version)
        case (
            c.CloseBucket(config_version=version) | c.SetBucketState(config_version=version)
        ):
            _check_number(version)
        case c.BeginIntent(spares=spares):
            _require(len(spares) <= c.SPARES_MAX, "too many spare intents")
            all_of_them = {command.intent, *spares}
            _require(len(all_of_them) == 1 + len(spares), "an intent is begun once")
            _require(not (spares and command.is_renewal), "a renewal begins no spares")
            for spare in spares:
                _check_intent(spare)
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


def _is_about_object(asked: Any) -> bool:
    """Whether slot, bucket and key are within bounds, of what is asked most.

    All at once, as `_check_common` is for who has to say what is not.
    """
    ref = asked.ref
    return (
        0 <= asked.slot < SLOT_COUNT
        and 0 <= ref.bucket <= _U63_MAX
        and 0 <= ref.config_version <= _U63_MAX
        and 0 < len(asked.key) <= KEY_SIZE_MAX
    )


def _check_common(asked: Any) -> None:
    """Fields that go by the same name everywhere."""
    for name, check in _COMMON[type(asked)]:
        value = getattr(asked, name)
        if value is not None:
            check(value)


def _common_of(cls: Any) -> tuple[tuple[str, Callable[[Any], None]], ...]:
    """The checks for fields that a command or query has."""
    checks: dict[str, Callable[[Any], None]] = {
        "slot": _check_any_slot if cls is c.PurgeStep else _check_slot,
        "ref": _check_ref,
        "key": _check_key_or_other,
        "bucket": _check_number,
        "intent": _check_intent,
        "upload": _check_upload_or_other,
    }
    return tuple((n, check) for n, check in checks.items() if n in attrs.fields_dict(cls))


# Of every put, get and delete: what to say is made only where it is said.


def _check_slot(slot: int) -> None:
    if not 0 <= slot < SLOT_COUNT:
        raise InvalidRequest(f"slot {slot}")


def _check_any_slot(slot: int) -> None:
    """Or the cluster shard's pseudo-slot."""
    _require(0 <= slot <= SLOT_COUNT, f"slot {slot}")


def _check_ref(ref: c.BucketRef) -> None:
    _check_number(ref.bucket)
    _check_number(ref.config_version)


def _check_key_or_other(key: object) -> None:
    if isinstance(key, bytes):  # And no access key.
        _check_key(key)


def _check_intent(intent: bytes) -> None:
    _require(len(intent) == INTENT_ID_SIZE, "an intent id has 12 bytes")


def _check_upload_or_other(upload: object) -> None:
    if isinstance(upload, str):
        _require(len(upload) <= KEY_SIZE_MAX, "an upload id that long is none")


def _check_number(number: int, most: int = _U63_MAX) -> None:
    if not 0 <= number <= most:
        raise InvalidRequest(f"{number} is not within 0 and {most}")


def _check_key(key: bytes) -> None:
    if not 0 < len(key) <= KEY_SIZE_MAX:
        raise InvalidRequest(f"a key has 1 to {KEY_SIZE_MAX} bytes")


_COMMON = {cls: _common_of(cls) for cls in (*c.COMMANDS, *q.QUERIES)}


def _check_chunk(chunk: bytes, epoch: int) -> None:
    _require(len(chunk) == CHUNK_ID_SIZE, "a chunk id has 16 bytes")
    _check_number(epoch)


def _check_scheme(scheme: str) -> None:
    Scheme.parse(scheme)  # BadScheme is an InvalidRequest.


def _check_checksum(checksum: Checksum | None) -> None:
    if checksum is not None:
        _require(0 < len(checksum.value) <= _CHECKSUM_SIZE_MAX, "no checksum's size")


def _check_draft(packed: PackedDraft) -> None:
    """Unpack what replicas and readers will unpack: they trust what is in a log."""
    _check_number(packed.size, OBJECT_SIZE_MAX)
    try:
        has_checksum = _check_traits(packed.traits)
        _check_about(packed.about)
        location = payloads.unpack_location(payloads.unpack(packed.location))
        has_types = _has_types_of_location(location)
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"a draft that cannot be unpacked: {error}") from error
    if not has_types:
        raise InvalidRequest("a location with fields of other types")
    checksum = packed.checksum
    if has_checksum != (checksum is not None):
        raise InvalidRequest("a checksum has a value")
    if checksum is not None and not 0 < len(checksum) <= _CHECKSUM_SIZE_MAX:
        raise InvalidRequest("no checksum's size")
    if not isinstance(location, Inline):
        _require(not isinstance(location, Parts), "only a completion makes parts")
        _check_location(location)


# Most objects of a bucket have the same, and what was good once is so again.


@lru_cache(maxsize=128)
def _check_traits(packed: bytes) -> bool:
    """Whether there is a checksum."""
    traits = payloads.unpack_traits(packed)
    _require([type(text) for text in traits] in _TYPES_OF_TRAITS, "traits are texts")
    return traits.checksum_algorithm is not None


_NONE = type(None)
_TYPES_OF_TRAITS = ([str, str, str, str], [str, str, _NONE, _NONE])


@lru_cache(maxsize=128)
def _check_about(packed: bytes) -> None:
    for pairs in payloads.unpack_about(packed):
        _require(_is_pairs(pairs), "headers, user metadata and tags are pairs of texts")


def _is_pairs(pairs: object) -> bool:
    return type(pairs) is tuple and all(
        type(pair) is tuple and [type(text) for text in pair] == [str, str]
        for pair in pairs
    )


def _has_types_of_location(location: Location) -> bool:
    if isinstance(location, Inline):
        return type(location.data) is bytes
    match location:
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
    if isinstance(query, q.GetVersion) and _is_about_object(query):
        return
    _check_common(query)
    if isinstance(query, q.GetVersion):
        return
    slots: tuple[int, ...] = getattr(query, "slots", ())
    _require(len(slots) <= SLOT_COUNT, "more slots than there are")
    _require(all(0 <= slot < SLOT_COUNT for slot in slots), "slots")
    limit = getattr(query, "limit", 1)
    _require(0 < limit <= LIST_PAGE_MAX, _NO_LIMIT)
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
