"""Threads that keep a cluster busy while a test does something to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

import attrs


@attrs.define
class Crew:
    """Works until the block ends; what one of its threads raises, the block raises.

    A subclass starts its threads in `begin`, and they look at `is_over`.
    """

    _over: threading.Event = attrs.field(factory=threading.Event, init=False)
    _threads: list[threading.Thread] = attrs.field(factory=list, init=False)
    _failures: list[Exception] = attrs.field(factory=list, init=False)

    def begin(self) -> None:
        """Start the threads that the block begins with; none here."""

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        for thread in self._threads:
            thread.join()
        if self._failures and kind is None:
            raise ExceptionGroup("threads of a crew failed", self._failures)

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def stop(self) -> None:
        """Have the threads end, without waiting for them."""
        self._over.set()

    def start(self, work: Callable[..., None], *arguments: object) -> None:
        """Run `work` in a thread, which the block's end waits for."""
        thread = threading.Thread(target=self._run, args=(work, arguments))
        self._threads.append(thread)
        thread.start()

    def _run(self, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
        try:
            work(*arguments)
        except Exception as error:
            self._failures.append(error)
