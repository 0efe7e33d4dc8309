"""What a replica finds after a restart: the WAL's records and the state machine, joined.

`Replay` reads records in order and keeps, per group, what they add up to. `restore` then
puts it beside what the state machine has applied:

    state machine   ------- applied ........
    WAL                 -------------------------    the usual: go on behind `applied`
    WAL             (released)                       all of it applied: an empty log
    WAL                 ------    ---------------    entries lost: Damage.LOG, go on with
                                                     what is contiguous
    WAL                 ---                          ends below `applied`: it was rolled
                                                     back or emptied, votes with it

A state machine is never ahead of the WAL, and never behind what the WAL let go, unless one
of them has lost something; either is found here, and the replica does not vote until it is
mended.
"""

from __future__ import annotations

import struct

import attrs

from objstore.frozen import frozen
from objstore.ids import NodeId
from objstore.raft.hard_state import Damage, HardState
from objstore.raft.log import Log
from objstore.raft.state_machine import Applied, Entry, EntryKind
from objstore.raft.wal_format import ENTRY, Good, Lost, Record, RecordType


@attrs.define
class RecoveredGroup:
    """What the WAL says of one group."""

    term: int = 0
    commit: int = 0
    vote: NodeId | None = None
    damage: Damage = Damage.NONE
    is_tombstone: bool = False
    floor: int = 0  # Entries up to here may be missing: the state machine has them.
    snapshot_index: int = 0  # A snapshot up to here may have been installed.
    entries: dict[int, Entry | None] = attrs.field(factory=dict)  # None: lost.
    state_lost: bool = False  # The newest hard state is not readable.
    mended_at: int = 0  # Sequence: what is older has been made good.

    def _cut(self, index: int) -> None:
        if index in self.entries or (self.entries and index <= max(self.entries)):
            self.entries = {at: e for at, e in self.entries.items() if at < index}

    def take(self, sequence: int, record: Record) -> None:
        match record.type:
            case RecordType.ENTRY:
                self._take_entry(record)
            case RecordType.HARD_STATE | RecordType.TOMBSTONE:
                self.term = record.term
                self.commit, self.vote = _read_state(record.payload)
                self.damage = Damage(record.detail)
                self.floor = max(self.floor, record.index)
                self.state_lost = False
                self.is_tombstone = record.type is RecordType.TOMBSTONE
                if self.is_tombstone:
                    self.entries = {}
                    self.floor = self.snapshot_index = 0
            case RecordType.TRUNCATE:
                self._cut(record.index)
            case RecordType.SNAPSHOT:
                self.snapshot_index = max(self.snapshot_index, record.index)
            case RecordType.MENDED:
                self.mended_at = sequence
                self.state_lost = False
            case _:
                pass

    def _take_entry(self, record: Record) -> None:
        entry = Entry(record.index, record.term, EntryKind(record.detail), record.payload)
        old = self.entries.get(record.index)
        if old is not None and old.term != record.term:
            self._cut(record.index)
        # An equal term is the same entry, written again to let an old segment go.
        self.entries[record.index] = entry

    def lose(self, record: Record) -> None:
        """Only the header of `record` is readable."""
        if record.type is RecordType.ENTRY:
            old = self.entries.get(record.index)
            if old is None or old.term != record.term:
                self._cut(record.index)
                self.entries[record.index] = None
        elif record.type in (RecordType.HARD_STATE, RecordType.TOMBSTONE):
            self.state_lost = True
            self.term = max(self.term, record.term)


@attrs.define
class Replay:
    """Adds up records of all groups."""

    groups: dict[int, RecoveredGroup] = attrs.field(factory=dict)
    released: int = 1  # The oldest generation that must be there.
    last_gap: int = 0  # Sequence of the newest loss of which the group is unknown.

    def take(self, item: Good | Lost) -> None:
        if isinstance(item, Good):
            record = item.record
            if record.type is RecordType.RELEASED:
                self.released = max(self.released, record.index)
            elif record.type is not RecordType.MARK:
                self._group(record.group).take(item.sequence, record)
        elif item.record is None:
            self.last_gap = item.sequence
        elif item.record.type not in (RecordType.MARK, RecordType.RELEASED):
            self._group(item.record.group).lose(item.record)

    def _group(self, number: int) -> RecoveredGroup:
        return self.groups.setdefault(number, RecoveredGroup())

    def finish(self) -> None:
        """A loss that could be anybody's is everybody's."""
        for group in self.groups.values():
            if group.state_lost or self.last_gap > group.mended_at:
                group.damage = Damage.VOTE


@frozen
class Restored:
    """Where a replica starts from."""

    log: Log
    hard_state: HardState
    changed: bool  # The hard state differs from the WAL's, and must be written.


def restore(recovered: RecoveredGroup, applied: Applied) -> Restored:
    """Join the WAL's view of a group and its state machine's."""
    entries = recovered.entries
    damage = recovered.damage
    last = max(entries, default=0)
    if applied.index > max(last, recovered.floor, recovered.snapshot_index):
        damage = Damage.VOTE  # The WAL is older than the state machine.
    if applied.index < recovered.floor:
        damage = max(damage, Damage.LOG)  # The state machine is older than the WAL.

    at_applied = entries.get(applied.index)
    if at_applied is not None and at_applied.term != applied.term:
        entries = {}  # The snapshot's history is not this one's.
    head = _run_down(entries, applied)
    tail = _run_up(entries, applied)
    expected = max(entries, default=0)
    if expected > applied.index + len(tail):
        damage = max(damage, Damage.LOG)
    if head:
        # The lowest entry only lends its term.
        log = Log(
            offset=head[0].index, offset_term=head[0].term, entries=[*head[1:], *tail]
        )
    else:
        log = Log(offset=applied.index, offset_term=applied.term, entries=tail)
    log.applied = applied.index
    log.committed = max(applied.index, min(recovered.commit, log.last_index))
    if last > log.last_index:
        log.cut = log.last_index + 1
    # Nobody has an entry of a term that it has not entered.
    term = max(recovered.term, applied.term, log.last_term)
    newer = term > recovered.term
    hard_state = HardState(
        term,
        None if newer else recovered.vote,
        damage,
        log.committed,
    )
    return Restored(log, hard_state, changed=newer or damage > Damage.NEW)


def _run_up(entries: dict[int, Entry | None], applied: Applied) -> list[Entry]:
    """The contiguous entries right above `applied`.

    Up to a term that is lower than the one before: the cut between them was lost, and
    what follows is of a history that is void.
    """
    run: list[Entry] = []
    term = applied.term
    while (entry := entries.get(applied.index + len(run) + 1)) is not None:
        if entry.term < term:
            break
        term = entry.term
        run.append(entry)
    return run


def _run_down(entries: dict[int, Entry | None], applied: Applied) -> list[Entry]:
    """The contiguous entries up to and including `applied`, rising."""
    run: list[Entry] = []
    while (entry := entries.get(applied.index - len(run))) is not None:
        run.append(entry)
    run.reverse()
    return run


# The same way back.


def entry_record(group: int, entry: Entry) -> Record:
    return Record(group, ENTRY, entry.term, entry.index, entry.kind, entry.data)


def hard_state_record(group: int, state: HardState, *, floor: int = 0) -> Record:
    payload = _write_state(state)
    return Record(
        group, RecordType.HARD_STATE, state.term, floor, int(state.damage), payload
    )


def tombstone_record(group: int, state: HardState) -> Record:
    payload = _write_state(attrs.evolve(state, commit=0))
    return Record(group, RecordType.TOMBSTONE, state.term, 0, int(Damage.NEW), payload)


_COMMIT = struct.Struct("<Q")


def _write_state(state: HardState) -> bytes:
    return _COMMIT.pack(state.commit) + (state.vote or "").encode("ascii")


def _read_state(payload: bytes) -> tuple[int, NodeId | None]:
    (commit,) = _COMMIT.unpack_from(payload)
    return commit, NodeId(payload[_COMMIT.size :].decode("ascii")) or None
