"""The driver: real cores over packets in memory on virtual time, and over real UDP."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
import trio
from structlog.testing import capture_logs

from objstore.config import GossipConfig
from objstore.errors import Unavailable
from objstore.gossip.core import Core, Effect, Timing
from objstore.gossip.driver import Gossip, Member, State
from objstore.gossip.messages import Sealer, encode_message, sequence_of
from objstore.host.network import Address
from objstore.host.real_network import RealNetwork
from objstore.ids import NodeId

from .cluster import ME, SECRET, alive

IDS = [NodeId(f"{n:016x}") for n in range(10, 15)]


class MemoryPackets:
    """Datagrams between addresses of one dict."""

    def __init__(self, net: dict[Address, MemoryPackets], address: Address) -> None:
        self.address = address
        self.net = net
        self.is_closed = False
        self.give, self.take = trio.open_memory_channel[tuple[bytes, Address]](math.inf)
        net[address] = self

    def send(self, data: bytes, to: Address) -> None:
        target = self.net.get(to)
        if target is not None:
            target.give.send_nowait((data, self.address))

    async def receive(self) -> tuple[bytes, Address]:
        return await self.take.receive()

    async def aclose(self) -> None:
        self.is_closed = True
        self.net.pop(self.address, None)
        await trio.lowlevel.checkpoint()


class Cluster:
    """Gossips that exchange by calling each other."""

    def __init__(self) -> None:
        self.net: dict[Address, MemoryPackets] = {}
        self.gossips: dict[NodeId, Gossip] = {}
        self.conflicts: list[Address] = []

    def add(self, node: NodeId, *, start_count: int = 1, at: str = "") -> Gossip:
        address = Address(at or node, 7000)

        async def push_pull(target: NodeId | Address, data: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            to = Address(target, 7000) if isinstance(target, str) else target
            for other in list(self.gossips.values()):
                if other.core.me.address == to and to in self.net:
                    return other.on_push_pull(node, data)
            raise Unavailable("nobody there")

        gossip = Gossip(
            node=node,
            boot_id=f"{at}{start_count}".encode()[:16],
            start_count=start_count,
            secret=SECRET,
            packets=MemoryPackets(self.net, address),
            address=address,
            push_pull=push_pull,
            random=Random(node),
            seeds=[Address(IDS[0], 7000)],
            meta={"s3": node},
            on_conflict=self.conflicts.append,
        )
        self.gossips[node] = gossip
        return gossip


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.05)


async def test_members_join_die_and_come_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = Cluster()
    seen: list[tuple[NodeId, State]] = []
    async with trio.open_nursery() as nursery:
        for node in IDS[:3]:
            await nursery.start(cluster.add(node).run)
        first, _, third = cluster.gossips.values()
        first.subscribe(lambda member: seen.append((member.node, member.state)))
        await until(lambda: all(len(g.members()) == 3 for g in cluster.gossips.values()))
        assert first.is_alive(IDS[2])
        assert not first.is_alive(IDS[4])
        assert first.member(IDS[2]) is not None
        assert (first.state_of(IDS[2]), first.state_of(IDS[4])) == ("alive", "unknown")

        third.update_meta({"free": 7})
        await until(lambda: first.members()[IDS[2]].meta == {"free": 7})
        with pytest.raises(ValueError):
            third.update_meta({"x": "y" * 300})

        cluster.net.pop(third.core.me.address)  # Deaf from now on.
        with capture_logs() as logs:
            await until(lambda: first.members()[IDS[2]].state is State.DEAD)
        assert not first.is_alive(IDS[2])
        events = [entry["event"] for entry in logs if entry["peer"] == IDS[2]]
        assert events.index("gossip.node_suspected") < events.index("gossip.node_dead")

        await nursery.start(cluster.add(IDS[2], start_count=2).run)
        await until(lambda: first.is_alive(IDS[2]))
        assert first.members()[IDS[2]].boot_id == b"2"
        nursery.cancel_scope.cancel()
    assert (IDS[2], State.DEAD) in seen


async def test_while_all_is_well_only_probes_and_exchanges_are_due(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster()
    ticks = 0
    on_tick = Core.on_tick

    def count(core: Core, now_ms: int) -> list[Effect]:
        nonlocal ticks
        ticks += 1
        return on_tick(core, now_ms)

    async with trio.open_nursery() as nursery:
        for node in IDS[:3]:
            await nursery.start(cluster.add(node).run)
        await until(lambda: all(len(g.members()) == 3 for g in cluster.gossips.values()))
        await trio.sleep(10)  # Until it has been told often enough.
        monkeypatch.setattr(Core, "on_tick", count)
        await trio.sleep(30)
        probes, exchanges = 3 * 60, 3 * 3
        assert probes - 3 <= ticks <= probes + exchanges
        nursery.cancel_scope.cancel()


async def test_who_leaves_is_left_and_its_endpoint_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = Cluster()
    async with trio.open_nursery() as nursery:
        first, second = cluster.add(IDS[0]), cluster.add(IDS[1])
        await nursery.start(first.run)
        async with trio.open_nursery() as inner:
            await inner.start(second.run)
            await until(lambda: first.is_alive(IDS[1]))
            await second.leave()
            inner.cancel_scope.cancel()
        assert second.core.me.address not in cluster.net
        await until(lambda: first.members()[IDS[1]].state is State.LEFT)
        with trio.fail_after(3):
            await first.leave()  # Alone: nobody to tell.
        nursery.cancel_scope.cancel()


async def test_a_cloned_node_ends_by_the_callback(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """F29: alarm within five seconds."""
    cluster = Cluster()
    async with trio.open_nursery() as nursery:
        for node in IDS[:3]:
            await nursery.start(cluster.add(node).run)
        await until(
            lambda: all(len(g.members()) == 3 for g in list(cluster.gossips.values()))
        )
        original = cluster.gossips.pop(IDS[2])
        copy = cluster.add(IDS[2], start_count=2, at="copy")
        await nursery.start(copy.run)
        cluster.gossips[NodeId("f" * 16)] = original
        with capture_logs() as logs:
            await until(lambda: bool(cluster.conflicts), 5)
        assert any(entry["event"] == "gossip.identity_conflict" for entry in logs)
        nursery.cancel_scope.cancel()


async def test_a_subscriber_that_fails_is_logged_and_harms_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def bug(member: Member) -> None:
        raise ZeroDivisionError

    cluster = Cluster()
    async with trio.open_nursery() as nursery:
        gossip = cluster.add(IDS[0])
        gossip.subscribe(bug)
        await nursery.start(gossip.run)
        with capture_logs() as logs:
            data = Sealer(SECRET, ME).seal(
                IDS[0], sequence_of(1, 1), [encode_message(alive(ME))]
            )
            cluster.net[Address(IDS[0], 7000)].give.send_nowait((data, Address("x", 1)))
            await until(lambda: gossip.is_alive(ME))
        assert [e["event"] for e in logs if e["log_level"] == "error"] == [
            "gossip.subscriber_failed"
        ]
        nursery.cancel_scope.cancel()


def test_the_configuration_sets_the_probes() -> None:
    config = GossipConfig()
    assert config.probe_interval_ms == Timing().probe_interval_ms
    assert config.probe_timeout_ms == Timing().probe_timeout_ms


async def test_two_nodes_meet_over_real_udp() -> None:
    network = RealNetwork()
    gossips: list[Gossip] = []
    async with trio.open_nursery() as nursery:
        for number in range(2):
            packets = await network.open_packets(Address("127.0.0.1", 0))

            async def push_pull(target: object, data: bytes, me: int = number) -> bytes:
                return gossips[0].on_push_pull(IDS[me], data)

            gossip = Gossip(
                node=IDS[number],
                boot_id=b"boot",
                start_count=1,
                secret=SECRET,
                packets=packets,
                address=packets.address,
                push_pull=push_pull,
                random=Random(number),
                seeds=[gossips[0].core.me.address] if gossips else [],
                timing=Timing(probe_interval_ms=50, probe_timeout_ms=20),
            )
            gossips.append(gossip)
            await nursery.start(gossip.run)
        with trio.fail_after(10):
            while not all(len(g.members()) == 2 for g in gossips):
                await trio.sleep(0.01)
            gossips[1].update_meta({"free": 1})
            while gossips[0].members()[IDS[1]].meta != {"free": 1}:
                await trio.sleep(0.01)
        assert not gossips[0].core.dropped
        nursery.cancel_scope.cancel()
