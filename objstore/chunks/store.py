"""The chunk store of a node: fragments on its drives.

    create -> FragmentWriter.append ... commit      read      stat  walk      delete
                     |                                |
        extent of a drive's active segment      index row -> record -> verified blocks

What is true when:

- `commit` returns after the record's trailer and everything before it is synced, and its
  row is in the index.  A crash earlier leaves an incomplete record, or a complete one that
  nobody was told of: garbage either way, never a hole.
- `delete` marks the record dead on the drive, syncs, then drops the row.  Where the index
  goes back after a crash, the mark is met instead of a live header and the row is dropped
  again.  What cannot be marked (a fenced drive) may come back when the index is rebuilt
  from the segments: then it is garbage, and a search for orphans frees it.
- A piece that does not verify is never returned.  Its fragment is quarantined: kept on the
  drive, refused to readers, counted, logged, handed to `on_damage`; a newer write of the
  same fragment, or a delete, ends that.

Formats are in `format` and `index`, the work on one drive in `driver`.
"""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice

import attrs
import structlog
import trio

from objstore import metrics
from objstore.buffer import Buffer
from objstore.chunks import segment as seg
from objstore.chunks.driver import Commit, Drive, DriveSpace, MovedAway
from objstore.chunks.format import (
    CorruptRecord,
    Extent,
    RecordHeader,
    RecordState,
    extent_of,
)
from objstore.chunks.fragment import (
    Block,
    CorruptFragment,
    DriveFenced,
    FragmentHeader,
    FragmentStat,
    NoSuchFragment,
    RecordRef,
)
from objstore.chunks.identity import DriveIdentity, DriveRefused, claim_drive, lock_drive
from objstore.chunks.index import Index, Location
from objstore.chunks.placement import ranked
from objstore.chunks.recovery import Recovery, RecoveryReport
from objstore.chunks.segment import Segment
from objstore.chunks.writer import FragmentWriter, HeldBlocks
from objstore.config import ChunksConfig
from objstore.errors import ConfigError, CorruptData, ObjstoreError, OutOfSpace
from objstore.frozen import frozen
from objstore.host.buffers import POOL
from objstore.host.clock import next_beat_s
from objstore.host.disk import BegunRead, Directory, File
from objstore.host.host import Host
from objstore.host.kv import KeyValueStore
from objstore.ids import ClusterId, DriveId, FragmentId, NodeId
from objstore.limits import BLOCK_SIZE
from objstore.units import MiB

log = structlog.get_logger()

OnDamage = Callable[[FragmentId, FragmentHeader | None], None]

READ_SIZE_MAX = 8 * MiB  # One read; a reader of more asks again.
# Checksum tables kept for readers: one a fragment being read, 4 bytes a piece.
TABLES_KEPT = 256
TABLE_PIECES_KEPT = 4096  # Larger tables are read again each time.
_WALK_LIMIT_MAX = 10_000
_READ_ATTEMPTS = 4  # A fragment may move or go while it is read; each is seen once.
_SPACE_INTERVAL_S = 5.0
_STOP_TIMEOUT_S = 2.0
_DEAD_KEPT = 10_000  # Replaced records waiting for their mark; more stay unmarked.


@frozen
class Run:
    """Verified blocks in order and without gaps."""

    blocks: list[Block]
    block_size: int  # Of the fragment.


@frozen
class _Located:
    """A fragment, and where the index says that it is."""

    fragment: FragmentId
    drive: Drive
    segment: Segment
    location: Location


@frozen
class _Wanted:
    """A range of a fragment, and what is known of its record."""

    at: _Located
    start: int
    end: int
    entries: tuple[int, ...] | None  # The record's table; None: not known.

    def read(self, read: seg.Reader) -> seg.RangeRead:
        """Raises as `segment.read_range`."""
        location = self.at.location
        return seg.read_range(
            read,
            self.at.fragment,
            nonce=self.at.segment.nonce,
            place=location.place,
            extent=location.extent,
            start=self.start,
            end=self.end,
            entries=self.entries,
        )

    def take(self, buffer: memoryview, here: int) -> seg.RangeRead:
        """Raises as `segment.range_in`."""
        location = self.at.location
        return seg.range_in(
            buffer,
            here,
            self.at.fragment,
            nonce=self.at.segment.nonce,
            place=location.place,
            extent=location.extent,
            start=self.start,
            end=self.end,
            entries=self.entries,
            read=_read_nothing,
        )


class BegunRun:
    """A run that the system reads, without a thread."""

    __slots__ = ("_begun", "_here", "_store", "_wanted")

    def __init__(
        self, store: ChunkStore, wanted: _Wanted, begun: BegunRead, here: int
    ) -> None:
        self._store, self._wanted, self._begun, self._here = store, wanted, begun, here

    def now(self) -> Run | None:
        """The run, where it is there already and verified."""
        return self._verified(self._begun.now())

    async def wait(self) -> Run | None:
        """The run; None: `read_run` is to be asked, and says what is wrong, if anything.

        If cancelled, it may be waited for again, or be forgotten.
        """
        return self._verified(await self._begun.wait())

    def _verified(self, data: Buffer | None) -> Run | None:
        if data is None:
            return None
        try:
            found = self._wanted.take(memoryview(data), self._here)
        except (CorruptRecord, seg.NotInMemory):
            return None
        return self._store.run_of(self._wanted, found)


@frozen
class _Table:
    location: Location
    entries: tuple[int, ...]


class ChunkStore:
    """Fragments on one or more drives."""

    def __init__(
        self,
        *,
        host: Host,
        kv: KeyValueStore,
        drives: Sequence[Directory],
        cluster: ClusterId,
        node: NodeId,
        config: ChunksConfig,
        on_damage: OnDamage | None = None,
    ) -> None:
        self.drives: dict[DriveId, Drive] = {}
        self.refused: list[Drive] = []  # Folders without a usable identity.
        self.index = Index(kv, self._note_index_error)
        self._index_error: OSError | None = None
        self._index_failed = trio.Event()
        self.on_damage = on_damage
        self._host = host
        self._directories = list(drives)
        self._cluster = cluster
        self._node = node
        self._config = config
        self._held = HeldBlocks()
        self._tables: OrderedDict[FragmentId, _Table] = OrderedDict()
        self._dead: list[tuple[FragmentId, Location]] = []
        self._dead_came = trio.Event()

    # ---- service ----------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Claim the drives, bring the index up to date, then serve until cancelled.

        Raises ConfigError where no drive can be used, OSError where the index fails.
        """
        try:
            await self._claim_drives()
            await self._recover()
            async with trio.open_nursery() as nursery:
                for drive in self._usable():
                    drive.publish = self._publish
                    nursery.start_soon(drive.run_commits)
                nursery.start_soon(self._tick)
                nursery.start_soon(self._serve_burials)
                task_status.started()
                await self._index_failed.wait()
                assert self._index_error is not None
                raise self._index_error
        finally:
            for drive in [*self.drives.values(), *self.refused]:
                drive.close()

    def _note_index_error(self, error: OSError) -> None:
        self._index_error = self._index_error or error
        self._index_failed.set()

    def _usable(self) -> list[Drive]:
        return [drive for drive in self.drives.values() if drive.fenced is None]

    async def _claim_drives(self) -> None:
        known = self.index.drives()
        for directory in self._directories:
            expected = [d for d, path in known.items() if path == directory.path]
            drive = await self._claim(directory, expected[0] if expected else None)
            if drive.drive is None or drive.drive in self.drives:
                self.refused.append(drive)
            else:
                self.drives[drive.drive] = drive
        if not self._usable():
            reasons = "; ".join(
                d.fenced or "" for d in [*self.drives.values(), *self.refused]
            )
            raise ConfigError(f"no chunk drive can be used: {reasons}")
        change, batch = self.index.change()
        for drive in self._usable():
            change.put_drive(drive.id, drive.directory.path)
        here = {drive.directory.path: drive.id for drive in self._usable()}
        for old, path in known.items():
            if path in here and here[path] != old:  # Replaced, and accepted as such.
                change.drop_drive(old)
        self.index.write(batch)

    async def _claim(self, directory: Directory, expected: DriveId | None) -> Drive:
        """A drive, fenced with the sentence where it must not be used."""
        wanted = DriveIdentity(
            DriveId(self._host.entropy.token(8).hex()), self._node, self._cluster
        )
        lock: File | None = None
        drive_id, reason = expected, None
        try:
            with trio.CancelScope(shield=True):
                lock = await self._host.threads.run(lock_drive, directory)
            claim = functools.partial(
                claim_drive, directory, wanted=wanted, expected=expected
            )
            drive_id = (await self._host.threads.run(claim)).drive
            if drive_id in self.drives:
                reason = (
                    f"{directory.path}: is drive {drive_id}, as is"
                    f" {self.drives[drive_id].directory.path}."
                    " hint: a disk was cloned; name only one of them in node.drives"
                )
        except DriveRefused as error:
            reason = str(error)
        except OSError as error:
            reason = f"{directory.path}: {error.strerror or error}"
        if reason is not None:
            log.error("chunks.drive_refused", path=directory.path, reason=reason)
        return Drive(
            directory,
            drive=drive_id,
            lock=lock,
            index=self.index,
            threads=self._host.threads,
            clock=self._host.clock,
            entropy=self._host.entropy,
            segment_size=self._config.segment_size,
            reserve=self._config.reserve,
            fenced=reason,
        )

    async def _recover(self) -> None:
        """Bring the index up to date with the segments of all drives."""
        recovery = Recovery(self.index, self.drives)
        for drive in self._usable():
            with _fencing(drive):
                await recovery.load(drive)
        for drive in self._usable():
            with _fencing(drive):
                report = await recovery.scan(drive)
                await drive.look_at_space()
                _log_recovery(drive, report)

    async def _tick(self) -> None:
        """Look at the space of the drives, and give memory back."""
        while True:
            await trio.sleep_until(next_beat_s(_SPACE_INTERVAL_S))
            POOL.trim()
            for drive in self._usable():
                try:
                    await drive.look_at_space()
                except (DriveFenced, OutOfSpace):
                    continue

    async def _serve_burials(self) -> None:
        """Mark what was replaced, as it comes; the rest at a stop."""
        try:
            while True:
                await self._dead_came.wait()
                self._dead_came = trio.Event()
                await self._mark_replaced()
        finally:
            with trio.move_on_after(_STOP_TIMEOUT_S, shield=True):
                await self._mark_replaced()

    async def _mark_replaced(self) -> None:
        dead = list(self._dead)
        for (drive_id, number), group in _by_segment(dead).items():
            await self._mark_dead(drive_id, number, group)
        # Not before: until they are marked, a delete looks for them here.
        del self._dead[: len(dead)]

    # ---- writing ----------------------------------------------------------------------

    async def create(
        self, header: FragmentHeader, *, into_reserve: bool = False
    ) -> FragmentWriter:
        """Begin to write a fragment; its whole extent is reserved.

        A fragment that is there already is replaced by the commit.
        into_reserve: half of the drives' reserve may be used: for repair.
        Raises OutOfSpace, DriveFenced (no drive is left), CorruptData for a header that no
        record can hold.
        """
        now = self.create_now(header, into_reserve=into_reserve)
        if now is not None:
            return now
        extent = extent_of(header)
        error: Exception = DriveFenced("no chunk drive can be written")
        for drive in ranked(header.fragment, self._usable()):
            try:
                taken = await drive.reserve(extent.size, into_reserve=into_reserve)
            except (OutOfSpace, DriveFenced) as refusal:
                error = refusal
                continue
            return FragmentWriter(drive, header, extent, taken, held=self._held)
        raise error

    def create_now(
        self, header: FragmentHeader, *, into_reserve: bool = False
    ) -> FragmentWriter | None:
        """As `create`, where nothing is to be waited for; None: ask that."""
        extent = extent_of(header)
        drive = next(iter(ranked(header.fragment, self._usable())), None)
        taken = None if drive is None else drive.reserve_now(extent.size, into_reserve)
        if drive is None or taken is None:
            return None
        return FragmentWriter(drive, header, extent, taken, held=self._held)

    async def create_move(
        self, header: FragmentHeader, *, moved_from: Location
    ) -> FragmentWriter:
        """Begin a copy within a drive, for compaction: its commit checks `moved_from`."""
        drive = self.drives[moved_from.drive]
        # Of the copy: a record of format 1 took less than it will.
        extent = extent_of(header)
        taken = await drive.reserve(extent.size, into_reserve=True)
        return FragmentWriter(
            drive, header, extent, taken, held=self._held, moved_from=moved_from
        )

    def _publish(self, batch: Sequence[Commit]) -> None:
        """Make durable records visible: their rows and their segments' in one batch."""
        change, rows = self.index.change()
        new: dict[FragmentId, Location] = {}
        touched: dict[tuple[DriveId, int], Segment] = {}
        for commit in batch:
            location = commit.location
            old = new.get(commit.fragment) or self._lookup(commit.fragment)
            touched[location.drive, location.segment] = commit.segment
            if commit.moved_from is not None and old != commit.moved_from:
                commit.error = MovedAway(f"fragment {commit.fragment} is gone")
                self._bury(commit.fragment, location)
                continue
            if old is not None and (segment := self._segment_of(old)) is not None:
                segment.count(old, -1)
                touched[old.drive, old.segment] = segment
                if commit.moved_from is None:
                    self._bury(commit.fragment, old)
            commit.segment.count(location, 1)
            change.put(commit.fragment, location)
            new[commit.fragment] = location
            self._tables.pop(commit.fragment, None)
        for (drive, number), segment in touched.items():
            change.put_segment(drive, number, segment.row())
        self.index.write(rows)

    def _bury(self, fragment: FragmentId, location: Location) -> None:
        """Have a record that the index no longer names marked dead, soon."""
        if len(self._dead) < _DEAD_KEPT:
            self._dead.append((fragment, location))
            self._dead_came.set()

    def _lookup(self, fragment: FragmentId) -> Location | None:
        """The index row; one that is damaged counts as none, and is written anew."""
        try:
            return self.index.get(fragment)
        except CorruptData as error:
            log.error(  # noqa: TRY400 - a drive's fault, no trace wanted.
                "chunks.index_row_corrupt", fragment=str(fragment), reason=str(error)
            )
            return None

    def _segment_of(self, location: Location) -> Segment | None:
        drive = self.drives.get(location.drive)
        return None if drive is None else drive.segments.get(location.segment)

    # ---- reading ----------------------------------------------------------------------

    async def read(self, fragment: FragmentId, offset: int, size: int) -> list[Block]:
        """Read a range of a fragment's payload, as verified blocks in order.

        size: READ_SIZE_MAX at most; a range beyond the end is cut there.
        Raises NoSuchFragment, CorruptFragment, DriveFenced.
        """
        assert 0 <= size <= READ_SIZE_MAX
        return (await self._read(fragment, offset, offset + size, None)).blocks

    async def read_run(
        self, fragment: FragmentId, offset: int, end: int, *, on_thread: bool = False
    ) -> Run:
        """Read from `offset` to `end`, or less: blocks of about BLOCK_SIZE, at least one.

        on_thread: `begin_run` said so.
        The run ends where a block ends, or at `end`.  Raises as `read`.
        """
        if not on_thread:
            begun = self.begin_run(fragment, offset, end)
            run = await begun.wait() if isinstance(begun, BegunRun) else begun
            if run is not None:
                return run
        return await self._read(fragment, offset, end, BLOCK_SIZE)

    def begin_run(
        self, fragment: FragmentId, offset: int, end: int
    ) -> Run | BegunRun | None:
        """As `read_run`, without a thread: the run, where memory has it, or begun.

        None: `read_run` is to be asked, `on_thread`, and says what is wrong, if anything.
        """
        try:
            at = self._locate(fragment)
        except ObjstoreError:
            return None
        stop = _stop_of(at.location.extent, offset, end, BLOCK_SIZE)
        file = at.drive.file_now(at.segment)
        if offset >= stop or file is None:
            return None
        wanted = _Wanted(at, offset, stop, self._entries_of(at))
        extent, place = at.location.extent, at.location.place
        if at.drive.is_read_often(at.segment, place + offset):
            try:
                return self.run_of(wanted, wanted.read(file.read_now))
            except (CorruptRecord, seg.NotInMemory):
                return None
        is_known = wanted.entries is not None
        here, there = span = seg.span_of(extent, offset, stop, is_known=is_known)
        if not seg.is_enough(extent, span, is_known=is_known):
            return None
        begun = file.begin_read(place + here, there - here)
        return None if begun is None else BegunRun(self, wanted, begun, here)

    async def _read(
        self, fragment: FragmentId, offset: int, end: int, size_max: int | None
    ) -> Run:
        assert offset >= 0
        for _ in range(_READ_ATTEMPTS):
            at = self._locate(fragment)
            extent = at.location.extent
            stop = _stop_of(extent, offset, end, size_max)
            if offset >= stop:
                return Run([], extent.block_size)
            try:
                return await self._read_range(at, offset, stop)
            except FileNotFoundError:
                await self._doubt(at, "its segment file is gone")
            except CorruptRecord as error:
                await self._doubt(at, error.reason)
        raise NoSuchFragment(f"fragment {fragment} moves faster than it can be read")

    def _locate(self, fragment: FragmentId) -> _Located:
        """Where a fragment can be read.

        Raises NoSuchFragment, CorruptFragment, DriveFenced.
        """
        # A table goes when the fragment's row changes, so its location is the row's.
        table = self._tables.get(fragment)
        location = self._lookup(fragment) if table is None else table.location
        if location is None:
            raise NoSuchFragment(f"fragment {fragment} is not here")
        drive = self.drives.get(location.drive)
        if drive is None and location.drive not in self.index.drives():
            # Replaced by an empty one, and accepted as such: gone for good.
            self._drop_row(fragment, location)
            raise NoSuchFragment(f"fragment {fragment} was on a drive that was replaced")
        if drive is None:
            raise DriveFenced(f"drive {location.drive} of fragment {fragment} is not here")
        drive.check()
        segment = drive.segments.get(location.segment)
        if segment is None:  # The index went back to before the segment was removed.
            self._drop_row(fragment, location)
            raise NoSuchFragment(f"fragment {fragment} is not here")
        if location.is_quarantined:
            raise CorruptFragment(f"fragment {fragment} is quarantined")
        return _Located(fragment, drive, segment, location)

    async def _read_range(self, at: _Located, start: int, end: int) -> Run:
        wanted = _Wanted(at, start, end, self._entries_of(at))
        async with at.drive.using(at.segment) as file:
            is_often = at.drive.is_read_often(at.segment, at.location.place + start)
            read = file.read_at if is_often else file.read_past
            found = await at.drive.io(wanted.read, read)
        return self.run_of(wanted, found)

    def _entries_of(self, at: _Located) -> tuple[int, ...] | None:
        """The record's table, if it is known."""
        table = self._tables.get(at.fragment)
        return table.entries if table and table.location == at.location else None

    def run_of(self, wanted: _Wanted, found: seg.RangeRead) -> Run:
        """What was read: counted, and its table kept for the next read."""
        at, start = wanted.at, wanted.start
        at.drive.note_read(at.segment, at.location.place + start, len(found.data))
        if (
            wanted.entries is None
            and 1 < len(found.entries) <= TABLE_PIECES_KEPT
            # While it was read the fragment may have been moved, replaced or deleted.
            and self._lookup(at.fragment) == at.location
        ):
            self._tables[at.fragment] = _Table(at.location, found.entries)
            if len(self._tables) > TABLES_KEPT:
                self._tables.popitem(last=False)
        block_size = at.location.extent.block_size
        return Run(_blocks(found.data, start, block_size), block_size)

    async def _doubt(self, at: _Located, reason: str) -> None:
        """A record did not verify: was it deleted or moved meanwhile, or is it damaged?

        Returns where the read should be tried again; raises CorruptFragment where it is
        damaged: it is quarantined then, and whoever mends is told.
        """
        if self._lookup(at.fragment) != at.location:
            self._tables.pop(at.fragment, None)
            return
        header = await self._header_of(at)
        if self._lookup(at.fragment) != at.location:
            return
        if header is not None and header.state is RecordState.DEAD:
            self._drop_row(at.fragment, at.location)
            return
        self._quarantine(at.fragment, at.location, at.segment)
        metrics.FRAGMENTS_CORRUPT.inc()
        log.warning(
            "chunks.fragment_corrupt",
            fragment=str(at.fragment),
            drive=at.location.drive,
            segment=at.location.segment,
            offset=at.location.place,
            reason=reason,
        )
        if self.on_damage is not None:
            self.on_damage(at.fragment, None if header is None else header.fragment)
        raise CorruptFragment(f"fragment {at.fragment}: {reason}")

    async def _header_of(self, at: _Located) -> RecordHeader | None:
        """The record's header, None where it is damaged too."""
        work = functools.partial(
            seg.read_header, nonce=at.segment.nonce, place=at.location.place
        )
        try:
            async with at.drive.using(at.segment) as file:
                return await at.drive.io(work, file)
        except (CorruptRecord, FileNotFoundError):
            return None

    def _quarantine(
        self, fragment: FragmentId, location: Location, segment: Segment
    ) -> None:
        change, batch = self.index.change()
        change.put(fragment, attrs.evolve(location, is_quarantined=True))
        segment.quarantined += 1
        change.put_segment(location.drive, location.segment, segment.row())
        self.index.write(batch)
        self._tables.pop(fragment, None)

    async def stat(self, fragments: Sequence[FragmentId]) -> list[FragmentStat | None]:
        """What is known of each fragment; None where it is not here, or not sound.

        Headers are read from the drives, payloads are not.
        """
        wanted: list[tuple[FragmentId, Location]] = []
        for fragment in fragments:
            location = self._lookup(fragment)
            if location is not None and not location.is_quarantined:
                wanted.append((fragment, location))
        found = await self._stat_located(wanted)
        return [found.get(fragment) for fragment in fragments]

    async def walk(self, after: FragmentId | None, limit: int) -> list[FragmentStat]:
        """The next sound fragments behind `after`, by id; less than `limit`: the end."""
        assert 0 < limit <= _WALK_LIMIT_MAX
        stats: list[FragmentStat] = []
        while len(stats) < limit:
            page = list(islice(self.index.after(after), limit - len(stats)))
            if not page:
                break
            after = page[-1][0]
            found = await self._stat_located([x for x in page if not x[1].is_quarantined])
            stats += [found[fragment] for fragment, _ in page if fragment in found]
        return stats

    async def _stat_located(
        self, wanted: Sequence[tuple[FragmentId, Location]]
    ) -> dict[FragmentId, FragmentStat]:
        stats: dict[FragmentId, FragmentStat] = {}
        for (drive_id, number), group in _by_segment(wanted).items():
            drive = self.drives.get(drive_id)
            segment = None if drive is None else drive.segments.get(number)
            if drive is None or drive.fenced is not None or segment is None:
                continue
            places = [(fragment, location.place) for fragment, location in group]
            work = functools.partial(seg.read_headers, nonce=segment.nonce)
            try:
                async with drive.using(segment) as file:
                    headers = await drive.io(work, file, places)
            except (FileNotFoundError, DriveFenced, OutOfSpace):
                continue
            for (fragment, location), header in zip(group, headers, strict=True):
                if isinstance(header, CorruptRecord):
                    at = _Located(fragment, drive, segment, location)
                    with contextlib.suppress(CorruptFragment, DriveFenced):
                        await self._doubt(at, header.reason)
                elif header.state is RecordState.DEAD:
                    self._drop_row(fragment, location)
                else:
                    stats[fragment] = FragmentStat(header.fragment, drive_id)
        return stats

    # ---- deleting ---------------------------------------------------------------------

    async def delete(self, fragments: Iterable[FragmentId]) -> None:
        """Delete fragments; those that are not here are no error.

        Durable when it returns.  If cancelled, some are deleted; do it again.
        """
        left = set(fragments)
        await self._bury_replaced(left)
        for _ in range(_READ_ATTEMPTS):  # Compaction may move one under our hands.
            located = [
                (f, loc) for f in sorted(left) if (loc := self._lookup(f)) is not None
            ]
            left = set()
            for (drive_id, number), group in _by_segment(located).items():
                await self._mark_dead(drive_id, number, group)
                for fragment, location in group:
                    if not self._drop_row(fragment, location):
                        left.add(fragment)
            if not left:
                return

    def record_of(self, fragment: FragmentId) -> RecordRef | None:
        """Where a fragment lies now, also where it is quarantined; None: nowhere."""
        location = self._lookup(fragment)
        return None if location is None else location.record

    async def delete_record(self, fragment: FragmentId, record: RecordRef) -> None:
        """Delete a fragment as `delete` does, if it lies in `record`.

        One that was written again, or moved by compaction, is another record.
        """
        location = self._lookup(fragment)
        if location is None or location.record != record:
            return
        await self._bury_replaced({fragment})
        await self._mark_dead(record.drive, record.segment, [(fragment, location)])
        self._drop_row(fragment, location)

    async def _bury_replaced(self, fragments: Collection[FragmentId]) -> None:
        """Records that these replaced go first, or one of those could come back."""
        replaced = [entry for entry in self._dead if entry[0] in fragments]
        for (drive_id, number), group in _by_segment(replaced).items():
            await self._mark_dead(drive_id, number, group)

    async def _mark_dead(
        self, drive_id: DriveId, number: int, group: Sequence[tuple[FragmentId, Location]]
    ) -> None:
        """Mark records of one segment dead, durably, and give their space back.

        Where the drive is out of reach, or too full even for this (copy on write), nothing
        happens: what comes back when the index is rebuilt from its segments is garbage.
        """
        drive = self.drives.get(drive_id)
        segment = None if drive is None else drive.segments.get(number)
        if drive is None or drive.fenced is not None or segment is None:
            return
        dead = [(location.place, location.extent.size) for _, location in group]
        try:
            async with drive.using(segment) as file:
                await drive.io(_bury_records, file, dead)
        except (FileNotFoundError, DriveFenced, OutOfSpace):
            return

    def _drop_row(self, fragment: FragmentId, location: Location) -> bool:
        """Take a fragment out of the index, if it is still at `location`."""
        if self._lookup(fragment) != location:
            return False
        change, batch = self.index.change()
        change.drop(fragment)
        if (segment := self._segment_of(location)) is not None:
            segment.count(location, -1)
            change.put_segment(location.drive, location.segment, segment.row())
        self.index.write(batch)
        self._tables.pop(fragment, None)
        return True

    # ---- space ------------------------------------------------------------------------

    def space(self) -> tuple[DriveSpace, ...]:
        """Each drive as last seen; those that were refused too, with the reason."""
        return tuple(d.space() for d in [*self.drives.values(), *self.refused])


@contextlib.contextmanager
def _fencing(drive: Drive) -> Iterator[None]:
    """Fence the drive where the work on it fails."""
    try:
        yield
    except DriveFenced:
        return
    except (OSError, OutOfSpace) as error:
        drive.fence(str(error))


def _log_recovery(drive: Drive, report: RecoveryReport) -> None:
    log.info(
        "chunks.drive_opened",
        drive=drive.drive,
        path=drive.directory.path,
        segments=len(drive.segments),
        **attrs.asdict(report),
    )
    if report.damaged or report.junk_size:
        metrics.FRAGMENTS_CORRUPT.inc(report.damaged)
        log.warning(
            "chunks.damage_found",
            drive=drive.drive,
            fragments=report.damaged,
            size=report.junk_size,
        )


def _bury_records(file: File, dead: Sequence[tuple[int, int]]) -> None:
    seg.mark_dead(file, [place for place, _ in dead])
    seg.punch_dead(file, dead)


def _by_segment(
    located: Iterable[tuple[FragmentId, Location]],
) -> dict[tuple[DriveId, int], list[tuple[FragmentId, Location]]]:
    groups: dict[tuple[DriveId, int], list[tuple[FragmentId, Location]]] = {}
    for fragment, location in located:
        groups.setdefault((location.drive, location.segment), []).append(
            (fragment, location)
        )
    return groups


def _stop_of(extent: Extent, offset: int, end: int, size_max: int | None) -> int:
    """Where a run from `offset` on ends; not behind it: there is nothing."""
    stop = min(end, extent.payload_size)
    if size_max is None:
        return stop
    blocks_max = max(1, size_max // extent.block_size)
    last = offset // extent.block_size + blocks_max
    return min(stop, last * extent.block_size)


def _read_nothing(offset: int, size: int) -> None:
    """Of a segment: what is not there is not waited for."""
    del offset, size


def _blocks(data: memoryview, offset: int, block_size: int) -> list[Block]:
    """Bytes from `offset` on of a fragment, as parts of its blocks."""
    blocks = []
    end = offset + len(data)
    start = offset
    while start < end:
        stop = min(end, (start // block_size + 1) * block_size)
        blocks.append(Block(start, data[start - offset : stop - offset]))
        start = stop
    return blocks
