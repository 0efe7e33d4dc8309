"""Replicas in the ordered store: batches, crashes, snapshots, equal hashes."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import trio

from objstore.chunks import index as chunk_index
from objstore.errors import CorruptData
from objstore.host.kv import KeyValueStore
from objstore.ids import DriveId, Key, NodeId, RequestId, Slot
from objstore.limits import INTENT_LIFE_MS, REQUEST_ID_KEPT_MS, SNAPSHOT_PIECE_SIZE
from objstore.meta import commands as c
from objstore.meta import envelope, reads, schema
from objstore.meta import queries as q
from objstore.meta import store as store_module
from objstore.meta.errors import PreconditionFailed
from objstore.meta.local import VIEW_PREFIX
from objstore.meta.payloads import pack_draft
from objstore.meta.snapshot import CorruptSnapshot
from objstore.meta.store import KvRows, MetaStore, ShardMachine, verify
from objstore.meta.values import BucketFence
from objstore.raft.state_machine import Applied, Entry, EntryKind, Membership
from objstore.rpc import codec
from objstore.testing.host import SimulatedWorld
from tests.unit.meta.builders import (
    BUCKET,
    REF,
    SLOT,
    chunks,
    draft,
    intent,
    large_draft,
    packed,
    part,
    upload,
    upload_id,
)

MEMBERS = Membership((NodeId("a" * 16),))
GROUP = 1


class Disk:
    """One host with one store, that can crash."""

    def __init__(self, seed: int = 0) -> None:
        self.world = SimulatedWorld(seed)
        self.host = self.world.host("a")
        self.store = self._open()

    def _open(self) -> MetaStore:
        folder = self.host.disks.directory("data", create=True)
        self.kv: KeyValueStore = self.host.disks.key_value_store(folder, "meta")
        return MetaStore(self.kv, self.host.threads)

    def crash(self) -> MetaStore:
        self.world.crash("a")
        self.host = self.world.restart("a")
        self.store = self._open()
        return self.store


def entry(index: int, command: Any, *, stamp_ms: int = 5_000, request: int = 0) -> Entry:
    rid = RequestId((request or index).to_bytes(16, "big"))
    data = envelope.encode(rid, stamp_ms, codec.encode(command))
    return Entry(index, 1, EntryKind.COMMAND, data)


def open_bucket(slot: Slot = SLOT) -> c.OpenBucket:
    return c.OpenBucket(slot, BucketFence(BUCKET, 1, "unversioned", is_open=True))


def put(key: bytes, data: bytes = b"x", slot: Slot = SLOT, **more: Any) -> c.PutVersion:
    return c.PutVersion(slot, REF, Key(key), packed(data), **more)


def get(machine: ShardMachine, key: bytes, slot: Slot = SLOT) -> Any:
    return reads.answer(machine.rows, q.GetVersion(slot, REF, Key(key)))


def history(seed: int, count: int = 60) -> list[Entry]:
    """A log of one of everything, in an order by seed."""
    random = Random(seed)
    entries = [Entry(1, 1, EntryKind.NOOP, b""), entry(2, open_bucket())]
    entries.append(entry(3, open_bucket(Slot(9))))
    for index in range(4, count):
        slot = random.choice((SLOT, Slot(9)))
        key = Key(random.choice((b"a", b"b", b"c")))
        mine = intent(index)
        choices: list[Any] = [
            put(key, random.randbytes(4), slot),
            c.DeleteVersion(slot, REF, key),
            c.BeginIntent(slot, REF, key, mine),
            c.PutVersion(
                slot,
                REF,
                key,
                pack_draft(large_draft(chunks(intent(index - 1), missing=(1,)))),
                intent=intent(index - 1),
            ),
            c.CreateUpload(slot, REF, upload(1, bytes(key))),
            c.PutPart(slot, REF, key, upload_id(1), part(1)),
            c.CompleteUpload(slot, REF, key, upload_id(1), (c.PartRef(1, part(1).etag),)),
            c.PurgeStep(slot),
        ]
        stamp_ms = 100_000 + random.randrange(-50, 50) * 1000
        entries.append(entry(index, random.choice(choices), stamp_ms=stamp_ms))
    return entries


# ---- applying -------------------------------------------------------------------------


def test_entries_are_applied_in_one_batch_with_how_far_they_go() -> None:
    machine = Disk().store.machine(GROUP)
    assert machine.applied() == Applied(0, 0, Membership(()))
    results = machine.apply(
        [Entry(1, 1, EntryKind.NOOP, b""), entry(2, open_bucket()), entry(3, put(b"k"))],
        MEMBERS,
    )
    assert results[:2] == [None, None]
    assert isinstance(results[2], c.PutResult)
    assert machine.applied() == Applied(3, 1, MEMBERS)
    assert get(machine, b"k").draft == draft(b"x")


def test_commands_of_one_batch_see_each_other() -> None:
    machine = Disk().store.machine(GROUP)
    create = c.WriteCondition(if_none_match=("*",))
    results = machine.apply(
        [
            entry(1, open_bucket()),
            entry(2, put(b"k", b"one", condition=create)),
            entry(3, put(b"k", b"two", condition=create)),
            entry(4, c.DeleteVersion(SLOT, REF, Key(b"k"))),
            entry(5, put(b"k", b"three", condition=create)),
        ],
        MEMBERS,
    )
    assert isinstance(results[2], PreconditionFailed)
    assert get(machine, b"k").draft == draft(b"three")


def test_cluster_time_only_grows_whatever_the_leaders_clocks_say() -> None:
    """F15."""
    machine = Disk().store.machine(GROUP)
    stamps = [5_000, 9_000, 1_000, 9_000, 9_500]
    entries = [entry(1, open_bucket(), stamp_ms=1)]
    for index, stamp_ms in enumerate(stamps, start=2):
        entries.append(entry(index, put(b"k%d" % index), stamp_ms=stamp_ms))
    results: list[Any] = machine.apply(entries, MEMBERS)
    times = [result.time_ms for result in results[1:]]
    assert times == [5_000, 9_000, 9_001, 9_002, 9_500]


def test_a_level_above_this_build_stops_it_with_a_sentence() -> None:
    machine = Disk().store.machine(GROUP)
    command = codec.encode(open_bucket())
    data = envelope.encode(RequestId(bytes(16)), 1, command, level=9)
    with pytest.raises(envelope.UnknownFeature, match="level 9"):
        machine.apply([Entry(1, 1, EntryKind.COMMAND, data)], MEMBERS)


# ---- determinism (R12) ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_r12_the_same_entries_in_other_batches_give_the_same_state(seed: int) -> None:
    entries = history(seed)
    one, other = Disk().store.machine(GROUP), Disk().store.machine(GROUP)
    one.apply(entries, MEMBERS)
    random = Random(seed)
    rest = entries
    while rest:
        size = random.randint(1, 7)
        other.apply(rest[:size], MEMBERS)
        rest = rest[size:]
    assert one.state_hash() == other.state_hash()
    assert one.chain == other.chain
    assert one._store.recount() == []


def test_replicas_that_differ_in_one_byte_have_other_hashes() -> None:
    one, other = Disk().store.machine(GROUP), Disk().store.machine(GROUP)
    one.apply([entry(1, open_bucket()), entry(2, put(b"k", b"one"))], MEMBERS)
    other.apply([entry(1, open_bucket()), entry(2, put(b"k", b"onf"))], MEMBERS)
    assert one.state_hash() != other.state_hash()
    assert one.chain != other.chain


# ---- crashes (R9) ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_r9_after_a_crash_the_rest_of_the_log_leads_to_the_same_state(
    seed: int,
) -> None:
    """R9, F03: what is left is a prefix, and says how long it is."""
    entries = history(seed)
    whole = Disk().store.machine(GROUP)
    whole.apply(entries, MEMBERS)
    disk = Disk(seed)
    machine = disk.store.machine(GROUP)
    random = Random(seed)
    machine.apply(entries[:10], MEMBERS)
    await disk.store.flush()
    assert machine.durable_index() == 10
    position = 10
    while position < len(entries):
        end = position + random.randint(1, 6)
        machine.apply(entries[position:end], MEMBERS)
        position = min(end, len(entries))
    machine = disk.crash().machine(GROUP)
    left = machine.applied().index
    assert left >= 10
    assert machine.durable_index() == left
    machine.apply(entries[left:], MEMBERS)
    assert machine.state_hash() == whole.state_hash()
    assert machine.chain == whole.chain


async def test_the_durable_index_follows_only_a_flush() -> None:
    disk = Disk()
    machine = disk.store.machine(GROUP)
    machine.apply([entry(1, open_bucket())], MEMBERS)
    assert machine.durable_index() == 0
    await disk.store.flush()
    machine.apply([entry(2, put(b"k"))], MEMBERS)
    assert machine.durable_index() == 1


async def test_a_requested_flush_is_done_soon(autojump_clock: Any) -> None:
    disk = Disk()
    machine = disk.store.machine(GROUP)
    machine.apply([entry(1, open_bucket())], MEMBERS)
    async with trio.open_nursery() as nursery:
        await nursery.start(disk.store.run)
        disk.store.request_flush()
        await trio.sleep(0.1)
        assert machine.durable_index() == 1
        machine.apply([entry(2, put(b"k"))], MEMBERS)
        await trio.sleep(120)
        assert machine.durable_index() == 2
        nursery.cancel_scope.cancel()


async def test_entries_that_leave_few_rows_are_flushed_before_they_fill_the_log(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost race of conditional writes: large entries, and a row that says so."""
    monkeypatch.setattr(store_module, "_APPLIED_SIZE_MAX", 64 * 1024)
    disk = Disk()
    machine = disk.store.machine(GROUP)
    machine.apply([entry(1, open_bucket()), entry(2, put(b"k"))], MEMBERS)
    only_new = c.WriteCondition(if_none_match=("*",))
    async with trio.open_nursery() as nursery:
        await nursery.start(disk.store.run)
        for index in range(3, 7):
            late = put(b"k", bytes(16_000), condition=only_new)
            machine.apply([entry(index, late)], MEMBERS)
        await trio.sleep(2)
        assert machine.durable_index() == 0
        machine.apply([entry(7, put(b"k", bytes(16_000), condition=only_new))], MEMBERS)
        await trio.sleep(2)
        assert machine.durable_index() == 7
        nursery.cancel_scope.cancel()


# ---- damage (F06) ---------------------------------------------------------------------


def test_any_flipped_bit_of_a_row_is_refused() -> None:
    """F06 (d)."""
    disk = Disk()
    machine = disk.store.machine(GROUP)
    machine.apply([entry(1, open_bucket()), entry(2, put(b"k", b"data"))], MEMBERS)
    prefix = schema.versions_prefix(SLOT, BUCKET, Key(b"k"))
    ((key, value),) = [
        row for row in machine.sealed_rows(SLOT) if row[0].startswith(prefix)
    ]
    for bit in range(len(value) * 8):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(schema.CorruptRow):
            schema.unseal(key, bytes(flipped))
    batch = disk.kv.batch()
    batch.put(schema.physical(key, bytes(4)), bytes(flipped))
    disk.kv.write(batch)
    with pytest.raises(CorruptData):
        get(machine, b"k")
    with pytest.raises(CorruptData):
        verify(disk.kv)


def test_a_value_under_another_key_is_refused() -> None:
    """F08."""
    disk = Disk()
    machine = disk.store.machine(GROUP)
    machine.apply(
        [entry(1, open_bucket()), entry(2, put(b"k")), entry(3, put(b"l"))], MEMBERS
    )
    rows = dict(machine.sealed_rows(SLOT))
    first, second = [key for key in rows if key[2] == schema.Table.VERSION]
    with pytest.raises(schema.CorruptRow):
        schema.unseal(second, rows[first])
    # The chunk store's rows in the same store have seals of their own.
    count = verify(disk.kv)
    assert count > 0
    index = chunk_index.Index(disk.kv)
    change, batch = index.change()
    change.put_drive(DriveId("d" * 16), "/data/chunks")
    index.write(batch)
    assert verify(disk.kv) == count


# ---- snapshots (R9) -------------------------------------------------------------------


def pieces_of(machine: ShardMachine) -> list[bytes]:
    pieces = list(machine.snapshot())
    assert all(0 < len(piece) <= SNAPSHOT_PIECE_SIZE for piece in pieces)
    return pieces


def filled(disk: Disk, *, count: int = 20, size: int = 40_000) -> ShardMachine:
    machine = disk.store.machine(GROUP)
    entries = [entry(1, open_bucket()), entry(2, open_bucket(Slot(9)))]
    for index in range(3, count):
        slot = SLOT if index % 2 else Slot(9)
        entries.append(entry(index, put(b"k%d" % index, bytes(size), slot)))
    machine.apply(entries, MEMBERS)
    return machine


def test_an_installed_snapshot_is_the_senders_state() -> None:
    source = filled(Disk())
    target_disk = Disk()
    target = target_disk.store.machine(GROUP)
    target.apply([entry(1, open_bucket()), entry(2, put(b"old"))], MEMBERS)
    install = target.install()
    for piece in pieces_of(source):
        install.feed(piece)
        assert target.applied().index == 2
    install.commit(source.applied())
    assert target.applied() == source.applied()
    assert target.durable_index() == source.applied().index
    assert target.state_hash() == source.state_hash()
    assert target.chain == source.chain
    more = [entry(20, put(b"more"))]
    target.apply(more, MEMBERS)
    source.apply(more, MEMBERS)
    assert target.state_hash() == source.state_hash()
    reopened = target_disk.crash().machine(GROUP)
    assert reopened.applied().index >= source.applied().index - 1


def test_a_snapshot_shows_the_moment_it_was_taken() -> None:
    source = filled(Disk())
    before = source.state_hash()
    pieces = source.snapshot()
    first = next(pieces)
    source.apply([entry(20, put(b"later"))], MEMBERS)
    target = Disk().store.machine(GROUP)
    install = target.install()
    for piece in (first, *pieces):
        install.feed(piece)
    install.commit(Applied(19, 1, MEMBERS))
    assert target.state_hash() == before


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_r9_a_crash_in_the_middle_of_an_install_leaves_the_old_state(keep: float) -> None:
    pieces = pieces_of(filled(Disk()))
    disk = Disk(seed=int(keep * 10))
    machine = disk.store.machine(GROUP)
    machine.apply([entry(1, open_bucket()), entry(2, put(b"old"))], MEMBERS)
    disk.kv.flush()
    before = machine.state_hash()
    install = machine.install()
    for piece in pieces[: max(1, int(len(pieces) * keep))]:
        install.feed(piece)
    machine = disk.crash().machine(GROUP)
    assert machine.applied().index == 2
    assert machine.state_hash() == before
    assert generations(disk.kv) <= {bytes(4)}


def generations(kv: KeyValueStore) -> set[bytes]:
    """Of all rows of slots that are in the store."""
    return {key[2:6] for key, _ in kv.scan(b"", b"\x10\x01")}


def test_only_one_generation_is_left_after_an_install_or_its_abort() -> None:
    pieces = pieces_of(filled(Disk()))
    disk = Disk()
    machine = disk.store.machine(GROUP)
    machine.apply([entry(1, open_bucket()), entry(2, put(b"old"))], MEMBERS)
    install = machine.install()
    install.feed(pieces[0])
    install.abort()
    assert generations(disk.kv) == {bytes(4)}
    install = machine.install()
    install.feed(pieces[0])
    again = machine.install()  # Drops the unfinished one.
    for piece in pieces:
        again.feed(piece)
    again.commit(Applied(19, 1, MEMBERS))
    assert len(generations(disk.kv)) == 1


def test_a_snapshot_that_is_cut_or_changed_is_refused() -> None:
    pieces = pieces_of(filled(Disk(), count=6, size=100))
    (stream,) = pieces

    def install(data: bytes, group: int = GROUP) -> None:
        machine = Disk().store.machine(group)
        coming = machine.install()
        coming.feed(data)
        coming.commit(Applied(19, 1, MEMBERS))

    install(stream)
    with pytest.raises(CorruptSnapshot):
        install(stream[:-1])
    with pytest.raises(CorruptSnapshot):
        install(stream, group=2)
    with pytest.raises(CorruptSnapshot):
        install(stream + b"x")
    random = Random(1)
    for _ in range(100):
        damaged = bytearray(stream)
        damaged[random.randrange(len(stream))] ^= 1 << random.randrange(8)
        with pytest.raises(CorruptData):
            install(bytes(damaged))


def test_snapshots_may_come_in_pieces_of_any_size() -> None:
    source = filled(Disk(), count=8, size=50)
    stream = b"".join(source.snapshot())
    target = Disk().store.machine(GROUP)
    install = target.install()
    for byte in stream:
        install.feed(bytes((byte,)))
    install.commit(source.applied())
    assert target.state_hash() == source.state_hash()


def test_a_destroyed_replica_leaves_nothing() -> None:
    """R11."""
    disk = Disk()
    machine = filled(disk)
    other = disk.store.machine(2)
    other.apply([entry(1, open_bucket(Slot(500)))], MEMBERS)
    machine.destroy()
    assert machine.applied() == Applied(0, 0, Membership(()))
    store = disk.crash()
    assert store.groups() in ((2,), ())
    assert {key[:2] for key, _ in disk.kv.scan(b"", b"\x10\x01")} <= {b"\x01\xf4"}


# ---- housekeeping ---------------------------------------------------------------------


def test_slots_are_due_when_something_in_them_is() -> None:
    machine = Disk().store.machine(GROUP)
    machine.apply([entry(1, open_bucket()), entry(2, put(b"k"))], MEMBERS)
    begin = c.BeginIntent(SLOT, REF, Key(b"k"), intent(1))
    machine.apply([entry(3, begin)], MEMBERS)
    assert machine.slots_due(5_000) == []
    later_ms = 5_010 + INTENT_LIFE_MS
    assert machine.slots_due(later_ms) == [SLOT]
    machine.apply([entry(4, c.PurgeStep(SLOT), stamp_ms=later_ms)], MEMBERS)
    assert machine.slots_due(later_ms) == []


def test_a_silent_shard_is_due_until_its_requests_are_forgotten() -> None:
    machine = Disk().store.machine(GROUP)
    machine.apply([entry(1, open_bucket()), entry(2, put(b"k"))], MEMBERS)
    for periods in (0, 1):  # Still asked for by whoever comes.
        assert machine.slots_due(5_000 + periods * REQUEST_ID_KEPT_MS) == []
    later_ms = 5_000 + 2 * REQUEST_ID_KEPT_MS
    assert machine.slots_due(later_ms) == [SLOT]
    assert requests_of(machine) == [RequestId((2).to_bytes(16, "big"))]
    machine.apply([entry(3, c.PurgeStep(SLOT), stamp_ms=later_ms)], MEMBERS)
    assert requests_of(machine) == []
    for periods in range(3, 6):
        assert machine.slots_due(5_000 + periods * REQUEST_ID_KEPT_MS) == []


# ---- the memory of requests -----------------------------------------------------------


def requests_of(machine: ShardMachine) -> list[RequestId]:
    keys = [key for slot in machine.slots() for key, _ in machine.sealed_rows(slot)]
    return [RequestId(key[-16:]) for key in keys if key[2] == schema.Table.REQUEST]


def test_requests_of_periods_that_are_over_are_dropped_in_all_slots() -> None:
    machine = Disk().store.machine(GROUP)
    other = Slot(9)
    machine.apply([entry(1, open_bucket()), entry(2, open_bucket(other))], MEMBERS)
    stamps = [int(n * REQUEST_ID_KEPT_MS) for n in (1.1, 1.9, 2.5, 3.0)]
    kept = []
    for index, stamp_ms in enumerate(stamps, start=3):
        slot = SLOT if index % 2 else other
        machine.apply([entry(index, put(b"k", slot=slot), stamp_ms=stamp_ms)], MEMBERS)
        kept.append([int.from_bytes(request, "big") for request in requests_of(machine)])
    assert [sorted(numbers) for numbers in kept] == [[3], [3, 4], [3, 4, 5], [5, 6]]


@pytest.mark.parametrize("seed", range(6))
def test_r12_requests_are_forgotten_alike_in_other_batches(seed: int) -> None:
    random = Random(seed)
    entries, stamp_ms = [entry(1, open_bucket()), entry(2, open_bucket(Slot(9)))], 0
    for index in range(3, 60):
        stamp_ms += random.choice((1, REQUEST_ID_KEPT_MS // 3, 2 * REQUEST_ID_KEPT_MS))
        slot = random.choice((SLOT, Slot(9)))
        entries.append(entry(index, put(b"k", slot=slot), stamp_ms=stamp_ms))
    one, other = Disk().store.machine(GROUP), Disk().store.machine(GROUP)
    for position in range(len(entries)):
        one.apply(entries[position : position + 1], MEMBERS)
    while entries:
        size = random.randint(1, 9)
        other.apply(entries[:size], MEMBERS)
        entries = entries[size:]
        if other.applied().index == one.applied().index:
            assert one.state_hash() == other.state_hash()
    assert one.chain == other.chain
    install = (copy := Disk().store.machine(GROUP)).install()
    for piece in one.snapshot():
        install.feed(piece)
    install.commit(one.applied())
    last = entry(60, put(b"k"), stamp_ms=stamp_ms + REQUEST_ID_KEPT_MS)
    for machine in (one, copy):
        machine.apply([last], MEMBERS)
    assert one.state_hash() == copy.state_hash()


@pytest.mark.parametrize("later", [0, 1])
@pytest.mark.parametrize("into_period_ms", [0, REQUEST_ID_KEPT_MS - 1])
async def test_r13_requests_of_before_are_known_to_a_replica_that_did_not_apply_them(
    into_period_ms: int, later: int
) -> None:
    """Started again, or fed with a snapshot; in their period and in the next."""
    disk = Disk()
    machine, stamp_ms = disk.store.machine(GROUP), 5 * REQUEST_ID_KEPT_MS + into_period_ms
    first = machine.apply(
        [entry(1, open_bucket()), entry(2, put(b"k", b"1"), stamp_ms=stamp_ms, request=7)],
        MEMBERS,
    )
    machine.apply([entry(3, put(b"k", b"2"), stamp_ms=stamp_ms)], MEMBERS)
    install = (copy := Disk().store.machine(GROUP)).install()
    for piece in machine.snapshot():
        install.feed(piece)
    install.commit(machine.applied())
    await disk.store.flush()
    again_ms = (5 + later) * REQUEST_ID_KEPT_MS + into_period_ms
    again = entry(4, put(b"k", b"1"), stamp_ms=again_ms, request=7)
    restarted = disk.crash().machine(GROUP)
    for replica in (restarted, copy):
        assert replica.apply([again], MEMBERS) == first[1:]
        assert get(replica, b"k").draft == draft(b"2")


async def test_a_request_that_was_dropped_stays_so_after_a_crash() -> None:
    disk = Disk()
    machine = disk.store.machine(GROUP)
    machine.apply([entry(1, open_bucket()), entry(2, put(b"k"))], MEMBERS)
    await disk.store.flush()
    late = entry(3, c.PurgeStep(SLOT), stamp_ms=9 * REQUEST_ID_KEPT_MS)
    machine.apply([late], MEMBERS)
    machine = disk.crash().machine(GROUP)
    if machine.applied().index < 3:
        assert requests_of(machine) != []
        machine.apply([late], MEMBERS)
    assert requests_of(machine) == []


def test_slots_with_work_for_repair_are_known() -> None:
    disk = Disk()
    machine = disk.store.machine(GROUP)
    begin = c.BeginIntent(SLOT, REF, Key(b"k"), intent(1))
    location = chunks(intent(1), missing=(1,))
    large = c.PutVersion(
        SLOT, REF, Key(b"k"), pack_draft(large_draft(location)), intent=intent(1)
    )
    machine.apply([entry(1, open_bucket()), entry(2, begin), entry(3, large)], MEMBERS)
    assert disk.store.slots_below(GROUP) == [SLOT]
    assert disk.store.slots_released(GROUP) == []
    machine.apply([entry(4, put(b"k"))], MEMBERS)
    assert disk.store.slots_below(GROUP) == []
    assert disk.store.slots_released(GROUP) == [SLOT]


def test_the_views_copy_is_replaced_or_changed_at_once() -> None:
    disk = Disk()
    disk.store.save_view(5, {b"a": b"1", b"b": b"2"}, is_full=True)
    disk.store.save_view(6, {b"a": None, b"c": b"3"}, is_full=False)
    assert disk.store.view_version() == 6
    assert dict(disk.store.view_rows()) == {b"b": b"2", b"c": b"3"}
    assert disk.store.view_row(b"b") == b"2"
    assert disk.store.view_row(b"a") is None
    disk.store.save_view(9, {b"z": b"0"}, is_full=True)
    assert disk.store.view_version() == 9
    assert dict(disk.store.view_rows()) == {b"z": b"0"}
    assert len(list(_rows(disk.kv, VIEW_PREFIX))) == 1


def _rows(kv: KeyValueStore, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    return kv.scan(prefix, schema.range_end(prefix))


def test_nothing_is_looked_for_before_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    machine = disk.store.machine(GROUP)
    machine.apply([entry(1, open_bucket())], MEMBERS)
    looks: list[bytes] = []
    scan = KvRows._scan

    def watched(rows: KvRows, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        looks.append(start)
        return scan(rows, start, end)

    monkeypatch.setattr(KvRows, "_scan", watched)
    for index in range(2, 130):  # Every eighth drains what is due: for a while nothing.
        stamp_ms = 5_000 + 10 * index
        machine.apply([entry(index, put(b"%d" % index), stamp_ms=stamp_ms)], MEMBERS)
    assert len(looks) <= 1
    late_ms = 10_000 + INTENT_LIFE_MS
    for index in range(130, 146):
        begin = c.BeginIntent(SLOT, REF, Key(b"k"), intent(index))
        machine.apply([entry(index, begin, stamp_ms=late_ms + index)], MEMBERS)
    assert len(looks) > 1
    first = schema.table_prefix(SLOT, schema.Table.EXPIRY)
    rows = list(machine.rows.scan(first, schema.range_end(first)))
    assert schema.expiry_of_row(rows[0][0])[0] >= late_ms + 130


# ---- membership -----------------------------------------------------------------------


async def test_the_membership_that_is_written_is_the_one_in_force() -> None:
    disk = Disk()
    other = Membership((NodeId("a" * 16), NodeId("b" * 16)), (NodeId("a" * 16),))
    disk.store.machine(GROUP).apply([entry(1, open_bucket())], MEMBERS)
    for index, members in enumerate((other, other, MEMBERS), start=2):
        disk.store.machine(GROUP).apply([entry(index, put(b"k"))], members)
        await disk.store.flush()
        assert disk.crash().machine(GROUP).applied().membership == members
