"""A world of simulated hosts from one seed: the whole outside of a cluster.

    world = SimulatedWorld(seed)
    host = world.host("a")               the Host of host "a", started now if it was not
    world.cut("a", "b")                  and heal, heal_all, link: see testing.network
    world.disk("a").inject(...)          see testing.disk
    world.clock("a").jump(3_600_000)     see testing.clock
    world.threads("a").delay_s = 0.01    see testing.threads
    world.crash("a")                     power loss; world.kill("a") ends the process alone
    host = world.restart("a")            a new Host on what the disk kept

A crash is instant: whatever the dead host's tasks still do afterwards fails with OSError
or goes nowhere.  Ending those tasks is the business of who started them; `run` does both:
it runs a host's program until it returns or the host crashes.

Two worlds of one seed that are used alike behave alike (see testing.simulation).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import attrs
import trio

from objstore.host.host import Host
from objstore.testing.boot import Boot
from objstore.testing.clock import SimulatedClock
from objstore.testing.disk import SimulatedDisk, SimulatedDisks
from objstore.testing.entropy import SimulatedEntropy
from objstore.testing.network import Cut, Fabric, Link, SimulatedNetwork
from objstore.testing.pki import SimulatedPki
from objstore.testing.threads import SimulatedThreads

T = TypeVar("T")


class HostCrashed(Exception):
    """The host went down before its program returned."""


@attrs.define(eq=False)
class _Machine:
    """What of a host survives its crashes, and its present life."""

    name: str
    clock: SimulatedClock = attrs.field(factory=SimulatedClock)
    disk: SimulatedDisk = attrs.field(factory=SimulatedDisk)
    threads: SimulatedThreads = attrs.field(init=False)
    boots: int = 0
    boot: Boot | None = None
    host: Host | None = None
    program: trio.CancelScope | None = None

    def __attrs_post_init__(self) -> None:
        self.threads = SimulatedThreads(self.disk)


class SimulatedWorld:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.fabric = Fabric(Random(f"{seed}/network"))
        self._machines: dict[str, _Machine] = {}

    def host(self, name: str) -> Host:
        """The running host `name`; started, and made, where it is not."""
        machine = self._machine(name)
        return machine.host or self._start(machine)

    def crash(self, name: str) -> None:
        """Cut the power: what was not synced may be lost or torn; peers hear nothing."""
        machine = self._stop(name, power=True)
        machine.disk.crash(self._random(machine, "crash"))

    def kill(self, name: str) -> None:
        """End the process, as kill -9 does: files keep what was written."""
        machine = self._stop(name, power=False)
        machine.disk.kill(self._random(machine, "kill"))

    def restart(self, name: str) -> Host:
        """Start a host that is down."""
        machine = self._machine(name)
        assert machine.host is None, f"{name} is running"
        return self._start(machine)

    def is_up(self, name: str) -> bool:
        return self._machine(name).host is not None

    async def run(self, name: str, program: Callable[[Host], Awaitable[T]]) -> T:
        """Run `program` on host `name`, until it returns or the host goes down.

        Raises HostCrashed then, whatever the dying program raised.
        """
        host = self.host(name)
        machine = self._machine(name)
        boot = machine.boot
        assert boot is not None
        assert machine.program is None, f"{name} has a program already"
        scope = machine.program = trio.CancelScope()
        try:
            with scope:
                return await program(host)
        except BaseExceptionGroup as group:
            # Of a dead program, only a cancellation from outside is of interest.
            _, rest = group.split(Exception)
            if boot.alive:
                raise
            if rest is not None:
                raise rest from None
        except Exception:
            if boot.alive:
                raise
        finally:
            if machine.program is scope:
                machine.program = None
        raise HostCrashed(name)

    def cut(
        self, one: str, other: str, *, mode: Cut = "black_hole", one_way: bool = False
    ) -> None:
        """Cut what goes from `one` to `other`, and back unless `one_way`."""
        self.fabric.cut(one, other, mode=mode, one_way=one_way)

    def heal(self, one: str, other: str, *, one_way: bool = False) -> None:
        self.fabric.heal(one, other, one_way=one_way)

    def heal_all(self) -> None:
        self.fabric.heal_all()

    def isolate(self, name: str, *, mode: Cut = "black_hole") -> None:
        """Cut a host off from all others there are."""
        for other in self._machines:
            if other != name:
                self.fabric.cut(name, other, mode=mode)

    def link(self, source: str, target: str) -> Link:
        return self.fabric.link(source, target)

    def disk(self, name: str) -> SimulatedDisk:
        return self._machine(name).disk

    def clock(self, name: str) -> SimulatedClock:
        return self._machine(name).clock

    def threads(self, name: str) -> SimulatedThreads:
        return self._machine(name).threads

    def address(self, name: str) -> str:
        """The IP address of a host."""
        self._machine(name)
        return self.fabric.machine(name).ip

    def _machine(self, name: str) -> _Machine:
        if name not in self._machines:
            self._machines[name] = _Machine(name)
            self.fabric.add(name)
        return self._machines[name]

    def _start(self, machine: _Machine) -> Host:
        machine.boots += 1
        boot = machine.boot = Boot(machine.name)
        entropy = SimulatedEntropy(f"{self.seed}/{machine.name}/{machine.boots}")
        self.fabric.start(boot)
        machine.host = Host(
            clock=machine.clock,
            disks=SimulatedDisks(machine.disk, boot),
            entropy=entropy,
            network=SimulatedNetwork(self.fabric, boot, machine.clock),
            pki=SimulatedPki(entropy),
            threads=machine.threads,
        )
        return machine.host

    def _stop(self, name: str, *, power: bool) -> _Machine:
        machine = self._machine(name)
        assert machine.boot is not None, f"{name} is down"
        # The network first: a kernel says goodbye for a process that is still alive to it.
        self.fabric.stop(name, power=power)
        machine.boot.alive = False
        machine.boot = machine.host = None
        if machine.program is not None:
            machine.program.cancel()
            machine.program = None
        return machine

    def _random(self, machine: _Machine, purpose: str) -> Random:
        return Random(f"{self.seed}/{machine.name}/{machine.boots}/{purpose}")
