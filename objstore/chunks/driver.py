"""One chunk drive at work: its segments, its open files, its group commits, its fence.

    reserve     an extent of the active segment, which grows, or is sealed and followed
    io          one blocking call on a thread; an OSError from it fences the drive
    commit      trailers of all who ask meanwhile, one fdatasync, then `publish`

A fenced drive is not written and not served until the node starts again: after a failed
write or sync nobody knows what the kernel still has (FAULTS 1.2).  The node goes on with
its other drives.  Only ENOSPC is no reason: what it refused was never acknowledged.

A segment is active until its tail reaches the segment size; its last record may reach
beyond, so no space is lost between extents of any size.  After a start all old segments
are sealed: what a crashed writer left behind a tail is never written into again.
"""

from __future__ import annotations

import contextlib
import errno
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

import attrs
import structlog
import trio

from objstore import metrics
from objstore.buffer import Buffer
from objstore.chunks import segment as seg
from objstore.chunks.format import NONCE_SIZE, SEGMENT_HEADER_SIZE, SegmentHeader, align
from objstore.chunks.fragment import DriveFenced
from objstore.chunks.index import Index, Location
from objstore.chunks.segment import Segment
from objstore.errors import Conflict, OutOfSpace
from objstore.host.clock import Clock
from objstore.host.disk import BegunWrite, Directory, File
from objstore.host.entropy import Entropy
from objstore.host.threads import Threads, Worker
from objstore.ids import DriveId, FragmentId
from objstore.limits import BLOCK_SIZE, POOL_THREADS_MAX
from objstore.units import MiB

T = TypeVar("T")

log = structlog.get_logger()

# Segment files open at once on one drive: enough for the hot ones.
OPEN_FILES_MAX = 64
# Each may be opened twice: for whole pages, and for the rest (`host.disk`, "direct").
DESCRIPTORS_MAX = 2 * OPEN_FILES_MAX
# What is read is counted, by windows of a segment: of 8 GiB of them, in 1 MiB of memory.
READS_KEPT = 8192
READ_WINDOW = BLOCK_SIZE
READ_SIZE_MIN = READ_WINDOW // 4  # Counts a read: the smallest costs the drive a turn too.
# So often, on average of a window's bytes, makes a place in the page cache worth its cost:
# filling it costs as much as is saved by a few reads from it (docs/internals/cost.md).
READS_OFTEN = 3
SEGMENT_SIZE_MIN = 4 * MiB
# A drive holds at least so many segments, so that compaction has something to choose from.
SEGMENTS_PER_DRIVE_MIN = 64
# Of the pool's threads, as many as one drive may occupy: half, so that a drive that hangs
# does not stop the others (F12).
CALLS_AT_ONCE = POOL_THREADS_MAX // 2
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@attrs.frozen
class DriveSpace:
    """One drive, as status shows it.  Sizes in bytes."""

    drive: DriveId | None  # None: refused before its identity was known.
    path: str
    total: int
    free: int  # On its file system, what is preallocated not counted.
    live: int  # Extents of fragments.
    fragments: int
    fenced: str | None  # Why it is not used.
    damaged_segments: int = 0


@attrs.define(eq=False)
class Commit:
    """A record on its way to being complete."""

    fragment: FragmentId
    location: Location
    segment: Segment
    file: File
    offset: int  # Where `buffers` go, in the segment.
    buffers: Sequence[Buffer]  # The last block, table and trailer; or the whole record.
    # For compaction: what the index must still say; else this copy is dead.
    moved_from: Location | None = None
    # Called once, when the committer needs file and buffers no more.
    on_end: Callable[[], None] = attrs.field(kw_only=True)
    error: Exception | None = None
    done: trio.Event = attrs.field(factory=trio.Event)

    def end(self, error: Exception | None = None) -> None:
        self.error = self.error or error
        self.on_end()
        self.done.set()


@attrs.define(eq=False)
class _OpenFile:
    file: File
    users: int = 0
    is_evicted: bool = False


async def _write_without_thread(batch: Sequence[Commit]) -> bool:
    """Write and sync; False: a thread has to, from the beginning.  Raises OSError."""
    commit = batch[0]
    if len(batch) == 1 and commit.offset == commit.location.place:
        # The whole record in one write, and nothing else to be synced.
        begun = commit.file.begin_write(commit.offset, commit.buffers, sync=True)
        return begun is not None and await begun.wait()
    if not await _all_done(
        [it.file.begin_write(it.offset, it.buffers, sync=False) for it in batch]
    ):
        return False
    files = {id(commit.file): commit.file for commit in batch}.values()
    return await _all_done([file.begin_sync() for file in files])


async def _all_done(begun: Sequence[BegunWrite | None]) -> bool:
    """Wait for all of them, also where one fails.  Raises OSError."""
    is_done = True
    failure: OSError | None = None
    for write in begun:
        try:
            is_done = write is not None and await write.wait() and is_done
        except OSError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return is_done


def _write_and_sync(batch: Sequence[Commit]) -> None:
    for commit in batch:
        commit.file.write_at(commit.offset, commit.buffers)
    for file in {id(commit.file): commit.file for commit in batch}.values():
        file.sync()


class Drive:
    """A drive that was claimed by this node (or refused: then fenced from the start)."""

    def __init__(
        self,
        directory: Directory,
        *,
        drive: DriveId | None,
        lock: File | None,
        index: Index,
        threads: Threads,
        clock: Clock,
        entropy: Entropy,
        segment_size: int,
        reserve: int,
        fenced: str | None = None,
    ) -> None:
        self.directory = directory
        self.drive = drive
        self.fenced = fenced
        self.segments: dict[int, Segment] = {}
        self.active: Segment | None = None
        self.publish: Callable[[Sequence[Commit]], None] | None = None
        self._lock = lock
        self._index = index
        self._threads = threads
        self._clock = clock
        self._entropy = entropy
        self._segment_size_wanted = segment_size
        self._reserve = reserve
        self._free = 0
        self._total = 0
        self._next_number = 1
        self._rolling = trio.Lock()
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._reads: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._calls = trio.Semaphore(CALLS_AT_ONCE)
        self._syncer: Worker | None = None
        self._waiting: list[Commit] = []
        self._work = trio.Event()
        self._is_stopping = False

    # ---- identity and state -----------------------------------------------------------

    @property
    def id(self) -> DriveId:
        assert self.drive is not None
        return self.drive

    @property
    def segment_size(self) -> int:
        """The size at which a segment is sealed; smaller on a small drive."""
        share = align(self._total // SEGMENTS_PER_DRIVE_MIN)
        return min(self._segment_size_wanted, max(SEGMENT_SIZE_MIN, share))

    @property
    def free(self) -> int:
        """Free bytes above the reserve, as last seen."""
        return self._free - self._reserve

    def space(self) -> DriveSpace:
        segments = self.segments.values()
        return DriveSpace(
            drive=self.drive,
            path=self.directory.path,
            total=self._total,
            free=self._free,
            live=sum(segment.live_size for segment in segments),
            fragments=sum(segment.live_count for segment in segments),
            fenced=self.fenced,
            damaged_segments=sum(segment.is_damaged for segment in segments),
        )

    def check(self) -> None:
        """Raises DriveFenced."""
        if self.fenced is not None:
            raise DriveFenced(f"drive {self.drive} is fenced: {self.fenced}")

    def fence(self, reason: str) -> None:
        """Stop using the drive, until the node starts again."""
        metrics.DRIVE_ERRORS.labels(self._label).inc()
        if self.fenced is not None:
            return
        self.fenced = reason
        metrics.DRIVE_FENCED.labels(self._label).set(1)
        log.error(
            "chunks.drive_fenced", drive=self.drive, path=self.directory.path, reason=reason
        )

    @property
    def _label(self) -> str:
        return self.drive or self.directory.path

    def show_space(self) -> None:
        """Bring the drive's metrics up to date."""
        space = self.space()
        for kind, size in (
            ("total", space.total),
            ("free", space.free),
            ("live", space.live),
        ):
            metrics.DRIVE_BYTES.labels(self._label, kind).set(size)
        metrics.DRIVE_FENCED.labels(self._label).set(self.fenced is not None)

    # ---- blocking work ----------------------------------------------------------------

    async def io(self, function: Callable[..., T], *args: object) -> T:
        """Run blocking work on this drive.

        Raises DriveFenced (at once, or because the work failed), OutOfSpace,
        FileNotFoundError (a segment may be removed while somebody wants to read it), and
        what is not an OSError as it is.  Not cancelled half-way.
        """
        self.check()
        try:
            async with self._calls:
                self.check()
                return await self._threads.run(function, *args)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.failed(error) from error

    async def write(
        self, file: File, offset: int, buffers: Sequence[Buffer], *, sync: bool
    ) -> None:
        """Write to a segment, without a thread where that can be.

        sync: flush what was written so far, so that a later sync has less to do.
        Raises DriveFenced, OutOfSpace.  Not cancelled half-way.
        """
        self.check()
        begun = file.begin_write(offset, buffers, sync=sync)
        if begun is not None:
            try:
                if await begun.wait():
                    return
            except OSError as error:
                raise self.failed(error) from error
        await self.io(_write, file, offset, buffers, sync)

    def failed(self, error: OSError) -> OutOfSpace | DriveFenced:
        """Fence where `error` asks for it; what to raise instead."""
        if error.errno in _NO_SPACE:
            self._free = 0  # Seen again at the next look.
            return OutOfSpace(f"drive {self.drive} is full")
        self.fence(f"{error.strerror or error} (errno {error.errno})")
        return DriveFenced(f"drive {self.drive} is fenced: {self.fenced}")

    async def punch(self, file: File, offset: int, size: int) -> None:
        """Give the space of an extent back that nobody refers to; failure is no loss."""
        if self.fenced is not None:
            return
        with trio.CancelScope(shield=True), contextlib.suppress(DriveFenced, OutOfSpace):
            await self.io(file.punch, offset, size)

    async def look_at_space(self) -> None:
        """Ask the file system how full it is.  Raises DriveFenced."""
        space = await self.io(self.directory.space)
        self._free, self._total = space.free, space.total
        self.show_space()

    @contextlib.asynccontextmanager
    async def using(self, segment: Segment) -> AsyncIterator[File]:
        """An open file of the segment, kept open meanwhile.

        Raises DriveFenced, FileNotFoundError where the segment was removed.
        """
        entry = self._files.get(segment.number)
        if entry is None:
            entry = await self._open(segment.number)
        else:
            self._files.move_to_end(segment.number)
        entry.users += 1
        try:
            yield entry.file
        finally:
            entry.users -= 1
            if entry.is_evicted and entry.users == 0:
                entry.file.close()

    def is_read_often(self, segment: Segment, offset: int) -> bool:
        """Whether what lies around `offset` of the segment was read so often, not long ago.

        Only then is it worth a place in the page cache: what is read once, a scan or a
        backup, leaves there what is read often.  And only then is it looked for there:
        asking for what is not there makes the kernel read it in, and more behind it.
        """
        read_size = self._reads.get((segment.number, offset // READ_WINDOW), 0)
        return read_size >= READS_OFTEN * READ_WINDOW

    def note_read(self, segment: Segment, offset: int, size: int) -> None:
        """Count a read of so many bytes from `offset` on."""
        key = (segment.number, offset // READ_WINDOW)
        self._reads[key] = self._reads.pop(key, 0) + max(size, READ_SIZE_MIN)
        if len(self._reads) > READS_KEPT:
            self._reads.popitem(last=False)

    def file_now(self, segment: Segment) -> File | None:
        """The segment's file where it is open; for use at once, as nobody keeps it so."""
        entry = self._files.get(segment.number)
        if entry is None:
            return None
        self._files.move_to_end(segment.number)
        return entry.file

    async def _open(self, number: int) -> _OpenFile:
        with trio.CancelScope(shield=True):  # Or the file would stay open for ever.
            file = await self.io(seg.open_segment, self.directory, number)
        if (entry := self._files.get(number)) is not None:  # Another was quicker.
            file.close()
            return entry
        return self.add_file(number, file)

    def add_file(self, number: int, file: File) -> _OpenFile:
        entry = self._files[number] = _OpenFile(file)
        if len(self._files) > OPEN_FILES_MAX:
            idle = (n for n, e in self._files.items() if e.users == 0 and e is not entry)
            if (oldest := next(idle, None)) is not None:
                self._evict(oldest)
        return entry

    def _evict(self, number: int) -> None:
        entry = self._files.pop(number, None)
        if entry is None:
            return
        entry.is_evicted = True
        if entry.users == 0:
            entry.file.close()

    # ---- extents ----------------------------------------------------------------------

    async def reserve(
        self, size: int, *, into_reserve: bool = False
    ) -> tuple[Segment, int, File]:
        """An extent of `size` bytes: its segment, place and file.

        into_reserve: half of the reserve may be used (repair, compaction).
        The caller must `settle` it.  Raises OutOfSpace, DriveFenced.
        """
        self.check()
        limit = self._reserve // 2 if into_reserve else self._reserve
        if self._free < limit:
            await self.look_at_space()  # Perhaps somebody has made room meanwhile.
        if self._free < limit:
            raise OutOfSpace(f"drive {self.drive} has reached its reserve")
        if (taken := self._take(size)) is not None:
            return taken
        async with self._rolling:
            while (taken := self._take(size)) is None:
                await self._make_room(size, limit)
            return taken

    def reserve_now(
        self, size: int, into_reserve: bool
    ) -> tuple[Segment, int, File] | None:
        """As `reserve`, where there is room in the active segment; None: ask that."""
        limit = self._reserve // 2 if into_reserve else self._reserve
        if self.fenced is not None or self._free < limit or self._rolling.locked():
            return None
        return self._take(size)

    def _take(self, size: int) -> tuple[Segment, int, File] | None:
        segment = self.active
        if segment is None or segment.tail >= self.segment_size:
            return None
        if segment.tail + size > segment.allocated:
            return None
        place = segment.tail
        segment.tail += size
        segment.open[place] = size
        entry = self._files[segment.number]
        entry.users += 1
        return segment, place, entry.file

    def settle(self, segment: Segment, place: int) -> None:
        """The extent at `place` is written for good, or given up."""
        del segment.open[place]
        entry = self._files.get(segment.number)
        # The active segment's file is held by the drive too, so it was not evicted while
        # an extent of it was open.
        if entry is not None:
            entry.users -= 1

    async def _make_room(self, size: int, limit: int) -> None:
        """Extend the active segment, or begin a new one.  Raises OutOfSpace."""
        await self.look_at_space()
        segment = self.active
        if segment is not None and segment.tail < self.segment_size:
            await self._extend(segment, segment.tail + size, limit)
        else:
            await self._begin_segment(size, limit)

    async def _extend(self, segment: Segment, size: int, limit: int) -> None:
        if self._free - (size - segment.allocated) < limit:
            raise OutOfSpace(f"drive {self.drive} has reached its reserve")
        file = self._files[segment.number].file
        with trio.CancelScope(shield=True):  # Or we would not know what was allocated.
            await self.io(file.allocate, size)
        segment.allocated = size

    async def _begin_segment(self, size: int, limit: int) -> None:
        least = SEGMENT_HEADER_SIZE + size
        room = self._free - limit
        if room < least:
            raise OutOfSpace(f"drive {self.drive} has reached its reserve")
        file_size = max(least, min(self.segment_size, room))
        header = SegmentHeader(
            self.id,
            self._next_number,
            self._entropy.token(NONCE_SIZE),
            self._clock.utc_now_ms(),
        )
        with trio.CancelScope(shield=True):
            file = await self.io(seg.create_segment, self.directory, header, file_size)
            await self.seal_active()
        segment = Segment(header.number, header.nonce, allocated=file_size)
        self._next_number += 1
        self.segments[segment.number] = segment
        self.add_file(segment.number, file).users += 1  # Held while it is active.
        self.active = segment
        self.write_row(segment)

    async def seal_active(self) -> None:
        """Take no more extents from the active segment; give unused space back."""
        segment, self.active = self.active, None
        if segment is None:
            return
        segment.is_sealed = True
        entry = self._files[segment.number]
        if segment.allocated > segment.tail and self.fenced is None:
            await self.io(entry.file.truncate, segment.tail)
            segment.allocated = segment.tail
        entry.users -= 1
        self.write_row(segment)

    def write_row(self, segment: Segment) -> None:
        change, batch = self._index.change()
        change.put_segment(self.id, segment.number, segment.row())
        self._index.write(batch)

    def set_segments(self, segments: dict[int, Segment]) -> None:
        """The segments that a start found."""
        self.segments = segments
        # Numbers are never used twice (`remove_segment` leaves the highest in place).
        self._next_number = max(segments, default=0) + 1

    async def remove_segment(self, segment: Segment) -> None:
        """Remove a sealed segment that holds nothing live.

        If cancelled, the file may still be there: the next start removes it.
        """
        assert segment.is_sealed
        assert not segment.open
        assert segment.live_count == 0
        assert segment.number < self._next_number - 1, "its number would be used again"
        del self.segments[segment.number]
        change, batch = self._index.change()
        change.drop_segment(self.id, segment.number)
        self._index.write(batch)
        self._evict(segment.number)
        await self.io(_remove, self.directory, seg.segment_name(segment.number))
        log.info(
            "chunks.segment_removed", drive=self.drive, segment=segment.number,
            size=segment.tail,
        )  # fmt: skip

    def is_removable(self, segment: Segment) -> bool:
        return (
            segment.is_sealed
            and not segment.open
            and not segment.is_damaged
            and segment.live_count == 0
            and segment.number < self._next_number - 1
        )

    # ---- commits ----------------------------------------------------------------------

    async def commit(self, commit: Commit) -> None:
        """Make a record complete, durable and visible.

        Raises OutOfSpace, DriveFenced, MovedAway.  If cancelled, it is done all the same,
        or fails with nobody to hear of it.
        """
        if self.fenced is not None or self._is_stopping:
            commit.on_end()
            self.check()
            raise DriveFenced("this node is stopping")
        self._waiting.append(commit)
        self._work.set()
        await commit.done.wait()
        if commit.error is not None:
            raise commit.error

    async def run_commits(self) -> None:
        """Serve commits until cancelled: what came meanwhile shares one sync."""
        self._syncer = self._threads.worker(f"sync-{self.drive}")
        try:
            while True:
                await self._work.wait()
                self._work = trio.Event()
                batch, self._waiting = self._waiting, []
                await self._commit_batch(batch)
        finally:
            self._is_stopping = True
            self._fail(self._waiting, DriveFenced("this node is stopping"))
            self._syncer.close()
            self._syncer = None

    async def _commit_batch(self, batch: list[Commit]) -> None:
        """Not cancelled."""
        assert self._syncer is not None
        assert self.publish is not None
        try:
            self.check()
            with metrics.CHUNKS_SYNC_SECONDS.time():
                if not await _write_without_thread(batch):
                    with trio.CancelScope(shield=True):
                        await self._syncer.run(_write_and_sync, batch)
        except DriveFenced as error:
            self._fail(batch, error)
        except OSError as error:
            self._fail(batch, self.failed(error))
        else:
            self.publish(batch)
            for commit in batch:
                commit.end()

    def _fail(self, batch: Sequence[Commit], error: Exception) -> None:
        for commit in batch:
            commit.end(error)

    def close(self) -> None:
        """Close every file, and give the folder free."""
        for number in list(self._files):
            entry = self._files.pop(number)
            entry.file.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _write(file: File, offset: int, buffers: Sequence[Buffer], sync: bool) -> None:
    file.write_at(offset, buffers)
    if sync:
        file.sync()


def _remove(directory: Directory, name: str) -> None:
    directory.remove(name)
    directory.sync()


class MovedAway(Conflict):
    """A record that compaction copied was deleted or replaced meanwhile."""
