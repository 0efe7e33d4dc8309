"""The store as its callers see it: fragments written, read, found, deleted."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.chunks.driver import READ_SIZE_MIN, READ_WINDOW, READS_OFTEN
from objstore.chunks.fragment import NoSuchFragment
from objstore.chunks.store import BegunRun, ChunkStore
from objstore.chunks.worker import CompactionState, Compactor
from objstore.errors import CorruptData, InvalidRequest, Unavailable
from objstore.ids import FragmentId
from objstore.limits import PIECE_SIZE
from objstore.sums import Sums, crc32c
from objstore.testing.disk import (
    DiskFault,
    DiskOperation,
    SimulatedFile,
    SimulatedRead,
)
from objstore.testing.host import SimulatedWorld
from objstore.units import KiB, MiB

from .stores import (
    BLOCK,
    OWNER,
    Node,
    blocks_of,
    content,
    fragment_id,
    get,
    header_of,
    put,
)


def make() -> Node:
    return Node(SimulatedWorld(1))


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 100_001])
async def test_what_was_committed_is_read_back(size: int) -> None:
    data = content(size, size)
    async with make().running() as store:
        fragment = await put(store, 1, data)
        assert await get(store, fragment) == data
        (stat,) = await store.stat([fragment])
        assert stat is not None
        assert stat.header == header_of(1, size)
        assert stat.header.owner == OWNER


@given(
    size=st.integers(0, 6 * BLOCK),
    ranges=st.lists(
        st.tuples(st.integers(0, 7 * BLOCK), st.integers(0, 7 * BLOCK)), max_size=5
    ),
)
@settings(max_examples=25, deadline=None)
def test_any_range_is_read_as_verified_blocks_in_order(
    size: int, ranges: list[tuple[int, int]]
) -> None:
    async def run() -> None:
        data = content(size, size)
        async with make().running() as store:
            fragment = await put(store, 1, data)
            for offset, length in ranges:
                blocks = await store.read(fragment, offset, length)
                assert b"".join(b.data for b in blocks) == data[offset : offset + length]
                at = offset
                for block in blocks:
                    assert block.offset == at
                    at += len(block.data)

    trio.run(run)


async def test_page_cache_is_asked_only_for_what_was_read_often(monkeypatch) -> None:
    """Asking for what is not there fills it, and with more than was asked for."""
    asked: list[tuple[int, int]] = []

    def read_now(file: SimulatedFile, offset: int, size: int) -> None:
        asked.append((offset, size))

    monkeypatch.setattr(SimulatedFile, "read_now", read_now)
    async with make().running() as store:
        fragment = await put(store, 1, content(1, BLOCK))
        for _ in range(READS_OFTEN * READ_WINDOW // READ_SIZE_MIN):
            await store.read_run(fragment, 0, BLOCK)
        assert not asked
        await store.read_run(fragment, 0, BLOCK)
        assert asked


async def test_fragment_is_not_there_before_its_commit_nor_after_an_abort() -> None:
    async with make().running() as store:
        writer = await store.create(header_of(1, 3 * BLOCK))
        for block in blocks_of(content(1, 3 * BLOCK)):
            await writer.append(block)
        with pytest.raises(NoSuchFragment):
            await get(store, 1)
        await writer.abort()
        await writer.abort()
        with pytest.raises(NoSuchFragment):
            await get(store, 1)
        assert await store.stat([fragment_id(1)]) == [None]
        assert await store.walk(None, 10) == []
        with pytest.raises(InvalidRequest):
            await writer.append(b"x")


async def test_writers_share_a_segment_and_finish_in_any_order() -> None:
    async with make().running() as store:
        data = {n: content(n, 4 * BLOCK + 1 + n) for n in range(8)}
        writers = {n: await store.create(header_of(n, len(data[n]))) for n in data}
        for step in range(5):
            for n, writer in writers.items():
                await writer.append(blocks_of(data[n])[step])
        for n in (5, 0, 7, 1, 2, 6, 4, 3):
            await writers[n].commit()
        for n, expected in data.items():
            assert await get(store, n) == expected


async def test_blocks_may_come_in_any_order_but_each_once_and_of_its_size() -> None:
    data = content(3, 3 * BLOCK + 5)
    blocks = blocks_of(data)
    async with make().running() as store:
        writer = await store.create(header_of(1, len(data)))
        for number in (3, 1, 0):
            await writer.write_block(number, blocks[number])
        with pytest.raises(InvalidRequest):
            await writer.write_block(1, blocks[1])
        with pytest.raises(InvalidRequest):
            await writer.write_block(4, b"")
        with pytest.raises(InvalidRequest):
            await writer.write_block(2, blocks[2][:-1])
        with pytest.raises(InvalidRequest):
            await writer.commit()
        await writer.write_block(2, blocks[2])
        await writer.commit()
        assert await get(store, 1) == data


@pytest.mark.parametrize("sums", [None, Sums.of(b"0123456789")])
async def test_block_that_was_damaged_on_its_way_is_refused(sums: Sums | None) -> None:
    async with make().running() as store:
        writer = await store.create(header_of(1, 10))
        with pytest.raises(CorruptData):
            await writer.append(b"0123456789", crc32c(b"0123456788"), sums)
        await writer.abort()


async def test_concurrent_commits_share_syncs() -> None:
    node = make()
    node.world.threads("a").delay_s = 0.01
    async with node.running() as store:
        await put(store, 0, b"first")
        syncs = node.count("sync")
        async with trio.open_nursery() as nursery:
            for n in range(1, 41):
                nursery.start_soon(put, store, n, content(n, 100))
    assert 1 <= syncs._calls <= 5


async def test_deleted_fragment_is_gone_and_deleting_twice_is_no_error() -> None:
    node = make()
    async with node.running() as store:
        for n in range(3):
            await put(store, n, content(n, 100_000))
        await store.delete([fragment_id(0), fragment_id(2), fragment_id(9)])
        await store.delete([fragment_id(0)])
        for n in (0, 2):
            with pytest.raises(NoSuchFragment):
                await get(store, n)
        assert await get(store, 1) == content(1, 100_000)
        (space,) = store.space()
        assert space.fragments == 1
    async with node.running() as store:
        assert [s.header.fragment for s in await store.walk(None, 10)] == [fragment_id(1)]
    node.lose_index()
    async with node.running() as store:
        assert [s.header.fragment for s in await store.walk(None, 10)] == [fragment_id(1)]


async def test_a_record_that_was_deleted_stays_so_with_those_that_it_had_replaced() -> None:
    node = make()
    async with node.running() as store:
        await put(store, 1, content("a", 1000))
        await put(store, 1, content("b", 2000))
        record = store.record_of(fragment_id(1))
        assert record is not None
        await store.delete_record(fragment_id(1), record)
        assert store.record_of(fragment_id(1)) is None
    node.lose_index()
    async with node.running() as store:
        assert await store.walk(None, 10) == []


async def test_writing_a_fragment_again_replaces_it() -> None:
    node = make()
    async with node.running() as store:
        await put(store, 1, content("a", 1000))
        await put(store, 1, content("b", 2000))
        assert await get(store, 1) == content("b", 2000)
        (space,) = store.space()
        assert space.fragments == 1
    node.lose_index()
    async with node.running() as store:
        assert await get(store, 1) == content("b", 2000)


async def test_walk_goes_by_id_in_pages() -> None:
    async with make().running() as store:
        for n in (4, 1, 3, 0, 2):
            await put(store, n, b"x")
        first = await store.walk(None, 2)
        rest = await store.walk(first[-1].header.fragment, 10)
        found = [stat.header.fragment for stat in first + rest]
        assert found == [fragment_id(n) for n in range(5)]


async def test_segments_fill_up_and_new_ones_follow() -> None:
    node = make()
    async with node.running() as store:
        for n in range(12):
            await put(store, n, content(n, MiB), block_size=256 * KiB)
        assert len(node.segments()) == 3
        for n in range(12):
            assert await get(store, n) == content(n, MiB)
        (space,) = store.space()
        assert space.fragments == 12
        assert 12 * MiB <= space.live <= 13 * MiB
    async with node.running() as store:
        for n in range(12):
            assert await get(store, n) == content(n, MiB)


async def test_fragment_larger_than_a_segment_has_one_of_its_own_size() -> None:
    node = make()
    async with node.running() as store:
        await put(store, 1, content(1, 6 * MiB), block_size=MiB)
        assert await get(store, 1, 7 * MiB) == content(1, 6 * MiB)


async def test_store_starts_again_after_a_clean_stop_without_reading_segments() -> None:
    node = make()
    async with node.running() as store:
        await put(store, 1, content(1, 1000))
    async with node.running() as store:  # Seals what was active.
        assert await get(store, 1) == content(1, 1000)
    reads = node.count("read")
    async with node.running() as store:
        assert reads._calls == 0
        assert await get(store, 1) == content(1, 1000)
        await put(store, 2, b"more")
        assert await get(store, 2) == b"more"


async def test_last_blocks_beyond_what_may_be_held_are_written_at_once() -> None:
    async with make().running() as store:
        store._held.size = 32 * MiB
        await put(store, 1, content(1, BLOCK + 1))
        await put(store, 2, content(2, 1))
        assert await get(store, 1) == content(1, BLOCK + 1)
        assert await get(store, 2) == content(2, 1)
        assert store._held.size == 32 * MiB


async def test_cancelled_writer_leaves_nothing_behind() -> None:
    node = make()
    node.world.threads("a").delay_s = 0.01
    async with node.running() as store:
        with trio.move_on_after(0.025):
            writer = await store.create(header_of(1, 100 * BLOCK))
            try:
                for block in blocks_of(content(1, 100 * BLOCK)):
                    await writer.append(block)
            finally:
                with trio.CancelScope(shield=True):
                    await writer.abort()
        with pytest.raises(NoSuchFragment):
            await get(store, 1)
        drive = next(iter(store.drives.values()))
        assert all(not segment.open for segment in drive.segments.values())


@pytest.mark.parametrize("operation", ["read", "write"])
async def test_an_index_that_fails_ends_the_node_and_is_nobodys_internal_error(
    operation: DiskOperation,
) -> None:
    """F11: whoever asked is told to ask another, and not that this was not foreseen."""
    node, heard = make(), list[Exception]()
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with node.running() as store:
            fragment = await put(store, 1, b"x")
            node.disk.inject(DiskFault("/data/meta", operation, count=None))
            try:
                await (get(store, 1) if operation == "read" else store.delete([fragment]))
            except Exception as error:
                heard.append(error)
            await trio.sleep_forever()
    assert [type(error) for error in heard] == [Unavailable]


SEVERAL_PIECES = 4 * PIECE_SIZE


def read_early(store: ChunkStore, fragment: FragmentId) -> BegunRun:
    """A read that is under way: the drive has read, and nobody has heard of it yet."""
    begun = store.begin_run(fragment, 0, SEVERAL_PIECES)
    assert isinstance(begun, BegunRun)
    reading = begun._begun
    assert isinstance(reading, SimulatedRead)
    reading._data = reading._file.read_at(reading._offset, reading._size)
    return begun


async def test_a_read_that_ends_after_its_fragment_was_moved_is_soon_forgotten() -> None:
    """What it knows of the record's place must not outlive the place."""
    async with make().running() as store:
        for n in range(24):
            await put(store, n, content(n, SEVERAL_PIECES), block_size=PIECE_SIZE)
        await store.delete([fragment_id(n) for n in range(24) if n % 4])
        begun = read_early(store, fragment_id(4))
        compactor = Compactor(store, copy_rate=1 << 40)
        while await compactor.work_once() is CompactionState.BUSY:
            pass
        await begun.wait()
        assert await get(store, 4) == content(4, SEVERAL_PIECES)


async def test_a_read_that_ends_after_its_fragment_was_replaced_is_soon_forgotten() -> None:
    async with make().running() as store:
        await put(store, 4, content("old", SEVERAL_PIECES), block_size=PIECE_SIZE)
        begun = read_early(store, fragment_id(4))
        await put(store, 4, content("new", SEVERAL_PIECES), block_size=PIECE_SIZE)
        await begun.wait()
        assert await get(store, 4) == content("new", SEVERAL_PIECES)


async def test_a_read_that_ends_after_its_fragment_was_deleted_is_soon_forgotten() -> None:
    async with make().running() as store:
        await put(store, 4, content(4, SEVERAL_PIECES), block_size=PIECE_SIZE)
        begun = read_early(store, fragment_id(4))
        await store.delete([fragment_id(4)])
        await begun.wait()
        with pytest.raises(NoSuchFragment, match="not here"):
            await get(store, 4)
