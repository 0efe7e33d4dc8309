"""The server: a bound on connections, a graceful stop, real sockets."""

import time
from contextlib import suppress

import pytest
import trio

from objstore.config import HttpConfig
from objstore.host.network import Address, ClientTls, ServerTls
from objstore.host.real_network import RealNetwork
from objstore.host.real_pki import RealPki
from objstore.http.message import Request, Response
from objstore.http.server import HttpServer
from objstore.ids import ClusterId
from tests.unit.http.wire import Client, FixedClock, serving

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def hello(request: Request) -> Response:
    return Response(200, [], b"hello")


async def test_connections_beyond_the_bound_wait_for_a_place():  # F44
    gate = trio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return Response(200, [], b"", close=True)

    async with serving(handler, connections_max=2) as served:
        clients = [served.connect() for _ in range(4)]
        for client in clients:
            await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert len(served.server._connections) == 2
        gate.set()
        for client in clients:
            assert (await client.answer()).status == 200


async def test_an_idle_connection_makes_room_for_a_new_one(autojump_clock):
    async with serving(hello, connections_max=2) as served:
        for _ in range(10):
            client = served.connect()
            await client.send(GET)
            with trio.fail_after(5):
                assert (await client.answer()).status == 200


async def test_who_sends_a_head_slowly_makes_room_for_others(autojump_clock):  # F34
    async with serving(hello, connections_max=4) as served:
        slow = [served.connect() for _ in range(20)]
        for client in slow:
            await client.send(b"GET / HTTP/1.1\r\nHost:")
            await trio.testing.wait_all_tasks_blocked()
        client = served.connect()
        await client.send(GET)
        with trio.fail_after(8):  # A second and a half for each four of them.
            assert (await client.answer()).status == 200


async def test_who_was_refused_and_sends_on_makes_room_for_others(autojump_clock):  # F34
    async with serving(hello, connections_max=4) as served:
        for _ in range(20):
            client = served.connect()
            await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999\r\n\r\n.")
            with trio.fail_after(2):
                assert (await client.answer("PUT")).status == 200


async def test_a_request_in_progress_is_never_closed_to_make_room(autojump_clock):
    gate = trio.Event()

    async def handler(request: Request) -> Response:
        body = b"".join([piece async for piece in request.body])
        await gate.wait()
        return Response(200, [], body)

    async with serving(handler, connections_max=2) as served:
        reading, working = served.connect(), served.connect()
        await reading.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab")
        await working.send(GET)
        waiting = served.connect()
        await waiting.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        await reading.send(b"cd")
        gate.set()
        assert (await reading.answer("PUT")).body == b"abcd"
        for client in (working, waiting):
            assert (await client.answer()).status == 200


async def test_draining_closes_the_idle_and_lets_the_others_finish(autojump_clock):  # F22
    entered = trio.Event()
    gate = trio.Event()

    async def handler(request: Request) -> Response:
        if request.path == "/slow":
            entered.set()
            await gate.wait()
        return Response(200, [], b"done")

    async with serving(handler, drain_timeout_ms=10_000) as served:
        idle, busy = served.connect(), served.connect()
        await idle.send(GET)
        await idle.answer()
        await busy.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        await entered.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.drain)
            assert await idle.rest() == b""
            gate.set()
            answer = await busy.answer()
            assert (answer.body, answer.headers["connection"]) == (b"done", "close")


async def test_draining_gives_up_at_its_deadline(autojump_clock):
    async def handler(request: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    async with serving(handler, drain_timeout_ms=10_000) as served:
        client = served.connect()
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await served.server.drain()
        assert trio.current_time() - started == pytest.approx(10, abs=0.1)
        assert await client.rest() == b""


async def test_a_server_without_connections_drains_at_once(autojump_clock):
    async with serving(hello) as served:
        with trio.fail_after(1):
            await served.server.drain()


async def test_the_real_network_serves_raw_sockets(nursery):
    async def echo(request: Request) -> Response:
        body = b"".join([piece async for piece in request.body])
        return Response(200, [("X-Remote", request.remote.rpartition(":")[0])], body)

    server = HttpServer(
        RealNetwork(),
        Address("127.0.0.1", 0),
        echo,
        clock=FixedClock(),
        config=HttpConfig(),
    )
    address = await nursery.start(server.run)
    body = bytes(range(256)) * 8192
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        head = f"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body)
        await stream.send_eof()
        received = b"".join([bytes(piece) async for piece in stream])
    assert received.startswith(b"HTTP/1.1 200 OK\r\nX-Remote: 127.0.0.1\r\n")
    assert received.endswith(body)
    await server.drain()


async def test_the_same_is_served_under_tls(nursery):
    names = ("localhost", "127.0.0.1")
    pki, now_ms = RealPki(), time.time_ns() // 1_000_000
    authority = pki.create_authority(ClusterId("1" * 32), now_ms=now_ms, days=10)
    identity = pki.issue_server(authority, names, now_ms=now_ms, days=10)
    network = RealNetwork()

    async def secure(request: Request) -> Response:
        body = b"".join([piece async for piece in request.body])
        return Response(200, [("X-Secure", str(request.secure))], body)

    server = HttpServer(
        network, Address("127.0.0.1", 0), secure, clock=FixedClock(),
        tls=ServerTls(lambda: identity),
    )  # fmt: skip
    address = await nursery.start(server.run)
    tls = ClientTls(None, trust_pem=authority.certificate_pem)
    body = bytes(range(256)) * 4096
    client = Client(await network.connect(address, tls=tls), None)
    await client.send(
        f"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    answer = await client.answer("PUT")
    assert (answer.headers["x-secure"], answer.body) == ("True", body)
    await client.stream.aclose()
    # A stranger who speaks no TLS is shown the door, and nobody else is disturbed.
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        await stream.send_all(GET)
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(100)
    await server.drain()
