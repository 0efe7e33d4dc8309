"""One simulation of a cluster, from its seed to its report.

    founded -> buckets -> clients and fate, `steps` of 250 ms -> healed
        -> everything serves -> clients stop -> nothing is below promise, replicas level
        -> every key read and listed through every node -> checkers

All chance is of the seed and all time virtual, so the same seed gives the same run on any
machine, under any PYTHONHASHSEED; `Report.trace_hash` shows it: it is made of every byte
that was sent, every answer and every fault, with their times.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from random import Random

import attrs
import trio

from objstore.errors import ObjstoreError
from objstore.host.host import Host
from objstore.testing.checks import (
    buckets,
    counters,
    ends,
    fragments,
    lists,
    loss,
    registers,
    replicas,
    resurrection,
)
from objstore.testing.checks.raft import RaftWatch
from objstore.testing.checks.replicas import ReplicaWatch
from objstore.testing.cluster.client import Client
from objstore.testing.cluster.cluster import Cluster
from objstore.testing.cluster.evidence import Evidence, Violation
from objstore.testing.cluster.faults import FAULTS, Fate
from objstore.testing.cluster.program import Program
from objstore.testing.cluster.workload import REGISTERS, Workload
from objstore.testing.host import SimulatedWorld
from objstore.testing.simulation import Trace, insist, run_simulation, until

CLIENTS_HOST = "clients"
_LOOK_S = 0.1
_SERVES_S = 60.0  # After the heal, until every node serves.
_MENDS_S = 300.0  # And until nothing is below promise.
_LAST_READS_S = 60.0
_COPIES = 3  # The default redundancy's.
_TIME_LIMIT_S = 24 * 3600.0


@attrs.frozen(kw_only=True)
class Plan:
    """What is simulated."""

    seed: int
    nodes: int = 3
    steps: int = 60
    faults: tuple[str, ...] = tuple(FAULTS)
    clients: int = 5
    bounded: bool = True
    hot_keys: int = 10
    pause_s: float = 0.5  # Of a client between two operations, at most.
    fault_probability: float = 0.12  # In each step.


@attrs.frozen
class Report:
    """What came of it."""

    plan: Plan
    steps: int
    operations: int
    trace_hash: str
    violations: tuple[Violation, ...]
    strikes: dict[str, int]
    virtual_s: float


# What happens in place of clients and fate.
Story = Callable[["Simulation"], Awaitable[None]]


def simulate(
    plan: Plan,
    program: Program,
    *,
    on_note: Callable[[str], None] | None = None,
    story: Story | None = None,
) -> Report:
    """Run one simulation.  Not to be called inside trio."""
    return run_simulation(
        plan.seed, Simulation(plan, program, on_note, story).run, time_limit_s=_TIME_LIMIT_S
    )


class Simulation:
    """One run, and all that is in it."""

    def __init__(
        self,
        plan: Plan,
        program: Program,
        on_note: Callable[[str], None] | None,
        story: Story | None,
    ) -> None:
        self.plan = plan
        self.program = program
        self.on_note = on_note
        self.story = story
        self.evidence = Evidence()
        self.trace = Trace()
        self.random = Random(f"{plan.seed}/clients")
        self.world = SimulatedWorld(plan.seed)
        self.world.fabric.on_sent = self.trace.note_sent
        self.raft = RaftWatch(self.evidence)
        self.replicas = ReplicaWatch(self.evidence)
        self.healed = math.inf
        self.served = False  # After the heal, by every node.

    async def run(self) -> Report:
        plan = self.plan
        async with trio.open_nursery() as nursery:
            self.cluster = Cluster(
                nursery, self.world, self.program, self.evidence, note=self.note
            )
            await self.cluster.found(plan.nodes)
            self.note("founded")
            self.workload = Workload(
                self.random,
                self.evidence,
                self.addresses,
                self.note,
                hot_keys=plan.hot_keys,
                pause_s=plan.pause_s,
            )
            self.fate = Fate(
                self.cluster,
                Random(f"{plan.seed}/fate"),
                CLIENTS_HOST,
                plan.faults,
                plan.bounded,
                plan.fault_probability,
            )
            host = self.world.host(CLIENTS_HOST)
            self.judge = Client("judge", host)
            await self.workload.make_bucket(self.judge)
            nursery.start_soon(self._watch, nursery.cancel_scope)
            if self.story is None:
                await self._exercise(host)
            else:
                await self.story(self)
                self.fate.heal()
                await self._healed()
            await self._aftermath()
            nursery.cancel_scope.cancel()
        found = [*self.evidence.found, *self._judge()]
        return Report(
            plan,
            plan.steps,
            self.evidence.operations,
            self.trace.digest(),
            tuple(found),
            self.fate.strikes,
            trio.current_time(),
        )

    def note(self, what: str) -> None:
        self.trace.note(what)
        if self.on_note is not None:
            self.on_note(f"{trio.current_time():10.3f}  {what}")

    def addresses(self) -> list[str]:
        return [machine.ip for machine in self.cluster.machines.values()]

    async def _watch(self, everything: trio.CancelScope) -> None:
        """Look at the nodes, again and again; the first thing found ends the run."""
        while True:
            for name, node in self.cluster.running.items():
                self.raft.look(name, id(node), node)
                self.replicas.look(name, node)
            if self.evidence.found or any(end.is_bug for end in self.evidence.ends):
                everything.cancel()
            await trio.sleep(_LOOK_S)

    async def _exercise(self, host: Host) -> None:
        """Clients and fate, until all is healed and serves."""
        clients = [Client(f"c{n}", host) for n in range(1, self.plan.clients + 1)]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(self.workload.run, client)
            await self.fate.run(self.plan.steps)
            await self._healed()
            self.workload.stopped = True
        for client in clients:
            await client.close()

    async def _healed(self) -> None:
        self.healed = trio.current_time()
        if self.plan.bounded:
            self.served = await self._until_served()

    # ---- after the heal -----------------------------------------------------------------

    async def _until_served(self) -> bool:
        """`liveness`: every node reads and writes again."""
        served: set[str] = set()

        def waiting() -> list[str]:  # One that has left may know it only now.
            return [address for address in self.addresses() if address not in served]

        with trio.move_on_after(_SERVES_S):
            while left := waiting():
                if await self._serves(left[0]):
                    served.add(left[0])
                else:
                    await trio.sleep(0.2)
        for address in waiting():
            what = f"{address} does not serve {_SERVES_S:.0f} s after the heal"
            self.evidence.accuse("liveness", what)
        return not waiting()

    async def _serves(self, address: str) -> bool:
        """Whether keys in every shard of the bucket can be written and read by a node."""
        for number in range(8):
            body = self.evidence.new_body(f"{REGISTERS}/probe/{number}", 2000)
            call = self.evidence.history.put("judge", body.key, body.number)
            answer = await self.workload.send_put(self.judge, body, call, {}, node=address)
            if answer is None:
                return False
            if not await self.workload.read(self.judge, body.key, node=address):
                return False
        return True

    async def _aftermath(self) -> None:
        if not self.served:
            return  # Unbounded, nobody has waited for it.
        if await self._until_mended():
            await self._read_everything()
            await self._until_level()
            counters.audit(self.evidence, self.cluster.running)
            replicas.compare(self.evidence, self.cluster.running)
            buckets.check(self.evidence, self.cluster.running)
            ends.check_left(self.evidence, self.cluster.left, self.cluster.running)
            await fragments.check(self.evidence, self.cluster.running, mends_s=_MENDS_S)

    async def _until_mended(self) -> bool:
        """`promise`: nothing stays below promise, no replica damaged, no shard short."""
        problem = "nothing was seen"
        with trio.move_on_after(_MENDS_S):
            while True:
                problem = await self._problem()
                if not problem:
                    return True
                await self._ask_again()
                await trio.sleep(1.0)
        what = f"{_MENDS_S:.0f} s after everything was served: {problem}"
        self.evidence.accuse("promise", what)
        return False

    async def _ask_again(self) -> None:
        """Ask for a leave again where whoever was asked has died, as an operator would."""
        for name, node in list(self.cluster.running.items()):
            member = node.view.layout.find(node.raft.node)
            if member is not None and member.state == "draining":
                self.note(f"{name} is asked to leave again")
                with contextlib.suppress(ObjstoreError):
                    await self.cluster.leave(name)

    async def _problem(self) -> str:
        running = self.cluster.running
        if not self.cluster.is_whole():
            return f"only {sorted(running)} run, or shards lack voters or leaders"
        for name, node in running.items():
            statuses = [node.raft.status(group) for group in node.raft.groups()]
            damaged = [s.group for s in statuses if s is not None and s.damaged]
            if damaged:
                return f"groups {damaged} of {name} are damaged"
        if len(running) < _COPIES:
            return ""  # Below promise for good.
        status = await next(iter(running.values())).status.status()
        # A damaged segment is kept as it is; what lay in it is mended elsewhere.
        problems = [text for text in status["problems"] if "damaged segment" not in text]
        if status["below_promise"]["objects"] or problems:
            return f"below promise {status['below_promise']}, {problems}"
        return ""

    async def _read_everything(self) -> None:
        """Read and list all there is through every node, into the history."""
        keys = sorted({o.key for o in self.evidence.history.operations})
        for address in self.addresses():
            with trio.move_on_after(_LAST_READS_S) as scope:
                for key in keys:
                    await insist(partial(self.workload.read, self.judge, key, node=address))
                await insist(partial(self._lists, address))
            if scope.cancelled_caught:
                what = f"{address} does not let all be read in {_LAST_READS_S:.0f} s"
                self.evidence.accuse("liveness", what)
                return
        status = await next(iter(self.cluster.running.values())).status.status()
        counters.compare(self.evidence, status["usage"], self.evidence.lists[-1])

    async def _lists(self, address: str) -> bool:
        return await self.workload.list_all(self.judge, REGISTERS, node=address) is not None

    async def _until_level(self) -> None:
        with trio.move_on_after(_SERVES_S):
            await until(lambda: replicas.are_level(self.cluster.running))
            return
        self.evidence.accuse("replicas", "not all replicas apply the same in the end")

    def _judge(self) -> Iterator[Violation]:
        yield from registers.check(self.evidence)
        yield from resurrection.check(self.evidence)
        yield from lists.check(self.evidence)
        yield from ends.check(self.evidence)
        if self.plan.bounded:
            yield from loss.check(self.evidence, healed=self.healed)
