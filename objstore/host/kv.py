"""The embedded ordered store: bytes to bytes, in key order.

One per node, one key space, no log of its own: after a crash it holds a *prefix* of the
batches written, all of those before the last `flush` that returned among them.  So the
Raft WAL may be released only below what was flushed, and a batch that holds rows and the
applied index together is never seen half.

`rocks_kv` implements it on RocksDB (rocksdict), `objstore.testing.kv` in memory.  Calls
block: single gets and batches take microseconds and run inline; `flush` and long scans
go through `host.threads`.  Any OSError or CorruptData from here ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Batch(Protocol):
    """Changes that become visible, and survive, together; later ones win."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete start <= key < end; start < end."""
        ...


class View(Protocol):
    """A consistent state to read from: the store itself, or a snapshot of it."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end in key order (`reverse`: falling).

        The iterator shows the state of its first step.  It may be dropped half-way, and
        must not be kept over minutes: it pins old data.
        """
        ...

    def page(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """The first `limit` rows of `scan(start, end)`, at once, which is cheaper."""
        ...


class Snapshot(View, Protocol):
    """The state of one moment, until closed."""

    def close(self) -> None: ...


class KeyValueStore(View, Protocol):
    """The store."""

    def batch(self) -> Batch: ...

    def write(self, batch: Batch) -> None:
        """Apply a batch from this store's `batch()`; visible at once, durable later."""
        ...

    def snapshot(self) -> Snapshot: ...

    def flush(self) -> None:
        """Make every batch written so far survive a crash."""
        ...

    def memory_size(self) -> int:
        """Bytes of batches not yet flushed, approximately."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...
