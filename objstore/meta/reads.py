"""Reads: what a query answers from the rows of one shard.  Pure, like apply.

The caller has made sure that the rows are new enough (a ReadIndex barrier) and that all
of the query's slots are in the view.  Errors of `meta.errors` are raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from objstore.ids import Slot, intent_of
from objstore.limits import LIST_PAGE_MAX
from objstore.meta import (
    cluster,
    fences,
    listing,
    part_map,
    payloads,
    references,
    schema,
    uploads,
    versions,
)
from objstore.meta import queries as q
from objstore.meta.errors import NoSuchKey, NoSuchVersion
from objstore.meta.payloads import VersionHead
from objstore.meta.rows import RowView, first_row
from objstore.meta.schema import Table
from objstore.meta.values import (
    Part,
    Parts,
    Released,
    Span,
    Usage,
    Version,
)

_PAGE_MAX = LIST_PAGE_MAX
_RELEASED_CHUNKS_MAX = 10_000  # One answer stays well below a frame.


def answer(view: RowView, query: q.Query) -> Any:
    """Answer a query.  Raises the errors that its docstring names."""
    return _ANSWERS[type(query)](view, query)


# ---- versions -------------------------------------------------------------------------


def _get_version(view: RowView, query: q.GetVersion) -> Version:
    slot, bucket, key = query.slot, query.ref.bucket, query.key
    fences.require(view, slot, query.ref)
    if query.version_id is not None:
        named = versions.find_named(view, slot, bucket, key, query.version_id)
        payload = None if named is None else view.get(named[0])
        if named is None or payload is None:
            raise NoSuchVersion(f"no version {query.version_id}")
        return payloads.unpack_version(payload)
    payload = view.get(schema.current_key(schema.versions_prefix(slot, bucket, key)))
    if payload is None:
        raise NoSuchKey("the key has no version")
    return payloads.unpack_version(payload)


def _head_of_order(view: RowView, query: q.ReadSpans | q.ListVersionParts) -> VersionHead:
    """The version that a query pins by its order."""
    fences.require(view, query.slot, query.ref)
    prefix = schema.versions_prefix(query.slot, query.ref.bucket, query.key)
    found = versions.find_by_order(view, prefix, query.order)
    if found is None:
        raise NoSuchKey("the version is gone")
    return found[1]


def _read_spans(view: RowView, query: q.ReadSpans) -> tuple[Span, ...]:
    head = _head_of_order(view, query)
    location = head.location()
    if not isinstance(location, Parts):
        raise NoSuchKey("the version is not made of parts")
    packed, prefix = _part_rows(view, query, location)
    if query.part_number is not None:
        place = part_map.place_of_number(packed, query.part_number)
        if place is None:
            raise NoSuchKey(f"the version has no part {query.part_number}")
        return (_span(view, packed, prefix, place),)
    spans: list[Span] = []
    place = part_map.place_of_offset(packed, query.offset)
    end = query.offset + query.size
    while place < part_map.count(packed) and len(spans) < query.spans_max:
        if part_map.entry(packed, place)[1] >= end:
            break
        spans.append(_span(view, packed, prefix, place))
        place += 1
    return tuple(spans)


def _part_rows(
    view: RowView, query: q.ReadSpans | q.ListVersionParts, location: Parts
) -> tuple[bytes, bytes]:
    """(part map, prefix of the part rows) of a version."""
    bucket = query.ref.bucket
    packed = view.get(schema.part_map_key(query.slot, bucket, location.upload))
    assert packed is not None, "a version's part map is not there"
    return packed, schema.parts_prefix(query.slot, bucket, location.upload)


def _span(view: RowView, packed: bytes, prefix: bytes, place: int) -> Span:
    number, start, end = part_map.entry(packed, place)
    part = _part(view, prefix, number, with_location=True)
    return Span(start, end - start, part.location)


def _part(view: RowView, prefix: bytes, number: int, *, with_location: bool) -> Part:
    payload = view.get(schema.part_key(prefix, number))
    assert payload is not None, "a listed part is not there"
    return payloads.unpack_part(number, payload, with_location=with_location)


# ---- lists ----------------------------------------------------------------------------


def _list_keys(view: RowView, query: q.ListKeys) -> q.ListAnswer:
    for slot in query.slots:
        fences.require(view, slot, query.ref)
    return listing.list_keys(view, query)


def _list_uploads(view: RowView, query: q.ListUploads) -> q.UploadsAnswer:
    for slot in query.slots:
        fences.require(view, slot, query.ref)
    return listing.list_uploads(view, query)


def _get_upload(view: RowView, query: q.GetUpload) -> object:
    fences.require(view, query.slot, query.ref)
    return uploads.load(view, query.slot, query.ref.bucket, query.key, query.upload)


def _list_parts(view: RowView, query: q.ListParts) -> q.PartsAnswer:
    bucket = query.ref.bucket
    fences.require(view, query.slot, query.ref)
    upload = uploads.load(view, query.slot, bucket, query.key, query.upload)
    prefix = schema.parts_prefix(query.slot, bucket, query.upload)
    begin = schema.part_key(prefix, min(query.after, 0xFFFE) + 1)
    limit = min(query.limit, _PAGE_MAX)
    rows = list(islice(view.scan(begin, schema.range_end(prefix)), limit + 1))
    parts = tuple(
        payloads.unpack_part(schema.number_of_part(key), payload, with_location=False)
        for key, payload in rows[:limit]
    )
    return q.PartsAnswer(upload, parts, is_truncated=len(rows) > limit)


def _list_version_parts(view: RowView, query: q.ListVersionParts) -> q.PartsAnswer:
    location = _head_of_order(view, query).location()
    if not isinstance(location, Parts):
        return q.PartsAnswer(None, (), is_truncated=False)
    packed, prefix = _part_rows(view, query, location)
    limit = min(query.limit, _PAGE_MAX)
    first = part_map.first_place_from(packed, query.after + 1)
    places = range(first, min(first + limit, part_map.count(packed)))
    parts = tuple(
        _part(view, prefix, part_map.entry(packed, place)[0], with_location=False)
        for place in places
    )
    return q.PartsAnswer(None, parts, is_truncated=places.stop < part_map.count(packed))


# ---- usage and repair -----------------------------------------------------------------


def _get_usage(view: RowView, query: q.GetUsage) -> Usage:
    total = [0] * 6
    for slot in query.slots:
        for counters in _counters(view, slot, query):
            total = [a + b for a, b in zip(total, counters, strict=False)]
    return payloads.usage_of(total)


def _counters(view: RowView, slot: Slot, query: q.GetUsage) -> Iterator[list[int]]:
    if query.bucket is not None:
        payload = view.get(schema.counters_key(slot, query.bucket))
        if payload is not None:
            yield payloads.unpack_usage(payload)
        return
    prefix = schema.table_prefix(slot, Table.COUNTERS)
    for _, payload in view.scan(prefix, schema.range_end(prefix)):
        yield payloads.unpack_usage(payload)


def _list_below(view: RowView, query: q.ListBelow) -> tuple[q.BelowEntry, ...]:
    """Entries by cursor: rank, slot, chunk; so slots merge into one order."""
    found: list[q.BelowEntry] = []
    for slot in query.slots:
        begin = _below_begin(slot, query.after)
        end = schema.range_end(schema.table_prefix(slot, Table.BELOW))
        for row_key, payload in islice(view.scan(begin, end), query.limit):
            rank, chunk = schema.rank_of_below(row_key)
            place, scheme, ref = payloads.unpack_below(payload)
            cursor = bytes((rank,)) + schema.slot_prefix(slot) + chunk
            where = references.chunk_place(place, chunk)
            found.append(q.BelowEntry(cursor, where, scheme, ref))
    found.sort(key=lambda entry: entry.cursor)
    return tuple(found[: query.limit])


def _below_begin(slot: Slot, after: bytes) -> bytes:
    """The first row of a slot behind a cursor."""
    if not after:
        return schema.table_prefix(slot, Table.BELOW)
    rank, at, chunk = after[0], after[1:3], after[3:]
    mine = schema.slot_prefix(slot)
    if mine == at:
        return schema.below_key(slot, rank, chunk) + b"\0"
    if mine > at:
        return schema.below_key(slot, rank, b"")
    return schema.below_key(slot, rank, b"\xff" * 17)


def _list_released(view: RowView, query: q.ListReleased) -> tuple[Released, ...]:
    begin = schema.released_key(query.slot, query.after + 1)
    end = schema.range_end(schema.table_prefix(query.slot, Table.RELEASED))
    found: list[Released] = []
    chunk_count = 0
    for row_key, payload in view.scan(begin, end):
        time_ms, scheme, chunks = payloads.unpack(payload)[:3]
        if len(found) == query.limit or time_ms >= query.before_ms:
            break
        chunk_count += len(chunks)
        if found and chunk_count > _RELEASED_CHUNKS_MAX:
            break
        refs = tuple(payloads.unpack_chunk(ref) for ref in chunks)
        found.append(Released(schema.number_of_row(row_key), time_ms, scheme, refs))
    return tuple(found)


def _list_released_slots(view: RowView, query: q.ListReleasedSlots) -> tuple[int, ...]:
    prefixes = {slot: schema.table_prefix(slot, Table.RELEASED) for slot in query.slots}
    return tuple(
        slot
        for slot, prefix in prefixes.items()
        if first_row(view, prefix, schema.range_end(prefix)) is not None
    )


def _is_wanted(view: RowView, query: q.IsWanted) -> tuple[bool, ...]:
    """By CHUNK rows, and by intents that are there, expired or not: those may be used."""
    return tuple(
        view.get(schema.chunk_key(query.slot, chunk)) is not None
        or view.get(schema.intent_key(query.slot, intent_of(chunk))) is not None
        for chunk in query.chunks
    )


_ANSWERS: dict[type, Callable[[RowView, Any], Any]] = {
    q.GetVersion: _get_version,
    q.ReadSpans: _read_spans,
    q.ListKeys: _list_keys,
    q.GetUpload: _get_upload,
    q.ListUploads: _list_uploads,
    q.ListParts: _list_parts,
    q.ListVersionParts: _list_version_parts,
    q.GetUsage: _get_usage,
    q.ListBelow: _list_below,
    q.ListReleased: _list_released,
    q.ListReleasedSlots: _list_released_slots,
    q.IsWanted: _is_wanted,
    q.ClusterChanges: cluster.changes_since,
}

assert set(_ANSWERS) == set(q.QUERIES)
