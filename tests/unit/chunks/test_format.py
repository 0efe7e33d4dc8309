"""Records byte by byte: what was packed is unpacked, and any flipped bit is seen."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import attrs
import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.chunks import format as fmt
from objstore.chunks import segment as seg
from objstore.chunks.format import CorruptRecord, RecordState, SegmentHeader
from objstore.chunks.fragment import FragmentHeader, FragmentOwner
from objstore.errors import CorruptData
from objstore.host.real_disk import RealDisks
from objstore.ids import BucketId, ChunkId, DriveId, FragmentId, Key, Slot, UploadId
from objstore.limits import BLOCK_SIZE, CHUNK_SIZE_MAX, RECORD_ALIGNMENT
from objstore.sums import Sums
from objstore.units import KiB

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
    extent = fmt.extent_of(header)
    return fmt.encode_record_header(header, extent=extent, nonce=NONCE, place=PLACE)


@given(HEADERS)
def test_header_is_unpacked_as_it_was_packed(header: FragmentHeader) -> None:
    data = packed(header)
    found = fmt.decode_record_header(data + b"payload", nonce=NONCE, place=PLACE)
    assert found.fragment == header
    assert found.extent == fmt.extent_of(header)
    assert found.state is RecordState.LIVE
    assert found.crc == fmt.first_header_crc(data)
    assert len(data) <= fmt.HEADER_SIZE_MAX <= found.extent.payload_offset


@given(st.integers(0, 3 * 1024), st.integers(1, 700), st.integers(1, 700))
def test_pieces_cover_a_payload_and_none_crosses_a_block(
    payload_size: int, block_size: int, piece_size: int
) -> None:
    extent = fmt.Extent(4096, payload_size, block_size, min(piece_size, block_size))
    end = 0
    for number in range(extent.piece_count):
        start, stop = extent.piece(number)
        assert start == end < stop
        assert start // block_size == (stop - 1) // block_size
        assert extent.piece_at(start) == extent.piece_at(stop - 1) == number
        end = stop
    assert end == payload_size


def test_records_of_format_1_are_read() -> None:
    """They have the payload behind the header's last byte, and a checksum a block."""
    header = attrs.evolve(SMALL, payload_size=10_000, block_size=4096)
    data = packed_1(header)
    found = fmt.decode_record_header(data, nonce=NONCE, place=PLACE)
    assert found.fragment == header
    assert found.extent == fmt.Extent(len(data), 10_000, 4096, 4096)


def test_a_record_of_format_1_is_found_and_served(tmp_path: Path) -> None:
    header = attrs.evolve(SMALL, payload_size=10_000, block_size=4096)
    data, head = bytes(range(250)) * 40, packed_1(header)
    name = header.fragment.encode()
    entries = [
        fmt.entry_of(name, number, fmt.crc32c(data[start : start + 4096]))
        for number, start in enumerate(range(0, len(data), 4096))
    ]
    crc = fmt.first_header_crc(head)
    tail = fmt.encode_tail(
        entries, fragment=header.fragment, nonce=NONCE, place=PLACE, header_crc=crc
    )
    file = RealDisks().directory(str(tmp_path)).open("segment", create=True)
    file.write_at(PLACE, [head, data, tail])
    (found,) = seg.scan(file, nonce=NONCE, start=RECORD_ALIGNMENT)
    assert isinstance(found, seg.Found)
    assert found.kind is seg.RecordFound.COMPLETE
    where = {"nonce": NONCE, "place": PLACE, "extent": found.header.extent}
    for start, end in ((0, 10_000), (4095, 4097), (9_999, 10_000)):
        got = seg.read_range(
            file.read_at, header.fragment, start=start, end=end, entries=None, **where
        )
        assert got.data == data[start:end]
    file.write_at(PLACE + len(head) + 5_000, b"!")
    with pytest.raises(CorruptRecord):
        seg.read_range(
            file.read_at, header.fragment, start=4096, end=8192, entries=None, **where
        )
    file.close()


def packed_1(header: FragmentHeader) -> bytes:
    """The header as format 1 had it."""
    data = bytearray(packed(header))
    extent = fmt.Extent(
        len(data), header.payload_size, header.block_size, header.block_size
    )
    struct.pack_into("<H", data, 4, 1)
    struct.pack_into("<Q", data, 64, extent.size)
    struct.pack_into("<I", data, 92, 0)
    crc = fmt.crc32c(bytes(data[12:]), fmt.crc32c(bytes(data[4:8])))
    struct.pack_into("<I", data, 8, crc)
    return bytes(data)


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


@pytest.mark.parametrize("size", [1, 128 * KiB, 300_001, BLOCK_SIZE - 1, BLOCK_SIZE])
def test_entries_of_a_block_are_those_of_its_pieces(size: int) -> None:
    header = attrs.evolve(SMALL, payload_size=BLOCK_SIZE + size, block_size=BLOCK_SIZE)
    data = random.Random(size).randbytes(size)
    first = fmt.extent_of(header).pieces_a_block
    assert fmt.entries_of(b"f" * 17, first, Sums.of(data)) == [
        fmt.entry_of(
            b"f" * 17, first + at, google_crc32c.value(data[start : start + 128 * KiB])
        )
        for at, start in enumerate(range(0, size, 128 * KiB))
    ]


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
