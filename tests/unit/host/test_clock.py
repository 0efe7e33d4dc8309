"""Moments that loops have in common."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from objstore.host.clock import next_beat_s


async def test_loops_that_look_as_often_wake_in_one_moment(
    autojump_clock: MockClock,
) -> None:
    woken: list[float] = []

    async def look() -> None:
        for _ in range(3):
            await trio.sleep_until(next_beat_s(2.0))
            woken.append(trio.current_time())

    await trio.sleep(1.3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.sleep(0.4)
        nursery.start_soon(look)
    assert woken == [2.0, 2.0, 4.0, 4.0, 6.0, 6.0]
