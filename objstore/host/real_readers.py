"""Who reads a socket whenever something has come: by a call, without a task.

trio arms a socket anew for each wait and wakes a task for it, through all the coroutines
between the two; for a small message that is more than the reading.  Here sockets stay armed
in an epoll of ours, and one task of trio's run waits for that.

    trio's epoll -> ours -> `Readers.serve` -> read() of each socket that has something

It is level-triggered: what a reader leaves is told again in the next pass of the loop, so
that nobody has to read all there is and a busy socket does not keep the loop to itself.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable

import trio


class Readers:
    """The sockets that are read so, and by whom."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._reads: dict[int, Callable[[], None]] = {}

    def add(self, descriptor: int, read: Callable[[], None]) -> None:
        """Call `read`, which may not raise, whenever there is something, or the end."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._reads[descriptor] = read

    def discard(self, descriptor: int) -> None:
        """No more: to be told before the descriptor is closed."""
        del self._reads[descriptor]
        with contextlib.suppress(OSError, ValueError):  # ValueError: the run has ended.
            self._epoll.unregister(descriptor)

    async def serve(self) -> None:
        """Until trio's run ends."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for descriptor, _ in self._epoll.poll(0):
                    read = self._reads.get(descriptor)
                    if read is not None:  # Else one before it has taken it out.
                        read()
        finally:
            self._epoll.close()


_readers: trio.lowlevel.RunVar[Readers] = trio.lowlevel.RunVar("objstore-readers")


def readers() -> Readers:
    """Those of this run of trio."""
    try:
        return _readers.get()
    except LookupError:
        made = Readers()
        _readers.set(made)
        trio.lowlevel.spawn_system_task(made.serve)
        return made
