"""The faults of the simulated network; what it does without them is in tests/contract."""

from __future__ import annotations

import contextlib

import pytest
import trio

from objstore.host.network import Address
from objstore.testing.host import SimulatedWorld
from objstore.testing.network import CONNECT_TIMEOUT_S, KEEPALIVE_S, WINDOW_SIZE

PORT = 7000
SERVER = Address("b", PORT)


@pytest.fixture
def world():
    world = SimulatedWorld(seed=1)
    for name in ("a", "b", "c"):
        world.host(name)
    return world


async def connect(world, source="a", target="b", port=PORT):
    """Client end and server end."""
    listener = await world.host(target).network.listen(Address("0.0.0.0", port))
    client = await world.host(source).network.connect(Address(target, port))
    server = await listener.accept()
    await listener.aclose()
    return client, server


async def test_a_host_is_found_by_name_and_by_address(world, autojump_clock):
    listener = await world.host("b").network.listen(Address("b", PORT))
    for host in ("b", world.address("b")):
        client = await world.host("a").network.connect(Address(host, PORT))
        server = await listener.accept()
        assert server.remote.host == world.address("a")
        await client.aclose()


async def test_what_listens_on_loopback_is_not_heard_from_outside(world, autojump_clock):
    await world.host("b").network.listen(Address("127.0.0.1", PORT))
    with pytest.raises(ConnectionRefusedError):
        await world.host("a").network.connect(SERVER)
    with pytest.raises(OSError):
        await world.host("a").network.listen(Address("b", PORT))


async def test_latency_delays_and_bandwidth_limits(world, autojump_clock):
    client, server = await connect(world)
    world.link("a", "b").latency_s = 0.5
    world.link("a", "b").bytes_per_s = 1000
    began = trio.current_time()
    await client.send_all(bytes(2000))
    received = b""
    while len(received) < 2000:
        received += await server.receive_some(5000)
    assert trio.current_time() - began == pytest.approx(2.5, abs=0.01)


async def test_a_cut_holds_a_stream_and_a_heal_releases_it(world, autojump_clock):
    """F16: full partition."""
    client, server = await connect(world)
    world.cut("a", "b")
    await client.send_all(b"through")
    with trio.move_on_after(10) as scope:
        await server.receive_some(10)
    assert scope.cancelled_caught
    world.heal("a", "b")
    assert await server.receive_some(1) == b"t"


async def test_a_one_way_cut_lets_the_other_way_through(world, autojump_clock):
    """F17: hears, but cannot send."""
    client, server = await connect(world)
    world.cut("a", "b", one_way=True)
    await client.send_all(b"lost for now")
    await server.send_all(b"x")
    assert await client.receive_some(1) == b"x"
    with trio.move_on_after(10) as scope:
        await server.receive_some(10)
    assert scope.cancelled_caught


async def test_a_cut_between_two_leaves_the_third_connected(world, autojump_clock):
    """F18: partial partition."""
    world.cut("a", "b")
    for source in ("a", "b"):
        client, server = await connect(world, source, "c", PORT + ord(source))
        await client.send_all(b"x")
        assert await server.receive_some(1) == b"x"


async def test_a_sender_into_a_black_hole_stops_at_the_window_and_breaks_in_the_end(
    world, autojump_clock
):
    """F20: black hole without RST."""
    client, _ = await connect(world)
    world.cut("a", "b")
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(bytes(WINDOW_SIZE + 1))
    assert trio.current_time() - began == pytest.approx(KEEPALIVE_S, abs=1)


async def test_connecting_into_a_black_hole_times_out(world, autojump_clock):
    world.cut("a", "b")
    began = trio.current_time()
    with pytest.raises(TimeoutError):
        await world.host("a").network.connect(SERVER)
    assert trio.current_time() - began == pytest.approx(CONNECT_TIMEOUT_S, abs=1)


async def test_connecting_goes_on_once_a_cut_heals(world, autojump_clock):
    listener = await world.host("b").network.listen(SERVER)
    world.cut("b", "a", one_way=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.host("a").network.connect, SERVER)
        await trio.sleep(5)
        world.heal_all()
    await listener.accept()


async def test_a_reset_breaks_streams_and_refuses_connects(world, autojump_clock):
    """F20: RST storm."""
    client, server = await connect(world)
    await world.host("b").network.listen(SERVER)
    world.cut("a", "b", mode="reset")
    for stream in (client, server):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
    with pytest.raises(ConnectionRefusedError):
        await world.host("a").network.connect(SERVER)
    world.heal("a", "b")
    await world.host("a").network.connect(SERVER)


async def test_a_killed_process_says_goodbye(world, autojump_clock):
    client, _ = await connect(world)
    world.kill("b")
    assert await client.receive_some(1) == b""
    with pytest.raises(ConnectionRefusedError):
        await world.host("a").network.connect(SERVER)


async def test_a_killed_process_that_left_bytes_unread_resets(world, autojump_clock):
    client, _ = await connect(world)
    await client.send_all(b"unread")
    await trio.sleep(1)
    world.kill("b")
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some(1)


async def test_a_host_without_power_says_nothing(world, autojump_clock):
    """F20: a half-open connection, noticed by keep-alive alone."""
    client, server = await connect(world)
    world.crash("b")
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some(1)
    assert trio.current_time() - began >= KEEPALIVE_S
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some(1)


async def test_a_rebooted_host_resets_whom_it_does_not_remember(world, autojump_clock):
    """F20: half-open connections after a peer's reboot."""
    client, _ = await connect(world)
    world.crash("b")
    await trio.sleep(1)
    world.restart("b")
    began = trio.current_time()
    await client.send_all(b"do you know me?")
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some(1)
    assert trio.current_time() - began < 1


async def test_the_dead_do_not_speak(world, autojump_clock):
    client, server = await connect(world)
    packets = await world.host("b").network.open_packets(Address("b", PORT))
    receiver = await world.host("a").network.open_packets(Address("a", PORT))
    network = world.host("b").network
    world.crash("b")
    packets.send(b"ghost", Address("a", PORT))
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"ghost")
    await server.aclose()
    with pytest.raises(OSError):
        await network.connect(Address("a", PORT))
    with pytest.raises(OSError):
        await network.listen(Address("b", 0))
    with trio.move_on_after(10) as scope:
        await receiver.receive()
    assert scope.cancelled_caught
    with trio.move_on_after(10) as scope:
        await client.receive_some(1)
    assert scope.cancelled_caught


async def endpoints(world):
    one = await world.host("a").network.open_packets(Address("a", PORT))
    other = await world.host("b").network.open_packets(Address("b", PORT))
    return one, other


async def received(endpoint, within_s=10):
    packets = []
    with trio.move_on_after(within_s):
        while True:
            packets.append((await endpoint.receive())[0])
    return packets


async def test_packets_are_lost_doubled_and_reordered_as_ordered(world, autojump_clock):
    """F19."""
    one, other = await endpoints(world)
    link = world.link("a", "b")
    link.loss, link.duplicate, link.reorder = 0.3, 0.2, 0.3
    for number in range(500):
        one.send(b"%d" % number, Address("b", PORT))
        await trio.sleep(0.01)
    packets = await received(other)
    distinct = set(packets)
    assert 280 < len(distinct) < 420
    assert len(packets) > len(distinct) * 1.1
    assert packets != sorted(packets, key=int)


async def test_packets_into_a_cut_are_lost_for_good(world, autojump_clock):
    one, other = await endpoints(world)
    world.cut("a", "b", one_way=True)
    one.send(b"lost", Address("b", PORT))
    other.send(b"arrives", Address("a", PORT))
    world.heal_all()
    one.send(b"later", Address("b", PORT))
    assert await received(other) == [b"later"]
    assert await received(one) == [b"arrives"]


async def test_packets_that_nobody_reads_are_lost_beyond_a_bound(world, autojump_clock):
    one, other = await endpoints(world)
    for _ in range(5000):
        one.send(b"x", Address("b", PORT))
    assert len(await received(other)) == 1024


async def test_a_stream_survives_loss_late_and_in_order(world, autojump_clock):
    """F19: what TCP makes of 30% loss."""
    client, server = await connect(world)
    world.link("a", "b").loss = 0.3
    data = bytes(range(256)) * 4096

    async def send():
        await client.send_all(data)
        await client.send_eof()

    received_data = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while piece := await server.receive_some(50_000):
            received_data += piece
    assert received_data == data


async def test_an_isolated_host_reaches_nobody(world, autojump_clock):
    world.isolate("b", mode="reset")
    for other in ("a", "c"):
        with pytest.raises(OSError):
            await world.host("b").network.connect(Address(other, PORT))


async def pump(stream):
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(bytes(100_000))


async def test_two_senders_with_full_windows_let_time_pass(world, autojump_clock):
    one, other = await connect(world)
    world.cut("a", "b")
    with trio.move_on_after(10) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, one)
            nursery.start_soon(pump, other)
    assert scope.cancelled_caught


async def drain(stream):
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(1000):
            pass


async def test_a_sender_and_a_reader_hear_together_that_the_host_began_anew(
    world, autojump_clock
):
    client, _ = await connect(world)
    world.crash("b")
    world.restart("b")
    world.link("a", "b").latency_s = 3.0
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump, client)
        nursery.start_soon(drain, client)
    assert 3 < trio.current_time() - began < 10
