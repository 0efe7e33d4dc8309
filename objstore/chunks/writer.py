"""One fragment on its way to a drive: what is written when.

    block 0 ... n-2        as they come, in any order; the record's header goes with block 0
    block n-1              waits in memory, so that it, table and trailer need one write,
                           that of the commit
    every SYNC_EVERY       a sync on the way, so that no commit waits for a whole chunk

A fragment of one block is so a single write and a (shared) sync.  Without its trailer a
record does not exist: a crash, or `abort`, leaves a dead extent.
"""

from __future__ import annotations

import attrs

from objstore.buffer import Buffer
from objstore.chunks.driver import Commit, Drive
from objstore.chunks.format import (
    Extent,
    encode_record_header,
    encode_tail,
    entries_of,
    first_header_crc,
)
from objstore.chunks.fragment import FragmentHeader
from objstore.chunks.index import Location
from objstore.chunks.segment import Segment
from objstore.errors import CorruptData, InvalidRequest
from objstore.host.buffers import POOL
from objstore.host.disk import File
from objstore.limits import PIECE_SIZE, RECORD_ALIGNMENT
from objstore.sums import Sums
from objstore.units import MiB

# Last blocks that wait for their commit, over all writers; beyond it they are written at
# once, which costs a write.
HELD_SIZE_MAX = 32 * MiB
SYNC_EVERY = 16 * MiB


@attrs.define
class HeldBlocks:
    """Bytes of last blocks in memory."""

    size: int = 0

    def take(self, size: int) -> bool:
        """Whether `size` bytes more may be held; they are counted then."""
        if self.size + size > HELD_SIZE_MAX:
            return False
        self.size += size
        return True

    def release(self, size: int) -> None:
        self.size -= size
        assert self.size >= 0


class FragmentWriter:
    """One fragment on its way to a drive.  Ends with `commit` or `abort`, always.

    A writer whose task is cancelled is aborted by whoever owns it.
    """

    def __init__(
        self,
        drive: Drive,
        header: FragmentHeader,
        extent: Extent,
        taken: tuple[Segment, int, File],
        *,
        held: HeldBlocks,
        moved_from: Location | None = None,
    ) -> None:
        self.header = header
        self._blocks_held = held
        self._drive = drive
        self._segment, self._place, self._file = taken
        self._moved_from = moved_from
        self._extent = extent
        assert self._segment.open[self._place] == extent.size
        # What the sums of a block are made of are the pieces of its extent.
        assert extent.piece_size == min(extent.block_size, PIECE_SIZE)
        self._name = header.fragment.encode()
        self._head = encode_record_header(
            header, extent=extent, nonce=self._segment.nonce, place=self._place
        )
        self._entries: list[list[int] | None] = [None] * self._extent.block_count
        self._next = 0
        self._held: Buffer | None = None  # The last block, until the commit.
        self._head_written = False
        self._writing = 0  # Blocks on their way to the drive.
        self._unsynced = 0
        self._is_broken = False
        self._is_done = False

    async def append(
        self, data: Buffer, crc32c: int | None = None, sums: Sums | None = None
    ) -> None:
        """Write the next block: `block_size` bytes, the last one what remains.

        data: must not change until the writer has ended.
        crc32c: of `data` as its sender made it; CorruptData where it does not fit.
        sums: those of `data`, where the caller has them.
        Raises DriveFenced, OutOfSpace, InvalidRequest for a block of the wrong size.
        If cancelled, only `abort` is left.
        """
        number, self._next = self._next, self._next + 1
        await self.write_block(number, data, crc32c, sums)

    async def write_block(
        self,
        number: int,
        data: Buffer,
        crc32c_sent: int | None = None,
        sums: Sums | None = None,
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
        if sums is None:  # 60 to 150 µs a MiB: cheaper here than a hop.
            sums = Sums.of(data)
        assert sums.size == len(data)
        if crc32c_sent is not None and sums.crc32c != crc32c_sent:
            raise CorruptData(
                f"fragment {self.header.fragment}: block {number} was damaged on its way"
            )
        first = number * extent.pieces_a_block
        self._entries[number] = entries_of(self._name, first, sums)
        if number == extent.block_count - 1 and self._blocks_held.take(len(data)):
            self._held = data
            return
        await self._write(number, data)

    async def _write(self, number: int, data: Buffer) -> None:
        offset = self._place + self._extent.block_offset(number)
        buffers: list[Buffer] = [data]
        if number == 0:
            offset, buffers = self._place, [_page_of(self._head), data]
            self._head_written = True
        self._unsynced += len(data)
        sync = self._unsynced >= SYNC_EVERY
        if sync:
            self._unsynced = 0
        self._writing += 1
        try:
            await self._drive.write(self._file, offset, buffers, sync=sync)
        except BaseException:
            self._is_broken = True  # Written or not: no commit may build on it.
            raise
        finally:
            self._writing -= 1

    async def commit(self) -> None:
        """Make the fragment durable and visible; return after the sync.

        Concurrent commits of a drive share one sync.
        Raises DriveFenced, OutOfSpace, InvalidRequest where blocks are missing.
        If cancelled, the fragment may be there all the same (garbage, if nobody wants it).
        """
        is_whole = None not in self._entries and not self._writing
        if self._is_done or self._is_broken or not is_whole:
            raise InvalidRequest(f"fragment {self.header.fragment}: blocks are missing")
        offset, buffers = self._last_write()
        self._is_done = True
        await self._drive.commit(
            Commit(
                fragment=self.header.fragment,
                location=Location(
                    self._drive.id, self._segment.number, self._place, self._extent
                ),
                segment=self._segment,
                file=self._file,
                offset=offset,
                buffers=buffers,
                moved_from=self._moved_from,
                on_end=self._end,
            )
        )

    def _last_write(self) -> tuple[int, list[Buffer]]:
        """Where and what is still to be written: the held block, table and trailer."""
        extent = self._extent
        entries = [entry for block in self._entries for entry in block or ()]
        tail = encode_tail(
            entries,
            fragment=self.header.fragment,
            nonce=self._segment.nonce,
            place=self._place,
            header_crc=first_header_crc(self._head),
        )
        # To the end of the extent, so that whole pages are written.
        tail_page = _page_of(tail, extent.size - extent.table_offset)
        if self._held is None:
            if extent.block_count == 0:
                return self._place, [_page_of(self._head), tail_page]
            return self._place + extent.table_offset, [tail_page]
        if not self._head_written:  # Then the held block is the only one.
            return self._place, [_page_of(self._head), self._held, tail_page]
        start = extent.block_offset(extent.block_count - 1)
        return self._place + start, [self._held, tail_page]

    async def abort(self) -> None:
        """Give the fragment up; its extent stays dead.  Does nothing after a commit.

        No block may be on its way (cancel those who write, first).
        """
        if self._is_done:
            return
        self._is_done = True
        try:
            if self._head_written:
                await self._drive.punch(self._file, self._place, self._extent.size)
        finally:
            self._end()

    def _end(self) -> None:
        self._drive.settle(self._segment, self._place)
        if self._held is not None:
            self._blocks_held.release(len(self._held))
            self._held = None


def _page_of(data: bytes, size: int = RECORD_ALIGNMENT) -> memoryview:
    """`data` and zeros, in memory from which a drive takes it."""
    page = POOL.take(size)
    page[: len(data)] = data
    page[len(data) :] = bytes(size - len(data))
    return page
