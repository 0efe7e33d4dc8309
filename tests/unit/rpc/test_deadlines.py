"""Deadlines: found in order, never early, at most one tick late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from objstore.rpc.deadlines import TICK_MS, Deadlines


@given(st.lists(st.integers(0, 5000), max_size=30), st.data())
def test_each_deadline_is_found_once_within_a_tick(
    times: list[int], data: st.DataObject
) -> None:
    deadlines: Deadlines[int] = Deadlines()
    buckets = {key: deadlines.add(at, key) for key, at in enumerate(times)}
    dropped = {key for key in buckets if data.draw(st.booleans())}
    for key in dropped:
        deadlines.discard(buckets[key], key)
        deadlines.discard(buckets[key], key)
    assert len(deadlines) == len(times) - len(dropped)
    found = []
    now = 0
    while (next_ms := deadlines.next_ms()) is not None:
        now = max(now, next_ms)
        for key in deadlines.expired(now):
            assert times[key] <= now <= times[key] + TICK_MS
            found.append(key)
    assert sorted(found) == sorted(set(buckets) - dropped)
