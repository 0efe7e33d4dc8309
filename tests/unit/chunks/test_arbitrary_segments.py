"""Segments of arbitrary bytes: a store opens over them, and serves no wrong byte (F06, F08)."""

from __future__ import annotations

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from objstore.chunks.format import SEGMENT_HEADER_SIZE
from objstore.chunks.fragment import CorruptFragment, NoSuchFragment
from objstore.limits import RECORD_ALIGNMENT
from objstore.testing.host import SimulatedWorld

from .stores import BLOCK, Node, content, get, put

SIZE = 2 * BLOCK + 100
COUNT = 3
END = SEGMENT_HEADER_SIZE + 4 * COUNT * BLOCK
OFFSETS = st.integers(0, END) | st.integers(0, END // RECORD_ALIGNMENT).map(
    lambda page: page * RECORD_ALIGNMENT
)
SCRIBBLES = st.lists(
    st.tuples(OFFSETS, st.binary(min_size=1, max_size=300)), min_size=1, max_size=4
)


def scribble(node: Node, changes: list[tuple[int, bytes]]) -> None:
    path = node.segments()[0]
    folder, _, name = path.rpartition("/")
    file = node.host.disks.directory(folder).open(name)
    for offset, data in changes:
        file.write_at(offset, data)
    file.sync()
    file.close()


async def filled() -> Node:
    node = Node(SimulatedWorld(1))
    async with node.running() as store:
        for number in range(COUNT):
            await put(store, number, content(number, SIZE))
    return node


async def check(node: Node, *, loses_index: bool) -> None:
    if loses_index:
        node.lose_index()
    async with node.running() as store:
        for number in range(COUNT):
            try:
                data = await get(store, number)
            except (CorruptFragment, NoSuchFragment):
                continue
            assert data == content(number, SIZE)
        await store.walk(None, 100)
        await put(store, 77, content(77, SIZE))
        assert await get(store, 77) == content(77, SIZE)


@settings(max_examples=80)
@given(SCRIBBLES, st.booleans())
@example([(0, bytes(SEGMENT_HEADER_SIZE))], True)
@example([(SEGMENT_HEADER_SIZE, b"\xff" * 300)], True)
def test_scribbled_on_segments_never_serve_a_wrong_byte(
    changes: list[tuple[int, bytes]], loses_index: bool
) -> None:
    async def main() -> None:
        node = await filled()
        scribble(node, changes)
        await check(node, loses_index=loses_index)

    trio.run(main)


@settings(max_examples=60)
@given(st.integers(0, END), st.integers(0, END), st.integers(1, 3 * BLOCK), st.booleans())
def test_pieces_of_a_segment_elsewhere_never_serve_a_wrong_byte(
    source: int, target: int, size: int, loses_index: bool
) -> None:
    """F08: sectors that were written to the wrong place have right checksums."""

    async def main() -> None:
        node = await filled()
        found = node.disk.contents(node.segments()[0])[source : source + size]
        scribble(node, [(target, found or b"\0")])
        scribble(node, [(target // RECORD_ALIGNMENT * RECORD_ALIGNMENT, found or b"\0")])
        await check(node, loses_index=loses_index)

    trio.run(main)
