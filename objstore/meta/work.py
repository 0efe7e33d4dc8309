"""One command's working set: the slot's state, its counters, its place in the log.

What several steps of a command change (sequence numbers, counters) is read once, changed
in memory and written once, by `finish`.
"""

from __future__ import annotations

from enum import IntEnum

from objstore.frozen import frozen
from objstore.ids import BucketId, Slot
from objstore.meta import payloads, schema
from objstore.meta.rows import StagedRows

ORDER_SHIFT = 20  # A version's order is its cluster time and room for 2^20 beside it.


@frozen
class Context:
    """Where and when a command is applied: the same on every replica."""

    index: int
    term: int
    time_ms: int  # Cluster time: greater than of every command before it in the shard.


class Count(IntEnum):
    """Places in a counters row."""

    OBJECTS = 0
    VERSIONS = 1
    BYTES = 2
    UPLOADS = 3
    BELOW_OBJECTS = 4
    BELOW_BYTES = 5


# Of every put and delete: plain numbers, which a list finds faster.
_OBJECTS, _VERSIONS, _BYTES = int(Count.OBJECTS), int(Count.VERSIONS), int(Count.BYTES)
_NO_CHANGE = (0, 0)


class Work:
    """The working set of one command in one slot."""

    __slots__ = ("_counters", "_state", "_state_before", "context", "rows", "slot")

    def __init__(self, rows: StagedRows, slot: Slot, context: Context) -> None:
        self.rows = rows
        self.slot = slot
        self.context = context
        # As they are now, and the payload they were.
        self._counters: dict[BucketId, tuple[list[int], bytes]] = {}
        self._state: list[int] | None = None
        self._state_before: list[int] = []

    # ---- the slot's state: [floor epoch, next released] ------------------------------

    def _loaded(self) -> list[int]:
        if self._state is None:
            payload = self.rows.get(schema.state_key(self.slot))
            self._state = [0, 1] if payload is None else list(payloads.unpack(payload))
            self._state_before = list(self._state) if payload is not None else []
        return self._state

    @property
    def floor_epoch(self) -> int:
        return self._loaded()[0]

    def raise_floor(self, epoch: int) -> None:
        state = self._loaded()
        state[0] = max(state[0], epoch)

    def next_released(self) -> int:
        state = self._loaded()
        state[1] += 1
        return state[1] - 1

    # ---- counters ---------------------------------------------------------------------

    def count(
        self,
        bucket: BucketId,
        *,
        objects: int = 0,
        versions: int = 0,
        size: int = 0,
        uploads: int = 0,
        below: tuple[int, int] = (0, 0),  # Objects, bytes.
    ) -> None:
        """Change counters of a bucket; nothing is counted for one that was dropped."""
        held = self._counters.get(bucket)
        if held is None:
            payload = self.rows.get(schema.counters_key(self.slot, bucket))
            if payload is None:
                return
            held = self._counters[bucket] = (payloads.unpack_usage(payload), payload)
        now = held[0]
        now[_OBJECTS] += objects
        now[_VERSIONS] += versions
        now[_BYTES] += size
        if uploads:
            now[Count.UPLOADS] += uploads
        if below != _NO_CHANGE:
            now[Count.BELOW_OBJECTS] += below[0]
            now[Count.BELOW_BYTES] += below[1]
        assert min(now) >= 0, f"a counter of bucket {bucket} fell below 0: {now}"

    def usage(self, bucket: BucketId) -> list[int]:
        held = self._counters.get(bucket)
        if held is not None:
            return held[0]
        return payloads.unpack_usage(self.rows.get(schema.counters_key(self.slot, bucket)))

    def finish(self) -> None:
        """Write what changed."""
        if self._state is not None and self._state != self._state_before:
            self.rows.put(schema.state_key(self.slot), payloads.pack(self._state))
        for bucket, (now, before) in self._counters.items():
            payload = payloads.pack_usage(now)
            if payload != before:
                self.rows.put(schema.counters_key(self.slot, bucket), payload)
