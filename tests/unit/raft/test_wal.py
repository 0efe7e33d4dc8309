"""The write-ahead log on a disk that tears, loses, rots and fails."""

from functools import partial
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.errors import CorruptData
from objstore.raft.hard_state import Damage, HardState
from objstore.raft.recovery import restore, tombstone_record
from objstore.raft.state_machine import Applied, Membership
from objstore.raft.wal import MARK, Wal, check
from objstore.raft.wal_format import DATA_OFFSET, Record, RecordType
from objstore.testing.boot import Boot
from objstore.testing.disk import (
    DiskFault,
    SimulatedDirectory,
    SimulatedDisk,
    SimulatedDisks,
)
from objstore.testing.entropy import SimulatedEntropy
from objstore.testing.threads import SimulatedThreads
from tests.unit.raft.wals import FOLDER, A, Machine, entry, indexes, state

NOBODY = Applied(0, 0, Membership(()))


def flip(machine: Machine, segment: str, offset: int) -> None:
    machine.disk.flip_bit(segment, offset=offset, bit=3)


def offset_of(machine: Machine, segment: str, record: Record) -> int:
    """Where the payload of `record` begins in `segment`."""
    found = machine.disk.contents(segment).find(record.payload)
    assert found > 0
    return found


def test_what_was_written_is_there_after_a_restart() -> None:
    machine = Machine()
    assert machine.start().groups == {}
    machine.write(state(1, 3), entry(1, 1), entry(2, 1), entry(1, 2))
    machine.crash(0)
    recovered = machine.start()
    assert recovered.findings == []
    assert indexes(recovered, 1) == [1, 2]
    assert indexes(recovered, 2) == [1]
    assert (recovered.groups[1].term, recovered.groups[1].vote) == (3, A)


def test_entries_of_another_term_replace_what_follows() -> None:
    machine = Machine()
    machine.start()
    machine.write(*(entry(1, n) for n in range(1, 9)))
    machine.write(entry(1, 5, term=2))
    machine.crash(0)
    assert indexes(machine.start(), 1) == [1, 2, 3, 4, 5]


def test_entries_written_again_replace_nothing() -> None:
    machine = Machine()
    machine.start()
    machine.write(*(entry(1, n) for n in range(1, 9)))
    machine.write(entry(1, 2), entry(1, 3))
    machine.crash(0)
    assert indexes(machine.start(), 1) == list(range(1, 9))


def test_a_truncation_makes_what_follows_void() -> None:
    machine = Machine()
    machine.start()
    machine.write(*(entry(1, n) for n in range(1, 9)))
    machine.write(Record(1, RecordType.TRUNCATE, index=4))
    machine.crash(0)
    assert indexes(machine.start(), 1) == [1, 2, 3]


def test_a_log_of_many_segments_is_read_in_order() -> None:
    machine = Machine()
    machine.start()
    for n in range(1, 400):
        machine.write(entry(1, n, size=400))
    assert len(machine.segments()) > 4
    machine.crash(0)
    recovered = machine.start()
    assert indexes(recovered, 1) == list(range(1, 400))
    assert recovered.findings == []


def test_many_restarts_lose_nothing() -> None:
    machine = Machine()
    for n in range(1, 20):
        assert indexes(machine.start(), 1) == list(range(1, n))
        machine.write(entry(1, n))
        machine.crash(n)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, 3000), min_size=1, max_size=6), min_size=1, max_size=6
    ),
    st.integers(0, 2**32),
)
def test_f05_a_torn_write_is_cut_and_nothing_acknowledged_is_lost(
    batches: list[list[int]], seed: int
) -> None:
    """The last write is not synced when the power goes: F03, F05."""
    machine = Machine()
    machine.start()
    written = 0
    for batch in batches[:-1]:
        machine.write(*(entry(1, written + n, size=s) for n, s in enumerate(batch, 1)))
        written += len(batch)
    machine.disk.inject(DiskFault("*/wal/*", "sync"))
    with pytest.raises(OSError):
        machine.write(
            *(entry(1, written + n, size=s) for n, s in enumerate(batches[-1], 1))
        )
    machine.crash(seed)
    machine.disk.heal()
    recovered = machine.start()
    found = indexes(recovered, 1)
    assert found == list(range(1, len(found) + 1))
    assert written <= len(found) <= written + len(batches[-1])
    assert not any(finding.kind != "cut" for finding in recovered.findings)
    assert all(g.damage is Damage.NONE for g in recovered.groups.values())
    # What was cut stays cut, also when the same bytes come again.
    machine.write(entry(1, len(found) + 1, size=7))
    machine.crash(seed)
    again = machine.start()
    assert indexes(again, 1) == list(range(1, len(found) + 2))
    assert all(g.damage is Damage.NONE for g in again.groups.values())


@pytest.mark.parametrize("operation", ["write", "sync", "name"])
def test_f02_power_lost_at_every_step_loses_nothing(operation: str) -> None:
    """Rolls, spares, restarts and releases included (F04)."""
    for nth in range(1, 200):
        machine = Machine(segment_size=DATA_OFFSET + 4096)
        acknowledged = floor = 0
        machine.disk.make_folders(FOLDER)
        machine.disk.inject(DiskFault("*", operation, nth=nth, count=None))
        try:
            machine.start()
            for n in range(1, 20):
                machine.write(entry(1, n, size=900))
                acknowledged = n
                if len(machine.wal.sealed) > 2:
                    floor = n - 6
                    oldest = machine.wal.sealed[0]
                    rewritten = [
                        entry(1, i, size=900)
                        for i in range(floor + 1, oldest.groups[1] + 1)
                    ]
                    machine.write(
                        state(1, 1, floor=floor), *rewritten, machine.wal.release_record()
                    )
                    machine.wal._release()
        except OSError:
            done = False
        else:
            done = True
        machine.disk.heal()
        machine.crash(nth)
        recovered = machine.start()
        found = indexes(recovered, 1)
        assert set(range(floor + 1, acknowledged + 1)) <= set(found), nth
        assert not any(f.kind in ("lost", "missing") for f in recovered.findings), nth
        if done:
            return
    raise AssertionError("never got to the end")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.data())
def test_f06_any_flipped_bit_is_noticed_and_cuts_nothing(
    seed: int, data: st.DataObject
) -> None:
    machine = Machine()
    machine.start()
    random = Random(seed)
    records = [state(1, 1), state(2, 1)]
    for n in range(1, 15):
        records += [entry(1, n, size=random.randrange(1, 300)), entry(2, n)]
    for start in range(0, len(records), 5):
        machine.write(*records[start : start + 5])
    machine.write(MARK)
    (segment,) = machine.segments()
    end = machine.wal._segments[-1].position - 8 * 7 - 1
    offset = data.draw(st.integers(DATA_OFFSET, end))
    before = machine.disk.contents(segment)
    machine.disk.flip_bit(segment, offset=offset, bit=data.draw(st.integers(0, 7)))
    assert machine.disk.contents(segment) != before
    machine.crash(0)
    recovered = machine.start()
    missing = [
        (g, n) for g in (1, 2) for n in range(1, 15) if n not in indexes(recovered, g)
    ]
    if not recovered.findings:  # It hit padding, which says nothing.
        assert not missing
        return
    (finding,) = recovered.findings
    assert finding.kind == "lost"
    damaged = {g for g in (1, 2) if restore(recovered.groups[g], NOBODY).hard_state.damage}
    assert damaged == ({finding.group} if finding.group is not None else {1, 2})
    assert {g for g, _ in missing} <= damaged
    assert len(missing) <= 1


def test_r14_damage_to_the_last_acknowledged_entry_is_noticed_once_marked() -> None:
    machine = Machine()
    machine.start()
    last = entry(1, 2, size=100)
    machine.write(entry(1, 1), last)
    assert machine.wal.wants_mark
    machine.write(MARK)
    assert not machine.wal.wants_mark
    (segment,) = machine.segments()
    flip(machine, segment, offset_of(machine, segment, last))
    machine.crash(0)
    recovered = machine.start()
    restored = restore(recovered.groups[1], NOBODY)
    assert restored.hard_state.damage is Damage.LOG
    assert restored.log.last_index == 1


def test_damage_of_an_unknown_group_is_everybodys_until_mended() -> None:
    machine = Machine()
    machine.start()
    machine.write(state(1, 1), state(2, 1))
    machine.write(entry(1, 1, size=100), entry(2, 1))
    machine.write(entry(2, 2))
    (segment,) = machine.segments()
    payload = offset_of(machine, segment, entry(1, 1, size=100))
    flip(machine, segment, payload - 8)  # Its header's index.
    machine.crash(0)
    recovered = machine.start()
    assert [f.kind for f in recovered.findings] == ["lost"]
    assert {g.damage for g in recovered.groups.values()} == {Damage.VOTE}
    machine.write(Record(1, RecordType.MENDED))
    machine.crash(1)
    recovered = machine.start()
    assert recovered.groups[1].damage is Damage.NONE
    assert recovered.groups[2].damage is Damage.VOTE


def test_a_lost_vote_is_no_damage_once_there_is_a_newer_one() -> None:
    machine = Machine()
    machine.start()
    machine.write(state(1, 1))
    machine.write(state(1, 2))
    (segment,) = machine.segments()
    machine.disk.flip_bit(segment, offset=DATA_OFFSET + 56 + 9)
    machine.crash(0)
    recovered = machine.start()
    assert recovered.findings
    assert recovered.groups[1].term == 2
    assert recovered.groups[1].damage is Damage.NONE


def test_one_bad_copy_of_a_header_is_no_loss() -> None:
    machine = Machine()
    machine.start()
    machine.write(entry(1, 1))
    flip(machine, machine.segments()[0], 20)
    machine.crash(0)
    recovered = machine.start()
    assert indexes(recovered, 1) == [1]
    assert recovered.findings == []


def test_a_segment_that_cannot_be_read_damages_all_and_is_kept() -> None:
    machine = Machine()
    machine.start()
    machine.write(state(1, 1), entry(1, 1))
    machine.crash(0)
    machine.start()
    machine.write(state(1, 2), entry(1, 2))
    first, _ = machine.segments()
    flip(machine, first, 20)
    flip(machine, first, 4096 + 20)
    machine.crash(0)
    recovered = machine.start()
    assert {f.kind for f in recovered.findings} == {"missing"}
    assert recovered.groups[1].damage is Damage.VOTE
    assert len(machine.disk.paths("*/damaged-*")) == 1


def test_a_missing_segment_is_noticed() -> None:
    for missing in (0, 1):
        machine = Machine()
        for n in range(1, 4):
            machine.start()
            machine.write(state(1, 1), entry(1, n))
            machine.crash(0)
        names = machine.segments()
        directory = SimulatedDisks(machine.disk, Boot("thief")).directory(FOLDER)
        directory.remove(names[missing].rpartition("/")[2])
        directory.sync()
        recovered = machine.start()
        assert "missing" in {f.kind for f in recovered.findings}
        assert recovered.groups[1].damage is Damage.VOTE


def test_a_used_spare_never_shows_its_old_records() -> None:
    machine = Machine(segment_size=DATA_OFFSET + 4096)
    machine.start()
    n = 0
    while len(machine.wal.sealed) < 3:
        n += 1
        machine.write(entry(1, n, size=100))
    machine.write(state(1, 1, floor=n), machine.wal.release_record())
    machine.wal._release()
    assert machine.disk.paths("*/spare-*")
    top = n
    while machine.disk.paths("*/spare-*"):
        n += 1
        machine.write(entry(1, n, size=100))
    machine.crash(0)
    recovered = machine.start()
    assert recovered.findings == []
    assert max(indexes(recovered, 1)) == n
    assert set(range(top + 1, n + 1)) <= set(indexes(recovered, 1))


def test_payloads_that_look_like_records_are_only_payloads() -> None:
    """Another log's bytes, even at the right place and of the right generation."""
    other = Machine(name="other")
    other.start()
    other.write(*(entry(9, n, size=16) for n in range(1, 40)))
    forged = other.disk.contents(other.segments()[0])[DATA_OFFSET : DATA_OFFSET + 3000]
    machine = Machine()
    machine.start()
    record = Record(1, RecordType.ENTRY, 1, 1, 1, forged)
    machine.write(record)
    machine.write(entry(1, 2))
    (segment,) = machine.segments()
    flip(machine, segment, DATA_OFFSET + 20)
    machine.crash(0)
    recovered = machine.start()
    assert 9 not in recovered.groups


def test_f11_a_failed_sync_is_never_tried_again() -> None:
    machine = Machine()
    machine.start()
    machine.write(entry(1, 1))
    machine.disk.inject(DiskFault("*/wal/*", "sync"))
    with pytest.raises(OSError):
        machine.write(entry(1, 2))
    with pytest.raises(OSError):
        machine.write(entry(1, 3))
    machine.crash(1)
    assert 3 not in indexes(machine.start(), 1)


@pytest.mark.parametrize("step", ["prepare", "write", "release"])
async def test_f11_whatever_it_was_the_error_says_that_it_is_the_logs(step: str) -> None:
    disk = SimulatedDisk()
    wal = Wal(
        directory=SimulatedDisks(disk, Boot("host")).directory("/wal", create=True),
        threads=SimulatedThreads(disk),
        entropy=SimulatedEntropy("host"),
        segment_size=DATA_OFFSET + 4096,
    )
    await wal.open()
    for index in range(1, 8):
        await wal.write([entry(1, index, size=900)])
    assert wal.sealed
    disk.inject(DiskFault("/wal*", "sync"))
    begun = {
        "prepare": wal.prepare,
        "write": partial(wal.write, [entry(1, 8)]),
        "release": wal.release,
    }[step]
    with pytest.raises(OSError, match="the log cannot be written: simulated EIO"):
        await begun()
    with pytest.raises(OSError, match="the log cannot be written"):
        await wal.write([entry(1, 8)])


async def test_f09_a_full_disk_refuses_early_and_recovers() -> None:
    disk = SimulatedDisk(capacity=100_000)
    disks = SimulatedDisks(disk, Boot("host"))
    wal = Wal(
        directory=disks.directory(FOLDER, create=True),
        threads=SimulatedThreads(disk),
        entropy=SimulatedEntropy("wal"),
        segment_size=60_000,
    )
    await wal.open()
    await wal.prepare()
    assert wal.is_full
    await wal.write([entry(1, 1)])
    disk.capacity = 10**9
    await wal.prepare()
    assert not wal.is_full
    await wal.close()


async def test_closing_marks_the_end() -> None:
    disk = SimulatedDisk()
    disks = SimulatedDisks(disk, Boot("host"))
    directory = disks.directory(FOLDER, create=True)
    wal = Wal(
        directory=directory,
        threads=SimulatedThreads(disk),
        entropy=SimulatedEntropy("wal"),
        segment_size=60_000,
    )
    await wal.open()
    await wal.write([entry(1, 1)])
    await wal.close()
    before = {path: disk.contents(path) for path in disk.paths()}
    assert check(directory).findings == []
    assert {path: disk.contents(path) for path in disk.paths()} == before
    (segment,) = disk.paths("*/segment-*")
    disk.flip_bit(segment, offset=DATA_OFFSET + 60)
    assert [f.kind for f in check(directory).findings] == ["lost"]


def test_a_mixed_up_file_is_refused() -> None:
    machine = Machine()
    machine.start()
    machine.crash(0)
    directory = SimulatedDisks(machine.disk, Boot("fool")).directory(FOLDER)
    directory.rename("segment-0000000000000001", "segment-0000000000000005")
    with pytest.raises(CorruptData):
        machine.start()


def test_a_tombstone_keeps_the_vote_and_drops_the_log() -> None:
    machine = Machine()
    machine.start()
    machine.write(state(1, 4), entry(1, 1))
    machine.write(tombstone_record(1, HardState(5, A)))
    machine.crash(0)
    found = machine.start().groups[1]
    assert found.is_tombstone
    assert (found.term, found.vote, found.entries) == (5, A, {})


async def test_writes_past_the_page_cache_leave_what_others_leave() -> None:
    """The same records by way of direct files, and read again after the power failed."""
    sizes = [0, 1, 30, 4000, 4096, 9000, 200, 8]
    direct, plain = Machine(), Machine()
    await direct.open()
    plain.start()
    for index, size in enumerate(sizes, 1):
        records = [entry(1, index, size=size), state(2, index)]
        await direct.wal.write(records)
        plain.write(*records)
    assert [direct.disk.contents(path) for path in direct.segments()] == [
        plain.disk.contents(path) for path in plain.segments()
    ]
    direct.crash(1)
    recovered = direct.start()
    assert recovered.findings == []
    assert indexes(recovered, 1) == list(range(1, len(sizes) + 1))


async def test_f11_a_direct_write_that_fails_is_never_tried_again() -> None:
    machine = Machine()
    await machine.open()
    await machine.wal.write([entry(1, 1)])
    machine.disk.inject(DiskFault("*/segment-*", "sync"))
    with pytest.raises(OSError):
        await machine.wal.write([entry(1, 2)])
    with pytest.raises(OSError):
        await machine.wal.write([entry(1, 3)])


async def test_without_direct_files_a_thread_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SimulatedDirectory, "open_direct", lambda _self, _name: None)
    machine = Machine()
    await machine.open()
    await machine.wal.write([entry(1, 1), entry(1, 2)])
    machine.crash(1)
    assert indexes(machine.start(), 1) == [1, 2]
