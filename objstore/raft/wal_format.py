"""How the write-ahead log lies in its files.

A segment file is a header, twice, and records from 8 KiB on:

    offset  size  field of the header, at 0 and again at 4,096
    0       4     magic, b"OSWL"
    4       4     uint32le  CRC32C of the 32 bytes that follow
    8       4     uint32le  format, 1
    12      4     zero
    16      8     uint64le  generation: the number of this use of a file, from 1
    24      8     uint64le  sequence of the first record
    32      8     salt, random

    offset  size  field of a record
    0       4     magic, b"OSWR"
    4       4     uint32le  CRC32C of the generation (uint64le), the salt and bytes 8 .. 56
    8       4     uint32le  CRC32C of the payload
    12      4     uint32le  payload size
    16      8     uint64le  sequence: one more than the record before, over all files
    24      8     uint64le  durable: the highest sequence that was durable before this write
    32      4     uint32le  group
    36      1     uint8     type
    37      1     uint8     ENTRY: its kind; HARD_STATE, TOMBSTONE: the damage
    38      2     zero
    40      8     uint64le  term
    48      8     uint64le  index
    56      ...   payload, then zeros up to a multiple of 8

Files are used again without being cleared, so what stands behind the end is arbitrary.
The generation in the checksum keeps old records from ever being taken for new ones, the
salt does so for payloads that were made to look like records.

Torn or corrupt?  Where the record that must come next is not there, `durable` decides: if
any record of this segment that stands further behind knows the missing one to be durable,
it was acknowledged, and is *lost*. Else it is of the last write before a crash, which
nobody was told of, and the log ends before it: the rest is *cut*. In a segment that is
not the last, all records up to the next one's first were durable. The header's own
checksum tells even for a bad payload whose it was.

This module reads and writes bytes only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final

import attrs
from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

from objstore.errors import CorruptData
from objstore.frozen import frozen

FORMAT = 1
HEADER_COPIES = (0, 4096)  # Two blocks of a drive, so that one bad block loses no file.
DATA_OFFSET = 8192
ALIGNMENT = 8
NO_GROUP = 2**32 - 1

_SEGMENT_MAGIC = b"OSWL"
_RECORD_MAGIC = b"OSWR"
_SEGMENT_HEAD = struct.Struct("<4sI")
_SEGMENT_BODY = struct.Struct("<IIQQ8s")
SALT_SIZE = 8
_RECORD_HEAD = struct.Struct("<4sI")
_RECORD_BODY = struct.Struct("<IIQQIBBHQQ")
_GENERATION = struct.Struct("<Q")
RECORD_HEADER_SIZE = _RECORD_HEAD.size + _RECORD_BODY.size
assert _SEGMENT_HEAD.size + _SEGMENT_BODY.size == 40
assert RECORD_HEADER_SIZE == 56
assert RECORD_HEADER_SIZE % ALIGNMENT == 0

_PADDING = tuple(bytes(n) for n in range(ALIGNMENT))


class RecordType(IntEnum):
    """What a record says about its group."""

    ENTRY = 1  # One entry; void are those at its index and above if their term differs.
    HARD_STATE = 2  # index: entries up to it may be missing, the machine has them.
    TRUNCATE = 3  # Entries at `index` and above are void.
    SNAPSHOT = 4  # A snapshot up to (term, index) is about to be installed.
    TOMBSTONE = 5  # The replica was destroyed; its term and vote remain.
    MENDED = 6  # Damage from earlier records is made good.
    MARK = 7  # Nothing, but that everything before it is durable.
    RELEASED = 8  # Segments of a generation below `index` were given up.


ENTRY: Final = RecordType.ENTRY  # As `state_machine.MEMBERSHIP`.


@frozen
class Record:
    group: int
    type: RecordType
    term: int = 0
    index: int = 0
    detail: int = 0  # ENTRY: its kind; HARD_STATE, TOMBSTONE: the damage.
    payload: bytes = b""  # ENTRY: its data; HARD_STATE, TOMBSTONE: commit and vote.
    size: int = attrs.field(init=False)  # Bytes it takes in a segment.

    @size.default
    def _size_of_payload(self) -> int:  # As `record_size`, which is a call more.
        size = len(self.payload)
        return RECORD_HEADER_SIZE + size + (-size % ALIGNMENT)


def record_size(payload_size: int) -> int:
    return RECORD_HEADER_SIZE + payload_size + (-payload_size % ALIGNMENT)


@frozen
class SegmentHeader:
    generation: int
    first_sequence: int
    salt: bytes
    # What every record header's checksum begins with.
    seed: bytes = attrs.field(init=False, repr=False)

    @seed.default
    def _seed(self) -> bytes:
        return _GENERATION.pack(self.generation) + self.salt


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Both copies, up to where records begin."""
    body = _SEGMENT_BODY.pack(
        FORMAT, 0, header.generation, header.first_sequence, header.salt
    )
    copy = _SEGMENT_HEAD.pack(_SEGMENT_MAGIC, crc32c(body)) + body
    region = bytearray(DATA_OFFSET)
    for offset in HEADER_COPIES:
        region[offset : offset + len(copy)] = copy
    return bytes(region)


class CorruptHeader(CorruptData):
    """Neither copy of a segment's header is good: nothing in the file can be verified."""


def decode_segment_header(region: bytes) -> SegmentHeader:
    """Read the first good copy.  Raises CorruptHeader, or CorruptData for its format."""
    for offset in HEADER_COPIES:
        body_at = offset + _SEGMENT_HEAD.size
        body = region[body_at : body_at + _SEGMENT_BODY.size]
        if len(body) < _SEGMENT_BODY.size:
            continue
        magic, crc = _SEGMENT_HEAD.unpack_from(region, offset)
        if magic != _SEGMENT_MAGIC or crc32c(body) != crc:
            continue
        form, _, generation, first_sequence, salt = _SEGMENT_BODY.unpack(body)
        if form != FORMAT:
            raise CorruptData(f"write-ahead log segment of unknown format {form}")
        return SegmentHeader(generation, first_sequence, salt)
    raise CorruptHeader("both copies of a write-ahead log segment's header are bad")


def pack(
    records: Sequence[Record], header: SegmentHeader, *, first_sequence: int, durable: int
) -> list[bytes]:
    """Write records in a row, as buffers, for the segment with `header`."""
    seed_crc = crc32c(header.seed)
    buffers: list[bytes] = []
    for sequence, record in enumerate(records, first_sequence):
        payload = record.payload
        size = len(payload)
        body = _RECORD_BODY.pack(
            crc32c(payload),
            size,
            sequence,
            durable,
            record.group,
            record.type,
            record.detail,
            0,
            record.term,
            record.index,
        )
        head = _RECORD_HEAD.pack(_RECORD_MAGIC, crc32c_extend(seed_crc, body))
        buffers += (head, body, payload, _PADDING[-size % ALIGNMENT])
    return buffers


@frozen
class Good:
    """A record as it was written."""

    sequence: int
    record: Record


@frozen
class Lost:
    """Records that may have been acknowledged and are not readable.

    record: the header of the one lost record, if that is intact; else None.
    """

    sequence: int
    count: int
    offset: int
    record: Record | None


@frozen
class Cut:
    """The log ends here; behind are remains of a write that was never acknowledged."""

    sequence: int
    offset: int


@frozen
class _Head:
    offset: int
    sequence: int
    durable: int
    payload_size: int
    payload_crc: int
    group: int
    type: RecordType
    term: int
    index: int
    detail: int

    def record(self, payload: bytes) -> Record:
        return Record(self.group, self.type, self.term, self.index, self.detail, payload)

    @property
    def end(self) -> int:
        return self.offset + record_size(self.payload_size)


def scan(
    data: bytes, header: SegmentHeader, *, end_sequence: int | None
) -> Iterator[Good | Lost | Cut]:
    """Read a segment's records in order.

    end_sequence: the first sequence of the next segment; None for the last segment,
        whose tail may be torn.
    """
    seed = header.seed
    offset, expected = DATA_OFFSET, header.first_sequence
    acknowledged: int | None = None  # The highest `durable` of all that follows.
    while end_sequence is None or expected < end_sequence:
        head = _read_head(data, offset, seed)
        if head is not None and head.sequence == expected:
            payload = _read_payload(data, head)
            if payload is not None:
                yield Good(expected, head.record(payload))
                offset, expected = head.end, expected + 1
                continue
        else:
            head = None
        if end_sequence is None and acknowledged is None:
            following = _heads(data, offset, seed, above=expected)
            acknowledged = max((later.durable for later in following), default=0)
        if acknowledged is not None and acknowledged < expected:
            if head is not None or _is_remains(data, offset, seed, expected):
                yield Cut(expected, offset)
            return
        if head is not None:
            yield Lost(expected, 1, offset, head.record(b""))
            offset, expected = head.end, expected + 1
            continue
        later = next(_heads(data, offset, seed, above=expected), None)
        if (
            later is not None
            and end_sequence is not None
            and later.sequence >= end_sequence
        ):
            later = None  # Remains of a write that was cut.
        found = later.sequence if later is not None else end_sequence
        if found is None:
            # The header that said so lay within a damaged record, which we have passed.
            assert acknowledged is not None
            found = acknowledged + 1
        yield Lost(expected, found - expected, offset, None)
        if later is None:
            return
        offset, expected = later.offset, found


def _read_head(data: bytes, offset: int, seed: bytes) -> _Head | None:
    body = data[offset + _RECORD_HEAD.size : offset + RECORD_HEADER_SIZE]
    if len(body) < _RECORD_BODY.size:
        return None
    magic, crc = _RECORD_HEAD.unpack_from(data, offset)
    if magic != _RECORD_MAGIC or crc32c(seed + body) != crc:
        return None
    fields = _RECORD_BODY.unpack(body)
    payload_crc, size, sequence, durable, group, number, detail, _, term, index = fields
    kind = _TYPES.get(number)
    if kind is None:
        raise CorruptData(
            f"write-ahead log record of unknown type {number}: written by a newer release"
        )
    return _Head(
        offset, sequence, durable, size, payload_crc, group, kind, term, index, detail
    )


_TYPES = {int(kind): kind for kind in RecordType}


def _read_payload(data: bytes, head: _Head) -> bytes | None:
    start = head.offset + RECORD_HEADER_SIZE
    payload = data[start : start + head.payload_size]
    if len(payload) != head.payload_size or crc32c(payload) != head.payload_crc:
        return None
    return payload


def _heads(data: bytes, offset: int, seed: bytes, *, above: int) -> Iterator[_Head]:
    """Every intact record header of this generation behind `offset`."""
    while (offset := data.find(_RECORD_MAGIC, offset)) >= 0:
        if offset % ALIGNMENT == 0 and len(data) - offset >= RECORD_HEADER_SIZE:
            # The sequence first: it weeds out old records without a checksum each.
            (sequence,) = _GENERATION.unpack_from(data, offset + 16)
            if sequence > above:
                head = _read_head(data, offset, seed)
                if head is not None:
                    yield head
        offset += 1


def _is_remains(data: bytes, offset: int, seed: bytes, expected: int) -> bool:
    """Whether a write to `offset` had begun before the crash."""
    if len(data) - offset >= RECORD_HEADER_SIZE:
        (sequence,) = _GENERATION.unpack_from(data, offset + 16)
        if data.startswith(_RECORD_MAGIC, offset) and sequence == expected:
            return True
    return next(_heads(data, offset, seed, above=expected), None) is not None
