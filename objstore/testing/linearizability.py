"""Whether a history is linearizable: could one register per key have given its answers?

Two checkers.  `zones` decides in O(n log n) where every written value is unique and
nothing is conditional or deleted.  `search` decides everything, and may take too long for
a long history that is wrong: keep keys below some 300 operations.

zones (Gibbons and Korach 1997, section 4).  All that touched one value spans a zone from
the first return to the last call.  Forward zones (first return before last call) are
times in which the value surely was the register's, so two must not overlap; a backward
zone fits anywhere between its ends, so it must not lie inside a forward one.

search (Wing and Gong 1993, with Lowe's cache of visited states, 2017).  Calls and returns
are entries of one list in order of time.  Take any call before the first return as the
next to take effect, and go on without it; where a return is met whose call was not taken,
go back.  An unknown outcome has no return: it may be taken at any time, or never.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterable
from enum import Enum

import attrs

from objstore.testing.history import History, Kind, Operation, Value

# Steps of `search` for one key, about ten seconds: a count, so that a verdict does not
# depend on how busy the machine is.
STEPS_MAX = 5_000_000


class Verdict(Enum):
    OK = "ok"
    VIOLATION = "violation"
    UNDECIDED = "undecided"  # To be treated as a failure to look at.


@attrs.frozen
class Finding:
    """The verdict on one key."""

    key: str
    verdict: Verdict
    reason: str = ""
    operations: tuple[Operation, ...] = ()  # Those that the reason speaks of.


def check_history(history: History, *, initial: Value = None) -> list[Finding]:
    """One finding a key that is not OK; nothing where all is well."""
    findings = [
        check_key(key, operations, initial=initial)
        for key, operations in sorted(history.by_key().items())
    ]
    return [finding for finding in findings if finding.verdict != Verdict.OK]


def check_key(
    key: str, operations: Iterable[Operation], *, initial: Value = None
) -> Finding:
    """The verdict on the operations of one key, by the cheapest checker that decides."""
    known = list(operations)
    if zones_apply(known, initial):
        return zones(key, known, initial=initial)
    return search(key, known, initial=initial)


def zones_apply(operations: list[Operation], initial: Value) -> bool:
    """Whether there are only puts of unique values, and gets."""
    written = Counter(op.value for op in operations if op.kind == Kind.PUT)
    simple = all(op.kind in {Kind.PUT, Kind.GET} for op in operations)
    return simple and initial not in written and all(n == 1 for n in written.values())


@attrs.frozen
class _Zone:
    first_return: float
    last_call: float
    operations: tuple[Operation, ...]

    @property
    def is_forward(self) -> bool:
        return self.first_return < self.last_call


def zones(key: str, operations: list[Operation], *, initial: Value = None) -> Finding:
    """Check by zones.  The history must be one that they apply to."""
    puts = {op.value: op for op in operations if op.kind == Kind.PUT}
    gets: dict[Value, list[Operation]] = {}
    for op in operations:
        if op.kind == Kind.GET:
            gets.setdefault(op.value, []).append(op)
            if op.value not in puts and op.value != initial:
                return _violation(key, "a value was read that nobody wrote", op)
    found: list[_Zone] = []
    for value in [initial, *puts]:
        put, readers = puts.get(value), gets.get(value, [])
        if put is not None and put.is_unknown and not readers:
            continue  # It may never have happened.
        called = -math.inf if put is None else put.called
        returned = -math.inf if put is None else put.returned
        for get in readers:
            if get.returned < called:
                assert put is not None
                return _violation(key, "a value was read before it was written", put, get)
        touched = tuple(readers) if put is None else (put, *readers)
        first_return = min([returned, *(get.returned for get in readers)])
        last_call = max([called, *(get.called for get in readers)])
        found.append(_Zone(first_return, last_call, touched))
    return _check_zones(key, found)


def _check_zones(key: str, found: list[_Zone]) -> Finding:
    forward = sorted((z for z in found if z.is_forward), key=lambda z: z.first_return)
    for left, right in itertools.pairwise(forward):
        if right.first_return < left.last_call:
            reason = "two values each held before and after the other"
            return _violation(key, reason, *left.operations, *right.operations)
    starts = [zone.first_return for zone in forward]
    for zone in found:
        if zone.is_forward:
            continue
        place = bisect.bisect_left(starts, zone.last_call) - 1
        if place >= 0 and zone.first_return < forward[place].last_call:
            reason = "a value was written while another held throughout"
            around = forward[place].operations
            return _violation(key, reason, *zone.operations, *around)
    return Finding(key, Verdict.OK)


class _Entry:
    """A call or a return, in a doubly linked list in order of time."""

    __slots__ = ("following", "is_call", "match", "operation", "place", "previous")

    def __init__(self, operation: Operation | None, place: int, *, is_call: bool) -> None:
        self.operation = operation
        self.place = place  # The bit of the operation in the set of those taken.
        self.is_call = is_call
        self.match: _Entry | None = None  # A call's return; None: unknown outcome.
        self.previous: _Entry | None = None
        self.following: _Entry | None = None

    def unlink(self) -> None:
        """Take a call and its return out of the list."""
        for entry in (self, self.match):
            if entry is not None:
                assert entry.previous is not None
                entry.previous.following = entry.following
                if entry.following is not None:
                    entry.following.previous = entry.previous

    def relink(self) -> None:
        """Put them back: the reverse of the last `unlink` not yet undone."""
        for entry in (self.match, self):
            if entry is not None:
                assert entry.previous is not None
                entry.previous.following = entry
                if entry.following is not None:
                    entry.following.previous = entry


def search(
    key: str,
    operations: list[Operation],
    *,
    initial: Value = None,
    steps_max: int = STEPS_MAX,
) -> Finding:
    """Check by search."""
    head = _entries(operations)
    missing = sum(not op.is_unknown for op in operations)  # Known, and not yet taken.
    state, taken = initial, 0
    visited: set[tuple[int, Value]] = set()
    stack: list[tuple[_Entry, Value]] = []
    entry = head.following
    deepest: tuple[int, Operation | None] = (-1, None)
    for _ in range(steps_max):
        if not missing:
            return Finding(key, Verdict.OK)
        if entry is not None and entry.is_call:
            assert entry.operation is not None
            possible, after = _step(state, entry.operation)
            taking = taken | 1 << entry.place
            if possible and (taking, after) not in visited:
                visited.add((taking, after))
                stack.append((entry, state))
                state, taken = after, taking
                entry.unlink()
                missing -= not entry.operation.is_unknown
                entry = head.following
            else:
                entry = entry.following
            continue
        # A return whose call could not be taken, or the end: go back.
        if entry is not None and len(stack) > deepest[0]:
            deepest = (len(stack), entry.operation)
        if not stack:
            stuck = () if deepest[1] is None else (deepest[1],)
            return _violation(key, "no order explains what was answered", *stuck)
        entry, state = stack.pop()
        assert entry.operation is not None
        taken &= ~(1 << entry.place)
        entry.relink()
        missing += not entry.operation.is_unknown
        entry = entry.following
    return Finding(key, Verdict.UNDECIDED, f"gave up after {steps_max} steps")


def _entries(operations: list[Operation]) -> _Entry:
    """The list's head, before the first entry."""
    # At equal times calls come first: the operations overlap, which allows more orders.
    events: list[tuple[float, int, int]] = []
    for place, operation in enumerate(operations):
        events.append((operation.called, 0, place))
        if not operation.is_unknown:
            events.append((operation.returned, 1, place))
    head = last = _Entry(None, -1, is_call=False)
    calls: dict[int, _Entry] = {}
    for _, is_return, place in sorted(events):
        entry = _Entry(operations[place], place, is_call=not is_return)
        entry.previous, last.following = last, entry
        last = entry
        if is_return:
            calls[place].match = entry
        else:
            calls[place] = entry
    return head


def _step(state: Value, operation: Operation) -> tuple[bool, Value]:
    """Whether the register can do it in `state`, and its state afterwards."""
    match operation.kind:
        case Kind.PUT:
            return True, operation.value
        case Kind.DELETE:
            return True, None
        case Kind.GET:
            return state == operation.value, state
        case Kind.CAS:
            return state == operation.expected, operation.value
        case Kind.CAS_FAILED:
            return state != operation.expected, state


def _violation(key: str, reason: str, *operations: Operation) -> Finding:
    return Finding(key, Verdict.VIOLATION, reason, operations)
