"""Rot, misplaced sectors, torn writes, a lost index: never a wrong byte (F05, F06, F08)."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from structlog.testing import capture_logs

from objstore.chunks.format import SEGMENT_HEADER_SIZE, extent_of
from objstore.chunks.fragment import CorruptFragment, NoSuchFragment
from objstore.testing.host import SimulatedWorld

from .stores import BLOCK, Node, content, fragment_id, get, header_of, put

SIZE = 3 * BLOCK + 100
EXTENT = extent_of(header_of(1, SIZE))
FIRST = SEGMENT_HEADER_SIZE  # Where the first record lies.
SECOND = FIRST + EXTENT.size


@attrs.frozen
class Part:
    """A part of a record, and whether a read that has the index needs it."""

    name: str
    offset: int
    is_read: bool


PARTS = [
    Part("header", 30, is_read=False),
    Part("first block", EXTENT.payload_offset + 5, is_read=True),
    Part("last block", EXTENT.payload_offset + SIZE - 1, is_read=True),
    Part("table", EXTENT.table_offset + 1, is_read=True),
    Part("trailer", EXTENT.table_offset + EXTENT.tail_size - 9, is_read=True),
]
each_part = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)


def make() -> Node:
    return Node(SimulatedWorld(1))


async def three(node: Node) -> None:
    async with node.running() as store:
        for n in range(3):
            await put(store, n, content(n, SIZE))


@each_part
async def test_rotten_fragment_is_never_served_but_quarantined_and_told(part: Part) -> None:
    """F06"""
    node = make()
    await three(node)
    node.disk.flip_bit(node.segments()[0], offset=SECOND + part.offset)
    async with node.running() as store:
        if not part.is_read:
            assert await get(store, 1) == content(1, SIZE)
            assert await store.stat([fragment_id(1)]) == [None]  # Here it is needed.
        else:
            with capture_logs() as logs, pytest.raises(CorruptFragment):
                await get(store, 1)
            assert [line["event"] for line in logs] == ["chunks.fragment_corrupt"]
            header = header_of(1, SIZE)
            assert node.damage == [(fragment_id(1), header)]
            assert await store.stat([fragment_id(1)]) == [None]
        with pytest.raises(CorruptFragment):  # At once, and not told again.
            await get(store, 1)
        assert len(node.damage) == 1
        for n in (0, 2):
            assert await get(store, n) == content(n, SIZE)
        assert len(await store.walk(None, 10)) == 2


@each_part
async def test_rot_is_found_though_the_index_is_lost(part: Part) -> None:
    """F06: a header costs its own record only; a damaged trailer quarantines at once."""
    node = make()
    await three(node)
    node.disk.flip_bit(node.segments()[0], offset=SECOND + part.offset)
    node.lose_index()
    async with node.running() as store:
        for n in (0, 2):
            assert await get(store, n) == content(n, SIZE)
        with pytest.raises(NoSuchFragment if part.name == "header" else CorruptFragment):
            await get(store, 1)
        (space,) = store.space()
        assert space.damaged_segments == (part.name == "header")


async def test_rot_in_the_segment_header_costs_nothing() -> None:
    """F06: the nonce is in the first record too."""
    node = make()
    await three(node)
    node.disk.flip_bit(node.segments()[0], offset=20)
    node.lose_index()
    async with node.running() as store:
        for n in range(3):
            assert await get(store, n) == content(n, SIZE)


async def test_segment_whose_header_and_first_record_are_gone_is_kept_and_not_served() -> (
    None
):
    node = make()
    await three(node)
    for offset in (20, FIRST + 30):
        node.disk.flip_bit(node.segments()[0], offset=offset)
    node.lose_index()
    async with node.running() as store:
        assert await store.walk(None, 10) == []
        (space,) = store.space()
        assert space.damaged_segments == 1
        await put(store, 5, b"new")
        assert await get(store, 5) == b"new"
    assert len(node.segments()) == 2


def _swap(node: Node, one: int, other: int, size: int) -> None:
    path = node.segments()[0]
    disk = node.disk
    data = disk.contents(path)
    file = disk._file(path)
    for present in (file.present, file.durable):
        present.write(one, data[other : other + size])
        present.write(other, data[one : one + size])


@pytest.mark.parametrize(
    "swap",
    [
        lambda node: _swap(node, FIRST, SECOND, EXTENT.size),
        lambda node: _swap(
            node, FIRST + EXTENT.payload_offset, SECOND + EXTENT.payload_offset, SIZE
        ),
        lambda node: _swap(
            node,
            FIRST + EXTENT.payload_offset,
            FIRST + EXTENT.payload_offset + BLOCK,
            BLOCK,
        ),
        lambda node: _swap(
            node, FIRST + EXTENT.payload_offset, SECOND + EXTENT.payload_offset, 4096
        ),
        lambda node: _swap(
            node,
            FIRST + EXTENT.table_offset,
            SECOND + EXTENT.table_offset,
            EXTENT.tail_size,
        ),
    ],
    ids=["records", "payloads", "blocks of one", "sectors", "tails"],
)
@pytest.mark.parametrize("index", ["kept", "lost"])
async def test_bytes_in_the_wrong_place_are_never_served(
    swap: Callable[[Node], None], index: str
) -> None:
    """F08"""
    node = make()
    await three(node)
    swap(node)
    if index == "lost":
        node.lose_index()
    async with node.running() as store:
        for n in range(3):
            try:
                assert await get(store, n) == content(n, SIZE)
            except (CorruptFragment, NoSuchFragment):
                assert n != 2
                continue


async def test_newer_write_ends_a_quarantine() -> None:
    node = make()
    await three(node)
    node.disk.flip_bit(node.segments()[0], offset=SECOND + EXTENT.payload_offset)
    async with node.running() as store:
        with pytest.raises(CorruptFragment):
            await get(store, 1)
        await put(store, 1, content(1, SIZE))
        assert await get(store, 1) == content(1, SIZE)
        drive = next(iter(store.drives.values()))
        assert sum(segment.quarantined for segment in drive.segments.values()) == 0
    node.lose_index()
    async with node.running() as store:  # The later record is taken, not the rotten one.
        assert await get(store, 1) == content(1, SIZE)


async def test_delete_ends_a_quarantine() -> None:
    node = make()
    await three(node)
    node.disk.flip_bit(node.segments()[0], offset=SECOND + EXTENT.payload_offset)
    async with node.running() as store:
        with pytest.raises(CorruptFragment):
            await get(store, 1)
        await store.delete([fragment_id(1)])
        with pytest.raises(NoSuchFragment):
            await get(store, 1)
    node.lose_index()
    async with node.running() as store:
        with pytest.raises(NoSuchFragment):
            await get(store, 1)


async def test_older_copy_of_a_segment_is_noticed() -> None:
    """F08: a disk rolled back; what is missing in it is not served as something else."""
    node = make()
    async with node.running() as store:
        await put(store, 0, content(0, SIZE))
        old = node.disk.contents(node.segments()[0])
        await put(store, 1, content(1, SIZE))
        await put(store, 2, content(2, SIZE))
    file = node.disk._file(node.segments()[0])
    for present in (file.present, file.durable):
        present.write(0, old)
    async with node.running() as store:
        assert await get(store, 0) == content(0, SIZE)
        for n in (1, 2):
            with pytest.raises((CorruptFragment, NoSuchFragment)):
                await get(store, n)


async def test_segment_file_that_vanished_is_damage() -> None:
    node = make()
    await three(node)
    async with node.running() as store:
        folder = node.host.disks.directory("/data/chunks")
        folder.remove(node.segments()[0].rpartition("/")[2])
        with pytest.raises(CorruptFragment):
            await get(store, 1)
    async with node.running() as store:
        with pytest.raises(NoSuchFragment):
            await get(store, 0)


async def test_upload_that_looks_like_a_segment_does_not_become_fragments() -> None:
    """Bytes of a client cannot pose as records, even where a scan stumbles into them."""
    node = make()
    await three(node)
    forged = node.disk.contents(node.segments()[0])
    forged = forged[: SECOND + 2 * EXTENT.size]
    other = Node(SimulatedWorld(2))
    async with other.running() as store:
        writer = await store.create(header_of(9, len(forged), block_size=1 << 20))
        await writer.append(forged)
        await writer.commit()
    other.disk.flip_bit(other.segments()[0], offset=FIRST + 40)
    other.lose_index()
    async with other.running() as store:
        assert await store.walk(None, 10) == []


async def test_damaged_index_row_counts_as_none_and_is_written_anew() -> None:
    """F06: (d), the row of the embedded store."""
    node = make()
    await three(node)
    state = node.disk.store("/data/meta")
    key = b"\xff\xfef" + fragment_id(1).encode()
    value = state.read(key, None)
    assert value is not None
    state.rows.set(key, value[:-1] + bytes((value[-1] ^ 1,)))
    async with node.running() as store:
        with pytest.raises(NoSuchFragment):
            await get(store, 1)
        await put(store, 1, content(1, SIZE))
        assert await get(store, 1) == content(1, SIZE)
