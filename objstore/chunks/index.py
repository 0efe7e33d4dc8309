r"""The index of a node's fragments: rows in the node's store, derived from the segments.

    b"\xff\xfe" "d" drive id (8)                  -> path of the drive folder
    b"\xff\xfe" "f" fragment id (17)              -> Location
    b"\xff\xfe" "s" drive id (8) segment (4, BE)  -> SegmentRow, with its checkpoint

Nothing here is the truth: the segments are.  A batch holds the rows of some records and
the checkpoint of their segment, and the store keeps a prefix of the batches after a crash;
so a start scans each segment from its checkpoint on, and all of a segment without a row.
The checkpoint is the *low water*: every record below it is in the index, or dead.

Each value ends with a CRC32C of key and value.  Memory does not grow with the number of
fragments: what is held per segment is in `segment.Segment`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from objstore.chunks.format import NONCE_SIZE, Extent
from objstore.chunks.fragment import RecordRef
from objstore.errors import CorruptData, Unavailable
from objstore.frozen import frozen
from objstore.host.kv import Batch, KeyValueStore
from objstore.ids import CHUNK_ID_SIZE, DriveId, FragmentId
from objstore.limits import RECORD_ALIGNMENT
from objstore.sums import crc32c

PREFIX = b"\xff\xfe"
_FRAGMENTS = PREFIX + b"f"
_SEGMENTS = PREFIX + b"s"
_DRIVES = PREFIX + b"d"
_FORMAT = 1
_LOCATION_FORMAT = 2  # Of new locations; those of format 1 lack the size of pieces.
_FRAGMENT_ID_SIZE = CHUNK_ID_SIZE + 1
_DRIVE_ID_SIZE = 8
_LOCATION = struct.Struct("<BB8sIIQIHI")
_LOCATION_1 = struct.Struct("<BB8sIIQIH")
_SEGMENT = struct.Struct("<BB8sQQIQI")
_NUMBER = struct.Struct(">I")
_CRC = struct.Struct("<I")
_QUARANTINED = 1
_SEALED = 1
_DAMAGED = 2


@frozen
class Location:
    """Where a fragment's record is."""

    drive: DriveId
    segment: int
    place: int  # Offset of the record in the segment.
    extent: Extent
    is_quarantined: bool = False  # Found damaged: kept, not served.

    @property
    def record(self) -> RecordRef:
        return RecordRef(self.drive, self.segment, self.place)


@frozen
class SegmentRow:
    """A segment as the index knows it."""

    nonce: bytes
    tail: int  # Where the last extent ends.
    low_water: int  # Records below are in the index.  Invariant: low_water <= tail.
    live_count: int  # Fragments of the index that lie in it.
    live_size: int  # Their extents, in bytes.
    quarantined: int  # How many of them are quarantined.
    is_sealed: bool
    is_damaged: bool  # Has bytes that no header explains: never removed by itself.


def _seal(key: bytes, value: bytes) -> bytes:
    return value + _CRC.pack(crc32c(value, crc32c(key)))


def _unseal(key: bytes, value: bytes) -> bytes:
    body = value[: -_CRC.size]
    if len(value) < _CRC.size or value[-_CRC.size :] != _seal(key, body)[-_CRC.size :]:
        raise CorruptData(f"index row {key.hex()}: checksum mismatch")
    known = (_FORMAT, _LOCATION_FORMAT) if key.startswith(_FRAGMENTS) else (_FORMAT,)
    if not body or body[0] not in known:
        raise CorruptData(f"index row {key.hex()}: format {body[:1].hex()} is unknown")
    return body


def _encode_location(location: Location) -> bytes:
    extent = location.extent
    return _LOCATION.pack(
        _LOCATION_FORMAT,
        _QUARANTINED if location.is_quarantined else 0,
        bytes.fromhex(location.drive),
        location.segment,
        location.place // RECORD_ALIGNMENT,
        extent.payload_size,
        extent.block_size,
        extent.payload_offset,
        extent.piece_size,
    )


def _decode_location(body: bytes) -> Location:
    if body[0] == _FORMAT:
        *fields, block_size, payload_offset = _LOCATION_1.unpack(body)
        piece_size = block_size
    else:
        *fields, block_size, payload_offset, piece_size = _LOCATION.unpack(body)
    _, flags, drive, segment, page, payload_size = fields
    return Location(
        DriveId(drive.hex()),
        segment,
        page * RECORD_ALIGNMENT,
        Extent(payload_offset, payload_size, block_size, piece_size),
        bool(flags & _QUARANTINED),
    )


def _encode_segment(row: SegmentRow) -> bytes:
    assert len(row.nonce) == NONCE_SIZE
    assert row.low_water <= row.tail
    return _SEGMENT.pack(
        _FORMAT,
        (_SEALED if row.is_sealed else 0) | (_DAMAGED if row.is_damaged else 0),
        row.nonce,
        row.tail,
        row.low_water,
        row.live_count,
        row.live_size,
        row.quarantined,
    )


def _decode_segment(body: bytes) -> SegmentRow:
    _, flags, nonce, tail, low_water, live_count, live_size, quarantined = _SEGMENT.unpack(
        body
    )
    return SegmentRow(
        nonce,
        tail,
        low_water,
        live_count,
        live_size,
        quarantined,
        bool(flags & _SEALED),
        bool(flags & _DAMAGED),
    )


@frozen
class Change:
    """Rows that change together."""

    _batch: Batch

    def put(self, fragment: FragmentId, location: Location) -> None:
        key = _FRAGMENTS + fragment.encode()
        self._batch.put(key, _seal(key, _encode_location(location)))

    def drop(self, fragment: FragmentId) -> None:
        self._batch.delete(_FRAGMENTS + fragment.encode())

    def put_segment(self, drive: DriveId, number: int, row: SegmentRow) -> None:
        key = _segment_key(drive, number)
        self._batch.put(key, _seal(key, _encode_segment(row)))

    def drop_segment(self, drive: DriveId, number: int) -> None:
        self._batch.delete(_segment_key(drive, number))

    def put_drive(self, drive: DriveId, path: str) -> None:
        key = _DRIVES + bytes.fromhex(drive)
        self._batch.put(key, _seal(key, bytes((_FORMAT,)) + path.encode()))

    def drop_drive(self, drive: DriveId) -> None:
        self._batch.delete(_DRIVES + bytes.fromhex(drive))


def _segment_key(drive: DriveId, number: int) -> bytes:
    return _SEGMENTS + bytes.fromhex(drive) + _NUMBER.pack(number)


@frozen
class Index:
    """Reads and changes the rows.  Calls take microseconds, but for the long scans.

    A store that fails ends the node (`ChunkStore.run`); whoever asked it for a fragment
    hears Unavailable, and asks another.
    """

    _kv: KeyValueStore
    _on_error: Callable[[OSError], None] = lambda _: None

    def get(self, fragment: FragmentId) -> Location | None:
        """Raises CorruptData where the row itself is damaged, Unavailable."""
        key = _FRAGMENTS + fragment.encode()
        try:
            value = self._kv.get(key)
        except OSError as error:
            raise self._ended_by(error) from error
        return None if value is None else _decode_location(_unseal(key, value))

    def after(self, fragment: FragmentId | None) -> Iterator[tuple[FragmentId, Location]]:
        """All fragments behind `fragment`, by id.  The iterator is dropped soon."""
        start = _FRAGMENTS if fragment is None else _FRAGMENTS + fragment.encode() + b"\0"
        for key, value in self._kv.scan(start, _end_of(_FRAGMENTS)):
            name = key[len(_FRAGMENTS) :]
            if len(name) != _FRAGMENT_ID_SIZE:
                raise CorruptData(f"index row {key.hex()}: no fragment id")
            yield FragmentId.decode(name), _decode_location(_unseal(key, value))

    def segments(self, drive: DriveId) -> Iterator[tuple[int, SegmentRow]]:
        """The segments of a drive, by number."""
        start = _SEGMENTS + bytes.fromhex(drive)
        for key, value in self._kv.scan(start, _end_of(start)):
            number: int = _NUMBER.unpack(key[len(start) :])[0]
            yield number, _decode_segment(_unseal(key, value))

    def drives(self) -> dict[DriveId, str]:
        """Drives that this node has used: id to path."""
        return {
            DriveId(key[len(_DRIVES) :].hex()): _unseal(key, value)[1:].decode()
            for key, value in self._kv.scan(_DRIVES, _end_of(_DRIVES))
        }

    def change(self) -> tuple[Change, Batch]:
        """An empty change, and its batch for `write`."""
        batch = self._kv.batch()
        return Change(batch), batch

    def write(self, batch: Batch) -> None:
        """Raises Unavailable."""
        try:
            self._kv.write(batch)
        except OSError as error:
            raise self._ended_by(error) from error

    def _ended_by(self, error: OSError) -> Unavailable:
        self._on_error(error)
        return Unavailable(f"the index of chunks: {error}")


def _end_of(prefix: bytes) -> bytes:
    """The first key behind all that begin with `prefix`."""
    trimmed = prefix.rstrip(b"\xff")
    assert trimmed
    return trimmed[:-1] + bytes((trimmed[-1] + 1,))
