"""Rows to read from, and changes staged over them.

    RowView          what apply and reads see: logical keys, payloads already verified
    StagedRows       a RowView of its own: changes in memory over a base

A batch of log entries is applied to one StagedRows: each command sees what those before
it did, a failed one is rolled back, and the whole goes to the store as one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from typing import Protocol

from objstore.meta.schema import SEAL_SIZE, seal_of

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
    """Changes over a base, in memory: of commands that are done, and of the one at work.

    `commit` ends a command, and `rollback` undoes what it did so far.
    """

    __slots__ = ("_base", "_staged", "changes")

    def __init__(self, base: RowView) -> None:
        self._base = base
        # Of the command at work: payloads, not sealed yet, None: deleted.
        self._staged: dict[bytes, bytes | None] = {}
        self.changes: dict[bytes, bytes | None] = {}  # Sealed values; None: deleted.

    def get(self, key: bytes) -> bytes | None:
        if self._staged:
            found = self._staged.get(key, _ABSENT)
            if found is not _ABSENT:
                return found  # type: ignore[return-value]
        if self.changes:
            found = self.changes.get(key, _ABSENT)
            if found is not _ABSENT:
                return None if found is None else found[:-SEAL_SIZE]  # type: ignore[index]
        return self._base.get(key)

    def put(self, key: bytes, payload: bytes) -> None:
        self._staged[key] = payload

    def delete(self, key: bytes) -> None:
        self._staged[key] = None

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        changed = [key for key in (*self.changes, *self._staged) if start <= key < end]
        below = self._base.scan(start, end)
        return self._merged(sorted(set(changed)), below) if changed else below

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
            payload = self.get(key)
            if payload is not None:
                yield key, payload
        while below is not None:
            yield below
            below = next(base, None)

    def rollback(self) -> None:
        """Undo everything since the last `commit`."""
        self._staged.clear()

    def commit(self, chain: bytes) -> bytes:
        """End a command; `chain`, a running hash of all changes, goes on by its own (R12).

        A row that it changed more than once counts once.
        """
        parts = [chain]
        changes = self.changes
        for key, payload in self._staged.items():
            if payload is None:
                changes[key] = None
                parts.append(key)
            else:
                seal = seal_of(key, payload)
                changes[key] = payload + seal
                parts.append(seal)  # Which is a checksum of key and payload.
        self._staged.clear()
        return blake2b(b"".join(parts), digest_size=HASH_SIZE).digest()
