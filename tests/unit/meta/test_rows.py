"""Changes over a base: read back at once, undone together, sealed when a command ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.ids import BucketId, NodeId, Slot
from objstore.meta import local, payloads, schema
from objstore.meta.commands import PurgeStep
from objstore.meta.rows import StagedRows
from objstore.meta.work import Count, Work
from objstore.raft.state_machine import Membership
from tests.unit.meta.builders import BUCKET, SLOT, MemoryRows

PREFIX = schema.table_prefix(SLOT, schema.Table.SETTING)
START, END = PREFIX + b"b", PREFIX + b"d"

keys = st.sampled_from([PREFIX + name for name in (b"a", b"b", b"c", b"cc", b"d")])
changes = st.dictionaries(keys, st.none() | st.binary(max_size=3), max_size=5)


def changed(rows: StagedRows, change: dict[bytes, bytes | None]) -> None:
    for key, payload in change.items():
        if payload is None:
            rows.delete(key)
        else:
            rows.put(key, payload)


@given(changes, changes, changes, st.booleans())
def test_staged_rows_are_read_as_if_they_were_in_the_base(
    first: dict[bytes, bytes | None],
    second: dict[bytes, bytes | None],
    third: dict[bytes, bytes | None],
    is_undone: bool,
) -> None:
    base, model = MemoryRows(), {}
    below = StagedRows(base)
    changed(below, first)
    below.commit(b"")
    base.take(below.changes)
    rows = StagedRows(base)
    changed(rows, second)
    rows.commit(b"")
    changed(rows, third)
    if is_undone:
        rows.rollback()
    for change in (first, second, {} if is_undone else third):
        model.update(change)
    expected = {key: payload for key, payload in model.items() if payload is not None}
    assert {key: rows.get(key) for key in model} == model
    within = sorted((k, p) for k, p in expected.items() if START <= k < END)
    assert list(rows.scan(START, END)) == within
    rows.commit(b"")
    base.take(rows.changes)
    assert {key: base.get(key) for key in expected} == expected
    assert len(base.rows) == len(expected)


def test_a_commands_part_of_the_running_hash_is_what_it_changed() -> None:
    def chain_of(*rounds: dict[bytes, bytes | None], before: bytes = b"before") -> bytes:
        rows, chain = StagedRows(MemoryRows()), before
        for change in rounds:
            changed(rows, change)
            chain = rows.commit(chain)
        return chain

    key, other = PREFIX + b"a", PREFIX + b"b"
    plain = chain_of({key: b"1"})
    assert chain_of({key: b"1"}) == plain
    unlike = [
        chain_of({key: b"2"}),
        chain_of({other: b"1"}),
        chain_of({key: None}),
        chain_of({}),
        chain_of({key: b"1"}, before=b"other"),
        chain_of({key: b"1"}, {}),
        chain_of({key: b"1"}, {key: b"1"}),
        chain_of({key: b"1", other: b"1"}),
    ]
    assert len({plain, *unlike}) == 1 + len(unlike)


def test_what_was_undone_is_in_no_hash() -> None:
    rows = StagedRows(MemoryRows())
    rows.put(PREFIX, b"1")
    rows.rollback()
    assert rows.commit(b"before") == StagedRows(MemoryRows()).commit(b"before")
    assert rows.changes == {}


# ---- counters -------------------------------------------------------------------------


def working(rows: StagedRows) -> Work:
    return Work(rows, PurgeStep(SLOT), 1, 1, 1)


def test_counters_are_written_once_and_only_where_they_changed() -> None:
    rows = StagedRows(MemoryRows())
    key = schema.counters_key(SLOT, BUCKET)
    rows.put(key, payloads.pack_usage([0] * len(Count)))
    rows.commit(b"")
    rows.changes.clear()
    rows.put(key, payloads.pack_usage([1, 2, 3, 4, 5, 6]))
    work = working(rows)
    work.count(BUCKET, objects=1, versions=2, size=3)
    work.count(BUCKET, uploads=-4, below=(1, -1))
    assert work.usage(BUCKET) == [2, 4, 6, 0, 6, 5]
    work.finish()
    assert rows.get(key) == payloads.pack_usage([2, 4, 6, 0, 6, 5])
    before = rows.commit(b"")
    work = working(rows)
    work.count(BUCKET, objects=1)
    work.count(BUCKET, objects=-1)
    work.finish()
    assert rows.commit(before) == StagedRows(MemoryRows()).commit(before)


def test_nothing_is_counted_for_a_bucket_that_was_dropped() -> None:
    rows = StagedRows(MemoryRows())
    work = working(rows)
    work.count(BucketId(99), objects=1)
    work.finish()
    rows.commit(b"")
    assert rows.changes == {}


def test_a_counter_that_would_fall_below_0_is_a_bug() -> None:
    rows = StagedRows(MemoryRows())
    rows.put(schema.counters_key(SLOT, BUCKET), payloads.pack_usage([0] * len(Count)))
    work = working(rows)
    work.count(BUCKET, size=-1)
    with pytest.raises(AssertionError, match="below 0"):
        work.finish()


# ---- a node's own rows ----------------------------------------------------------------


def test_how_far_a_replica_is_is_read_back() -> None:
    members = Membership((NodeId("a" * 16), NodeId("b" * 16)), (NodeId("c" * 16),), ())
    progress = local.Progress(1 << 40, 7, members, 1 << 41, bytes(range(16)))
    packed = local.pack_progress(progress, local.pack_members(members))
    assert local.unpack_progress(packed) == progress
    assert local.slot_of_key(local.slot_key(Slot(5))) == 5
