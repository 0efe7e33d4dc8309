"""What goes wrong in a simulation, by the seed.

    name        does                                              undone
    crash       power loss of one node: unsynced writes lost      the node starts again
    blackout    power loss of all nodes at once                   likewise
    kill        kill -9 of one node                               likewise
    restart     a node stops in order                             likewise
    cut         links black-holed or reset, one way or both       links healed
    network     delay, jitter, loss, duplicates, reordering       links as before
    clock       a wall clock jumps, or runs fast or slow          stays wrong until the heal
    slow        every sync, or all work on a disk, takes long     fast again
    disk        an I/O error of log, metadata or chunk drive      the node's next start
    full        a disk has no room left                           it has
    rot_log     bits of the log flip while a node is down         repair
    rot_chunks  likewise bits of the chunks' segments             repair
    join        a new node of another size joins                  it may leave
    leave       a node is asked to leave, and may if it is empty  another may join

Bounded, faults may cost time but never more than the cluster promises to survive: only one
node (`victim`) has a disk that rots, so every acknowledged byte is whole somewhere.
Unbounded, any disk rots: then the cluster may refuse for good, and only safety is checked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import attrs
import trio

from objstore.errors import ObjstoreError
from objstore.testing.cluster.cluster import Cluster
from objstore.testing.disk import DiskFault, DiskOperation
from objstore.testing.network import Link
from objstore.units import KiB

STEP_S = 0.25  # How often something may go wrong.
_AT_ONCE = 3


@attrs.define(eq=False)
class Fate:
    """Strikes until `heal`."""

    cluster: Cluster
    random: Random
    clients: str  # The host that clients run on.
    wanted: Sequence[str]  # Names of faults.
    bounded: bool
    probability: float  # Of a strike, in each step.
    strikes: dict[str, int] = attrs.field(factory=dict)  # How often each struck.
    _founders: list[str] = attrs.field(init=False)
    _joined: int = attrs.field(default=0, init=False)  # Since then.
    _active: int = 0
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @_founders.default
    def _present(self) -> list[str]:
        return self.cluster.names

    @property
    def victim(self) -> str:
        """The node whose disk may rot."""
        return self._founders[-1]

    async def run(self, steps: int) -> None:
        """Let `steps` steps pass, then heal everything."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(steps):
                    await trio.sleep(STEP_S)
                    if self._may_strike():
                        nursery.start_soon(self._strike, self.random.choice(self.wanted))
                nursery.cancel_scope.cancel()
        finally:
            self.heal()

    def _may_strike(self) -> bool:
        is_time = self.random.random() < self.probability
        return bool(self.wanted) and is_time and self._active < _AT_ONCE

    async def _strike(self, name: str) -> None:
        self._active += 1
        self.strikes[name] = self.strikes.get(name, 0) + 1
        try:
            await FAULTS[name](self)
        finally:
            self._active -= 1

    def heal(self) -> None:
        """End all faults; what is down starts by itself."""
        world = self.cluster.world
        world.heal_all()
        for one in [*self.cluster.names, self.clients]:
            for other in [*self.cluster.names, self.clients]:
                if one != other:
                    self._set_link(one, other, Link())
        for name, machine in self.cluster.machines.items():
            disk = world.disk(name)
            disk.heal()
            disk.sync_delay_s = 0.0
            disk.capacity = _CAPACITY
            world.threads(name).delay_s = 0.0
            world.clock(name).correct()
            machine.pause_s = min(machine.pause_s, 1.0)
        self.cluster.note("healed")

    # ---- faults: each strikes, waits, and undoes itself ---------------------------------

    async def crash(self) -> None:
        down_s = self._lasting(0.2, 8.0)
        self.cluster.crash(self._node(), down_s)
        await trio.sleep(down_s)

    async def blackout(self) -> None:
        for name in self.cluster.names:
            self.cluster.crash(name, self._lasting(0.2, 3.0))
        await trio.sleep(3.0)

    async def kill(self) -> None:
        down_s = self._lasting(0.2, 8.0)
        self.cluster.kill(self._node(), down_s)
        await trio.sleep(down_s)

    async def restart(self) -> None:
        down_s = self._lasting(0.1, 2.0)
        self.cluster.stop(self._node(), down_s)
        await trio.sleep(down_s)

    async def cut(self) -> None:
        pairs, one_way = self._cut_pairs()
        mode = self.random.choice(("black_hole", "black_hole", "reset"))
        self.cluster.note(f"cut {mode} {'one way ' if one_way else ''}{pairs}")
        world = self.cluster.world
        for one, other in pairs:
            world.cut(one, other, mode=mode, one_way=one_way)  # type: ignore[arg-type]
        await trio.sleep(self._lasting(0.5, 10.0))
        for one, other in pairs:
            world.heal(one, other)

    def _cut_pairs(self) -> tuple[list[tuple[str, str]], bool]:
        """A link, a node, half of the nodes; or the clients from a node."""
        names = list(self.cluster.names)
        self.random.shuffle(names)
        one_way = self.random.random() < 0.4
        kind = self.random.randrange(4)
        if kind == 0 or len(names) == 1:
            return [(names[0], self.clients)], one_way
        if kind == 1 or len(names) == 2:
            return [(names[0], names[-1])], one_way
        inside = names[:1] if kind == 2 else names[: len(names) // 2]
        outside = [name for name in names if name not in inside]
        return [(one, other) for one in inside for other in outside], one_way

    async def network(self) -> None:
        link = Link(
            latency_s=self.random.choice((0.000_5, 0.005, 0.05)),
            jitter_s=self.random.choice((0.001, 0.02, 0.1)),
            loss=self.random.choice((0.0, 0.05, 0.2)),
            duplicate=self.random.choice((0.0, 0.2)),
            reorder=self.random.choice((0.0, 0.3)),
        )
        one, other = self.random.sample([*self.cluster.names, self.clients], 2)
        self.cluster.note(f"network {one} {other} {link}")
        self._set_link(one, other, link)
        await trio.sleep(self._lasting(1.0, 10.0))
        self._set_link(one, other, Link())

    def _set_link(self, one: str, other: str, link: Link) -> None:
        """Change a link, but not whether it is cut."""
        for pair in ((one, other), (other, one)):
            there = self.cluster.world.link(*pair)
            for field in attrs.fields(Link):
                if field.name != "cut":
                    setattr(there, field.name, getattr(link, field.name))

    async def clock(self) -> None:
        name = self._node()
        clock = self.cluster.world.clock(name)
        if self.random.random() < 0.5:
            delta_ms = self.random.choice((-3_600_000, -1_000, -300, 400, 2_000, 3_600_000))
            self.cluster.note(f"clock of {name} jumps {delta_ms} ms")
            clock.jump(delta_ms)
        else:
            rate = self.random.choice((0.5, 0.9, 1.1, 2.0))
            self.cluster.note(f"clock of {name} runs at {rate}")
            clock.set_rate(rate)
        await trio.sleep(self._lasting(1.0, 5.0))

    async def slow(self) -> None:
        name = self._node()
        world = self.cluster.world
        delay_s = self.random.choice((0.005, 0.05, 0.5, 3.0))
        self.cluster.note(f"disk of {name} is slow by {delay_s}")
        world.disk(name).sync_delay_s = delay_s
        world.threads(name).delay_s = delay_s / 50
        await trio.sleep(self._lasting(1.0, 6.0))
        world.disk(name).sync_delay_s = 0.0
        world.threads(name).delay_s = 0.0

    async def disk(self) -> None:
        name = self._node()
        path, operation = self.random.choice(_DISK_ERRORS)
        disk = self.cluster.world.disk(name)
        self.cluster.note(f"disk of {name} fails: {path} {operation}")
        fault = DiskFault(path, operation, nth=self.random.randrange(1, 20), count=None)
        self.cluster.machines[name].has_disk_fault = True
        disk.inject(fault)
        try:
            await trio.sleep(self._lasting(1.0, 5.0))
        finally:
            disk.heal()
            # A drive that was fenced comes back with the process only.
            self.cluster.kill(name, self._lasting(0.2, 1.0))

    async def full(self) -> None:
        name = self._node()
        disk = self.cluster.world.disk(name)
        self.cluster.note(f"disk of {name} is full")
        self.cluster.machines[name].has_disk_fault = True
        disk.capacity = disk.used() + self.random.choice((0, 256 * KiB, 1024 * KiB))
        await trio.sleep(self._lasting(1.0, 8.0))
        disk.capacity = _CAPACITY

    async def rot_log(self) -> None:
        await self._rot("*/wal/segment-*")

    async def rot_chunks(self) -> None:
        await self._rot("*/chunks/*segment*")

    async def _rot(self, pattern: str) -> None:
        name = self.victim if self.bounded else self._node()
        world = self.cluster.world
        down_s = self._lasting(0.3, 2.0)
        if self.random.random() < 0.5:
            self.cluster.crash(name, down_s)
        else:
            self.cluster.kill(name, down_s)
        if world.is_up(name):
            return
        disk = world.disk(name)
        paths = disk.paths(pattern)
        if not paths:
            return
        path = self.random.choice(paths[-3:])
        used = len(disk.contents(path).rstrip(b"\0"))
        if used == 0:
            return
        self.cluster.machines[name].has_disk_fault = True
        for _ in range(self.random.randrange(1, 3)):
            offset, bit = self.random.randrange(used), self.random.randrange(8)
            self.cluster.note(f"bit {bit} of {name} {path} at {offset} flips")
            disk.flip_bit(path, offset=offset, bit=bit)
        await trio.sleep(down_s)

    async def join(self) -> None:
        if len(self.cluster.names) >= _NODES_MAX:
            return
        self._joined += 1
        name = f"n{len(self._founders) + self._joined}"
        weight = self.random.choice((1, 1, 256, 2048))  # The others have 1024, in GiB.
        self.cluster.note(f"{name} joins with {weight} GiB")
        with contextlib.suppress(ObjstoreError):  # Nobody could let it in.
            await self.cluster.begin_to_add(name, {"node.weight": weight})

    async def leave(self) -> None:
        # Of those who came late some hold nothing; but any may be asked.
        names = self.cluster.names
        late = [name for name in names if name not in self._founders]
        name = self.random.choice(late or names)
        if name == self.victim:
            return
        self.cluster.note(f"{name} is asked to leave")
        try:
            await self.cluster.leave(name)
        except ObjstoreError as error:
            self.cluster.note(f"{name} does not leave: {error}")

    # ---- chance -----------------------------------------------------------------------

    def _node(self) -> str:
        return self.random.choice(self.cluster.names)

    def _lasting(self, least_s: float, most_s: float) -> float:
        """A time in which short ones are as likely as long ones."""
        return float(least_s * (most_s / least_s) ** self.random.random())


_CAPACITY = 1 << 40
_NODES_MAX = 6
_DISK_ERRORS: tuple[tuple[str, DiskOperation], ...] = (
    ("*/wal/*", "sync"),
    ("*/wal/*", "write"),
    ("*/meta", "write"),
    ("*/meta", "sync"),
    ("*/chunks/*", "sync"),
    ("*/chunks/*", "write"),
    ("*/chunks/*", "read"),
)

FAULTS: dict[str, Callable[[Fate], Awaitable[None]]] = {
    "crash": Fate.crash,
    "blackout": Fate.blackout,
    "kill": Fate.kill,
    "restart": Fate.restart,
    "cut": Fate.cut,
    "network": Fate.network,
    "clock": Fate.clock,
    "slow": Fate.slow,
    "disk": Fate.disk,
    "full": Fate.full,
    "rot_log": Fate.rot_log,
    "rot_chunks": Fate.rot_chunks,
    "join": Fate.join,
    "leave": Fate.leave,
}
