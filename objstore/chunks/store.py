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
- A block that does not verify is never returned.  Its fragment is quarantined: kept on the
  drive, refused to readers, counted, logged, handed to `on_damage`; a newer write of the
  same fragment, or a delete, ends that.

Formats are in `format` and `index`, the work on one drive in `driver`.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import attrs
import structlog
import trio

from objstore import metrics
from objstore.chunks import segment as seg
from objstore.chunks.driver import Commit, Drive, DriveSpace, MovedAway
from objstore.chunks.format import (
    CorruptRecord,
    Extent,
    RecordHeader,
    RecordState,
    crc32c,
    encode_record_header,
    encode_tail,
    entry_of,
    extent_of,
    first_header_crc,
)
from objstore.chunks.fragment import (
    Block,
    CorruptFragment,
    DriveFenced,
    FragmentHeader,
    FragmentStat,
    NoSuchFragment,
)
from objstore.chunks.identity import DriveIdentity, DriveRefused, claim_drive, lock_drive
from objstore.chunks.index import Index, Location
from objstore.chunks.placement import ranked
from objstore.chunks.recovery import Recovery
from objstore.chunks.segment import Segment
from objstore.config import ChunksConfig
from objstore.errors import ConfigError, CorruptData, InvalidRequest, OutOfSpace
from objstore.host.disk import Buffer, Directory, File
from objstore.host.host import Host
from objstore.host.kv import KeyValueStore
from objstore.ids import ClusterId, DriveId, FragmentId, NodeId
from objstore.units import MiB

log = structlog.get_logger()

OnDamage = Callable[[FragmentId, FragmentHeader | None], None]

READ_SIZE_MAX = 8 * MiB  # One read; a reader of more asks again.
# A last block waits in memory for the commit, which then needs one hop instead of two;
# beyond so many waiting bytes it is written at once.
HELD_SIZE_MAX = 32 * MiB
# A long fragment is synced on its way, so that no commit waits for its whole length.
SYNC_EVERY = 16 * MiB
# Checksum tables kept for readers: one a fragment being read, 4 bytes a block.
TABLES_KEPT = 256
TABLE_BLOCKS_KEPT = 4096  # Larger tables are read again each time.
_WALK_LIMIT_MAX = 10_000
_READ_ATTEMPTS = 4  # A fragment may move or go while it is read; each is seen once.
_SPACE_INTERVAL_S = 5.0
_DEAD_KEPT = 10_000  # Replaced records waiting for their mark; more stay unmarked.


class FragmentWriter:
    """One fragment on its way to a drive.  Ends with `commit` or `abort`, always.

    A writer whose task is cancelled is aborted by whoever owns it.
    """

    def __init__(
        self,
        store: ChunkStore,
        drive: Drive,
        header: FragmentHeader,
        taken: tuple[Segment, int, File],
        *,
        moved_from: Location | None = None,
    ) -> None:
        self.header = header
        self._store = store
        self._drive = drive
        self._segment, self._place, self._file = taken
        self._moved_from = moved_from
        self._extent = extent_of(header)
        self._name = header.fragment.encode()
        self._head = encode_record_header(
            header, nonce=self._segment.nonce, place=self._place
        )
        self._entries: list[int | None] = [None] * self._extent.block_count
        self._next = 0
        self._held: Buffer | None = None  # The last block, until the commit.
        self._head_written = False
        self._writing = 0  # Blocks on their way to the drive.
        self._unsynced = 0
        self._is_done = False

    async def append(self, data: Buffer, crc32c: int | None = None) -> None:
        """Write the next block: `block_size` bytes, the last one what remains.

        data: must not change until the writer has ended.
        crc32c: of `data` as its sender made it; CorruptData where it does not fit.
        Raises DriveFenced, OutOfSpace, InvalidRequest for a block of the wrong size.
        If cancelled, only `abort` is left.
        """
        number, self._next = self._next, self._next + 1
        await self.write_block(number, data, crc32c)

    async def write_block(
        self, number: int, data: Buffer, crc32c_sent: int | None = None
    ) -> None:
        """Write block `number`; blocks may come in any order, each once."""
        extent = self._extent
        if self._is_done:
            raise InvalidRequest(f"fragment {self.header.fragment}: its writer has ended")
        if not 0 <= number < extent.block_count or self._entries[number] is not None:
            raise InvalidRequest(
                f"fragment {self.header.fragment}: block {number} is not wanted"
            )
        if len(data) != extent.size_of_block(number):
            raise InvalidRequest(
                f"fragment {self.header.fragment}: block {number} has {len(data)} bytes,"
                f" not {extent.size_of_block(number)}"
            )
        crc = crc32c(data)  # 20 µs a MiB: cheaper here than a hop.
        if crc32c_sent is not None and crc != crc32c_sent:
            raise CorruptData(
                f"fragment {self.header.fragment}: block {number} was damaged on its way"
            )
        self._entries[number] = entry_of(self._name, number, crc)
        if number == extent.block_count - 1 and self._store.hold(len(data)):
            self._held = data
            return
        await self._write(number, data)

    async def _write(self, number: int, data: Buffer) -> None:
        offset = self._place + self._extent.block_offset(number)
        buffers: list[Buffer] = [data]
        if number == 0:
            offset, buffers = self._place, [self._head, data]
            self._head_written = True
        self._unsynced += len(data)
        sync = self._unsynced >= SYNC_EVERY
        if sync:
            self._unsynced = 0
        self._writing += 1
        try:
            await self._drive.io(_write, self._file, offset, buffers, sync)
        finally:
            self._writing -= 1

    async def commit(self) -> None:
        """Make the fragment durable and visible; return after the sync.

        Concurrent commits of a drive share one sync.
        Raises DriveFenced, OutOfSpace, InvalidRequest where blocks are missing.
        If cancelled, the fragment may be there all the same (garbage, if nobody wants it).
        """
        if self._is_done or self._writing or None in self._entries:
            raise InvalidRequest(f"fragment {self.header.fragment}: blocks are missing")
        commit = Commit(
            fragment=self.header.fragment,
            location=Location(self._drive.id, self._segment.number, self._place, self._extent),
            segment=self._segment,
            file=self._file,
            offset=0,
            buffers=(),
            moved_from=self._moved_from,
        )
        commit.offset, commit.buffers = self._last_write()
        self._is_done = True
        try:
            # Shielded: the committer works on our file and buffers until it is done.
            with trio.CancelScope(shield=True):
                await self._drive.commit(commit)
        finally:
            self._end()

    def _last_write(self) -> tuple[int, list[Buffer]]:
        """Where and what is still to be written: the held block, table and trailer."""
        extent = self._extent
        entries = [entry for entry in self._entries if entry is not None]
        tail = encode_tail(
            entries,
            fragment=self.header.fragment,
            nonce=self._segment.nonce,
            place=self._place,
            header_crc=first_header_crc(self._head),
        )
        if self._held is None:
            if extent.block_count == 0:
                return self._place, [self._head, tail]
            return self._place + extent.table_offset, [tail]
        if not self._head_written:  # Then the held block is the only one.
            return self._place, [self._head, self._held, tail]
        start = extent.block_offset(extent.block_count - 1)
        return self._place + start, [self._held, tail]

    async def abort(self) -> None:
        """Give the fragment up; its extent stays dead.  Does nothing after a commit."""
        if self._is_done:
            return
        self._is_done = True
        try:
            if self._head_written and self._drive.fenced is None:
                with trio.CancelScope(shield=True):
                    await self._drive.io(
                        self._file.punch, self._place, self._extent.size
                    )
        except (DriveFenced, OutOfSpace):
            pass  # Without a trailer the record is dead all the same.
        finally:
            self._end()

    def _end(self) -> None:
        self._drive.settle(self._segment, self._place)
        if self._held is not None:
            self._store.unhold(len(self._held))
            self._held = None


def _write(file: File, offset: int, buffers: Sequence[Buffer], sync: bool) -> None:
    file.write_at(offset, buffers)
    if sync:
        file.sync()


@attrs.frozen
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
        self.index = Index(kv)
        self.on_damage = on_damage
        self._host = host
        self._directories = list(drives)
        self._cluster = cluster
        self._node = node
        self._config = config
        self._held_size = 0
        self._tables: OrderedDict[FragmentId, _Table] = OrderedDict()
        self._dead: list[tuple[FragmentId, Location]] = []

    # ---- service ----------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Claim the drives, bring the index up to date, then serve until cancelled.

        Raises ConfigError where no drive can be used.
        """
        try:
            await self._claim_drives()
            await self._recover()
            async with trio.open_nursery() as nursery:
                for drive in self._usable():
                    drive.publish = self._publish
                    nursery.start_soon(drive.run_commits)
                nursery.start_soon(self._tick)
                task_status.started()
                await trio.sleep_forever()
        finally:
            for drive in [*self.drives.values(), *self.refused]:
                drive.close()

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
            reasons = "; ".join(d.fenced or "" for d in [*self.drives.values(), *self.refused])
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
            await recovery.load(drive)
        for drive in self._usable():
            try:
                await recovery.scan(drive)
                await drive.look_at_space()
            except (OSError, DriveFenced) as error:
                drive.fence(str(error))

    async def _tick(self) -> None:
        """Look at the space of the drives, and mark what was replaced."""
        while True:
            await trio.sleep(_SPACE_INTERVAL_S)
            for drive in self._usable():
                try:
                    await drive.look_at_space()
                except (DriveFenced, OutOfSpace):
                    continue
            dead, self._dead = self._dead, []
            for (drive_id, number), group in _by_segment(dead).items():
                await self._mark_dead(drive_id, number, group)

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
        size = extent_of(header).size
        error: Exception = DriveFenced("no chunk drive can be written")
        for drive in ranked(header.fragment, self._usable()):
            try:
                taken = await drive.reserve(size, into_reserve=into_reserve)
            except (OutOfSpace, DriveFenced) as refusal:
                error = refusal
                continue
            return FragmentWriter(self, drive, header, taken)
        raise error

    async def create_move(
        self, header: FragmentHeader, *, moved_from: Location
    ) -> FragmentWriter:
        """Begin a copy within a drive, for compaction: its commit checks `moved_from`."""
        drive = self.drives[moved_from.drive]
        taken = await drive.reserve(moved_from.extent.size, into_reserve=True)
        return FragmentWriter(self, drive, header, taken, moved_from=moved_from)

    def hold(self, size: int) -> bool:
        """Whether a writer may keep a last block of `size` bytes in memory."""
        if self._held_size + size > HELD_SIZE_MAX:
            return False
        self._held_size += size
        return True

    def unhold(self, size: int) -> None:
        self._held_size -= size
        assert self._held_size >= 0

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

    def _lookup(self, fragment: FragmentId) -> Location | None:
        """The index row; one that is damaged counts as none, and is written anew."""
        try:
            return self.index.get(fragment)
        except CorruptData as error:
            log.error("chunks.index_row_corrupt", fragment=str(fragment), reason=str(error))
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
        assert offset >= 0
        assert 0 <= size <= READ_SIZE_MAX
        for _ in range(_READ_ATTEMPTS):
            drive, segment, location = self._locate(fragment)
            extent = location.extent
            end = min(offset + size, extent.payload_size)
            if offset >= end:
                return []
            first, last = offset // extent.block_size, (end - 1) // extent.block_size
            try:
                async with drive.using(segment) as file:
                    blocks = await self._read_blocks(
                        drive, file, segment, fragment, location, (first, last)
                    )
            except FileNotFoundError:
                if segment.number in drive.segments:
                    await self._damaged(fragment, location, "its segment file is gone")
            except CorruptRecord as error:
                await self._doubt(drive, segment, fragment, location, error.reason)
            else:
                return _trimmed(blocks, offset, end)
        raise NoSuchFragment(f"fragment {fragment} moves faster than it can be read")

    def _locate(self, fragment: FragmentId) -> tuple[Drive, Segment, Location]:
        """Where a readable fragment is.  Raises NoSuchFragment, CorruptFragment, DriveFenced."""
        location = self._lookup(fragment)
        if location is None:
            raise NoSuchFragment(f"fragment {fragment} is not here")
        drive = self.drives.get(location.drive)
        if drive is None:
            raise DriveFenced(f"drive {location.drive} of fragment {fragment} is not here")
        drive.check()
        segment = drive.segments.get(location.segment)
        if segment is None:  # The index went back to before the segment was removed.
            self._drop_row(fragment, location)
            raise NoSuchFragment(f"fragment {fragment} is not here")
        if location.is_quarantined:
            raise CorruptFragment(f"fragment {fragment} is quarantined")
        return drive, segment, location

    async def _read_blocks(
        self,
        drive: Drive,
        file: File,
        segment: Segment,
        fragment: FragmentId,
        location: Location,
        blocks: tuple[int, int],
    ) -> list[Block]:
        table = self._tables.get(fragment)
        if table is not None and table.location != location:
            table = None
        work = functools.partial(
            seg.read_blocks,
            file,
            fragment,
            nonce=segment.nonce,
            place=location.place,
            extent=location.extent,
            first=blocks[0],
            last=blocks[1],
            entries=None if table is None else table.entries,
        )
        found = await drive.io(work)
        if table is None and 1 < len(found.entries) <= TABLE_BLOCKS_KEPT:
            self._tables[fragment] = _Table(location, found.entries)
            if len(self._tables) > TABLES_KEPT:
                self._tables.popitem(last=False)
        return found.blocks

    async def _doubt(
        self, drive: Drive, segment: Segment, fragment: FragmentId, location: Location, reason: str
    ) -> None:
        """A record did not verify: was it deleted or moved meanwhile, or is it damaged?

        Returns where the read should be tried again; raises CorruptFragment.
        """
        if self._lookup(fragment) != location:
            return
        header = await self._header_of(drive, segment, location)
        if header is not None and header.state is RecordState.DEAD:
            self._drop_row(fragment, location)
            return
        await self._damaged(fragment, location, reason)

    async def _header_of(
        self, drive: Drive, segment: Segment, location: Location
    ) -> RecordHeader | None:
        """The record's header, None where it is damaged too."""
        work = functools.partial(seg.read_header, nonce=segment.nonce, place=location.place)
        try:
            async with drive.using(segment) as file:
                return await drive.io(work, file)
        except (CorruptRecord, FileNotFoundError):
            return None

    async def _damaged(self, fragment: FragmentId, location: Location, reason: str) -> None:
        """Quarantine a fragment and tell whoever mends.  Raises CorruptFragment."""
        drive = self.drives[location.drive]
        segment = drive.segments.get(location.segment)
        header = None if segment is None else await self._header_of(drive, segment, location)
        if self._lookup(fragment) != location:
            return
        self._quarantine(fragment, location, segment)
        metrics.FRAGMENTS_CORRUPT.inc()
        log.warning(
            "chunks.fragment_corrupt",
            fragment=str(fragment),
            drive=location.drive,
            segment=location.segment,
            offset=location.place,
            reason=reason,
        )
        if self.on_damage is not None:
            self.on_damage(fragment, None if header is None else header.fragment)
        raise CorruptFragment(f"fragment {fragment}: {reason}")

    def _quarantine(
        self, fragment: FragmentId, location: Location, segment: Segment | None
    ) -> None:
        change, batch = self.index.change()
        quarantined = attrs.evolve(location, is_quarantined=True)
        change.put(fragment, quarantined)
        if segment is not None:
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
                    await self._note_damage(fragment, location, header.reason)
                elif header.state is RecordState.DEAD:
                    self._drop_row(fragment, location)
                else:
                    stats[fragment] = FragmentStat(header.fragment, drive_id)
        return stats

    async def _note_damage(
        self, fragment: FragmentId, location: Location, reason: str
    ) -> None:
        try:
            await self._damaged(fragment, location, reason)
        except (CorruptFragment, DriveFenced):
            return

    # ---- deleting ---------------------------------------------------------------------

    async def delete(self, fragments: Iterable[FragmentId]) -> None:
        """Delete fragments; those that are not here are no error.

        Durable when it returns.  If cancelled, some are deleted; do it again.
        Raises DriveFenced, OutOfSpace where a drive fails meanwhile.
        """
        left = set(fragments)
        for _ in range(_READ_ATTEMPTS):  # Compaction may move one under our hands.
            located = [(f, loc) for f in sorted(left) if (loc := self._lookup(f)) is not None]
            left = set()
            for (drive_id, number), group in _by_segment(located).items():
                await self._mark_dead(drive_id, number, group)
                for fragment, location in group:
                    if not self._drop_row(fragment, location):
                        left.add(fragment)
            if not left:
                return

    async def _mark_dead(
        self, drive_id: DriveId, number: int, group: Sequence[tuple[FragmentId, Location]]
    ) -> None:
        """Mark records of one segment dead, durably, and give their space back.

        Does nothing where the drive or the segment is out of reach: what comes back with
        it is garbage.
        """
        drive = self.drives.get(drive_id)
        segment = None if drive is None else drive.segments.get(number)
        if drive is None or drive.fenced is not None or segment is None:
            return
        dead = [(location.place, location.extent.size) for _, location in group]
        try:
            async with drive.using(segment) as file:
                await drive.io(_bury_records, file, dead)
        except (FileNotFoundError, DriveFenced):
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


def _bury_records(file: File, dead: Sequence[tuple[int, int]]) -> None:
    seg.mark_dead(file, [place for place, _ in dead])
    seg.punch_dead(file, dead)


def _by_segment(
    located: Iterable[tuple[FragmentId, Location]],
) -> dict[tuple[DriveId, int], list[tuple[FragmentId, Location]]]:
    groups: dict[tuple[DriveId, int], list[tuple[FragmentId, Location]]] = {}
    for fragment, location in located:
        groups.setdefault((location.drive, location.segment), []).append((fragment, location))
    return groups


def _trimmed(blocks: list[Block], offset: int, end: int) -> list[Block]:
    """Cut whole blocks to the range [offset, end)."""
    return [_cut(block, offset, end) for block in blocks]


def _cut(block: Block, offset: int, end: int) -> Block:
    start = max(offset - block.offset, 0)
    stop = min(end - block.offset, len(block.data))
    if start == 0 and stop == len(block.data):
        return block
    data = memoryview(block.data)[start:stop]
    return Block(block.offset + start, data, crc32c(data))


def payload_extent(header: FragmentHeader) -> Extent:
    """The extent a fragment takes on a drive (for reports of space)."""
    return extent_of(header)
