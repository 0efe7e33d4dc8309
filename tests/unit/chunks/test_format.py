"""Records byte by byte: what was packed is unpacked, and any flipped bit is seen."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.chunks import format as fmt
from objstore.chunks.format import CorruptRecord, RecordState, SegmentHeader
from objstore.chunks.fragment import FragmentHeader, FragmentOwner
from objstore.errors import CorruptData
from objstore.ids import BucketId, ChunkId, DriveId, FragmentId, Key, Slot, UploadId
from objstore.limits import BLOCK_SIZE, CHUNK_SIZE_MAX, RECORD_ALIGNMENT

NONCE = bytes(range(8))
PLACE = 5 * RECORD_ALIGNMENT

FRAGMENTS = st.builds(
    FragmentId, st.binary(min_size=16, max_size=16).map(ChunkId), st.integers(0, 255)
)
OWNERS = st.builds(
    FragmentOwner,
    st.integers(0, 2**64 - 1).map(BucketId),
    st.integers(0, 4095).map(Slot),
    st.binary(min_size=1, max_size=1024).map(Key),
    st.none() | st.text("0123456789abcdef", max_size=32).map(UploadId),
)
HEADERS = st.builds(
    FragmentHeader,
    FRAGMENTS,
    OWNERS,
    st.sampled_from(["replicate:3", "ec:4+2", "replicate:1"]),
    st.integers(0, CHUNK_SIZE_MAX),
    st.integers(64 * 1024, BLOCK_SIZE),
    st.integers(0, 2**63),
)
SMALL = FragmentHeader(
    FragmentId(ChunkId(b"c" * 16), 3),
    FragmentOwner(BucketId(1), Slot(2), Key(b"key"), UploadId("u")),
    "ec:4+2",
    10_000,
    4096,
    1_700_000_000_000,
)


def packed(header: FragmentHeader = SMALL) -> bytes:
    return fmt.encode_record_header(header, nonce=NONCE, place=PLACE)


@given(HEADERS)
def test_header_is_unpacked_as_it_was_packed(header: FragmentHeader) -> None:
    data = packed(header)
    found = fmt.decode_record_header(data + b"payload", nonce=NONCE, place=PLACE)
    assert found.fragment == header
    assert found.extent == fmt.extent_of(header)
    assert found.state is RecordState.LIVE
    assert found.crc == fmt.first_header_crc(data)
    assert len(data) == found.extent.header_size <= fmt.HEADER_SIZE_MAX


@given(st.integers(min_value=0), st.integers(0, 7))
def test_any_flipped_bit_of_a_header_is_seen_but_for_the_mark(at: int, bit: int) -> None:
    """F06"""
    data = bytearray(packed())
    at %= len(data)
    data[at] ^= 1 << bit
    if at < fmt.MAGIC_SIZE:  # No single bit makes a live record a dead one.
        found = fmt.decode_record_header(data, nonce=NONCE, place=PLACE)
        assert found.fragment == SMALL
        assert found.state is RecordState.LIVE
    else:
        with pytest.raises(CorruptRecord):
            fmt.decode_record_header(data, nonce=NONCE, place=PLACE)


def test_header_marked_dead_still_tells_how_far_to_skip() -> None:
    data = fmt.DEAD_MAGIC + packed()[fmt.MAGIC_SIZE :]
    found = fmt.decode_record_header(data, nonce=NONCE, place=PLACE)
    assert found.state is RecordState.DEAD
    assert found.extent.size == fmt.extent_of(SMALL).size


def test_header_in_another_place_or_segment_is_refused() -> None:
    """F08"""
    with pytest.raises(CorruptRecord):
        fmt.decode_record_header(packed(), nonce=NONCE, place=PLACE + RECORD_ALIGNMENT)
    with pytest.raises(CorruptRecord):
        fmt.decode_record_header(packed(), nonce=bytes(8), place=PLACE)


def test_header_cut_anywhere_is_refused() -> None:
    data = packed()
    for size in range(len(data)):
        with pytest.raises(CorruptRecord):
            fmt.decode_record_header(data[:size], nonce=NONCE, place=PLACE)


@pytest.mark.parametrize(
    "header",
    [
        attrs.evolve(SMALL, payload_size=CHUNK_SIZE_MAX + 1),
        attrs.evolve(SMALL, block_size=BLOCK_SIZE + 1),
        attrs.evolve(SMALL, payload_size=CHUNK_SIZE_MAX, block_size=1),
        attrs.evolve(SMALL, scheme="s" * 65),
        attrs.evolve(SMALL, created_ms=-1),
        attrs.evolve(SMALL, owner=attrs.evolve(SMALL.owner, key=Key(b"k" * 1025))),
        attrs.evolve(SMALL, owner=attrs.evolve(SMALL.owner, slot=Slot(-1))),
        attrs.evolve(SMALL, fragment=FragmentId(ChunkId(b"short"), 0)),
        attrs.evolve(SMALL, fragment=FragmentId(ChunkId(b"c" * 16), 256)),
    ],
    ids=str,
)
def test_fragment_that_no_record_can_hold_is_refused(header: FragmentHeader) -> None:
    with pytest.raises(CorruptData):
        fmt.extent_of(header)


def tail(entries: list[int]) -> bytes:
    return fmt.encode_tail(
        entries, fragment=SMALL.fragment, nonce=NONCE, place=PLACE, header_crc=77
    )


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_table_is_unpacked_as_it_was_packed(entries: list[int]) -> None:
    found = fmt.decode_tail(
        tail(entries), fragment=SMALL.fragment, nonce=NONCE, place=PLACE, header_crc=77
    )
    assert found == tuple(entries)


@given(st.integers(min_value=0), st.integers(0, 7))
def test_any_flipped_bit_of_table_or_trailer_is_seen(at: int, bit: int) -> None:
    """F06"""
    data = bytearray(tail([1, 2, 3]))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(CorruptRecord):
        fmt.decode_tail(data, fragment=SMALL.fragment, nonce=NONCE, place=PLACE)


@pytest.mark.parametrize(
    "change",
    [
        {"fragment": FragmentId(ChunkId(b"c" * 16), 4)},
        {"nonce": bytes(8)},
        {"place": PLACE + RECORD_ALIGNMENT},
        {"header_crc": 78},
    ],
    ids=str,
)
def test_trailer_of_another_record_does_not_fit(change: dict[str, object]) -> None:
    """F08"""
    fits = {"fragment": SMALL.fragment, "nonce": NONCE, "place": PLACE, "header_crc": 77}
    with pytest.raises(CorruptRecord):
        fmt.decode_tail(tail([1, 2]), **(fits | change))


@given(FRAGMENTS, FRAGMENTS, st.integers(0, 9), st.integers(0, 9), st.binary(max_size=64))
def test_entry_fits_one_block_of_one_fragment(
    one: FragmentId, other: FragmentId, m: int, n: int, data: bytes
) -> None:
    """F08"""
    crc = fmt.crc32c(data)
    entries = fmt.entry_of(one.encode(), m, crc), fmt.entry_of(other.encode(), n, crc)
    assert (entries[0] == entries[1]) == ((one, m) == (other, n))


@given(st.integers(1, 2**32 - 1), st.binary(min_size=8, max_size=8), st.integers(0, 2**63))
def test_segment_header_round_trip(number: int, nonce: bytes, created_ms: int) -> None:
    header = SegmentHeader(DriveId("0123456789abcdef"), number, nonce, created_ms)
    data = fmt.encode_segment_header(header)
    assert len(data) == fmt.SEGMENT_HEADER_SIZE
    assert fmt.decode_segment_header(data) == header


@given(st.integers(0, 43), st.integers(0, 7))
def test_any_flipped_bit_of_a_segment_header_is_seen(at: int, bit: int) -> None:
    """F06"""
    header = SegmentHeader(DriveId("0123456789abcdef"), 5, NONCE, 1)
    data = bytearray(fmt.encode_segment_header(header))
    data[at] ^= 1 << bit
    with pytest.raises(CorruptRecord):
        fmt.decode_segment_header(bytes(data))


def test_crc_takes_any_buffer_and_goes_on_from_another() -> None:
    data = b"123456789"
    assert fmt.crc32c(data) == 0xE3069283  # RFC 3720, B.4.
    assert fmt.crc32c(bytearray(data)) == fmt.crc32c(memoryview(data)) == 0xE3069283
    assert fmt.crc32c(data[4:], fmt.crc32c(data[:4])) == 0xE3069283
