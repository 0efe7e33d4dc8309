"""F02, F47: a founding or a join is cut off at any change of the disk, and begun again.

Power goes at the nth change; what was not synced is lost, kept or torn as the seed says.
The node is started again as an operator would, with the same configuration, and must
come to serve: as the same node, wherever somebody may know of it.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

from objstore.node.identity import read_identity
from objstore.testing.host import HostCrashed, SimulatedWorld
from objstore.testing.simulation import run_simulation
from tests.sim.node.nodes import DATA, CutAt, Nodes, until

# A busy machine is no failure: only virtual time is limited.
pytestmark = pytest.mark.timeout(900)

CHANGES = 144  # Of a founding or a join, and a few more.
BATCHES = 24  # So that one takes some seconds of a core.
every_change = pytest.mark.parametrize(
    "batch",
    [0, *[pytest.param(number, marks=pytest.mark.full) for number in range(1, BATCHES)]],
)


async def start_cut(nodes: Nodes, name: str, nth: int) -> bool:
    """Start a node whose power goes at its nth change; whether it went."""
    world = nodes.world
    world.host(name)
    cut: Any = CutAt(world, name, nth)
    world.disk(name).inject(cut)
    try:
        await nodes.start(name)
    except (HostCrashed, BaseExceptionGroup):
        if world.is_up(name):
            raise
    if world.is_up(name):
        await trio.sleep(5)
    world.disk(name).heal()
    return not world.is_up(name)


async def serve_and_check(nodes: Nodes, name: str) -> None:
    """What a client wants of a node that says it serves."""
    front = nodes.front(name)
    assert (await front.put(f"/bucket-{name}")).status == 200
    assert (await front.put(f"/bucket-{name}/key", b"body")).status == 200
    assert (await front.get(f"/bucket-{name}/key")).body == b"body"


def known_as(world: SimulatedWorld, name: str) -> tuple[str, str] | None:
    """(node, cluster) that a stopped host's folder says it is."""
    host = world.host(name)
    try:
        folder = host.disks.directory(DATA)
        identity = read_identity(folder)
    except OSError:
        return None
    return None if identity is None else (identity.node, identity.cluster)


@pytest.mark.slow
@every_change
def test_founding_cut_at_any_change_is_begun_again(batch: int) -> None:
    for nth in range(1 + batch, CHANGES, BATCHES):
        run_simulation(nth, lambda nth=nth: found_cut_at(nth))  # type: ignore[misc]


async def found_cut_at(nth: int) -> None:
    world = SimulatedWorld(nth)
    async with trio.open_nursery() as nursery:
        nodes = Nodes(nursery, world)
        if await start_cut(nodes, "a", nth):
            before = known_as(world, "a")
            parts = await nodes.start("a")
            if before is not None:
                assert (parts.identity.node, parts.identity.cluster) == before, nth
        await serve_and_check(nodes, "a")
        await nodes.stop("a")
        await nodes.start("a")
        assert (await nodes.front("a").get("/bucket-a/key")).body == b"body"
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@every_change
def test_join_cut_at_any_change_is_begun_again_with_the_same_token(batch: int) -> None:
    for nth in range(1 + batch, CHANGES, BATCHES):
        run_simulation(nth, lambda nth=nth: join_cut_at(nth))  # type: ignore[misc]


async def join_cut_at(nth: int) -> None:
    world = SimulatedWorld(nth)
    async with trio.open_nursery() as nursery:
        nodes = Nodes(nursery, world)
        await nodes.start("a")
        await nodes.admit("b", by="a")
        if await start_cut(nodes, "b", nth):
            before = known_as(world, "b")
            parts = await nodes.start("b")
            if before is not None:
                assert parts.identity.node == before[0], nth
        members = nodes.parts["a"].view.layout.members
        assert {member.node for member in members} == {
            nodes.parts[name].identity.node for name in "ab"
        }
        await until(lambda: nodes.parts["b"].view.layout.epoch == 2)
        await serve_and_check(nodes, "b")
        nursery.cancel_scope.cancel()
