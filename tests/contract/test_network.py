"""Streams (plain and under TLS), listeners and packets."""

from __future__ import annotations

import contextvars
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from objstore.host.network import Address, ClientTls, ServerTls
from objstore.ids import ClusterId, NodeId

CLUSTER, OTHER_CLUSTER = ClusterId("c" * 32), ClusterId("d" * 32)
ALICE, BOB = NodeId("a" * 16), NodeId("b" * 16)
LOCAL = Address("127.0.0.1", 0)
DAY_MS = 86_400_000


@pytest.fixture(params=["plain", "tls", "bulk"])
async def pair(request, host):
    """Two ends of a connection, its handshake done."""
    keys = NodeKeys(host)
    tls = request.param != "plain"
    server_tls = ServerTls(lambda: keys.node(BOB), mutual=True) if tls else None
    bulk = request.param == "bulk"
    client_tls = ClientTls(keys.node(ALICE), for_bulk=bulk) if tls else None
    async with connected(host, server_tls, client_tls) as ends:
        yield ends


class NodeKeys:
    """Identities of one cluster, made on one day."""

    def __init__(self, host, cluster=CLUSTER, age_days=0):
        self.pki, self.cluster = host.pki, cluster
        self.now_ms = host.clock.utc_now_ms() - age_days * DAY_MS
        self.authority = self.pki.create_authority(cluster, now_ms=self.now_ms, days=100)

    def node(self, node, days=30):
        return self.pki.issue(
            self.authority, self.cluster, node, now_ms=self.now_ms, days=days
        )

    def server(self):
        names = ("localhost", "127.0.0.1")
        return self.pki.issue_server(self.authority, names, now_ms=self.now_ms, days=30)


@asynccontextmanager
async def connected(host, server_tls=None, client_tls=None):
    listener = await host.network.listen(LOCAL, tls=server_tls)
    ends = {}

    async def accept():
        ends["server"] = await listener.accept()
        await ends["server"].handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        client = await host.network.connect(listener.address, tls=client_tls)
    yield client, ends["server"]
    await client.aclose()
    await ends["server"].aclose()
    await listener.aclose()


async def receive_all(stream, size_max=65_536):
    received = b""
    while data := await stream.receive_some(size_max):
        assert len(data) <= size_max
        received += data
    return received


# Streams, plain and under TLS.


async def test_bytes_arrive_in_order_both_ways(pair):
    client, server = pair
    data = bytes(range(256)) * 8192  # 2 MiB: more than any buffer on the way.
    received = {}

    async def send(stream):
        await stream.send_all(memoryview(data))
        await stream.send_eof()

    async def receive(stream, name):
        received[name] = await receive_all(stream)

    async with trio.open_nursery() as nursery:
        for stream, name in ((client, "client"), (server, "server")):
            nursery.start_soon(send, stream)
            nursery.start_soon(receive, stream, name)
    assert received["client"] == received["server"] == data


async def test_no_more_is_received_than_was_asked_for(pair):
    client, server = pair
    await client.send_all(b"abcdefgh" * 100)
    await client.send_eof()
    assert await receive_all(server, 7) == b"abcdefgh" * 100


@pytest.mark.parametrize("cut", [1000, 100_000, 1_048_576])
async def test_bytes_are_received_in_place_and_never_beyond(pair, cut):
    """Mixed with plain receives, as a frame's head and its payload are."""
    client, server = pair
    data = bytes(range(251)) * 8000
    received = bytearray()

    async def receive():
        while True:
            if not (head := await server.receive_some(100)):
                return
            received.extend(head)
            memory = bytearray(b"?" * cut)
            with memoryview(memory) as view:
                size = await server.receive_into(view[: cut - 1])
            assert memory[size:] == b"?" * (cut - size)
            received.extend(memory[:size])

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await client.send_all(data)
            await client.send_eof()
    assert received == data
    with memoryview(bytearray(10)) as view:
        assert await server.receive_into(view) == 0


async def test_each_piece_is_given_in_order_and_then_the_end(pair):
    client, server = pair
    data = bytes(range(256)) * 8192
    pieces = []

    def take(piece):
        pieces.append(piece)
        return bool(piece)

    async def send():
        await client.send_all(data)
        await client.send_eof()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await server.receive_each(take)
    assert pieces[-1] == b""
    assert b"" not in pieces[:-1]
    assert b"".join(pieces) == data


async def test_what_comes_after_the_last_piece_wanted_is_received_otherwise(pair):
    """And in pieces again: a frame's head, its payload in place, the next frame."""
    client, server = pair
    data = bytes(range(251)) * 8000
    received = bytearray()
    ended = False

    def take(piece):
        nonlocal ended
        received.extend(piece)
        ended = not piece
        return bool(piece) and len(received) % 3 == 0

    async def receive():
        while not ended:
            await server.receive_each(take)
            if not ended:
                memory = bytearray(5000)
                with memoryview(memory) as view:
                    size = await server.receive_into(view)
                received.extend(memory[:size])
                received.extend(await server.receive_some(1000))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for start in range(0, len(data), 10_000):
                await client.send_all(data[start : start + 10_000])
            await client.send_eof()
    assert received == data


async def test_what_is_here_already_is_given_as_a_piece(pair):
    client, server = pair
    await client.send_all(b"head" + b"rest")
    assert await server.receive_some(4) == b"head"
    pieces = []
    with trio.fail_after(10):
        await server.receive_each(lambda piece: pieces.append(piece) or len(pieces) > 4)
    assert pieces[0] == b"rest"


async def test_what_the_taker_raises_is_raised_to_the_receiver(pair):
    client, server = pair

    def take(piece):
        raise KeyError(piece)

    await client.send_all(b"x")
    with trio.fail_after(10), pytest.raises(KeyError):
        await server.receive_each(take)


async def test_pieces_are_taken_in_the_receivers_context(pair):
    client, server = pair
    name = contextvars.ContextVar("name", default="nobody")
    names = []

    def take(piece):
        names.append(name.get())
        return False

    async def receive():
        name.set("receiver")
        await server.receive_each(take)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await client.send_all(b"x")
    assert names == ["receiver"]


async def test_closing_wakes_who_takes_pieces(pair):
    client, _ = pair

    async def receive():
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_each(bool)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()


async def test_who_takes_pieces_may_close_the_stream_meanwhile_or_be_cancelled(pair):
    client, server = pair

    async def receive(scope):
        with scope:
            await server.receive_each(bool)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(receive, scope)
            await trio.testing.wait_all_tasks_blocked()
            await client.send_all(b"x")
            scope.cancel()
        await server.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await server.receive_each(bool)


async def test_a_slow_sender_is_heard_without_the_rest(pair):
    """However large the buffer is that waits for more."""
    client, server = pair
    view = memoryview(bytearray(1_048_576))
    with trio.fail_after(10):
        for number in range(40):
            await client.send_all(bytes((number,)) * 500)
            size = 0
            while size < 500:
                size += await server.receive_into(view[size:])
            assert bytes(view[:500]) == bytes((number,)) * 500


async def test_sending_nothing_is_allowed(pair):
    client, server = pair
    await client.send_all(b"")
    await client.send_all(bytearray(b"x"))
    assert await server.receive_some(10) == b"x"


async def test_what_is_sent_at_once_or_begun_so_arrives_once_and_in_order(pair):
    client, server = pair
    sent, began = b"", False
    while not began and len(sent) < 64 * 2**20:
        message = len(sent).to_bytes(8, "big") * 1024
        began = not client.try_send(message)
        if not began:
            sent += message
    assert began, "the other end reads nothing: sometime there is no room"
    received = b""

    async def receive():
        nonlocal received
        received = await receive_all(server)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await client.send_all(message + b"behind it")
        if not client.try_send(b"at last"):
            await client.send_all(b"at last")
        await client.send_eof()
    assert received == sent + message + b"behind it" + b"at last"


async def test_a_stream_that_is_of_no_use_sends_nothing_at_once(pair):
    client, server = pair
    await client.send_eof()
    assert not client.try_send(b"late")
    await server.aclose()
    assert not server.try_send(b"late")


async def test_after_a_half_close_the_other_direction_goes_on(pair):
    """F36: a client half-closes after its request and gets its whole answer."""
    client, server = pair
    await client.send_all(b"request")
    await client.send_eof()
    assert await receive_all(server) == b"request"
    await server.send_all(b"answer" * 10_000)
    await server.send_eof()
    assert await receive_all(client) == b"answer" * 10_000


async def test_what_came_before_our_half_close_is_not_lost(pair):
    client, server = pair
    await server.send_all(b"early" * 1000)
    await client.receive_some(1)  # Now the rest is here, below us.
    await client.send_eof()
    await server.send_all(b"late")
    await server.send_eof()
    assert await receive_all(client) == (b"early" * 1000)[1:] + b"late"


async def test_the_end_is_received_again_and_again(pair):
    client, server = pair
    await client.send_eof()
    for _ in range(3):
        assert await server.receive_some(10) == b""


async def test_an_end_may_be_said_twice(pair):
    client, server = pair
    await client.send_eof()
    await client.send_eof()
    assert await server.receive_some(10) == b""


async def test_nothing_is_sent_after_the_end(pair):
    client, _ = pair
    await client.send_eof()
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")


async def test_a_close_is_an_end_to_the_other_side(pair):
    client, server = pair
    await client.send_all(b"last words")
    await client.aclose()
    assert await receive_all(server) == b"last words"


async def test_a_closed_stream_is_of_no_use(pair):
    client, _ = pair
    await client.aclose()
    await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await client.receive_some(1)


async def test_closing_wakes_a_task_that_receives(pair):
    client, _ = pair

    async def receive():
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()


async def test_sending_to_one_who_left_breaks_in_the_end(pair):
    client, server = pair
    await server.aclose()

    async def send_on():
        while True:
            await client.send_all(b"x" * 1000)
            await trio.sleep(0.001)

    with pytest.raises(trio.BrokenResourceError), trio.fail_after(10):
        await send_on()


async def test_a_sender_waits_for_a_receiver_that_is_slow(pair):
    """F36: nothing in between swallows without bound what nobody reads."""
    client, server = pair
    sent = trio.Event()

    async def send():
        for _ in range(64):
            await client.send_all(bytes(1024 * 1024))
        sent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not sent.is_set()
        nursery.cancel_scope.cancel()
    await server.aclose()


async def test_a_task_that_receives_can_be_cancelled(pair):
    client, _ = pair
    with trio.move_on_after(0.01) as scope:
        await client.receive_some(1)
    assert scope.cancelled_caught


async def test_both_ends_know_the_other_address(pair):
    client, server = pair
    assert client.remote.host == "127.0.0.1"
    assert client.remote.port != 0
    assert server.remote.host == "127.0.0.1"
    assert server.remote.port not in {0, client.remote.port}


# Listening and connecting.


async def test_a_connection_where_nobody_listens_is_refused(host):
    listener = await host.network.listen(LOCAL)
    await listener.aclose()
    with pytest.raises(OSError):
        await host.network.connect(listener.address)


async def test_a_host_that_does_not_exist_is_an_error(host):
    with pytest.raises(OSError):
        await host.network.connect(Address("nobody.invalid", 80))
    with pytest.raises(OSError):
        await host.network.connect(Address("x" * 300, 80))


async def test_an_address_is_listened_on_once(host):
    listener = await host.network.listen(LOCAL)
    assert listener.address.port != 0
    with pytest.raises(OSError):
        await host.network.listen(listener.address)
    await listener.aclose()
    again = await host.network.listen(listener.address)
    await again.aclose()


async def test_localhost_is_a_name_of_this_host(host):
    listener = await host.network.listen(LOCAL)
    client = await host.network.connect(Address("localhost", listener.address.port))
    server = await listener.accept()
    for stream in (client, server, listener):
        await stream.aclose()


async def test_closing_a_listener_wakes_who_accepts(host):
    listener = await host.network.listen(LOCAL)

    async def accept():
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()
    await listener.aclose()


async def test_many_connections_are_accepted(host):
    listener = await host.network.listen(LOCAL)
    clients = [await host.network.connect(listener.address) for _ in range(20)]
    servers = [await listener.accept() for _ in range(20)]
    for number, client in enumerate(clients):
        await client.send_all(bytes((number,)))
    assert sorted([await server.receive_some(1) for server in servers]) == [
        bytes((number,)) for number in range(20)
    ]
    for stream in (*clients, *servers, listener):
        await stream.aclose()


# Trust.


async def test_mutual_tls_names_both_nodes(host):
    keys = NodeKeys(host)
    server_tls = ServerTls(lambda: keys.node(BOB), mutual=True)
    client_tls = ClientTls(keys.node(ALICE), server_node=BOB)
    async with connected(host, server_tls, client_tls) as (client, server):
        assert client.peer_node == BOB
        assert server.peer_node == ALICE


async def test_a_plain_stream_names_nobody(host):
    async with connected(host) as (client, server):
        assert client.peer_node is None
        assert server.peer_node is None


async def test_a_client_may_show_no_certificate(host):
    keys = NodeKeys(host)
    server_tls = ServerTls(lambda: keys.node(BOB), mutual=True)
    client_tls = ClientTls(None, trust_pem=keys.authority.certificate_pem)
    async with connected(host, server_tls, client_tls) as (client, server):
        assert client.peer_node == BOB
        assert server.peer_node is None
        await client.send_all(b"let me join")
        assert await server.receive_some(100) == b"let me join"


async def test_a_client_without_trust_takes_any_server_for_nobody(host):
    keys = NodeKeys(host)
    server_tls = ServerTls(lambda: keys.node(BOB), mutual=True)
    async with connected(host, server_tls, ClientTls(None)) as (client, server):
        assert client.peer_node is None
        assert server.peer_node is None


async def test_a_server_that_is_not_mutual_asks_for_no_certificate(host):
    keys = NodeKeys(host)
    stranger = NodeKeys(host, OTHER_CLUSTER).node(ALICE)
    showing = ClientTls(attrs.evolve(stranger, trust_pem=keys.authority.certificate_pem))
    async with connected(host, ServerTls(keys.server), showing) as (client, server):
        assert server.peer_node is None
        assert client.peer_node is None  # A server's certificate names no node.


async def fails_to_connect(host, server_tls, client_tls):
    """Whether the client, or with TLS 1.3 its first receive, and the server both fail."""
    listener = await host.network.listen(LOCAL, tls=server_tls)

    async def accept():
        server = await listener.accept()
        with pytest.raises(trio.BrokenResourceError):
            await server.handshake()
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some(1)
        assert server.peer_node is None
        await server.aclose()

    async def connect():
        client = await host.network.connect(listener.address, tls=client_tls)
        try:
            await client.receive_some(1)
        finally:
            await client.aclose()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            with pytest.raises(trio.BrokenResourceError):
                await connect()
    await listener.aclose()


async def test_a_client_of_another_cluster_is_refused_at_the_handshake(host):
    """F30: wrong cluster."""
    keys = NodeKeys(host)
    stranger = NodeKeys(host, OTHER_CLUSTER).node(ALICE)
    showing = ClientTls(attrs.evolve(stranger, trust_pem=keys.authority.certificate_pem))
    await fails_to_connect(host, ServerTls(lambda: keys.node(BOB), mutual=True), showing)


async def test_a_server_of_another_cluster_is_refused_by_the_client(host):
    """F30: wrong cluster."""
    keys, others = NodeKeys(host), NodeKeys(host, OTHER_CLUSTER)
    server_tls = ServerTls(lambda: others.node(BOB), mutual=True)
    await fails_to_connect(host, server_tls, ClientTls(keys.node(ALICE)))


async def test_another_node_than_the_one_called_is_refused(host):
    keys = NodeKeys(host)
    server_tls = ServerTls(lambda: keys.node(BOB), mutual=True)
    calling = ClientTls(keys.node(ALICE), server_node=ALICE)
    listener = await host.network.listen(LOCAL, tls=server_tls)

    async def accept():
        server = await listener.accept()
        try:
            await server.handshake()
            assert await server.receive_some(1) == b""
        except trio.BrokenResourceError:
            pass
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(trio.BrokenResourceError):
            await host.network.connect(listener.address, tls=calling)
    await listener.aclose()


@pytest.mark.parametrize("late", ["client", "server"])
async def test_an_expired_certificate_is_refused(host, late):
    """F30, F49: expired certificate."""
    keys = NodeKeys(host, age_days=10)
    days = {"client": 30, "server": 30, late: 5}
    server, client = keys.node(BOB, days["server"]), keys.node(ALICE, days["client"])
    await fails_to_connect(host, ServerTls(lambda: server, mutual=True), ClientTls(client))


async def test_a_servers_certificate_is_not_good_for_a_client(host):
    keys = NodeKeys(host)
    server_tls = ServerTls(lambda: keys.node(BOB), mutual=True)
    await fails_to_connect(host, server_tls, ClientTls(keys.server()))


async def test_a_server_that_trusts_nobody_refuses_every_certificate(host):
    keys = NodeKeys(host)
    identity = attrs.evolve(keys.node(BOB), trust_pem=b"")
    await fails_to_connect(
        host, ServerTls(lambda: identity, mutual=True), ClientTls(keys.node(ALICE))
    )


async def test_a_renewed_certificate_needs_no_restart(host):
    keys = NodeKeys(host)
    identities = [keys.node(BOB), keys.node(ALICE)]
    listener = await host.network.listen(
        LOCAL, tls=ServerTls(lambda: identities[0], mutual=True)
    )
    seen = []

    async def accept():
        server = await listener.accept()
        await server.handshake()
        await server.receive_some(1)
        await server.aclose()

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            client = await host.network.connect(
                listener.address, tls=ClientTls(keys.node(ALICE))
            )
            seen.append(client.peer_node)
            await client.aclose()
        identities.pop(0)
    assert seen == [BOB, ALICE]
    await listener.aclose()


async def test_a_listener_with_a_useless_identity_does_not_start(host):
    keys = NodeKeys(host)
    mixed = attrs.evolve(keys.node(BOB), private_key_pem=keys.node(ALICE).private_key_pem)
    with pytest.raises(OSError):
        await host.network.listen(LOCAL, tls=ServerTls(lambda: mixed))


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\n\r\n", bytes(500)])
async def test_who_does_not_speak_tls_fails_the_handshake(host, greeting):
    """F32: garbage on the port."""
    keys = NodeKeys(host)
    listener = await host.network.listen(LOCAL, tls=ServerTls(keys.server))
    client = await host.network.connect(listener.address)
    server = await listener.accept()
    await client.send_all(greeting)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(10):
        await server.handshake()
    for stream in (client, server, listener):
        await stream.aclose()


async def test_a_tls_stream_cut_short_is_broken_and_not_ended(host):
    """F49: truncated TLS close, no close_notify."""
    keys = NodeKeys(host)
    client_tls = ClientTls(None, trust_pem=keys.authority.certificate_pem)
    async with connected(host, ServerTls(keys.server), client_tls) as (client, server):
        await client.send_all(b"half a bo")
        client._transport.close()
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(server)


async def test_a_handshake_that_is_cancelled_leaves_a_stream_to_be_closed(host):
    keys = NodeKeys(host)
    listener = await host.network.listen(LOCAL, tls=ServerTls(keys.server))
    client = await host.network.connect(listener.address)
    server = await listener.accept()
    with trio.move_on_after(0.01) as scope:
        await server.handshake()
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some(1)
    for stream in (client, server, listener):
        await stream.aclose()


# Packets.


async def test_a_packet_arrives_whole_with_its_sender(host):
    one = await host.network.open_packets(LOCAL)
    other = await host.network.open_packets(LOCAL)
    one.send(b"ping" * 300, other.address)
    data, sender = await other.receive()
    assert (data, sender) == (b"ping" * 300, one.address)
    other.send(b"", sender)
    assert await one.receive() == (b"", other.address)
    await one.aclose()
    await other.aclose()


async def test_packets_to_nowhere_are_lost_without_a_word(host):
    one = await host.network.open_packets(LOCAL)
    gone = await host.network.open_packets(LOCAL)
    await gone.aclose()
    for _ in range(3):
        one.send(b"x", gone.address)
        one.send(b"x", Address("nobody.invalid", 1))
        one.send(bytes(100_000), one.address)
    one.send(b"to myself", one.address)
    assert await one.receive() == (b"to myself", one.address)
    await one.aclose()


async def test_a_packets_target_may_be_a_name(host):
    one = await host.network.open_packets(LOCAL)
    received = False
    with trio.fail_after(10):
        while not received:
            one.send(b"hello", Address("localhost", one.address.port))
            with trio.move_on_after(0.05):
                received = (await one.receive())[0] == b"hello"
    await one.aclose()


async def test_closing_packets_wakes_who_receives(host):
    packets = await host.network.open_packets(LOCAL)

    async def receive():
        with pytest.raises(trio.ClosedResourceError):
            await packets.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await packets.aclose()
    with pytest.raises(trio.ClosedResourceError):
        packets.send(b"x", packets.address)
    await packets.aclose()
