"""A bounded crowd is worked on; who comes later waits shortly, or is told to slow down."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from objstore.s3.admission import KEPT_S, Admission, Overloaded
from objstore.s3.errors import to_s3_error


async def serve(
    admission: Admission, seconds: float, served: list[int], number: int
) -> None:
    place = await admission.enter()
    try:
        await trio.sleep(seconds)
        served.append(number)
    finally:
        admission.leave(place)


async def test_a_burst_is_served_in_order_a_few_at_a_time(autojump_clock: Any) -> None:
    admission, served = Admission(3), list[int]()
    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(serve, admission, 0.1, served, number)
            await trio.testing.wait_all_tasks_blocked()
        assert (admission.taken, admission.waiting) == (3, 9)
    batches = [sorted(served[n : n + 3]) for n in range(0, 12, 3)]
    assert batches == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert (admission.taken, admission.waiting) == (0, 0)


async def test_who_waits_too_long_or_finds_a_full_queue_is_turned_away(
    autojump_clock: Any,
) -> None:
    admission = Admission(1, queue_max=1, wait_s=1)
    place = await admission.enter()
    refused_s: list[float] = []

    async def ask() -> None:
        began = trio.current_time()
        with pytest.raises(Overloaded):
            await admission.enter()
        refused_s.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask)
    assert refused_s == [pytest.approx(0), pytest.approx(1)]
    admission.leave(place)
    assert (admission.taken, admission.waiting) == (0, 0)


async def test_who_only_waits_for_something_keeps_nobody_out_for_long(
    autojump_clock: Any,
) -> None:
    """F34, F24: slow clients and elections are no overload."""
    admission = Admission(4)
    places = [await admission.enter() for _ in range(4)]
    with pytest.raises(Overloaded):
        await admission.enter()
    await trio.sleep(KEPT_S)
    other = await admission.enter()
    assert admission.taken == 1
    for place in places:
        admission.leave(place)
    assert admission.taken == 1
    admission.leave(other)
    assert admission.taken == 0


async def test_more_than_can_be_served_leaves_the_rest_served_in_time(
    autojump_clock: Any,
) -> None:
    """F46: ten requests a second can be served; a hundred clients ask."""
    admission, machine = Admission(8, wait_s=1), trio.Lock()
    took_s: list[float] = []
    refused = 0

    async def client() -> None:
        nonlocal refused
        while trio.current_time() < 30:
            began = trio.current_time()
            try:
                place = await admission.enter()
            except Overloaded:
                refused += 1
                await trio.sleep(1)
                continue
            async with machine:
                await trio.sleep(0.1)
            admission.leave(place)
            took_s.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(client)
    assert len(took_s) > 290, "as many as can be served are served"
    assert max(took_s) < 2.5
    assert refused > 300
    assert (admission.taken, admission.waiting) == (0, 0)


async def test_who_gives_up_waiting_leaves_no_place_taken(autojump_clock: Any) -> None:
    admission, served = Admission(1), list[int]()
    place = await admission.enter()
    with trio.move_on_after(0.5):
        await admission.enter()
    assert admission.waiting == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, admission, 0.1, served, 1)
        await trio.testing.wait_all_tasks_blocked()
        admission.leave(place)
    assert served == [1]
    assert admission.taken == 0


def test_who_is_turned_away_is_told_to_slow_down_and_when_to_come_again() -> None:
    error = to_s3_error(Overloaded("late"))
    assert (error.status, error.code) == (503, "SlowDown")
    assert dict(error.headers)["Retry-After"] == "1"


async def test_a_free_place_is_had_at_once_unless_somebody_waits_for_one(
    autojump_clock: Any,
) -> None:
    admission = Admission(1, wait_s=10)
    place = admission.enter_now(trio.current_time())
    assert place is not None
    assert admission.enter_now(trio.current_time()) is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, admission, 1, [], 1)
        await trio.testing.wait_all_tasks_blocked()
        admission.leave(place)
        assert admission.enter_now(trio.current_time()) is None, (
            "it is called and has yet to come"
        )
        await trio.sleep(0.5)
        assert admission.enter_now(trio.current_time()) is None, "it is in its place"
    place = admission.enter_now(trio.current_time())
    assert place is not None
    await trio.sleep(KEPT_S + 1)
    assert admission.enter_now(trio.current_time()) is None, (
        "whether a place is kept too long, `enter` sees"
    )
    admission.leave(await admission.enter())
    admission.leave(place)
    assert (admission.taken, admission.waiting) == (0, 0)
