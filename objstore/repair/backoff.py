"""How long to leave alone what has failed.  Pure: time is an argument.

    failed once  -> 2 s      again -> 4 s, 8 s ... 5 min      worked -> forgotten

So that one chunk, row or node that fails for ever costs others next to nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

K = TypeVar("K", bound=Hashable)

PAUSE_MIN_S = 2.0
PAUSE_MAX_S = 300.0


@attrs.frozen
class _Failed:
    times: int
    due: float  # seconds


@attrs.define
class Backoff(Generic[K]):
    """Remembers up to `entries_max` failures; the oldest are forgotten first."""

    entries_max: int
    _failed: OrderedDict[K, _Failed] = attrs.field(factory=OrderedDict, init=False)

    def is_due(self, key: K, now: float) -> bool:
        """Whether `key` may be tried."""
        failed = self._failed.get(key)
        return failed is None or now >= failed.due

    def failed(self, key: K, now: float) -> None:
        before = self._failed.pop(key, None)
        times = 1 if before is None else before.times + 1
        # The exponent is bounded before the power: a thousand failures are no overflow.
        pause_s = min(PAUSE_MIN_S * 2 ** min(times - 1, 16), PAUSE_MAX_S)
        self._failed[key] = _Failed(times, now + pause_s)
        while len(self._failed) > self.entries_max:
            self._failed.popitem(last=False)

    def worked(self, key: K) -> None:
        self._failed.pop(key, None)

    def __len__(self) -> int:
        return len(self._failed)
