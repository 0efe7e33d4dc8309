"""Chunks on their way to owners that fail, hang, fill up, or are not there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from objstore.chunks import messages as msg
from objstore.errors import OutOfSpace, Unavailable
from objstore.ids import FragmentId, NodeId
from objstore.limits import BLOCK_SIZE
from objstore.meta.values import Displaced
from objstore.objects import patience
from objstore.objects.scatter import GIVE_UP_S, TooFewOwners, memory_of
from objstore.rpc.call import PeerUnavailable
from objstore.sums import Summed
from objstore.testing.disk import DiskFault

from .nodes import CHUNK, COPIES, OWNER, Bench, bench, blocks, content

SMALL = content("small", 100_000)
LARGE = content("large", 6 * BLOCK_SIZE + 100)
each_size = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one block", "many"])


def at(b: Bench, *indexes: int) -> set[NodeId]:
    return {b.ring.nodes[i] for i in indexes}


@each_size
async def test_every_owner_has_its_fragment_durably(data: bytes) -> None:
    async with bench(4) as b:
        ref = await b.write(data)
        assert (ref.chunk, ref.size, ref.epoch, ref.displaced) == (CHUNK, len(data), 7, ())
        assert await b.holders() == {i: at(b, i) for i in range(3)}
        assert await b.read(ref) == data
        for index in range(3):
            (stat,) = await b.owner(index).store.stat([FragmentId(CHUNK, index)])
            assert stat is not None
            assert stat.header.owner == OWNER
            assert stat.header.scheme == "replicate:3"


async def test_fragments_of_an_erasure_code_go_the_same_way() -> None:
    async with bench(7) as b:
        ref = await b.write(LARGE, scheme="ec:4+2")
        assert ref.displaced == ()
        assert await b.holders(width=6) == {i: at(b, i) for i in range(6)}
        assert await b.read(ref, scheme="ec:4+2") == LARGE


@pytest.mark.parametrize(("count", "missing"), [(1, (1, 2)), (2, (2,))])
async def test_too_few_nodes_take_what_they_can(count: int, missing: tuple[int]) -> None:
    async with bench(count) as b:
        ref = await b.write(SMALL)
        assert ref.displaced == tuple(Displaced(i, None) for i in missing)
        assert await b.read(ref) == SMALL


@each_size
async def test_dead_owner_has_a_stand_in_from_the_start(data: bytes) -> None:
    async with bench(5) as b:
        b.dead |= at(b, 1)
        ref = await b.write(data)
        assert ref.displaced == (Displaced(1, b.ring.nodes[3]),)
        assert await b.holders() == {0: at(b, 0), 1: at(b, 3), 2: at(b, 2)}
        assert all(to != b.ring.nodes[1] for to, _ in b.peers.calls)
        assert await b.read(ref) == data


@each_size
async def test_owner_that_refuses_is_replaced(data: bytes) -> None:
    async with bench(5) as b:
        b.peers.down |= at(b, 2)
        ref = await b.write(data)
        assert ref.displaced == (Displaced(2, b.ring.nodes[3]),)
        assert await b.read(ref) == data


async def test_stand_in_that_fails_too_is_replaced() -> None:
    async with bench(6) as b:
        b.peers.down |= at(b, 1, 3)
        ref = await b.write(SMALL)
        assert ref.displaced == (Displaced(1, b.ring.nodes[4]),)


@each_size
async def test_without_stand_ins_the_fragment_is_missing(data: bytes) -> None:
    """Not waited for where gossip knows that the owner is dead."""
    async with bench(3) as b:
        b.dead |= at(b, 1)
        b.peers.down |= at(b, 1)
        ref = await b.write(data)
        assert ref.displaced == (Displaced(1, None),)
        assert await b.read(ref) == data


async def test_owner_that_fails_midway_is_replaced_by_a_copy() -> None:
    async with bench(5) as b:
        appends = 0

        def fail(to: NodeId, method: str, _value: object) -> None:
            nonlocal appends
            appends += method == msg.APPEND and to == b.ring.nodes[1]
            if appends > 4 and to == b.ring.nodes[1]:
                raise PeerUnavailable(to, "connection lost", unknown=True)

        b.peers.before = fail
        ref = await b.write(LARGE)
        assert ref.displaced == (Displaced(1, b.ring.nodes[3]),)
        assert (await b.holders())[1] == at(b, 3)
        assert b.owner(3).store.space()[0].fragments == 1
        assert await b.read(ref) == LARGE


async def test_below_the_quorum_nothing_is_promised_and_nothing_stays() -> None:
    async with bench(3) as b:
        b.peers.down |= at(b, 1, 2)
        with pytest.raises(TooFewOwners) as caught:
            await b.write(SMALL)
        assert (caught.value.needed, caught.value.answered) == (2, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert await b.holders() == {0: set(), 1: set(), 2: set()}


async def test_erasure_code_needs_more_than_its_data_fragments() -> None:
    async with bench(6) as b:
        b.peers.down |= at(b, 5)
        ref = await b.write(LARGE, scheme="ec:4+2")
        assert ref.displaced == (Displaced(5, None),)
        b.peers.down |= at(b, 4)
        with pytest.raises(Unavailable):
            await b.write(LARGE, scheme="ec:4+2")


async def test_gossip_that_calls_the_living_dead_does_no_harm() -> None:
    async with bench(3) as b:
        b.dead |= at(b, 1, 2)
        ref = await b.write(SMALL)
        assert ref.displaced == ()


@each_size
async def test_straggler_is_replaced(data: bytes, autojump_clock) -> None:
    """F12"""
    async with bench(5) as b:
        b.peers.delay_s[b.ring.nodes[1]] = 20.0
        began = trio.current_time()
        ref = await b.write(data)
        assert trio.current_time() - began < 3
        assert ref.displaced == (Displaced(1, b.ring.nodes[3]),)
        assert await b.read(ref) == data


@each_size
async def test_straggler_without_a_stand_in_is_left_out(
    data: bytes, autojump_clock
) -> None:
    """F12"""
    async with bench(3) as b:
        b.peers.delay_s[b.ring.nodes[1]] = 20.0
        began = trio.current_time()
        ref = await b.write(data)
        assert trio.current_time() - began < 3
        assert ref.displaced == (Displaced(1, None),)


async def test_own_drive_that_hangs_is_a_straggler_like_another(autojump_clock) -> None:
    """F12: a write here cannot be interrupted, but need not be waited for."""
    async with bench(5) as b:
        await b.write(SMALL, chunk=CHUNK)
        here = b.members[0].node
        here.world.threads(here.name).delay_s = 25.0
        began = trio.current_time()
        ref = await b.write(LARGE, chunk=type(CHUNK)(b"x" * 16))
        assert trio.current_time() - began < 4
        assert ref.displaced == (Displaced(0, b.ring.nodes[3]),)
        here.world.threads(here.name).delay_s = 0.0
        await trio.sleep(100)


async def test_slow_owners_are_waited_for_where_the_quorum_needs_them(
    autojump_clock,
) -> None:
    async with bench(3) as b:
        for index in (1, 2):
            b.peers.delay_s[b.ring.nodes[index]] = 4.0
        ref = await b.write(SMALL)  # One may be spared, and is; the other is needed.
        assert len(ref.displaced) == 1
        for index in (1, 2):
            b.peers.delay_s[b.ring.nodes[index]] = 1000.0
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await b.write(SMALL)
        assert trio.current_time() - began <= GIVE_UP_S + 2


@pytest.mark.parametrize("silent", [(1, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6)])
@pytest.mark.parametrize("size", [100_000, BLOCK_SIZE + 500_000])
async def test_stand_ins_that_are_silent_too_end_within_the_limit(
    silent: tuple[int, ...], size: int, autojump_clock
) -> None:
    """F16: two of five were cut off, and gossip did not know it yet."""
    async with bench(7, patience_ms=3000) as b:
        for index in silent:
            b.peers.delay_s[b.ring.nodes[index]] = 1000.0
        began, data = trio.current_time(), content("body", size)
        if 2 in silent:
            with pytest.raises(TooFewOwners, match="too slow"):
                await b.write(data)
        else:
            ref = await b.write(data)
            assert ref.displaced == (Displaced(1, None),)
            assert await b.read(ref) == data
        assert trio.current_time() - began < 7


async def test_what_metadata_has_cost_a_request_the_owners_do_not_get(
    autojump_clock,
) -> None:
    """F19: an intent that waited four seconds, and owners that are silent then."""
    async with bench(3, patience_ms=3000) as b:
        for index in (1, 2):
            b.peers.delay_s[b.ring.nodes[index]] = 1000.0
        patience.begin(6000)
        with patience.waiting(6000):
            await trio.sleep(4)
        began = trio.current_time()
        with pytest.raises(TooFewOwners):
            await b.write(content("body", 100_000))
        assert trio.current_time() - began < 3.5


async def test_full_nodes_are_passed_over_and_a_full_cluster_says_so() -> None:
    """F09"""
    async with bench(4) as b:

        async def fill(index: int) -> None:
            disk = b.owner(index).node.disk
            disk.capacity = disk.used() + 1000
            (drive,) = b.owner(index).store.drives.values()
            await drive.look_at_space()

        await fill(1)
        ref = await b.write(SMALL)
        assert ref.displaced == (Displaced(1, b.ring.nodes[3]),)
        await fill(2)
        await fill(3)
        with pytest.raises(OutOfSpace):
            await b.write(SMALL)


async def test_fenced_drive_is_passed_over() -> None:
    """F11"""
    async with bench(4) as b:
        b.owner(1).node.disk.inject(DiskFault("*/segment-*", "sync"))
        ref = await b.write(SMALL)
        assert ref.displaced == (Displaced(1, b.ring.nodes[3]),)


async def test_body_that_breaks_leaves_nothing_behind() -> None:
    """F35"""

    class Broken(Exception):
        pass

    async def breaking() -> AsyncIterator[Summed]:
        async for block in blocks(LARGE[: 3 * BLOCK_SIZE]):
            yield block
        raise Broken

    async with bench(3) as b:
        with pytest.raises(Broken):
            await b.scatter.write_chunk(
                CHUNK, len(LARGE), breaking(), ring=b.ring, scheme=COPIES, owner=OWNER
            )
        await trio.testing.wait_all_tasks_blocked()
        assert await b.holders() == {0: set(), 1: set(), 2: set()}
        assert all(member.server.session_count == 0 for member in b.members)
        for member in b.members:
            (drive,) = member.store.drives.values()
            assert all(not segment.open for segment in drive.segments.values())


async def test_cancelled_write_leaves_no_session(autojump_clock) -> None:
    async with bench(3) as b:
        b.peers.delay_s[b.ring.nodes[1]] = 0.3
        with trio.move_on_after(0.8):
            await b.write(LARGE)
        b.peers.delay_s.clear()
        await trio.sleep(5)
        assert all(member.server.session_count == 0 for member in b.members)


async def test_blocks_in_memory_are_few_however_slow_an_owner_is(autojump_clock) -> None:
    """I9, F43"""
    given = 0

    async def counted() -> AsyncIterator[Summed]:
        nonlocal given
        async for block in blocks(bytes(30 * BLOCK_SIZE)):
            given += 1
            yield block

    async with bench(3, patience_ms=100_000) as b:
        b.peers.delay_s[b.ring.nodes[1]] = 10_000
        with trio.move_on_after(20):
            await b.scatter.write_chunk(
                CHUNK, 30 * BLOCK_SIZE, counted(), ring=b.ring, scheme=COPIES, owner=OWNER
            )
        assert given * BLOCK_SIZE <= memory_of(30 * BLOCK_SIZE)
