"""One budget of body bytes in memory: what does not fit waits its turn, then gets 503.

    hold(size) --- fits, nobody waits ----------------> held --> given back
         |                                               ^
         '--- queue, first come first served ------------'  or Unavailable at the deadline

Strictly in order: a small request does not overtake a large one, which would otherwise
wait for ever.  A request larger than the whole budget is granted all of it, so it runs
alone.  Hold once per request and before the first byte: who holds some and waits for more
can starve itself.
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

from objstore.errors import Unavailable

WAIT_MS = 5_000  # Below a client's patience; a longer queue only makes 503s later.
WAITERS_MAX = 4096  # As many as there are connections.


class Overloaded(Unavailable):
    """Too much is in memory already: slow down."""


@attrs.define(eq=False)
class _Waiter:
    size: int
    granted: trio.Event = attrs.field(factory=trio.Event)


class _Hold:
    """Some of a budget, for an `async with`."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: Budget, size: int) -> None:
        self._budget, self._size = budget, size

    async def __aenter__(self) -> None:
        if not self._budget._acquire_now(self._size):
            await self._budget._acquire(self._size)

    async def __aexit__(self, *_: object) -> None:
        self._budget._give_back(self._size)


class Budget:
    """Bytes of bodies that may be in memory at once."""

    def __init__(self, limit: int, *, wait_ms: int = WAIT_MS) -> None:
        assert limit > 0
        self.limit = limit
        self.held = 0
        self._wait_s = wait_ms / 1000
        self._waiters: deque[_Waiter] = deque()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiters)

    def hold(self, size: int) -> _Hold:
        """Hold `size` bytes for the block.  Raises Overloaded after the wait."""
        return _Hold(self, min(size, self.limit))

    def _acquire_now(self, size: int) -> bool:
        """Whether it fits, and nobody waits: then it is held."""
        assert size >= 0
        held = self.held + size
        if self._waiters or held > self.limit:
            return False
        self.held = held
        return True

    async def _acquire(self, size: int) -> None:
        if len(self._waiters) >= WAITERS_MAX:
            raise Overloaded("too many requests wait for memory")
        waiter = _Waiter(size)
        self._waiters.append(waiter)
        try:
            with trio.move_on_after(self._wait_s):
                await waiter.granted.wait()
        except trio.Cancelled:
            self._withdraw(waiter)
            raise
        if not waiter.granted.is_set():
            self._withdraw(waiter)
            raise Overloaded(
                f"{self.held} of {self.limit} bytes are in use and {len(self._waiters)}"
                " requests wait for more"
            )

    def _withdraw(self, waiter: _Waiter) -> None:
        """Leave the queue; what was granted at the last moment is given back."""
        if waiter.granted.is_set():
            self._give_back(waiter.size)
        else:
            self._waiters.remove(waiter)
            self._grant_waiting()  # Those behind it may fit.

    def _fits(self, size: int) -> bool:
        return self.held + size <= self.limit

    def _grant(self, size: int) -> None:
        self.held += size

    def _give_back(self, size: int) -> None:
        self.held -= size
        assert self.held >= 0
        if self._waiters:
            self._grant_waiting()

    def _grant_waiting(self) -> None:
        while self._waiters and self._fits(self._waiters[0].size):
            waiter = self._waiters.popleft()
            self._grant(waiter.size)
            waiter.granted.set()
