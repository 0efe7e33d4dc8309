"""How quick the disk of the log is: who may wait for it, and who had better not lead (F12).

    quick --one sync under way for stall_ms, or two in a row of slow_sync_ms--> slow
    slow  --none that long for quick_after_ms--> quick

A leader applies, and so answers, only what is durable at home too: with two seconds a sync
every write of its groups takes four.  So such a disk follows, where nobody waits for it,
until it has been quick for some time (and not back and forth with every sync).

What is proposed during a write can be written only after it.  Followers could begin sooner,
by what is left of it; but all that came meanwhile is one message then.  So proposals wait
for the end of a write that is brief.  How brief they are, the least of the last ones shows:
most of them wait for a CPU as well.
"""

from __future__ import annotations

import attrs

from objstore.raft.options import Options

_FORGOTTEN_MS = 1 / 16  # By each write: the least of some thirty of them is what counts.


@attrs.define
class Pace:
    """What the syncs of one log tell.  Times in milliseconds."""

    options: Options
    is_slow: bool = False
    _began_ms: int | None = None
    _slow_in_a_row: int = 0
    _slow_seen_ms: int = 0
    _least_ms: float = 0.0

    def began(self, now_ms: int) -> None:
        """A write and its sync begin."""
        self._began_ms = now_ms

    def ended(self, now_ms: int) -> None:
        """It is durable."""
        assert self._began_ms is not None
        took_ms = now_ms - self._began_ms
        self._began_ms = None
        self._least_ms = min(took_ms, self._least_ms + _FORGOTTEN_MS)
        if took_ms < self.options.slow_sync_ms:
            self._slow_in_a_row = 0
            return
        self._slow_in_a_row += 1
        self._slow_seen_ms = now_ms

    @property
    def is_writing(self) -> bool:
        return self._began_ms is not None

    def under_way_ms(self, now_ms: int) -> int:
        """How long the sync at hand has taken so far."""
        return 0 if self._began_ms is None else now_ms - self._began_ms

    def ends_soon(self, now_ms: int) -> bool:
        """Whether a write is under way that is worth waiting for."""
        return (
            self._began_ms is not None
            and self._least_ms < self.options.brief_ms
            and now_ms - self._began_ms < self.options.hold_ms
        )

    def look(self, now_ms: int) -> bool:
        """Judge, from time to time; says whether `is_slow` has changed."""
        under_way_ms = self.under_way_ms(now_ms)
        if under_way_ms >= self.options.slow_sync_ms:
            self._slow_seen_ms = now_ms
        if not self.is_slow:
            is_slow = self._slow_in_a_row >= 2 or under_way_ms >= self.options.stall_ms
        else:
            is_slow = now_ms - self._slow_seen_ms < self.options.quick_after_ms
        is_changed = is_slow != self.is_slow
        self.is_slow = is_slow
        return is_changed
