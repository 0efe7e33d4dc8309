from __future__ import annotations

import errno
import threading

import pytest
import trio
import trio.testing

from objstore.host.real_threads import RealThreads, RealWorker
from objstore.limits import POOL_THREADS_MAX

DEADLINE_S = 10


@pytest.fixture
def worker():
    worker = RealWorker("test")
    yield worker
    worker.close()


@pytest.fixture(params=["pool", "worker"])
def threads(request, worker):
    return worker if request.param == "worker" else RealThreads()


async def until(event):
    """Wait for a threading.Event without blocking the loop."""
    with trio.fail_after(DEADLINE_S):
        while not event.is_set():
            await trio.sleep(0)


async def test_work_is_done_on_another_thread(threads):
    assert await threads.run(threading.get_ident) != threading.get_ident()


async def test_a_started_call_is_waited_for_though_its_caller_is_cancelled(threads):
    started, finish, finished = (threading.Event() for _ in range(3))
    outcomes = []

    def work():
        started.set()
        finish.wait(DEADLINE_S)
        finished.set()

    async def caller():
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await threads.run(work)
        outcomes.append((scope.cancelled_caught, finished.is_set()))

    scopes = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await until(started)
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == []
        finish.set()
    assert outcomes == [(True, True)]


async def test_an_error_is_not_lost_to_a_cancellation(threads):
    """F11: an fdatasync that failed must be heard of."""
    started, finish = threading.Event(), threading.Event()

    def work():
        started.set()
        finish.wait(DEADLINE_S)
        raise OSError(errno.EIO, "Input/output error")

    async def caller():
        with scope, pytest.raises(OSError):
            await threads.run(work)

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await until(started)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        finish.set()


async def test_a_call_still_queued_is_withdrawn_by_its_cancellation(worker):
    started, finish = threading.Event(), threading.Event()
    ran = []

    def work():
        started.set()
        finish.wait(DEADLINE_S)

    async def queued():
        with scope:
            await worker.run(ran.append, "cancelled")

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, work)
        await until(started)
        nursery.start_soon(queued)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught  # While the thread was still busy.
        finish.set()
    assert await worker.run(len, ran) == 0


async def test_calls_queued_before_a_close_are_still_run(worker):
    ran = []
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(worker.run, ran.append, number)
        await trio.testing.wait_all_tasks_blocked()
        worker.close()
    assert sorted(ran) == list(range(20))
    worker._threads[0].join(DEADLINE_S)
    assert not worker._threads[0].is_alive()


async def test_completions_that_queue_up_wake_the_loop_once(worker, monkeypatch):
    wakes = []
    token = trio.lowlevel.current_trio_token()
    first, finish = threading.Event(), threading.Event()
    original = RealWorker._wake_callers

    def counted(self):
        wakes.append(len(self._done))
        original(self)

    monkeypatch.setattr(RealWorker, "_wake_callers", counted)

    def hold():
        first.set()
        finish.wait(DEADLINE_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, hold)
        await until(first)
        for _ in range(50):
            nursery.start_soon(worker.run, len, b"")
        await trio.testing.wait_all_tasks_blocked()
        finish.set()
        # The loop is busy until the thread has done all of them.
        for _ in range(1000):
            if worker._calls.empty() and len(worker._done) == 51:
                break
            threading.Event().wait(0.005)
    assert token is worker._token
    assert wakes[0] == 51


def test_a_worker_serves_one_loop_after_another(worker):
    for _ in range(2):
        assert trio.run(worker.run, len, b"abc") == 3


async def test_the_pool_is_bounded():
    threads = RealThreads()
    running, highest, lock, finish = 0, 0, threading.Lock(), threading.Event()

    def work():
        nonlocal running, highest
        with lock:
            running += 1
            highest = max(highest, running)
        finish.wait(DEADLINE_S)
        with lock:
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(POOL_THREADS_MAX * 2):
            nursery.start_soon(threads.run, work)
        with trio.fail_after(DEADLINE_S):
            while running < POOL_THREADS_MAX:
                await trio.sleep(0.001)
        finish.set()
    assert highest == POOL_THREADS_MAX
