"""Both ends of a connection in memory, and a reader of answers that trusts nothing."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import h11
import trio
from trio.testing import memory_stream_pair

from objstore.config import HttpConfig
from objstore.host.network import Address, Listener, ServerTls
from objstore.http.server import HttpServer

ADDRESS = Address("127.0.0.1", 9000)


class MemoryStream:
    """host.network.Stream over trio's memory streams."""

    remote = Address("192.0.2.7", 1234)
    peer_node = None

    def __init__(self, stream: trio.StapledStream) -> None:
        self.inner = stream
        self.is_closed = False
        self.sends: list[int] = []
        self.takes_at_once = False

    async def handshake(self) -> None:
        await trio.lowlevel.checkpoint()

    def try_send(self, data: bytes) -> bool:
        if self.takes_at_once:
            self.inner.send_stream._outgoing.put(data)  # What its `send_all` does at last.
        return self.takes_at_once

    async def send_all(self, data) -> None:
        self.sends.append(len(data))
        await self.inner.send_all(data)

    async def receive_some(self, size_max: int) -> bytes:
        return bytes(await self.inner.receive_some(size_max))

    async def receive_into(self, buffer: memoryview) -> int:
        data = await self.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        self.is_closed = True
        await self.inner.aclose()


class MemoryListener:
    def __init__(self) -> None:
        self.address = ADDRESS
        self._sender, self._receiver = trio.open_memory_channel(1000)

    async def accept(self) -> MemoryStream:
        return await self._receiver.receive()

    async def aclose(self) -> None:
        await self._receiver.aclose()

    def connect(self) -> tuple[trio.StapledStream, MemoryStream]:
        client, server = memory_stream_pair()
        stream = MemoryStream(server)
        self._sender.send_nowait(stream)
        return client, stream


class MemoryNetwork:
    def __init__(self) -> None:
        self.listener = MemoryListener()

    async def listen(self, address: Address, *, tls: ServerTls | None = None) -> Listener:
        return self.listener

    async def connect(self, address, *, tls=None):
        raise NotImplementedError

    async def open_packets(self, address):
        raise NotImplementedError


class FixedClock:
    """Sunday, 6 November 1994, 08:49:37."""

    now_ms = 784_111_777_000

    def utc_now_ms(self) -> int:
        return self.now_ms


@attrs.define
class Served:
    """A server that runs, and how to reach it."""

    server: HttpServer
    network: MemoryNetwork

    def connect(self) -> "Client":
        return Client(*self.network.listener.connect())


@attrs.define
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@attrs.define
class Client:
    """A client that sends what it likes and reads with h11."""

    stream: trio.StapledStream
    server_stream: MemoryStream
    parser: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))
    informational: list[int] = attrs.field(factory=list)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def half_close(self) -> None:
        await self.stream.send_eof()

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer, whole; h11.RemoteProtocolError where it breaks off."""
        if self.parser.our_state is h11.DONE:
            self.parser.start_next_cycle()
        if self.parser.our_state is h11.IDLE:
            self.parser.send(
                h11.Request(method=method, target="/", headers=[("Host", "h")])
            )
            self.parser.send(h11.EndOfMessage())
        head, body = None, b""
        while True:
            event = self.parser.next_event()
            if event is h11.NEED_DATA:
                self.parser.receive_data(bytes(await self.stream.receive_some(65536)))
            elif isinstance(event, h11.InformationalResponse):
                self.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                headers = {n.decode(): v.decode("latin-1") for n, v in head.headers}
                return Answer(head.status_code, headers, body)
            else:
                raise AssertionError(f"unexpected {event}")

    async def rest(self) -> bytes:
        """All bytes until the server closes."""
        data = bytes(self.parser.trailing_data[0])
        try:
            while piece := await self.stream.receive_some(65536):
                data += bytes(piece)
        except trio.BrokenResourceError:
            pass
        return data


@asynccontextmanager
async def serving(handler: Callable, **config: int) -> AsyncIterator[Served]:
    network = MemoryNetwork()
    server = HttpServer(
        network, ADDRESS, handler, clock=FixedClock(), config=HttpConfig(**config)
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield Served(server, network)
        nursery.cancel_scope.cancel()
