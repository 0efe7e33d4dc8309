"""Whether this node is asked for more than it can do, by how late its event loop is.

    a beat every 50 ms --> how late it comes --> smoothed: `lag_s`

    lag_s     0 ......... 0.15 ---------------- 0.45 ........
    refused   nobody       |    a growing share   |    everybody

Before the first late beat has told so, a herd may have come in: so of those that came since
the last beat only HERD_MAX are let in and not yet answered.

A request takes some ten passes of the loop.  When each pass takes half a second all of
them take five, and with still more at once nobody is served in time.  So newcomers are
told to slow down before anything is done for them, and those who are being served are
served soon.  Requests that only wait (for an election, a slow client, a disk) do not make
the loop late and turn nobody away.
"""

from __future__ import annotations

from random import Random

import trio

from objstore.errors import Unavailable

_BEAT_S = 0.05
_SMOOTHING = 0.3  # The weight of the newest beat: about ten of them count.
_LATE_MAX_S = 1.0  # What a beat counts at most: after a pause of the process all is well.
HERD_MAX = 256  # A second's work where a request costs 4 ms of CPU; mostly it is less.
_FROM_S = 0.15
_ALL_S = 0.45


class Overloaded(Unavailable):
    """The node has more to do than it can: slow down."""


class Overload:
    """Feels the loop's pulse while `run` runs."""

    def __init__(self, random: Random) -> None:
        self.lag_s = 0.0
        self._random = random
        self._beat = 0
        self._fresh = 0  # Let in since the last beat, and not yet answered.

    async def run(self) -> None:
        """Keep `lag_s` true until cancelled."""
        while True:
            due = trio.current_time() + _BEAT_S
            await trio.sleep_until(due)
            self.note(trio.current_time() - due)

    def note(self, late_s: float) -> None:
        """A beat came so late."""
        self.lag_s += _SMOOTHING * (min(late_s, _LATE_MAX_S) - self.lag_s)
        self._beat += 1
        self._fresh = 0

    def enter(self) -> int:
        """Let a request in; what is returned is for `leave`.  Raises Overloaded."""
        if self._fresh >= HERD_MAX:
            raise Overloaded(f"{HERD_MAX} requests came at once")
        if self.lag_s > _FROM_S:
            share = (self.lag_s - _FROM_S) / (_ALL_S - _FROM_S)
            if self._random.random() < share:
                raise Overloaded(f"the event loop is {self.lag_s:.2f} s late")
        self._fresh += 1
        return self._beat

    def leave(self, beat: int) -> None:
        """A request that was let in has its answer."""
        if beat == self._beat:
            self._fresh -= 1
