"""Newcomers are turned away while the event loop is late, and only then."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest
import trio

from objstore.s3.errors import to_s3_error
from objstore.s3.overload import HERD_MAX, Overload, Overloaded


def refused(overload: Overload, of: int = 1_000) -> int:
    count = 0
    for _ in range(of):
        try:
            overload.leave(overload.enter())
        except Overloaded:
            count += 1
    return count


def test_a_loop_that_is_always_late_turns_all_away_and_is_forgiven_soon() -> None:
    overload = Overload(Random(1))
    assert refused(overload) == 0
    for _ in range(20):
        overload.note(0.6)
    assert refused(overload) == 1_000
    for _ in range(10):
        overload.note(0.0)
    assert refused(overload) == 0


def test_of_a_herd_only_so_many_are_let_in() -> None:
    overload = Overload(Random(1))
    beats = [overload.enter() for _ in range(HERD_MAX)]
    with pytest.raises(Overloaded):
        overload.enter()
    overload.leave(beats.pop())
    overload.enter()
    with pytest.raises(Overloaded):
        overload.enter()
    overload.note(0.01)  # The loop is in time: they only wait.
    for beat in beats:
        overload.leave(beat)
    assert refused(overload) == 0


def test_between_the_two_a_share_is_turned_away() -> None:
    overload = Overload(Random(1))
    for _ in range(100):
        overload.note(0.3)
    assert 400 < refused(overload) < 600


def test_a_pause_of_the_process_turns_away_nobody_for_long() -> None:
    overload = Overload(Random(1))
    overload.note(30.0)
    for _ in range(3):
        overload.note(0.0)
    assert refused(overload) == 0


def test_who_is_turned_away_is_told_to_slow_down_and_when_to_come_again() -> None:
    error = to_s3_error(Overloaded("late"))
    assert (error.status, error.code) == (503, "SlowDown")
    assert dict(error.headers)["Retry-After"] == "1"


@pytest.mark.slow
async def test_tasks_that_hold_the_loop_are_felt_and_tasks_that_wait_are_not() -> None:
    overload = Overload(Random(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overload.run)
        for _ in range(1_000):
            nursery.start_soon(trio.sleep_forever)
        await trio.sleep(0.2)
        assert overload.lag_s < 0.15
        for _ in range(4):
            time.sleep(0.3)
            await trio.sleep(0)
        assert overload.lag_s > 0.15
        nursery.cancel_scope.cancel()


async def test_on_virtual_time_nothing_is_late(autojump_clock: Any) -> None:
    overload = Overload(Random(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overload.run)
        await trio.sleep(60)
        assert overload.lag_s == pytest.approx(0, abs=1e-6)
        nursery.cancel_scope.cancel()
