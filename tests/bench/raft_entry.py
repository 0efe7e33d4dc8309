"""What Raft asks for an entry, and for a read: python tests/bench/raft_entry.py.

Three hosts of several groups in one process, with their logs on this machine's drive. What
one has for another is handed over as bytes, in memory; the state machine does nothing.
Five clients at a time, over all groups, which are led by all three. The time is the
bench's own: a client's operation takes 2 ms of it, so that ticks and heartbeats are as
many as in a cluster of 500 operations a second.

CPU microseconds an operation of all three nodes, for a machine that does nothing else. On
one that does, count instructions; a phase is then a part of the output file:

    PYTHONHASHSEED=0 valgrind --tool=callgrind --callgrind-out-file=OUT \\
        --dump-before=getppid python tests/bench/raft_entry.py --counted
    python tests/bench/raft_entry.py --read OUT

    python tests/bench/raft_entry.py --calls    # Python calls an operation, by function
"""

from __future__ import annotations

import argparse
import collections
import gc
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from types import FrameType

import structlog
import trio
from callgrind import thousands
from trio._core import _run as loop
from trio.testing import MockClock

from objstore.config import RaftConfig
from objstore.host.real_host import real_host
from objstore.ids import NodeId
from objstore.raft.driver import RaftHost
from objstore.raft.state_machine import Applied, Entry, Install, Membership
from objstore.raft.wal import Wal
from objstore.units import KiB, MiB

NODES = [NodeId(letter * 16) for letter in "abc"]
GROUPS = range(24)
AT_A_TIME = 5
STEP_S = 0.002
WARM_UP = 50  # Operations before a phase is counted.
DATA = bytes(range(256)) * (4 * KiB // 256)


class Nothing:
    """A state machine that keeps only how far it is."""

    def __init__(self) -> None:
        self._applied = Applied(0, 0, Membership(()))

    def applied(self) -> Applied:
        return self._applied

    def apply(self, entries: Sequence[Entry], membership: Membership) -> list[object]:
        last = entries[-1]
        self._applied = Applied(last.index, last.term, membership)
        return [None] * len(entries)

    def durable_index(self) -> int:
        return self._applied.index

    def snapshot(self) -> Iterator[bytes]:
        raise NotImplementedError

    def install(self) -> Install:
        raise NotImplementedError

    def destroy(self) -> None:
        raise NotImplementedError


class Wire:
    """What one host has for the others is theirs at once."""

    def __init__(self, node: NodeId, hosts: dict[NodeId, RaftHost]) -> None:
        self._node = node
        self._hosts = hosts
        self.sent = 0

    def send(self, to: NodeId, payload: bytes) -> None:
        self.sent += 1
        self._hosts[to].on_payload(self._node, payload)

    async def call(self, to: NodeId, payload: bytes) -> bytes:
        return await self._hosts[to].on_call(self._node, payload)


class Cluster:
    """Three hosts, and the clients that ask them."""

    def __init__(self, folder: str, clock: MockClock) -> None:
        self.clock = clock
        self.hosts: dict[NodeId, RaftHost] = {}
        self.wires = {node: Wire(node, self.hosts) for node in NODES}
        self._leaders: dict[int, RaftHost] = {}
        for number, node in enumerate(NODES):
            self.hosts[node] = self._host(folder, number, node)

    def _host(self, folder: str, number: int, node: NodeId) -> RaftHost:
        real = real_host()
        wal = Wal(
            directory=real.disks.directory(f"{folder}/{node}", create=True),
            threads=real.threads,
            entropy=real.entropy,
            segment_size=16 * MiB,
        )
        machines: dict[int, Nothing] = {}
        return RaftHost(
            node=node,
            wal=wal,
            machines=lambda group: machines.setdefault(group, Nothing()),
            transport=self.wires[node],
            random=Random(number),
            clock=real.clock,
            config=RaftConfig(),
        )

    async def found(self) -> None:
        """Each group on all nodes, with the leaders spread."""
        await self.hosts[NODES[0]].found(GROUPS)
        async with trio.open_nursery() as nursery:
            for group in GROUPS:
                nursery.start_soon(self._spread, group)

    async def _spread(self, group: int) -> None:
        founder = self.hosts[NODES[0]]
        leader = NODES[group % len(NODES)]
        await founder.change_membership(group, NODES)
        await founder.transfer(group, leader)
        while not self.hosts[leader].is_leader(group):
            await trio.sleep(0.01)
        self._leaders[group] = self.hosts[leader]

    async def propose(self, number: int) -> None:
        group = number % len(GROUPS)
        await self._leaders[group].propose(group, DATA, timeout_ms=30_000)

    async def read_leader(self, number: int) -> None:
        group = number % len(GROUPS)
        await self._leaders[group].read_barrier(group, timeout_ms=30_000)

    async def read_follower(self, number: int) -> None:
        group = number % len(GROUPS)
        # Not the leader, and the next time the other one.
        asked = NODES[(group + 1 + number // len(GROUPS) % 2) % len(NODES)]
        assert self.hosts[asked].serves_reads(group)
        await self.hosts[asked].read_barrier(group, timeout_ms=30_000)

    async def run(self, operation: Callable[[int], Awaitable[None]], count: int) -> None:
        numbers = iter(range(count))

        async def client() -> None:
            for number in numbers:
                await operation(number)
                self.clock.jump(STEP_S)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_A_TIME):
                nursery.start_soon(client)


PHASES = ("propose", "read_leader", "read_follower")


async def measure(count: int, arguments: argparse.Namespace, clock: MockClock) -> None:
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        cluster = Cluster(folder, clock)
        async with trio.open_nursery() as nursery:
            for host in cluster.hosts.values():
                await nursery.start(host.run)
            await cluster.found()
            clock.rate = 0.0
            for name in PHASES:
                operation = getattr(cluster, name)
                await cluster.run(operation, WARM_UP)
                gc.collect()
                before = sum(wire.sent for wire in cluster.wires.values())
                calls = CallCounter() if arguments.calls else None
                spent_s = await _spent_s(cluster, operation, count, arguments, calls)
                sent = sum(wire.sent for wire in cluster.wires.values()) - before
                shown = "" if arguments.counted else f"{spent_s / count * 1e6:8.1f} µs"
                print(f"{name:14} {shown} {sent / count:5.2f} payloads", flush=True)
                if calls is not None:
                    calls.show(count)
            nursery.cancel_scope.cancel()


async def _spent_s(
    cluster: Cluster,
    operation: Callable[[int], Awaitable[None]],
    count: int,
    arguments: argparse.Namespace,
    calls: CallCounter | None,
) -> float:
    if arguments.counted:
        os.getppid()  # Tells callgrind where the phase begins, and where it ends.
    if calls is not None:
        sys.setprofile(calls)
    began_s = time.process_time()
    await cluster.run(operation, count)
    spent_s = time.process_time() - began_s
    sys.setprofile(None)
    if arguments.counted:
        os.getppid()
    return spent_s


class CallCounter:
    """Counts calls of Python functions, by name."""

    def __init__(self) -> None:
        self._calls: collections.Counter[str] = collections.Counter()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call":
            place = "/".join(Path(code.co_filename).parts[-2:])
            self._calls[f"{place}:{code.co_firstlineno} {code.co_qualname}"] += 1
        elif event == "c_call":
            name = getattr(argument, "__qualname__", repr(argument))
            self._calls[f"C {name}"] += 1

    def show(self, count: int) -> None:
        python = sum(n for name, n in self._calls.items() if not name.startswith("C "))
        print(f"    {python / count:8.2f} calls of Python functions")
        for name, number in self._calls.most_common(120):
            if number / count >= 0.2:
                print(f"    {number / count:8.2f} {name}")


def read(out: Path, count: int) -> None:
    """Print what callgrind counted in each phase."""
    for place, name in enumerate(PHASES):
        print(f"{name:14} {thousands(out, place) / count:8.1f} k instructions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=240, help="operations of a phase")
    parser.add_argument("--counted", action="store_true", help="run under callgrind")
    parser.add_argument("--calls", action="store_true", help="count calls of functions")
    parser.add_argument("--read", type=Path, help="show what callgrind wrote")
    parser.add_argument("--folder", help="where the logs lie")
    arguments = parser.parse_args()
    if arguments.read is not None:
        read(arguments.read, arguments.count)
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    gc.disable()
    loop._r.seed(1)  # Tasks take their turns in the same order each time, about.
    clock = MockClock(rate=1.0)
    trio.run(measure, arguments.count, arguments, clock, clock=clock)


if __name__ == "__main__":
    main()
