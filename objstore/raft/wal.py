"""The node's one write-ahead log: hard states and entries of all its groups.

    segment-0000000000000007    sealed; goes once nothing in it is needed
    segment-0000000000000008    sealed
    segment-0000000000000009    the current one: records are appended
    spare-0000000000000003      written with zeros or old records, ready to be the next

One durable write carries the records of all groups that waited (group commit): of whole
blocks, past the page cache, where the host has direct files; else a write and a fdatasync
on a thread of its own. Files are allocated ahead and used again, because a sync that
changes neither size nor extents costs half (SPEED). The last block of a write is written
again by the next, with the same bytes before it. The order of steps, each durable before
the next:

- a new segment: its header is written into a spare, the spare renamed, then used;
- a start: the log is read, and goes on in a new segment, whose first sequence says how much
  of the one before counts. So what was cut once stays cut;
- a release: what is still needed is written again behind the end together with a RELEASED
  record, then the oldest segment becomes a spare.

Once idle, a MARK says that all before it was durable, so that damage to the last
acknowledged record is not taken for a torn write.

Errors: an OSError from a write or a sync leaves the log unusable and is passed on: the
process must end (FAULTS 1.2). Only the making of a spare may find the disk full;
`is_full` says so. Formats: `wal_format`. What the records add up to: `recovery`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from itertools import count

import attrs

from objstore.errors import CorruptData
from objstore.frozen import frozen
from objstore.host.disk import DIRECT_BLOCK_SIZE, DirectFile, Directory, File
from objstore.host.entropy import Entropy
from objstore.host.threads import Threads, Worker
from objstore.limits import ENTRY_SIZE_MAX
from objstore.raft.recovery import RecoveredGroup, Replay
from objstore.raft.wal_format import (
    DATA_OFFSET,
    ENTRY,
    NO_GROUP,
    SALT_SIZE,
    CorruptHeader,
    Cut,
    Good,
    Lost,
    Record,
    RecordType,
    SegmentHeader,
    decode_segment_header,
    encode_segment_header,
    pack,
    record_size,
    scan,
)
from objstore.units import MiB

SEGMENT_SIZE = 16 * MiB
SPARES_MAX = 2  # One is in use soon; the second spares the next release its removal.
_SEGMENT = "segment-"
_SPARE = "spare-"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ZEROS = bytes(DIRECT_BLOCK_SIZE)


@attrs.define(eq=False)
class Segment:
    """A file of the log and what of it may still be needed."""

    header: SegmentHeader
    name: str
    size: int
    file: File | None = None  # The current one's.
    direct: DirectFile | None = None  # Likewise, where the host has it.
    position: int = DATA_OFFSET  # Where the next record goes.
    tail: bytes = b""  # What the block that `position` lies in has before it.
    # group -> its highest entry index here, 0 where there are only states of it.
    groups: dict[int, int] = attrs.field(factory=dict)

    @property
    def generation(self) -> int:
        return self.header.generation


@frozen
class Finding:
    """Something not as it should be, for log and operator."""

    segment: str
    offset: int
    kind: str  # "cut": an unfinished write; "lost": damage; "missing": a whole file.
    records: int  # Lost or missing; 0 where not known.
    group: int | None  # Lost: whose; None: unknown, so everybody's.


@frozen
class Recovered:
    """What the log held at the start."""

    groups: dict[int, RecoveredGroup]
    findings: list[Finding]


@attrs.define
class _Reading:
    """The log as found on disk."""

    spares: list[str]
    unreadable: list[str] = attrs.field(factory=list)
    replay: Replay = attrs.field(factory=Replay)
    findings: list[Finding] = attrs.field(factory=list)
    segments: list[Segment] = attrs.field(factory=list)
    next_generation: int = 1
    last_generation: int = 0
    next_sequence: int = 1


class Wal:
    """The log.  `open` first; then one `write` at a time; `close` at the end."""

    def __init__(
        self,
        *,
        directory: Directory,
        threads: Threads,
        entropy: Entropy,
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        segment_size += -segment_size % DIRECT_BLOCK_SIZE
        assert segment_size >= DATA_OFFSET + 2 * record_size(0)
        self._directory = directory
        self._threads = threads
        self._entropy = entropy
        self._worker: Worker | None = None
        self._segment_size = segment_size
        self._segments: list[Segment] = []  # Oldest first; the last is the current one.
        self.size = 0  # Bytes in them; spares are not counted.
        self._spares: list[str] = []
        self._spare_numbers = count(1)  # Taken by two threads, so one step each.
        self._next_generation = 1
        self._next_sequence = 1
        self._error: OSError | None = None
        self._last_type: RecordType | None = RecordType.MARK
        self.is_full = False  # No room for a spare: entries should be refused.

    # Starting and ending.

    async def open(self) -> Recovered:
        """Read what is there, and begin a new segment.  Raises CorruptData, OSError."""
        self._worker = self._threads.worker("wal")
        try:
            return await self._worker.run(self._open)
        except BaseException:
            self._worker.close()
            self._worker = None
            raise

    async def close(self) -> None:
        """End in a known state; nothing may be written afterwards."""
        if self._worker is None:
            return
        if self._error is None and self.wants_mark:
            await self.write([MARK])
        self._worker.close()
        self._worker = None
        for segment in self._segments[-1:]:
            _close(segment)
        self._keep([])

    def _open(self) -> Recovered:
        reading = _read(self._directory)
        _sync_last(self._directory, reading)
        for name in reading.unreadable:
            self._directory.rename(name, f"damaged-{name}")
        self._keep(reading.segments)
        self._spares = self._usable(reading.spares)
        self._next_generation = reading.next_generation
        self._next_sequence = reading.next_sequence
        self._roll()
        reading.replay.finish()
        return Recovered(reading.replay.groups, reading.findings)

    def _usable(self, names: Sequence[str]) -> list[str]:
        """Spares that were made to the end; the others are removed."""
        usable: list[str] = []
        numbers = [int(name.removeprefix(_SPARE), 16) for name in names]
        self._spare_numbers = count(max(numbers, default=0) + 1)
        for name in names:
            file = self._directory.open(name, write=False)
            complete = file.size == self._segment_size
            file.close()
            if complete and len(usable) < SPARES_MAX:
                usable.append(name)
            else:
                self._directory.remove(name)
        return usable

    # Writing.

    @property
    def wants_mark(self) -> bool:
        """Whether something was written since the last MARK."""
        return self._last_type is not RecordType.MARK

    async def write(self, records: Sequence[Record]) -> None:
        """Append records; they are durable when this returns.

        Not to be called again before it has returned. Raises OSError, and then always.
        If cancelled, the records may be durable or not.
        """
        if self._error is not None:
            raise self._error
        assert self._worker is not None
        start = 0
        try:
            while start < len(records):
                segment = self._segments[-1]
                if segment.direct is None:
                    await self._worker.run(self._write, records[start:])
                    return
                batch = self._fitting(segment, records, start)
                if batch:
                    offset, data, used = self._blocks(segment, batch)
                    await segment.direct.write(offset, data)
                    self._wrote(segment, batch, data, used)
                    start += len(batch)
                else:
                    await self._worker.run(self._roll)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> OSError:
        """What to raise instead, from now on always: it says whose error it is."""
        self._error = OSError(
            error.errno,
            f"the log cannot be written: {error.strerror or error}",
            self._directory.path,
        )
        return self._error

    def _write(self, records: Sequence[Record]) -> None:
        """The same on this thread, through the page cache."""
        if self._error is not None:
            raise self._error
        start = 0
        try:
            while start < len(records):
                segment = self._segments[-1]
                batch = self._fitting(segment, records, start)
                if batch:
                    offset, data, used = self._blocks(segment, batch)
                    assert segment.file is not None
                    segment.file.write_at(offset, data)
                    segment.file.sync()
                    self._wrote(segment, batch, data, used)
                    start += len(batch)
                else:
                    self._roll()
        except OSError as error:
            self._error = error
            raise

    def _fitting(
        self, segment: Segment, records: Sequence[Record], start: int
    ) -> Sequence[Record]:
        """As many records from `start` on as fit; none: it is time to roll."""
        room = segment.size - segment.position
        left = records[start:] if start else records
        for position, record in enumerate(left):
            room -= record.size
            if room < 0:
                assert position or record.size <= self._segment_size - DATA_OFFSET
                return left[:position]
        return left

    def _blocks(self, segment: Segment, batch: Sequence[Record]) -> tuple[int, bytes, int]:
        """Where the batch goes, and its blocks: from the tail to zeros at the end.

        The third is how much of them is not those zeros.
        """
        buffers = pack(
            batch,
            segment.header,
            first_sequence=self._next_sequence,
            durable=self._next_sequence - 1,
        )
        data = b"".join((segment.tail, *buffers))
        used = len(data)
        data += _ZEROS[: -used % DIRECT_BLOCK_SIZE]
        return segment.position - len(segment.tail), data, used

    def _wrote(
        self, segment: Segment, batch: Sequence[Record], data: bytes, used: int
    ) -> None:
        _note(segment, batch)
        segment.position += used - len(segment.tail)
        segment.tail = data[used - used % DIRECT_BLOCK_SIZE : used]
        self._next_sequence += len(batch)
        self._last_type = batch[-1].type

    def _roll(self) -> None:
        """Go on in a new segment."""
        if not self._spares:
            self._spares.append(self._make_spare(self._new_spare_name()))
        spare = self._spares.pop(0)
        salt = self._entropy.token(SALT_SIZE)
        header = SegmentHeader(self._next_generation, self._next_sequence, salt)
        name = f"{_SEGMENT}{header.generation:016x}"
        file = self._directory.open(spare)
        file.write_at(0, encode_segment_header(header))
        file.sync()
        self._directory.rename(spare, name)
        self._directory.sync()
        direct = self._directory.open_direct(name)
        self._next_generation += 1
        if self._segments and self._segments[-1].file is not None:
            _close(self._segments[-1])
        segment = Segment(header, name, self._segment_size, file, direct)
        self._keep([*self._segments, segment])

    # Spares.

    @property
    def wants_spare(self) -> bool:
        return not self._spares

    async def prepare(self) -> None:
        """Make a spare, if there is none, beside the writing.  Sets `is_full`.

        Raises OSError, after which the log is unusable.
        """
        if not self.wants_spare:
            return
        name = self._new_spare_name()
        try:
            await self._threads.run(self._make_spare, name)
        except OSError as error:
            if error.errno not in _FULL:
                raise self._unusable(error) from error
            self.is_full = True
            if self._directory.exists(name):
                self._directory.remove(name)
            return
        self.is_full = False
        self._spares.append(name)

    def _new_spare_name(self) -> str:
        return f"{_SPARE}{next(self._spare_numbers):016x}"

    def _make_spare(self, name: str) -> str:
        file = self._directory.open(name, create=True)
        try:
            file.allocate(self._segment_size, zeros=True)
            file.sync()
        finally:
            file.close()
        return name

    # Letting go.

    def _keep(self, segments: list[Segment]) -> None:
        self._segments = segments
        self.size = sum(segment.size for segment in segments)

    @property
    def segment_size(self) -> int:
        return self._segment_size

    @property
    def sealed(self) -> Sequence[Segment]:
        """Segments that are written no more, oldest first."""
        return self._segments[:-1]

    def release_record(self) -> Record:
        """What must be durable before `release`, with all that is still needed."""
        return Record(
            NO_GROUP, RecordType.RELEASED, index=self._segments[1].header.generation
        )

    async def release(self) -> None:
        """Let the oldest segment go.  Raises OSError, after which the log is unusable."""
        assert self._worker is not None
        try:
            await self._worker.run(self._release)
        except OSError as error:
            raise self._unusable(error) from error

    def _release(self) -> None:
        segment, *others = self._segments
        self._keep(others)
        if len(self._spares) < SPARES_MAX and segment.size == self._segment_size:
            spare = self._new_spare_name()
            self._directory.rename(segment.name, spare)
            self._spares.append(spare)
        else:
            self._directory.remove(segment.name)
        self._directory.sync()
        self.is_full = False


MARK = Record(NO_GROUP, RecordType.MARK)


def check(directory: Directory) -> Recovered:
    """Read and verify a stopped node's log, changing nothing.  Raises CorruptData."""
    reading = _read(directory)
    reading.replay.finish()
    return Recovered(reading.replay.groups, reading.findings)


def _sync_last(directory: Directory, reading: _Reading) -> None:
    """Make durable what was read.

    A killed process may have left its last write to the kernel: from now on we vouch for
    it, and the power may fail.
    """
    if reading.segments:
        file = directory.open(reading.segments[-1].name)
        try:
            file.sync()
        finally:
            file.close()


def _close(segment: Segment) -> None:
    assert segment.file is not None
    segment.file.close()
    segment.file = None
    if segment.direct is not None:
        segment.direct.close()
        segment.direct = None


def _read(directory: Directory) -> _Reading:
    """Read all segments in order."""
    names = sorted(directory.names())
    reading = _Reading(spares=[name for name in names if name.startswith(_SPARE)])
    files = [name for name in names if name.startswith(_SEGMENT)]
    for name in files:
        segment = _open_segment(directory, name)
        if segment is None:
            reading.unreadable.append(name)
            reading.findings.append(Finding(name, 0, "missing", 0, None))
        else:
            reading.segments.append(segment)
    for number, segment in enumerate(reading.segments):
        is_last = number + 1 == len(reading.segments)
        follower = None if is_last else reading.segments[number + 1]
        _read_segment(directory, segment, follower, reading)
    if files:
        reading.next_generation = int(files[-1].removeprefix(_SEGMENT), 16) + 1
    if reading.segments and reading.segments[0].generation > reading.replay.released:
        _miss(reading, reading.segments[0])
    if files and files[-1] in reading.unreadable:
        reading.replay.last_gap = reading.next_sequence
    return reading


def _open_segment(directory: Directory, name: str) -> Segment | None:
    """What a segment's header says; None where it cannot be read."""
    file = directory.open(name, write=False)
    try:
        header = decode_segment_header(file.read_at(0, DATA_OFFSET))
        size = file.size
    except CorruptHeader:
        return None
    finally:
        file.close()
    if name != f"{_SEGMENT}{header.generation:016x}":
        raise CorruptData(
            f"{name} holds generation {header.generation}: files were mixed up"
        )
    return Segment(header, name, size)


def _read_segment(
    directory: Directory, segment: Segment, follower: Segment | None, reading: _Reading
) -> None:
    header = segment.header
    if reading.segments[0] is not segment and (
        reading.next_sequence != header.first_sequence
        or reading.last_generation + 1 != header.generation
    ):
        _miss(reading, segment)
    reading.next_sequence = header.first_sequence
    reading.last_generation = header.generation
    end = None if follower is None else follower.header.first_sequence
    if follower is not None and follower.generation != segment.generation + 1:
        end = None  # A file between is missing, so this one's end is not known.
    file = directory.open(segment.name, write=False)
    data = file.read_at(0, segment.size)
    file.close()
    for item in scan(data, header, end_sequence=end):
        match item:
            case Good():
                reading.next_sequence = item.sequence + 1
                reading.replay.take(item)
                _note(segment, (item.record,))
            case Lost():
                reading.next_sequence = item.sequence + item.count
                reading.replay.take(item)
                group = None if item.record is None else item.record.group
                if item.record is not None:
                    _note(segment, (item.record,))
                reading.findings.append(
                    Finding(segment.name, item.offset, "lost", item.count, group)
                )
            case Cut():
                reading.findings.append(Finding(segment.name, item.offset, "cut", 0, None))


def _miss(reading: _Reading, segment: Segment) -> None:
    """Records before `segment` are not there at all."""
    reading.replay.last_gap = max(reading.replay.last_gap, segment.header.first_sequence)
    reading.findings.append(Finding(segment.name, 0, "missing", 0, None))


def _note(segment: Segment, records: Iterable[Record]) -> None:
    """Keep count of what `segment` is needed for."""
    groups = segment.groups
    for record in records:
        group = record.group
        if group != NO_GROUP:
            highest = groups.get(group, 0)
            if record.type is ENTRY and record.index > highest:
                highest = record.index
            groups[group] = highest


assert record_size(ENTRY_SIZE_MAX) + DATA_OFFSET <= SEGMENT_SIZE
