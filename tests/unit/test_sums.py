"""Sums of a block's pieces."""

from __future__ import annotations

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.limits import BLOCK_SIZE, PIECE_SIZE
from objstore.sums import Summing, Sums

DATA = bytes(range(251)) * (BLOCK_SIZE // 251 + 1)
SIZES = [0, 1, PIECE_SIZE - 1, PIECE_SIZE, PIECE_SIZE + 1, 300_001, BLOCK_SIZE]


def crc(data: bytes) -> int:
    value: int = google_crc32c.value(data)
    return value


@pytest.mark.parametrize("size", SIZES)
def test_sums_are_those_of_the_bytes(size: int) -> None:
    data = DATA[:size]
    starts = range(0, size, PIECE_SIZE)
    pieces = tuple(crc(data[start : start + PIECE_SIZE]) for start in starts)
    assert Sums.of(memoryview(data)) == Sums(pieces, size, crc(data))


@given(size=st.sampled_from(SIZES), cuts=st.lists(st.integers(1, 400_000), min_size=1))
def test_however_a_block_comes_its_sums_are_the_same(size: int, cuts: list[int]) -> None:
    block = memoryview(bytearray(size))
    summing, there, turn = Summing(block), 0, 0
    while there < size:
        part = DATA[there:size][: cuts[turn % len(cuts)]]
        block[there : there + len(part)] = part
        summing.add(len(part))
        there, turn = there + len(part), turn + 1
    assert summing.end() == Sums.of(DATA[:size])


@given(st.integers(0, 300_001), st.integers(0, 300_001))
def test_of_a_part_what_its_pieces_tell(one: int, other: int) -> None:
    start, end = sorted((one, other))
    for first in (start, start - start % PIECE_SIZE):
        for last in (end, end - end % PIECE_SIZE, 300_001):
            if first > last:
                continue
            found = Sums.of(DATA[:300_001]).crc32c_of(first, last)
            aligned = not first % PIECE_SIZE and (not last % PIECE_SIZE or last == 300_001)
            assert found == (crc(DATA[first:last]) if aligned else None)
