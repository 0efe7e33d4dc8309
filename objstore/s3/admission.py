"""How many requests are worked on at a time: the others wait shortly, or are turned away.

    enter --- fewer than PLACES --------------------> a place --> leave
      |                                                  ^
      '-- queue, first come first served, for WAIT_S ----'  or Overloaded: SlowDown

A node that takes on all it is asked shares itself among all: each is late, and then none is
served in time.  PLACES is more than keeps a node busy, and what it does in about a second.

Who has had a place for KEPT_S keeps nobody out any more: it does not want the node's time
but waits for something, a slow client or an election.  What decides is the number of
requests, never how busy the node is: to refuse makes busy as well, and a node that refuses
because it is busy refusing does not recover.
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

from objstore.errors import Unavailable

PLACES = 192
QUEUE_MAX = 1024  # Those that wait for a place; a few KiB each.
WAIT_S = 1.0  # Also keeps those who will be refused from asking again at once.
KEPT_S = 3  # Longer than a request takes on a node that is full and not broken.


class Overloaded(Unavailable):
    """The node has more to do than it can: slow down."""


@attrs.define(eq=False)
class _Second:
    """The places given in one second of trio's clock, and not given back."""

    number: int
    places: int = 0


class Admission:
    """Places for requests."""

    def __init__(
        self, places: int = PLACES, *, queue_max: int = QUEUE_MAX, wait_s: float = WAIT_S
    ) -> None:
        self._places = places
        self._queue_max = queue_max
        self._wait_s = wait_s
        self._taken = 0  # The sum over `_seconds`.
        self._waiting = 0  # In `_wait`: all in the queue, and those that were called.
        self._called = 0  # Out of the queue, and about to take their places.
        self._seconds: deque[_Second] = deque()
        self._queue = trio.lowlevel.ParkingLot()

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def enter_now(self, now: float) -> _Second | None:
        """A place, where one is free and nobody waits for it; else None: `enter`.

        now: trio's time, or a moment ago: when the request came will do.
        """
        if self._waiting or self._taken >= self._places:
            return None
        second = self._second_at(now)
        second.places += 1
        self._taken += 1
        return second

    async def enter(self) -> _Second:
        """A place; `leave` gives it back.  Raises Overloaded."""
        second = self._second_at(trio.current_time())
        if self._taken + self._called >= self._places or self._queue:
            if len(self._queue) >= self._queue_max:
                raise Overloaded(f"{self._taken} requests, and {self._queue_max} wait")
            if not await self._wait():
                raise Overloaded(f"{self._taken} requests are being served")
            second = self._second_at(trio.current_time())
        second.places += 1
        self._taken += 1
        return second

    def leave(self, second: _Second) -> None:
        """The request is answered."""
        if self._seconds and second.number >= self._seconds[0].number:
            second.places -= 1
            self._taken -= 1
        if self._waiting:
            self._wake()

    async def _wait(self) -> bool:
        """Whether our turn came in time."""
        self._waiting += 1
        try:
            with trio.move_on_after(self._wait_s):
                await self._queue.park()
                self._called -= 1
                return True
        finally:
            self._waiting -= 1
        # Where nobody leaves, somebody must notice that places have aged.
        self._second_at(trio.current_time())
        self._wake()
        return False

    def _wake(self) -> None:
        while self._queue and self._taken + self._called < self._places:
            self._queue.unpark()
            self._called += 1

    def _second_at(self, now: float) -> _Second:
        """The second of `now`, or the newest; places older than KEPT_S are forgotten."""
        number, seconds = int(now), self._seconds
        if not seconds or seconds[-1].number < number:
            while seconds and seconds[0].number <= number - KEPT_S:
                self._taken -= seconds.popleft().places
            seconds.append(_Second(number))
        return seconds[-1]
