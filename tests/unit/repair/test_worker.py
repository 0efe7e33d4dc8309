"""The loop of workers: errors are told and survived, faults of the own store are not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import trio
from structlog.testing import capture_logs

from objstore.errors import Unavailable
from objstore.meta.schema import CorruptRow
from objstore.repair.worker import WorkerState, run_worker, within

from .nodes import repairs


class Scripted:
    """Does what it is told, once each, then sleeps for ever."""

    def __init__(self, *steps: Callable[[], WorkerState]) -> None:
        self.steps = list(steps)
        self.rounds: list[float] = []

    async def work_once(self) -> WorkerState:
        await trio.lowlevel.checkpoint()
        self.rounds.append(trio.current_time())
        if not self.steps:
            await trio.sleep_forever()
        return self.steps.pop(0)()


def raising(error: Exception) -> Callable[[], WorkerState]:
    def step() -> WorkerState:
        raise error

    return step


async def run(worker: Scripted, *, for_s: float = 1000) -> list[dict[str, object]]:
    with capture_logs() as logs, trio.move_on_after(for_s):
        await run_worker(worker, interval_ms=1000, random=Random(1))
    return [dict(entry) for entry in logs]


async def test_a_busy_worker_goes_on_at_once_and_an_idle_one_rests(
    autojump_clock: object,
) -> None:
    worker = Scripted(lambda: WorkerState.BUSY, lambda: WorkerState.IDLE)
    await run(worker)
    first, second, third = worker.rounds
    assert second - first < 0.01
    assert 0.5 <= third - second <= 1.5


async def test_errors_and_bugs_are_told_and_the_loop_goes_on(
    autojump_clock: object,
) -> None:
    worker = Scripted(raising(Unavailable("no leader")), raising(AssertionError("a bug")))
    logs = await run(worker)
    assert [entry["event"] for entry in logs] == [
        "repair.round_failed",
        "repair.worker_failed",
    ]
    assert len(worker.rounds) == 3


async def test_errors_from_a_nursery_are_told_likewise(autojump_clock: object) -> None:
    worker = Scripted(raising(ExceptionGroup("", [ExceptionGroup("", [ValueError("x")])])))
    (entry,) = await run(worker)
    assert entry["reason"] == "x"


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), CorruptRow(b"k", "rotten")])
async def test_a_fault_of_the_own_store_ends_the_process(
    autojump_clock: object, error: Exception
) -> None:
    """F11: nobody here may go on with a store that cannot be trusted."""
    with pytest.raises(BaseExceptionGroup) as caught:
        await run(Scripted(raising(error)))
    assert caught.group_contains(type(error))


async def test_looking_for_long_in_vain_is_followed_by_a_longer_rest(
    autojump_clock: object,
) -> None:
    class Slow(Scripted):
        async def work_once(self) -> WorkerState:
            state = await super().work_once()
            await trio.sleep(10)
            return state

    worker = Slow(lambda: WorkerState.IDLE)
    await run(worker)
    first, second = worker.rounds
    assert second - first >= 10 + 45


async def test_a_step_that_hangs_is_given_up(autojump_clock: object) -> None:
    async with repairs(1) as r:
        with pytest.raises(Unavailable) as caught:
            await within(r.mender.chunks, trio.sleep_forever, what="it")
        assert caught.value.unknown
