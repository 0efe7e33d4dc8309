"""Stories: what chance seldom brings about, told to whole clusters.

    late_commit      a commit is held up until its writer has given it up and its chunks
                     are freed; then it comes
    late_put         a put's command is held up while its bucket is deleted
    lost_answers     answers to commands are lost, so that they are sent again
    contest          many create one key at the same time, through different nodes
    lagging_replica  one node hears of changes late; what is put is listed through it
    blackout         the power of all nodes fails right after a put

The seed decides the rest.  A command is held up where its leader has received it: as on a
network that is slow, or on a host that had other things to do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from objstore.errors import ObjstoreError, Unavailable
from objstore.meta.commands import PutVersion
from objstore.meta.server import MetaServer
from objstore.raft.answers import Answer
from objstore.testing.checks import buckets, fragments
from objstore.testing.cluster.client import Client
from objstore.testing.cluster.evidence import Violation
from objstore.testing.cluster.program import Program
from objstore.testing.cluster.simulation import (
    CLIENTS_HOST,
    Plan,
    Simulation,
    Story,
    simulate,
)
from objstore.testing.cluster.workload import REGISTERS
from objstore.testing.mutants.mutant import patched
from objstore.testing.network import Link
from objstore.testing.simulation import until
from objstore.units import KiB

_Begin = Callable[..., Answer]
_ROUNDS = 3
_CHUNKED = 4 * KiB  # Larger than what is kept inline.
_FREED_S = 20.0  # From a commit that lets go of chunks until they are deleted.


def tell(seed: int, program: Program, *, story: Story) -> tuple[Violation, ...]:
    """Run a cluster without fate, and tell it a story."""
    plan = Plan(seed=seed, steps=0, faults=())
    return simulate(plan, program, story=story).violations


async def late_commit(simulation: Simulation) -> None:
    held: list[tuple[Any, ...]] = []

    def hold(server: MetaServer, *where: Any, **more: Any) -> Answer:
        *what, timeout_ms = where
        if not isinstance(where[2], PutVersion):
            return _begin(server, *where, **more)
        held.append((*what, 1000))
        return _later(3600 if timeout_ms is None else timeout_ms / 1000, _held_up)

    with patched(MetaServer, _begin=hold):
        for number in range(_ROUNDS):
            await _put(simulation, simulation.judge, f"late/{number}", _CHUNKED)
    await trio.sleep(_FREED_S)
    for where in held:
        for node in simulation.cluster.running.values():
            try:
                await _begin(node.meta_server, *where).wait()
            except ObjstoreError as error:
                simulation.note(f"what was held up came to {error!r}")
    await fragments.check(simulation.evidence, simulation.cluster.running, mends_s=0)


async def late_put(simulation: Simulation) -> None:
    slowness = [simulation.random.uniform(0.0, 0.3) for _ in range(_ROUNDS)]

    def slow(server: MetaServer, *where: Any, **more: Any) -> Answer:
        if isinstance(where[2], PutVersion):
            return _later(slowness[-1], partial(_begin, server, *where, **more))
        return _begin(server, *where, **more)

    async def delete(bucket: str) -> None:
        client = Client("deleter", simulation.world.host(CLIENTS_HOST))
        await client.send(simulation.addresses()[-1], "DELETE", f"/{bucket}")
        await client.close()

    client = simulation.judge
    with patched(MetaServer, _begin=slow):
        while slowness:
            bucket = f"passing-{len(slowness)}"
            await client.send(simulation.addresses()[0], "PUT", f"/{bucket}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(delete, bucket)
                await client.send(
                    simulation.addresses()[0], "PUT", f"/{bucket}/key", body=b"late"
                )
            slowness.pop()
    await trio.sleep(1.0)
    buckets.check(simulation.evidence, simulation.cluster.running)


async def lost_answers(simulation: Simulation) -> None:
    heard: set[bytes] = set()

    def lose(server: MetaServer, *where: Any, **more: Any) -> Answer:
        begun = _begin(server, *where, **more)
        if not isinstance(where[2], PutVersion) or where[1] in heard:
            return begun
        heard.add(where[1])
        answer = Answer()
        error = partial(Unavailable, "the answer was lost", unknown=True)
        begun.then(lambda _: answer.fail(error))
        return answer

    with patched(MetaServer, _begin=lose):
        for number in range(_ROUNDS):
            await _create(simulation, simulation.judge, f"once/{number}")


async def contest(simulation: Simulation) -> None:
    host = simulation.world.host(CLIENTS_HOST)
    clients = [Client(f"c{number}", host) for number in range(6)]
    for number in range(_ROUNDS):
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(_create, simulation, client, f"contest/{number}")
        await simulation.workload.read(simulation.judge, f"{REGISTERS}/contest/{number}")
    for client in clients:
        await client.close()


async def lagging_replica(simulation: Simulation) -> None:
    near, far = simulation.addresses()[0], simulation.addresses()[-1]
    *others, last = simulation.cluster.names
    for name in others:
        slow: Link = simulation.world.link(name, last)
        slow.latency_s = 0.1 + 0.2 * simulation.random.random()
    for number in range(_ROUNDS):
        await _put(simulation, simulation.judge, f"listed/{number}", _CHUNKED, node=near)
        await simulation.workload.list_all(simulation.judge, REGISTERS, node=far)


async def blackout(simulation: Simulation) -> None:
    for number in range(_ROUNDS):
        await _put(simulation, simulation.judge, f"dark/{number}", _CHUNKED)
    for name in simulation.cluster.names:
        simulation.cluster.crash(name, 0.5)
    await trio.sleep(1.0)
    await until(simulation.cluster.is_whole)
    await fragments.check(simulation.evidence, simulation.cluster.running, mends_s=0)


# ---- telling --------------------------------------------------------------------------

_begin: _Begin = MetaServer._begin


def _later(delay_s: float, begin: Callable[[], Answer]) -> Answer:
    """What is begun after a while, or the error that it is refused with then."""
    answer = Answer()

    async def run() -> None:
        await trio.sleep(delay_s)
        try:
            begin().then(answer.settle)
        except ObjstoreError as error:
            answer.fail(partial(_same, error))

    trio.lowlevel.spawn_system_task(run)
    return answer


def _held_up() -> Answer:
    raise Unavailable("it is held up", unknown=True)


def _same(error: ObjstoreError) -> ObjstoreError:
    return error


async def _put(
    simulation: Simulation, client: Client, key: str, size: int, *, node: str | None = None
) -> None:
    body = simulation.evidence.new_body(f"{REGISTERS}/{key}", size)
    call = simulation.evidence.history.put(client.name, body.key, body.number)
    await simulation.workload.send_put(client, body, call, {}, node=node)


async def _create(simulation: Simulation, client: Client, key: str) -> None:
    body = simulation.evidence.new_body(f"{REGISTERS}/{key}", 200)
    call = simulation.evidence.history.cas(client.name, body.key, None, body.number)
    await simulation.workload.send_put(client, body, call, {"if-none-match": "*"})
