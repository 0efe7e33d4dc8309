"""Deadlines: found in order, never early, at most one tick late."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st

from objstore.rpc.connection import Alarm
from objstore.rpc.deadlines import TICK_MS, Deadlines
from objstore.testing.simulation import run_simulation, until


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


def test_the_alarm_rings_at_every_tick_in_the_moment_it_waited_for() -> None:
    rung: list[tuple[int, float]] = []

    async def program() -> None:
        alarm: Alarm[int] = Alarm()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarm.run, lambda key: rung.append((key, now())))
            for tick in range(1, 1200):  # 1,005 is at 16.08 s, no whole number of ms.
                alarm.add((tick * TICK_MS - 8) / 1000, tick)
            await until(lambda: len(rung) == 1199)
            nursery.cancel_scope.cancel()

    now = trio.current_time
    run_simulation(1, program)
    assert rung == [(tick, tick * TICK_MS / 1000) for tick in range(1, 1200)]
