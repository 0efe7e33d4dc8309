"""A token bucket for bytes.  Pure: time is an argument."""

from __future__ import annotations

import attrs


@attrs.define
class Throttle:
    """Lets `rate` bytes a second through, and bursts of one second's worth."""

    rate: int = attrs.field(validator=attrs.validators.gt(0))  # bytes a second
    _debt: float = 0.0  # bytes sent beyond the rate
    _then: float = 0.0  # seconds

    def spend(self, size: int, now: float) -> float:
        """Take `size` bytes; the seconds to wait before they are sent."""
        self._debt = max(0.0, self._debt - (now - self._then) * self.rate)
        self._then = now
        wait = max(0.0, self._debt - self.rate) / self.rate
        self._debt += size
        return wait
