"""Calls over real sockets and real TLS on loopback."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from objstore.host.network import Address, ClientTls, ServerTls, TlsIdentity
from objstore.host.real_network import RealNetwork
from objstore.host.real_pki import RealPki
from objstore.host.real_records import Records
from objstore.host.real_tls import TlsStream
from objstore.ids import ClusterId, NodeId
from objstore.rpc.call import Call, NoSuchMethod, PeerUnavailable, Reply
from objstore.rpc.client import Peers, call_address
from objstore.rpc.config import RpcConfig
from objstore.rpc.server import RpcServer

from .memory import ALICE, BOB, CAROL, CLUSTER, running

LARGE = 64 * 1024 * 1024


async def echo(call: Call) -> Reply:
    return Reply((call.peer, call.value), call.payload)


def issue(cluster: ClusterId, *nodes: NodeId) -> list[TlsIdentity]:
    """Certificates of one authority."""
    now_ms = time.time_ns() // 1_000_000
    pki = RealPki()
    authority = pki.create_authority(cluster, now_ms=now_ms, days=1)
    return [pki.issue(authority, cluster, node, now_ms=now_ms, days=1) for node in nodes]


def server_of_bob(network: RealNetwork, bob: TlsIdentity) -> RpcServer:
    server = RpcServer(
        network,
        Address("127.0.0.1", 0),
        tls=ServerTls(lambda: bob, mutual=True),
        node=BOB,
        cluster=CLUSTER,
    )
    server.register("echo", echo)
    return server


@asynccontextmanager
async def linked(
    notes: list[bytes], config: RpcConfig | None = None
) -> AsyncIterator[Peers]:
    """Alice's peers, with a link to Bob, who echoes calls and keeps casts of "note"."""
    alice, bob = issue(CLUSTER, ALICE, BOB)
    network = RealNetwork()
    server = server_of_bob(network, bob)
    server.register_cast("note", lambda peer, value, payload: notes.append(bytes(payload)))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            address: Address = await nursery.start(server.run)
            peers = Peers(
                network,
                node=ALICE,
                cluster=CLUSTER,
                identity=lambda: alice,
                resolve={BOB: address}.get,
                config=config or RpcConfig(),
            )
            async with running(peers):
                await peers.call(BOB, "echo", 0, timeout_ms=5000)
                yield peers
            nursery.cancel_scope.cancel()


async def test_casts_that_no_buffer_takes_at_once_arrive_in_order_with_the_calls() -> None:
    got: list[bytes] = []
    sent = [number.to_bytes(8, "big") * 1000 for number in range(3000)]
    config = RpcConfig(cast_size_max=LARGE, queue_size_max=LARGE)
    async with linked(got, config) as peers, trio.open_nursery() as callers:
        for number in range(0, 3000, 100):  # No wait: the kernel's buffers fill.
            for payload in sent[number : number + 100]:
                peers.cast(BOB, "note", payload=payload)
            callers.start_soon(_call, peers, number)
        await peers.call(BOB, "echo", 1, timeout_ms=5000)
    assert got == sent


async def test_large_bytes_go_over_a_link_that_left_tls_and_small_ones_do_not() -> None:
    """Small messages cost less by TLS."""
    payload = bytes(range(256)) * 8192
    async with linked([]) as peers:
        reply = await peers.call(
            BOB, "echo", 1, payload=payload, timeout_ms=5000, bulk=True
        )
        assert reply.payload == payload
        kinds = {}
        for (_, number), link in peers._links.items():
            if link.connection is not None:
                assert isinstance(link.connection.stream, TlsStream)
                kinds[number] = type(link.connection.stream._object)
    assert kinds == {0: ssl.SSLObject, 1: Records}


async def _answers(refused: bool, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each send had while twenty calls were made at once."""
    sizes: list[int] = []
    try_send = TlsStream.try_send

    def tried(stream: TlsStream, data: bytes) -> bool:
        sizes.append(len(data))
        return not refused and try_send(stream, data)

    async with linked([]) as peers:
        with monkeypatch.context() as patched:
            patched.setattr(TlsStream, "try_send", tried)
            async with trio.open_nursery() as callers:
                for number in range(20):
                    callers.start_soon(_call, peers, number)
    return sizes


async def test_calls_of_one_pass_go_as_one_send_and_so_do_their_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = await _answers(refused=False, monkeypatch=monkeypatch)
    assert len(sizes) <= 4  # The workers that answer begin in two passes at most.
    assert sizes[0] > 20 * 20


async def test_calls_that_no_buffer_takes_at_the_end_of_their_pass_are_sent_by_the_writer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await _answers(refused=True, monkeypatch=monkeypatch)


async def _call(peers: Peers, number: int) -> None:
    reply = await peers.call(BOB, "echo", number, timeout_ms=5000)
    assert reply.value == (ALICE, number)


async def test_calls_over_mutual_tls_and_refusals_of_other_clusters() -> None:
    """F30: a certificate of another CA, none at all, and the right one of another node."""

    alice, bob = issue(CLUSTER, ALICE, BOB)
    (spy,) = issue(ClusterId("e" * 32), CAROL)
    network = RealNetwork()
    server = server_of_bob(network, bob)
    server.register("join", echo, anonymous=True)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            address: Address = await nursery.start(server.run)
            places: dict[NodeId, Address] = {BOB: address, CAROL: address}
            peers = Peers(
                network,
                node=ALICE,
                cluster=CLUSTER,
                identity=lambda: alice,
                resolve=places.get,
            )
            async with running(peers):
                for size in (0, 100, 3_000_000):
                    reply = await peers.call(
                        BOB, "echo", 1, payload=bytes(size), timeout_ms=5000
                    )
                    assert (reply.value, reply.payload) == ((ALICE, 1), bytes(size))
                with pytest.raises(PeerUnavailable):  # It is bob who answers there.
                    await peers.call(CAROL, "echo", timeout_ms=5000)
            stranger = ClientTls(None, trust_pem=alice.trust_pem)
            joined = await call_address(
                network, address, stranger, "join", 2, timeout_ms=5000
            )
            assert joined.value == (None, 2)
            with pytest.raises(NoSuchMethod):
                await call_address(network, address, stranger, "echo", timeout_ms=5000)
            with pytest.raises(PeerUnavailable):
                await call_address(
                    network, address, ClientTls(spy), "echo", timeout_ms=5000
                )
            nursery.cancel_scope.cancel()
    with pytest.raises(PeerUnavailable):
        await call_address(network, address, stranger, "join", timeout_ms=5000)
