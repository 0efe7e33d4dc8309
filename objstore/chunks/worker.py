"""The worker that gives space back: removes dead segments, rewrites those mostly dead.

    choose (compaction, pure) --> scan the segment --> copy each live record to the active
    segment, verified --> commit: the index row moves, if it still names the old place
    --> nothing live is left: remove the file

A fragment deleted meanwhile stays deleted (its row no longer names the old place), and a
reader that was about to read the old place finds the new one.  A record that does not
verify is quarantined where it is, and its segment left alone from then on.
"""

from __future__ import annotations

from enum import Enum

import structlog
import trio

from objstore.chunks import segment as seg
from objstore.chunks.compaction import SegmentUse, Step, next_step
from objstore.chunks.driver import Drive, MovedAway
from objstore.chunks.format import SEGMENT_HEADER_SIZE
from objstore.chunks.fragment import CorruptFragment, DriveFenced, NoSuchFragment
from objstore.chunks.index import Location
from objstore.chunks.segment import Found, RecordFound, Segment
from objstore.chunks.store import ChunkStore
from objstore.errors import OutOfSpace
from objstore.units import MiB

log = structlog.get_logger()

COPY_RATE = 32 * MiB  # Bytes a second: a tenth of what a slow drive does.
IDLE_S = 10.0


class CompactionState(Enum):
    """What a round came to."""

    BUSY = "busy"  # Something was done; there may be more.
    IDLE = "idle"


class Compactor:
    """Compacts the drives of a store, one segment at a time."""

    def __init__(self, store: ChunkStore, *, copy_rate: int = COPY_RATE) -> None:
        self._store = store
        self._copy_rate = copy_rate
        # Segments that could not be emptied; looked at again after a restart.
        self._given_up: set[tuple[str, int]] = set()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Work until cancelled.

        If cancelled in a copy, the copy is dead and the next round begins again.
        """
        task_status.started()
        while True:
            if await self.work_once() is CompactionState.IDLE:
                await trio.sleep(IDLE_S)

    async def work_once(self) -> CompactionState:
        """Remove or rewrite at most one segment of each drive."""
        state = CompactionState.IDLE
        for drive in list(self._store.drives.values()):
            if drive.fenced is not None:
                continue
            try:
                if await self._work_on(drive):
                    state = CompactionState.BUSY
            except (DriveFenced, OutOfSpace, FileNotFoundError) as error:
                log.warning(
                    "chunks.compaction_failed", drive=drive.drive, reason=str(error)
                )
        return state

    async def _work_on(self, drive: Drive) -> bool:
        uses = (
            SegmentUse(
                number=segment.number,
                live_size=segment.live_size,
                live_count=segment.live_count,
                is_settled=segment.is_sealed and not segment.open,
                is_damaged=segment.is_damaged
                or segment.quarantined > 0
                or (drive.id, segment.number) in self._given_up,
            )
            for segment in drive.segments.values()
        )
        step = next_step(uses, segment_size=drive.segment_size)
        if step is None:
            return False
        segment = drive.segments[step[1]]
        if step[0] is Step.REWRITE:
            await self._rewrite(drive, segment)
        if drive.is_removable(segment):
            await drive.remove_segment(segment)
        else:
            self._given_up.add((drive.id, segment.number))
        return True

    async def _rewrite(self, drive: Drive, segment: Segment) -> None:
        """Copy what is live in `segment` to the active one."""
        copied = 0
        async with drive.using(segment) as file:
            records = seg.scan(file, nonce=segment.nonce, start=SEGMENT_HEADER_SIZE)
            while (found := await drive.io(next, records, None)) is not None:
                if isinstance(found, Found) and found.kind is RecordFound.COMPLETE:
                    copied += await self._copy(drive, segment, found)
        log.info(
            "chunks.segment_compacted",
            drive=drive.drive,
            segment=segment.number,
            size=copied,
        )

    async def _copy(self, drive: Drive, segment: Segment, found: Found) -> int:
        """Copy one record, if the index says that it is the fragment; bytes copied."""
        header = found.fragment
        location = Location(drive.id, segment.number, found.place, found.header.extent)
        if self._store.index.get(header.fragment) != location:
            return 0
        writer = await self._store.create_move(header, moved_from=location)
        try:
            offset = 0
            while offset < header.payload_size:
                run = await self._store.read_run(
                    header.fragment,
                    offset,
                    header.payload_size,
                )
                for block in run.blocks:
                    await writer.append(block.data, block.crc32c)
                    offset += len(block.data)
                    await trio.sleep(len(block.data) / self._copy_rate)
            await writer.commit()
        except (NoSuchFragment, CorruptFragment, MovedAway):
            return 0  # Deleted meanwhile, or quarantined just now.
        finally:
            with trio.CancelScope(shield=True):
                await writer.abort()  # Nothing, where it is committed.
        return header.payload_size
