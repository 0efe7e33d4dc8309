"""Rows to read from, and changes staged over them.

    RowView          what apply and reads see: logical keys, payloads already verified
    StagedRows       a RowView of its own: changes in memory over a base

A batch of log entries is applied to one StagedRows: each command sees what those before
it did, a failed one is rolled back, and the whole goes to the store as one batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from typing import Protocol

from objstore.meta.schema import SEAL_SIZE, seal

HASH_SIZE = 16  # bytes
_ABSENT = object()

Columns = tuple[list[bytes], list[bytes]]  # Of rows: keys, payloads.


class RowView(Protocol):
    """An ordered state of rows.  Raises CorruptRow where a value is bad."""

    def get(self, key: bytes) -> bytes | None:
        """The payload under a logical key."""
        ...

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(key, payload) with start <= key < end, in order, all of one slot.

        The iterator must not be advanced after rows were changed.
        """
        ...

    def page(self, base: bytes, start: bytes, end: bytes, limit: int) -> Columns:
        """The first `limit` rows of `scan(start, end)`, at once: lists are hot.

        All keys begin with `base`, and come without it.
        """
        ...


def page_of(view: RowView, base: bytes, start: bytes, end: bytes, limit: int) -> Columns:
    """`RowView.page`, for a view that has nothing better than `scan`."""
    rows = list(islice(view.scan(start, end), limit))
    return [key[len(base) :] for key, _ in rows], [payload for _, payload in rows]


def first_row(view: RowView, start: bytes, end: bytes) -> tuple[bytes, bytes] | None:
    """The first row of a range."""
    return next(view.scan(start, end), None)


class StagedRows:
    """Changes over a base, in memory.  `begin` starts a command; `rollback` undoes it."""

    __slots__ = ("_base", "_keys", "_undo", "changes")

    def __init__(self, base: RowView) -> None:
        self._base = base
        # Of `changes`, sorted; None until a scan needs them, and most commands need none.
        self._keys: list[bytes] | None = None
        self._undo: dict[bytes, object] = {}  # What `changes` held before this command.
        self.changes: dict[bytes, bytes | None] = {}  # Sealed values; None: deleted.

    def get(self, key: bytes) -> bytes | None:
        value = self.changes.get(key, _ABSENT)
        if value is _ABSENT:
            return self._base.get(key)
        return None if value is None else value[:-SEAL_SIZE]  # type: ignore[index]

    def put(self, key: bytes, payload: bytes) -> None:
        changes = self.changes
        if key not in self._undo:
            self._undo[key] = changes.get(key, _ABSENT)
        changes[key] = seal(key, payload)
        self._keys = None

    def delete(self, key: bytes) -> None:
        changes = self.changes
        if key not in self._undo:
            self._undo[key] = changes.get(key, _ABSENT)
        changes[key] = None
        self._keys = None

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        keys = self._keys
        if keys is None:
            keys = self._keys = sorted(self.changes)
        low = bisect_left(keys, start)
        high = bisect_left(keys, end, low)
        if low == high:
            return self._base.scan(start, end)
        return self._merged(keys[low:high], self._base.scan(start, end))

    def page(self, base: bytes, start: bytes, end: bytes, limit: int) -> Columns:
        return page_of(self, base, start, end, limit)

    def _merged(
        self, keys: list[bytes], base: Iterator[tuple[bytes, bytes]]
    ) -> Iterator[tuple[bytes, bytes]]:
        below = next(base, None)
        for key in keys:
            while below is not None and below[0] < key:
                yield below
                below = next(base, None)
            if below is not None and below[0] == key:
                below = next(base, None)
            value = self.changes[key]
            if value is not None:
                yield key, value[:-SEAL_SIZE]
        while below is not None:
            yield below
            below = next(base, None)

    def begin(self) -> None:
        """Start a command: what came before can no longer be undone."""
        self._undo.clear()

    def rollback(self) -> None:
        """Undo everything since `begin`."""
        for key, value in self._undo.items():
            if value is _ABSENT:
                del self.changes[key]
            else:
                self.changes[key] = value  # type: ignore[assignment]
        self._keys = None
        self._undo.clear()

    def chain(self, before: bytes) -> bytes:
        """Fold this command's changes into a running hash of all changes (R12)."""
        parts = [before]
        for key in self._undo:
            value = self.changes[key]
            # A value's seal is a checksum of its key and payload.
            parts.append(key if value is None else value[-SEAL_SIZE:])
        return blake2b(b"".join(parts), digest_size=HASH_SIZE).digest()
