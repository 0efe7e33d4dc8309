"""One request's calls share its patience."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from objstore.objects import patience


async def call(wanted_s: float, *, limit_ms: int = 10_000) -> float:
    """A call that takes what it wants, or as long as it may: seconds."""
    began = trio.current_time()
    with patience.waiting(limit_ms) as timeout_ms:
        with trio.move_on_after(timeout_ms / 1000):
            await trio.sleep(wanted_s)
    return trio.current_time() - began


async def test_what_one_call_waited_the_next_has_not(autojump_clock: Any) -> None:
    patience.begin(8_000)
    assert await call(3) == pytest.approx(3)
    assert await call(60) == pytest.approx(5)
    assert await call(60) == pytest.approx(0.001, abs=0.01)


async def test_calls_at_once_count_once(autojump_clock: Any) -> None:
    patience.begin(8_000)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(call, 3)
    assert await call(60) == pytest.approx(5)


async def test_many_quick_calls_cost_nothing(autojump_clock: Any) -> None:
    patience.begin(8_000)
    for _ in range(10_000):
        await call(0.05)
    assert await call(60) == pytest.approx(8)


async def test_a_request_that_lives_long_gets_its_patience_back(
    autojump_clock: Any,
) -> None:
    patience.begin(8_000)
    await call(60)
    await trio.sleep(40)
    assert await call(60) == pytest.approx(4)
    await trio.sleep(1_000)
    assert await call(60) == pytest.approx(8)


async def test_what_a_request_waited_for_otherwise_leaves_a_third_of_it(
    autojump_clock: Any,
) -> None:
    patience.begin(6_000)
    began = trio.current_time()
    await trio.sleep(2)
    patience.count(began)
    assert await call(1) == pytest.approx(1)
    began = trio.current_time()
    await trio.sleep(30)
    patience.count(began)
    assert await call(60) == pytest.approx(2)


async def test_what_was_spent_on_metadata_does_not_come_back_by_another_wait(
    autojump_clock: Any,
) -> None:
    patience.begin(6_000)
    await call(5)
    began = trio.current_time()
    await trio.sleep(1)
    patience.count(began)
    assert await call(60) == pytest.approx(1.1)


async def test_one_call_gets_no_more_than_its_own_limit(autojump_clock: Any) -> None:
    patience.begin(8_000)
    assert await call(60, limit_ms=2_000) == pytest.approx(2)


async def test_who_serves_no_client_has_only_its_calls_limits(autojump_clock: Any) -> None:
    patience._current.set(None)
    for _ in range(3):
        assert await call(60, limit_ms=5_000) == pytest.approx(5)


async def test_who_serves_no_client_has_the_deadlines_around_it(
    autojump_clock: Any,
) -> None:
    patience._current.set(None)
    with trio.fail_after(3):
        with patience.waiting(5_000) as timeout_ms:
            assert timeout_ms == pytest.approx(3_000, abs=1)
        with patience.waiting(2_000) as timeout_ms:
            assert timeout_ms == 2_000
    with trio.CancelScope() as scope:
        scope.cancel()
        with patience.waiting(5_000) as timeout_ms:
            assert timeout_ms == 1
