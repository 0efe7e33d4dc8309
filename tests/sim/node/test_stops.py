"""How a node ends: told to at any moment of its start, or because a part of it failed."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from objstore.node.daemon import run_node
from objstore.testing.disk import DiskFault
from objstore.testing.host import SimulatedWorld
from objstore.testing.simulation import run_simulation
from tests.sim.node.nodes import Nodes, until
from tests.sim.node.test_three_nodes import fill, on_three_nodes, read_all

# A busy machine is no failure: only virtual time is limited.
pytestmark = pytest.mark.timeout(900)


@pytest.mark.slow
def test_a_stop_at_any_moment_of_a_start_ends_it_at_once() -> None:
    async def stop_after(delay_s: float) -> None:
        async with trio.open_nursery() as nursery:
            nodes = Nodes(nursery, SimulatedWorld(1))
            stopping = trio.Event()
            ended = trio.Event()

            async def run() -> None:
                await run_node(nodes.config("a"), nodes.world.host("a"), stopping)
                ended.set()

            nursery.start_soon(run)
            await trio.sleep(delay_s)
            stopping.set()
            with trio.fail_after(20):
                await ended.wait()
            nodes.world.kill("a")
            nodes.world.restart("a")
            await nodes.start("a")
            assert (await nodes.front("a").put("/bucket")).status == 200
            nursery.cancel_scope.cancel()

    for number in range(12):
        run_simulation(number, lambda number=number: stop_after(number / 200))  # type: ignore[misc]


def test_a_stop_ends_a_join_that_finds_nobody() -> None:
    async def program() -> None:
        async with trio.open_nursery() as nursery:
            nodes = Nodes(nursery, SimulatedWorld(1))
            await nodes.start("a")
            await nodes.admit("b", by="a")
            await nodes.stop("a")
            stopping = trio.Event()
            config, host = nodes.config("b"), nodes.world.host("b")
            nursery.start_soon(run_node, config, host, stopping)
            await trio.sleep(0.7)
            stopping.set()
            with trio.fail_after(0.1):
                while nursery.child_tasks:
                    await trio.sleep(0.001)

    run_simulation(1, program)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["*/wal/*", "*/meta"])
def test_a_store_that_fails_ends_its_node_and_the_others_go_on_f11(path: str) -> None:
    """I6: nothing is acknowledged from it any more."""

    async def program(nodes: Nodes) -> None:
        bodies = await fill(nodes, ["a", "b", "c"])
        disk: Any = nodes.world.disk("b")
        disk.inject(DiskFault(path, "sync", count=None))
        nodes.parts["b"].meta_store.request_flush()
        for number in range(8):
            answer = await nodes.front("a").put(f"/bucket/more-{number}", b"x")
            assert answer.status == 200
            bodies[f"more-{number}"] = b"x"
        await until(lambda: "b" not in nodes.parts)
        await read_all(nodes, bodies)
        disk.heal()
        nodes.world.crash("b")
        await nodes.start("b")
        await read_all(nodes, bodies)

    on_three_nodes(6, program, tolerated=OSError)
