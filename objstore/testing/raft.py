"""One Raft group of several nodes on virtual time: a heap of deliveries over pure cores.

Every node has a core; a log, on a simulated disk, that keeps what was synced and, of a
write in progress at a crash, whatever the disk chose to keep; and a state machine that is
flushed now and then. Old segments of the log go as they do in life. A node crashes by loss
of power or by the death of its process, loses its whole disk, stops for a while and goes
on, or has a clock that runs fast or slow. The network delays, drops, repeats and reorders;
links are cut one way or both. The seed decides all.

Checked after each step (FAULTS I4): one leader a term, committed entries agree everywhere
and for ever, applied states agree, nothing committed goes back; and of the history: reads
and writes are linearizable (I3), as the log's order is the order of the register.
"""

import contextlib
import heapq
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

import attrs

from objstore.ids import NodeId
from objstore.raft.contacts import Contacts
from objstore.raft.core import Core
from objstore.raft.effects import (
    Apply,
    Persist,
    ReadsFailed,
    ReadsReady,
    Removed,
    Role,
    RoleChanged,
    Send,
    SendSnapshot,
)
from objstore.raft.hard_state import Damage, HardState
from objstore.raft.log import Log
from objstore.raft.membership import Step, next_step
from objstore.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    Message,
    Vote,
    VoteReply,
    decode_payload,
    encode_membership,
    encode_payload,
)
from objstore.raft.options import Options
from objstore.raft.recovery import (
    RecoveredGroup,
    entry_record,
    hard_state_record,
    restore,
    tombstone_record,
)
from objstore.raft.state_machine import Applied, Entry, EntryKind, Membership
from objstore.raft.wal import Wal
from objstore.raft.wal_format import DATA_OFFSET, Record, RecordType
from objstore.raft.worker import needed
from objstore.testing.boot import Boot
from objstore.testing.disk import DiskFault, SimulatedDisk, SimulatedDisks
from objstore.testing.entropy import SimulatedEntropy
from objstore.testing.threads import SimulatedThreads

GROUP = 7
FOLDER = "/wal"
SEGMENT_SIZE = DATA_OFFSET + 8 * 1024  # Some seconds of it.
NOWHERE = Applied(0, 0, Membership(()))


def node_id(number: int) -> NodeId:
    return NodeId(f"{number:016x}")


@attrs.frozen(kw_only=True)
class Faults:
    """Probabilities are per message or per second."""

    loss_probability: float = 0.05
    duplicate_probability: float = 0.05
    delay_ms_max: int = 30
    sync_ms_max: int = 15
    stall_probability: float = 0.01  # A sync takes a second.
    crash_probability: float = 0.15
    down_ms_max: int = 3000
    cut_probability: float = 0.3
    cut_ms_max: int = 3000
    change_probability: float = 0.1  # Somebody wants other voters.
    transfer_probability: float = 0.1
    power_loss_probability: float = 0.0  # All nodes at once.
    rot_probability: float = 0.0  # A crash also flips a bit that was synced.
    wipe_probability: float = 0.0  # A crash empties the disk; the node keeps its id (F27).
    kill_probability: float = 0.5  # A crash is that of the process only.
    abandon_probability: float = 0.0  # Whoever wanted other voters gives up.
    pause_probability: float = 0.0  # A process stops, and goes on later (F14).
    pause_ms_max: int = 4000
    clock_rates: tuple[float, ...] = (1.0,)  # Of the nodes' monotonic clocks (F15).
    flush_probability: float = 0.05  # Per tick, of a state machine.
    # The power fails right after a vote or an acknowledgement was given (R5, R6).
    betrayal_probability: float = 0.0
    leader_crash_probability: float = 0.0  # Of each, soon after its election (F24).
    reign_ms_max: int = 0  # How soon; 0: two election timeouts.
    fate_ms: int = 1000  # How often something may go wrong.


QUIET = Faults(
    loss_probability=0.0,
    duplicate_probability=0.0,
    stall_probability=0.0,
    crash_probability=0.0,
    power_loss_probability=0.0,
    cut_probability=0.0,
    change_probability=0.0,
    transfer_probability=0.0,
)
# Leaders that last a moment, slow links, one entry at a time.
FLICKER = Faults(
    fate_ms=150,
    leader_crash_probability=0.7,
    crash_probability=0.05,
    down_ms_max=600,
    cut_probability=0.1,
    cut_ms_max=500,
    delay_ms_max=60,
    sync_ms_max=30,
    loss_probability=0.15,
    change_probability=0.0,
)
# The log is short, and goes entry by entry.
CHURN = Options(
    heartbeat_ms=50,
    election_timeout_ms=250,
    kept_entries=20,
    append_entries_max=1,
    in_flight_messages_max=1,
    quiesce_after_ms=600,
)


@attrs.define
class Machine:
    """A register, and a hash chain of all that led to it."""

    applied: Applied = NOWHERE
    value: bytes = b""
    chain: int = 0
    durable: tuple[Applied, bytes, int] = (NOWHERE, b"", 0)

    def apply(self, entries: list[Entry], membership: Membership) -> None:
        for entry in entries:
            assert entry.index == self.applied.index + 1
            self.chain = hash((self.chain, entry.index, entry.term, entry.data))
            if entry.kind is EntryKind.COMMAND:
                self.value = entry.data
            self.applied = Applied(entry.index, entry.term, self.applied.membership)
        self.applied = attrs.evolve(self.applied, membership=membership)

    def flush(self) -> None:
        self.durable = (self.applied, self.value, self.chain)

    def crash(self) -> None:
        self.applied, self.value, self.chain = self.durable


@attrs.define(eq=False)
class Node:
    id: NodeId
    rate: float = 1.0  # Of its clock.
    machine: Machine = attrs.field(factory=Machine)
    disk: SimulatedDisk = attrs.field(factory=SimulatedDisk)
    wal: Wal = attrs.field(init=False)
    synced: int = 0  # Where the last write to the current segment began.
    tombstone: HardState | None = None
    is_rotten: bool = False
    releasing: bool = False
    backlog: list[Callable[[], None]] | None = None  # Paused: what waits for it.
    queue: list[tuple[list[Record], Callable[[], None]]] = attrs.field(factory=list)
    writing: list[Record] | None = None
    core: Core | None = None  # None: no replica here (yet, or any more).
    contacts: Contacts = attrs.field(factory=Contacts)
    up: bool = True
    down_since_ms: int = 0
    boot: int = 0  # Events of an earlier boot are void.
    pass_due: bool = False
    reads: dict[int, "Operation"] = attrs.field(factory=dict)
    writes: dict[int, tuple[int, "Operation"]] = attrs.field(factory=dict)
    sending: set[NodeId] = attrs.field(factory=set)


@attrs.frozen
class Host:
    """What `worker.needed` sees of a node."""

    node: Node

    @property
    def wal(self) -> Wal:
        return self.node.wal

    def replica(self, group: int) -> "Host | None":
        assert group == GROUP
        return None if self.node.core is None else self

    @property
    def core(self) -> Core | None:
        return self.node.core

    @property
    def machine(self) -> "Host":
        return self

    def durable_index(self) -> int:
        return self.node.machine.durable[0].index

    def tombstone(self, group: int) -> HardState | None:
        assert group == GROUP
        return self.node.tombstone


@attrs.define(eq=False)
class Operation:
    kind: str
    began_ms: int
    floor: int  # The highest index that any operation had shown before it began.
    ended_ms: int | None = None
    index: int = 0


class Violation(AssertionError):
    """Something that must never be; `checker` is what it breaks."""

    checker = "raft"


class StaleRead(Violation):
    checker = "registers"


class Stuck(Violation):
    checker = "liveness"


class RaftSim:
    def __init__(
        self,
        seed: int,
        *,
        node_count: int = 5,
        voters: int = 3,
        faults: Faults = Faults(),
        options: Options | None = None,
        has_company: bool = False,
    ) -> None:
        """`has_company`: nodes have other groups, which say something at every tick."""
        self.random = Random(seed)
        self.has_company = has_company
        self.faults = faults
        self.options = options or Options(
            kept_entries=20,
            kept_size=8000,
            kept_entries_max=60,
            append_entries_max=8,
            in_flight_messages_max=4,
            quiesce_after_ms=600,
        )
        self.now_ms = 0
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.counter = itertools.count()
        self.steps = 0
        self.nodes = {node_id(n): Node(node_id(n)) for n in range(1, node_count + 1)}
        self.cuts: dict[tuple[NodeId, NodeId], int] = {}  # Since when.
        self.target: tuple[NodeId, ...] | None = None
        self.leaders: dict[int, NodeId] = {}
        self.entries: dict[int, tuple[int, bytes]] = {}  # Committed, by index.
        self.chains: dict[int, int] = {}
        self.shown = 0  # The highest index an ended operation has shown.
        self.acked = 0
        self.reads_done = 0
        self.requests = itertools.count(1)
        first = sorted(self.nodes)[:voters]
        founding = Membership(tuple(first))
        entry = Entry(1, 1, EntryKind.MEMBERSHIP, encode_membership(founding))
        for name in first:
            node = self.nodes[name]
            self.open_log(node)
            node.wal._write(
                [entry_record(GROUP, entry), hard_state_record(GROUP, HardState(1))]
            )
        for node in self.nodes.values():
            node.rate = self.random.choice(faults.clock_rates)
            self.boot(node)
        for name in self.nodes:
            self.after(self.random.randrange(100), partial(self.tick, name))
        self.after(200, self.client)
        self.after(1000, self.fate)

    # Time.

    def after(self, delay_ms: int, event: Callable[[], None]) -> None:
        heapq.heappush(
            self.events, (self.now_ms + max(0, delay_ms), next(self.counter), event)
        )

    def run(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while self.events and self.events[0][0] <= end_ms:
            self.now_ms, _, event = heapq.heappop(self.events)
            event()
            self.steps += 1
        self.now_ms = end_ms

    def run_until(self, condition: Callable[[], bool], *, limit_ms: int = 30_000) -> None:
        end_ms = self.now_ms + limit_ms
        while not condition():
            if self.now_ms >= end_ms:
                raise Stuck("liveness: it did not come to pass")
            self.run(50)

    # Nodes.

    def boot(self, node: Node) -> None:
        """Start from what the disk and the state machine hold."""
        node.boot += 1
        node.up = True
        node.queue, node.writing, node.pass_due = [], None, False
        node.sending.clear()
        node.backlog, node.releasing = None, False
        node.core = node.tombstone = None
        node.contacts = Contacts()
        found = self.open_log(node).get(GROUP)
        if found is None:
            return
        if found.is_tombstone:
            node.machine = Machine()
            node.tombstone = HardState(found.term, found.vote, Damage.NEW)
            return
        restored = restore(found, node.machine.applied)
        self.start_core(node, restored.log, restored.hard_state, changed=restored.changed)

    def start_core(self, node: Node, log: Log, state: HardState, *, changed: bool) -> None:
        node.core = Core(
            group=GROUP,
            node=node.id,
            hard_state=state,
            log=log,
            membership=node.machine.applied.membership,
            options=self.options,
            random=self.random,
            is_alive=lambda other: self.is_alive(node.id, other),
            now_ms=self.clock(node),
            contacts=node.contacts,
            hard_changed=changed,
        )
        self.wake(node)

    def open_log(self, node: Node) -> dict[int, RecoveredGroup]:
        name = f"{node.id}-{node.boot}"
        node.wal = Wal(
            directory=SimulatedDisks(node.disk, Boot(name)).directory(FOLDER, create=True),
            threads=SimulatedThreads(node.disk),
            entropy=SimulatedEntropy(name),
            segment_size=SEGMENT_SIZE,
        )
        return node.wal._open().groups

    def create(self, node: Node) -> None:
        state = node.tombstone or HardState(damage=Damage.NEW)
        node.tombstone = None
        node.machine = Machine()
        self.start_core(node, Log(offset=0, offset_term=0), state, changed=True)

    def crash(self, node: Node, down_ms: int, *, power: bool | None = None) -> None:
        """Lose the power, or only the process."""
        if power is None:
            power = self.random.random() >= self.faults.kill_probability
        if node.writing is not None:
            # It came as far as the sync.
            node.disk.inject(DiskFault("*", "sync"))
            with contextlib.suppress(OSError):
                node.wal._write(node.writing)
            node.disk.heal()
        if power:
            node.disk.crash(self.random)
        else:
            node.disk.kill(self.random)
        node.up = False
        node.down_since_ms = self.now_ms
        node.core = None
        node.boot += 1
        node.backlog = None
        node.machine.crash()
        node.reads.clear()
        node.writes.clear()
        if self.random.random() < self.faults.rot_probability:
            self.rot(node)
        if self.random.random() < self.faults.wipe_probability:
            self.wipe(node)
        self.after(down_ms, lambda: None if node.up else self.boot(node))

    def betray(self, node: Node, message: Message) -> None:
        """Perhaps forget, as far as the disk lets, what was just said."""
        is_promise = (isinstance(message, VoteReply) and message.granted) or (
            isinstance(message, AppendReply) and message.accepted
        )
        chance = self.faults.betrayal_probability
        if isinstance(message, AppendReply):
            chance /= 20  # There are many.
        if not is_promise or self.random.random() >= chance:
            return
        boot = node.boot

        def crash() -> None:
            if node.boot == boot and node.up:
                self.crash(node, self.random.randrange(10, 300), power=True)

        self.after(self.random.randrange(3), crash)

    def topple(self, node: Node) -> None:
        """Perhaps let a leader die before it is of use."""
        if self.random.random() >= self.faults.leader_crash_probability:
            return
        boot = node.boot

        def crash() -> None:
            if node.boot == boot and node.up:
                self.crash(node, self.random.randrange(50, self.faults.down_ms_max))

        reign_ms_max = self.faults.reign_ms_max or 2 * self.options.election_timeout_ms
        self.after(self.random.randrange(reign_ms_max), crash)

    def rot(self, node: Node) -> None:
        """Flip a bit of the newest records that are known to have been synced."""
        if self.any_damaged() or node.synced <= DATA_OFFSET:
            return
        segment = node.disk.paths(f"{FOLDER}/segment-*")[-1]
        offset = self.random.randrange(max(DATA_OFFSET, node.synced - 1500), node.synced)
        node.disk.flip_bit(segment, offset=offset, bit=self.random.randrange(8))
        node.is_rotten = True

    def wipe(self, node: Node) -> None:
        """Lose all that a node's disk holds, unless that of another is not made good."""
        if not self.any_damaged():
            node.disk = SimulatedDisk()
            node.machine = Machine()
            node.synced = 0
            node.is_rotten = True

    def any_damaged(self) -> bool:
        """Whether what is known to rot has not been made good."""
        for node in self.nodes.values():
            if node.is_rotten and node.core is not None:
                node.is_rotten = node.core.damage is not Damage.NONE
        return any(node.is_rotten for node in self.nodes.values())

    def pause(self, node: Node, duration_ms: int) -> None:
        """Stop the process for a while; its disk and the network go on."""
        boot, node.backlog = node.boot, []

        def go_on() -> None:
            if node.boot != boot or node.backlog is None:
                return
            waiting, node.backlog = node.backlog, None
            self.random.shuffle(waiting)  # Who knows which task runs first.
            reader = self.random.randrange(len(waiting) + 1)
            for event in [*waiting[:reader], lambda: self.read(node), *waiting[reader:]]:
                if node.boot == boot:
                    event()
            if node.core is not None and node.boot == boot:
                node.core.stalled(self.clock(node))

        self.after(duration_ms, go_on)

    def waits(self, node: Node, event: Callable[[], None]) -> bool:
        """Whether `node` is paused; then the event comes later."""
        if node.backlog is None:
            return False
        node.backlog.append(event)
        return True

    def clock(self, node: Node) -> int:
        return int(self.now_ms * node.rate)

    def is_alive(self, here: NodeId, there: NodeId) -> bool:
        """A failure detector that takes half a second."""
        node = self.nodes[there]
        if not node.up and self.now_ms - node.down_since_ms > 500:
            return False
        for pair in ((here, there), (there, here)):
            if pair in self.cuts and self.now_ms - self.cuts[pair] > 500:
                return False
        return True

    def tick(self, name: NodeId) -> None:
        node = self.nodes[name]
        interval_ms = self.options.heartbeat_ms
        self.after(int(interval_ms / node.rate), lambda: self.tick(name))
        core = node.core
        if not node.up or core is None or node.backlog is not None:
            return
        for other in self.nodes:
            if other != name and not self.is_alive(name, other):
                core.peer_died(other, self.clock(node))
        if self.has_company:
            for other in sorted(self.nodes.keys() - {name}):
                self.chat(node, other)
        core.on_tick(self.clock(node))
        if self.random.random() < self.faults.flush_probability:
            node.machine.flush()
        if self.random.random() < 0.3:
            core.compact(node.machine.durable[0].index)
        self.release(node)
        self.change_membership(node)
        self.wake(node)

    def release(self, node: Node) -> None:
        """Let the oldest segment of the log go, as `worker.release_oldest` does."""
        if node.releasing or len(node.wal.sealed) <= 2:
            return
        node.releasing = True
        records = [*needed(Host(node)), node.wal.release_record()]  # type: ignore[arg-type]

        def done() -> None:
            node.wal._release()
            node.releasing = False

        self.write(node, records, done)

    def wake(self, node: Node) -> None:
        """A pass of the driver, soon."""
        if node.pass_due:
            return
        node.pass_due = True
        boot = node.boot
        self.after(self.random.randrange(2), lambda: self.serve(node, boot))

    def serve(self, node: Node, boot: int) -> None:
        if node.boot != boot or self.waits(node, lambda: self.serve(node, boot)):
            return
        node.pass_due = False
        while node.core is not None and node.core.dirty:
            core = node.core
            for effect in core.take():
                self.carry_out(node, core, effect)
            self.check(node)

    def carry_out(self, node: Node, core: Core, effect: object) -> None:
        match effect:
            case Send(to, message):
                self.send(node.id, to, message)
                self.betray(node, message)
            case Persist():
                records = []
                if effect.mended:
                    records.append(Record(GROUP, RecordType.MENDED))
                if effect.hard_state is not None:
                    records.append(hard_state_record(GROUP, effect.hard_state))
                if effect.cut is not None:
                    records.append(Record(GROUP, RecordType.TRUNCATE, index=effect.cut))
                records += [entry_record(GROUP, entry) for entry in effect.entries]
                sequence = effect.sequence
                self.write(
                    node, records, lambda: core.persisted(sequence, self.clock(node))
                )
            case Apply(entries, membership):
                node.machine.apply(entries, membership)
                core.applied(entries[-1].index, self.clock(node))
                for entry in entries:
                    self.settle_write(node, entry)
            case ReadsReady(requests):
                for request in requests:
                    self.end(node.reads.pop(request), node.machine.applied.index)
            case ReadsFailed(requests):
                for request in requests:
                    node.reads.pop(request)
            case SendSnapshot(to):
                self.send_snapshot(node, core, to)
            case RoleChanged(Role.LEADER, _, _):
                self.topple(node)
            case Removed(state):
                node.core = None
                node.tombstone = attrs.evolve(state, damage=Damage.NEW)
                self.write(
                    node,
                    [tombstone_record(GROUP, state)],
                    lambda: setattr(node, "machine", Machine()),
                )
            case _:
                pass

    # The disk.

    def write(self, node: Node, records: list[Record], done: Callable[[], None]) -> None:
        node.queue.append((records, done))
        if node.writing is None:
            self.begin_write(node)

    def begin_write(self, node: Node) -> None:
        batch, node.queue = node.queue, []
        node.writing = [record for records, _ in batch for record in records]
        slow = self.random.random() < self.faults.stall_probability
        delay_ms = 1000 if slow else self.random.randrange(self.faults.sync_ms_max + 1)
        boot = node.boot
        self.after(delay_ms, lambda: self.end_write(node, boot, batch))

    def end_write(
        self, node: Node, boot: int, batch: list[tuple[list[Record], Callable[[], None]]]
    ) -> None:
        if node.boot != boot or self.waits(node, lambda: self.end_write(node, boot, batch)):
            return
        assert node.writing is not None
        before = node.wal._segments[-1].position, node.wal._segments[-1].generation
        node.wal._write(node.writing)
        position, generation = before
        rolled = node.wal._segments[-1].generation != generation
        node.synced = DATA_OFFSET if rolled else position
        node.writing = None
        for _, done in batch:
            done()
        if node.queue:
            self.begin_write(node)
        self.wake(node)

    # The network.

    def send(self, sender: NodeId, to: NodeId, message: Message) -> None:
        faults, random = self.faults, self.random
        if (sender, to) in self.cuts or random.random() < faults.loss_probability:
            return
        copies = 2 if random.random() < faults.duplicate_probability else 1
        data = encode_payload([(GROUP, message)], wall_ms=self.now_ms)
        for _ in range(copies):
            delay_ms = random.randrange(faults.delay_ms_max + 1)
            if random.random() < 0.02:
                delay_ms += 1000 * (faults.loss_probability > 0)
            self.after(delay_ms, lambda: self.deliver(sender, to, data))

    def chat(self, node: Node, to: NodeId) -> None:
        """Say something of other groups, or lose it."""
        node.contacts.sent_ms[to] = self.clock(node)
        is_lost = self.random.random() < self.faults.loss_probability
        if (node.id, to) not in self.cuts and not is_lost:
            delay_ms = self.random.randrange(self.faults.delay_ms_max + 1)
            self.after(delay_ms, lambda: self.hear(node.id, to))

    def hear(self, sender: NodeId, to: NodeId) -> None:
        node = self.nodes[to]
        is_cut = (sender, to) in self.cuts
        if node.up and not is_cut and not self.waits(node, lambda: self.hear(sender, to)):
            node.contacts.heard_ms[sender] = self.clock(node)

    def deliver(self, sender: NodeId, to: NodeId, data: bytes) -> None:
        node = self.nodes.get(to)
        if node is None or not node.up or (sender, to) in self.cuts:
            return
        if self.waits(node, lambda: self.deliver(sender, to, data)):
            return
        ((_, message),) = decode_payload(data).messages
        if node.core is None:
            busy = node.writing is not None or node.queue
            if not isinstance(message, Append | Heartbeat | Vote) or busy:
                return
            self.create(node)
        assert node.core is not None
        node.core.on_message(sender, message, self.clock(node))
        self.wake(node)

    def send_snapshot(self, node: Node, core: Core, to: NodeId) -> None:
        if to in node.sending:
            return
        node.sending.add(to)
        machine = node.machine
        content = (machine.applied, machine.value, machine.chain, core.term)
        boot = node.boot

        def arrive() -> None:
            other = self.nodes[to]
            cut = (node.id, to) in self.cuts or not other.up or other.backlog is not None
            if cut or self.random.random() < 3 * self.faults.loss_probability:
                finish(None)
                return
            if other.core is None:
                if other.writing is not None or other.queue:
                    finish(None)
                    return
                self.create(other)
            self.write(
                other,
                [Record(GROUP, RecordType.SNAPSHOT, content[0].term, content[0].index)],
                lambda: install(other, other.core),
            )

        def install(other: Node, core: Core | None) -> None:
            wanted = core is not None and core.wants_snapshot(content[3], content[0].index)
            if not wanted or core is None or other.core is not core:
                finish(None)
                return
            other.machine = Machine(content[0], content[1], content[2])
            other.machine.flush()
            core.installed(content[0], self.clock(other))
            self.wake(other)
            finish(content[0].index)

        def finish(index: int | None) -> None:
            if node.boot == boot:
                node.sending.discard(to)
                core.snapshot_sent(to, index, self.clock(node))
                self.wake(node)

        self.after(self.random.randrange(10, 300), arrive)

    # Clients.

    def client(self) -> None:
        self.after(self.random.randrange(1, 60), self.client)
        if self.random.random() < 0.1:
            self.after(0, self.client_pause)
        node = self.random.choice(list(self.nodes.values()))
        leaders = [
            n for n in self.nodes.values() if n.core is not None and n.core.is_leader
        ]
        if leaders and self.random.random() < 0.8:
            node = self.random.choice(leaders)
        core = node.core
        if not node.up or core is None or node.backlog is not None:
            return
        if self.random.random() < 0.5:
            operation = Operation("write", self.now_ms, self.shown)
            data = f"{node.id}-{next(self.requests)}".encode() + b"." * 40
            index = core.propose([data], self.clock(node))
            if index is not None:
                node.writes[index] = (core.term, operation)
        else:
            self.read(node)
        self.wake(node)

    def read(self, node: Node) -> None:
        core = node.core
        if core is None:
            return
        operation = Operation("read", self.now_ms, self.shown)
        request = next(self.requests)
        if core.can_read_now:
            self.end(operation, node.machine.applied.index)
        elif core.read_index(request, self.clock(node)):
            node.reads[request] = operation
            self.wake(node)

    def client_pause(self) -> None:
        """Let groups fall silent now and then."""
        if self.random.random() < 0.1:
            later = [e for e in self.events if e[2] == self.client]
            for event in later:
                self.events.remove(event)
            heapq.heapify(self.events)
            self.after(self.random.randrange(500, 4000), self.client)

    def settle_write(self, node: Node, entry: Entry) -> None:
        term, operation = node.writes.pop(entry.index, (0, None))
        if operation is not None and term == entry.term:
            self.end(operation, entry.index)
            self.acked += 1

    def end(self, operation: Operation, index: int) -> None:
        operation.ended_ms, operation.index = self.now_ms, index
        self.reads_done += operation.kind == "read"
        if operation.kind == "read" and index < operation.floor:
            raise StaleRead(f"stale read: {index} after {operation.floor} was shown")
        if operation.kind == "write" and index <= operation.floor:
            raise Violation(f"write {index} before {operation.floor}, which came first")
        self.shown = max(self.shown, index)

    def change_membership(self, node: Node) -> None:
        core = node.core
        if self.target is None or core is None or not core.is_leader:
            return

        now_ms = self.clock(node)
        step = next_step(
            core.membership,
            self.target,
            is_caught_up=lambda other: core.is_caught_up(other, now_ms),
            is_heard=lambda other: core.hears(other, now_ms),
        )
        if step is Step.WAIT:
            core.wake(now_ms)
        if isinstance(step, Membership):
            core.propose_membership(step, now_ms)
        elif step is Step.DONE:
            self.target = None

    # Fate.

    def fate(self) -> None:
        """Now and then, something may go wrong."""
        self.after(self.faults.fate_ms, self.fate)
        faults, random = self.faults, self.random
        names = sorted(self.nodes)
        if random.random() < faults.crash_probability:
            node = self.nodes[random.choice(names)]
            if node.up:
                self.crash(node, random.randrange(50, faults.down_ms_max))
        if random.random() < faults.power_loss_probability:
            for node in self.nodes.values():
                if node.up:
                    self.crash(node, random.randrange(10, 500), power=True)
        if random.random() < faults.cut_probability:
            self.cut_some(random.randrange(100, faults.cut_ms_max))
        if random.random() < faults.pause_probability:
            node = self.nodes[random.choice(names)]
            if node.up and node.backlog is None:
                self.pause(node, random.randrange(100, faults.pause_ms_max))
        if random.random() < faults.abandon_probability:
            self.target = None
        if random.random() < faults.change_probability and self.target is None:
            self.target = tuple(
                sorted(random.sample(names, min(len(names), random.choice((1, 3, 3, 4)))))
            )
        if random.random() < faults.transfer_probability:
            for node in self.nodes.values():
                if node.core is not None and node.core.is_leader:
                    node.core.transfer(random.choice(names), self.clock(node))
                    self.wake(node)

    def cut_some(self, duration_ms: int) -> None:
        """Cut one node off, one direction of one link, or the nodes in two."""
        names = sorted(self.nodes)
        self.random.shuffle(names)
        kind = self.random.randrange(3)
        if kind == 0:
            pairs = [(names[0], names[1])]
        else:
            size = 1 if kind == 1 else len(names) // 2
            inner, outer = names[:size], names[size:]
            pairs = [(a, b) for a in inner for b in outer]
            pairs += [(b, a) for a, b in pairs]
        for pair in pairs:
            self.cuts.setdefault(pair, self.now_ms)

        def heal() -> None:
            for pair in pairs:
                self.cuts.pop(pair, None)

        self.after(duration_ms, heal)

    def heal(self) -> None:
        """No more faults; everybody is started."""
        self.faults = QUIET
        self.cuts.clear()
        self.target = None
        for node in self.nodes.values():
            if not node.up:
                self.boot(node)

    # Checks.

    def check(self, node: Node) -> None:
        core = node.core
        if core is None:
            return
        if core.is_leader:
            holder = self.leaders.setdefault(core.term, core.node)
            if holder != core.node:
                raise Violation(f"{holder} and {core.node} lead term {core.term}")
        log = core.log
        assert log.offset <= log.applied <= min(log.committed, log.stable)
        assert log.stable <= log.saved <= log.last_index
        for index in range(max(log.offset + 1, log.committed - 20), log.committed + 1):
            entry = log.entry(index)
            known = self.entries.setdefault(index, (entry.term, entry.data))
            if known != (entry.term, entry.data):
                raise Violation(f"{core.node} committed another entry {index}")
        machine = node.machine
        chain = self.chains.setdefault(machine.applied.index, machine.chain)
        if chain != machine.chain:
            raise Violation(f"{core.node} has another state at {machine.applied.index}")
        assert machine.applied.index == log.applied

    def leader(self) -> Core | None:
        """The leader of the highest term that is up."""
        cores = [n.core for n in self.nodes.values() if n.up and n.core is not None]
        leading = [core for core in cores if core.is_leader]
        return max(leading, key=lambda core: core.term, default=None)

    def cores(self) -> Iterator[Core]:
        for node in self.nodes.values():
            if node.core is not None:
                yield node.core

    def is_converged(self) -> bool:
        """Every member has applied all that its leader has, after a write of now."""
        leader = self.leader()
        if leader is None or not leader.has_own_commit or leader.membership.outgoing:
            return False
        names = {*leader.membership.voters, *leader.membership.learners}
        cores = [self.nodes[name].core for name in names]
        return all(
            core is not None
            and core.log.applied >= leader.log.committed - 3
            and core.damage is Damage.NONE
            for core in cores
        )
