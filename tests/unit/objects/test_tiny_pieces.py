"""Bodies that come a few bytes at a time: memory stays what the budget was told."""

import tracemalloc

from objstore.limits import BLOCK_SIZE
from objstore.objects.intake import _Blocks
from objstore.objects.requests import read_whole
from objstore.units import KiB

PIECE = b"sixteen bytes..."


async def pieces(size):
    for _ in range(size // len(PIECE)):
        yield bytes(bytearray(PIECE))  # An object of its own, as a socket gives it.


class NoHasher:
    async def update(self, data):
        pass


async def nothing():
    pass


async def test_a_block_of_tiny_pieces_takes_hardly_more_memory_than_its_size():  # F43
    blocks = _Blocks(pieces(BLOCK_SIZE), NoHasher(), nothing)
    tracemalloc.start()
    try:
        (block,) = [block async for block in blocks.take(BLOCK_SIZE)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert block.data == PIECE * (BLOCK_SIZE // len(PIECE))
    assert peak < 3 * BLOCK_SIZE  # As objects they would be 15 MiB.


async def test_a_body_read_whole_takes_hardly_more_memory_than_its_size():  # F43
    size = 256 * KiB
    tracemalloc.start()
    try:
        whole = await read_whole(pieces(size))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert whole == PIECE * (size // len(PIECE))
    assert peak < 3 * size


async def test_short_and_long_pieces_are_joined_in_order():
    async def mixed():
        for number, size in enumerate([1, 5000, 3, 3, 9000, 1, 1, 5000]):
            yield bytes([number]) * size

    expected = await read_whole(mixed())
    blocks = _Blocks(mixed(), NoHasher(), nothing)
    assert b"".join([block.data async for block in blocks.take(len(expected))]) == expected
