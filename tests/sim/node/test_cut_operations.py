"""F04: the power goes at any change of the disk in the middle of one operation.

The disk then keeps, by seed, any combination of what was not synced, torn at sectors and
out of order (testing.disk).  The node starts again on it: what was acknowledged is there,
byte for byte, what was not is there whole or not at all, and a torn log is said to be cut.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from objstore.testing.host import HostCrashed, SimulatedWorld
from objstore.testing.simulation import run_simulation
from objstore.units import KiB
from tests.sim.node.nodes import CutAt, Nodes
from tests.sim.node.test_three_nodes import body

# A busy machine is no failure: only virtual time is limited.
pytestmark = pytest.mark.timeout(900)

SETTINGS = {
    "raft.wal_segment_size": "1MiB",
    "chunks.segment_size": "4MiB",
    "chunks.chunk_size": "1MiB",
    "meta.inline_size_max": "16KiB",
    "repair.free_delay": "1s",
    "repair.interval": "500ms",
}


@attrs.define
class Run:
    """One node, and what it has acknowledged."""

    nodes: Nodes
    acked: dict[str, bytes] = attrs.Factory(dict)
    tried: dict[str, bytes] = attrs.Factory(dict)
    deleted: set[str] = attrs.Factory(set)
    doomed: set[str] = attrs.Factory(set)

    async def put(self, name: str, size: int) -> None:
        self.tried[name] = body(name, size)
        answer = await self.nodes.front("a").put(f"/bucket/{name}", self.tried[name])
        if answer.status == 200:
            self.acked[name] = self.tried[name]

    async def delete(self, name: str) -> None:
        self.doomed.add(name)
        if (await self.nodes.front("a").delete(f"/bucket/{name}")).status == 204:
            self.deleted.add(name)

    async def check(self) -> None:
        front = self.nodes.front("a")
        for name, data in self.tried.items():
            answer = await front.get(f"/bucket/{name}")
            assert answer.status in {200, 404}, (name, answer.status)
            if answer.status == 200:
                assert answer.body == data, f"{name}: other bytes"
                assert name not in self.deleted, f"{name}: came back"
            elif name in self.acked:
                assert name in self.doomed, f"{name}: lost"


Operation = Callable[[Run], Awaitable[None]]


async def small(run: Run) -> None:
    for number in range(3):
        await run.put(f"small-{number}", 1000)
    await run.delete("small-0")


async def chunked(run: Run) -> None:
    await run.put("chunk", 300_000)
    await run.put("chunks", 1_500_000)


async def roll(run: Run) -> None:
    """Past the end of a segment of the log, and past the release of the oldest."""
    for number in range(70):
        await run.put(f"roll-{number}", 16 * KiB)


async def compaction(run: Run) -> None:
    for number in range(10):
        await run.put(f"compact-{number}", 700_000)
    for number in range(10):
        if number % 4:
            await run.delete(f"compact-{number}")
    await trio.sleep(60)


async def restart(run: Run) -> None:
    await run.put("before", 1000)
    await run.nodes.stop("a")
    await run.nodes.start("a", **SETTINGS)
    await run.put("after", 1000)


# How many changes of the disk each takes, at least: the test says if it takes fewer.
OPERATIONS: dict[Operation, int] = {
    small: 8,
    chunked: 18,
    roll: 60,
    compaction: 30,
    restart: 10,
}


async def cut_during(operation: Operation, nth: int, seed: int) -> bool:
    """Whether the power went before the operation was over."""
    world = SimulatedWorld(seed)
    async with trio.open_nursery() as nursery:
        nodes = Nodes(nursery, world)
        await nodes.start("a", **SETTINGS)
        run = Run(nodes)
        assert (await nodes.front("a").put("/bucket")).status == 200
        await run.put("old", 100)
        await run.put("old-chunk", 200_000)
        cut: Any = CutAt(world, "a", nth)
        world.disk("a").inject(cut)
        with trio.move_on_after(120):
            try:
                await operation(run)
            except (Exception, BaseExceptionGroup, HostCrashed):
                if world.is_up("a"):
                    raise
        was_cut = cut.seen >= nth
        world.disk("a").heal()
        if not world.is_up("a"):
            await trio.sleep(1)
            await nodes.start("a", **SETTINGS)
        await run.check()
        await run.put("new", 100)
        await run.put("new-chunk", 200_000)
        await run.check()
        assert {"old", "old-chunk", "new", "new-chunk"} <= run.acked.keys()
        nursery.cancel_scope.cancel()
    return was_cut


def cut_at(operation: Operation, points: range, seeds: range) -> None:
    states = tails = 0
    for nth in points:
        for seed in seeds:
            with capture_logs() as logs:
                was_cut = run_simulation(
                    seed,
                    lambda nth=nth, seed=seed: cut_during(operation, nth, seed),  # type: ignore[misc]
                )
            if not was_cut:
                assert nth > OPERATIONS[operation], f"only {nth} changes: cut too late"
                break
            states += 1
            tails += sum(entry["event"] == "raft.wal_tail_cut" for entry in logs)
            for entry in logs:
                assert entry["event"] not in {"raft.wal_damaged", "raft.replica_damaged"}
    print(f"scoreboard: cut {operation.__name__}: {states=} lost=0 wrong=0 {tails=}")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_power_lost_in_the_middle_of_an_operation(operation: Operation) -> None:
    count = OPERATIONS[operation]
    cut_at(operation, range(1, count, max(1, count // 8)), range(1))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_power_lost_at_every_change_of_an_operation(operation: Operation) -> None:
    """200 states an operation at most."""
    cut_at(operation, range(1, 101), range(1, 3))
