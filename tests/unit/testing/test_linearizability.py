"""The checkers, tried on histories of a true register and on ones spoiled by hand."""

from __future__ import annotations

import math
from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.testing.history import History, Kind, Operation
from objstore.testing.linearizability import (
    Verdict,
    check_history,
    check_key,
    search,
    zones,
    zones_apply,
)

INF = math.inf


def op(number, kind, value, called, returned, *, expected=None):
    return Operation(number, f"c{number}", "k", kind, value, expected, called, returned)


def put(number, value, called, returned):
    return op(number, Kind.PUT, value, called, returned)


def get(number, value, called, returned):
    return op(number, Kind.GET, value, called, returned)


def delete(number, called, returned):
    return op(number, Kind.DELETE, None, called, returned)


def true_history(seed, count, clients, *, kinds, unknown=0.05):
    """What clients see of a register that is right: each takes effect at one moment."""
    random = Random(seed)
    free = [0.0] * clients
    moments = []
    for _ in range(count):
        client = random.randrange(clients)
        called = free[client] + random.random()
        returned = called + random.random() * 3
        free[client] = returned
        moments.append((random.uniform(called, returned), called, returned))
    state, operations = None, []
    for number, (_, called, returned) in enumerate(sorted(moments)):
        kind, value, expected = random.choice(kinds), None, None
        if kind == Kind.CAS:
            expected = random.choice((state, -1))
            kind = Kind.CAS if state == expected else Kind.CAS_FAILED
        if kind in {Kind.PUT, Kind.CAS}:
            state = value = number
        elif kind == Kind.DELETE:
            state = None
        elif kind == Kind.GET:
            value = state
        if kind not in {Kind.GET, Kind.CAS_FAILED} and random.random() < unknown:
            returned = INF
        operations.append(op(number, kind, value, called, returned, expected=expected))
    return operations


ALL_KINDS = (Kind.PUT, Kind.PUT, Kind.GET, Kind.GET, Kind.DELETE, Kind.CAS)
SIMPLE_KINDS = (Kind.PUT, Kind.GET)


@pytest.mark.slow
@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_the_history_of_a_true_register_is_found_right(seed, clients):
    operations = true_history(seed, 150, clients, kinds=ALL_KINDS)
    assert search("k", operations).verdict == Verdict.OK
    simple = true_history(seed, 150, clients, kinds=SIMPLE_KINDS)
    assert zones("k", simple).verdict == Verdict.OK
    assert search("k", simple).verdict == Verdict.OK


@pytest.mark.slow
@given(st.integers(0, 10_000), st.integers(0, 1000), st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_both_checkers_agree_on_spoiled_histories(seed, reader, writer):
    operations = true_history(seed, 40, 4, kinds=SIMPLE_KINDS)
    gets = [n for n, o in enumerate(operations) if o.kind == Kind.GET]
    puts = [o for o in operations if o.kind == Kind.PUT]
    if not gets or not puts:
        return
    spoiled = gets[reader % len(gets)]
    value = puts[writer % len(puts)].value
    operations[spoiled] = attrs.evolve(operations[spoiled], value=value)
    assert zones("k", operations).verdict == search("k", operations).verdict


def test_a_stale_read_is_found():
    """P12: return one stale value, the checker must complain."""
    operations = [put(0, "old", 0, 1), put(1, "new", 2, 3), get(2, "old", 4, 5)]
    for checker in (zones, search):
        assert checker("k", operations).verdict == Verdict.VIOLATION


def test_a_dropped_write_that_was_acknowledged_is_found():
    """P12: drop one acknowledged write, the checker must complain."""
    operations = [put(0, "lost", 0, 1), get(1, None, 2, 3)]
    for checker in (zones, search):
        assert checker("k", operations).verdict == Verdict.VIOLATION


def test_a_stale_read_in_a_long_history_is_found():
    operations = true_history(3, 250, 5, kinds=ALL_KINDS)
    gets = [n for n, o in enumerate(operations) if o.kind == Kind.GET]
    middle = gets[len(gets) // 2]
    operations[middle] = attrs.evolve(operations[middle], value=-7)
    finding = search("k", operations)
    assert finding.verdict == Verdict.VIOLATION
    assert len(finding.operations) == 1


def test_a_resurrected_value_is_found():
    """I8."""
    operations = [put(0, "x", 0, 1), delete(1, 2, 3), get(2, None, 4, 5)]
    assert search("k", operations).verdict == Verdict.OK
    operations.append(get(3, "x", 6, 7))
    assert search("k", operations).verdict == Verdict.VIOLATION


def test_two_readers_that_disagree_on_the_order_are_found():
    operations = [put(0, "a", 0, 10), put(1, "b", 0, 10)]
    operations += [get(2, "a", 11, 12), get(3, "b", 13, 14)]
    for checker in (zones, search):
        assert checker("k", operations).verdict == Verdict.VIOLATION


def test_a_value_never_written_is_found():
    for checker in (zones, search):
        assert checker("k", [get(0, "what?", 0, 1)]).verdict == Verdict.VIOLATION


def test_a_value_read_before_it_was_written_is_found():
    operations = [get(0, "x", 0, 1), put(1, "x", 2, 3)]
    for checker in (zones, search):
        assert checker("k", operations).verdict == Verdict.VIOLATION


@pytest.mark.parametrize("seen", [None, "maybe"])
def test_an_unknown_write_may_or_may_not_have_happened(seen):
    operations = [put(0, "maybe", 0, INF), get(1, seen, 5, 6), get(2, seen, 7, 8)]
    for checker in (zones, search):
        assert checker("k", operations).verdict == Verdict.OK


def test_an_unknown_write_happens_late_but_once():
    late = [put(0, "maybe", 0, INF), get(1, None, 1, 2), get(2, "maybe", 3, 4)]
    for checker in (zones, search):
        assert checker("k", late).verdict == Verdict.OK
    undone = [*late, get(3, None, 5, 6)]
    for checker in (zones, search):
        assert checker("k", undone).verdict == Verdict.VIOLATION


def test_concurrent_operations_may_be_in_any_order():
    operations = [put(0, "a", 0, 10), put(1, "b", 0, 10), get(2, "a", 3, 4)]
    operations += [get(3, "b", 5, 6), get(4, "b", 11, 12)]
    for checker in (zones, search):
        assert checker("k", operations).verdict == Verdict.OK


def test_two_winners_of_one_condition_are_found():
    """F39: If-None-Match * has exactly one winner."""
    first = op(0, Kind.CAS, "a", 0, 5, expected=None)
    second = op(1, Kind.CAS, "b", 0, 5, expected=None)
    loser = op(1, Kind.CAS_FAILED, "b", 0, 5, expected=None)
    assert search("k", [first, loser]).verdict == Verdict.OK
    assert search("k", [first, second]).verdict == Verdict.VIOLATION


def test_a_condition_refused_without_cause_is_found():
    operations = [put(0, "a", 0, 1), op(1, Kind.CAS_FAILED, "b", 2, 3, expected="a")]
    assert search("k", operations).verdict == Verdict.VIOLATION


def test_a_search_that_is_too_long_says_so():
    operations = true_history(1, 100, 5, kinds=ALL_KINDS)
    assert search("k", operations, steps_max=10).verdict == Verdict.UNDECIDED


def test_zones_are_used_only_where_they_apply():
    assert zones_apply([put(0, "a", 0, 1), get(1, "a", 2, 3)], None)
    assert not zones_apply([put(0, "a", 0, 1), put(1, "a", 2, 3)], None)
    assert not zones_apply([put(0, "a", 0, 1), delete(1, 2, 3)], None)
    assert not zones_apply([put(0, None, 0, 1)], None)
    again = [put(0, "a", 0, 1), put(1, "b", 2, 3), put(2, "a", 4, 5), get(3, "a", 6, 7)]
    assert check_key("k", again).verdict == Verdict.OK


def test_a_register_may_begin_with_a_value():
    for checker in (zones, search):
        assert checker("k", [get(0, "x", 0, 1)], initial="x").verdict == Verdict.OK


@pytest.mark.slow
def test_a_long_simple_history_is_decided():
    operations = true_history(5, 20_000, 10, kinds=SIMPLE_KINDS)
    assert check_key("k", operations).verdict == Verdict.OK


class Time:
    now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def test_a_history_is_recorded_by_its_calls_and_judged_by_key():
    history = History(Time())
    history.put("alice", "k", "a").returned()
    history.cas("bob", "k", "a", "b").returned()
    history.cas("carol", "k", "a", "c").refused()
    history.get("alice", "k").returned("b")
    history.delete("alice", "k").unknown()
    history.get("bob", "k").unknown()
    history.put("bob", "other", "x").failed()
    history.put("bob", "other", "y").returned()
    history.get("bob", "other").returned("y")
    assert [str(o.kind.value) for o in history.by_key()["k"]] == [
        "put", "cas", "cas_failed", "get", "delete",
    ]  # fmt: skip
    assert history.by_key()["k"][-1].is_unknown
    assert check_history(history) == []
    history.get("bob", "other").returned("x")
    (finding,) = check_history(history)
    assert (finding.key, finding.verdict) == ("other", Verdict.VIOLATION)
    assert "x" in str(finding.operations[0])
