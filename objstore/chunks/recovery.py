"""Recovery: what a start does to bring the index up to date with the segments.

    row of a segment, no file    the index went back to before it was removed: drop the row
    file, row with low water     scan from the low water on (nothing, when sealed and whole)
    file, no row                 scan all of it: the index was lost, or is behind

    found         no row           row here       row elsewhere
    complete      add              keep           take this one, the later, if its payload
                                                  verifies (it may be torn: nobody was told
                                                  of it); the other one is marked dead
    dead          -                drop           -
    incomplete    -                keep           -
    damaged       add, quarantined keep           -

Every segment is sealed afterwards.  Rows are written in batches with the segment's
checkpoint, so a start that is interrupted goes on where it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import Protocol, TypeVar

import attrs

from objstore.chunks import segment as seg
from objstore.chunks.format import NONCE_SIZE
from objstore.chunks.index import Index, Location
from objstore.chunks.segment import Found, Junk, RecordFound, Segment
from objstore.host.disk import Directory, File
from objstore.ids import DriveId, FragmentId

T = TypeVar("T")

RECORDS_AT_ONCE = 256  # Per hop to a thread and per batch of rows.


@attrs.define
class RecoveryReport:
    """What was found on one drive."""

    scanned: int = 0  # Segments looked into.
    added: int = 0  # Fragments that the index did not have.
    dropped: int = 0  # Fragments that the index still had though they were deleted.
    doubled: int = 0  # Records of fragments that are elsewhere too.
    damaged: int = 0  # Fragments quarantined at once.
    junk_size: int = 0  # Bytes that no header explains.
    unreadable: int = 0  # Segments whose own header is gone: nothing in them is served.


class Drive(Protocol):
    """What recovery needs of `driver.Drive`."""

    directory: Directory
    segments: dict[int, Segment]

    @property
    def id(self) -> DriveId: ...

    def set_segments(self, segments: dict[int, Segment]) -> None: ...

    async def io(self, function: Callable[..., T], *args: object) -> T: ...

    def using(self, segment: Segment) -> AbstractAsyncContextManager[File]: ...


@attrs.define
class _Scan:
    """One segment being looked into."""

    drive: Drive
    segment: Segment
    file: File
    report: RecoveryReport
    # The batch of rows under way.
    rows: dict[FragmentId, Location | None] = attrs.field(factory=dict)
    touched: dict[tuple[DriveId, int], Segment] = attrs.field(factory=dict)


class Recovery:
    """One start.  `load` every drive first, so that `scan` sees all segments."""

    def __init__(self, index: Index, drives: Mapping[DriveId, Drive]) -> None:
        self._index = index
        self._drives = drives

    async def load(self, drive: Drive) -> None:
        """List the drive's segments, as far as the index knows them."""
        names = await drive.io(drive.directory.names)
        present = {n for name in names if (n := seg.number_of(name)) is not None}
        rows = dict(self._index.segments(drive.id))
        change, batch = self._index.change()
        for number in rows.keys() - present:
            change.drop_segment(drive.id, number)
        self._index.write(batch)
        segments = {}
        for number in sorted(present):
            row = rows.get(number)
            segments[number] = (
                Segment(number, b"") if row is None else Segment.of_row(number, row)
            )
        drive.set_segments(segments)

    async def scan(self, drive: Drive) -> RecoveryReport:
        """Look into every segment that may hold what the index does not know."""
        report = RecoveryReport()
        for segment in drive.segments.values():
            if not (segment.is_sealed and segment.low_water == segment.tail):
                report.scanned += 1
                await self._scan_segment(drive, segment, report)
        return report

    async def _scan_segment(
        self, drive: Drive, segment: Segment, report: RecoveryReport
    ) -> None:
        file = await drive.io(drive.directory.open, seg.segment_name(segment.number))
        try:
            if not segment.nonce:
                nonce = await drive.io(_read_nonce, file, drive.id)
                segment.nonce = nonce or bytes(NONCE_SIZE)
                if nonce is None:
                    segment.is_damaged = True
                    report.unreadable += 1
            if any(segment.nonce):
                await self._scan_records(drive, segment, file, report)
                await drive.io(_give_back, file, segment.tail)
            else:
                segment.tail = max(segment.tail, file.size)
        finally:
            file.close()
        segment.low = None
        segment.is_sealed = True
        self._write({(drive.id, segment.number): segment}, {})

    async def _scan_records(
        self, drive: Drive, segment: Segment, file: File, report: RecoveryReport
    ) -> None:
        scan = _Scan(drive, segment, file, report)
        records = seg.scan(file, nonce=segment.nonce, start=segment.low_water)
        while found := await drive.io(_next_records, records):
            scan.rows = {}
            scan.touched = {(drive.id, segment.number): segment}
            for item in found:
                if isinstance(item, Junk):
                    # Perhaps a torn write that nobody was told of; perhaps a fragment
                    # whose header rotted.  Who can tell?  So the segment is kept.
                    segment.is_damaged = True
                    report.junk_size += item.size
                    end = item.place + item.size
                else:
                    await self._take(scan, item)
                    end = item.place + item.header.extent.size
                segment.tail = max(segment.tail, end)
            segment.low = segment.tail
            self._write(scan.touched, scan.rows)

    async def _take(self, scan: _Scan, found: Found) -> None:
        """Do what one record means for the index: see the table above."""
        fragment = found.fragment.fragment
        here = Location(
            scan.drive.id,
            scan.segment.number,
            found.place,
            found.header.extent,
            is_quarantined=found.kind is RecordFound.DAMAGED,
        )
        old = scan.rows[fragment] if fragment in scan.rows else self._index.get(fragment)
        is_here = old is not None and _is_same_place(old, here)
        match found.kind:
            case RecordFound.DEAD if old is not None and is_here:
                scan.rows[fragment] = None
                scan.segment.count(old, -1)
                scan.report.dropped += 1
            case RecordFound.COMPLETE if not is_here:
                if old is not None and not await self._replaces(scan, found, old):
                    return
                scan.rows[fragment] = here
                scan.segment.count(here, 1)
                scan.report.added += 1
            case RecordFound.DAMAGED if old is None:
                scan.rows[fragment] = here
                scan.segment.count(here, 1)
                scan.report.damaged += 1
            case _:
                pass

    async def _replaces(self, scan: _Scan, found: Found, old: Location) -> bool:
        """Whether a record takes the place of the one at `old`, which is then uncounted."""
        home = self._segment_of(old)
        if home is None:  # It is gone, or its drive is.
            return True
        scan.report.doubled += 1
        work = functools.partial(seg.is_sound, nonce=scan.segment.nonce)
        if not await scan.drive.io(work, scan.file, found):
            await scan.drive.io(seg.mark_dead, scan.file, [found.place])
            return False
        # Before the row names the later one: or a delete of that would bring this back.
        drive = self._drives[old.drive]
        async with drive.using(home) as file:
            await drive.io(seg.mark_dead, file, [old.place])
        home.count(old, -1)
        scan.touched[drive.id, home.number] = home
        return True

    def _segment_of(self, location: Location) -> Segment | None:
        drive = self._drives.get(location.drive)
        return None if drive is None else drive.segments.get(location.segment)

    def _write(
        self,
        segments: Mapping[tuple[DriveId, int], Segment],
        rows: Mapping[FragmentId, Location | None],
    ) -> None:
        """Rows and the counts and checkpoints that go with them, in one batch."""
        change, batch = self._index.change()
        for fragment, location in rows.items():
            if location is None:
                change.drop(fragment)
            else:
                change.put(fragment, location)
        for (drive, number), segment in segments.items():
            change.put_segment(drive, number, segment.row())
        self._index.write(batch)


def _is_same_place(a: Location, b: Location) -> bool:
    return (a.drive, a.segment, a.place) == (b.drive, b.segment, b.place)


def _read_nonce(file: File, drive: DriveId) -> bytes | None:
    return seg.read_nonce(file, drive=drive)


def _next_records(records: Iterator[Found | Junk]) -> list[Found | Junk]:
    return list(islice(records, RECORDS_AT_ONCE))


def _give_back(file: File, tail: int) -> None:
    """Cut off what was preallocated behind the last record."""
    if file.size > tail:
        file.truncate(tail)
