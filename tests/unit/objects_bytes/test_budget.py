"""The memory budget: bounded, in order, with a deadline (F43)."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.objects.budget import WAITERS_MAX, Budget, Overloaded


async def holding(budget: Budget, size: int, name: str, log: list[str], s: float) -> None:
    async with budget.hold(size):
        log.append(name)
        await trio.sleep(s)


async def test_what_fits_does_not_wait() -> None:
    budget = Budget(100)
    async with budget.hold(60), budget.hold(40):
        assert budget.held == 100
    assert budget.held == 0


async def test_large_request_is_not_starved_by_small_ones(autojump_clock) -> None:
    budget = Budget(100, wait_ms=60_000)
    log: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(holding, budget, 50, "first", log, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(holding, budget, 100, "large", log, 1)
        await trio.testing.wait_all_tasks_blocked()
        for n in range(5):
            nursery.start_soon(holding, budget, 10, "small", log, 1)
            await trio.testing.wait_all_tasks_blocked()
        assert log == ["first"]
        assert budget.waiting == 6
    assert log == ["first", "large", *["small"] * 5]


async def test_wait_ends_at_its_deadline_and_those_behind_go_on(autojump_clock) -> None:
    budget = Budget(100, wait_ms=1_000)
    log: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(holding, budget, 60, "first", log, 10)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()

        async def refused() -> None:
            with pytest.raises(Overloaded):
                async with budget.hold(100):
                    pass
            assert trio.current_time() - began == pytest.approx(1)

        nursery.start_soon(refused)
        await trio.sleep(0.5)
        nursery.start_soon(holding, budget, 30, "behind", log, 1)
        await trio.sleep(0.6)
        assert log == ["first", "behind"]
    assert budget.held == 0


async def test_request_larger_than_the_budget_runs_alone() -> None:
    budget = Budget(100)
    async with budget.hold(1000):
        assert budget.held == 100


async def test_cancelled_waiter_leaves_the_queue() -> None:
    budget = Budget(100)
    log: list[str] = []
    async with budget.hold(100), trio.open_nursery() as nursery:
        nursery.start_soon(holding, budget, 50, "never", log, 0)
        await trio.testing.wait_all_tasks_blocked()
        assert budget.waiting == 1
        nursery.cancel_scope.cancel()
    assert (budget.waiting, budget.held, log) == (0, 0, [])


async def test_queue_is_bounded() -> None:
    budget = Budget(1)
    async with budget.hold(1), trio.open_nursery() as nursery:
        for _ in range(WAITERS_MAX):
            nursery.start_soon(holding, budget, 1, "", [], 0)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            async with budget.hold(1):
                pass
        nursery.cancel_scope.cancel()


@given(
    st.lists(
        st.tuples(st.integers(0, 150), st.integers(0, 5), st.integers(0, 9)), max_size=30
    )
)
@settings(max_examples=50, deadline=None)
def test_budget_is_never_exceeded_and_all_is_given_back(
    requests: list[tuple[int, int, int]],
) -> None:
    budget = Budget(100, wait_ms=4_000)

    async def one(size: int, hold_s: int, cancel_s: int) -> None:
        with trio.move_on_after(cancel_s + 0.5):
            try:
                async with budget.hold(size):
                    assert budget.held <= budget.limit
                    await trio.sleep(hold_s)
            except Overloaded:
                pass

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for request in requests:
                nursery.start_soon(one, *request)
        assert budget.held == 0
        assert budget.waiting == 0

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
