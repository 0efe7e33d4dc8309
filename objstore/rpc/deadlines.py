"""Deadlines of many calls in one place, so that no call needs a timer of its own.

Deadlines are kept in buckets of TICK_MS; to add or remove one costs a dict operation,
however many there are.  A deadline is found at most TICK_MS late and never early.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

TICK_MS = 16


class Deadlines(Generic[K]):
    """Keys and when they expire."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[K, None]] = {}

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def add(self, deadline_ms: int, key: K) -> int:
        """Remember; returns the bucket, which `discard` needs."""
        bucket = deadline_ms // TICK_MS + 1
        keys = self._buckets.get(bucket)
        if keys is None:
            self._buckets[bucket] = {key: None}
        else:
            keys[key] = None
        return bucket

    def discard(self, bucket: int, key: K) -> None:
        """Forget, if it is still there."""
        keys = self._buckets.get(bucket)
        if keys is not None:
            keys.pop(key, None)
            if not keys:
                del self._buckets[bucket]

    def next_ms(self) -> int | None:
        """When to look again."""
        return min(self._buckets) * TICK_MS if self._buckets else None

    def expired(self, now_ms: int) -> list[K]:
        """Take out what is due, earliest first."""
        due = sorted(b for b in self._buckets if b * TICK_MS <= now_ms)
        return [key for bucket in due for key in self._buckets.pop(bucket)]
