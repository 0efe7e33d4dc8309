"""The embedded ordered store in memory.

    rows        what readers see
    durable     the rows as of the last flush
    batches     written since, in order

A crash keeps `durable` and a random prefix of `batches`, whole ones.  A reader that lives
across writes (a snapshot, a scan half-way) keeps aside what is overwritten under it:

    write k=v ──▶ every live reader that has no k aside:  aside[k] = the old value
    reader    ──▶ aside first, then rows
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any, Final, Generic, Literal, TypeVar

import attrs
from sortedcontainers import SortedDict

from objstore.errors import CorruptData
from objstore.host.kv import Batch
from objstore.testing.boot import Boot

V = TypeVar("V")

_Kind = Literal["put", "delete", "delete_range"]
_Change = tuple[_Kind, bytes, bytes]  # Key and value, key and b"", or start and end.
# Asks the disk whether an operation on the store's folder is to fail.
_Check = Callable[[str, Literal["read", "write", "sync"]], None]


class _Absent:
    """A row that was not there when a reader began."""


ABSENT: Final = _Absent()


class SimulatedBatch:
    __slots__ = ("changes", "written")

    def __init__(self) -> None:
        self.changes: list[_Change] = []
        self.written = False

    def put(self, key: bytes, value: bytes) -> None:
        self.changes.append(("put", bytes(key), bytes(value)))

    def delete(self, key: bytes) -> None:
        self.changes.append(("delete", bytes(key), b""))

    def delete_range(self, start: bytes, end: bytes) -> None:
        assert start < end
        self.changes.append(("delete_range", bytes(start), bytes(end)))

    def size(self) -> int:
        return sum(len(key) + len(value) for _, key, value in self.changes)


class _Rows(Generic[V]):
    """Rows in order of their keys."""

    def __init__(self, rows: _Rows[V] | None = None) -> None:
        self._rows: Any = SortedDict({} if rows is None else rows._rows)  # type: ignore[no-untyped-call]

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def get(self, key: bytes) -> V | None:
        value: V | None = self._rows.get(key)
        return value

    def set(self, key: bytes, value: V | None) -> None:
        """Set the row, or remove it where `value` is None."""
        if value is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = value

    def keys(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[bytes]:
        """Keys with start <= key < end; not to be changed meanwhile."""
        keys: Iterator[bytes] = self._rows.irange(start, end, (True, False), reverse)
        return keys


@attrs.define(eq=False)
class _Reader:
    """One who saw a state; `aside` holds what has changed of it since."""

    aside: _Rows[bytes | _Absent] = attrs.field(factory=_Rows)

    def keep(self, key: bytes, old: bytes | None) -> None:
        if key not in self.aside:
            self.aside.set(key, ABSENT if old is None else old)


@attrs.define(eq=False)
class StoreState:
    """What lies on the disk, and what the process that has it open sees."""

    rows: _Rows[bytes] = attrs.field(factory=_Rows)
    durable: _Rows[bytes] = attrs.field(factory=_Rows)
    batches: list[SimulatedBatch] = attrs.field(factory=list)
    damaged: set[bytes] = attrs.field(factory=set)
    readers: weakref.WeakSet[_Reader] = attrs.field(factory=weakref.WeakSet)
    open: bool = False

    def damage(self, key: bytes) -> None:
        """Let every read that meets the row of `key` find a bad block checksum."""
        assert key in self.rows
        self.damaged.add(key)

    def crash(self, random: Random) -> None:
        """Lose power or process: keep what was flushed and a prefix of the rest."""
        kept = random.randint(0, len(self.batches))
        for batch in self.batches[:kept]:
            _apply(self.durable, batch, ())
        self.batches.clear()
        self.rows = _Rows(self.durable)
        self.readers = weakref.WeakSet()
        self.open = False

    def write(self, batch: SimulatedBatch) -> None:
        # In the order of addresses, but each reader is told the same: no seed is hurt.
        _apply(self.rows, batch, tuple(self.readers))
        self.damaged.difference_update(key for _, key, _ in batch.changes)
        self.batches.append(batch)

    def flush(self) -> None:
        for batch in self.batches:
            _apply(self.durable, batch, ())
        self.batches.clear()

    def read(self, key: bytes, reader: _Reader | None) -> bytes | None:
        if reader is not None and key in reader.aside:
            old = reader.aside.get(key)
            return None if isinstance(old, _Absent) else old
        if key in self.damaged and key in self.rows:
            raise CorruptData(f"block checksum mismatch at row {key.hex()}")
        return self.rows.get(key)


@attrs.define(eq=False)
class _View:
    """Reads of one state, by the process of one boot."""

    _state: StoreState
    _boot: Boot
    _path: str
    _check: _Check
    _closed: bool = attrs.field(default=False, init=False)
    _reader: _Reader | None = None

    def get(self, key: bytes) -> bytes | None:
        self._check_usable("read")
        return self._state.read(key, self._reader)

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check_usable("read")
        reader = self._reader
        if reader is None:
            reader = _Reader()
            self._state.readers.add(reader)
        low, high = start, end
        while (key := self._next_key(reader, low, high, reverse)) is not None:
            self._check_usable("read")
            value = self._state.read(key, reader)
            if value is not None:
                yield key, value
            if reverse:
                high = key
            else:
                low = key + b"\0"  # The least key above.

    def page(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return list(islice(self.scan(start, end), limit))

    def close(self) -> None:
        self._closed = True

    def _next_key(
        self, reader: _Reader, low: bytes, high: bytes, reverse: bool
    ) -> bytes | None:
        """The first (or last) key with low <= key < high of rows and aside."""
        found: list[bytes] = []
        for rows in (self._state.rows, reader.aside):
            key = next(rows.keys(low, high, reverse=reverse), None)
            if key is not None:
                found.append(key)
        if not found:
            return None
        return max(found) if reverse else min(found)

    def _check_usable(self, operation: Literal["read", "write", "sync"]) -> None:
        self._boot.check()
        if self._closed:
            raise OSError(errno.EBADF, "the metadata store is closed", self._path)
        self._check(self._path, operation)


class SimulatedSnapshot(_View):
    """The state of one moment."""


class SimulatedStore(_View):
    """The store, opened by one process."""

    @classmethod
    def open(
        cls, state: StoreState, boot: Boot, path: str, check: _Check
    ) -> SimulatedStore:
        if state.open:
            raise BlockingIOError(errno.EAGAIN, "another process has it open", path)
        state.open = True
        return cls(state, boot, path, check)

    def batch(self) -> SimulatedBatch:
        return SimulatedBatch()

    def write(self, batch: Batch) -> None:
        assert isinstance(batch, SimulatedBatch)
        self._check_usable("write")
        assert not batch.written
        batch.written = True
        self._state.write(batch)

    def snapshot(self) -> SimulatedSnapshot:
        self._check_usable("read")
        reader = _Reader()
        self._state.readers.add(reader)
        return SimulatedSnapshot(self._state, self._boot, self._path, self._check, reader)

    def flush(self) -> None:
        self._check_usable("sync")
        self._state.flush()

    def memory_size(self) -> int:
        self._check_usable("read")
        return sum(batch.size() for batch in self._state.batches)

    def close(self) -> None:
        self.flush()
        self._closed = True
        self._state.open = False


def _apply(
    rows: _Rows[bytes],
    batch: SimulatedBatch,
    readers: tuple[_Reader, ...],
) -> None:
    for kind, key, value in batch.changes:
        if kind == "delete_range":
            for inner in list(rows.keys(key, value)):
                _set(rows, inner, None, readers)
        else:
            _set(rows, key, value if kind == "put" else None, readers)


def _set(
    rows: _Rows[bytes],
    key: bytes,
    value: bytes | None,
    readers: tuple[_Reader, ...],
) -> None:
    for reader in readers:
        reader.keep(key, rows.get(key))
    rows.set(key, value)
