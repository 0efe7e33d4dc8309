"""Chunk stores on a simulated host, and small clusters of them, for these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import attrs
import trio

from objstore.buffer import Buffer
from objstore.chunks.client import ChunkClient
from objstore.chunks.fragment import FragmentHeader, FragmentOwner
from objstore.chunks.server import ChunkServer
from objstore.chunks.store import ChunkStore
from objstore.config import ChunksConfig
from objstore.errors import ObjstoreError
from objstore.host.host import Host
from objstore.host.kv import KeyValueStore
from objstore.host.network import Address
from objstore.ids import (
    BucketId,
    ChunkId,
    ClusterId,
    FragmentId,
    Key,
    NodeId,
    Slot,
    UploadId,
)
from objstore.rpc import codec
from objstore.rpc.call import Call, PeerUnavailable, Reply
from objstore.rpc.server import RpcServer
from objstore.sums import Sums
from objstore.testing.disk import DiskFault, DiskOperation
from objstore.testing.host import SimulatedWorld
from objstore.units import KiB, MiB

CLUSTER = ClusterId("c" * 32)
NODE = NodeId("a" * 16)
OWNER = FragmentOwner(BucketId(7), Slot(11), Key("k/ü".encode()), UploadId("u" * 32))
BLOCK = 8 * KiB  # Small blocks make many of them in little memory.
CONFIG = ChunksConfig(segment_size=4 * MiB, reserve=1 * MiB)


def fragment_id(number: int, index: int = 0) -> FragmentId:
    return FragmentId(ChunkId(number.to_bytes(16, "big")), index)


def header_of(
    fragment: FragmentId | int, size: int, *, block_size: int = BLOCK
) -> FragmentHeader:
    if isinstance(fragment, int):
        fragment = fragment_id(fragment)
    return FragmentHeader(
        fragment, OWNER, "replicate:3", size, block_size, 1_700_000_000_000
    )


def content(seed: object, size: int) -> bytes:
    return Random(str(seed)).randbytes(size)


def blocks_of(data: bytes, block_size: int = BLOCK) -> list[bytes]:
    return [data[i : i + block_size] for i in range(0, len(data), block_size)]


@attrs.define
class Node:
    """A store on one host of a world, and what it told."""

    world: SimulatedWorld
    name: str = "a"
    drives: tuple[str, ...] = ("/data/chunks",)
    config: ChunksConfig = CONFIG
    node: NodeId = NODE
    kv: KeyValueStore = attrs.field(init=False)
    store: ChunkStore = attrs.field(init=False)
    damage: list[tuple[FragmentId, FragmentHeader | None]] = attrs.field(factory=list)

    @property
    def host(self) -> Host:
        return self.world.host(self.name)

    @property
    def disk(self):
        return self.world.disk(self.name)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ChunkStore]:
        """Run the store; the key-value store of the same host lives on between runs."""
        host = self.host
        data = host.disks.directory("/data", create=True)
        self.kv = host.disks.key_value_store(data, "meta")
        self.store = ChunkStore(
            host=host,
            kv=self.kv,
            drives=[host.disks.directory(path, create=True) for path in self.drives],
            cluster=CLUSTER,
            node=self.node,
            config=self.config,
            on_damage=lambda fragment, header: self.damage.append((fragment, header)),
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.store.run)
                yield self.store
                nursery.cancel_scope.cancel()
        finally:
            if self.world.is_up(self.name):
                self.kv.close()

    def count(self, operation: DiskOperation) -> DiskFault:
        """Counts an operation on segments, in `_calls`: a fault that never strikes."""
        return self.disk.inject(DiskFault("*/segment-*", operation, nth=1 << 60))

    def segments(self) -> list[str]:
        """Paths of the segment files."""
        return sorted(self.disk.paths("*/segment-*"))

    def lose_index(self) -> None:
        """Take the index away, as if the store's folder had been lost."""
        data = self.host.disks.directory("/data")
        data.remove_folder("meta")
        data.sync()


async def put(
    store: ChunkStore, number: int, data: bytes, *, block_size: int = BLOCK
) -> FragmentId:
    header = header_of(number, len(data), block_size=block_size)
    writer = await store.create(header)
    for block in blocks_of(data, block_size):
        await writer.append(block)
    await writer.commit()
    return header.fragment


async def get(store: ChunkStore, fragment: FragmentId | int, size: int = 1 << 20) -> bytes:
    if isinstance(fragment, int):
        fragment = fragment_id(fragment)
    blocks = await store.read(fragment, 0, size)
    return b"".join(block.data for block in blocks)


# ---- clusters -------------------------------------------------------------------------


class Loopback:
    """Peers without a network: values pass through the codec, faults are to order."""

    def __init__(self, node: NodeId, servers: dict[NodeId, RpcServer]) -> None:
        self.node = node
        self.servers = servers
        self.down: set[NodeId] = set()
        self.delay_s: dict[NodeId, float] = {}
        self.makes_sums = False  # As links do for large payloads.
        self.calls: list[tuple[NodeId, str]] = []
        # Asked before each call; may raise, or change payloads on their way back.
        self.before: Callable[[NodeId, str, object], None] = lambda *_: None
        self.garble: Callable[[NodeId, str, bytes], bytes] = lambda _n, _m, data: data

    async def call(
        self,
        to: NodeId,
        method: str,
        value: object = None,
        *,
        payload: Buffer = b"",
        timeout_ms: int,
        bulk: bool = False,
    ) -> Reply:
        self.calls.append((to, method))
        self.before(to, method, value)
        if to in self.down:
            raise PeerUnavailable(to, "connection refused", unknown=False)
        with trio.move_on_after(timeout_ms / 1000):
            await trio.sleep(self.delay_s.get(to, 0))
            sent = codec.decode(codec.encode(value))
            call = Call(
                self.node,
                sent,
                memoryview(bytes(payload)),
                trio.current_time() + timeout_ms / 1000,
                method,
                Sums.of(payload) if self.makes_sums else None,
            )
            try:
                reply = await self.servers[to].dispatch_local(call)
            except ObjstoreError as error:
                raise codec.decode(codec.encode(error)) from None
            if to in self.down:
                raise PeerUnavailable(to, "connection lost", unknown=True)
            data = self.garble(to, method, bytes(reply.payload))
            return Reply(
                codec.decode(codec.encode(reply.value)),
                memoryview(data),
                Sums.of(data) if self.makes_sums else None,
            )
        raise PeerUnavailable(to, "no answer in time", unknown=True)


@attrs.define
class Member:
    """One node of a small cluster."""

    node: Node
    client: ChunkClient
    peers: Loopback
    server: ChunkServer

    @property
    def id(self) -> NodeId:
        return self.node.node

    @property
    def store(self) -> ChunkStore:
        return self.node.store


@asynccontextmanager
async def cluster(count: int, *, seed: int = 1) -> AsyncIterator[list[Member]]:
    """`count` nodes that reach each other by Loopback; members[0] is where we are."""
    world = SimulatedWorld(seed)
    rpc: dict[NodeId, RpcServer] = {}
    members: list[Member] = []
    async with trio.open_nursery() as nursery:
        for number in range(count):
            node = Node(world, name=f"n{number}", node=NodeId(f"{number:016x}"))
            await nursery.start(_run_node, node)
            rpc[node.node] = RpcServer(
                node.host.network,
                Address("nowhere", 1),
                tls=None,
                node=node.node,
                cluster=CLUSTER,
            )
            peers = Loopback(node.node, rpc)
            client = ChunkClient(node=node.node, local=node.store, peers=peers)
            server = ChunkServer(store=node.store, entropy=node.host.entropy)
            server.register(rpc[node.node])
            await nursery.start(client.run)
            await nursery.start(server.run)
            members.append(Member(node, client, peers, server))
        yield members
        nursery.cancel_scope.cancel()


async def _run_node(node: Node, *, task_status: trio.TaskStatus[None]) -> None:
    async with node.running():
        task_status.started()
        await trio.sleep_forever()
