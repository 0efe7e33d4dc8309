from __future__ import annotations

import errno
import socket
import ssl
from contextlib import suppress
from functools import partial

import attrs
import pytest
import structlog
import trio
import trio.testing

from objstore.host.network import Address, ClientTls, ServerTls
from objstore.host.real_network import RealNetwork
from objstore.host.real_pki import RealPki
from objstore.host.real_records import OVERHEAD, Records
from objstore.host.real_tls import _Turn, client_context, server_context
from objstore.ids import ClusterId, NodeId

LOCAL = Address("127.0.0.1", 0)
CLUSTER, NODE = ClusterId("c" * 32), NodeId("a" * 16)


class Passes(trio.abc.Instrument):
    """Counts passes of the loop."""

    def __init__(self):
        self.count = 0

    def before_io_wait(self, timeout):
        self.count += 1


@pytest.fixture(scope="module")
def identity():
    import time

    pki, now_ms = RealPki(), time.time_ns() // 1_000_000
    authority = pki.create_authority(CLUSTER, now_ms=now_ms, days=10)
    return pki.issue(authority, CLUSTER, NODE, now_ms=now_ms, days=10)


@pytest.fixture
async def listener():
    listener = await RealNetwork().listen(LOCAL)
    yield listener
    await listener.aclose()


async def test_nagles_algorithm_is_off_on_both_ends(listener):
    client = await RealNetwork().connect(listener.address)
    server = await listener.accept()
    for stream in (client, server):
        assert stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await stream.aclose()


async def test_who_sends_at_once_again_and_again_lets_others_run_all_the_same(listener):
    client = await RealNetwork().connect(listener.address)
    server = await listener.accept()
    taken = [server.try_send(b"x") for _ in range(20)]
    assert taken[0]
    assert not taken[-1], "then `send_all` is asked, which gives the others their turn"
    while not server.try_send(b"y"):
        await server.send_all(b"y")
    await server.aclose()
    received = b""
    while piece := await client.receive_some(100):
        received += piece
    assert received.strip(b"x").strip(b"y") == b""
    assert received.count(b"x") == taken.count(True)
    await client.aclose()


async def test_accept_pauses_while_descriptors_are_exhausted(listener, autojump_clock):
    """F44: EMFILE in accept neither spins nor ends the listener."""
    real, failures = listener._socket, [errno.EMFILE] * 5 + [errno.ECONNABORTED]

    class Exhausted:
        def accept(self):
            if failures:
                raise OSError(failures.pop(0), "no")
            return socket.socketpair()[0], ("10.0.0.1", 1)

    listener._socket = Exhausted()
    started = trio.current_time()
    with structlog.testing.capture_logs() as logs:
        stream = (await listener._accept())[0]
    assert trio.current_time() - started == pytest.approx(0.5)
    assert [entry["event"] for entry in logs] == ["host.accept_paused"]
    stream.close()
    listener._socket = real


async def test_an_unknown_error_of_accept_is_raised(listener):
    real = listener._socket

    class Broken:
        def accept(self):
            raise OSError(errno.EINVAL, "no")

    listener._socket = Broken()
    with pytest.raises(OSError):
        await listener.accept()
    listener._socket = real


async def test_bytes_that_nobody_takes_do_not_keep_the_loop_awake(listener):
    client = await RealNetwork().connect(listener.address)
    server = await listener.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(10_000_000))
        await server.receive_each(lambda _: False)
        await trio.testing.wait_all_tasks_blocked()
        passes = Passes()
        trio.lowlevel.add_instrument(passes)
        await trio.sleep(0.05)
        trio.lowlevel.remove_instrument(passes)
        nursery.cancel_scope.cancel()
    assert passes.count < 10
    for stream in (client, server):
        await stream.aclose()


async def test_one_that_takes_may_close_another_that_has_something(listener):
    clients = [await RealNetwork().connect(listener.address) for _ in range(2)]
    servers = [await listener.accept() for _ in range(2)]
    taken = []

    def take(piece):
        taken.append(piece)
        for server in servers:
            server.close()
        return True

    async def receive(server):
        with pytest.raises(trio.ClosedResourceError):
            await server.receive_each(take)

    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(receive, server)
        await trio.testing.wait_all_tasks_blocked()
        for client in clients:
            await client.send_all(b"x")
    assert taken == [b"x"]
    for client in clients:
        await client.aclose()


async def test_the_end_of_a_pass_comes_again_after_a_bug(listener):
    client = await RealNetwork().connect(listener.address)
    at_pass_end = client.at_pass_end()
    happened = []

    def bug():
        raise ValueError

    with structlog.testing.capture_logs() as logs:
        for number in range(2):
            at_pass_end(bug)
            at_pass_end(lambda number=number: happened.append(number))
            await trio.lowlevel.checkpoint()
    assert happened == [0, 1]
    assert [entry["event"] for entry in logs] == ["host.pass_end_failed"] * 2
    await client.aclose()


async def test_the_end_of_a_pass_comes_before_the_next_one(listener):
    client = await RealNetwork().connect(listener.address)
    at_pass_end = client.at_pass_end()
    happened = []

    async def do():
        for number in range(2):
            happened.append("task")
            at_pass_end(lambda number=number: happened.append(number))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(do)
        nursery.start_soon(do)
    assert happened == ["task", "task", 0, 0, "task", "task", 1, 1]
    await client.aclose()


async def test_a_reset_connection_is_broken_for_both_directions(listener):
    """F20: an RST."""
    client = await RealNetwork().connect(listener.address)
    server = await listener.accept()
    linger = b"\1\0\0\0\0\0\0\0"
    client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    await client.aclose()
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
        await server.receive_some(1)
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
    await server.aclose()


async def test_a_busy_stream_lets_others_run(listener):
    client = await RealNetwork().connect(listener.address)
    server = await listener.accept()
    await client.send_all(bytes(1000))
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await trio.sleep(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(100):
            await server.receive_some(1)
        assert turns >= 5
        nursery.cancel_scope.cancel()
    await client.aclose()
    await server.aclose()


async def test_two_tasks_do_not_send_on_one_stream(listener):
    client = await RealNetwork().connect(listener.address)
    server = await listener.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(64_000_000))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await client.send_all(b"x")
        nursery.cancel_scope.cancel()
    await client.aclose()
    await server.aclose()


async def test_ipv6_works_where_there_is_any():
    try:
        listener = await RealNetwork().listen(Address("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    client = await RealNetwork().connect(listener.address)
    server = await listener.accept()
    assert server.remote.host == "::1"
    packets = await RealNetwork().open_packets(Address("::", 0))
    packets.send(b"x", Address("127.0.0.1", packets.address.port))
    data, sender = await packets.receive()
    assert (data, sender.host) == (b"x", "127.0.0.1")
    for part in (client, server, listener, packets):
        await part.aclose()


async def test_an_oversized_packet_arrives_cut(listener):
    one = await RealNetwork().open_packets(LOCAL)
    one.send(bytes(20_000), one.address)
    data, _ = await one.receive()
    assert len(data) == 4096
    await one.aclose()


# TLS.


def test_contexts_are_kept_until_the_identity_changes(identity):
    assert server_context(identity, mutual=True) is server_context(identity, mutual=True)
    again = attrs.evolve(identity)
    assert server_context(again, mutual=True) is server_context(identity, mutual=True)
    assert server_context(identity, mutual=False) is not server_context(
        identity, mutual=True
    )
    renewed = attrs.evolve(identity, trust_pem=b"")
    assert client_context(renewed, b"") is not client_context(identity, b"")


def test_tls_below_1_2_is_not_spoken(identity):
    for context in (server_context(identity, mutual=True), client_context(None, b"")):
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION


@pytest.mark.parametrize("for_bulk", [True, False])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_carry_mutual_trust_and_half_closes(
    identity, version, for_bulk, monkeypatch
):
    """Also behind the handshake, where TLS is left."""
    network = RealNetwork()
    context = client_context.__wrapped__(identity, identity.trust_pem, for_bulk=for_bulk)
    context.maximum_version = version
    monkeypatch.setattr(
        "objstore.host.real_network.client_context", lambda *_, **__: context
    )
    listener = await network.listen(LOCAL, tls=ServerTls(lambda: identity, mutual=True))
    large = bytes(range(256)) * 4096

    async def serve():
        server = await listener.accept()
        assert await server.receive_some(100) == b"abc"
        assert server.peer_node == NODE
        await server.send_all(large)
        assert await server.receive_some(100) == b""
        await server.send_all(b"bye")
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        client = await network.connect(listener.address, tls=ClientTls(identity))
        assert isinstance(client._object, Records if for_bulk else ssl.SSLObject)
        if not for_bulk:
            assert client._object.version() == version.name.replace("v1_", "v1.")
        await client.send_all(b"abc")
        await client.send_eof()
        received = b""
        while data := await client.receive_some(100_000):
            received += data
        assert received == large + b"bye"
        await client.aclose()
    await listener.aclose()


class Wire:
    """Between the two ends of a link of nodes: shows, changes and cuts what goes by."""

    def __init__(self):
        self.seen = bytearray()  # From client to server.
        self.change = bytes
        self._ends = []

    async def run(self, listener, address):
        network = RealNetwork()
        client = await listener.accept()
        server = await network.connect(address)
        self._ends = [client, server]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, server, client, bytes)
            await self._carry(client, server, self._show)

    async def cut(self):
        for end in self._ends:
            await end.aclose()

    def _show(self, data):
        self.seen += data
        return self.change(data)

    async def _carry(self, source, sink, through):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65_536):
                await sink.send_all(through(data))


@pytest.fixture
async def linked(identity):
    """Two ends of a bulk link between nodes, and the wire between them."""
    network, wire = RealNetwork(), Wire()
    inner = await network.listen(LOCAL, tls=ServerTls(lambda: identity, mutual=True))
    outer = await network.listen(LOCAL)
    servers = []

    async def accept():
        servers.append(await inner.accept())
        await servers[0].handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.run, outer, inner.address)
        async with trio.open_nursery() as both:
            both.start_soon(accept)
            client = await network.connect(
                outer.address, tls=ClientTls(identity, for_bulk=True)
            )
        yield client, servers[0], wire
        nursery.cancel_scope.cancel()
    for closing in (client, servers[0], inner, outer):
        await closing.aclose()


async def test_nodes_leave_tls_for_records_that_show_nothing(linked):
    client, server, wire = linked
    assert isinstance(client._object, Records)
    assert isinstance(server._object, Records)
    wire.seen.clear()
    await client.send_all(b"secret" * 50_000)
    received = b""
    while len(received) < 300_000:
        received += await server.receive_some(65_536)
    assert received == b"secret" * 50_000
    assert len(wire.seen) == 300_000 + 2 * OVERHEAD
    assert b"secret" not in wire.seen


@pytest.mark.parametrize("size", [100, 70_000, 400_000])
async def test_a_message_that_is_cut_off_is_told_to_who_receives_it_in_place(linked, size):
    client, server, wire = linked
    there, left = 0, size + OVERHEAD - 10

    def stop(data):  # Towards the end: what comes behind it never does.
        nonlocal left
        passed = data[:left]
        left -= len(passed)
        return passed

    async def receive_all():
        nonlocal there
        buffer = memoryview(bytearray(size))
        while True:
            there += await server.receive_into(buffer[there:])

    async def receive_until_told():
        with pytest.raises(trio.BrokenResourceError):
            await receive_all()
        nursery.cancel_scope.cancel()

    wire.change = stop
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, bytes(size))
            nursery.start_soon(receive_until_told)
            while left:
                await trio.sleep(0.01)
            await wire.cut()
            await trio.sleep_forever()
    assert 0 <= there < size


async def test_where_the_cipher_is_not_to_be_had_links_stay_tls(identity, monkeypatch):
    monkeypatch.setattr("objstore.host.real_tls.is_supported", lambda: False)
    for make in (client_context, server_context):
        make.cache_clear()
    network = RealNetwork()
    listener = await network.listen(LOCAL, tls=ServerTls(lambda: identity, mutual=True))
    servers = []

    async def accept():
        servers.append(await listener.accept())
        await servers[0].handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        client = await network.connect(
            listener.address, tls=ClientTls(identity, for_bulk=True)
        )
    for end in (client, servers[0]):
        assert isinstance(end._object, ssl.SSLObject)
        await end.aclose()
    await listener.aclose()
    for make in (client_context, server_context):
        make.cache_clear()


@pytest.mark.parametrize("in_place", [True, False])
async def test_a_changed_byte_on_the_wire_breaks_the_link(linked, in_place):
    client, server, wire = linked
    wire.change = lambda data: data[:-1] + bytes((data[-1] ^ 1,))
    await client.send_all(b"hello")
    buffer = memoryview(bytearray(100))
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await (server.receive_into(buffer) if in_place else server.receive_some(100))


async def test_a_link_that_is_cut_is_broken_and_not_ended(linked):
    client, server, wire = linked
    await client.send_all(b"hello")
    assert await server.receive_some(100) == b"hello"
    await wire.cut()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some(100)


async def test_what_is_no_record_behind_the_handshake_breaks_the_link(linked):
    client, server, _ = linked
    await client._transport.send_all(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some(100)


async def shaken_by_hand(plain, identity):
    """A client's TLS after its handshake with a node, and what it reads from and writes to."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = client_context(identity, identity.trust_pem, for_bulk=True)
    tls = context.wrap_bio(incoming, outgoing)
    while True:
        try:
            tls.do_handshake()
            return tls, incoming, outgoing
        except ssl.SSLWantReadError:
            await plain.send_all(outgoing.read())
            incoming.write(await plain.receive_some(65_536))


@pytest.mark.parametrize("size", [0, 10, 31, 33])
async def test_who_says_less_or_more_than_its_random_bytes_breaks_it(identity, size):
    """TLS is done, and it goes on with something else."""
    network = RealNetwork()
    listener = await network.listen(LOCAL, tls=ServerTls(lambda: identity, mutual=True))

    async def call():
        plain = await network.connect(listener.address)
        tls, _, outgoing = await shaken_by_hand(plain, identity)
        tls.write(bytes(size))
        with suppress(ssl.SSLError):
            tls.unwrap()
        await plain.send_all(outgoing.read())
        await plain.send_eof()
        with suppress(trio.BrokenResourceError):
            while await plain.receive_some(65_536):
                pass
        await plain.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        server = await listener.accept()
        with pytest.raises(trio.BrokenResourceError):
            await server.handshake()
        await server.aclose()
    await listener.aclose()


async def test_a_handshake_cancelled_between_tls_and_records_is_not_done(identity):
    network = RealNetwork()
    listener = await network.listen(LOCAL, tls=ServerTls(lambda: identity, mutual=True))
    patience = trio.CancelScope()

    async def call():
        plain = await network.connect(listener.address)
        _, _, outgoing = await shaken_by_hand(plain, identity)
        await plain.send_all(outgoing.read())
        await plain.receive_some(65_536)  # Its random bytes: it waits for ours.
        patience.cancel()
        with suppress(trio.BrokenResourceError):
            await plain.receive_some(65_536)
        await plain.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        server = await listener.accept()
        with patience:
            await server.handshake()
        assert patience.cancelled_caught
        with pytest.raises(trio.BrokenResourceError):
            await server.handshake()
        await server.aclose()
    await listener.aclose()


@pytest.mark.parametrize("in_place", [True, False])
async def test_a_half_close_beside_a_receive_takes_nothing_from_it(
    linked, monkeypatch, in_place
):
    """It decrypts what has come, as the receiver, fed, lets others run."""
    client, server, _ = linked
    for name in ("receive_through", "receive_into"):

        async def run_others(*arguments, receive=getattr(server._transport, name)):
            size = await receive(*arguments)
            await server.send_eof()
            return size

        monkeypatch.setattr(server._transport, name, run_others)
    await client.send_all(b"hello")
    buffer = memoryview(bytearray(100))
    with trio.fail_after(5):
        if in_place:
            assert await server.receive_into(buffer) == 5
        else:
            assert await server.receive_some(100) == b"hello"
    assert server._eof_sent


async def test_a_send_whose_turn_comes_behind_the_end_is_refused(linked):
    """Its bytes would be lost, and nobody told."""
    client, server, _ = linked
    refused = []

    async def send_late():
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"late")
        refused.append(True)

    async with trio.open_nursery() as nursery:
        for sending in (
            partial(client.send_all, bytes(1 << 24)),
            client.send_eof,
            send_late,
        ):
            nursery.start_soon(sending)
            await trio.testing.wait_all_tasks_blocked()
        assert client._sending.is_taken
        while await server.receive_some(1 << 20):
            pass
    assert refused


async def test_a_send_cancelled_half_way_breaks_the_stream(identity):
    network = RealNetwork()
    listener = await network.listen(LOCAL, tls=ServerTls(lambda: identity))

    async with trio.open_nursery() as nursery:
        servers = []

        async def accept():
            servers.append(await listener.accept())
            await servers[0].handshake()

        nursery.start_soon(accept)
        client = await network.connect(listener.address, tls=ClientTls(identity))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(64_000_000))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")
    await client.aclose()
    await servers[0].aclose()
    await listener.aclose()


async def test_turns_are_taken_in_the_order_in_which_they_were_waited_for():
    turn, taken, cancelled = _Turn(), [], trio.CancelScope()

    async def take(name, scope):
        with scope:
            async with turn:
                taken.append(name)
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        async with turn:
            for name in "abc":
                scope = cancelled if name == "b" else trio.CancelScope()
                nursery.start_soon(take, name, scope)
                await trio.testing.wait_all_tasks_blocked()
            cancelled.cancel()
        assert turn.is_taken  # It is a's, who has not run yet.
    assert taken == ["a", "c"]
    assert not turn.is_taken
