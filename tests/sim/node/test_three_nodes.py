"""Three whole nodes: found, join, write and read anywhere, lose power, read it all again."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import pytest
import trio

from objstore.errors import ConfigError
from objstore.ring.layout import without_member
from objstore.testing.host import SimulatedWorld
from objstore.testing.simulation import run_simulation
from objstore.units import KiB, MiB
from tests.sim.node.nodes import Nodes, until

# A busy machine is no failure: only virtual time is limited.
pytestmark = pytest.mark.timeout(900)

Program = Callable[[Nodes], Awaitable[None]]


def body(name: str, size: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


def on_three_nodes(
    seed: int, program: Program, *, tolerated: type[Exception] | None = None
) -> None:
    """Run `program` with a, b and c, of which a founded and all vote everywhere.

    tolerated: what may end a node by itself.
    """

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nodes = Nodes(nursery, SimulatedWorld(seed), tolerated=tolerated)
            await nodes.start("a")
            for name in "bc":
                await nodes.admit(name, by="a")
                await nodes.start(name)
            await until(lambda: has_all_voters(nodes))
            await program(nodes)
            nursery.cancel_scope.cancel()

    run_simulation(seed, run)


def has_all_voters(nodes: Nodes) -> bool:
    """Whether every group has every node of the layout as its voter."""
    led = 0
    for parts in nodes.parts.values():
        for group in parts.raft.groups():
            status = parts.raft.status(group)
            if parts.raft.is_leader(group) and status is not None:
                membership = status.membership
                is_whole = len(membership.voters) == 3 and not membership.learners
                led += is_whole and not membership.outgoing
    return led == 33


@pytest.mark.parametrize("seed", range(4))
def test_groups_grow_as_soon_as_newcomers_are_seen(seed: int) -> None:
    """Not at the next of the rounds that are made anyway, a second apart."""
    took_s = 0.0

    async def run() -> None:
        nonlocal took_s
        async with trio.open_nursery() as nursery:
            nodes = Nodes(nursery, SimulatedWorld(seed))
            await nodes.start("a")
            for name in "bc":
                await nodes.admit(name, by="a")
                await nodes.start(name)
            began = trio.current_time()
            await until(lambda: has_all_voters(nodes))
            took_s = trio.current_time() - began
            nursery.cancel_scope.cancel()

    run_simulation(seed, run)
    print(f"{took_s:.2f} s")
    assert took_s < 0.8


async def fill(nodes: Nodes, names: list[str]) -> dict[str, bytes]:
    """Objects, small and large, put through one node after another."""
    assert (await nodes.front(names[0]).put("/bucket")).status == 200
    bodies = {}
    for number in range(12):
        key = f"key-{number}"
        size = 3 * MiB + number if number % 4 == 0 else 4 * KiB + number
        bodies[key] = body(key, size)
        front = nodes.front(names[number % len(names)])
        answer = await front.put(f"/bucket/{key}", bodies[key])
        assert answer.status == 200, answer
    return bodies


async def read_all(nodes: Nodes, bodies: dict[str, bytes]) -> None:
    for name in sorted(nodes.parts):
        front = nodes.front(name)
        for key, expected in bodies.items():
            answer = await front.get(f"/bucket/{key}")
            assert (answer.status, answer.body) == (200, expected), (name, key)
        listed = await front.get("/bucket?list-type=2")
        assert listed.texts("Contents/Key") == sorted(bodies)


def seeds(first: int, count: int) -> pytest.MarkDecorator:
    """One of them in make test, all in make test-full."""
    rest = [
        pytest.param(s, marks=pytest.mark.full) for s in range(first + 1, first + count)
    ]
    return pytest.mark.parametrize("seed", [first, *rest])


@pytest.mark.slow
@seeds(0, 6)
def test_a_node_loses_power_and_every_acknowledged_byte_is_there(seed: int) -> None:
    """F01, F03."""

    async def program(nodes: Nodes) -> None:
        bodies = await fill(nodes, ["a", "b", "c"])
        await nodes.crash("b")
        rest = {
            f"later-{number}": body(f"later-{number}", size)
            for number, size in enumerate((10, 2 * MiB + 1))
        }
        for key, data in rest.items():
            assert (await nodes.front("c").put(f"/bucket/{key}", data)).status == 200
        await read_all(nodes, bodies | rest)
        await nodes.start("b")
        await read_all(nodes, bodies | rest)

    on_three_nodes(seed, program)


@pytest.mark.slow
@seeds(10, 6)
def test_all_nodes_lose_power_at_once_f03(seed: int) -> None:
    async def program(nodes: Nodes) -> None:
        bodies = await fill(nodes, ["a", "b", "c"])
        for name in "abc":
            await nodes.crash(name)
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(nodes.start, name)
        await read_all(nodes, bodies)

    on_three_nodes(seed, program)


@pytest.mark.slow
def test_a_node_that_comes_back_elsewhere_tells_the_others() -> None:
    async def program(nodes: Nodes) -> None:
        bodies = await fill(nodes, ["a", "b"])
        await nodes.stop("c")
        ip = nodes.world.address("c")
        moved = {"cluster.address": f"{ip}:7100", "s3.address": f"{ip}:9100"}
        await nodes.start("c", **moved)
        node = nodes.parts["c"].identity.node

        def is_known(name: str) -> bool:
            member = nodes.parts[name].view.layout.find(node)
            assert member is not None
            expected = (f"{ip}:7100", f"http://{ip}:9100")
            return (member.cluster_address, member.s3_address) == expected

        await until(lambda: all(is_known(name) for name in "abc"))
        epoch = nodes.parts["a"].view.epoch
        await read_all(nodes, bodies)
        await trio.sleep(20)
        assert nodes.parts["a"].view.epoch == epoch, "told once, and no more"

    on_three_nodes(1, program)


@pytest.mark.slow
def test_a_stop_hands_over_and_the_others_go_on_at_once_f22() -> None:
    async def program(nodes: Nodes) -> None:
        bodies = await fill(nodes, ["a", "b", "c"])
        began = trio.current_time()
        await nodes.stop("a")
        assert trio.current_time() - began < 15
        began = trio.current_time()
        assert (await nodes.front("b").put("/bucket/more", b"x")).status == 200
        assert trio.current_time() - began < 1
        await nodes.start("a")
        await read_all(nodes, bodies | {"more": b"x"})

    on_three_nodes(2, program)


@pytest.mark.slow
def test_one_full_node_stops_nobody_and_two_refuse_what_grows_f09() -> None:
    async def program(nodes: Nodes) -> None:
        bodies = await fill(nodes, ["a", "b", "c"])
        rooms = [parts.room for parts in nodes.parts.values()]

        async def set_free(name: str, size: int) -> int:
            """The capacity before; all know that it is full, or is no more."""
            disk = nodes.world.disk(name)
            before, disk.capacity = disk.capacity, disk.used() + size
            node = nodes.parts[name].identity.node
            is_full = size < 1024 * MiB
            await until(lambda: all(room.is_full_at([node]) == is_full for room in rooms))
            return before

        def leads(name: str) -> int:
            raft = nodes.parts[name].raft
            return sum(raft.is_leader(group) for group in raft.groups())

        # So full that it takes no entry at all: as good as away.
        before = await set_free("b", MiB // 2)
        assert nodes.parts["b"].room.is_brimful
        await until(lambda: leads("b") == 0)
        for name in "abc":
            answer = await nodes.front(name).put(f"/bucket/more-{name}", b"x")
            assert answer.status == 200, answer
            bodies[f"more-{name}"] = b"x"
        await set_free("a", nodes.world.disk("a").used() // 10)  # Full, not to the brim.
        assert not nodes.parts["a"].room.is_brimful
        for name in "abc":
            answer = await nodes.front(name).put("/bucket/none", b"x")
            assert (answer.status, answer.code) == (507, "InsufficientStorage")
        await read_all(nodes, bodies)
        assert (await nodes.front("b").delete("/bucket/key-1")).status == 204
        del bodies["key-1"]
        for name in "ab":
            await set_free(name, before)
        assert (await nodes.front("c").put("/bucket/more", b"x")).status == 200
        await until(lambda: not any(p.room.is_full for p in nodes.parts.values()))
        bodies["more"] = b"x"
        await read_all(nodes, bodies)
        # What it missed it is given again: then another may go.
        applied = [
            lambda parts=parts: {
                group: parts.raft.status(group).applied_index
                for group in parts.raft.groups()
            }
            for parts in nodes.parts.values()
        ]
        await until(lambda: applied[0]() == applied[1]() == applied[2]())
        await nodes.crash("a")
        await trio.sleep(10)
        await read_all(nodes, bodies)

    on_three_nodes(5, program)


@pytest.mark.slow
def test_a_node_that_was_taken_out_while_it_was_away_finds_out_and_ends() -> None:
    async def program(nodes: Nodes) -> None:
        bodies = await fill(nodes, ["a", "b"])
        node = nodes.parts["c"].identity.node
        await nodes.stop("c")
        await nodes.parts["a"].membership.change_layout(
            lambda now: without_member(now, node)
        )
        await nodes.start("c")
        await until(lambda: "c" not in nodes.parts)
        with pytest.raises(ConfigError, match="has left"):
            await nodes.start("c")
        await until(lambda: not nodes.parts["a"].gossip.is_alive(node))  # type: ignore[union-attr]
        await read_all(nodes, bodies)

    on_three_nodes(7, program)
