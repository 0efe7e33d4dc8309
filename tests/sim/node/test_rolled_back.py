"""R9, F06, F08, F27, F28: what a disk holds went back, or is gone, under a node's identity.

Such a replica has forgotten what it vouched for.  It may not vote, lead or answer until the
others have mended it; alone, nobody can mend it, and it must not serve what is old.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import trio

from objstore.errors import ConfigError
from objstore.testing.host import SimulatedWorld
from objstore.testing.simulation import run_simulation
from objstore.units import MiB
from tests.sim.node.nodes import Nodes, until
from tests.sim.node.test_three_nodes import body, fill, on_three_nodes, read_all

# A busy machine is no failure: only virtual time is limited.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def folder_of(nodes: Nodes, name: str, path: str) -> Any:
    """A copy of a folder of a host that is down."""
    assert not nodes.world.is_up(name)
    return copy.deepcopy(nodes.world.disk(name).find(path))


def put_back(nodes: Nodes, name: str, path: str, saved: Any) -> None:
    parent, _, last = path.rpartition("/")
    folder: Any = nodes.world.disk(name).find(parent or "/")
    folder.present[last] = folder.durable[last] = saved


async def down(nodes: Nodes, name: str) -> None:
    await nodes.stop(name)
    if nodes.world.is_up(name):
        nodes.world.kill(name)


async def write_more(nodes: Nodes, by: str, *, count: int = 140) -> dict[str, bytes]:
    """Enough that the log lets its oldest files go, where the store is flushed."""
    bodies = {f"more-{number}": body(f"more-{number}", 15_000) for number in range(count)}
    bodies["large"] = body("large", 2 * MiB + 7)
    front = nodes.front(by)
    for key, data in bodies.items():
        assert (await front.put(f"/bucket/{key}", data)).status == 200
    for parts in nodes.parts.values():
        await parts.meta_store.flush()
    await trio.sleep(150)  # The log lets go about once a second.
    return bodies


def damaged(nodes: Nodes, name: str) -> int:
    raft = nodes.parts[name].raft
    statuses = [raft.status(group) for group in raft.groups()]
    return sum(status is not None and status.damaged for status in statuses)


async def assert_replicas_agree(nodes: Nodes) -> None:
    """I4: state hashes are equal at equal applied index."""
    groups = nodes.parts["a"].raft.groups()
    for group in groups:
        machines = [parts.meta_store.machine(group) for parts in nodes.parts.values()]
        await until(lambda machines=machines: len({m.chain for m in machines}) == 1)  # type: ignore[misc]
        assert len({machine.state_hash() for machine in machines}) == 1, group


@pytest.mark.parametrize(
    "path", ["/data/meta", pytest.param("/data/wal", marks=pytest.mark.full)]
)
def test_one_of_three_nodes_with_an_old_folder_is_mended_by_the_others(path: str) -> None:
    async def program(nodes: Nodes) -> None:
        bodies = await fill(nodes, ["a", "b", "c"])
        await down(nodes, "b")
        saved = folder_of(nodes, "b", path)
        await nodes.start("b")
        bodies |= await write_more(nodes, "a")
        await down(nodes, "b")
        put_back(nodes, "b", path, saved)
        await nodes.start("b")
        assert damaged(nodes, "b"), "nothing was found to be missing"
        await read_all(nodes, bodies)
        await until(lambda: not damaged(nodes, "b"), within_s=300)
        await assert_replicas_agree(nodes)
        await nodes.crash("a")
        await read_all(nodes, bodies)

    on_three_nodes(1, program)


def test_a_lone_node_with_an_old_store_serves_nothing() -> None:
    async def program() -> None:
        async with trio.open_nursery() as nursery:
            nodes = Nodes(nursery, SimulatedWorld(1))
            await nodes.start("a")
            await fill(nodes, ["a"])
            await down(nodes, "a")
            saved = folder_of(nodes, "a", "/data/meta")
            await nodes.start("a")
            bodies = await write_more(nodes, "a")
            await down(nodes, "a")
            put_back(nodes, "a", "/data/meta", saved)
            await nodes.start("a")
            front = nodes.front("a")
            for key in list(bodies)[:40]:
                answer = await front.get(f"/bucket/{key}")
                assert answer.status == 503, (key, answer)
            assert nodes.parts["a"].status.unready_reason() is not None
            nursery.cancel_scope.cancel()

    run_simulation(1, program)


@pytest.mark.full
def test_a_whole_disk_that_went_back_loses_nothing_while_the_others_live() -> None:
    async def program(nodes: Nodes) -> None:
        bodies = await fill(nodes, ["a", "b", "c"])
        await down(nodes, "b")
        saved = folder_of(nodes, "b", "/data")
        await nodes.start("b")
        bodies |= await write_more(nodes, "a", count=40)
        await down(nodes, "b")
        put_back(nodes, "b", "/data", saved)
        await nodes.start("b")
        await trio.sleep(120)
        await read_all(nodes, bodies)
        await assert_replicas_agree(nodes)
        await nodes.crash("a")
        await read_all(nodes, bodies)

    on_three_nodes(3, program)


def test_an_emptied_log_is_refused_with_what_to_do_f27() -> None:
    async def program(nodes: Nodes) -> None:
        await down(nodes, "b")
        host = nodes.world.host("b")
        wal = host.disks.directory("/data").folder("wal")
        for name in wal.names():
            wal.remove(name)
        wal.sync()
        nodes.world.kill("b")
        with pytest.raises(ConfigError, match="must not vote"):
            await nodes.start("b")

    on_three_nodes(4, program)
