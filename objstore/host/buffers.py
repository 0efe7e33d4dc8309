"""Buffers for large bytes: begin at a page, and are used again and again.

    take(size) --> memoryview --> views of views, in any task and thread --> the last one
         ^                                                                    is dropped
         '------------------------- kept for the next one <--------------------'

A body passes through a few buffers of a block each.  Memory that the allocator gives back
to the system after each of them has to be faulted in page by page for the next, which
costs as much as a few copies of its bytes; and a drive takes bytes past the page cache
only from where a sector of memory begins (`real_disk`).

Nobody says when a buffer is free: it is when the last view of it is gone, as with any
other memory.  What is free is kept, up to KEPT_MAX; `trim`, called now and then, gives back
what was not needed since the last time, so that a node at rest keeps nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import deque
from contextlib import suppress

from objstore.units import KiB, MiB

ALIGNMENT = 4 * KiB
# A block with what lies around it in a record: header, table and trailer.
BUFFER_SIZE = 1 * MiB + 16 * KiB
KEPT_MAX = 64
_SMALL_MAX = 64 * KiB  # Up to here the allocator does well.
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

_Lent = ctypes.c_char * BUFFER_SIZE


class _Loan(weakref.ref["ctypes.Array[ctypes.c_char]"]):
    """Watches a buffer that is in use."""

    __slots__ = ("memory",)
    memory: mmap.mmap
    __hash__ = object.__hash__  # Of the loan itself, and not of what it watches.
    __eq__ = object.__eq__


class Buffers:
    """The buffers of a process.  Safe to call from any thread."""

    def __init__(self, *, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._free: deque[mmap.mmap] = deque()  # The one used last is the first again.
        self._loans: set[_Loan] = set()
        self._least_free = 0  # Since the last `trim`.

    @property
    def lent_count(self) -> int:
        return len(self._loans)

    @property
    def free_count(self) -> int:
        return len(self._free)

    def take(self, size: int) -> memoryview:
        """A writable buffer of `size` bytes that begins at a page; its bytes are chance."""
        if size > BUFFER_SIZE:
            return memoryview(mmap.mmap(-1, size, flags=_FLAGS))
        if size <= _SMALL_MAX:
            return _aligned(size)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, BUFFER_SIZE, flags=_FLAGS)
        self._least_free = min(self._least_free, len(self._free))
        lent = _Lent.from_buffer(memory)
        loan = _Loan(lent, self._give_back)
        loan.memory = memory
        self._loans.add(loan)
        return memoryview(lent).cast("B")[:size]

    def _give_back(self, loan: weakref.ref[ctypes.Array[ctypes.c_char]]) -> None:
        assert isinstance(loan, _Loan)
        self._loans.discard(loan)
        if len(self._free) < self._kept_max:
            self._free.append(loan.memory)

    def trim(self) -> None:
        """Give back to the system what was free ever since the last call."""
        surplus = min(self._least_free, len(self._free))
        with suppress(IndexError):  # A thread has taken one meanwhile.
            for _ in range(surplus):
                self._free.popleft()
        self._least_free = len(self._free)


def _aligned(size: int) -> memoryview:
    memory = bytearray(size + ALIGNMENT)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    start = -address % ALIGNMENT
    return memoryview(memory)[start : start + size]


POOL = Buffers()
