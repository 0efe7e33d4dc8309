"""One command's working set: the slot's state, its counters, its place in the log.

What several steps of a command change (sequence numbers, counters) is read once, changed
in memory and written once, by `finish`.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from objstore.ids import BucketId, Slot
from objstore.meta import payloads, schema
from objstore.meta.commands import Command
from objstore.meta.rows import StagedRows

ORDER_SHIFT = 20  # A version's order is its cluster time and room for 2^20 beside it.


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

    __slots__ = ("_counters", "_state", "_was", "index", "rows", "slot", "term", "time_ms")

    def __init__(
        self, rows: StagedRows, command: Command, index: int, term: int, time_ms: int
    ) -> None:
        self.rows = rows
        self.slot: Slot = getattr(command, "slot", schema.CLUSTER_SLOT)
        self.index = index  # Of the command's entry, as the term is.
        self.term = term
        # Cluster time: greater than of every command before it in the shard.
        self.time_ms = time_ms
        # As they are now, the payload they were, the key of their row.
        self._counters: dict[BucketId, tuple[list[int], bytes, bytes]] = {}
        self._state: list[int] | None = None
        self._was: list[int] | None = None  # The state when it was read; None: no row.

    def rollback(self) -> None:
        """Undo everything that the command did."""
        self.rows.rollback()
        self._counters.clear()
        self._state = self._was = None

    # ---- the slot's state: [floor epoch, next released] ------------------------------

    def _loaded(self) -> list[int]:
        if self._state is None:
            payload = self.rows.get(schema.state_key(self.slot))
            self._state = [0, 1] if payload is None else list(payloads.unpack(payload))
            self._was = None if payload is None else list(self._state)
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
            row_key = schema.counters_key(self.slot, bucket)
            payload = self.rows.get(row_key)
            if payload is None:
                return
            held = (payloads.unpack_usage(payload), payload, row_key)
            self._counters[bucket] = held
        now = held[0]
        now[_OBJECTS] += objects
        now[_VERSIONS] += versions
        now[_BYTES] += size
        if uploads:
            now[Count.UPLOADS] += uploads
        if below != _NO_CHANGE:
            now[Count.BELOW_OBJECTS] += below[0]
            now[Count.BELOW_BYTES] += below[1]

    def usage(self, bucket: BucketId) -> list[int]:
        held = self._counters.get(bucket)
        if held is not None:
            return held[0]
        return payloads.unpack_usage(self.rows.get(schema.counters_key(self.slot, bucket)))

    def finish(self) -> None:
        """Write what changed."""
        if self._state is not None and self._state != self._was:
            self.rows.put(schema.state_key(self.slot), payloads.pack(self._state))
        for now, before, row_key in self._counters.values():
            try:
                payload = payloads.pack_usage(now)
            except struct.error as error:
                raise AssertionError(f"a counter fell below 0: {now}") from error
            if payload != before:
                self.rows.put(row_key, payload)
