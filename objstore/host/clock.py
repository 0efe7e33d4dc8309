"""The wall clock.

Monotonic time is `trio.current_time()`, which tests and the simulator already control.
The wall clock is for signatures, Last-Modified stamps and expiry; it orders nothing.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Says what time people think it is."""

    def utc_now_ms(self) -> int:
        """Milliseconds since the Unix epoch; may jump either way."""
        ...


class SystemClock:
    """The machine's own clock."""

    def utc_now_ms(self) -> int:
        return time.time_ns() // 1_000_000
