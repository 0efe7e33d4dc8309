"""Space comes back: what is chosen, and what rewriting keeps."""

from __future__ import annotations

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from objstore.chunks.compaction import LIVE_RATIO, SegmentUse, Step, next_step
from objstore.chunks.driver import MovedAway
from objstore.chunks.format import Extent
from objstore.chunks.fragment import CorruptFragment, NoSuchFragment
from objstore.chunks.worker import CompactionState, Compactor
from objstore.testing.disk import DiskFault
from objstore.testing.host import SimulatedWorld
from objstore.units import KiB, MiB

from .stores import BLOCK, Node, blocks_of, content, fragment_id, get, header_of, put

SIZE = 512 * KiB
FULL = 100


def use(number: int, live: int, **other: bool) -> SegmentUse:
    flags = {"is_settled": True, "is_damaged": False} | other
    return SegmentUse(number, live, int(live > 0), **flags)


def test_dead_segments_go_first_then_the_emptiest() -> None:
    segments = [use(1, 30), use(2, 0), use(3, 20), use(4, 90), use(9, 0)]
    assert next_step(segments, segment_size=FULL) == (Step.REMOVE, 2)
    del segments[1]
    assert next_step(segments, segment_size=FULL) == (Step.REWRITE, 3)


@pytest.mark.parametrize(
    "segment",
    [
        use(1, 50),
        use(1, 0, is_settled=False),
        use(1, 0, is_damaged=True),
        use(9, 0),
    ],
    ids=["full enough", "written to", "damaged", "the last number"],
)
def test_some_segments_are_left_alone(segment: SegmentUse) -> None:
    others = [use(8, 99)]
    assert next_step([segment, *others], segment_size=FULL) is None


@given(st.lists(st.builds(use, st.integers(1, 20), st.integers(0, 120)), max_size=20))
def test_what_is_chosen_always_wins_more_than_it_costs(segments: list[SegmentUse]) -> None:
    step = next_step(segments, segment_size=FULL)
    if step is not None:
        chosen = min(s.live_size for s in segments if s.number == step[1])
        assert chosen < LIVE_RATIO * FULL
        assert step[1] < max(s.number for s in segments)


async def compact(store) -> int:
    compactor = Compactor(store, copy_rate=1 << 40)
    rounds = 0
    while await compactor.work_once() is CompactionState.BUSY:
        rounds += 1
    return rounds


async def filled(node: Node, count: int = 24) -> None:
    """Three segments of eight fragments each."""
    for n in range(count):
        await put(node.store, n, content(n, SIZE), block_size=128 * KiB)


async def test_rewriting_keeps_the_living_and_frees_the_rest() -> None:
    node = Node(SimulatedWorld(1))
    async with node.running() as store:
        await filled(node)
        await store.delete([fragment_id(n) for n in range(24) if n % 4])
        assert await compact(store) >= 2
        for n in range(24):
            if n % 4:
                with pytest.raises(NoSuchFragment):
                    await get(store, n)
            else:
                assert await get(store, n) == content(n, SIZE)
        (space,) = store.space()
        assert space.fragments == 6
        assert len(node.segments()) <= 2
        (stat,) = await store.stat([fragment_id(4)])
        assert stat is not None
        assert stat.header == header_of(4, SIZE, block_size=128 * KiB)
    for _ in range(2):
        async with node.running() as store:
            for n in range(0, 24, 4):
                assert await get(store, n) == content(n, SIZE)
        node.lose_index()


async def test_wholly_dead_segments_are_removed_and_their_numbers_not_used_again() -> None:
    node = Node(SimulatedWorld(1))
    async with node.running() as store:
        await filled(node, 16)
        await store.delete([fragment_id(n) for n in range(16)])
        await compact(store)
        assert len(node.segments()) == 1
    last = node.segments()[0]
    async with node.running() as store:
        await put(store, 1, b"x")
        assert max(node.segments()) > last


async def test_restarts_do_not_litter_the_drive_with_small_segments() -> None:
    node = Node(SimulatedWorld(1))
    for n in range(12):
        async with node.running() as store:
            await put(store, n, content(n, 1000))
    async with node.running() as store:
        await put(store, 99, b"x")
        await compact(store)
        assert len(node.segments()) <= 3
        for n in range(12):
            assert await get(store, n) == content(n, 1000)


async def test_reader_under_way_is_not_disturbed() -> None:
    """F41"""
    node = Node(SimulatedWorld(1))
    node.world.threads("a").delay_s = 0.0001
    async with node.running() as store:
        await filled(node)
        await store.delete([fragment_id(n) for n in range(24) if n % 4])
        compacted = trio.Event()
        reads = 0

        async def read() -> None:
            nonlocal reads
            while not compacted.is_set():
                for n in range(0, 24, 4):
                    assert await get(store, n) == content(n, SIZE)
                    reads += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await compact(store)
            compacted.set()
        assert reads > 6


async def test_a_record_that_was_moved_is_another_one() -> None:
    node = Node(SimulatedWorld(1))
    async with node.running() as store:
        await filled(node)
        old = store.record_of(fragment_id(0))
        assert old is not None
        await store.delete([fragment_id(n) for n in range(24) if n % 4])
        await compact(store)
        assert store.record_of(fragment_id(0)) != old
        await store.delete_record(fragment_id(0), old)
        assert await get(store, 0) == content(0, SIZE)


async def test_fragment_deleted_or_replaced_while_it_is_copied_is_not_brought_back() -> (
    None
):
    """F41, I8"""
    node = Node(SimulatedWorld(1))
    node.world.threads("a").delay_s = 0.001
    async with node.running() as store:
        await filled(node)
        await store.delete([fragment_id(n) for n in range(24) if n % 4])

        async def meddle() -> None:
            await trio.sleep(0.004)
            await store.delete([fragment_id(0)])
            await put(store, 4, content("new", 1000))
            await store.delete([fragment_id(8), fragment_id(12)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(meddle)
            await compact(store)
        for n in (0, 8, 12):
            with pytest.raises(NoSuchFragment):
                await get(store, n)
        assert await get(store, 4) == content("new", 1000)
    node.lose_index()
    async with node.running() as store:
        for n in (0, 8, 12):
            with pytest.raises(NoSuchFragment):
                await get(store, n)
        assert await get(store, 4) == content("new", 1000)


async def test_rot_is_not_copied_and_its_segment_stays() -> None:
    """F06: quarantined, not deleted, and not given a new checksum."""
    node = Node(SimulatedWorld(1))
    async with node.running() as store:
        await filled(node)
        await store.delete([fragment_id(n) for n in range(24) if n % 4])
        segment = node.segments()[0]
        node.disk.flip_bit(segment, offset=4096 + 300_000)
        await compact(store)
        assert segment in node.segments()
        with pytest.raises(CorruptFragment):
            await get(store, 0)
        assert [fragment for fragment, _ in node.damage] == [fragment_id(0)]
        for n in range(4, 24, 4):
            assert await get(store, n) == content(n, SIZE)
        await store.delete([fragment_id(0)])  # It was made again elsewhere.
        await compact(store)
        assert segment not in node.segments()


async def test_compaction_goes_on_where_the_reserve_is_reached() -> None:
    """F09"""
    node = Node(SimulatedWorld(1))
    async with node.running() as store:
        await filled(node, 22)
        node.disk.capacity = node.disk.used() + MiB - 64 * KiB
        await store.delete([fragment_id(n) for n in range(16) if n % 8 != 7])
        before = len(node.segments())
        await compact(store)
        assert len(node.segments()) < before


async def test_drive_that_fails_in_compaction_is_fenced_and_the_worker_lives() -> None:
    """F11"""
    node = Node(SimulatedWorld(1))
    async with node.running() as store:
        await filled(node)
        await store.delete([fragment_id(n) for n in range(24) if n % 4])
        node.disk.inject(DiskFault("*/segment-*", "sync", nth=2))
        assert await Compactor(store).work_once() is CompactionState.IDLE
        assert store.space()[0].fenced is not None
    node.disk.heal()
    async with node.running() as store:
        for n in range(0, 24, 4):
            assert await get(store, n) == content(n, SIZE)


def test_use_is_a_value() -> None:
    assert attrs.evolve(use(1, 2), number=2).number == 2


async def test_a_record_that_grows_by_being_moved_spoils_none_behind_it(
    autojump_clock,
) -> None:
    """One of format 1 takes a page less than its copy does."""
    node = Node(SimulatedWorld(1))
    old = content(0, 2 * BLOCK)
    async with node.running() as store:
        await put(store, 0, old)
        location = store.index.get(fragment_id(0))
        assert location is not None
        extent = Extent(128, len(old), BLOCK, BLOCK)  # As format 1 had it.
        assert extent.size < location.extent.size
        before = attrs.evolve(location, extent=extent)
        mover = await store.create_move(header_of(0, len(old)), moved_from=before)
        await put(store, 1, content(1, 2 * BLOCK))
        for block in blocks_of(old):
            await mover.append(block)
        with pytest.raises(MovedAway):
            await mover.commit()
    node.lose_index()
    async with node.running() as store:
        assert await get(store, 1) == content(1, 2 * BLOCK)
