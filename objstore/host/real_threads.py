"""Blocking work on threads: a bounded pool, and workers with a thread of their own.

Both cost about two thirds of a hand-over by `trio.to_thread`, because threads and queue
are already there, and because calls that end together wake the event loop once:

    caller's task     queue.put(call) ; sleeps
    a thread          runs calls in order ; done.append(call) ; one run_sync_soon
    event loop        wakes the callers of all that is in `done` by then

Cancellation, for both: a call that no thread has begun is withdrawn; one that has begun
is waited for, then Cancelled is raised and its result dropped.  An error raised by the
function is never dropped for a cancellation: an fdatasync that failed must be heard of.
Context variables are not carried into a thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import attrs
import outcome
import trio

from objstore.limits import POOL_THREADS_MAX

T = TypeVar("T")


@attrs.define(eq=False)
class _Call:
    """One call and its waiting task."""

    function: Callable[..., object]
    args: tuple[object, ...]
    task: trio.lowlevel.Task
    # Taken by the thread that runs the call or by the task that withdraws it.
    claim: threading.Lock = attrs.field(factory=threading.Lock)
    outcome: outcome.Outcome[Any] | None = None

    def withdraw(self, _: object) -> trio.lowlevel.Abort:
        if self.claim.acquire(blocking=False):
            return trio.lowlevel.Abort.SUCCEEDED
        return trio.lowlevel.Abort.FAILED


class RealWorker:
    """One thread that runs calls in the order they were made, or several.

    threads_max: with more than one, calls run side by side; a thread is started when
    there are more calls than threads, and kept.
    """

    def __init__(self, name: str, *, threads_max: int = 1) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()  # None: the end.
        self._done: deque[_Call] = deque()
        self._waking = False  # A wake-up of the event loop is on its way.
        self._token: trio.lowlevel.TrioToken | None = None
        self._closed = False
        self._name = name
        self._threads_max = threads_max
        self._threads: list[threading.Thread] = []
        self._waiting = 0  # Calls whose callers wait.

    async def run(self, function: Callable[..., T], *args: object) -> T:
        if self._closed:
            raise trio.ClosedResourceError("the worker is closed")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._token = trio.lowlevel.current_trio_token()
        call = _Call(function, args, trio.lowlevel.current_task())
        if len(self._threads) < min(self._waiting + 1, self._threads_max):
            self._start_thread()
        self._waiting += 1
        self._calls.put(call)
        try:
            result: T = await trio.lowlevel.wait_task_rescheduled(call.withdraw)
        finally:
            self._waiting -= 1
        await trio.lowlevel.checkpoint_if_cancelled()
        return result

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._calls.put(None)

    def _start_thread(self) -> None:
        # Daemon: a process that fails on its way out does not hang on an idle thread.
        thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            if not call.claim.acquire(blocking=False):
                continue  # Withdrawn.
            call.outcome = outcome.capture(call.function, *call.args)
            self._done.append(call)
            # Set before the loop empties `done`, and cleared by the loop before it does:
            # a call is either seen by that pass, or finds the flag cleared.
            if not self._waking:
                self._waking = True
                assert self._token is not None
                self._token.run_sync_soon(self._wake_callers)
            del call

    def _wake_callers(self) -> None:
        self._waking = False
        while self._done:
            call = self._done.popleft()
            assert call.outcome is not None
            trio.lowlevel.reschedule(call.task, call.outcome)


class RealThreads:
    """A pool of at most POOL_THREADS_MAX threads, of its own; and workers."""

    def __init__(self) -> None:
        self._pool: RealWorker | None = None

    async def run(self, function: Callable[..., T], *args: object) -> T:
        if self._pool is None:
            self._pool = RealWorker("pool", threads_max=POOL_THREADS_MAX)
        return await self._pool.run(function, *args)

    def worker(self, name: str) -> RealWorker:
        return RealWorker(name)
