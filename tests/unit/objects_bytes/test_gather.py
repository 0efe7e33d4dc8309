"""Chunks read from copies that are corrupt, gone, slow: right bytes or an error (I2)."""

from __future__ import annotations

from random import Random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.chunks import messages as msg
from objstore.chunks.store import BegunRun, Run
from objstore.errors import CorruptData, ObjstoreError, Unavailable
from objstore.ids import FragmentId, NodeId
from objstore.limits import BLOCK_SIZE
from objstore.meta.values import ChunkRef, Displaced
from objstore.objects.gather import NoCopyReachable, NoGoodCopy
from objstore.rpc.call import PeerUnavailable

from .nodes import CHUNK, OWNER, Bench, bench, content

DATA = content("gather", 5 * BLOCK_SIZE + 1234)
EC = "ec:4+2"


def rot(b: Bench, index: int, offset: int = 600) -> None:
    """Flip a bit at `offset` of the payload on the owner's drive, about."""
    node = b.owner(index).node
    node.disk.flip_bit(node.segments()[0], offset=2 * 4096 + offset)


async def reads(b: Bench, ref: ChunkRef) -> list[NodeId]:
    b.peers.calls.clear()
    assert await b.read(ref) == DATA
    return [to for to, method in b.peers.calls if method == msg.READ]


@pytest.mark.parametrize("scheme", ["replicate:3", EC, "replicate:1"])
@given(st.integers(0, len(DATA)), st.integers(0, len(DATA)))
@settings(max_examples=12, deadline=None)
def test_any_range_is_read(scheme: str, one: int, other: int) -> None:
    start, end = min(one, other), max(one, other)

    async def run() -> None:
        async with bench(6) as b:
            ref = await b.write(DATA, scheme=scheme)
            assert await b.read(ref, start, end - start, scheme) == DATA[start:end]

    trio.run(run)


async def test_own_copy_comes_first_and_costs_no_call() -> None:
    async with bench(3) as b:
        assert await reads(b, await b.write(DATA)) == []


async def test_nodes_called_dead_are_asked_last() -> None:
    async with bench(4, first=1) as b:
        ref = await b.write(DATA)
        b.dead |= {b.ring.nodes[0], b.ring.nodes[1]}
        assert set(await reads(b, ref)) == {b.ring.nodes[2]}
        b.peers.down.add(b.ring.nodes[2])  # Gossip is wrong altogether.
        assert await b.read(ref) == DATA


async def test_readers_of_many_chunks_spread_over_the_copies() -> None:
    async with bench(4, first=1) as b:
        first: set[NodeId] = set()
        for n in range(12):
            chunk = type(CHUNK)(n.to_bytes(16, "big"))
            ref = await b.write(b"x", chunk=chunk)
            b.peers.calls.clear()
            assert await b.read(ref) == b"x"
            first |= {to for to, _ in b.peers.calls}
        assert first == set(b.ring.nodes)


async def test_displaced_and_missing_fragments_are_looked_for_where_they_are() -> None:
    async with bench(6, first=1) as b:
        b.dead |= set(b.ring.nodes[:3])
        ref = await b.write(DATA)
        assert ref.displaced == (
            Displaced(0, b.ring.nodes[3]),
            Displaced(1, b.ring.nodes[4]),
            Displaced(2, None),
        )
        asked = set(await reads(b, ref))
        assert asked <= {b.ring.nodes[3], b.ring.nodes[4]}
        assert b.damage == []


@pytest.mark.parametrize("block", [0, 3])
async def test_corrupt_copy_is_never_served_and_is_told(block: int) -> None:
    """F06, I2: the stream goes on from another copy without a byte lost or repeated."""
    async with bench(3) as b:
        ref = await b.write(DATA)
        rot(b, 0, block * BLOCK_SIZE + 600)
        assert await b.read(ref) == DATA
        (damage,) = b.damage
        assert (damage.ref, damage.index, damage.node) == (ref, 0, b.ring.nodes[0])
        assert (damage.reason, damage.is_at_home) == ("corrupt", True)
        assert damage.owner == OWNER
        assert await b.read(ref, 100, 10) == DATA[100:110]  # Still quarantined, and told.
        assert len(b.damage) == 2


async def test_missing_copy_is_told() -> None:
    async with bench(3) as b:
        ref = await b.write(DATA)
        await b.owner(0).store.delete([FragmentId(CHUNK, 0)])
        assert await b.read(ref) == DATA
        assert [(d.index, d.reason) for d in b.damage] == [(0, "missing")]


async def test_node_that_does_not_answer_is_no_damage() -> None:
    async with bench(4, first=1) as b:
        ref = await b.write(DATA)
        for node in b.ring.nodes[:2]:
            b.peers.down.add(node)
        assert await b.read(ref) == DATA
        assert b.damage == []


async def test_damage_on_the_way_is_no_damage_of_the_copy() -> None:
    async with bench(4, first=1) as b:
        ref = await b.write(DATA)
        bad = b.ring.nodes[:2]
        b.peers.garble = lambda to, method, data: (
            data[:50] + b"!" + data[51:] if method == msg.READ and to in bad else data
        )
        assert await b.read(ref) == DATA
        assert b.damage == []


async def test_source_lost_midway_is_changed_without_a_byte_lost_or_repeated() -> None:
    async with bench(4, first=1) as b:
        ref = await b.write(DATA)
        count = 0

        def fail(to: NodeId, method: str, _value: object) -> None:
            nonlocal count
            count += method == msg.READ
            if count in {3, 6}:
                raise PeerUnavailable(to, "connection lost", unknown=True)

        b.peers.before = fail
        stream = b.gather.read_chunk(
            ref, "replicate:3", ring=b.ring, offset=0, size=ref.size
        )
        pieces = [bytes(piece) async for piece in stream]
        assert b"".join(pieces) == DATA
        assert count >= 6


async def test_all_copies_corrupt_is_corrupt_and_all_silent_is_unavailable() -> None:
    async with bench(4, first=1) as b:
        ref = await b.write(DATA)
        for index in range(3):
            rot(b, index)
        with pytest.raises(NoGoodCopy):
            await b.read(ref)
        assert sorted(damage.index for damage in b.damage) == [0, 1, 2]
        assert {damage.owner for damage in b.damage} == {None}
        b.peers.down.add(b.ring.nodes[1])
        with pytest.raises(NoCopyReachable):
            await b.read(ref)
        b.peers.down |= set(b.ring.nodes)
        with pytest.raises(Unavailable):
            await b.read(ref)


async def test_slow_copy_is_hedged(autojump_clock) -> None:
    """F12"""
    async with bench(4, first=1) as b:
        ref = await b.write(DATA)
        for slow in b.ring.nodes:
            b.peers.delay_s = {slow: 20.0}
            began = trio.current_time()
            assert await b.read(ref) == DATA
            assert trio.current_time() - began <= 0.6


async def test_hedges_go_on_until_somebody_answers(autojump_clock) -> None:
    async with bench(4, first=1) as b:
        ref = await b.write(DATA)
        for fast in b.ring.nodes:
            b.peers.delay_s = {node: 20.0 for node in b.ring.nodes if node != fast}
            began = trio.current_time()
            assert await b.read(ref) == DATA
            assert trio.current_time() - began <= 1.2


async def test_nobody_answers_ends_in_time(autojump_clock) -> None:
    async with bench(4, first=1) as b:
        ref = await b.write(DATA)
        b.peers.delay_s = dict.fromkeys(b.ring.nodes, 10_000.0)
        began = trio.current_time()
        with pytest.raises(NoCopyReachable):
            await b.read(ref)
        assert trio.current_time() - began <= 40


async def test_fast_reader_is_not_slowed_by_a_slow_one(autojump_clock) -> None:
    async with bench(4, first=1) as b:
        ref = await b.write(DATA)
        b.peers.delay_s = dict.fromkeys(b.ring.nodes, 0.4)  # Below the hedge.
        b.peers.calls.clear()
        assert await b.read(ref) == DATA
        assert len({to for to, _ in b.peers.calls}) == 1


async def test_stream_may_be_left_anywhere() -> None:
    async with bench(4, first=1) as b:
        ref = await b.write(DATA)
        stream = b.gather.read_chunk(
            ref, "replicate:3", ring=b.ring, offset=0, size=ref.size
        )
        assert len(await anext(stream)) > 0
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        stream = b.gather.read_chunk(
            ref, "replicate:3", ring=b.ring, offset=0, size=ref.size
        )
        async for _ in stream:
            break


@pytest.mark.parametrize("lost", [(0,), (3, 5), (0, 1), (4, 5)])
@pytest.mark.parametrize("how", ["down", "corrupt", "late"])
async def test_any_k_fragments_give_the_chunk_back(
    lost: tuple[int, ...], how: str, autojump_clock
) -> None:
    """F26"""
    async with bench(7, first=1) as b:
        ref = await b.write(DATA, scheme=EC)
        for index in lost:
            if how == "down":
                b.peers.down.add(b.ring.nodes[index])
            elif how == "late":
                b.peers.delay_s[b.ring.nodes[index]] = 20.0
            else:
                rot(b, index, offset=600_000)
        assert await b.read(ref, scheme=EC) == DATA
        start = 2 * BLOCK_SIZE + 77
        assert await b.read(ref, start, 1000, scheme=EC) == DATA[start : start + 1000]
        told = {damage.index for damage in b.damage}
        assert told == (set(lost) & set(range(4)) if how == "corrupt" else set())


async def test_fewer_than_k_fragments_are_an_error() -> None:
    async with bench(7, first=1) as b:
        ref = await b.write(DATA, scheme=EC)
        b.peers.down |= set(b.ring.nodes[:3])
        with pytest.raises(Unavailable):
            await b.read(ref, scheme=EC)
        b.peers.down.clear()
        for index in range(3):
            rot(b, index)
        with pytest.raises(CorruptData):
            await b.read(ref, scheme=EC)


@given(st.integers(0, 1 << 30))
@settings(max_examples=30, deadline=None)
def test_whatever_fails_no_wrong_byte_is_given(seed: int) -> None:
    """I2: nodes come and go, copies rot, frames are garbled; what is yielded is right."""
    random = Random(seed)
    scheme = random.choice(["replicate:3", EC, "replicate:2"])

    async def run() -> None:
        async with bench(7, first=random.randint(0, 1)) as b:
            ref = await b.write(DATA, scheme=scheme)
            width = {"replicate:3": 3, EC: 6, "replicate:2": 2}[scheme]
            for index in range(width):
                if random.random() < 0.3:
                    rot(b, index, random.randrange(300_000))

            def fail(to: NodeId, _method: str, _value: object) -> None:
                if random.random() < 0.1:
                    raise PeerUnavailable(to, "lost", unknown=True)

            def garble(_to: NodeId, method: str, data: bytes) -> bytes:
                if method == msg.READ and data and random.random() < 0.1:
                    at = random.randrange(len(data))
                    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
                return data

            b.peers.before, b.peers.garble = fail, garble
            offset = random.randrange(ref.size)
            stream = b.gather.read_chunk(
                ref, scheme, ring=b.ring, offset=offset, size=ref.size - offset
            )
            got = bytearray()
            try:
                async for piece in stream:
                    got += piece
                assert len(got) == ref.size - offset
            except ObjstoreError:
                pass
            assert bytes(got) == DATA[offset : offset + len(got)]

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_copy_that_hangs_where_the_system_would_not_begin_is_hedged(
    autojump_clock: object,
) -> None:
    """F12: a drive's queue is full, as it hangs; then the thread that tries hangs too."""

    class Refused(BegunRun):
        def __init__(self) -> None:
            """Begun ahead, and refused since."""

        def now(self) -> Run | None:
            return None

        async def wait(self) -> Run | None:
            return None

    async with bench(3) as b:
        ref = await b.write(DATA)
        store = b.members[0].store
        read_run = store.read_run

        async def hang(
            fragment: FragmentId, offset: int, end: int, *, on_thread: bool = False
        ) -> Run:
            if offset:
                await trio.sleep_forever()
            return await read_run(fragment, offset, end, on_thread=on_thread)

        store.begin_run = lambda _, offset, end: Refused() if offset else None  # type: ignore[method-assign]
        store.read_run = hang  # type: ignore[method-assign]
        with trio.fail_after(60):
            assert await b.read(ref) == DATA
