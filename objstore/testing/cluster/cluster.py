"""The nodes of a simulation, and who starts them again.

    founded ── all vote ── running ──── fault ───> down ── a pause ──> running ...
                              │└── ends by itself ──┘
                              └── it has left: no more

Each node lives on a host of its own, under a supervisor as systemd would be one: what
ended is started again after a pause, whatever ended it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import attrs
import trio

from objstore.config import Config, load
from objstore.errors import ConfigError, CorruptData, Unavailable
from objstore.host.host import Host
from objstore.ids import NodeId
from objstore.testing.cluster.client import ACCESS_KEY, PORT, SECRET_KEY
from objstore.testing.cluster.evidence import End, Evidence
from objstore.testing.cluster.program import Program, RunningNode
from objstore.testing.host import HostCrashed, SimulatedWorld
from objstore.testing.simulation import until

DATA = "/data"
_PAUSE_S = 0.5  # Before a node that ended by itself is started again.
_CLUSTER_PORT = 7000
_READY_S = 60.0
_HAS_LEFT = "has left its cluster"  # Says a node that is started after that.
_TOKEN_LIFE_MS = 7 * 24 * 3_600_000  # Whatever becomes of the nodes' clocks.

# Small enough that all paths of a large cluster are walked within a minute.
SETTINGS: Mapping[str, object] = {
    "chunks.reserve": "0B",
    "chunks.segment_size": "8MiB",
    "chunks.chunk_size": "1MiB",
    "meta.inline_size_max": "1KiB",
    "meta.flush_interval": "4s",
    "raft.wal_segment_size": "64KiB",
    "repair.interval": "1s",
    "repair.free_delay": "5s",
    "repair.grace": "1h",
}


@attrs.define(eq=False)
class Machine:
    """One node's place: its host, whether it is to run, and what is known of its disk."""

    name: str
    ip: str
    stopping: trio.Event = attrs.field(factory=trio.Event)
    pause_s: float = _PAUSE_S  # Before the next start.
    has_disk_fault: bool = False  # Errors or damage were injected since the last heal.
    settings: Mapping[str, object] = attrs.field(factory=dict)  # Of this node alone.
    node: NodeId | None = None  # Once it has served.


@attrs.define(eq=False)
class Cluster:
    """All nodes."""

    nursery: trio.Nursery
    world: SimulatedWorld
    program: Program
    evidence: Evidence
    settings: Mapping[str, object] = SETTINGS
    machines: dict[str, Machine] = attrs.field(factory=dict)
    running: dict[str, RunningNode] = attrs.field(factory=dict)  # Those that serve.
    left: dict[str, NodeId] = attrs.field(factory=dict)  # Those that say they have.
    note: Callable[[str], None] = lambda _: None  # Takes down what happened.

    @property
    def names(self) -> list[str]:
        return list(self.machines)

    async def found(self, count: int) -> None:
        """Start `count` nodes of a new cluster; returns when all vote everywhere."""
        for number in range(1, count + 1):
            await self.add(f"n{number}")
        with trio.fail_after(_READY_S):
            await until(self.is_whole)

    async def add(self, name: str) -> None:
        """Add a node; returns once it serves."""
        await self.begin_to_add(name)
        with trio.fail_after(_READY_S):
            await until(lambda: name in self.running)

    async def begin_to_add(
        self, name: str, own_settings: Mapping[str, object] | None = None
    ) -> None:
        """Start a new node, which joins where there are others.

        Raises ObjstoreError, and adds none, where they cannot say by what token.
        """
        settings = dict(own_settings or {})
        if self.machines:
            if not self.running:
                raise Unavailable("nobody runs")
            by = next(iter(self.running))
            token = await self.running[by].membership.create_token(
                expires_in_ms=_TOKEN_LIFE_MS, uses=1
            )
            others = [machine.ip for machine in self.machines.values() if machine.node]
            settings |= {
                "cluster.join": [f"{ip}:{_CLUSTER_PORT}" for ip in others],
                "cluster.token": str(token),
            }
        self.world.host(name)
        machine = Machine(name, self.world.address(name), settings=settings)
        self.machines[name] = machine
        self.nursery.start_soon(self._supervise, machine)

    async def leave(self, name: str) -> None:
        """Have a node taken out by another; its machine is no more once it knows.

        Raises ObjstoreError where it may not go, or where that is not known.
        """
        others = [node for other, node in self.running.items() if other != name]
        if name in self.running and others:
            await others[0].membership.leave(self.running[name].raft.node)

    def is_whole(self) -> bool:
        """Whether all nodes run, and every shard has a leader and all its voters."""
        if len(self.running) < len(self.machines):
            return False
        wanted = min(5, len(self.machines) - 1 + len(self.machines) % 2)
        led: set[int] = set()
        groups: set[int] = set()
        for node in self.running.values():
            for group in node.raft.groups():
                groups.add(group)
                status = node.raft.status(group)
                if status is None or not node.raft.is_leader(group):
                    continue
                membership = status.membership
                if len(membership.voters) == wanted and not membership.outgoing:
                    led.add(group)
        return bool(groups) and led == groups

    # ---- what fate does ---------------------------------------------------------------

    def crash(self, name: str, down_s: float) -> None:
        """Cut the power of a node's host."""
        if self.world.is_up(name):
            self.machines[name].pause_s = down_s
            self.note(f"power of {name} off for {down_s:.3f}")
            self.world.crash(name)

    def kill(self, name: str, down_s: float) -> None:
        """Kill a node's process."""
        if self.world.is_up(name):
            self.machines[name].pause_s = down_s
            self.note(f"{name} killed for {down_s:.3f}")
            self.world.kill(name)

    def stop(self, name: str, down_s: float) -> None:
        """Ask a node to stop in order."""
        if name in self.running:
            self.machines[name].pause_s = down_s
            self.note(f"{name} stopped for {down_s:.3f}")
            self.machines[name].stopping.set()

    # ---- running ----------------------------------------------------------------------

    async def _supervise(self, machine: Machine) -> None:
        name = machine.name
        while True:
            machine.stopping = trio.Event()
            machine.pause_s = _PAUSE_S
            try:
                await self.world.run(name, self._life(machine))
            except HostCrashed:
                pass
            except Exception as error:
                self._ended(machine, error)
            finally:
                self.running.pop(name, None)
            if self.world.is_up(name):
                self.world.kill(name)  # The process is gone, its sockets with it.
            if name in self.left:
                self.note(f"{name} is no more")
                del self.machines[name]
                return
            await trio.sleep(machine.pause_s)
            if not self.world.is_up(name):
                self.world.restart(name)
            self.note(f"{name} starts")

    def _life(self, machine: Machine) -> Callable[[Host], Awaitable[None]]:
        config = self._config(machine)

        def started(node: RunningNode) -> None:
            machine.node = node.raft.node
            self.running[machine.name] = node

        async def live(host: Host) -> None:
            await self.program(config, host, machine.stopping, started)

        return live

    def _ended(self, machine: Machine, error: Exception) -> None:
        causes = list(_leaves(error))
        reason = "; ".join(f"{type(cause).__name__}: {cause}" for cause in causes)
        self.note(f"{machine.name} ended: {reason}")
        if machine.node is None and all(isinstance(each, Unavailable) for each in causes):
            return  # Nobody let it in, for now.
        if machine.node is not None and _HAS_LEFT in reason:
            self.left[machine.name] = machine.node
            return
        # An Unavailable that a disk's error became is explained by that error.
        explained = (OSError, CorruptData, ConfigError)
        is_bug = not all(
            isinstance(cause, explained) or isinstance(cause.__cause__, explained)
            for cause in causes
        )
        end = End(machine.name, trio.current_time(), reason, is_bug, machine.has_disk_fault)
        self.evidence.ends.append(end)

    def _config(self, machine: Machine) -> Config:
        own: dict[str, object] = {
            "node.data": DATA,
            "s3.address": f"{machine.ip}:{PORT}",
            "cluster.address": f"{machine.ip}:{_CLUSTER_PORT}",
            "auth.root_access_key": ACCESS_KEY,
            "auth.root_secret_key": SECRET_KEY,
        }
        return load(overrides=dict(self.settings) | own | dict(machine.settings))


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in _leaves(part)]
