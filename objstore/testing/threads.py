"""Blocking work without threads: it runs inline, and takes virtual time.

A call runs after one turn of the event loop and its caller goes on after another, so that
other tasks come in between as they do in life.  Its time is `delay_s` and whatever the
disk says its calls took (`SimulatedDisk.sync_delay_s`).  A worker's calls run one at a
time in order; the pool's run side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs
import trio

from objstore.testing.disk import SimulatedDisk

T = TypeVar("T")


class SimulatedThreads:
    def __init__(self, disk: SimulatedDisk | None = None, *, delay_s: float = 0.0) -> None:
        self._disk = disk or SimulatedDisk()
        self.delay_s = delay_s

    @property
    def delay_s(self) -> float:
        """The disk's, as what is begun without a thread takes as long."""
        return self._disk.delay_s

    @delay_s.setter
    def delay_s(self, delay_s: float) -> None:
        self._disk.delay_s = delay_s

    async def run(self, function: Callable[..., T], *args: object) -> T:
        await trio.lowlevel.checkpoint()
        try:
            result = function(*args)
        finally:
            busy_s, self._disk.busy_s = self._disk.busy_s, 0.0
            with trio.CancelScope(shield=True):
                await trio.sleep(self.delay_s + busy_s)
        await trio.lowlevel.checkpoint_if_cancelled()
        return result

    def worker(self, name: str) -> SimulatedWorker:
        return SimulatedWorker(self, name)


@attrs.define(eq=False)
class SimulatedWorker:
    _threads: SimulatedThreads
    _name: str
    _turn: trio.Lock = attrs.field(factory=trio.Lock)  # Fair: first come, first served.
    _closed: bool = False

    async def run(self, function: Callable[..., T], *args: object) -> T:
        if self._closed:
            raise trio.ClosedResourceError(f"worker {self._name} is closed")
        async with self._turn:
            return await self._threads.run(function, *args)

    def close(self) -> None:
        self._closed = True
