"""Segments byte by byte: a header, then records, one a fragment.

    segment   | header, 4 KiB | record | record | unused ...            (all numbers LE)

    header    offset  size  field
              0       4     magic b"OSSG"
              4       2     format (1)
              6       2     size of what the checksum covers (44)
              8       8     drive id
              16      4     segment number
              20      8     nonce: random, in every record of this segment too
              28      8     created, ms since the epoch
              36      4     reserved, 0
              40      4     CRC32C of bytes 0 .. 39
              44            zeros up to 4096

    record    at a multiple of 4 KiB, which its extent fills

              | record header, 4 KiB | payload | table | trailer | zeros |

    header    0       4     magic b"OSR1"; b"OSRX" once the fragment is deleted
              4       2     format (2; 1 is read: see below)
              6       2     header size: 96 + the three texts; zeros up to 4 KiB
              8       4     CRC32C of bytes 4 .. 7 and 12 .. header size
              12      8     the segment's nonce
              20      8     place: this record's offset in the segment
              28      17    fragment id: chunk id and number
              45      1     reserved, 0
              46      2     size of the scheme
              48      2     size of the key
              50      2     size of the upload id; 0xFFFF: none
              52      4     block size
              56      8     payload size
              64      8     extent size: header, payload, table, trailer, rounded up
              72      8     created, ms since the epoch
              80      8     bucket
              88      4     slot
              92      4     piece size: payload bytes an entry of the table covers
              96            scheme, key, upload id

    table     4 bytes a piece: CRC32C of (fragment id, piece number u32, CRC32C of piece)

    trailer   0       4     magic b"OSRT"
              4       4     CRC32C of (fragment id, table)
              8       8     the segment's nonce
              16      8     place, as in the header
              24      4     the header's CRC32C
              28      4     CRC32C of bytes 0 .. 27

A payload is cut into blocks (what is written at once), each block into pieces (what is read
and verified at once), the last of either being shorter.  Format 1 differs in two things:
the payload follows the header's last byte, and a piece is a block (bytes 92 to 95 are 0).

What this buys.  A table entry fits one piece of one fragment, so a piece (or a table, or a
whole record) that a drive put in the wrong place does not pass (FAULTS F08).  Nonce and
place do the same for headers, and bytes that a client uploads cannot pose as a record,
because it cannot know the nonce.  The payload size is known before the first byte: an
extent is reserved whole, so several writers fill one segment, and a record *is there* once
its trailer is.  The magic of a record is the only thing ever overwritten; it is outside
the checksum, and anything but b"OSRX" means live, so no single flipped bit deletes.
A payload that begins at a page can go to the drive from where it was received, past the
page cache; a piece is what a small read costs, however large the blocks are.

This module only packs and unpacks bytes: it opens no file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import Enum
from functools import cached_property

import attrs

from objstore.buffer import Buffer
from objstore.chunks.fragment import FragmentHeader, FragmentOwner
from objstore.errors import CorruptData
from objstore.frozen import frozen
from objstore.ids import CHUNK_ID_SIZE, BucketId, DriveId, FragmentId, Key, Slot, UploadId
from objstore.limits import (
    BLOCK_SIZE,
    CHUNK_SIZE_MAX,
    FRAGMENTS_MAX,
    KEY_SIZE_MAX,
    PIECE_SIZE,
    RECORD_ALIGNMENT,
)
from objstore.sums import Sums, crc32c

SEGMENT_FORMAT = 1
RECORD_FORMAT = 2
SEGMENT_HEADER_SIZE = RECORD_ALIGNMENT
NONCE_SIZE = 8
TRAILER_SIZE = 32
MAGIC_SIZE = 4
LIVE_MAGIC = b"OSR1"
DEAD_MAGIC = b"OSRX"
PIECES_MAX = 65_536  # 256 KiB of table; a fragment of 1 GiB in pieces of 16 KiB.

_SEGMENT_MAGIC = b"OSSG"
_TRAILER_MAGIC = b"OSRT"
_SEGMENT = struct.Struct("<4sHH8sI8sQII")
_RECORD = struct.Struct("<4sHHI8sQ17sBHHHIQQQQII")
_RECORD_SIZE = 96
_CRC_AT = 8
_CRC_END = 12
_TRAILER = struct.Struct("<4sI8sQII")
_ENTRY = struct.Struct("<17sII")
_CRC = struct.Struct("<I")
_NO_UPLOAD = 0xFFFF
_SCHEME_SIZE_MAX = 64
_UPLOAD_SIZE_MAX = 256
HEADER_SIZE_MAX = _RECORD_SIZE + _SCHEME_SIZE_MAX + KEY_SIZE_MAX + _UPLOAD_SIZE_MAX

assert _SEGMENT.size == 44
assert _RECORD.size == _RECORD_SIZE
assert _TRAILER.size == TRAILER_SIZE
assert HEADER_SIZE_MAX <= RECORD_ALIGNMENT


class CorruptRecord(CorruptData):
    """A part of a record or segment does not pass its checks."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at {offset}: {reason}")
        self.offset = offset
        self.reason = reason


# ---- segment header -------------------------------------------------------------------


@attrs.frozen
class SegmentHeader:
    """The first page of a segment file."""

    drive: DriveId
    number: int  # 1 .. 2^32 - 1, never used twice on a drive.
    nonce: bytes  # NONCE_SIZE random bytes.
    created_ms: int


def encode_segment_header(header: SegmentHeader) -> bytes:
    fields = (
        _SEGMENT_MAGIC,
        SEGMENT_FORMAT,
        _SEGMENT.size,
        bytes.fromhex(header.drive),
        header.number,
        header.nonce,
        header.created_ms,
        0,
    )
    data = _SEGMENT.pack(*fields, 0)[: -_CRC.size]
    return (data + _CRC.pack(crc32c(data))).ljust(SEGMENT_HEADER_SIZE, b"\0")


def decode_segment_header(buffer: bytes) -> SegmentHeader:
    """Parse a segment's first page.  Raises CorruptRecord."""
    if len(buffer) < _SEGMENT.size:
        raise CorruptRecord(0, "segment header cut short")
    magic, version, _, drive, number, nonce, created_ms, _, crc = _SEGMENT.unpack_from(
        buffer
    )
    if magic != _SEGMENT_MAGIC or crc != crc32c(buffer[: _SEGMENT.size - _CRC.size]):
        raise CorruptRecord(0, "segment header checksum mismatch")
    if version != SEGMENT_FORMAT:
        raise CorruptRecord(0, f"segment format {version} cannot be read")
    return SegmentHeader(DriveId(drive.hex()), number, nonce, created_ms)


def nonce_of_record(buffer: bytes, *, place: int) -> bytes | None:
    """The nonce inside a sound record header at `place`: for a damaged segment header."""
    if len(buffer) < _RECORD_SIZE:
        return None
    nonce: bytes = _RECORD.unpack_from(buffer)[4]
    try:
        decode_record_header(buffer, nonce=nonce, place=place)
    except CorruptRecord:
        return None
    return nonce


# ---- where the parts of a record lie --------------------------------------------------


@frozen
class Extent:
    """Where the parts of one record lie, relative to its start, in bytes."""

    payload_offset: int
    payload_size: int
    block_size: int
    piece_size: int  # At most a block.

    @property
    def block_count(self) -> int:
        return -(-self.payload_size // self.block_size)

    @cached_property
    def pieces_a_block(self) -> int:
        """Of a whole block."""
        return -(-self.block_size // self.piece_size)

    @cached_property
    def piece_count(self) -> int:
        blocks, rest = divmod(self.payload_size, self.block_size)
        return blocks * self.pieces_a_block - (-rest // self.piece_size)

    @property
    def table_offset(self) -> int:
        return self.payload_offset + self.payload_size

    @property
    def tail_size(self) -> int:
        """Bytes of table and trailer."""
        return _CRC.size * self.piece_count + TRAILER_SIZE

    @cached_property
    def size(self) -> int:
        """Of the whole extent, a multiple of RECORD_ALIGNMENT."""
        return align(self.table_offset + self.tail_size)

    def block_offset(self, number: int) -> int:
        return self.payload_offset + number * self.block_size

    def size_of_block(self, number: int) -> int:
        return min(self.block_size, self.payload_size - number * self.block_size)

    def piece_at(self, offset: int) -> int:
        """The number of the piece that holds byte `offset` of the payload."""
        block, rest = divmod(offset, self.block_size)
        return block * self.pieces_a_block + rest // self.piece_size

    def piece(self, number: int) -> tuple[int, int]:
        """Where piece `number` begins and ends in the payload."""
        block, rest = divmod(number, self.pieces_a_block)
        start = block * self.block_size + rest * self.piece_size
        end = min(start + self.piece_size, (block + 1) * self.block_size)
        return start, min(end, self.payload_size)


def align(size: int) -> int:
    """`size` rounded up to where a record may start."""
    return -(-size // RECORD_ALIGNMENT) * RECORD_ALIGNMENT


def extent_of(header: FragmentHeader) -> Extent:
    """The extent that a fragment needs.  Raises CorruptData if no record can hold it."""
    _check_bounds(header)
    piece_size = min(header.block_size, PIECE_SIZE)
    extent = Extent(RECORD_ALIGNMENT, header.payload_size, header.block_size, piece_size)
    _check_pieces(header.fragment, extent)
    return extent


def _check_pieces(fragment: FragmentId, extent: Extent) -> None:
    if not 0 < extent.piece_size <= extent.block_size or extent.piece_count > PIECES_MAX:
        raise CorruptData(f"fragment {fragment}: its pieces are out of bounds")


def is_fragment_id(fragment: FragmentId) -> bool:
    """Whether an id that came from elsewhere has an id's form."""
    return len(fragment.chunk) == CHUNK_ID_SIZE and 0 <= fragment.index < FRAGMENTS_MAX


def _check_bounds(header: FragmentHeader) -> None:
    owner = header.owner
    is_sound = (
        is_fragment_id(header.fragment)
        and 0 <= header.payload_size <= CHUNK_SIZE_MAX
        and 0 < header.block_size <= BLOCK_SIZE
        and len(header.scheme.encode()) <= _SCHEME_SIZE_MAX
        and len(owner.key) <= KEY_SIZE_MAX
        and 0 <= owner.bucket < 1 << 64
        and 0 <= owner.slot < 1 << 32
        and 0 <= header.created_ms < 1 << 64
        and len((owner.upload or "").encode()) <= _UPLOAD_SIZE_MAX
    )
    if not is_sound:
        raise CorruptData(
            f"fragment {header.fragment}: a size in its header is out of bounds"
        )


# ---- record header --------------------------------------------------------------------


class RecordState(Enum):
    """What the magic says."""

    LIVE = "live"
    DEAD = "dead"


@frozen
class RecordHeader:
    """A record's header, as read from a segment."""

    fragment: FragmentHeader
    extent: Extent
    state: RecordState
    crc: int


def encode_record_header(
    header: FragmentHeader, *, extent: Extent, nonce: bytes, place: int
) -> bytes:
    """Pack the header of the record at offset `place`; `extent`: that of the header."""
    assert place % RECORD_ALIGNMENT == 0
    assert len(nonce) == NONCE_SIZE
    scheme = header.scheme.encode()
    owner = header.owner
    upload = None if owner.upload is None else owner.upload.encode()
    texts = b"".join((scheme, owner.key, upload or b""))
    head = _RECORD.pack(
        LIVE_MAGIC,
        RECORD_FORMAT,
        _RECORD_SIZE + len(texts),
        0,
        nonce,
        place,
        header.fragment.encode(),
        0,
        len(scheme),
        len(owner.key),
        _NO_UPLOAD if upload is None else len(upload),
        header.block_size,
        header.payload_size,
        extent.size,
        header.created_ms,
        owner.bucket,
        owner.slot,
        extent.piece_size,
    )
    data = head + texts
    return b"".join((data[:_CRC_AT], _CRC.pack(_header_crc(data)), data[_CRC_END:]))


def _header_crc(data: Buffer) -> int:
    view = memoryview(data)
    return crc32c(view[_CRC_END:], crc32c(view[MAGIC_SIZE:_CRC_AT]))


def decode_record_header(buffer: Buffer, *, nonce: bytes, place: int) -> RecordHeader:
    """Parse the header at the start of `buffer`, read from offset `place`.

    The payload is not looked at.  Raises CorruptRecord.
    """
    if len(buffer) < _RECORD_SIZE:
        raise CorruptRecord(place, "record header cut short")
    fields = _RECORD.unpack_from(buffer)
    magic, version, header_size, crc, found_nonce, found_place = fields[:6]
    if found_nonce != nonce or not _RECORD_SIZE <= header_size <= len(buffer):
        raise CorruptRecord(place, "no record header")
    if crc != _header_crc(memoryview(buffer)[:header_size]):
        raise CorruptRecord(place, "record header checksum mismatch")
    if found_place != place:
        raise CorruptRecord(place, f"record header belongs to offset {found_place}")
    if version not in {1, RECORD_FORMAT}:
        raise CorruptRecord(place, f"record format {version} cannot be read")
    fragment = _fragment_header(buffer, header_size, fields)
    try:
        _check_bounds(fragment)
        extent = Extent(
            header_size if version == 1 else RECORD_ALIGNMENT,
            fragment.payload_size,
            fragment.block_size,
            fragment.block_size if version == 1 else fields[17],
        )
        _check_pieces(fragment.fragment, extent)
    except CorruptData as error:
        raise CorruptRecord(place, str(error)) from error
    if extent.size != fields[13] or header_size != _size_of(fragment):
        raise CorruptRecord(place, "record header's sizes do not agree")
    state = RecordState.DEAD if magic == DEAD_MAGIC else RecordState.LIVE
    return RecordHeader(fragment, extent, state, crc)


def _size_of(header: FragmentHeader) -> int:
    """Of the header itself."""
    owner = header.owner
    texts = (header.scheme.encode(), owner.key, (owner.upload or "").encode())
    return _RECORD_SIZE + sum(map(len, texts))


def _fragment_header(
    buffer: Buffer, header_size: int, fields: tuple[object, ...]
) -> FragmentHeader:
    fragment, _, scheme_size, key_size, upload_size, block_size, payload_size = fields[6:13]
    created_ms, bucket, slot = fields[14:17]
    assert isinstance(fragment, bytes)
    assert isinstance(scheme_size, int)
    assert isinstance(key_size, int)
    texts = bytes(memoryview(buffer)[_RECORD_SIZE:header_size])
    upload = texts[scheme_size + key_size :]
    return FragmentHeader(
        fragment=FragmentId.decode(fragment),
        owner=FragmentOwner(
            bucket=BucketId(bucket),  # type: ignore[arg-type]
            slot=Slot(slot),  # type: ignore[arg-type]
            key=Key(texts[scheme_size : scheme_size + key_size]),
            upload=None if upload_size == _NO_UPLOAD else UploadId(upload.decode()),
        ),
        scheme=texts[:scheme_size].decode(),
        payload_size=payload_size,  # type: ignore[arg-type]
        block_size=block_size,  # type: ignore[arg-type]
        created_ms=created_ms,  # type: ignore[arg-type]
    )


# ---- table and trailer ----------------------------------------------------------------


def entry_of(fragment: bytes, number: int, crc: int) -> int:
    """The table entry of piece `number` whose own CRC32C is `crc`."""
    return crc32c(_ENTRY.pack(fragment, number, crc))


def entries_of(fragment: bytes, first: int, sums: Sums) -> list[int]:
    """The entries of a block's pieces, of which `first` is the number of the first."""
    return [entry_of(fragment, first + at, crc) for at, crc in enumerate(sums.pieces)]


def encode_tail(
    entries: Sequence[int],
    *,
    fragment: FragmentId,
    nonce: bytes,
    place: int,
    header_crc: int,
) -> bytes:
    """Pack table and trailer: written last, they make the record complete."""
    table = struct.pack(f"<{len(entries)}I", *entries)
    table_crc = crc32c(table, crc32c(fragment.encode()))
    trailer = _TRAILER.pack(_TRAILER_MAGIC, table_crc, nonce, place, header_crc, 0)
    trailer = trailer[: -_CRC.size]
    return b"".join((table, trailer, _CRC.pack(crc32c(trailer))))


def decode_tail(
    buffer: Buffer,
    *,
    fragment: FragmentId,
    nonce: bytes,
    place: int,
    header_crc: int | None = None,
) -> tuple[int, ...]:
    """Parse table and trailer, which `buffer` is exactly; the table's entries.

    header_crc: of the record's header, compared where given.
    Raises CorruptRecord.
    """
    view = memoryview(buffer)
    split = len(view) - TRAILER_SIZE
    if split < 0 or split % _CRC.size:
        raise CorruptRecord(place, "record cut short")
    magic, table_crc, found_nonce, found_place, found_header_crc, crc = _TRAILER.unpack(
        view[split:]
    )
    if magic != _TRAILER_MAGIC or crc != crc32c(view[split : -_CRC.size]):
        raise CorruptRecord(place, "record trailer checksum mismatch")
    if (found_nonce, found_place) != (nonce, place):
        raise CorruptRecord(place, "record trailer belongs to another record")
    if header_crc is not None and found_header_crc != header_crc:
        raise CorruptRecord(place, "record trailer does not fit its header")
    if table_crc != crc32c(view[:split], crc32c(fragment.encode())):
        raise CorruptRecord(place, "checksum table is damaged")
    return struct.unpack(f"<{split // _CRC.size}I", view[:split])


def first_header_crc(header: bytes) -> int:
    """The checksum inside an encoded record header."""
    crc: int = _CRC.unpack_from(header, _CRC_AT)[0]
    return crc
