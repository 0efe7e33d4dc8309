"""The metadata store: the replicas of this node in its ordered key-value store.

    log entries --> StagedRows --> one batch: rows + applied index, term, membership
                                        |
                                 key-value store --flush--> survives a crash

After a crash the store holds a prefix of its batches, and each batch says up to which
entry it brings its shard: so a restart goes on exactly there (R9), and the WAL is needed
only above what the last flush covered (`durable_index`).

A snapshot is fed under a new generation, piece by piece; one batch then makes the new
generation valid together with the applied state it brings.  A crash before that leaves
the old state, and rows that the next opening deletes.

Anything that a store raises (OSError, CorruptData) ends the process: nobody here catches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import attrs
import structlog
import trio

from objstore.config import MetaConfig
from objstore.errors import CorruptData
from objstore.host.clock import next_beat_s
from objstore.host.kv import Batch, KeyValueStore, View
from objstore.host.threads import Threads
from objstore.ids import Slot
from objstore.meta import (
    apply,
    audit,
    envelope,
    expiry,
    local,
    repetition,
    schema,
    snapshot,
)
from objstore.meta.proposed import Proposed
from objstore.meta.rows import HASH_SIZE, Columns, RowView, StagedRows, first_row
from objstore.meta.schema import SEAL_SIZE, Table
from objstore.meta.work import Work
from objstore.raft.state_machine import Applied, Entry, EntryKind, Membership
from objstore.units import MiB

log = structlog.get_logger()

_FIRST_GENERATION = bytes(4)
_CHECK_INTERVAL_S = 1.0
# Of entries applied since the last flush: the log keeps them in memory until then, also
# those that leave few rows, as a thousand failed conditions do.
_APPLIED_SIZE_MAX = 16 * MiB
_NEVER_MS = 1 << 62
_CHAIN_PERIOD = 64  # Entries between two marks that replicas compare.
_CHAIN_MARKS = 32
# A member of a class of numbers costs a call.
_COMMAND, _EXPIRY = EntryKind.COMMAND, int(Table.EXPIRY)
_HOT = frozenset({Table.STATE, Table.FENCE, Table.COUNTERS})
_HOT_ROWS_MAX = 16_384  # A few megabytes.
_UNKNOWN: Any = object()
_WATCHED = (Table.BELOW, Table.RELEASED)
_NOTED = frozenset({Table.EXPIRY, *_WATCHED})


def _get(kv: View, key: bytes) -> bytes | None:
    """The payload of a local row."""
    value = kv.get(key)
    return None if value is None else schema.unseal(key, value)


def _put(batch: Batch, key: bytes, payload: bytes) -> None:
    batch.put(key, schema.seal(key, payload))


class KvRows:
    """A RowView of one shard: adds generations to keys, verifies values."""

    __slots__ = ("_expiring", "_kv", "_prefixes", "hot")

    def __init__(self, kv: View, prefixes: dict[bytes, bytes]) -> None:
        self._kv = kv
        # No slot has a row of EXPIRY below these keys: every eighth command looks.
        self._expiring: dict[bytes, bytes] = {}
        # What physical keys begin with, by the slot's two bytes: those, and the generation.
        self._prefixes = prefixes
        # Payloads of rows that every command reads, kept as the store has them.
        self.hot: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        is_hot = key[2] in _HOT
        if is_hot:
            payload = self.hot.get(key, _UNKNOWN)
            if payload is not _UNKNOWN:
                return payload  # type: ignore[no-any-return]
        prefix = self._prefixes.get(key[:2])
        if prefix is None:
            return None
        value = self._kv.get(prefix + key[2:])
        payload = None if value is None else schema.unseal(key, value)
        if is_hot:
            if len(self.hot) >= _HOT_ROWS_MAX:
                self.hot.clear()
            self.hot[key] = payload
        return payload

    def will_expire(self, key: bytes) -> None:
        """Note a row of EXPIRY that was just written."""
        if key < self._expiring.get(key[:2], b""):
            self._expiring[key[:2]] = key

    def forget(self) -> None:
        """Forget what is kept: the rows are others now."""
        self.hot.clear()
        self._expiring.clear()

    def expiring(self, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows of EXPIRY below `end`, most often none."""
        slot = end[:2]
        if end <= self._expiring.get(slot, b""):
            return
        # One row further, so that nothing is looked for before that one is due.
        first = schema.range_end(end[:3])
        for key, payload in self._scan(end[:3], first):
            first = min(first, key)
            self._expiring[slot] = first
            if key >= end:
                return
            yield key, payload
        self._expiring[slot] = first

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        if start[2] == _EXPIRY and start == end[:3]:
            return self.expiring(end)
        return self._scan(start, end)

    def _scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        prefix = self._prefixes.get(start[:2])
        if prefix is None:
            return
        assert end[:2] == start[:2]
        first, last = prefix + start[2:], prefix + end[2:]
        for physical, value in self._kv.scan(first, last):
            key = physical[:2] + physical[6:]
            yield key, schema.unseal(key, value)

    def page(self, base: bytes, start: bytes, end: bytes, limit: int) -> Columns:
        prefix = self._prefixes.get(start[:2])
        if prefix is None:
            return [], []
        assert end[:2] == start[:2]
        first, last = prefix + start[2:], prefix + end[2:]
        return schema.unseal_page(base, self._kv.page(first, last, limit))

    def sealed(self, slot: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All (logical key, sealed value) of a slot, not verified."""
        start = self._prefixes[slot]
        for physical, value in self._kv.scan(start, schema.range_end(start)):
            yield schema.logical(physical), value


class ShardMachine:
    """The state machine of one replica: see `raft.state_machine.StateMachine`."""

    def __init__(
        self,
        store: MetaStore,
        group: int,
        prefixes: dict[bytes, bytes],
    ) -> None:
        self.group = group
        self.on_change: Callable[[], None] | None = None  # After entries were applied.
        self._store = store
        self._kv = store.kv
        self._prefixes = prefixes
        self._rows = KvRows(self._kv, prefixes)
        self._staged = StagedRows(self._rows)
        self._installing: ShardInstall | None = None
        # (applied index, running hash of all changes): equal on every replica (R12).
        self.chain_marks: deque[tuple[int, bytes]] = deque(maxlen=_CHAIN_MARKS)
        self._applied_key = local.applied_key(group)
        payload = _get(self._kv, self._applied_key)
        progress = local.nothing() if payload is None else local.unpack_progress(payload)
        self._go_on_from(progress)
        # The last membership that was written, and how it is packed.
        membership = progress.membership
        self._members = membership, local.pack_members(membership)
        # When something of a slot is due at the earliest.  May be too early, not too late.
        self._due_ms = dict.fromkeys(prefixes, 0)
        self._looked = (0, 0)  # The period and applied index of `_has_forgotten`.
        # Slots that may have rows of a table; `slots_with` makes sure.
        self._with: dict[int, set[bytes]] = {t: set(prefixes) for t in _WATCHED}

    def _go_on_from(self, progress: local.Progress) -> None:
        """Take up a state that is durable, and that was not applied here."""
        self._progress = progress
        self._durable_index = progress.index
        self._seen = repetition.Seen(progress.time_ms)
        self._period_end_ms = repetition.period_end_ms(progress.time_ms)

    # ---- the protocol -----------------------------------------------------------------

    def applied(self) -> Applied:
        return self._progress.applied

    def apply(self, entries: Sequence[Entry], membership: Membership) -> list[object]:
        rows, progress, proposed = self._staged, self._progress, self._store.proposed
        index, term, time_ms = progress.index, progress.term, progress.time_ms
        chain, size = progress.chain, 0
        results: list[object] = []
        for entry in entries:
            assert entry.index == index + 1
            index, term = entry.index, entry.term
            if entry.kind is not _COMMAND:
                results.append(None)
                continue
            data = entry.data
            size += len(data)
            request, stamp_ms, command = envelope.decode(data, proposed.take(data))
            time_ms = max(stamp_ms, time_ms + 1)
            work = Work(rows, command, index, term, time_ms)
            results.append(apply.apply(work, request, command, self._seen))
            chain = rows.commit(chain)
            if index % _CHAIN_PERIOD == 0:
                self.chain_marks.append((index, chain))
        self._store.applied_size += size
        progress.index, progress.term, progress.membership = index, term, membership
        progress.time_ms, progress.chain = time_ms, chain
        self._write(rows, progress)
        rows.changes.clear()
        if self.on_change is not None:
            self.on_change()
        return results

    def _write(self, rows: StagedRows, progress: local.Progress) -> None:
        batch = self._kv.batch()
        put, hot = batch.put, self._rows.hot
        slot = prefix = b""
        for key, value in rows.changes.items():
            if key[:2] != slot:  # Most batches have rows of one.
                slot = key[:2]
                prefix = self._prefixes.get(slot) or self._begin_slot(batch, slot)
            if value is None:
                batch.delete(prefix + key[2:])
            else:
                put(prefix + key[2:], value)
            if key[2] in _HOT:
                hot[key] = None if value is None else value[:-SEAL_SIZE]
            elif key[2] in _NOTED and value is not None:
                self._note(key)
        if progress.time_ms >= self._period_end_ms:
            self._forget_requests(batch, rows, progress.time_ms)
        membership = progress.membership
        if membership is not self._members[0]:
            self._members = membership, local.pack_members(membership)
        payload = local.pack_progress(progress, self._members[1])
        put(self._applied_key, schema.seal(self._applied_key, payload))
        self._kv.write(batch)

    def _forget_requests(self, batch: Batch, rows: StagedRows, time_ms: int) -> None:
        """Delete the requests of periods that are over, behind what `rows` put."""
        before_ms = self._period_end_ms - 1
        self._period_end_ms = repetition.period_end_ms(time_ms)
        for slot, prefix in self._prefixes.items():
            number = schema.slot_of_row(slot)
            start, end = repetition.forgotten(number, before_ms, time_ms)
            if first_row(rows, start, end) is not None:  # Or a tombstone for nothing.
                batch.delete_range(prefix + start[2:], prefix + end[2:])

    def _note(self, key: bytes) -> None:
        """Keep what is known of rows in step with one that was just put."""
        table, slot = key[2], key[:2]
        if table == _EXPIRY:
            self._rows.will_expire(key)
            due_ms = schema.due_of_row(key)
            self._due_ms[slot] = min(due_ms, self._due_ms.get(slot, _NEVER_MS))
        else:
            self._with[table].add(slot)

    def _begin_slot(self, batch: Batch, slot: bytes) -> bytes:
        prefix = self._prefixes[slot] = slot + _FIRST_GENERATION
        key = local.slot_key(schema.slot_of_row(slot))
        _put(batch, key, local.pack_slot(_FIRST_GENERATION, self.group))
        return prefix

    def durable_index(self) -> int:
        return self._durable_index

    def snapshot(self) -> Iterator[bytes]:
        pinned = self._kv.snapshot()
        rows = KvRows(pinned, dict(self._prefixes))
        progress = self._progress
        head = snapshot.SnapshotHead(self.group, progress.time_ms, progress.chain)

        def pieces() -> Iterator[bytes]:
            try:
                yield from snapshot.encode(head, _sealed_rows(rows, self._slots()))
            finally:
                pinned.close()

        return pieces()

    def install(self) -> ShardInstall:
        if self._installing is not None:
            self._installing.abort()
        self._installing = ShardInstall(self, self._store.next_generation())
        return self._installing

    def destroy(self) -> None:
        """Delete all rows; durable, so that a replica that comes again starts empty."""
        if self._installing is not None:
            self._installing.abort()
        batch = self._kv.batch()
        for slot, prefix in self._prefixes.items():
            _delete_copy(batch, prefix)
            batch.delete(local.slot_key(schema.slot_of_row(slot)))
        batch.delete(local.applied_key(self.group))
        self._kv.write(batch)
        self._kv.flush()
        self._prefixes.clear()
        self._rows.forget()
        self._due_ms.clear()
        self._go_on_from(local.nothing())

    # ---- reading ----------------------------------------------------------------------

    @property
    def rows(self) -> RowView:
        """The applied rows."""
        return self._rows

    @property
    def time_ms(self) -> int:
        """Cluster time of the last command."""
        return self._progress.time_ms

    @property
    def chain(self) -> tuple[int, bytes]:
        """(applied index, running hash of all changes up to it): equal on all replicas."""
        return self._progress.index, self._progress.chain

    def _slots(self) -> list[bytes]:
        return sorted(self._prefixes)

    def slots(self) -> tuple[Slot, ...]:
        """Slots that have rows."""
        return tuple(schema.slot_of_row(slot) for slot in self._slots())

    def state_hash(self) -> bytes:
        """A hash of all rows: equal on replicas at equal applied index.  Reads them all."""
        digest = blake2b(digest_size=HASH_SIZE)
        for key, value in _sealed_rows(self._rows, self._slots()):
            schema.unseal(key, value)
            digest.update(len(key).to_bytes(4, "big") + key + value)
        return digest.digest()

    def sealed_rows(self, slot: Slot) -> Iterator[tuple[bytes, bytes]]:
        """All (logical key, sealed value) of a slot that has rows, not verified."""
        return self._rows.sealed(schema.slot_prefix(slot))

    def slots_due(self, now_ms: int) -> list[Slot]:
        """Slots that have something to drain at `now_ms` of cluster time."""
        due: list[Slot] = []
        for prefix, known_ms in self._due_ms.items():
            if known_ms > now_ms:
                continue
            slot = schema.slot_of_row(prefix)
            next_ms = expiry.next_due_ms(self._rows, slot)
            self._due_ms[prefix] = _NEVER_MS if next_ms is None else next_ms
            if next_ms is not None and next_ms <= now_ms:
                due.append(slot)
        if not due and self._has_forgotten(now_ms):
            due.append(self.slots()[0])  # A step in any slot moves the cluster time on.
        return due

    def _has_forgotten(self, now_ms: int) -> bool:
        """Whether requests are left that a command at `now_ms` would have dropped."""
        period, progress = repetition.period_of(now_ms), self._progress
        looked = period, progress.index
        if period <= repetition.period_of(progress.time_ms) or looked == self._looked:
            return False
        for slot in self.slots():
            start, end = repetition.forgotten(slot, progress.time_ms, now_ms)
            if first_row(self._rows, start, end) is not None:
                return True
        self._looked = looked  # Found nothing, and looks again once this has changed.
        return False

    def slots_with(self, table: Table) -> list[Slot]:
        """Slots that have rows of a watched table: BELOW or RELEASED."""
        found: list[Slot] = []
        for prefix in sorted(self._with[table]):
            slot = schema.slot_of_row(prefix)
            start = schema.table_prefix(slot, table)
            if first_row(self._rows, start, schema.range_end(start)) is None:
                self._with[table].discard(prefix)
            else:
                found.append(slot)
        return found

    def flushed_to(self, index: int) -> None:
        self._durable_index = max(self._durable_index, index)

    def installed(self, prefixes: dict[bytes, bytes], progress: local.Progress) -> None:
        """Take an installed snapshot as the state; its rows are durable."""
        self._prefixes.clear()
        self._prefixes.update(prefixes)
        self._rows.forget()
        self._due_ms = dict.fromkeys(prefixes, 0)
        self._with = {table: set(prefixes) for table in _WATCHED}
        self._go_on_from(progress)
        self._installing = None
        if self.on_change is not None:
            self.on_change()

    def forget_install(self) -> None:
        self._installing = None


def _sealed_rows(rows: KvRows, slots: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for slot in slots:
        yield from rows.sealed(slot)


def _delete_copy(batch: Batch, prefix: bytes) -> None:
    """Delete all rows of one generation of a slot."""
    batch.delete_range(prefix, schema.range_end(prefix))


class ShardInstall:
    """A snapshot on its way in: see `raft.state_machine.Install`."""

    def __init__(self, machine: ShardMachine, generation: bytes) -> None:
        self._machine = machine
        self._kv = machine._kv
        self._generation = generation
        self._decoder = snapshot.Decoder()
        self._slots: list[bytes] = []  # That have rows in this generation.

    def feed(self, piece: bytes) -> None:
        """Raises CorruptSnapshot, CorruptRow."""
        batch = self._kv.batch()
        for key, value in self._decoder.feed(piece):
            slot = key[:2]
            if not self._slots or self._slots[-1] != slot:
                self._slots.append(slot)
                _put(batch, self._mark(slot), b"")
            batch.put(schema.physical(key, self._generation), value)
        self._kv.write(batch)

    def _mark(self, slot: bytes) -> bytes:
        number = schema.slot_of_row(slot)
        return local.installing_key(self._machine.group, number, self._generation)

    def commit(self, applied: Applied) -> None:
        """Raises CorruptSnapshot where the stream was cut or is of another group."""
        machine, head = self._machine, self._decoder.head
        if head is None or not self._decoder.is_complete:
            raise snapshot.CorruptSnapshot("it ends early")
        if head.group != machine.group:
            raise snapshot.CorruptSnapshot(f"of group {head.group}, not {machine.group}")
        progress = local.Progress(
            applied.index, applied.term, applied.membership, head.time_ms, head.chain
        )
        batch = self._kv.batch()
        for slot, prefix in machine._prefixes.items():
            _delete_copy(batch, prefix)
            batch.delete(local.slot_key(schema.slot_of_row(slot)))
        for slot in self._slots:
            row = local.pack_slot(self._generation, machine.group)
            _put(batch, local.slot_key(schema.slot_of_row(slot)), row)
            batch.delete(self._mark(slot))
        members = local.pack_members(applied.membership)
        _put(batch, machine._applied_key, local.pack_progress(progress, members))
        self._kv.write(batch)
        self._kv.flush()
        machine.installed({s: s + self._generation for s in self._slots}, progress)
        log.info(
            "meta.snapshot_installed",
            shard=machine.group,
            index=applied.index,
            slots=len(self._slots),
        )

    def abort(self) -> None:
        batch = self._kv.batch()
        for slot in self._slots:
            _delete_copy(batch, slot + self._generation)
            batch.delete(self._mark(slot))
        self._kv.write(batch)
        self._slots.clear()
        self._machine.forget_install()


@attrs.define(eq=False)
class MetaStore:
    """All replicas of this node."""

    kv: KeyValueStore
    threads: Threads
    config: MetaConfig = attrs.field(factory=MetaConfig)
    _machines: dict[int, ShardMachine] = attrs.field(factory=dict, init=False)
    _slots: dict[int, dict[bytes, bytes]] = attrs.field(factory=dict, init=False)
    proposed: Proposed = attrs.field(factory=Proposed, init=False)
    applied_size: int = attrs.field(default=0, init=False)  # Bytes, since the last flush.
    _generation: int = attrs.field(default=0, init=False)
    _flush_wanted: trio.Event = attrs.field(factory=trio.Event, init=False)
    _flushing: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        """Read what is where.  Raises CorruptData."""
        kv = self.kv
        self._check_format()
        for key, value in kv.scan(local.SLOT_PREFIX, schema.range_end(local.SLOT_PREFIX)):
            generation, group = local.unpack_slot(schema.unseal(key, value))
            slot = schema.slot_prefix(local.slot_of_key(key))
            self._slots.setdefault(group, {})[slot] = slot + generation
        counter = _get(kv, local.GENERATION_KEY)
        self._generation = 0 if counter is None else int.from_bytes(counter, "big")
        self._drop_unfinished()

    def _check_format(self) -> None:
        """Refuse rows of another format, rather than to show lists that lack objects."""
        payload = _get(self.kv, local.FORMAT_KEY)
        if payload is None and not self.groups():
            payload = local.FORMAT.to_bytes(2, "big")
            batch = self.kv.batch()
            _put(batch, local.FORMAT_KEY, payload)
            self.kv.write(batch)
        found = 1 if payload is None else int.from_bytes(payload, "big")
        if found != local.FORMAT:
            raise CorruptData(
                f"the metadata store has format {found}, this program reads {local.FORMAT}"
            )

    def _drop_unfinished(self) -> None:
        """Delete what snapshots left that a crash interrupted."""
        prefix = local.INSTALLING_PREFIX
        marks = [key for key, _ in self.kv.scan(prefix, schema.range_end(prefix))]
        batch = self.kv.batch()
        for key in marks:
            _, slot, generation = local.installing_of_key(key)
            _delete_copy(batch, schema.slot_prefix(slot) + generation)
            batch.delete(key)
        if marks:
            self.kv.write(batch)

    def machine(self, group: int) -> ShardMachine:
        """The state machine of this node's replica of `group`; 0 is the cluster shard."""
        machine = self._machines.get(group)
        if machine is None:
            prefixes = self._slots.setdefault(group, {})
            machine = self._machines[group] = ShardMachine(self, group, prefixes)
        return machine

    def groups(self) -> tuple[int, ...]:
        """Groups that have applied state here."""
        prefix = local.APPLIED_PREFIX
        rows = self.kv.scan(prefix, schema.range_end(prefix))
        return tuple(local.group_of_applied(key) for key, _ in rows)

    def slots_below(self, group: int) -> list[Slot]:
        """Slots of a replica with chunks that are below promise or displaced."""
        return self.machine(group).slots_with(Table.BELOW)

    def slots_released(self, group: int) -> list[Slot]:
        """Slots of a replica with Released rows."""
        return self.machine(group).slots_with(Table.RELEASED)

    def next_generation(self) -> bytes:
        self._generation += 1
        generation = self._generation.to_bytes(4, "big")
        batch = self.kv.batch()
        _put(batch, local.GENERATION_KEY, generation)
        self.kv.write(batch)
        return generation

    def recount(self) -> list[str]:
        """What is wrong with the rows of all replicas, in words.  Reads everything.

        Raises CorruptRow for the first bad value.
        """
        problems: list[str] = []
        for group in self.groups():
            machine = self.machine(group)
            for slot in machine.slots():
                found = audit.audit_slot(machine.sealed_rows(slot))
                problems += [f"shard {group}, slot {slot}: {line}" for line in found]
        return problems

    # ---- flushing ---------------------------------------------------------------------

    async def flush(self) -> None:
        """Make everything applied so far survive a crash.

        If cancelled, waits for the flush under way; `durable_index` may not tell of it.
        """
        async with self._flushing:
            covered = {g: m.applied().index for g, m in self._machines.items()}
            self.applied_size = 0
            await self.threads.run(self.kv.flush)
            for group, index in covered.items():
                machine = self._machines[group]
                if machine.applied().index >= index:  # Not destroyed meanwhile.
                    machine.flushed_to(index)

    def request_flush(self) -> None:
        """Ask `run` to flush soon: the WAL wants to let go of its oldest file."""
        self._flush_wanted.set()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Flush when much is unflushed, from time to time, and when asked to.

        Raises OSError or CorruptData of the store: the process must end.
        """
        task_status.started()
        interval_s = self.config.flush_interval_ms / 1000
        flushed_at = trio.current_time()
        while True:
            with trio.move_on_at(next_beat_s(_CHECK_INTERVAL_S)):
                await self._flush_wanted.wait()
            is_large = (
                self.kv.memory_size() >= self.config.flush_size
                or self.applied_size >= _APPLIED_SIZE_MAX
            )
            is_old = trio.current_time() - flushed_at >= interval_s
            if self._flush_wanted.is_set() or is_large or (is_old and self._is_dirty()):
                self._flush_wanted = trio.Event()
                await self.flush()
                flushed_at = trio.current_time()

    def _is_dirty(self) -> bool:
        machines = self._machines.values()
        return any(m.durable_index() < m.applied().index for m in machines)

    # ---- the cluster view's copy ------------------------------------------------------

    def view_version(self) -> int:
        """The version of the view's copy; 0 where there is none."""
        version = _get(self.kv, local.VIEW_VERSION_KEY)
        return 0 if version is None else int.from_bytes(version, "big")

    def view_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """The rows of the view's copy; not to be advanced once it was changed."""
        prefix = local.VIEW_PREFIX
        for key, value in self.kv.scan(prefix, schema.range_end(prefix)):
            yield key[len(prefix) :], schema.unseal(key, value)

    def view_row(self, name: bytes) -> bytes | None:
        """One row of the view's copy."""
        return _get(self.kv, local.VIEW_PREFIX + name)

    def save_view(
        self, version: int, rows: dict[bytes, bytes | None], *, is_full: bool
    ) -> None:
        """Put changed rows (None: deleted) into the view's copy, in one batch."""
        batch = self.kv.batch()
        if is_full:
            prefix = local.VIEW_PREFIX
            batch.delete_range(prefix, schema.range_end(prefix))
        for name, payload in rows.items():
            key = local.VIEW_PREFIX + name
            if payload is None:
                batch.delete(key)
            else:
                _put(batch, key, payload)
        _put(batch, local.VIEW_VERSION_KEY, version.to_bytes(8, "big"))
        self.kv.write(batch)


def verify(kv: KeyValueStore) -> int:
    """Check the envelope of every metadata row; how many there are.  Raises CorruptData."""
    count = 0
    for key, value in kv.scan(b"", schema.LOCAL_END):
        is_local = key.startswith(schema.LOCAL_PREFIX)
        schema.unseal(key if is_local else schema.logical(key), value)
        count += 1
    return count
