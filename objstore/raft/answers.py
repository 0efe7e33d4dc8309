"""What tasks wait for: answers to requests, and a wake-up for a loop.

Cheaper than events and channels where each request needs one (SPEED, 5), and made for the
callbacks of a pass: settling never waits.
"""

from __future__ import annotations

from collections.abc import Callable

import trio


class Answer:
    """What callers wait for: settled once, with a value or an error.

    due_ms: when whoever owns it gives up; None: never.
    """

    __slots__ = ("_result", "_tasks", "_then", "due_ms")

    def __init__(self, due_ms: int | None = None) -> None:
        self.due_ms = due_ms
        self._tasks: list[trio.lowlevel.Task] = []
        self._then: Callable[[Callable[[], object]], None] | None = None
        self._result: Callable[[], object] | None = None

    @property
    def is_awaited(self) -> bool:
        return bool(self._tasks) or self._then is not None

    def then(self, callback: Callable[[Callable[[], object]], None]) -> None:
        """Hand `callback` what gives the value or raises the error, once it is settled.

        In the midst of a pass: it must be quick, and raise nothing.
        """
        assert self._result is None
        self._then = callback

    async def wait(self) -> object:
        """The value, or the error raised.  If cancelled, nobody else notices."""
        if self._result is None:
            task = trio.lowlevel.current_task()
            self._tasks.append(task)

            def abort(_: object) -> trio.lowlevel.Abort:
                self._tasks.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        assert self._result is not None
        return self._result()

    def succeed(self, value: object = None) -> None:
        self.settle(lambda: value)

    def fail(self, make_error: Callable[[], Exception]) -> None:
        """Each waiter gets an error of its own."""

        def result() -> object:
            raise make_error()

        self.settle(result)

    def settle(self, result: Callable[[], object]) -> None:
        """`result` gives the value or raises the error: each waiter calls it."""
        if self._result is not None:
            return
        self._result = result
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            trio.lowlevel.reschedule(task)
        then, self._then = self._then, None  # Now nobody waits any more.
        if then is not None:
            then(result)


class Signal:
    """Wakes one task of those that wait; setting it again before that changes nothing."""

    __slots__ = ("_is_set", "_tasks")

    def __init__(self) -> None:
        self._is_set = False
        self._tasks: list[trio.lowlevel.Task] = []

    def set(self) -> None:
        if self._is_set:
            return
        self._is_set = True
        if self._tasks:
            trio.lowlevel.reschedule(self._tasks.pop())

    async def wait(self) -> None:
        """Wait until it is set, and clear it."""
        if self._is_set:
            await trio.lowlevel.checkpoint()
        else:
            task = trio.lowlevel.current_task()
            self._tasks.append(task)

            def abort(_: object) -> trio.lowlevel.Abort:
                self._tasks.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        self._is_set = False
