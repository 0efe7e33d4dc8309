"""Calls between two nodes over a network in memory."""

from __future__ import annotations

import contextlib
import gc
from functools import partial
from random import Random

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from objstore import metrics
from objstore.buffer import Buffer
from objstore.errors import Conflict, NotFound, RemoteProtocolError, Unavailable
from objstore.host.network import ClientTls
from objstore.ids import ClusterId, NodeId
from objstore.rpc import client, connection
from objstore.rpc.call import (
    BadRequest,
    DeadlineExceeded,
    NoSuchMethod,
    PeerBusy,
    PeerFailed,
    PeerUnavailable,
    Refused,
)
from objstore.rpc.client import Reply, call_address
from objstore.rpc.codec import wire, wire_error
from objstore.rpc.config import RpcConfig
from objstore.rpc.frames import Kind, encode_frame
from objstore.rpc.server import Call, RpcServer
from objstore.sums import Sums

from .memory import (
    ALICE,
    BOB,
    BOB_ADDRESS,
    CAROL,
    CLUSTER,
    MemoryNetwork,
    identity_of,
    make_peers,
    make_server,
    running,
)


@wire("t.greeting")
@attrs.frozen
class Greeting:
    text: str


@wire_error("t.taken")
class Taken(Conflict):
    def __init__(self, holder: str) -> None:
        super().__init__(f"{holder} has it")
        self.holder = holder


async def echo(call: Call) -> Reply:
    return Reply((call.peer, call.value), call.payload)


async def hang(call: Call) -> Reply:
    await trio.sleep_forever()
    raise AssertionError


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def server(network: MemoryNetwork) -> RpcServer:
    server = make_server(network)
    server.register("echo", echo)
    server.register("hang", hang)
    return server


async def test_large_payloads_bring_the_sums_of_their_pieces(
    network: MemoryNetwork, server: RpcServer
) -> None:
    seen: list[Sums | None] = []

    async def note(call: Call) -> Reply:
        seen.append(call.sums)
        return Reply(None, call.payload)

    server.register("note", note)
    peers = make_peers(network)
    payload = bytes(range(250)) * 4000
    async with running(server, peers):
        for _ in range(2):
            reply = await peers.call(BOB, "note", payload=payload, timeout_ms=1000)
            assert reply.payload == payload
            seen.append(reply.sums)
    assert seen == [Sums.of(payload)] * 4


async def test_a_call_brings_value_and_payload_and_names_its_caller(
    network: MemoryNetwork, server: RpcServer
) -> None:
    peers = make_peers(network)
    async with running(server, peers):
        for size in (0, 10, 3_000_000):
            reply = await peers.call(
                BOB, "echo", Greeting("hi"), payload=b"x" * size, timeout_ms=1000
            )
            assert reply.value == (ALICE, Greeting("hi"))
            assert isinstance(reply.payload, memoryview)
            assert reply.payload == b"x" * size
    assert network.connects == 1
    assert peers.boot_id_of(BOB) == b"bob's boot"


async def test_calls_at_once_share_links_and_sends(
    network: MemoryNetwork, server: RpcServer
) -> None:
    peers = make_peers(network)
    replies = []

    async def one(n: int, bulk: bool) -> None:
        replies.append((await peers.call(BOB, "echo", n, timeout_ms=999, bulk=bulk)).value)

    async with running(server, peers):
        await peers.call(BOB, "echo", timeout_ms=1000)
        client, served = network.streams[0]
        before = client.sends, served.sends
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(one, n, False)
        assert (client.sends - before[0], served.sends - before[1]) == (1, 1)
        async with trio.open_nursery() as nursery:
            for n in range(50, 90):
                nursery.start_soon(one, n, True)
        assert network.connects == 3  # One control and two bulk links.
    assert sorted(replies) == [(ALICE, n) for n in range(90)]


async def test_workers_are_used_again(network: MemoryNetwork, server: RpcServer) -> None:
    tasks = set()

    async def note(call: Call) -> Reply:
        tasks.add(id(trio.lowlevel.current_task()))
        return Reply()

    server.register("note", note)
    peers = make_peers(network)
    async with running(server, peers):
        for _ in range(20):
            await peers.call(BOB, "note", timeout_ms=1000)
    assert len(tasks) == 1


async def test_an_error_of_the_handler_is_raised_here_with_its_attributes(
    network: MemoryNetwork, server: RpcServer
) -> None:
    async def taken(call: Call) -> Reply:
        if call.value:
            async with trio.open_nursery():
                raise Taken("carol")
        raise Taken("carol")

    server.register("take", taken)
    peers = make_peers(network)
    async with running(server, peers):
        for grouped in (False, True):
            with pytest.raises(Taken) as caught:
                await peers.call(BOB, "take", grouped, timeout_ms=1000)
            assert caught.value.holder == "carol"


async def test_a_bug_in_a_handler_is_logged_there_and_an_internal_error_here(
    network: MemoryNetwork, server: RpcServer
) -> None:
    async def bug(call: Call) -> Reply:
        raise ZeroDivisionError

    async def unsendable(call: Call) -> Reply:
        return Reply(object())

    server.register("bug", bug)
    server.register("unsendable", unsendable)
    peers = make_peers(network)
    async with running(server, peers):
        for method in ("bug", "unsendable"):
            with capture_logs() as logs, pytest.raises(PeerFailed) as caught:
                await peers.call(BOB, method, timeout_ms=1000)
            assert caught.value.unknown
            bugs = [entry for entry in logs if entry["event"] == "rpc.handler_failed"]
            assert [entry["method"] for entry in bugs] == [method]
        assert (await peers.call(BOB, "echo", 1, timeout_ms=1000)).value == (ALICE, 1)


def unreadable(number: int, method: str, *_: object) -> list[Buffer]:
    frame = encode_frame(Kind.REQUEST, call=number, parts=(method, 1000), value=None)
    raw = bytearray(b"".join(frame))
    raw[-1:] = b"\x90"  # An empty array is no value.
    return [raw]


async def test_unknown_methods_and_unreadable_values_are_refused(
    network: MemoryNetwork, server: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = make_peers(network)
    async with running(server, peers):
        with pytest.raises(NoSuchMethod):
            await peers.call(BOB, "nothing", timeout_ms=1000)
        monkeypatch.setattr(client, "encode_request", unreadable)
        with pytest.raises(BadRequest):
            await peers.call(BOB, "echo", timeout_ms=1000)


async def test_a_call_ends_at_its_deadline_and_is_cancelled_there(
    network: MemoryNetwork, server: RpcServer, autojump_clock: trio.testing.MockClock
) -> None:
    ended = []

    async def slow(call: Call) -> Reply:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())
        raise AssertionError

    server.register("slow", slow)
    peers = make_peers(network)
    async with running(server, peers):
        began = trio.current_time()
        with pytest.raises(DeadlineExceeded) as caught:
            await peers.call(BOB, "slow", timeout_ms=700)
        assert caught.value.unknown
        assert 0.7 <= trio.current_time() - began < 0.75
        await trio.testing.wait_all_tasks_blocked()
        assert 0.7 <= ended[0] - began < 0.75
        assert (await peers.call(BOB, "echo", 1, timeout_ms=700)).value == (ALICE, 1)


async def test_a_cancelled_call_is_cancelled_there(
    network: MemoryNetwork, server: RpcServer
) -> None:
    ended = trio.Event()
    begun = trio.Event()

    async def slow(call: Call) -> Reply:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    server.register("slow", slow)
    peers = make_peers(network)
    async with running(server, peers):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: peers.call(BOB, "slow", timeout_ms=60_000))
            await begun.wait()
            nursery.cancel_scope.cancel()
        await ended.wait()
        assert (await peers.call(BOB, "echo", 1, timeout_ms=1000)).value == (ALICE, 1)


async def test_a_lost_link_fails_its_calls_at_once_with_unknown_outcome(
    network: MemoryNetwork, server: RpcServer
) -> None:
    """F20."""
    peers = make_peers(network)
    caught = []

    async def one() -> None:
        with pytest.raises(PeerUnavailable) as info:
            await peers.call(BOB, "hang", timeout_ms=3_600_000)
        caught.append(info.value.unknown)

    async with running(server, peers):
        await peers.call(BOB, "echo", timeout_ms=1000)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            await network.streams[0][1].aclose()
        assert caught == [True] * 3
        assert (await peers.call(BOB, "echo", 1, timeout_ms=1000)).value == (ALICE, 1)
        assert network.connects == 2


async def test_a_refused_connect_fails_calls_at_once_and_for_a_pause(
    network: MemoryNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    peers = make_peers(network)
    async with running(peers):
        began = trio.current_time()
        for _ in range(10):
            with pytest.raises(PeerUnavailable) as caught:
                await peers.call(BOB, "echo", timeout_ms=60_000)
            assert not caught.value.unknown
        assert trio.current_time() - began < 0.05
        assert network.connects == 1
        for _ in range(60):  # A minute of one call a second: pauses stay bounded.
            await trio.sleep(1)
            with pytest.raises(PeerUnavailable):
                await peers.call(BOB, "echo", timeout_ms=60_000)
        assert network.connects == 61


async def test_a_node_that_gossip_sees_again_is_called_without_the_pause(
    network: MemoryNetwork, server: RpcServer, autojump_clock: trio.testing.MockClock
) -> None:
    config = RpcConfig(backoff_min_ms=60_000, backoff_max_ms=60_000)
    peers = make_peers(network, config)
    async with running(peers) as nursery:
        with pytest.raises(PeerUnavailable):
            await peers.call(BOB, "echo", timeout_ms=1000)
        await nursery.start(server.run)
        with pytest.raises(PeerUnavailable):
            await peers.call(BOB, "echo", timeout_ms=1000)
        peers.forget_pause(BOB)
        await peers.call(BOB, "echo", timeout_ms=1000)


async def test_a_black_hole_costs_a_caller_no_more_than_its_deadline(
    network: MemoryNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    """F20."""
    network.is_black_hole = True
    peers = make_peers(network)
    async with running(peers):
        began = trio.current_time()
        with pytest.raises(DeadlineExceeded) as caught:
            await peers.call(BOB, "echo", timeout_ms=500)
        assert not caught.value.unknown
        assert trio.current_time() - began < 0.6
        with pytest.raises(PeerUnavailable):
            await peers.call(BOB, "echo", timeout_ms=60_000)
        assert trio.current_time() - began < 3.1  # The connect's own deadline.


async def test_a_call_waits_for_a_connect_only_shortly_where_the_last_one_failed(
    network: MemoryNetwork, server: RpcServer, autojump_clock: trio.testing.MockClock
) -> None:
    """F20: behind a black hole every call would wait three seconds, and three more."""
    network.is_black_hole = True
    peers = make_peers(network)
    async with running(server, peers):
        with pytest.raises(PeerUnavailable):
            await peers.call(BOB, "echo", timeout_ms=60_000)
        for _ in range(20):
            await trio.sleep(0.2)
            began = trio.current_time()
            with pytest.raises(PeerUnavailable) as caught:
                await peers.call(BOB, "echo", timeout_ms=60_000)
            assert not caught.value.unknown
            assert trio.current_time() - began <= 0.5
        network.is_black_hole = False
        await trio.sleep(5)
        await peers.call(BOB, "echo", timeout_ms=60_000)


async def test_a_half_open_link_is_found_by_ping_and_its_calls_fail(
    network: MemoryNetwork, server: RpcServer, autojump_clock: trio.testing.MockClock
) -> None:
    """F20."""
    peers = make_peers(network)
    async with running(server, peers):
        await peers.call(BOB, "echo", timeout_ms=1000)
        network.streams[0][1].is_deaf = True  # Its answers go nowhere.
        began = trio.current_time()
        with pytest.raises(PeerUnavailable) as caught:
            await peers.call(BOB, "echo", timeout_ms=60_000)
        assert caught.value.unknown
        assert caught.value.reason == "silent"
        assert trio.current_time() - began < 7
        await peers.call(BOB, "echo", timeout_ms=1000)


async def test_the_server_ends_a_session_whose_client_is_silent(
    network: MemoryNetwork, server: RpcServer, autojump_clock: trio.testing.MockClock
) -> None:
    """F20."""
    peers = make_peers(network)
    async with running(server, peers):
        await peers.call(BOB, "echo", timeout_ms=1000)
        network.streams[0][0].is_deaf = True
        await trio.sleep(15)
        assert not server._sessions


async def test_an_idle_link_stays_up_by_pings_and_an_unused_one_is_closed(
    network: MemoryNetwork, server: RpcServer, autojump_clock: trio.testing.MockClock
) -> None:
    peers = make_peers(network)
    async with running(server, peers):
        await peers.call(BOB, "echo", timeout_ms=1000)
        await trio.sleep(300)
        assert peers.is_connected(BOB)
        await trio.sleep(310)
        assert not peers.is_connected(BOB)
        assert not server._sessions
        await trio.sleep(700)
        assert not peers._links
        await peers.call(BOB, "echo", timeout_ms=1000)
    assert network.connects == 2


async def test_calls_to_self_need_no_socket(network: MemoryNetwork) -> None:
    server = make_server(network)
    server.register("echo", echo)
    server.register("hang", hang)
    casts = []
    server.register_cast("note", lambda peer, value, payload: casts.append((peer, value)))
    peers = make_peers(network, node=BOB)
    peers.local = server
    async with running(peers):
        reply = await peers.call(BOB, "echo", 5, payload=b"p", timeout_ms=1000)
        assert (reply.value, reply.payload) == ((BOB, 5), b"p")
        with pytest.raises(DeadlineExceeded):
            await peers.call(BOB, "hang", timeout_ms=10)
        with pytest.raises(NoSuchMethod):
            await peers.call(BOB, "nothing", timeout_ms=10)
        peers.cast(BOB, "note", 7)
        await trio.testing.wait_all_tasks_blocked()
    assert casts == [(BOB, 7)]
    assert network.connects == 0


async def test_a_server_answers_the_node_itself_over_a_socket_too(
    network: MemoryNetwork, server: RpcServer
) -> None:
    async with running(server):
        reply = await call_address(
            network,
            BOB_ADDRESS,
            ClientTls(identity_of(ALICE), server_node=BOB),
            "echo",
            3,
            timeout_ms=1000,
            cluster=CLUSTER,
            node=ALICE,
        )
        assert reply.value == (ALICE, 3)


async def test_a_call_that_is_begun_is_answered_once_it_is_settled(
    network: MemoryNetwork, server: RpcServer
) -> None:
    begun = []
    server.register_begun("later", lambda call, settle: begun.append((call, settle)))
    peers = make_peers(network)
    peers.local = server
    answers = {}

    async def ask(number: int, to: NodeId) -> None:
        try:
            answers[number] = await peers.call(
                to, "later", number, payload=b"abc", timeout_ms=5000
            )
        except (Taken, PeerFailed) as error:
            answers[number] = error

    def taken() -> Reply:
        raise Taken("bob")

    def bug() -> Reply:
        raise ValueError

    async with running(server, peers) as nursery:
        for number in range(3):
            nursery.start_soon(ask, number, BOB)
        nursery.start_soon(ask, 3, ALICE)  # To itself.
        await trio.testing.wait_all_tasks_blocked()
        settles = {call.value: settle for call, settle in begun}
        assert not answers
        assert {bytes(call.payload) for call, _ in begun} == {b"abc"}
        settles[0](lambda: Reply("done", b"payload"))
        settles[1](taken)
        with capture_logs():
            settles[2](bug)
        settles[3](lambda: Reply("here"))
        await trio.testing.wait_all_tasks_blocked()
    assert (answers[0].value, answers[0].payload) == ("done", b"payload")
    assert answers[1].holder == "bob"
    assert isinstance(answers[2], PeerFailed)
    assert answers[3].value == "here"


async def test_a_call_that_cannot_be_begun_fails_with_the_error(
    network: MemoryNetwork, server: RpcServer
) -> None:
    def refuse(call: Call, settle: object) -> None:
        raise Taken(str(call.value)) if call.value else KeyError

    server.register_begun("refuse", refuse)
    peers = make_peers(network)
    async with running(server, peers):
        with pytest.raises(Taken):
            await peers.call(BOB, "refuse", "carol", timeout_ms=5000)
        with capture_logs(), pytest.raises(PeerFailed):
            await peers.call(BOB, "refuse", timeout_ms=5000)


async def test_what_was_begun_goes_on_when_its_caller_is_gone(
    network: MemoryNetwork, server: RpcServer
) -> None:
    begun = []
    server.register_begun("later", lambda call, settle: begun.append(settle))
    peers = make_peers(network)
    async with running(server):
        async with running(peers):
            with trio.move_on_after(0.01):
                await peers.call(BOB, "later", timeout_ms=5000)
            with pytest.raises(DeadlineExceeded):
                await peers.call(BOB, "later", timeout_ms=10)
            begun[0](Reply)  # Nobody waits for it.
            assert (await peers.call(BOB, "echo", 1, timeout_ms=5000)).value == (ALICE, 1)
        await trio.testing.wait_all_tasks_blocked()
        begun[1](Reply)  # And nobody is there.


async def test_casts_of_one_pass_go_in_one_send_and_arrive_in_order(
    network: MemoryNetwork, server: RpcServer
) -> None:
    got = []
    server.register_cast("note", lambda peer, value, _: got.append((peer, value)))
    peers = make_peers(network)
    async with running(server, peers):
        for n in range(5):
            peers.cast(BOB, "note", n)  # Before the link is up.
        await trio.testing.wait_all_tasks_blocked()
        before = network.streams[0][0].sends
        for n in range(5, 50):
            peers.cast(BOB, "note", n, b"payload")
        await trio.testing.wait_all_tasks_blocked()
        assert network.streams[0][0].sends == before + 1
    assert got == [(ALICE, n) for n in range(50)]


async def test_casts_are_dropped_and_counted_when_down_or_full(
    network: MemoryNetwork, server: RpcServer, autojump_clock: trio.testing.MockClock
) -> None:
    def dropped() -> float:
        return metrics.RPC_CASTS_DROPPED._value.get()

    peers = make_peers(network, RpcConfig(cast_size_max=1000))
    async with running(peers):
        before = dropped()
        peers.cast(BOB, "note", 1)
        await trio.testing.wait_all_tasks_blocked()
        peers.cast(BOB, "note", 2)  # In the pause after the refusal.
        assert dropped() == before + 1
        peers.forget_pause(BOB)
        for _ in range(20):
            peers.cast(BOB, "note", 3, bytes(100))
        assert 10 <= dropped() - before - 1 <= 13


async def test_a_cast_whose_handler_fails_or_is_missing_harms_nothing(
    network: MemoryNetwork, server: RpcServer
) -> None:
    def bug(peer: NodeId, value: object, payload: memoryview) -> None:
        raise ZeroDivisionError

    server.register_cast("bug", bug)
    peers = make_peers(network)
    async with running(server, peers):
        with capture_logs() as logs:
            peers.cast(BOB, "bug")
            peers.cast(BOB, "nothing")
            await peers.call(BOB, "echo", timeout_ms=1000)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "rpc.handler_failed"
    ]


async def test_calls_beyond_the_bound_wait_for_others_to_end(
    network: MemoryNetwork, server: RpcServer
) -> None:
    running_now = 0
    most = 0
    gate = trio.Event()

    async def gated(call: Call) -> Reply:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await gate.wait()
        running_now -= 1
        return Reply()

    server.register("gated", gated)
    peers = make_peers(network, RpcConfig(calls_in_flight_max=4))
    async with running(server, peers), trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(lambda: peers.call(BOB, "gated", timeout_ms=60_000))
        await trio.testing.wait_all_tasks_blocked()
        assert most == 4
        gate.set()
    assert most == 4


async def test_payload_bytes_in_flight_are_bounded(
    network: MemoryNetwork, server: RpcServer
) -> None:
    held = 0
    most = 0
    gate = trio.Event()

    async def gated(call: Call) -> Reply:
        nonlocal held, most
        held += len(call.payload)
        most = max(most, held)
        await gate.wait()
        held -= len(call.payload)
        return Reply()

    server.register("gated", gated)
    peers = make_peers(network)
    payload = bytes(1024 * 1024)
    async with running(server, peers), trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(
                lambda: peers.call(BOB, "gated", payload=payload, timeout_ms=60_000)
            )
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert most == 16 * 1024 * 1024


async def test_a_client_that_breaks_the_bound_is_told_that_we_are_busy(
    network: MemoryNetwork,
) -> None:
    server = make_server(network, RpcConfig(calls_in_flight_max=2))
    server.register("hang", hang)
    peers = make_peers(network)
    outcomes = []

    async def one() -> None:
        try:
            await peers.call(BOB, "hang", timeout_ms=300)
        except PeerUnavailable as error:
            outcomes.append(type(error))

    async with running(server, peers), trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    assert outcomes == [PeerBusy] * 3 + [DeadlineExceeded] * 2


async def test_large_replies_to_a_slow_reader_are_made_as_it_reads(
    network: MemoryNetwork,
) -> None:
    """F36: what waits to be sent is bounded, and everything arrives in the end."""
    config = RpcConfig(queue_size_max=2 * 1024 * 1024, cast_size_max=1024 * 1024)
    server = make_server(network, config)
    made = 0

    async def big(call: Call) -> Reply:
        nonlocal made
        made += 1
        return Reply(None, bytes(1024 * 1024))

    server.register("big", big)
    peers = make_peers(network)
    sizes: list[int] = []

    async def one() -> None:
        sizes.append(len((await peers.call(BOB, "big", timeout_ms=60_000)).payload))

    async with running(server, peers):
        with pytest.raises(NoSuchMethod):
            await peers.call(BOB, "nothing", timeout_ms=1000)
        stream = network.streams[0][1]
        gate = trio.Event()
        send_all = stream.inner.send_all

        async def gated(data: bytes) -> None:
            await gate.wait()
            await send_all(data)

        stream.inner.send_all = gated  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            assert 2 <= made <= 3
            for _ in range(30):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            assert made <= 6
            gate.set()
    assert sizes == [1024 * 1024] * 33


@pytest.mark.parametrize(
    ("cluster", "node", "shown"),
    [
        (ClusterId("d" * 32), ALICE, ALICE),
        (CLUSTER, ALICE, CAROL),
        (CLUSTER, ALICE, None),
        (CLUSTER, None, ALICE),
        (ClusterId("d" * 32), None, None),
    ],
)
async def test_a_hello_of_another_cluster_or_node_is_refused(
    network: MemoryNetwork,
    server: RpcServer,
    cluster: ClusterId,
    node: NodeId | None,
    shown: NodeId | None,
) -> None:
    """F30."""
    async with running(server):
        identity = None if shown is None else identity_of(shown)
        with capture_logs() as logs, pytest.raises(Refused) as caught:
            await call_address(
                network,
                BOB_ADDRESS,
                ClientTls(identity, server_node=BOB),
                "echo",
                timeout_ms=1000,
                cluster=cluster,
                node=node,
            )
        assert not caught.value.unknown
        await trio.testing.wait_all_tasks_blocked()
    assert [entry["event"] for entry in logs] == ["rpc.connection_refused"]


async def test_a_server_that_is_another_node_is_not_spoken_to(
    network: MemoryNetwork, server: RpcServer
) -> None:
    """F30: bob listens at carol's address."""
    peers = make_peers(network)
    peers.resolve = {CAROL: BOB_ADDRESS}.get
    async with running(server, peers):
        with pytest.raises(PeerUnavailable) as caught:
            await peers.call(CAROL, "echo", timeout_ms=1000)
        assert not caught.value.unknown


async def test_a_stranger_may_call_anonymous_methods_only(
    network: MemoryNetwork, server: RpcServer
) -> None:
    """F32."""
    server.register("join", echo, anonymous=True)
    nobody = ClientTls(None, server_node=BOB)

    async def call(method: str, payload: bytes = b"") -> Reply:
        return await call_address(
            network, BOB_ADDRESS, nobody, method, 1, payload=payload, timeout_ms=1000
        )

    async with running(server):
        assert (await call("join")).value == (None, 1)
        with pytest.raises(NoSuchMethod):
            await call("echo")
        with pytest.raises(PeerUnavailable):
            await call("join", bytes(100_000))


async def test_strangers_are_few_and_stay_for_a_short_while(
    network: MemoryNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    """F32: connections that say nothing, and one that drips."""
    server = make_server(network, RpcConfig(strangers_max=5))
    server.register("echo", echo)
    peers = make_peers(network)
    async with running(server, peers):
        streams = [await network.connect(BOB_ADDRESS) for _ in range(20)]
        await trio.testing.wait_all_tasks_blocked()
        assert len(server._strangers) == 5
        # Who has a certificate is not locked out by those who say nothing.
        await peers.call(BOB, "echo", timeout_ms=1000)
        await trio.sleep(6)
        assert not server._strangers
        dripping = await network.connect(BOB_ADDRESS)
        for buffer in connection.encode_hello(None, None, b""):
            await dripping.send_all(buffer)
        await dripping.receive_some(1000)
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            for _ in range(100):
                await dripping.send_all(b"\x01")
                await trio.sleep(1)
    assert len(streams) == 20


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 100,
        b"\xff" * 100,
        b"".join(encode_frame(Kind.RESPONSE, call=1)),
        b"".join(encode_frame(Kind.CAST, parts=())),
        b"".join(encode_frame(Kind.CAST, parts=({"a": 1},))),
        b"".join(encode_frame(Kind.REQUEST, call=1, parts=("echo",))),
        b"".join(encode_frame(Kind.HELLO, parts=(1, None, None, b""))),
    ],
)
async def test_garbage_ends_its_connection_and_no_other(
    network: MemoryNetwork, server: RpcServer, data: bytes
) -> None:
    """F32: before the hello, and after it."""
    peers = make_peers(network)
    async with running(server, peers):
        await peers.call(BOB, "echo", timeout_ms=1000)
        early = await network.connect(BOB_ADDRESS)
        await early.send_all(data + data)
        with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
            while await early.receive_some(1000):
                pass
        late = await network.connect(BOB_ADDRESS, tls=ClientTls(identity_of(CAROL)))
        for buffer in connection.encode_hello(CLUSTER, CAROL, b""):
            await late.send_all(buffer)
        await late.receive_some(1000)
        await late.send_all(data)
        with trio.fail_after(5):
            assert await late.receive_some(1000) == b""
        await peers.call(BOB, "echo", timeout_ms=1000)
        assert network.connects == 3


async def test_a_server_that_answers_garbage_fails_the_calls(
    network: MemoryNetwork, server: RpcServer
) -> None:
    peers = make_peers(network)
    async with running(server, peers):
        await peers.call(BOB, "echo", timeout_ms=1000)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(PeerUnavailable):
                    await peers.call(BOB, "hang", timeout_ms=60_000)

            await trio.testing.wait_all_tasks_blocked()
            await network.streams[0][1].inner.send_all(b"\xff" * 30)


async def test_an_answer_that_cannot_be_read_is_the_peers_fault(
    network: MemoryNetwork, server: RpcServer
) -> None:
    peers = make_peers(network)
    async with running(server, peers):
        await peers.call(BOB, "echo", timeout_ms=1000)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(RemoteProtocolError):
                    await peers.call(BOB, "hang", timeout_ms=60_000)

            await trio.testing.wait_all_tasks_blocked()
            data = bytearray(b"".join(encode_frame(Kind.RESPONSE, call=2)))
            data[-1:] = b"\x90"
            await network.streams[0][1].inner.send_all(bytes(data))


async def test_peers_that_stop_fail_what_waits(
    network: MemoryNetwork, server: RpcServer
) -> None:
    peers = make_peers(network)
    async with running(server), trio.open_nursery() as nursery:
        async with running(peers):

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(PeerUnavailable) as caught:
                    await peers.call(BOB, "hang", timeout_ms=60_000)
                assert caught.value.unknown

            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(PeerUnavailable):
            await peers.call(BOB, "echo", timeout_ms=1000)


async def test_a_node_without_an_address_is_unavailable(network: MemoryNetwork) -> None:
    peers = make_peers(network)
    async with running(peers):
        with pytest.raises(PeerUnavailable) as caught:
            await peers.call(NodeId("d" * 16), "echo", timeout_ms=1000)
        assert not caught.value.unknown


async def test_disconnect_closes_the_links_of_a_node(
    network: MemoryNetwork, server: RpcServer
) -> None:
    peers = make_peers(network)
    async with running(server, peers):
        await peers.call(BOB, "echo", timeout_ms=1000)
        peers.disconnect(BOB, "left")
        await trio.testing.wait_all_tasks_blocked()
        assert not peers.is_connected(BOB)
        await peers.call(BOB, "echo", timeout_ms=1000)


async def test_many_calls_with_random_cancels_and_lost_links_leave_nothing_behind(
    network: MemoryNetwork, server: RpcServer, autojump_clock: trio.testing.MockClock
) -> None:
    """F20, F45: no stuck task, no leaked slot."""
    random = Random(5)

    async def naps(call: Call) -> Reply:
        await trio.sleep(float(str(call.value)))
        if random.random() < 0.1:
            raise NotFound("no")
        return Reply(call.value, bytes(random.randrange(50_000)))

    server.register("naps", naps)
    peers = make_peers(network, RpcConfig(calls_in_flight_max=16))
    done = 0

    async def one() -> None:
        nonlocal done
        await trio.sleep(random.random() * 5)
        with trio.move_on_after(random.choice([0.05, 1, 9])):
            with contextlib.suppress(Unavailable, NotFound):
                await peers.call(
                    BOB,
                    "naps",
                    random.random() / 2,
                    payload=bytes(random.randrange(20_000)),
                    timeout_ms=random.choice([20, 400, 5000]),
                    bulk=random.random() < 0.5,
                )
        done += 1

    async with running(server, peers):
        async with trio.open_nursery() as nursery:
            for _ in range(400):
                nursery.start_soon(one)
            for _ in range(6):
                await trio.sleep(0.7)
                for client, served in network.streams:
                    await (client if random.random() < 0.5 else served).aclose()
        assert done == 400
        await trio.sleep(1)
        for link in peers._links.values():
            assert not link._pending
            assert link._pending_size == 0
        assert len(peers.alarm._deadlines) == 0
        assert len(server.alarm._deadlines) == 0
        assert all(not session._active for session in server._sessions)
        assert (await peers.call(BOB, "echo", 1, timeout_ms=1000)).value == (ALICE, 1)
    gc.collect()


async def test_a_flood_of_strangers_ends_no_link_that_is_up(
    network: MemoryNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    """F32: the oldest stranger makes room; who has said hello is none."""
    server = make_server(network, RpcConfig(strangers_max=5))
    server.register("echo", echo)
    server.register("hang", hang)
    peers = make_peers(network)
    async with running(server, peers), trio.open_nursery() as nursery:
        await peers.call(BOB, "echo", timeout_ms=1000)
        hanging = partial(peers.call, BOB, "hang", timeout_ms=60_000)
        nursery.start_soon(hanging)
        streams = [await network.connect(BOB_ADDRESS) for _ in range(50)]
        await trio.testing.wait_all_tasks_blocked()
        assert len(server._strangers) == 5
        await peers.call(BOB, "echo", timeout_ms=1000)
        assert len(server._sessions) == 1
        nursery.cancel_scope.cancel()
    assert len(streams) == 50


async def test_calls_of_a_node_that_is_ending_are_refused_like_those_of_one_that_ended(
    network: MemoryNetwork,
) -> None:
    """A request that cleans up while its node goes down is not an error of its own."""
    for number in range(40):  # At several moments; tasks run in another order each time.
        peers = make_peers(network)
        async with trio.open_nursery() as nursery:
            await nursery.start(peers.run)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                for _ in range(number % 4):
                    await trio.lowlevel.checkpoint()
                with pytest.raises(PeerUnavailable):
                    await peers.call(BOB, "echo", timeout_ms=1000)
