"""A network in memory for these tests: streams that know who is at the other end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing

from objstore.host.network import Address, ClientTls, Packets, ServerTls, TlsIdentity
from objstore.ids import ClusterId, NodeId
from objstore.rpc.client import Peers
from objstore.rpc.config import RpcConfig
from objstore.rpc.server import RpcServer

CLUSTER = ClusterId("c" * 32)
ALICE = NodeId("a" * 16)
BOB = NodeId("b" * 16)
CAROL = NodeId("c" * 16)
BOB_ADDRESS = Address("bob", 7000)


def identity_of(node: NodeId) -> TlsIdentity:
    """Not a certificate: this network reads the node from it."""
    return TlsIdentity(node.encode(), b"", b"")


@attrs.define(eq=False)
class MemoryStream:
    """One end.  `is_deaf`: what it is sent goes nowhere (a black hole, F20)."""

    inner: trio.StapledStream
    remote: Address
    peer_node: NodeId | None
    is_deaf: bool = False
    sends: int = 0

    async def handshake(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sends += 1
        if self.is_deaf:
            await trio.lowlevel.checkpoint()
        else:
            await self.inner.send_all(bytes(data))

    def try_send(self, data: bytes) -> bool:
        return False

    def at_pass_end(self) -> None:
        return None

    async def receive_some(self, size_max: int) -> bytes:
        return bytes(await self.inner.receive_some(size_max))

    async def receive_each(self, take: Callable[[bytes], bool]) -> None:
        while take(await self.receive_some(65_536)):
            pass

    async def receive_into(self, buffer: memoryview) -> int:
        data = await self.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()


class MemoryListener:
    def __init__(self, network: MemoryNetwork, address: Address) -> None:
        self.address = address
        self._network = network
        self.give, self.take = trio.open_memory_channel[MemoryStream](1000)

    async def accept(self) -> MemoryStream:
        return await self.take.receive()

    async def aclose(self) -> None:
        self._network.listeners.pop(self.address, None)
        await trio.lowlevel.checkpoint()


class MemoryNetwork:
    """Connects by address."""

    def __init__(self) -> None:
        self.listeners: dict[Address, MemoryListener] = {}
        self.streams: list[
            tuple[MemoryStream, MemoryStream]
        ] = []  # Client end, server end.
        self.connects = 0
        self.is_black_hole = False

    async def listen(
        self, address: Address, *, tls: ServerTls | None = None
    ) -> MemoryListener:
        await trio.lowlevel.checkpoint()
        self.listeners[address] = MemoryListener(self, address)
        return self.listeners[address]

    async def connect(
        self, address: Address, *, tls: ClientTls | None = None
    ) -> MemoryStream:
        self.connects += 1
        await trio.lowlevel.checkpoint()
        if self.is_black_hole:
            await trio.sleep_forever()
        listener = self.listeners.get(address)
        if listener is None:
            raise ConnectionRefusedError("connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        identity = tls.identity if tls else None
        who = NodeId(identity.certificate_pem.decode()) if identity else None
        client = MemoryStream(ours, address, tls.server_node if tls else None)
        server = MemoryStream(theirs, Address("client", 1), who)
        self.streams.append((client, server))
        listener.give.send_nowait(server)
        return client

    async def open_packets(self, address: Address) -> Packets:
        raise NotImplementedError("these tests need no packets")


def make_server(network: MemoryNetwork, config: RpcConfig | None = None) -> RpcServer:
    return RpcServer(
        network,
        BOB_ADDRESS,
        tls=ServerTls(lambda: identity_of(BOB), mutual=True),
        node=BOB,
        cluster=CLUSTER,
        config=config,
        boot_id=b"bob's boot",
    )


def make_peers(
    network: MemoryNetwork,
    config: RpcConfig | None = None,
    *,
    node: NodeId = ALICE,
    cluster: ClusterId = CLUSTER,
) -> Peers:
    return Peers(
        network,
        node=node,
        cluster=cluster,
        identity=lambda: identity_of(node),
        resolve={BOB: BOB_ADDRESS, CAROL: Address("carol", 7000)}.get,
        config=config,
    )


@asynccontextmanager
async def running(*services: Peers | RpcServer) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        for service in services:
            await nursery.start(service.run)
        yield nursery
        nursery.cancel_scope.cancel()
