"""How long one request may wait for metadata: all its calls together.

    begin ----> 6 s left
    a call waits 3 s for an election ---> 3 s left, and that is what the next call gets
    nothing left ---> the next call is not even tried: Unavailable, 503

So a request that makes several calls does not wait several times.  Calls that are quick
cost nothing and what is spent comes back slowly while a request lives, or a copy of a
terabyte would run out of patience by a thousand small delays.

The patience of a request belongs to its task and to those that it starts.  Who has none
(repair, the admin API) has the deadlines of trio's scopes around it.
"""

from __future__ import annotations

from contextvars import ContextVar
from math import inf

import attrs
import trio

_FREE_S = 0.1  # A call that takes less does not count.
_RETURN_RATE = 0.1  # Seconds that come back in one.
_SHARE_BESIDE = 2 / 3  # What waits for other things than metadata may use up.

_current: ContextVar[Patience | None] = ContextVar("patience", default=None)


@attrs.define(eq=False)
class Patience:
    """What is left of one request's time for metadata."""

    limit_ms: int
    spent_s: float = 0.0
    since: float = -inf  # trio time at which `spent_s` was right.

    def left_ms_at(self, time: float) -> int:
        """Milliseconds left at a trio time that is not before `since`; 1 for none."""
        if not self.spent_s:
            return self.limit_ms
        return max(1, self.limit_ms - int(self.spent_at(time) * 1000))

    def spent_at(self, time: float) -> float:
        """Seconds spent at a trio time that is not before `since`."""
        return max(0.0, self.spent_s - (time - self.since) * _RETURN_RATE)

    def spend(self, began: float, now: float, *, share: float = 1.0) -> None:
        """Count a call that ended just now.  Of calls at once, the longest counts.

        share: of the limit, that may be spent by then.
        """
        counted = max(began, self.since)
        spent_s = self.spent_at(counted) + now - counted
        most_s = max(self.spent_at(now), share * self.limit_ms / 1000)
        self.spent_s = min(spent_s, most_s)
        self.since = now


def begin(limit_ms: int) -> None:
    """Give the calling task, which begins a request, this much patience."""
    _current.set(Patience(max(1, limit_ms)))


def count(began: float) -> None:
    """Count what a request waited for since `began` beside metadata: its bytes' owners.

    Not all of its patience: the rest is for the command that makes them visible.
    """
    patience, now = _current.get(), trio.current_time()
    if patience is not None and now - began >= _FREE_S:
        patience.spend(began, now, share=_SHARE_BESIDE)


def spent_s() -> float:
    """Seconds that the calling task's request has waited; 0 where it has no patience."""
    patience = _current.get()
    return 0.0 if patience is None else patience.spent_at(trio.current_time())


class waiting:  # noqa: N801 - it is used as a function.
    """Around a call: how many milliseconds it may take, of `limit_ms` at most.

    A class, since each request has several and a generator would cost three times that.
    """

    __slots__ = ("_began", "_limit_ms", "_patience")

    def __init__(self, limit_ms: int) -> None:
        self._limit_ms = limit_ms
        self._patience = _current.get()

    def __enter__(self) -> int:
        patience = self._patience
        if patience is None:
            return _until_deadline(self._limit_ms)
        self._began = trio.current_time()
        left_ms = patience.limit_ms
        if patience.spent_s:
            left_ms = patience.left_ms_at(self._began)
        return min(self._limit_ms, left_ms)

    def __exit__(self, *_: object) -> None:
        if self._patience is not None:
            now = trio.current_time()
            if now - self._began >= _FREE_S:
                self._patience.spend(self._began, now)


def _until_deadline(limit_ms: int) -> int:
    """What is left of the calling task's effective deadline, `limit_ms` at most.

    Not asked for a client's request, which has no such deadline: trio looks at all scopes
    between the task and the program's start.
    """
    deadline_s = trio.current_effective_deadline()
    left_s = deadline_s - trio.current_time()  # Endlessly below 0 once cancelled.
    return int(max(1, min(left_s * 1000, limit_ms)))
