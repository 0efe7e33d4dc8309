"""A cluster of gossip cores on virtual time: a heap of deliveries, one seed, no trio.

Faults are options and sets that a test changes as it goes: loss, delay, cuts (also one
way), crashes, restarts.  Packets and exchanges over streams obey the same cuts; an exchange
needs both directions.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from random import Random

from objstore.gossip.core import (
    Changed,
    Core,
    Effect,
    IdentityConflict,
    OnlyByStream,
    Send,
    StartExchange,
    Timing,
)
from objstore.gossip.members import State
from objstore.host.network import Address
from objstore.ids import NodeId

SECRET = b"the cluster's gossip secret"


class Node:
    """One simulated process."""

    def __init__(self, sim: GossipSim, number: int, start_count: int) -> None:
        self.number = number
        self.id = NodeId(f"{number:016x}")
        self.address = Address(f"node{number}", 7000)
        self.start_count = start_count
        self.is_running = True
        self.slow_ms = 0  # How long it takes to look at what arrived.
        self.changes: list[Changed] = []
        self.core = Core(
            node=self.id,
            boot_id=sim.random.randbytes(8),
            start_count=start_count,
            secret=SECRET,
            address=self.address,
            seeds=sim.seeds,
            meta={"s3": f"node{number}:9000"},
            random=Random(sim.random.random()),
            timing=sim.timing,
            now_ms=sim.now_ms,
        )

    def state_of(self, other: Node) -> State | None:
        member = self.core.members.get(other.id)
        return None if member is None else member.state


class GossipSim:
    """The network and the clock."""

    def __init__(
        self,
        seed: int,
        node_count: int,
        *,
        seed_count: int = 1,
        loss: float = 0.0,
        delay_ms: tuple[int, int] = (0, 3),
        timing: Timing | None = None,
    ) -> None:
        self.random = Random(seed)
        self.timing = timing or Timing()
        self.now_ms = 1_000
        self.loss = loss
        self.delay_ms = delay_ms
        self.datagrams_cut: set[tuple[int, int]] = set()  # Of packets alone.
        self.cuts: set[tuple[int, int]] = set()  # (from, to), by number.
        self.sent = 0
        self.bytes_sent = 0
        self.only_by_stream = 0
        self.seeds = tuple(Address(f"node{n}", 7000) for n in range(seed_count))
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._ticks: dict[Node, int] = {}  # Node to the time of its next tick.
        self.nodes: list[Node] = []
        self.conflicts: list[IdentityConflict] = []  # Of all processes there ever were.
        for number in range(node_count):
            self.add(number)

    # What a test does.

    def add(self, number: int, start_count: int = 1) -> Node:
        """Start a process; in place of an earlier one of that number."""
        node = Node(self, number, start_count)
        if number < len(self.nodes):
            self.nodes[number] = node
        else:
            assert number == len(self.nodes)
            self.nodes.append(node)
        self._plan_tick(node)
        return node

    def crash(self, *numbers: int) -> None:
        for number in numbers:
            self.nodes[number].is_running = False

    def restart(self, number: int) -> Node:
        self.crash(number)
        return self.add(number, self.nodes[number].start_count + 1)

    def cut(self, these: Iterable[int], those: Iterable[int], *, both: bool = True) -> None:
        for a in these:
            for b in those:
                self.cuts.add((a, b))
                if both:
                    self.cuts.add((b, a))

    def heal(self) -> None:
        self.cuts.clear()
        self.datagrams_cut.clear()

    def run(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while self._heap and self._heap[0][0] <= end_ms:
            self.now_ms, _, action = heapq.heappop(self._heap)
            action()
        self.now_ms = end_ms

    def run_until(self, condition: Callable[[], bool], within_ms: int) -> int:
        """How long it took; fails where it takes longer."""
        began_ms = self.now_ms
        while not condition():
            assert self.now_ms - began_ms < within_ms, "not within the bound"
            self.run(50)
        return self.now_ms - began_ms

    # What a test asks.

    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.is_running]

    def is_converged(self) -> bool:
        """Whether every running node sees the running ones alive, and no other up."""
        running = self.running()
        alive = {node.id for node in running}
        return all(
            {m.node for m in node.core.members.values() if m.is_up} == alive
            and all(node.core.members[i].state is State.ALIVE for i in alive)
            for node in running
        )

    def deaths(self, numbers: Iterable[int] | None = None) -> int:
        """How often some node declared one of `numbers` dead."""
        ids = {self.nodes[n].id for n in (numbers or range(len(self.nodes)))}
        return sum(
            change.member.node in ids and change.member.state is State.DEAD
            for node in self.nodes
            for change in node.changes
        )

    def forget_changes(self) -> None:
        for node in self.nodes:
            node.changes.clear()

    # The machinery.

    def _at(self, at_ms: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, action))

    def _plan_tick(self, node: Node) -> None:
        at_ms = max(self.now_ms, node.core.next_tick_ms())
        planned = self._ticks.get(node)
        if planned is not None and planned <= at_ms:
            return
        self._ticks[node] = at_ms

        def tick() -> None:
            if self._ticks.get(node) == at_ms and node.is_running:
                del self._ticks[node]
                self._do(node, node.core.on_tick(self.now_ms))

        self._at(at_ms, tick)

    def _do(self, node: Node, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(address, data):
                    self._send(node, address, data)
                case StartExchange():
                    self._exchange(node, effect)
                case Changed():
                    node.changes.append(effect)
                case IdentityConflict():
                    self.conflicts.append(effect)
                case OnlyByStream():
                    self.only_by_stream += 1
        self._plan_tick(node)

    def _node_at(self, address: Address) -> Node:
        return self.nodes[int(address.host.removeprefix("node"))]

    def _delay(self) -> int:
        return self.random.randint(*self.delay_ms)

    def _send(self, sender: Node, address: Address, data: bytes) -> None:
        self.sent += 1
        self.bytes_sent += len(data)
        target = self._node_at(address)
        way = (sender.number, target.number)
        if (
            way in self.cuts
            or way in self.datagrams_cut
            or self.random.random() < self.loss
        ):
            return

        def deliver() -> None:
            if target.is_running and way not in self.cuts:
                effects = target.core.on_packet(data, sender.address, self.now_ms)
                self._do(target, effects)

        self._at(self.now_ms + self._delay() + target.slow_ms, deliver)

    def _exchange(self, node: Node, start: StartExchange) -> None:
        if isinstance(start.target, Address):
            target = self._node_at(start.target)
        else:
            target = self.nodes[int(start.target, 16)]
        began_ms = self.now_ms

        def fail() -> None:
            if node.is_running:
                node.core.on_exchange_failed(start.number)

        def is_cut() -> bool:
            a, b = node.number, target.number
            return (a, b) in self.cuts or (b, a) in self.cuts

        def ask() -> None:
            if is_cut():
                self._at(began_ms + start.timeout_ms, fail)
            elif not target.is_running:
                self._at(self.now_ms + 1, fail)
            else:
                answer, effects = target.core.on_exchange(start.data, self.now_ms)
                self._do(target, effects)
                self._at(self.now_ms + self._delay() + node.slow_ms, lambda: end(answer))

        def end(answer: bytes) -> None:
            if is_cut() or self.now_ms - began_ms > start.timeout_ms:
                fail()
            elif node.is_running:
                self._do(node, node.core.on_exchanged(start.number, answer, self.now_ms))

        self._at(self.now_ms + self._delay() + target.slow_ms, ask)
