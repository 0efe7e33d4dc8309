"""Keys that sort as S3's do, values that know their key, part maps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.ids import NULL_VERSION, BucketId, Key, RequestId, Slot, UploadId
from objstore.meta import commands as c
from objstore.meta import envelope, part_map, payloads, schema
from objstore.meta.values import Checksum, Inline, Version
from objstore.rpc import codec
from tests.unit.meta.builders import (
    BUCKET,
    REF,
    SLOT,
    chunks,
    draft,
    intent,
    large_draft,
    packed,
)

keys = st.binary(min_size=1, max_size=8).map(Key)
orders = st.integers(0, (1 << 64) - 2)
uploads = st.binary(min_size=16, max_size=16).map(lambda b: UploadId(b.hex()))


def version_row(key: Key, order: int | None) -> bytes:
    prefix = schema.versions_prefix(SLOT, BUCKET, key)
    return (
        schema.current_key(prefix) if order is None else schema.version_key(prefix, order)
    )


@given(keys, st.none() | orders, keys, st.none() | orders)
def test_version_rows_sort_by_key_then_current_then_newest_first(
    one_key: Key, one: int | None, other_key: Key, other: int | None
) -> None:
    def place(key: Key, order: int | None) -> tuple[bytes, int]:
        return key, -(1 << 64) if order is None else -order

    rows_in_order = version_row(one_key, one) < version_row(other_key, other)
    assert rows_in_order == (place(one_key, one) < place(other_key, other))


@given(keys, orders)
def test_what_a_version_row_is_of_is_read_back_from_its_key(key: Key, order: int) -> None:
    row = version_row(key, order)
    assert schema.key_of_version(row) == key
    assert schema.bucket_of_row(row) == BUCKET
    assert schema.slot_of_row(row) == SLOT
    assert schema.logical(schema.physical(row, b"\0\0\0\7")) == row


@given(keys, orders, keys)
def test_seeking_past_a_key_skips_its_versions_and_nothing_else(
    key: Key, order: int, other: Key
) -> None:
    end = schema.versions_end(schema.versions_prefix(SLOT, BUCKET, key))
    assert version_row(key, order) < end
    if other > key:
        assert version_row(other, None) >= end


@given(st.binary(max_size=6), keys)
def test_a_prefixs_range_has_the_keys_that_begin_with_it(prefix: bytes, key: Key) -> None:
    base = schema.bucket_prefix(SLOT, schema.Table.VERSION, BUCKET)
    start = base + schema.escape(prefix)
    is_inside = start <= version_row(key, None) < schema.range_end(start)
    assert is_inside == key.startswith(prefix)


@given(keys, st.integers(0, 1 << 60), uploads)
def test_upload_rows_are_read_back(key: Key, initiated_ms: int, upload: UploadId) -> None:
    row = schema.upload_by_key_key(SLOT, BUCKET, key, initiated_ms, upload)
    assert schema.key_of_upload_by_key(row) == key
    assert schema.upload_of_row(row) == upload


@given(st.binary(min_size=3, max_size=30), st.binary(min_size=1, max_size=50), st.data())
def test_a_sealed_value_with_any_bit_flipped_is_refused(
    key: bytes, payload: bytes, data: st.DataObject
) -> None:
    value = schema.seal(key, payload)
    assert schema.unseal(key, value) == payload
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    flipped = bytearray(value)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(schema.CorruptRow):
        schema.unseal(key, bytes(flipped))
    with pytest.raises(schema.CorruptRow):
        schema.unseal(key + b"x", value)
    with pytest.raises(schema.CorruptRow):
        schema.unseal(key, value[: len(value) // 2])


sealed_rows = st.lists(st.tuples(keys, st.binary(max_size=50)), min_size=1, max_size=6)


def physical_rows(base: bytes, rows: list[tuple[Key, bytes]]) -> list[tuple[bytes, bytes]]:
    sealed = [(base + key, schema.seal(base + key, payload)) for key, payload in rows]
    return [(schema.physical(key, b"\0\0\0\7"), value) for key, value in sealed]


@given(sealed_rows)
def test_a_page_is_unsealed_as_its_rows_are(rows: list[tuple[Key, bytes]]) -> None:
    base = schema.bucket_prefix(SLOT, schema.Table.LISTED, BUCKET)
    found = schema.unseal_page(base, physical_rows(base, rows))
    assert list(zip(*found, strict=True)) == rows
    assert schema.unseal_page(base, []) == ([], [])


@given(sealed_rows, st.data())
def test_a_page_with_any_bit_flipped_is_refused(
    rows: list[tuple[Key, bytes]], data: st.DataObject
) -> None:
    base = schema.bucket_prefix(SLOT, schema.Table.LISTED, BUCKET)
    sealed = physical_rows(base, rows)
    at = data.draw(st.integers(0, len(sealed) - 1))
    key, value = sealed[at]
    flipped = bytearray(key[15:] + value)
    bit = data.draw(st.integers(0, len(flipped) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    cut = len(key) - 15
    sealed[at] = (key[:15] + bytes(flipped[:cut]), bytes(flipped[cut:]))
    with pytest.raises(schema.CorruptRow):
        schema.unseal_page(base, sealed)


def test_values_under_each_other_s_keys_are_refused() -> None:
    """F08."""
    base = schema.bucket_prefix(SLOT, schema.Table.LISTED, BUCKET)
    (one, first), (two, second) = physical_rows(
        base, [(Key(b"k"), b"1"), (Key(b"l"), b"2")]
    )
    with pytest.raises(schema.CorruptRow):
        schema.unseal_page(base, [(one, second), (two, first)])


def test_versions_are_packed_and_read_back_whole() -> None:
    location = chunks(intent(1), 3, missing=(0,), away=(2,))
    for made in (None, draft(b"data"), large_draft(location, tags=(("a", "b"),))):
        version = Version(NULL_VERSION, 77 << 20, 77, made, 12, 3)
        row = payloads.pack_version(
            version.version_id,
            None if made is None else payloads.pack_draft(made),
            order=version.order,
            time_ms=version.time_ms,
            index=version.index,
            term=version.term,
        )
        assert payloads.unpack_version(row) == version


def test_drafts_are_packed_and_unpacked_whole() -> None:
    for made in (
        draft(b"data"),
        draft(b"data", checksum=Checksum("SHA256", bytes(32), "COMPOSITE")),
        large_draft(chunks(intent(1), 2), storage_class="GLACIER", headers=()),
    ):
        packed_draft = payloads.pack_draft(made)
        assert payloads.unpack_draft(packed_draft) == made
        outside = payloads.unpack_outside(packed_draft.location)
        assert outside == (None if isinstance(made.location, Inline) else made.location)


# ---- the envelope of log entries ------------------------------------------------------


@given(st.binary(min_size=16, max_size=16), st.integers(0, (1 << 64) - 1))
def test_an_entry_is_read_back(request: bytes, stamp_ms: int) -> None:
    command = c.PutVersion(SLOT, REF, Key(b"k"), packed(b"data"))
    data = envelope.encode(RequestId(request), stamp_ms, codec.encode(command))
    assert envelope.decode(data) == (RequestId(request), stamp_ms, command)


# ---- part maps ------------------------------------------------------------------------


@given(
    st.dictionaries(st.integers(1, 10_000), st.integers(0, 9), min_size=1, max_size=20),
    st.integers(0, 200),
    st.integers(0, 10_001),
)
def test_a_part_map_finds_bytes_and_numbers(
    sizes: dict[int, int], offset: int, number: int
) -> None:
    ends: list[tuple[int, int]] = []
    owner_of: list[int] = []
    for place, part_number in enumerate(sorted(sizes)):
        owner_of += [place] * sizes[part_number]
        ends.append((part_number, len(owner_of)))
    packed = part_map.pack_map(ends)
    assert part_map.count(packed) == len(sizes)
    found = part_map.place_of_offset(packed, offset)
    assert found == (owner_of[offset] if offset < len(owner_of) else len(sizes))
    place_of_number = part_map.place_of_number(packed, number)
    expected = sorted(sizes).index(number) if number in sizes else None
    assert place_of_number == expected


def test_a_slot_and_a_bucket_at_their_limits_have_keys() -> None:
    row = schema.fence_key(Slot(4096), BucketId((1 << 64) - 1))
    assert schema.slot_of_row(row) == schema.CLUSTER_SLOT
    assert schema.table_of_row(row) == schema.Table.FENCE
