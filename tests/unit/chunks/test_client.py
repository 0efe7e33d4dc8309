"""Fragments on other nodes: calls, sessions, pipelining, read-ahead."""

from __future__ import annotations

import contextlib

import pytest
import trio

from objstore.chunks import messages as msg
from objstore.chunks.client import (
    APPENDS_IN_FLIGHT,
    READS_AHEAD,
    ChunkClient,
    ChunkWriter,
    DamagedOnTheWay,
)
from objstore.chunks.fragment import (
    CorruptFragment,
    DriveFenced,
    NoSuchFragment,
    NoSuchSession,
)
from objstore.chunks.server import SESSION_IDLE_S, ChunkServer
from objstore.errors import CorruptData, InvalidRequest, OutOfSpace, Unavailable
from objstore.host.network import Address, ServerTls
from objstore.ids import ChunkId, FragmentId, NodeId
from objstore.limits import BLOCK_SIZE
from objstore.rpc.client import Peers
from objstore.rpc.server import RpcServer
from objstore.testing.disk import DiskFault
from objstore.testing.host import SimulatedWorld
from objstore.units import KiB, MiB

from .stores import (
    BLOCK,
    CLUSTER,
    Member,
    Node,
    blocks_of,
    cluster,
    content,
    fragment_id,
    header_of,
)

both = pytest.mark.parametrize("where", [0, 1], ids=["local", "remote"])


async def write(
    member: Member, node: NodeId, number: int, data: bytes, block_size: int = BLOCK
) -> FragmentId:
    header = header_of(number, len(data), block_size=block_size)
    writer = await member.client.create(node, header)
    for block in blocks_of(data, block_size):
        await writer.append(block)
    await writer.commit()
    return header.fragment


async def read(member: Member, node: NodeId, number: int, offset: int, size: int) -> bytes:
    data = b""
    async for block in member.client.read(node, fragment_id(number), offset, size):
        assert block.offset == offset + len(data)
        data += block.data
    return data


@both
@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, 3 * MiB + 5])
async def test_fragment_is_written_and_read(where: int, size: int) -> None:
    async with cluster(2) as members:
        here, node = members[0], members[where].id
        data = content(size, size)
        fragment = await write(here, node, 1, data)
        assert await read(here, node, 1, 0, size) == data
        if size > 10:
            assert await read(here, node, 1, 7, size - 10) == data[7:-3]
        other = fragment_id(2)
        stats = await here.client.stat(node, [fragment, other])
        assert stats[0] is not None
        assert stats[0].header == header_of(1, size)
        assert stats[1] is None
        await here.client.delete(node, [fragment, other])
        assert await here.client.stat(node, [fragment]) == [None]
        assert all(member.server.session_count == 0 for member in members)


@both
async def test_a_record_is_deleted_where_it_is_what_was_named(where: int) -> None:
    async with cluster(2) as members:
        here, node = members[0], members[where].id
        assert await here.client.record_of(node, fragment_id(1)) is None
        await write(here, node, 1, b"old")
        old = await here.client.record_of(node, fragment_id(1))
        assert old is not None
        await write(here, node, 1, b"new")
        await here.client.delete_record(node, fragment_id(1), old)
        assert await read(here, node, 1, 0, 3) == b"new"
        new = await here.client.record_of(node, fragment_id(1))
        assert new is not None
        await here.client.delete_record(node, fragment_id(2), new)
        await here.client.delete_record(node, fragment_id(1), new)
        await here.client.delete_record(node, fragment_id(1), new)
        assert await here.client.record_of(node, fragment_id(1)) is None
        with pytest.raises(NoSuchFragment):
            await read(here, node, 1, 0, 3)


@both
async def test_blocks_come_as_they_were_cut_whatever_their_size(where: int) -> None:
    """So that a copy can be made from what is read."""
    async with cluster(2) as members:
        here, node = members[0], members[where].id
        block_size = 349_526  # A third of a block: a fragment of k = 3.
        data = content(1, 9 * block_size + 1000)
        await write(here, node, 1, data, block_size)
        stream = here.client.read(node, fragment_id(1), 0, len(data))
        sizes = [len(block.data) async for block in stream]
        assert sizes == [block_size] * 9 + [1000]


async def test_fragment_of_one_block_is_one_call() -> None:
    async with cluster(2) as members:
        await write(members[0], members[1].id, 1, content(1, BLOCK))
        assert [method for _, method in members[0].peers.calls] == [msg.PUT]


async def test_blocks_travel_while_earlier_ones_are_written(autojump_clock) -> None:
    async with cluster(2) as members:
        here, node = members[0], members[1].id
        here.peers.delay_s[node] = 1.0
        began = trio.current_time()
        await write(here, node, 1, content(1, 10 * BLOCK))
        # Begin, ten appends two by two, commit.
        assert trio.current_time() - began == pytest.approx(2 + 10 / APPENDS_IN_FLIGHT)
        began = trio.current_time()
        size = 7 * MiB
        await write(here, node, 2, content(2, size), MiB)
        began = trio.current_time()
        assert await read(here, node, 2, 0, size) == content(2, size)
        assert trio.current_time() - began == pytest.approx(1 + 6 / READS_AHEAD)


@both
async def test_few_tasks_carry_all_blocks_and_none_outlives_its_writer(where: int) -> None:
    async with cluster(2) as members:
        here, node = members[0], members[where].id
        nursery = here.client._nursery
        assert nursery is not None
        for is_wanted in (True, False):
            writer = await here.client.create(node, header_of(1, 9 * BLOCK))
            for _ in range(8):
                await writer.append(bytes(BLOCK))
                assert len(nursery.child_tasks) <= APPENDS_IN_FLIGHT
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) > 0  # They wait for more.
            if is_wanted:
                await writer.append(bytes(BLOCK))
                await writer.commit()
            else:
                await writer.abort()
            await trio.testing.wait_all_tasks_blocked()
            assert not nursery.child_tasks


@both
async def test_blocks_that_come_slowly_or_at_once_all_arrive(
    where: int, autojump_clock
) -> None:
    """Tasks that wait for a block, and those that find one when they are done."""
    async with cluster(2) as members:
        here, node = members[0], members[where].id
        data = content(1, 12 * BLOCK)
        for number, delay_s in enumerate((0.0, 0.1, 1.0)):
            here.peers.delay_s[members[1].id] = delay_s
            header = header_of(number, len(data))
            writer = await here.client.create(node, header)
            for at, block in enumerate(blocks_of(data)):
                if at >= 6:
                    await trio.sleep(0.3 * (at % 3))
                await writer.append(block)
            await writer.commit()
            here.peers.delay_s.clear()
            assert await read(here, node, number, 0, len(data)) == data


@both
@pytest.mark.parametrize("waits", ["for its tasks", "for their end", "for nothing"])
async def test_writer_whose_node_is_stopping_says_so(
    where: int, waits: str, autojump_clock
) -> None:
    async with cluster(2) as members:
        here, node = members[0], members[where].id
        writer = await here.client.create(node, header_of(1, 9 * BLOCK))
        await _append_all(writer, APPENDS_IN_FLIGHT)
        if waits == "for its tasks":  # They are parked then.
            await trio.sleep(1)
        assert here.client._nursery is not None
        here.client._nursery.cancel_scope.cancel()
        if waits == "for their end":
            await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5), pytest.raises(Unavailable):
            await _append_all(writer, APPENDS_IN_FLIGHT + 1)
        await writer.abort()


async def _append_all(writer: ChunkWriter, count: int) -> None:
    for _ in range(count):
        await writer.append(bytes(BLOCK))


@both
async def test_missing_and_corrupt_fragments_say_so(where: int) -> None:
    async with cluster(2) as members:
        here, there = members[0], members[where]
        with pytest.raises(NoSuchFragment):
            await read(here, there.id, 1, 0, 10)
        await write(here, there.id, 1, content(1, 3 * BLOCK))
        there.node.disk.flip_bit(there.node.segments()[0], offset=2 * 4096 + 500)
        with pytest.raises(CorruptFragment):
            await read(here, there.id, 1, 0, 3 * BLOCK)
        assert [fragment for fragment, _ in there.node.damage] == [fragment_id(1)]


@both
async def test_fragment_shorter_than_expected_is_corrupt(where: int) -> None:
    async with cluster(2) as members:
        here, node = members[0], members[where].id
        await write(here, node, 1, content(1, 2 * BLOCK))
        with pytest.raises(CorruptData):
            await read(here, node, 1, 0, 2 * BLOCK + 1)


@pytest.mark.parametrize("makes_sums", [False, True])
async def test_block_damaged_on_its_way_is_noticed_at_both_ends(makes_sums: bool) -> None:
    """I2"""
    async with cluster(2) as members:
        here, node = members[0], members[1].id
        here.peers.makes_sums = makes_sums
        await write(here, node, 1, content(1, BLOCK))
        here.peers.garble = lambda _n, method, data: (
            data[:-1] + bytes((data[-1] ^ 1,)) if method == msg.READ else data
        )
        with pytest.raises(DamagedOnTheWay):
            await read(here, node, 1, 0, BLOCK)
        assert members[1].node.damage == []
        writer = await here.client.create(node, header_of(2, 3))
        await writer.append(b"abc", 12345)
        with pytest.raises(CorruptData):
            await writer.commit()


@both
async def test_aborted_and_half_written_fragments_are_not_there(where: int) -> None:
    async with cluster(2) as members:
        here, there = members[0], members[where]
        writer = await here.client.create(there.id, header_of(1, 3 * BLOCK))
        await writer.append(bytes(BLOCK))
        with pytest.raises(InvalidRequest):
            await writer.commit()
        await writer.abort()
        await writer.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert there.server.session_count == 0
        assert await here.client.stat(there.id, [fragment_id(1)]) == [None]
        drive = next(iter(there.store.drives.values()))
        assert all(not segment.open for segment in drive.segments.values())


async def test_session_of_a_writer_that_vanished_expires(autojump_clock) -> None:
    async with cluster(2) as members:
        here, there = members[0], members[1]
        writer = await here.client.create(there.id, header_of(1, 3 * BLOCK))
        await writer.append(bytes(BLOCK))
        await trio.sleep(0.1)
        assert there.server.session_count == 1
        await trio.sleep(2 * SESSION_IDLE_S)
        assert there.server.session_count == 0
        await writer.append(bytes(BLOCK))
        with pytest.raises(NoSuchSession):
            await writer.commit()


async def test_session_belongs_to_the_peer_that_began_it() -> None:
    """F31"""
    async with cluster(3) as members:
        here, spy, there = members
        reply = await here.client.call(
            there.id, msg.BEGIN, msg.BeginFragment(header_of(1, 2 * BLOCK))
        )
        for member, error in ((spy, NoSuchSession), (here, InvalidRequest)):
            with pytest.raises(error):
                await member.client.call(there.id, msg.COMMIT, reply.value)


async def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """F32, I9"""
    monkeypatch.setattr("objstore.chunks.server.WRITE_SESSIONS_MAX", 3)
    async with cluster(2) as members:
        here, node = members[0], members[1].id
        writers = [
            await here.client.create(node, header_of(n, 2 * BLOCK)) for n in range(3)
        ]
        with pytest.raises(Unavailable):
            await here.client.create(node, header_of(9, 2 * BLOCK))
        await writers[0].abort()
        await trio.testing.wait_all_tasks_blocked()
        await here.client.create(node, header_of(9, 2 * BLOCK))


@pytest.mark.parametrize(
    ("method", "value"),
    [
        (msg.READ, msg.ReadFragment(FragmentId(ChunkId(b"short"), 0), 0, 1)),
        (msg.READ, msg.ReadFragment(fragment_id(1), 5, 1)),
        (msg.READ, msg.Fragments(())),
        (msg.READ, None),
        (msg.STAT, msg.Fragments((FragmentId(ChunkId(b"c" * 16), 256),))),
        (msg.DELETE, msg.Fragments((FragmentId(ChunkId(b""), 0),))),
        (msg.RECORD, msg.Fragments(())),
        (msg.DELETE_RECORD, msg.FragmentRecord(fragment_id(1), None)),
        (msg.STAT, msg.Fragments((fragment_id(1),) * 1001)),
        (msg.PUT, msg.PutFragment(header_of(1, 2 * BLOCK), 0)),
    ],
    ids=str,
)
async def test_nonsense_from_a_peer_is_refused(method: str, value: object) -> None:
    """F32"""
    async with cluster(2) as members:
        with pytest.raises(InvalidRequest):
            await members[0].client.call(members[1].id, method, value)


@both
async def test_full_and_fenced_stores_say_so(where: int) -> None:
    """F09, F11"""
    async with cluster(2) as members:
        here, there = members[0], members[where]
        there.node.disk.capacity = there.node.disk.used() + 64 * KiB
        for size in (BLOCK, 3 * BLOCK):
            with pytest.raises(OutOfSpace):
                await write(here, there.id, 1, bytes(size))
        there.node.disk.capacity = 1 << 40
        await write(here, there.id, 1, bytes(BLOCK))
        there.node.disk.inject(DiskFault("*/segment-*", "sync"))
        for _ in range(2):
            with pytest.raises(DriveFenced):
                await write(here, there.id, 2, bytes(BLOCK))


@both
async def test_hanging_node_does_not_hold_a_caller_that_gives_up(
    where: int, autojump_clock
) -> None:
    """F12: a write that nobody can interrupt."""
    async with cluster(2) as members:
        here, there = members[0], members[where]
        await write(here, there.id, 1, bytes(BLOCK))
        threads = there.node.world.threads(there.node.name)
        threads.delay_s = 20.0
        began = trio.current_time()
        with trio.move_on_after(1):
            writer = await here.client.create(there.id, header_of(2, 9 * BLOCK))
            try:
                for _ in range(9):
                    await writer.append(bytes(BLOCK))
                await writer.commit()
            finally:
                with trio.CancelScope(shield=True):
                    await writer.abort()
        assert trio.current_time() - began == pytest.approx(1)
        threads.delay_s = 0.0
        await trio.sleep(200)
        assert there.server.session_count == 0
        drive = next(iter(there.store.drives.values()))
        assert all(not segment.open for segment in drive.segments.values())


async def test_client_that_does_not_run_refuses() -> None:
    async with cluster(1) as members:
        client = members[0].client
        client._nursery = None
        with pytest.raises(Unavailable):
            await client.create(members[0].id, header_of(1, 1))


async def test_client_that_is_ending_refuses_until_it_has_ended() -> None:
    """A request that cleans up while the node goes down is not an error of its own."""
    async with cluster(1) as members:
        node = members[0].node
    for number in range(40):  # At several moments; tasks run in another order each time.
        client = ChunkClient(node=node.node, local=node.store, peers=members[0].peers)
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            task = client.start(trio.sleep_forever)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                for _ in range(number % 4):
                    await trio.lowlevel.checkpoint()
                with contextlib.suppress(Unavailable):
                    client.start(trio.sleep_forever)
                with pytest.raises(Unavailable):
                    await task.result()


async def test_same_over_the_wire() -> None:
    """All calls once over real frames, links and sessions, on a simulated network."""
    world = SimulatedWorld(3)
    nodes = [Node(world, name=f"n{i}", node=NodeId(f"{i:016x}")) for i in range(2)]
    pki = nodes[0].host.pki
    now_ms = nodes[0].host.clock.utc_now_ms()
    authority = pki.create_authority(CLUSTER, now_ms=now_ms, days=9)
    identities = {
        n.node: pki.issue(authority, CLUSTER, n.node, now_ms=now_ms, days=9) for n in nodes
    }
    addresses: dict[NodeId, Address] = {}
    async with nodes[0].running() as here, nodes[1].running() as there:
        async with trio.open_nursery() as nursery:
            server = RpcServer(
                nodes[1].host.network,
                Address(world.address("n1"), 7000),
                tls=ServerTls(lambda: identities[nodes[1].node], mutual=True),
                node=nodes[1].node,
                cluster=CLUSTER,
            )
            ChunkServer(store=there, entropy=nodes[1].host.entropy).register(server)
            addresses[nodes[1].node] = await nursery.start(server.run)
            peers = Peers(
                nodes[0].host.network,
                node=nodes[0].node,
                cluster=CLUSTER,
                identity=lambda: identities[nodes[0].node],
                resolve=addresses.get,
            )
            await nursery.start(peers.run)
            client = ChunkClient(node=nodes[0].node, local=here, peers=peers)
            await nursery.start(client.run)
            for number, size in enumerate((100, 5 * BLOCK_SIZE + 17)):
                data = content(number, size)
                header = header_of(number, size, block_size=BLOCK_SIZE)
                writer = await client.create(nodes[1].node, header)
                for block in blocks_of(data, BLOCK_SIZE):
                    await writer.append(block)
                await writer.commit()
                stream = client.read(nodes[1].node, header.fragment, 0, size)
                assert b"".join([b.data async for b in stream]) == data
                (stat,) = await client.stat(nodes[1].node, [header.fragment])
                assert stat is not None
                assert stat.header == header
            with pytest.raises(NoSuchFragment):
                await anext(client.read(nodes[1].node, fragment_id(77), 0, 1))
            nursery.cancel_scope.cancel()
