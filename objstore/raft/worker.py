"""The slow deeds of a node's groups: snapshots out and in, and old segments of the WAL.

Each runs as a task of its own beside the passes of `driver`, a bounded number at a time,
and tells the core when it is done. A snapshot's pieces travel by calls on the transport's
bulk path, so heartbeats do not wait behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog
import trio
from google_crc32c import extend as crc32c_extend

from objstore.errors import RemoteProtocolError, Unavailable
from objstore.ids import NodeId
from objstore.raft.hard_state import HardState
from objstore.raft.recovery import entry_record, hard_state_record, tombstone_record
from objstore.raft.replica import Replica
from objstore.raft.snapshot import (
    Begin,
    Call,
    Commit,
    Piece,
    Receiver,
    Reply,
    Status,
    decode_call,
    decode_reply,
    encode_call,
    encode_reply,
)
from objstore.raft.wal_format import Record, RecordType

if TYPE_CHECKING:
    from objstore.raft.driver import RaftHost

log = structlog.get_logger()

_SEALED_KEPT = 2  # Segments kept before the oldest is written again and let go.
_REWRITE_PART = 8  # At most this part of a segment is written again; else it waits.


class SnapshotSenders:
    """Sends snapshots of the groups this node leads."""

    def __init__(self, host: RaftHost) -> None:
        self._host = host
        self._slots = trio.CapacityLimiter(host.options.snapshots_max)
        self._sending: set[tuple[int, NodeId]] = set()

    def start(self, replica: Replica, to: NodeId) -> None:
        """Begin in the background, if it is not under way already."""
        if (replica.group, to) in self._sending:
            return
        if self._host.start_soon(self._send, replica, to):
            self._sending.add((replica.group, to))

    async def _send(self, replica: Replica, to: NodeId) -> None:
        index: int | None = None
        try:
            async with self._slots:
                with trio.move_on_after(self._host.options.snapshot_life_ms / 1000):
                    index = await self._stream(replica, to)
        except (Unavailable, RemoteProtocolError) as error:
            log.info(
                "raft.snapshot_failed", group=replica.group, peer=to, reason=str(error)
            )
        finally:
            self._sending.discard((replica.group, to))
            replica.core.snapshot_sent(to, index, self._host.now_ms())
            self._host.touch(replica)

    async def _stream(self, replica: Replica, to: NodeId) -> int | None:
        """Send one snapshot; returns its index, None where the receiver refused it."""
        if not replica.core.is_leader:
            return None
        began = trio.current_time()
        pieces = replica.machine.snapshot()
        # Taken with the first piece, before anything else can be applied.
        applied = replica.machine.applied()
        piece = next(pieces, None)
        group, transfer = replica.group, self._host.random.getrandbits(63)
        number = crc = 0
        try:
            begin = Begin(group, transfer, replica.core.term, applied)
            if not await self._ask(to, begin):
                return None
            while piece is not None:
                if not await self._ask(to, Piece(group, transfer, number, piece)):
                    return None
                crc = crc32c_extend(crc, piece)
                number += 1
                piece = next(pieces, None)
            if not await self._ask(to, Commit(group, transfer, number, crc)):
                return None
        finally:
            _close(pieces)
        duration_ms = round((trio.current_time() - began) * 1000)
        log.info("raft.snapshot_sent", group=group, peer=to, duration_ms=duration_ms)
        return applied.index

    async def _ask(self, to: NodeId, call: Call) -> bool:
        data = await self._host.transport.call(to, encode_call(call))
        return decode_reply(data).status is Status.OK


class SnapshotReceivers:
    """Takes snapshots of groups that others lead."""

    def __init__(self, host: RaftHost) -> None:
        self._host = host
        self._receivers: dict[int, Receiver] = {}

    async def on_call(self, sender: NodeId, payload: bytes) -> bytes:
        """Serve one call.  Raises RemoteProtocolError."""
        call = decode_call(payload)
        match call:
            case Begin():
                reply = self._begin(sender, call)
            case Piece():
                reply = self._feed(sender, call)
            case Commit():
                reply = await self._commit(sender, call)
        return encode_reply(reply)

    def _begin(self, sender: NodeId, begin: Begin) -> Reply:
        replica = self._host.create(begin.group)
        if replica is None:
            return Reply(Status.BUSY)
        if not replica.core.wants_snapshot(begin.term, begin.applied.index):
            return Reply(Status.NOT_WANTED, replica.core.log.committed)
        self.forget(begin.group)
        if self._host.has_no_room:
            return Reply(Status.BUSY)
        if len(self._receivers) >= self._host.options.snapshots_max:
            return Reply(Status.BUSY)
        install = replica.machine.install()
        receiver = Receiver(sender, begin, install, self._host.now_ms())
        self._receivers[begin.group] = receiver
        return Reply(Status.OK)

    def _feed(self, sender: NodeId, piece: Piece) -> Reply:
        receiver = self._receivers.get(piece.group)
        if receiver is None or receiver.sender != sender:
            return Reply(Status.BROKEN)
        if self._host.has_no_room:  # Its rows would take what is left.
            self.forget(piece.group)
            return Reply(Status.BUSY)
        receiver.heard_ms = self._host.now_ms()
        return receiver.feed(piece)

    async def _commit(self, sender: NodeId, commit: Commit) -> Reply:
        receiver = self._receivers.get(commit.group)
        if receiver is None or receiver.sender != sender:
            return Reply(Status.BROKEN)
        if not receiver.is_complete(commit):
            self.forget(commit.group)
            return Reply(Status.BROKEN)
        receiver.heard_ms = self._host.now_ms()
        applied = receiver.begin.applied
        # Durable before the state machine jumps ahead of the log, or a restart would
        # take the log for one that has lost its end.
        mark = Record(commit.group, RecordType.SNAPSHOT, applied.term, applied.index)
        await self._host.make_durable([mark])
        replica = self._host.replica(commit.group)
        if self._receivers.get(commit.group) is not receiver or replica is None:
            return Reply(Status.BROKEN)
        if not replica.core.wants_snapshot(receiver.begin.term, applied.index):
            self.forget(commit.group)
            return Reply(Status.NOT_WANTED, replica.core.log.committed)
        del self._receivers[commit.group]
        receiver.install.commit(applied)
        replica.core.installed(applied, self._host.now_ms())
        # Whether the snapshot contains what was proposed here will never be heard of.
        replica.fail_appended()
        self._host.touch(replica)
        log.info("raft.snapshot_installed", group=commit.group, index=applied.index)
        return Reply(Status.OK)

    def forget(self, group: int) -> None:
        """Give up the transfer of a group, if there is one."""
        receiver = self._receivers.pop(group, None)
        if receiver is not None:
            receiver.install.abort()

    def drop_idle(self, now_ms: int) -> None:
        """Give up transfers whose sender has fallen silent."""
        idle_ms = self._host.options.snapshot_idle_ms
        for group, receiver in list(self._receivers.items()):
            if now_ms - receiver.heard_ms >= idle_ms:
                self.forget(group)


def _close(pieces: Iterator[bytes]) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        close()


async def release_oldest(host: RaftHost) -> bool:
    """Let the WAL's oldest segment go if there are many; says whether it went.

    What of it is still needed is first written again behind the end: hard states and
    tombstones, and the live tail of groups that had nothing to say since. If cancelled
    half-way, the segment stays.
    """
    wal = host.wal
    # On a full disk any of them is the next spare, if that takes no flush.
    if len(wal.sealed) <= (0 if wal.is_full else _SEALED_KEPT):
        return False
    records = needed(host)
    size_max = wal.segment_size // _REWRITE_PART
    is_due = len(wal.sealed) > _SEALED_KEPT and host.flush is not None
    if is_due and sum(record.size for record in records) > size_max:
        assert host.flush is not None
        await host.flush()
        records = needed(host)
    if sum(record.size for record in records) > size_max:
        return False  # The state machines will be durable up to here one day.
    await host.make_durable([*records, wal.release_record()])
    await wal.release()
    return True


def needed(host: RaftHost) -> list[Record]:
    """All of the oldest segment that a restart would miss."""
    records: list[Record] = []
    for group, highest in host.wal.sealed[0].groups.items():
        replica = host.replica(group)
        if replica is None:
            tombstone = host.tombstone(group)
            if tombstone is not None:
                records.append(tombstone_record(group, tombstone))
            continue
        core = replica.core
        durable = replica.machine.durable_index()
        # Its commit index too: entries that followed a membership need it (`HardState`).
        state = HardState(core.term, core.vote, core.damage, core.log.committed)
        records.append(hard_state_record(group, state, floor=durable))
        last = min(highest, core.log.last_index)
        records += [
            entry_record(group, core.log.entry(index))
            for index in range(durable + 1, last + 1)
        ]
    return records
