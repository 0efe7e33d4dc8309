"""Several hosts in one event loop: a network in memory, simulated disks, a simple machine."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import attrs
import msgpack
import trio

from objstore.config import RaftConfig
from objstore.errors import Unavailable
from objstore.ids import NodeId
from objstore.raft.driver import GroupStatus, RaftHost
from objstore.raft.errors import NotLeader
from objstore.raft.options import Options
from objstore.raft.state_machine import Applied, Entry, EntryKind, Membership
from objstore.raft.wal import Wal
from objstore.testing.boot import Boot
from objstore.testing.disk import SimulatedDisk, SimulatedDisks
from objstore.testing.entropy import SimulatedEntropy
from objstore.testing.threads import SimulatedThreads

NOWHERE = Applied(0, 0, Membership(()))
PIECE_SIZE = 200
CONFIG = RaftConfig()


def node_id(number: int) -> NodeId:
    return NodeId(f"{number:016x}")


@attrs.define(eq=False)
class Lists:
    """A state machine that keeps every command; `flush` makes it durable."""

    position: Applied = NOWHERE
    commands: list[bytes] = attrs.field(factory=list)
    durable: tuple[Applied, list[bytes]] = (NOWHERE, [])
    installs: int = 0
    destroyed: int = 0

    def applied(self) -> Applied:
        return self.position

    def apply(self, entries: Sequence[Entry], membership: Membership) -> list[object]:
        results: list[object] = []
        for entry in entries:
            assert entry.index == self.position.index + 1
            self.position = Applied(entry.index, entry.term, membership)
            if entry.kind is EntryKind.COMMAND:
                self.commands.append(entry.data)
                results.append(len(self.commands))
            else:
                results.append(None)
        return results

    def durable_index(self) -> int:
        return self.durable[0].index

    def flush(self) -> None:
        self.durable = (self.position, list(self.commands))

    def crash(self) -> None:
        self.position, commands = self.durable
        self.commands = list(commands)

    def snapshot(self) -> Iterator[bytes]:
        data = msgpack.packb(self.commands)
        return iter([data[n : n + PIECE_SIZE] for n in range(0, len(data), PIECE_SIZE)])

    def install(self) -> "_Install":
        return _Install(self)

    def destroy(self) -> None:
        self.position, self.commands = NOWHERE, []
        self.flush()
        self.destroyed += 1


@attrs.define(eq=False)
class _Install:
    machine: Lists
    data: bytes = b""

    def feed(self, piece: bytes) -> None:
        self.data += piece

    def commit(self, applied: Applied) -> None:
        self.machine.commands = msgpack.unpackb(self.data)
        self.machine.position = applied
        self.machine.flush()
        self.machine.installs += 1

    def abort(self) -> None:
        self.data = b""


@attrs.define(eq=False)
class _Clock:
    offset_ms: int = 0

    def utc_now_ms(self) -> int:
        return 1_700_000_000_000 + self.offset_ms + round(trio.current_time() * 1000)


@attrs.define(eq=False)
class Computer:
    """One node's disk and state machines; they outlive its process."""

    id: NodeId
    cluster: "Cluster"
    disk: SimulatedDisk = attrs.field(factory=SimulatedDisk)
    machines: dict[int, Lists] = attrs.field(factory=dict)
    clock: _Clock = attrs.field(factory=_Clock)
    boots: int = 0
    host: RaftHost | None = None
    scope: trio.CancelScope | None = None
    stopped: trio.Event | None = None
    preferred: Callable[[int], NodeId | None] = lambda group: None
    sent: int = 0

    def machine(self, group: int) -> Lists:
        return self.machines.setdefault(group, Lists())

    def send(self, to: NodeId, payload: bytes) -> None:
        self.sent += 1
        self.cluster.deliver(self.id, to, payload)

    async def call(self, to: NodeId, payload: bytes) -> bytes:
        await trio.sleep(0.002)
        other = self.cluster.computers[to].host
        if other is None or (self.id, to) in self.cluster.cuts:
            raise Unavailable(f"{to} is not there")
        self.cluster.calls += 1
        return await other.on_call(self.id, payload)

    async def flush(self) -> None:
        for machine in self.machines.values():
            machine.flush()


@attrs.define(eq=False)
class Cluster:
    nursery: trio.Nursery
    options: Options = attrs.field(factory=Options)
    segment_size: int = 1_000_000
    computers: dict[NodeId, Computer] = attrs.field(factory=dict)
    cuts: set[tuple[NodeId, NodeId]] = attrs.field(factory=set)
    random: Random = attrs.field(factory=lambda: Random(1))
    delay_s: float = 0.001
    calls: int = 0

    async def start(self, number: int) -> Computer:
        """Start (or start again) a node."""
        name = node_id(number)
        computer = self.computers.setdefault(name, Computer(name, self))
        computer.boots += 1
        disks = SimulatedDisks(computer.disk, Boot(f"{number}-{computer.boots}"))
        wal = Wal(
            directory=disks.directory("/wal", create=True),
            threads=SimulatedThreads(computer.disk),
            entropy=SimulatedEntropy(f"{number}-{computer.boots}"),
            segment_size=self.segment_size,
        )
        host = RaftHost(
            node=name,
            wal=wal,
            machines=computer.machine,
            transport=computer,
            random=Random(number * 1000 + computer.boots),
            clock=computer.clock,
            config=CONFIG,
            preferred_leader=lambda group: computer.preferred(group),
            peer_alive=lambda other: self.is_up(name, other),
            peer_unfit=self.is_slow,
            flush=computer.flush,
            options=self.options,
        )
        await self.nursery.start(self._run, computer, host)
        return computer

    def is_slow(self, node: NodeId) -> bool:
        """What its peers know of a host's disk."""
        host = self.computers[node].host
        return host is not None and host.is_slow

    async def _run(
        self, computer: Computer, host: RaftHost, *, task_status: trio.TaskStatus[None]
    ) -> None:
        computer.stopped = stopped = trio.Event()
        try:
            with trio.CancelScope() as computer.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(host.run)
                    computer.host = host
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            computer.host = None
            stopped.set()

    async def stop(self, number: int) -> None:
        """End the process; machines fall back to what they had flushed."""
        computer = self.computers[node_id(number)]
        assert computer.scope is not None
        assert computer.stopped is not None
        computer.scope.cancel()
        await computer.stopped.wait()
        for machine in computer.machines.values():
            machine.crash()

    def is_up(self, here: NodeId, there: NodeId) -> bool:
        computer = self.computers.get(there)
        return (
            computer is not None
            and computer.host is not None
            and ((here, there) not in self.cuts and (there, here) not in self.cuts)
        )

    def deliver(self, sender: NodeId, to: NodeId, payload: bytes) -> None:
        async def arrive() -> None:
            await trio.sleep(self.delay_s)
            computer = self.computers.get(to)
            if computer and computer.host and (sender, to) not in self.cuts:
                computer.host.on_payload(sender, payload)

        self.nursery.start_soon(arrive)

    def cut_off(self, number: int) -> None:
        name = node_id(number)
        for other in self.computers:
            if other != name:
                self.cuts |= {(name, other), (other, name)}

    def host(self, number: int) -> RaftHost:
        host = self.computers[node_id(number)].host
        assert host is not None
        return host

    def hosts(self) -> list[RaftHost]:
        return [c.host for c in self.computers.values() if c.host is not None]

    def status(self, number: int, group: int) -> GroupStatus:
        status = self.host(number).status(group)
        assert status is not None
        return status

    async def leader(self, group: int = 0, *, among: Sequence[int] = ()) -> RaftHost:
        """The host that leads and can commit, once there is one."""
        while True:
            for host in self.hosts():
                if host.is_leader(group) and (
                    not among or host.node in [node_id(n) for n in among]
                ):
                    try:
                        with trio.move_on_after(1):
                            await host.read_barrier(group)
                            return host
                    except NotLeader:
                        pass
            await trio.sleep(0.05)

    async def propose(self, group: int, data: bytes) -> object:
        """As a client would: find the leader, and try again where nothing happened."""
        while True:
            host = await self.leader(group)
            try:
                return await host.propose(group, data)
            except NotLeader:
                await trio.sleep(0.05)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await trio.sleep(0.02)


@asynccontextmanager
async def cluster_of(
    count: int, *, groups: Sequence[int] = (0,), **settings: object
) -> AsyncIterator[Cluster]:
    """`count` running nodes; the first has founded `groups` and all vote."""
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            cluster = Cluster(nursery, **settings)  # type: ignore[arg-type]
            for number in range(1, count + 1):
                await cluster.start(number)
            await cluster.host(1).found(groups)
            if count > 1:
                voters = [node_id(n) for n in range(1, count + 1)]
                async with trio.open_nursery() as changes:
                    for group in groups:
                        changes.start_soon(cluster.host(1).change_membership, group, voters)
            yield cluster
            nursery.cancel_scope.cancel()
