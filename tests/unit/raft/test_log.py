"""The tail in memory: matching, cutting, compacting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.raft.log import Log
from objstore.raft.state_machine import Entry, EntryKind

terms = st.lists(st.integers(1, 4), max_size=12).map(sorted)


def entries(terms: list[int], *, after: int = 0) -> list[Entry]:
    return [
        Entry(index, term, EntryKind.COMMAND, b"%d/%d" % (index, term))
        for index, term in enumerate(terms, after + 1)
    ]


def log_of(terms: list[int], *, offset: int = 0, offset_term: int = 0) -> Log:
    return Log(offset=offset, offset_term=offset_term, entries=entries(terms, after=offset))


def terms_of(log: Log) -> list[int | None]:
    return [log.term(index) for index in range(log.offset + 1, log.last_index + 1)]


def check(log: Log) -> None:
    assert log.offset <= log.applied <= log.committed <= log.last_index
    assert log.stable <= log.saved <= log.last_index
    assert log.size == sum(
        len(log.entry(i).data) + 200 for i in range(log.offset + 1, log.last_index + 1)
    )


@given(terms, terms, st.integers(0, 12), st.integers(0, 12))
def test_merging_makes_the_log_the_leaders_and_loses_nothing_that_agrees(
    own: list[int], leaders: list[int], start: int, count: int
) -> None:
    """5.3: only an entry that conflicts, and all that follow it, are deleted."""
    log = log_of(own)
    start = min(start, len(leaders))
    sent = entries(leaders)[start : start + count]
    prev_term = leaders[start - 1] if start else 0
    agreed = log.merge(start, prev_term, sent)
    check(log)
    fits = start <= len(own) and (start == 0 or own[start - 1] == prev_term)
    if not fits:
        assert agreed is None
        assert terms_of(log) == own
        return
    assert agreed == start + len(sent)
    end = start + len(sent)
    assert terms_of(log)[start:end] == leaders[start:end]
    conflict = own[start:end] != leaders[start : start + len(own[start:end])]
    if conflict:
        assert log.last_index == end
        assert log.cut is not None
    else:
        assert terms_of(log)[end:] == own[end:]
        assert log.cut is None


def test_a_committed_entry_is_never_replaced() -> None:
    log = log_of([1, 1, 1])
    log.commit_to(2)
    with pytest.raises(AssertionError):
        log.merge(1, 1, entries([2], after=1))


@given(terms.filter(bool), st.data())
def test_compacting_forgets_the_start_and_keeps_its_term(
    own: list[int], data: st.DataObject
) -> None:
    log = log_of(own)
    log.commit_to(len(own))
    log.apply_to(data.draw(st.integers(0, len(own))))
    point = data.draw(st.integers(0, log.applied))
    log.compact(point)
    check(log)
    assert log.offset == point
    assert log.term(point) == (own[point - 1] if point else 0)
    assert log.term(point - 1) is None
    assert terms_of(log) == own[point:]
    assert log.last_index == len(own)


@given(terms, st.integers(0, 14), st.integers(0, 5))
def test_a_hint_is_the_highest_place_that_may_agree(
    own: list[int], index: int, term: int
) -> None:
    log = log_of(own)
    hint, hint_term = log.conflict_hint(index, term)
    candidates = [i for i in range(1, min(index, len(own)) + 1) if own[i - 1] <= term]
    assert hint == max(candidates, default=0)
    assert hint_term == (own[hint - 1] if hint else 0)


def test_slices_are_bounded_but_never_empty() -> None:
    log = log_of([1] * 10)
    size = len(log.entry(1).data)
    assert len(log.slice(1, 10, entries_max=4, size_max=10**6)) == 4
    assert len(log.slice(1, 10, entries_max=100, size_max=2 * size)) == 2
    assert len(log.slice(1, 10, entries_max=100, size_max=0)) == 1
    assert [e.index for e in log.slice(3, 5, entries_max=100, size_max=10**6)] == [3, 4, 5]


def test_what_was_handed_over_is_told_from_what_is_durable() -> None:
    log = log_of([1, 1])
    log.append(entries([2, 2], after=2))
    assert [entry.index for entry in log.unsaved()] == [3, 4]
    assert log.stable == 2
    log.saved = 4
    log.stable = 3
    log.merge(2, 1, entries([3], after=2))
    assert (log.stable, log.saved, log.cut) == (2, 2, 3)
    assert [entry.index for entry in log.unsaved()] == [3]


def test_a_snapshot_of_our_own_history_keeps_what_follows() -> None:
    log = log_of([1, 1, 2, 2])
    log.reset(3, 2)
    check(log)
    assert (log.applied, log.committed, log.last_index, log.cut) == (3, 3, 4, None)


def test_a_snapshot_of_another_history_replaces_the_log() -> None:
    log = log_of([1, 1, 2, 2])
    log.reset(3, 4)
    check(log)
    assert (log.applied, log.last_index, log.last_term, log.cut) == (3, 3, 4, 1)


def test_compaction_points_leave_a_tail() -> None:
    log = log_of([1] * 100)
    assert log.compaction_point(90, entries_kept=10, size_kept=10**9) == 80
    assert log.compaction_point(90, entries_kept=1000, size_kept=10**9) == 0
    per_entry = len(log.entry(50).data) + 200
    assert log.compaction_point(90, entries_kept=1000, size_kept=5 * per_entry) == 85
