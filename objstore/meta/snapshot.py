"""Snapshots: all rows of a shard as one stream of bytes, cut into pieces anywhere.

    head    magic "OSMS" | format u16be | size u32be | msgpack [group, time, chain]
    row     key size u16be (not 0) | value size u32be | logical key | value, sealed
    ...
    end     0 u16be | row count u64be | CRC32C u32be of all bytes of head and rows

Values travel in their envelope, so each is verified at its own key where it arrives, and
the end proves that none is missing.  Keys are logical: a generation is each node's own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import google_crc32c

from objstore.errors import CorruptData
from objstore.frozen import frozen
from objstore.limits import SNAPSHOT_PIECE_SIZE
from objstore.meta import payloads, schema

_MAGIC = b"OSMS"
_FORMAT = 7  # As local.FORMAT: which rows there are.
_HEAD = struct.Struct(">4sHI")
_ROW = struct.Struct(">HI")
_END = struct.Struct(">HQI")
_HEAD_SIZE_MAX = 4096


class CorruptSnapshot(CorruptData):
    """The stream of a snapshot does not hold together."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"snapshot: {reason}")
        self.reason = reason


@frozen
class SnapshotHead:
    """What of a shard's state is in no row."""

    group: int
    time_ms: int  # Cluster time of the last command.
    chain: bytes  # The running hash of changes.


def encode(head: SnapshotHead, rows: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Cut a shard's (logical key, sealed value) rows into pieces."""
    packed = payloads.pack((head.group, head.time_ms, head.chain))
    buffer = bytearray(_HEAD.pack(_MAGIC, _FORMAT, len(packed)) + packed)
    crc = google_crc32c.value(bytes(buffer))
    count = 0
    for key, value in rows:
        row = _ROW.pack(len(key), len(value)) + key + value
        crc = google_crc32c.extend(crc, row)
        count += 1
        buffer += row
        while len(buffer) >= SNAPSHOT_PIECE_SIZE:
            yield bytes(buffer[:SNAPSHOT_PIECE_SIZE])
            del buffer[:SNAPSHOT_PIECE_SIZE]
    buffer += _END.pack(0, count, crc)
    while buffer:
        yield bytes(buffer[:SNAPSHOT_PIECE_SIZE])
        del buffer[:SNAPSHOT_PIECE_SIZE]


class Decoder:
    """Takes pieces, gives rows.  Raises CorruptSnapshot, CorruptRow."""

    def __init__(self) -> None:
        self.head: SnapshotHead | None = None
        self.is_complete = False
        self._buffer = bytearray()
        self._count = 0
        self._crc = 0

    def feed(self, piece: bytes) -> list[tuple[bytes, bytes]]:
        """The (logical key, sealed value) rows that are whole by now."""
        if self.is_complete and piece:
            raise CorruptSnapshot("bytes behind the end")
        self._buffer += piece
        if self.head is None and not self._read_head():
            return []
        rows = []
        position = 0
        buffer = bytes(self._buffer)
        while not self.is_complete and len(buffer) - position >= _ROW.size:
            key_size, value_size = _ROW.unpack_from(buffer, position)
            if key_size == 0:
                position += self._read_end(buffer, position)
                break
            end = position + _ROW.size + key_size + value_size
            if end > len(buffer):
                break
            key_start = position + _ROW.size
            key = buffer[key_start : key_start + key_size]
            value = buffer[key_start + key_size : end]
            schema.unseal(key, value)
            self._crc = google_crc32c.extend(self._crc, buffer[position:end])
            self._count += 1
            rows.append((key, value))
            position = end
        if self.is_complete and position < len(buffer):
            raise CorruptSnapshot("bytes behind the end")
        del self._buffer[:position]
        return rows

    def _read_head(self) -> bool:
        if len(self._buffer) < _HEAD.size:
            return False
        magic, stream_format, size = _HEAD.unpack_from(self._buffer)
        if magic != _MAGIC or stream_format != _FORMAT or size > _HEAD_SIZE_MAX:
            raise CorruptSnapshot(f"magic {magic!r}, format {stream_format}")
        if len(self._buffer) < _HEAD.size + size:
            return False
        packed = bytes(self._buffer[_HEAD.size : _HEAD.size + size])
        try:
            self.head = SnapshotHead(*payloads.unpack(packed)[:3])
        except (ValueError, TypeError) as error:
            raise CorruptSnapshot(f"head: {error}") from error
        self._crc = google_crc32c.value(bytes(self._buffer[: _HEAD.size + size]))
        del self._buffer[: _HEAD.size + size]
        return True

    def _read_end(self, buffer: bytes, position: int) -> int:
        """The size of the end, once it is whole."""
        if len(buffer) - position < _END.size:
            return 0
        _, count, crc = _END.unpack_from(buffer, position)
        if (count, crc) != (self._count, self._crc):
            raise CorruptSnapshot(f"{self._count} rows, {count} were sent")
        self.is_complete = True
        return _END.size
