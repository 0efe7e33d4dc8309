"""Chunking: the blocks are the stream, cut at the same places however it comes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from objstore.ec.chunking import Block, Chunker

sizes = st.tuples(st.integers(1, 8), st.integers(0, 20)).map(lambda t: (t[0] + t[1], t[0]))


def cut(pieces: list[bytes], chunk_size: int, block_size: int) -> list[Block]:
    chunker = Chunker(chunk_size, block_size)
    blocks = [block for piece in pieces for block in chunker.feed(piece)]
    return blocks + chunker.close()


@given(st.lists(st.binary(max_size=30), max_size=12), sizes)
def test_blocks_join_to_the_stream_and_have_their_sizes(
    pieces: list[bytes], shape: tuple[int, int]
) -> None:
    chunk_size, block_size = shape
    stream = b"".join(pieces)
    blocks = cut(pieces, chunk_size, block_size)
    assert b"".join(block.data for block in blocks) == stream
    expected = []
    for chunk, start in enumerate(range(0, len(stream), chunk_size)):
        end = min(start + chunk_size, len(stream))
        for number, offset in enumerate(range(start, end, block_size)):
            size = min(block_size, end - offset)
            expected.append((chunk, number, offset - start, size))
    assert [(b.chunk, b.number, b.offset, len(b.data)) for b in blocks] == expected


@given(st.binary(max_size=100), sizes, st.lists(st.integers(0, 100)))
def test_cuts_do_not_depend_on_how_the_stream_came(
    stream: bytes, shape: tuple[int, int], at: list[int]
) -> None:
    edges = sorted({0, len(stream), *(min(place, len(stream)) for place in at)})
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    assert cut(pieces, *shape) == cut([stream], *shape)


def test_block_is_out_as_soon_as_it_is_complete() -> None:
    chunker = Chunker(8, 4)
    assert chunker.feed(b"abc") == []
    assert [bytes(block.data) for block in chunker.feed(b"defghi")] == [b"abcd", b"efgh"]
    assert [bytes(block.data) for block in chunker.close()] == [b"i"]
    assert chunker.size == 9


def test_block_within_one_buffer_is_not_copied() -> None:
    buffer = bytes(100)
    (block,) = Chunker(64, 64).feed(buffer)
    assert block.data.obj is buffer


def test_many_small_pieces_hold_no_more_than_their_bytes() -> None:
    chunker = Chunker(1000, 1000)
    for _ in range(999):
        assert chunker.feed(b"x") == []
    (block,) = chunker.feed(b"x")
    assert bytes(block.data) == b"x" * 1000


def test_empty_stream_has_no_block() -> None:
    assert cut([], 4, 4) == []
    assert cut([b"", b""], 4, 4) == []


def test_stream_that_ends_with_a_chunk_has_no_further_block() -> None:
    assert [block.chunk for block in cut([b"abcdefgh"], 4, 2)] == [0, 0, 1, 1]
