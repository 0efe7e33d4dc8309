"""The clocks of the machine that trio has not.

Monotonic time is `trio.current_time()`, which tests and the simulator already control.
The wall clock is for signatures, Last-Modified stamps and expiry; it orders nothing.
Boot time is monotonic too, and also counts while the machine sleeps: it tells how old
knowledge is, where sleeping through its end must not prolong it.
"""

from __future__ import annotations

import time
from typing import Protocol

import trio


class Clock(Protocol):
    """Says what time people think it is, and how long ago something was."""

    def utc_now_ms(self) -> int:
        """Milliseconds since the Unix epoch; may jump either way."""
        ...

    def boot_ms(self) -> int:
        """Milliseconds since some moment; grows while the machine is suspended, too."""
        ...


def next_beat_s(interval_s: float) -> float:
    """When trio's clock is next a multiple of `interval_s`.

    Loops that look at something now and then sleep until such moments, which many of them
    have in common: so a process that has nothing else to do wakes once for all of them.
    """
    return (trio.current_time() // interval_s + 1) * interval_s


class SystemClock:
    """The machine's own clock."""

    def utc_now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
