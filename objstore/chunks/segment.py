"""Segment files: their names, their state in memory, and the blocking work on them.

    new -> active (extents are reserved and filled) -> sealed (full, or found at a start)
        -> emptied (nothing live in it) -> removed

Everything here blocks and belongs into `host.threads`; state changes on the event loop
only (`driver`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum

import attrs

from objstore.buffer import Buffer
from objstore.chunks import format as fmt
from objstore.chunks.format import (
    DEAD_MAGIC,
    SEGMENT_HEADER_SIZE,
    CorruptRecord,
    Extent,
    RecordHeader,
    RecordState,
    SegmentHeader,
)
from objstore.chunks.fragment import FragmentHeader
from objstore.chunks.index import Location, SegmentRow
from objstore.frozen import frozen
from objstore.host.disk import Directory, File
from objstore.ids import FragmentId
from objstore.limits import RECORD_ALIGNMENT
from objstore.sums import crc32c
from objstore.units import KiB, MiB

_NAME = "segment-"
_NUMBER_DIGITS = 8
_ZERO_PAGE = bytes(RECORD_ALIGNMENT)
_WINDOW = 1 * MiB  # Read at once while a scan looks for the next record.
# A read fetches header or table with what is wanted where so little lies between.
_GAP_MAX = 256 * KiB
_SIZE_AT_ONCE = 1 * MiB  # Read in one call where a whole record is verified.


@attrs.define
class Segment:
    """What the store holds of one segment in memory."""

    number: int
    nonce: bytes
    tail: int = SEGMENT_HEADER_SIZE
    allocated: int = SEGMENT_HEADER_SIZE  # Size of the file.
    live_count: int = 0
    live_size: int = 0
    quarantined: int = 0
    is_sealed: bool = False
    is_damaged: bool = False
    # Extents being written, by place.  Records at or above the lowest may be missing in
    # the index.
    open: dict[int, int] = attrs.field(factory=dict)
    # While a start scans it: how far the scan is.
    low: int | None = None

    @classmethod
    def of_row(cls, number: int, row: SegmentRow) -> Segment:
        return cls(
            number,
            row.nonce,
            tail=row.tail,
            allocated=row.tail,
            live_count=row.live_count,
            live_size=row.live_size,
            quarantined=row.quarantined,
            is_sealed=row.is_sealed,
            is_damaged=row.is_damaged,
            low=row.low_water if row.low_water < row.tail else None,
        )

    @property
    def low_water(self) -> int:
        """Every record below is in the index, or dead."""
        if self.low is not None:
            return self.low
        return min(self.open, default=self.tail)

    def row(self) -> SegmentRow:
        return SegmentRow(
            self.nonce,
            self.tail,
            self.low_water,
            self.live_count,
            self.live_size,
            self.quarantined,
            self.is_sealed,
            self.is_damaged,
        )

    def count(self, location: Location, sign: int) -> None:
        """Count a fragment in (`sign` 1) or out (-1)."""
        self.live_count += sign
        self.live_size += sign * location.extent.size
        if location.is_quarantined:
            self.quarantined += sign
        assert self.live_count >= 0
        assert self.live_size >= 0


def segment_name(number: int) -> str:
    return f"{_NAME}{number:0{_NUMBER_DIGITS}x}"


def number_of(name: str) -> int | None:
    """The number of the segment file `name`, None if it is no such name."""
    digits = name.removeprefix(_NAME)
    if name == digits or len(digits) != _NUMBER_DIGITS:
        return None
    try:
        number = int(digits, 16)
    except ValueError:
        return None
    return number if segment_name(number) == name else None


def create_segment(directory: Directory, header: SegmentHeader, size: int) -> File:
    """Make a segment file of `size` bytes, durably.  Leaves nothing behind on OSError."""
    name = segment_name(header.number)
    file = directory.open(name, create=True, direct=True)
    try:
        file.allocate(size)
        file.write_at(0, fmt.encode_segment_header(header))
        file.sync()
        directory.sync()
    except BaseException:
        file.close()
        directory.remove(name)
        raise
    return file


def open_segment(directory: Directory, number: int) -> File:
    """Raises FileNotFoundError, OSError."""
    return directory.open(segment_name(number), direct=True)


def read_nonce(file: File, *, drive: str) -> bytes | None:
    """The nonce of a segment: of its header, or of its first record; None: unreadable."""
    try:
        header = fmt.decode_segment_header(file.read_at(0, SEGMENT_HEADER_SIZE))
    except CorruptRecord:
        place = SEGMENT_HEADER_SIZE
        return fmt.nonce_of_record(file.read_at(place, RECORD_ALIGNMENT), place=place)
    return header.nonce if header.drive == drive else None


# ---- records --------------------------------------------------------------------------


def read_header(file: File, *, nonce: bytes, place: int) -> RecordHeader:
    """Raises CorruptRecord, OSError."""
    buffer = file.read_at(place, RECORD_ALIGNMENT)
    return fmt.decode_record_header(buffer, nonce=nonce, place=place)


def read_headers(
    file: File, wanted: Sequence[tuple[FragmentId, int]], *, nonce: bytes
) -> list[RecordHeader | CorruptRecord]:
    """The headers of several records of one segment.  Raises OSError."""
    found: list[RecordHeader | CorruptRecord] = []
    for fragment, place in wanted:
        try:
            header = read_header(file, nonce=nonce, place=place)
            if header.fragment.fragment != fragment:
                raise CorruptRecord(place, f"holds {header.fragment.fragment}")
            found.append(header)
        except CorruptRecord as error:
            found.append(error)
    return found


def mark_dead(file: File, places: Sequence[int]) -> None:
    """Overwrite the magic of records, durably: a scan skips them from now on."""
    for place in places:
        file.write_at(place, DEAD_MAGIC)
    file.sync()


def punch_dead(file: File, dead: Sequence[tuple[int, int]]) -> None:
    """Give the space of dead records (place, extent size) back, but for their headers.

    The header stays so that a scan knows how far to skip; the marks were synced before.
    """
    for place, size in dead:
        if size > RECORD_ALIGNMENT:
            file.punch(place + RECORD_ALIGNMENT, size - RECORD_ALIGNMENT)


Reader = Callable[[int, int], Buffer | None]
"""Bytes at an offset of a file; None: not without waiting."""


class NotInMemory(Exception):
    """What is wanted can only be read by waiting for the drive."""


@frozen
class RangeRead:
    """What `read_range` found: verified bytes, and the table for the next read."""

    data: memoryview
    entries: tuple[int, ...]


def span_of(extent: Extent, start: int, end: int, *, is_known: bool) -> tuple[int, int]:
    """What to read at once, in the record, for the payload's bytes [start, end).

    is_known: the record's table is.
    """
    first, last = extent.piece_at(start), extent.piece_at(end - 1)
    here = extent.payload_offset + extent.piece(first)[0]
    there = extent.payload_offset + extent.piece(last)[1]
    if not is_known:
        if here <= _GAP_MAX:
            here = 0
        if extent.table_offset - there <= _GAP_MAX:
            there = extent.table_offset + extent.tail_size
    return here, there


def is_enough(extent: Extent, span: tuple[int, int], *, is_known: bool) -> bool:
    """Whether what lies in `span` of a record can be verified without another read."""
    here, there = span
    return is_known or (here == 0 and there > extent.table_offset)


def read_range(
    read: Reader,
    fragment: FragmentId,
    *,
    nonce: bytes,
    place: int,
    extent: Extent,
    start: int,
    end: int,
    entries: tuple[int, ...] | None,
) -> RangeRead:
    """Read the payload's bytes [start, end), and verify each piece that they touch.

    read: of the record's segment.
    entries: the record's table, where it is known already.
    Raises CorruptRecord for anything that does not verify, OSError, NotInMemory.
    """
    here, there = span_of(extent, start, end, is_known=entries is not None)
    buffer = _read(read, place + here, there - here)
    return range_in(
        memoryview(buffer),
        here,
        fragment,
        nonce=nonce,
        place=place,
        extent=extent,
        start=start,
        end=end,
        entries=entries,
        read=read,
    )


def range_in(
    buffer: memoryview,
    here: int,
    fragment: FragmentId,
    *,
    nonce: bytes,
    place: int,
    extent: Extent,
    start: int,
    end: int,
    entries: tuple[int, ...] | None,
    read: Reader,
) -> RangeRead:
    """The payload's bytes [start, end), of what `span_of` said and `buffer` is.

    here: where in the record it begins.
    read: for what is not in it, where it is not enough (`is_enough`).
    Raises as `read_range`.
    """
    if entries is None:
        # Deleted, and the index went back to before that?
        magic = buffer if here == 0 else _read(read, place, len(DEAD_MAGIC))
        if bytes(magic[: len(DEAD_MAGIC)]) == DEAD_MAGIC:
            raise CorruptRecord(place, "deleted")
        if here + len(buffer) > extent.table_offset:
            tail: Buffer = buffer[extent.table_offset - here :]
        else:
            tail = _read(read, place + extent.table_offset, extent.tail_size)
        entries = _entries(tail, fragment, nonce=nonce, place=place, extent=extent)
    first, last = extent.piece_at(start), extent.piece_at(end - 1)
    payload = buffer[extent.payload_offset - here :] if here == 0 else buffer
    begun = extent.piece(first)[0] if here else 0  # Where `payload` begins.
    name = fragment.encode()
    for number in range(first, last + 1):
        begin, stop = extent.piece(number)
        piece = payload[begin - begun : stop - begun]
        if len(piece) != stop - begin:
            raise CorruptRecord(place, "payload cut short")
        if fmt.entry_of(name, number, crc32c(piece)) != entries[number]:
            raise CorruptRecord(place, f"piece {number}: checksum mismatch")
    return RangeRead(payload[start - begun : end - begun], entries)


def _read(read: Reader, offset: int, size: int) -> Buffer:
    data = read(offset, size)
    if data is None:
        raise NotInMemory
    return data


def _entries(
    tail: Buffer, fragment: FragmentId, *, nonce: bytes, place: int, extent: Extent
) -> tuple[int, ...]:
    """The checksum table of a record.  Raises CorruptRecord."""
    if len(tail) != extent.tail_size:
        raise CorruptRecord(place, "record cut short")
    return fmt.decode_tail(tail, fragment=fragment, nonce=nonce, place=place)


# ---- scans ----------------------------------------------------------------------------


class RecordFound(Enum):
    """What a scan makes of a record with a sound header."""

    COMPLETE = "complete"
    DEAD = "dead"
    INCOMPLETE = "incomplete"  # No trailer: its writer did not commit.
    DAMAGED = "damaged"  # There is a trailer, and it does not verify.


@attrs.frozen
class Found:
    """A record with a sound header."""

    place: int
    header: RecordHeader
    kind: RecordFound
    reason: str = ""  # Why DAMAGED.

    @property
    def fragment(self) -> FragmentHeader:
        return self.header.fragment


@attrs.frozen
class Junk:
    """Bytes that are not zero and that no header explains: a torn write, or rot."""

    place: int
    size: int


def scan(file: File, *, nonce: bytes, start: int) -> Iterator[Found | Junk]:
    """All records from `start` on, in order; payloads are not read.  Raises OSError.

    A damaged header costs its own record: the scan goes on at the next page that holds a
    sound one.
    """
    end = file.size
    place = start
    junk = 0  # Bytes of junk seen right before `place`.
    window, window_start = b"", 0
    while place < end:
        if not window_start <= place < window_start + len(window):
            window, window_start = file.read_at(place, _WINDOW), place
            if not window:
                break
        page = window[place - window_start : place - window_start + RECORD_ALIGNMENT]
        header = None if page == _ZERO_PAGE else _header_of(page, nonce=nonce, place=place)
        if header is not None:
            if junk:
                yield Junk(place - junk, junk)
                junk = 0
            yield _found(file, header, nonce=nonce, place=place)
            place += header.extent.size
            continue
        if page.count(0) != len(page):
            junk += len(page)
        elif junk:
            yield Junk(place - junk, junk)
            junk = 0
        place += RECORD_ALIGNMENT
    if junk:
        yield Junk(min(place, end) - junk, junk)


def _header_of(page: bytes, *, nonce: bytes, place: int) -> RecordHeader | None:
    try:
        return fmt.decode_record_header(page, nonce=nonce, place=place)
    except CorruptRecord:
        return None


def _found(file: File, header: RecordHeader, *, nonce: bytes, place: int) -> Found:
    if header.state is RecordState.DEAD:
        return Found(place, header, RecordFound.DEAD)
    extent = header.extent
    tail = file.read_at(place + extent.table_offset, extent.tail_size)
    try:
        fmt.decode_tail(
            tail,
            fragment=header.fragment.fragment,
            nonce=nonce,
            place=place,
            header_crc=header.crc,
        )
    except CorruptRecord as error:
        if not any(tail[-fmt.TRAILER_SIZE :]) or len(tail) < extent.tail_size:
            return Found(place, header, RecordFound.INCOMPLETE)
        return Found(place, header, RecordFound.DAMAGED, error.reason)
    return Found(place, header, RecordFound.COMPLETE)


def first_damage(
    file: File, fragment: FragmentId, *, nonce: bytes, place: int, extent: Extent
) -> CorruptRecord | None:
    """Read a whole record: what is wrong with it first, None where all of it verifies."""
    entries: tuple[int, ...] | None = None
    try:
        if not extent.payload_size:
            tail = file.read_at(place + extent.table_offset, extent.tail_size)
            _entries(tail, fragment, nonce=nonce, place=place, extent=extent)
        for start in range(0, extent.payload_size, _SIZE_AT_ONCE):
            entries = read_range(
                file.read_at,
                fragment,
                nonce=nonce,
                place=place,
                extent=extent,
                start=start,
                end=min(start + _SIZE_AT_ONCE, extent.payload_size),
                entries=entries,
            ).entries
    except CorruptRecord as error:
        return error
    return None


def is_sound(file: File, found: Found, *, nonce: bytes) -> bool:
    """Whether the payload of a record verifies, every block of it.  Raises OSError."""
    fragment, extent = found.fragment.fragment, found.header.extent
    damage = first_damage(file, fragment, nonce=nonce, place=found.place, extent=extent)
    return damage is None
