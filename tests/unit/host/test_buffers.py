"""Buffers of large bytes: page-aligned, lent while a view of them lives, and no longer."""

from __future__ import annotations

import ctypes
import threading
from collections import deque

import pytest

from objstore.host.buffers import ALIGNMENT, BUFFER_SIZE, Buffers
from objstore.units import KiB, MiB


@pytest.mark.parametrize("size", [1, 4 * KiB, 64 * KiB + 1, MiB, BUFFER_SIZE, 3 * MiB])
def test_a_buffer_has_its_size_begins_at_a_page_and_can_be_written(size: int) -> None:
    view = Buffers().take(size)
    assert len(view) == size
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    assert address % ALIGNMENT == 0
    view[:] = b"x" * size
    assert bytes(view) == b"x" * size


def test_a_buffer_is_free_only_when_the_last_view_of_it_is_gone() -> None:
    pool = Buffers()
    view = pool.take(MiB)
    part = view[10:20].toreadonly()
    del view
    assert (pool.lent_count, pool.free_count) == (1, 0)
    other = pool.take(MiB)
    other[:] = b"y" * MiB
    assert b"y" not in bytes(part)
    del part
    assert (pool.lent_count, pool.free_count) == (1, 1)
    del other
    assert (pool.lent_count, pool.free_count) == (0, 2)
    again = pool.take(MiB)
    assert (pool.lent_count, pool.free_count) == (1, 1)
    del again


def test_only_so_many_are_kept_and_those_not_needed_are_given_back() -> None:
    pool = Buffers(kept_max=3)
    views = [pool.take(MiB) for _ in range(5)]
    views.clear()
    assert pool.free_count == 3
    pool.trim()
    views = [pool.take(MiB) for _ in range(2)]
    views.clear()
    pool.trim()  # One was never needed since the last time.
    assert pool.free_count == 2
    pool.trim()
    assert pool.free_count == 0


def test_views_may_end_in_any_thread() -> None:
    pool = Buffers()

    def work() -> None:
        for number in range(500):
            view = pool.take(100 * KiB)
            view[:4] = number.to_bytes(4, "big")
            assert bytes(view[:4]) == number.to_bytes(4, "big")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.lent_count == 0
    assert pool.free_count <= 4


def test_a_trim_survives_a_thread_that_takes_what_it_counted() -> None:
    class Raced(deque):
        def __len__(self) -> int:
            return 1  # What there was a moment ago.

    pool = Buffers()
    pool._free, pool._least_free = Raced(), 1
    pool.trim()
    assert next(iter(pool._free), None) is None
