"""A wall clock over trio's (virtual) time: it can be wrong, jump and drift."""

from __future__ import annotations

import attrs
import trio

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z: when every simulation begins.


@attrs.define(eq=False)
class SimulatedClock:
    """One host's clock; survives its crashes."""

    _offset_ms: float = 0.0  # What it is ahead of true time, at `_since`.
    _rate: float = 1.0  # Its milliseconds in a true one.
    _since: float = 0.0  # trio time of the last change.
    _slept_ms: float = 0.0  # What trio's clock has not counted.

    def utc_now_ms(self) -> int:
        return START_MS + int(self._true_ms() + self._ahead_ms())

    def boot_ms(self) -> int:
        return int(self._true_ms() + self._slept_ms)

    def sleep_through(self, duration_ms: float) -> None:
        """Suspend the machine so long: only its monotonic clock does not notice."""
        self._slept_ms += duration_ms
        self.jump(duration_ms)

    def jump(self, delta_ms: float) -> None:
        """Set it forward, or back where `delta_ms` is negative."""
        self._offset_ms = self._ahead_ms() + delta_ms
        self._since = trio.current_time()

    def set_rate(self, rate: float) -> None:
        """Let it run `rate` times as fast as time does."""
        self._offset_ms = self._ahead_ms()
        self._since = trio.current_time()
        self._rate = rate

    def correct(self) -> None:
        """Let it be right again, and run right."""
        self._offset_ms, self._rate = 0.0, 1.0
        self._since = trio.current_time()

    def _true_ms(self) -> float:
        return trio.current_time() * 1000

    def _ahead_ms(self) -> float:
        elapsed_ms = (trio.current_time() - self._since) * 1000
        return self._offset_ms + elapsed_ms * (self._rate - 1.0)
