"""The audit: recount a slot from its rows alone, and compare with what it keeps counted.

Counters, what lists show, references to chunks and the below-promise index are kept up by
every command.
Here they are made again from versions, uploads and parts; a difference is a bug, or damage
that checksums do not show.  Used by tests and by `objstore check`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from objstore.ids import BucketId, Key
from objstore.meta import part_map, payloads, references, schema
from objstore.meta.payloads import Place
from objstore.meta.schema import Table
from objstore.meta.values import Chunks, Inline, Location, Parts
from objstore.meta.work import Count


@attrs.define
class _Found:
    """What the rows of a slot amount to."""

    kept: dict[BucketId, list[int]] = attrs.field(factory=dict)
    counted: dict[BucketId, list[int]] = attrs.field(factory=dict)
    chunk_rows: dict[bytes, bytes] = attrs.field(factory=dict)
    chunks: dict[bytes, bytes] = attrs.field(factory=dict)
    below_rows: dict[bytes, bytes] = attrs.field(factory=dict)
    below: dict[bytes, bytes] = attrs.field(factory=dict)
    maps: dict[bytes, bytes] = attrs.field(factory=dict)  # By bucket and upload.
    parts: set[tuple[bytes, int]] = attrs.field(factory=set)
    referred: set[bytes] = attrs.field(factory=set)  # Uploads that versions are made of.
    listed_rows: dict[bytes, bytes] = attrs.field(factory=dict)  # By bucket and key.
    listed: dict[bytes, bytes] = attrs.field(factory=dict)
    last_key: bytes = b""
    problems: list[str] = attrs.field(factory=list)

    def count(self, bucket: BucketId, what: Count, change: int) -> None:
        self.counted.setdefault(bucket, [0] * len(Count))[what] += change


def audit_slot(rows: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """What is wrong with a slot, in words; nothing for one that is whole.

    rows: (logical key, sealed value) of all rows of one slot, in order.
    Raises CorruptRow for a bad value.
    """
    found = _Found()
    for key, value in rows:
        _take(found, key, schema.unseal(key, value))
    return list(_differences(found))


def _take(found: _Found, key: bytes, payload: bytes) -> None:
    table = schema.table_of_row(key)
    if table == Table.COUNTERS:
        bucket = schema.bucket_of_row(key)
        found.kept[bucket] = payloads.unpack_usage(payload)
    elif table == Table.VERSION:
        _take_version(found, key, payload)
    elif table == Table.LISTED:
        found.listed_rows[key[3:]] = payload
    elif table == Table.UPLOAD:
        found.count(schema.bucket_of_row(key), Count.UPLOADS, 1)
    elif table == Table.PART:
        _take_part(found, key, payload)
    elif table == Table.PART_MAP:
        found.maps[key[3:]] = payload
    elif table == Table.CHUNK:
        found.chunk_rows[key[3:]] = payload
    elif table == Table.BELOW:
        found.below_rows[key[3:]] = payload


def _take_version(found: _Found, key: bytes, payload: bytes) -> None:
    bucket = schema.bucket_of_row(key)
    head = payloads.unpack_head(payload)
    is_current = schema.is_current_row(key)
    if not is_current and key[:-8] != found.last_key:
        found.problems.append(f"row {key.hex()}: older versions and no current one")
    found.last_key = key[:-8]
    if is_current and not head.is_delete_marker:
        found.count(bucket, Count.OBJECTS, 1)
        found.listed[key[3:-8]] = payloads.pack_listed(head, head.time_ms)
    found.count(bucket, Count.VERSIONS, 1)
    found.count(bucket, Count.BYTES, head.size)
    location = head.location()
    if isinstance(location, Parts):
        found.referred.add(key[3:11] + bytes.fromhex(location.upload))
    place = Place(bucket, schema.key_of_version(key), head.order, "", 0)
    _take_location(found, place, location)


def _take_part(found: _Found, key: bytes, payload: bytes) -> None:
    bucket, number = schema.bucket_of_row(key), schema.number_of_part(key)
    upload = schema.upload_of_row(key[:-2])
    found.parts.add((key[3:-2], number))
    location = payloads.unpack_part(number, payload).location
    # The key of a part's place is known to its below row only: compared without.
    _take_location(found, Place(bucket, b"", 0, upload, number), location)


def _take_location(found: _Found, place: Place, location: Location | None) -> None:
    if location is None or isinstance(location, Inline) or not isinstance(location, Chunks):
        return
    bucket = BucketId(place.bucket)
    owner = payloads.pack((place.order, place.upload, place.part_number))
    for ref in location.chunks:
        found.chunks[ref.chunk] = owner
        rank = references.rank_of(location.scheme, ref)
        if rank is not None:
            row = payloads.pack_below(place, location.scheme, ref)
            found.below[bytes((rank,)) + ref.chunk] = row
    objects, size = references.below_of(location.chunks)
    found.count(bucket, Count.BELOW_OBJECTS, objects)
    found.count(bucket, Count.BELOW_BYTES, size)


def _differences(found: _Found) -> Iterator[str]:
    yield from found.problems
    for bucket, counted in sorted(found.counted.items()):
        if bucket not in found.kept:
            if any(counted[: Count.BELOW_OBJECTS]):
                yield f"bucket {bucket:x} has rows and no counters"
        elif found.kept[bucket] != counted:
            yield f"bucket {bucket:x}: counted {counted}, kept {found.kept[bucket]}"
    for bucket, kept in sorted(found.kept.items()):
        if bucket not in found.counted and any(kept):
            yield f"bucket {bucket:x}: nothing is there, kept {kept}"
    yield from _unlike("row for lists", found.listed, found.listed_rows)
    yield from _unlike("chunk reference", found.chunks, found.chunk_rows)
    without_keys = {name: _without_key(row) for name, row in found.below_rows.items()}
    expected = {name: _without_key(row) for name, row in found.below.items()}
    yield from _unlike("below-promise row", expected, without_keys)
    for upload in sorted(found.referred):
        packed = found.maps.get(upload)
        if packed is None:
            yield f"a version has no part map: upload {upload[8:].hex()}"
            continue
        for place in range(part_map.count(packed)):
            number = part_map.entry(packed, place)[0]
            if (upload, number) not in found.parts:
                yield f"part {number} of upload {upload[8:].hex()} is missing"


def _without_key(row: bytes) -> bytes:
    place, scheme, ref = payloads.unpack_below(row)
    if place.upload:
        place = place._replace(key=Key(b""))
    return payloads.pack_below(place, scheme, ref)


def _unlike(
    what: str, expected: dict[bytes, bytes], found: dict[bytes, bytes]
) -> Iterator[str]:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield f"{what} {name.hex()} is missing"
        elif name not in expected:
            yield f"{what} {name.hex()} refers to nothing"
        elif expected[name] != found[name]:
            yield f"{what} {name.hex()} differs"
