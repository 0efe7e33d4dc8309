"""Many Raft groups on one node: the cores, their log, their state machines, the wire.

All work is done in *passes*. A pass takes everything that has come since the last one,
steps the cores, and carries out what they want, without waiting for anything:

    payloads, ticks ----.                     .--> one payload a peer (sent at once)
    proposals, reads ---+--> cores --effects--+--> records for the WAL --> [writer] --.
    "it is durable" ----'       ^             '--> state machines --> answers         |
              ^                 '------ applied -----------'                          |
              '-----------------------------------------------------------------------'

The writer is a task of its own: one write and one sync for all groups' records that waited.
So what is sent at once (heartbeats, a leader's appends) waits for no slow disk (R15).
Batches form by what has arrived when we get to it; only proposals wait for the write under
way, where that is brief (`pace`). What must be durable before it is said waits in the core.

A pass has no await inside, so cores need no lock. An error of the WAL or of a state machine
ends `run`, and must end the process: what the disk holds then, only a restart finds out.
Slow deeds (snapshots, letting segments go) are in `worker`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from random import Random
from typing import Protocol

import attrs
import structlog
import trio

from objstore import metrics
from objstore.config import RaftConfig
from objstore.errors import (
    Conflict,
    InvalidRequest,
    OutOfSpace,
    RemoteProtocolError,
    Unavailable,
)
from objstore.frozen import frozen
from objstore.host.clock import Clock
from objstore.ids import NodeId
from objstore.limits import ENTRY_SIZE_MAX, SLOT_COUNT
from objstore.raft.answers import Answer, Signal
from objstore.raft.contacts import Contacts
from objstore.raft.core import Core
from objstore.raft.effects import (
    Apply,
    DamageChanged,
    Effect,
    MembershipChanged,
    Persist,
    ReadsFailed,
    ReadsReady,
    Removed,
    Role,
    RoleChanged,
    Send,
    SendSnapshot,
)
from objstore.raft.errors import NotLeader
from objstore.raft.hard_state import Damage, HardState
from objstore.raft.log import Log
from objstore.raft.membership import Step, next_step
from objstore.raft.messages import (
    Append,
    Heartbeat,
    Message,
    Wake,
    decode_payload,
    encode_membership,
    encode_payload,
)
from objstore.raft.options import Options
from objstore.raft.pace import Pace
from objstore.raft.recovery import (
    entry_record,
    hard_state_record,
    restore,
    tombstone_record,
)
from objstore.raft.replica import Proposal, Replica
from objstore.raft.state_machine import (
    Entry,
    EntryKind,
    Membership,
    StateMachine,
    sorted_nodes,
)
from objstore.raft.wal import MARK, Recovered, Wal
from objstore.raft.wal_format import Record, RecordType
from objstore.raft.worker import SnapshotReceivers, SnapshotSenders, release_oldest
from objstore.units import MiB

log = structlog.get_logger()

_GROUPS_MAX = SLOT_COUNT + 1  # Shards may be split until each has one slot.
_WRITE_SIZE_MAX = 8 * MiB  # One sync; more waits for the next.
_APPLIES_PER_PASS = 4  # Batches of one group, so that no group starves the others.
_MESSAGE_OVERHEAD = 64  # Of a message, and of an entry, in a payload; about.
_ENTRY_OVERHEAD = 16


class RaftTransport(Protocol):
    """How nodes reach each other."""

    def send(self, to: NodeId, payload: bytes) -> None:
        """Send, or lose it: never waits, never raises."""
        ...

    async def call(self, to: NodeId, payload: bytes) -> bytes:
        """A bulk call to the other's `RaftHost.on_call`.  Raises Unavailable."""
        ...


@frozen
class FollowerStatus:
    match: int  # The log agrees, durably, up to here.
    stage: str  # "probe", "replicate" or "snapshot".
    heard_ms: int  # How long ago it was last heard.
    damaged: bool


@frozen
class GroupStatus:
    """One group as this node sees it."""

    group: int
    role: Role
    term: int
    leader: NodeId | None
    last_index: int
    log_entries: int  # In memory: those that a follower can have without a snapshot.
    commit_index: int
    applied_index: int
    membership: Membership
    followers: dict[NodeId, FollowerStatus]  # On the leader: all members but itself.
    damaged: bool  # It has lost something, and does not vote until mended.
    quiescent: bool
    # Own wall clock minus the lower median of the voters' clocks, as heard.
    clock_offset_ms: int


@frozen
class _Write:
    records: Sequence[Record]
    size: int
    done: Callable[[], None]


@attrs.define(eq=False)
class _Outgoing:
    """What one peer is to be sent after this pass."""

    messages: list[tuple[int, Message]]
    size: int = 0  # About.


def _nobody_preferred(group: int) -> NodeId | None:
    del group
    return None


def _always_alive(node: NodeId) -> bool:
    del node
    return True


def _never_unfit(node: NodeId) -> bool:
    del node
    return False


class Room(Protocol):
    """What is known of the space left for log and state machines."""

    @property
    def is_full(self) -> bool:
        """Another had better lead."""
        ...

    @property
    def is_brimful(self) -> bool:
        """No entry must be taken at all."""
        ...


@frozen
class _EndlessRoom:
    is_full: bool = False
    is_brimful: bool = False


class RaftHost:
    """All groups of one node."""

    def __init__(
        self,
        *,
        node: NodeId,
        wal: Wal,
        machines: Callable[[int], StateMachine],
        transport: RaftTransport,
        random: Random,
        clock: Clock,
        config: RaftConfig,
        preferred_leader: Callable[[int], NodeId | None] = _nobody_preferred,
        peer_alive: Callable[[NodeId], bool] = _always_alive,
        peer_unfit: Callable[[NodeId], bool] = _never_unfit,
        room: Room | None = None,
        on_pace: Callable[[], None] = lambda: None,
        flush: Callable[[], Awaitable[None]] | None = None,
        options: Options | None = None,
    ) -> None:
        """Do nothing yet.

        machines: the state machine of a group; asked once per replica made here.
        preferred_leader: who should lead a group that this node leads; None: no matter.
        peer_alive: the failure detector's word; only whether idle groups keep silent
            rests on it, never safety.
        peer_unfit: whether a peer says that its disk is slow or full: it should not lead.
        on_pace: called when `is_slow` has changed.
        flush: makes the state machines durable, so that old segments of the WAL can go;
            asked for when what they hold becomes too much to be written again.
        """
        self.node = node
        self.options = options if options is not None else Options.of(config)
        self.wal = wal
        self.transport = transport
        self.random = random
        self.flush = flush
        self._machines = machines
        self._clock = clock
        self._preferred_leader = preferred_leader
        self._peer_alive = peer_alive
        self._peer_unfit = peer_unfit
        self._room = room if room is not None else _EndlessRoom()
        self._on_pace = on_pace
        self._pace = Pace(self.options)
        self._replicas: dict[int, Replica] = {}
        self._tombstones: dict[int, HardState] = {}
        self._destroying: set[int] = set()
        self._clocks_ms: dict[NodeId, float] = {}  # Wall minus our monotonic clock.
        self._contacts = Contacts()
        self._inbox: deque[tuple[NodeId, bytes]] = deque()
        self._inbox_size = 0
        self._touched: dict[int, Replica] = {}
        self._out: dict[NodeId, _Outgoing] = {}
        self._writes: deque[_Write] = deque()
        self._writes_size = 0
        self._write_ended_ms = 0
        self._wanted = Signal()
        self._is_writing = False  # One of the workers waits for the drive.
        self._tick_due_ms = 0
        self._tick_scope = trio.CancelScope()
        self._peers: frozenset[NodeId] | None = None  # Members of groups; None: unknown.
        self._slow_tick_due_ms = 0
        self._balanced_ms = 0
        self._request = 0
        self._running = False
        self._nursery: trio.Nursery | None = None
        self._senders = SnapshotSenders(self)
        self._receivers = SnapshotReceivers(self)
        self._busy: set[Callable[[], Awaitable[None]]] = set()

    # Life.

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Recover all groups, then serve until cancelled.

        Raises OSError or CorruptData from the WAL or a state machine: the process must
        end. If cancelled, the log ends as after a crash, with what was acknowledged.
        """
        recovered = await self.wal.open()
        now_ms = self.now_ms()
        self._tick_due_ms = now_ms + self.options.heartbeat_ms
        self._slow_tick_due_ms = self._next_slow_tick_ms(now_ms)
        self._balanced_ms = now_ms
        self._recover(recovered)
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._tick_loop)
                nursery.start_soon(self._work)
                nursery.start_soon(self._work)
                self._wanted.set()
                try:
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    # Before it closes: one that is closed takes no work.
                    self._nursery = None
        finally:
            self._running = False
            self._fail_everything()
            with trio.CancelScope(shield=True):
                await self.wal.close()

    def _recover(self, recovered: Recovered) -> None:
        for finding in recovered.findings:
            if finding.kind == "cut":
                log.warning(
                    "raft.wal_tail_cut", segment=finding.segment, offset=finding.offset
                )
            else:
                log.error(
                    "raft.wal_damaged",
                    segment=finding.segment,
                    offset=finding.offset,
                    group=finding.group,
                    reason=finding.kind,
                )
        for group, found in sorted(recovered.groups.items()):
            machine = self._machines(group)
            if found.is_tombstone:
                # A crash may have come between the tombstone and this.
                if machine.applied().index > 0:
                    machine.destroy()
                self._tombstones[group] = HardState(found.term, found.vote, Damage.NEW)
                continue
            restored = restore(found, machine.applied())
            if restored.hard_state.damage > Damage.NEW:
                log.error(
                    "raft.replica_damaged",
                    group=group,
                    reason=restored.hard_state.damage.name.lower(),
                )
            self._add(
                group,
                machine,
                restored.log,
                restored.hard_state,
                changed=restored.changed,
            )

    def _add(
        self,
        group: int,
        machine: StateMachine,
        tail: Log,
        hard_state: HardState,
        *,
        changed: bool,
    ) -> Replica:
        core = Core(
            group=group,
            node=self.node,
            hard_state=hard_state,
            log=tail,
            membership=machine.applied().membership,
            options=self.options,
            random=self.random,
            is_alive=self._peer_alive,
            now_ms=self.now_ms(),
            contacts=self._contacts,
            hard_changed=changed,
        )
        replica = Replica(group, core, machine)
        self._replicas[group] = replica
        self._peers = None
        self._tombstones.pop(group, None)
        self._touch(replica)
        return replica

    def _fail_everything(self) -> None:
        """Nobody waits for a host that has stopped."""
        for replica in self._replicas.values():
            replica.fail_all()
        self._writes.clear()

    async def found(self, groups: Iterable[int]) -> None:
        """Make each group with this node as its only voter; returns once it leads them.

        For the first node of a cluster. Groups that exist are left as they are. If
        cancelled, or after a crash, some of the groups exist: call it again.
        """
        wanted = [group for group in groups if self._is_unfounded(group)]
        membership = Membership(voters=(self.node,))
        entry = Entry(1, 1, EntryKind.MEMBERSHIP, encode_membership(membership))
        hard_state = HardState(1, self.node)
        records: list[Record] = []
        for group in wanted:
            # The entry first: torn between the two, the group is founded all the same.
            records.append(entry_record(group, entry))
            records.append(hard_state_record(group, hard_state))
        if records:
            await self.make_durable(records)
        for group in wanted:
            if not self._is_unfounded(group):
                continue
            tail = Log(offset=0, offset_term=0, entries=[entry])
            self._add(group, self._machines(group), tail, hard_state, changed=False)
        for group in wanted:
            replica = self._replicas.get(group)
            if replica is None:
                raise NotLeader(None)
            alone = ((), (self.node,))  # Empty until the first entry is applied.
            while replica.core.membership.voters in alone:
                if replica.core.has_own_commit:
                    break
                await replica.moved()
                if not self._running:
                    raise NotLeader(None)

    def _is_unfounded(self, group: int) -> bool:
        """Whether nothing is here of a group, or a founding was torn before its entry.

        Not where a leader has spoken of it, or it was taken from here: it lives elsewhere.
        """
        replica = self._replicas.get(group)
        if replica is None:
            return group not in self._tombstones
        core = replica.core
        if core.damage is not Damage.NONE:
            return False
        return core.log.last_index == 0 and not core.membership.members

    # Questions.

    def groups(self) -> list[int]:
        """The groups this node has a replica of."""
        return sorted(self._replicas)

    def leader(self, group: int) -> NodeId | None:
        replica = self._replicas.get(group)
        return None if replica is None else replica.core.leader

    def is_leader(self, group: int) -> bool:
        replica = self._replicas.get(group)
        return replica is not None and replica.core.is_leader

    def status(self, group: int) -> GroupStatus | None:
        """All there is to know of a group here; None where there is no replica."""
        replica = self._replicas.get(group)
        if replica is None:
            return None
        core, now_ms = replica.core, self.now_ms()
        return GroupStatus(
            group=group,
            role=core.role,
            term=core.term,
            leader=core.leader,
            last_index=core.log.last_index,
            log_entries=core.log.last_index - core.log.offset,
            commit_index=core.log.committed,
            applied_index=core.log.applied,
            membership=core.membership,
            followers={
                node: FollowerStatus(
                    match=progress.match,
                    stage=progress.stage.value,
                    heard_ms=now_ms - progress.heard_ms,
                    damaged=progress.damage > Damage.NEW,
                )
                for node, progress in core.progress.items()
            },
            damaged=core.damage > Damage.NEW,
            quiescent=core.quiescent,
            clock_offset_ms=self.clock_offset_ms(group),
        )

    def clock_offset_ms(self, group: int) -> int:
        """Own wall clock minus the median of the voters' clocks, as heard.

        Of an even number the lower one: a clock that is ahead does more harm than one
        that is behind.  0 where there is no replica.
        """
        replica = self._replicas.get(group)
        nodes = () if replica is None else replica.core.membership.voters
        own_ms = self._clock.utc_now_ms() - trio.current_time() * 1000
        # (Each proposal asks: `median_low` sorts as well, and takes twice as long.)
        known_ms = [self._clocks_ms[n] for n in nodes if n in self._clocks_ms]
        known_ms.append(own_ms)
        known_ms.sort()
        return round(own_ms - known_ms[(len(known_ms) - 1) // 2])

    # Requests.

    async def propose(
        self, group: int, data: bytes, *, timeout_ms: int | None = None
    ) -> object:
        """Replicate `data`, apply it, and return what the state machine made of it.

        timeout_ms: noticed within a heartbeat of it; None: wait for as long as it takes.
        Raises NotLeader (nothing happened), Unavailable (with `unknown` where it may
        happen all the same), OutOfSpace, InvalidRequest (larger than ENTRY_SIZE_MAX). If
        cancelled, it may happen or not.
        """
        return await self.begin_proposal(group, data, timeout_ms=timeout_ms).wait()

    def begin_proposal(
        self, group: int, data: bytes, *, timeout_ms: int | None = None
    ) -> Answer:
        """As `propose`, without waiting; of no effect where nobody waits for the answer."""
        replica, options = self._leading(group), self.options
        size = len(data)
        if size > ENTRY_SIZE_MAX:
            raise InvalidRequest(f"an entry of {size} bytes is too large")
        if self.wal.is_full:
            raise OutOfSpace("no room for the write-ahead log to grow")
        if self.wal.size > options.wal_size_max:
            raise Unavailable("the state machines are too slow to let old log files go")
        if (
            len(replica.proposals) >= options.proposals_max
            or replica.proposals_size + size > options.proposals_size_max
        ):
            raise Unavailable(f"group {group} has too many proposals waiting")
        if self._writes_size > options.writes_size_max:
            raise Unavailable("the write-ahead log is too slow for more")
        now = trio.current_time()
        now_ms = round(now * 1000)
        answer = Answer(None if timeout_ms is None else now_ms + timeout_ms)
        replica.propose(Proposal(data, answer, now))
        self._touched[group] = replica
        # No pass for what would wait there; but one after a silence: then there are ticks
        # again, which see what is late.
        is_silent = self._tick_due_ms > now_ms + options.heartbeat_ms
        if is_silent or not self._pace.ends_soon(now_ms):
            self._wanted.set()
        return answer

    def serves_reads(self, group: int) -> bool:
        """Whether our replica is likely to pass a `read_barrier` soon."""
        replica = self._replicas.get(group)
        return replica is not None and self._serves_reads(replica.core)

    def _serves_reads(self, core: Core) -> bool:
        return (
            core.can_serve_reads
            and core.apply_lag < self.options.apply_entries_max
            and not self._is_disk_slow()
            # What a follower takes no more it will not have applied.
            and (core.is_leader or not self.has_no_room)
        )

    def _is_disk_slow(self) -> bool:
        """Nothing is applied before it is durable here."""
        if not self._pace.is_writing:
            return self._pace.is_slow
        limit_ms = self.options.follower_read_ms // 2
        return self._pace.is_slow or self._pace.under_way_ms(self.now_ms()) >= limit_ms

    async def read_barrier(self, group: int, *, timeout_ms: int | None = None) -> None:
        """Return once our applied state shows everything acknowledged before the call.

        A follower asks its leader how far that is, and gives up soon, or at once where
        it is behind: whoever waits may ask the leader himself.  Raises NotLeader,
        Unavailable.
        """
        replica = self._replicas.get(group)
        if replica is None or not self._running:
            raise NotLeader(None)
        core = replica.core
        if core.is_leader:
            if core.can_read_now:
                await trio.lowlevel.checkpoint()
                if core.can_read_now:
                    return
        elif self._serves_reads(core):
            limit_ms = self.options.follower_read_ms
            timeout_ms = limit_ms if timeout_ms is None else min(timeout_ms, limit_ms)
        else:
            self._leading(group)  # Which it does not: this raises, and may rouse it.
        if replica.reads_waiting >= self.options.reads_max:
            raise Unavailable(f"group {group} has too many reads waiting")
        if replica.next_read is None:
            due_ms = None if timeout_ms is None else self.now_ms() + timeout_ms
            replica.next_read = Answer(due_ms)
            self._touch(replica)
        replica.reads_waiting += 1
        try:
            await replica.next_read.wait()
        finally:
            replica.reads_waiting -= 1

    async def change_membership(self, group: int, voters: Sequence[NodeId]) -> None:
        """Make `voters` the voters of the group; returns when they are.

        New ones become learners first and vote once they have caught up. May be called
        again for the same voters, by anyone, at any time. Raises NotLeader; Conflict while
        another change is under way. If cancelled, what has been begun stays: a joint
        membership is left by itself, learners remain until the next change.
        """
        target = sorted_nodes(voters)
        assert target, "a group has voters"
        replica = self._leading(group)
        if replica.change not in (None, target):
            raise Conflict(f"group {group}'s membership is being changed already")
        replica.change = target
        replica.changes_waiting += 1
        try:
            while not self._change_step(replica, target):
                await replica.moved()
                self._leading(group)
        finally:
            replica.changes_waiting -= 1
            if replica.changes_waiting == 0:
                replica.change = None

    def _change_step(self, replica: Replica, target: tuple[NodeId, ...]) -> bool:
        """Propose the next step if it is time; says whether there is none left."""
        core, now_ms = replica.core, self.now_ms()
        step = next_step(
            core.membership,
            target,
            is_caught_up=lambda node: core.is_caught_up(node, now_ms),
            is_heard=lambda node: core.hears(node, now_ms),
        )
        if step is Step.WAIT and core.quiescent:
            core.wake(now_ms)  # In silence nobody is heard.
            self._touch(replica)
        if not isinstance(step, Membership):
            return step is Step.DONE
        if core.propose_membership(step, now_ms) is not None:
            log.info(
                "raft.membership_proposed",
                group=replica.group,
                voters=step.voters,
                outgoing=step.outgoing,
                learners=step.learners,
            )
            self._touch(replica)
        return False

    async def transfer(self, group: int, to: NodeId) -> None:
        """Hand leadership to voter `to`; returns once this node does not lead any more.

        Raises NotLeader, Unavailable where `to` cannot take it. If cancelled, it may
        happen or not.
        """
        replica = self._leading(group)
        if to == self.node:
            return
        term = replica.core.term
        if not replica.core.transfer(to, self.now_ms()):
            raise Unavailable(f"{to} cannot lead group {group} now")
        self._touch(replica)
        while replica.core.is_leader and replica.core.term == term:
            if replica.core.transfer_to is None:
                raise Unavailable(f"{to} did not take over group {group} in time")
            await replica.moved()
            if not self._running:
                raise NotLeader(None)

    def knock(self, group: int, at: NodeId) -> None:
        """Show our replica of `group` to `at`, who may lead it.

        A leader that does not count us among its members says so, and the replica is
        destroyed: its old members may all have gone, so that nobody else would tell it.
        """
        replica = self._replicas.get(group)
        if replica is not None and at != self.node:
            self._queue_send(group, at, Wake(replica.core.term))
            self._wanted.set()

    def on_peer_silent(self, node: NodeId) -> None:
        """The failure detector suspects `node`, or holds it for dead.

        Silent groups that it leads look for it now: if it lives it says so, and if not
        they need not wait until that is certain.
        """
        now_ms = self.now_ms()
        for replica in self._replicas.values():
            if replica.core.leader == node:
                replica.core.rouse(now_ms)
                self._touch(replica)
        self._tick_at(min(self._tick_due_ms, now_ms))

    def _leading(self, group: int) -> Replica:
        replica = self._replicas.get(group)
        if replica is None or not self._running:
            raise NotLeader(None)
        core = replica.core
        if not core.is_leader:
            if core.quiescent:
                # Whoever asks here may have found the leader dead, long before the
                # failure detector does.
                core.rouse(self.now_ms())
                self._touch(replica)
            raise NotLeader(core.leader)
        return replica

    # From the transport.

    def on_payload(self, sender: NodeId, payload: bytes) -> None:
        """Take a payload that `sender` gave to its transport's `send`.  Never waits."""
        options = self.options
        size = self._inbox_size + len(payload)
        if (
            not self._running
            or len(self._inbox) >= options.inbox_payloads_max
            or size > options.inbox_size_max
        ):
            return  # As if the network had lost it.
        self._inbox.append((sender, payload))
        self._inbox_size = size
        self._wanted.set()

    async def on_call(self, sender: NodeId, payload: bytes) -> bytes:
        """Answer a call that `sender` gave to its transport's `call`.

        Raises RemoteProtocolError, Unavailable. If cancelled, the snapshot on its way in
        is put in place or not.
        """
        if not self._running:
            raise Unavailable("this node's groups are not running")
        return await self._receivers.on_call(sender, payload)

    # Passes.

    def now_ms(self) -> int:
        return round(trio.current_time() * 1000)

    def _touch(self, replica: Replica) -> None:
        """Have the next pass look at `replica`, if it is not removed meanwhile."""
        if self._replicas.get(replica.group) is replica:
            self._touched[replica.group] = replica
            self._wanted.set()

    async def _work(self) -> None:
        """Make passes; two do it by turns, as one of them waits for the drive.

        So what a pass has for the log is on its way to the drive in the same step.
        """
        while True:
            await self._wanted.wait()
            self._pass()
            if self._writes and not self._is_writing:
                await self._write_all()

    async def _tick_loop(self) -> None:
        while True:
            due_s = self._tick_due_ms / 1000
            with trio.CancelScope(deadline=due_s) as self._tick_scope:
                await trio.sleep_forever()
            if self.now_ms() >= self._tick_due_ms:  # Else a pass has ticked meanwhile.
                self._pass()
                if self._writes:
                    self._wanted.set()

    def _pass(self) -> None:
        now = trio.current_time()
        now_ms = round(now * 1000)
        # Before the clock: after a pause, what was said meanwhile comes first.
        if self._inbox:
            self._take_inbox(now)
        if now_ms >= self._tick_due_ms:
            self._tick(now_ms)
        touched, self._touched = self._touched, {}
        for group, replica in touched.items():
            if self._replicas.get(group) is replica:
                self._serve(replica, now_ms)
        if self._out:
            self._flush_sends(now_ms)
        if self._tick_due_ms > now_ms + self.options.heartbeat_ms:
            due_ms = self._tick_due(touched.values(), now_ms)
            if due_ms < self._tick_due_ms:
                self._tick_at(due_ms)

    def _take_inbox(self, now: float) -> None:
        now_ms = round(now * 1000)
        inbox, self._inbox = self._inbox, deque()
        self._inbox_size = 0
        for sender, data in inbox:
            try:
                payload = decode_payload(data)
            except RemoteProtocolError as error:
                log.warning("raft.payload_refused", peer=sender, reason=str(error))
                continue
            self._clocks_ms[sender] = payload.wall_ms - now * 1000
            self._contacts.heard_ms[sender] = now_ms
            for group, message in payload.messages:
                replica = self._replicas.get(group)
                if replica is None:
                    # Not for a vote, which a new replica may not give: it may have been
                    # long on its way, to a node that the group has left.
                    if not isinstance(message, Append | Heartbeat):
                        continue
                    replica = self.create(group)
                    if replica is None:
                        continue
                if type(message) is Append and message.entries and self._has_no_room():
                    continue
                core = replica.core
                core.on_message(sender, message, now_ms)
                if core.dirty or replica.watch is not None:
                    self._touched[group] = replica

    def _has_no_room(self) -> bool:
        """Whether entries must be dropped, as if lost: the log keeps its room for votes."""
        return self.has_no_room or self.wal.size > 2 * self.options.wal_size_max

    @property
    def has_no_room(self) -> bool:
        """Whether entries and snapshots can be taken no more."""
        return self.wal.is_full or self._room.is_brimful

    def create(self, group: int) -> Replica | None:
        """An empty replica of a group that somebody else speaks of."""
        if group in self._destroying or len(self._replicas) >= _GROUPS_MAX:
            return None
        replica = self._replicas.get(group)
        if replica is not None:
            return replica
        machine = self._machines(group)
        applied = machine.applied()
        hard_state = self._tombstones.get(group, HardState(damage=Damage.NEW))
        if applied.index > 0:
            # The state machine is of a group that the WAL has forgotten.
            hard_state = HardState(applied.term, None, Damage.VOTE)
            log.error("raft.replica_damaged", group=group, reason="vote")
        log.info("raft.replica_created", group=group)
        tail = Log(offset=applied.index, offset_term=applied.term)
        return self._add(group, machine, tail, hard_state, changed=True)

    def _serve(self, replica: Replica, now_ms: int) -> None:
        core = replica.core
        if replica.proposals:
            if not core.is_leader:
                replica.fail_proposals()
            elif self._pace.ends_soon(now_ms):
                self._touched[replica.group] = replica  # For the pass that its end makes.
            else:
                waiting = len(replica.proposals)
                replica.append_proposals(now_ms, size_max=self.options.uncommitted_size_max)
                if 0 < len(replica.proposals) < waiting:
                    self._touch(replica)
        if replica.next_read is not None:
            self._begin_read(replica, now_ms)
        passes = 0
        while core.dirty:
            if passes == _APPLIES_PER_PASS:
                self._touch(replica)
                break
            passes += 1
            for effect in core.take():
                # What an entry leads to, first.
                if type(effect) is Send:
                    self._queue_send(replica.group, effect.to, effect.message)
                elif type(effect) is Persist:
                    self._queue_persist(replica, effect)
                elif type(effect) is Apply:
                    self._apply(replica, effect, now_ms)
                else:
                    self._carry_out(replica, effect, now_ms)
        if replica.watch is not None:
            replica.note_moved()

    def _begin_read(self, replica: Replica, now_ms: int) -> None:
        answer, replica.next_read = replica.next_read, None
        assert answer is not None
        if not answer.is_awaited:
            return
        self._request += 1
        if replica.core.read_index(self._request, now_ms):
            replica.reads[self._request] = answer
        else:
            answer.fail(partial(NotLeader, replica.core.leader))

    # Effects.

    def _carry_out(self, replica: Replica, effect: Effect, now_ms: int) -> None:
        match effect:
            case ReadsReady(requests):
                for request in requests:
                    answer = replica.reads.pop(request, None)
                    if answer is not None:  # Else it was given up before.
                        answer.succeed()
            case ReadsFailed(requests):
                replica.fail_reads(requests)
            case RoleChanged():
                self._note_role(replica, effect, now_ms)
            case SendSnapshot(to):
                self._senders.start(replica, to)
            case MembershipChanged(membership):
                self._peers = None
                log.info(
                    "raft.membership_changed",
                    group=replica.group,
                    voters=membership.voters,
                    outgoing=membership.outgoing,
                    learners=membership.learners,
                )
            case DamageChanged(damage):
                self._note_damage(replica, damage)
            case Removed(hard_state):
                self._remove(replica, hard_state)

    def _queue_send(self, group: int, to: NodeId, message: Message) -> None:
        out = self._out.get(to)
        if out is None:
            out = self._out[to] = _Outgoing([])
        out.messages.append((group, message))
        size = out.size + _MESSAGE_OVERHEAD
        if type(message) is Append:
            for entry in message.entries:
                size += len(entry.data) + _ENTRY_OVERHEAD
        out.size = size
        if size >= self.options.payload_size_max:
            del self._out[to]
            wall_ms = self._clock.utc_now_ms()
            self.transport.send(to, encode_payload(out.messages, wall_ms=wall_ms))

    def _flush_sends(self, now_ms: int) -> None:
        wall_ms = self._clock.utc_now_ms()
        everybody, self._out = self._out, {}
        for to, out in everybody.items():
            self._contacts.sent_ms[to] = now_ms
            self.transport.send(to, encode_payload(out.messages, wall_ms=wall_ms))

    def _queue_persist(self, replica: Replica, effect: Persist) -> None:
        group = replica.group
        records: list[Record] = []
        if effect.mended:
            records.append(Record(group, RecordType.MENDED))
        if effect.hard_state is not None:
            records.append(hard_state_record(group, effect.hard_state))
        if effect.cut is not None:
            records.append(Record(group, RecordType.TRUNCATE, index=effect.cut))
        for entry in effect.entries:
            records.append(entry_record(group, entry))  # noqa: PERF401 - mostly it is one.
        self._queue_write(records, partial(self._note_durable, replica, effect.sequence))

    def _queue_write(self, records: Sequence[Record], done: Callable[[], None]) -> None:
        size = 0
        for record in records:
            size += record.size
        self._writes.append(_Write(records, size, done))
        self._writes_size += size

    def _note_durable(self, replica: Replica, sequence: int) -> None:
        replica.core.persisted(sequence, self._write_ended_ms)
        if replica.core.dirty or replica.watch is not None:
            self._touched[replica.group] = replica

    def _apply(self, replica: Replica, effect: Apply, now_ms: int) -> None:
        entries = effect.entries
        results = replica.machine.apply(entries, effect.membership)
        replica.core.applied(entries[-1].index, now_ms)
        if not replica.appended:
            return
        now = trio.current_time()
        for entry, result in zip(entries, results, strict=True):
            proposal = replica.settle(entry, result)
            if proposal is not None:
                metrics.RAFT_COMMIT_SECONDS.observe(now - proposal.began)

    def _note_role(self, replica: Replica, effect: RoleChanged, now_ms: int) -> None:
        if effect.role is Role.LEADER:
            replica.resume_appended()
            log.info("raft.leader_elected", group=replica.group, term=effect.term)
            return
        if effect.role is Role.CANDIDATE:
            metrics.RAFT_ELECTIONS.inc()
            log.info("raft.election_begun", group=replica.group, term=effect.term)
        replica.fail_proposals()
        if replica.appended and replica.lost_ms is None:
            replica.lost_ms = now_ms
            log.info(
                "raft.leadership_lost",
                group=replica.group,
                term=effect.term,
                peer=effect.leader,
            )

    def _note_damage(self, replica: Replica, damage: Damage) -> None:
        if damage is Damage.NONE:
            log.info("raft.replica_mended", group=replica.group)
        else:
            log.error(
                "raft.replica_damaged", group=replica.group, reason=damage.name.lower()
            )

    def _remove(self, replica: Replica, hard_state: HardState) -> None:
        """Destroy a replica that is no member: its tombstone first."""
        group = replica.group
        log.info("raft.replica_removed", group=group, term=hard_state.term)
        del self._replicas[group]
        self._peers = None
        replica.fail_all()
        self._receivers.forget(group)
        self._destroying.add(group)
        self._tombstones[group] = attrs.evolve(hard_state, damage=Damage.NEW)

        def destroy() -> None:
            replica.machine.destroy()
            self._destroying.discard(group)

        self._queue_write([tombstone_record(group, hard_state)], destroy)

    # The WAL.

    async def make_durable(self, records: Sequence[Record]) -> None:
        """Write records behind all that waits; returns when they are durable."""
        answer = Answer()
        self._queue_write(records, answer.succeed)
        self._wanted.set()
        await answer.wait()

    async def _write_all(self) -> None:
        """Write what waits, and what comes meanwhile, and see to what that leads to."""
        self._is_writing = True
        try:
            now = trio.current_time()
            while self._writes:
                now = await self._write_batch(now)
                self._pass()  # Also for what waited for the write to end.
        finally:
            self._is_writing = False

    async def _write_batch(self, began: float) -> float:
        """One write and one sync for what waits; returns when it was done."""
        batch: list[_Write] = []
        records: list[Record] = []
        size = 0
        while self._writes and size < _WRITE_SIZE_MAX:
            write = self._writes.popleft()
            batch.append(write)
            records += write.records
            size += write.size
            self._writes_size -= write.size
        self._pace.began(round(began * 1000))
        await self.wal.write(records)
        ended = trio.current_time()
        self._write_ended_ms = round(ended * 1000)
        self._pace.ended(self._write_ended_ms)
        metrics.RAFT_SYNC_SECONDS.observe(ended - began)
        for write in batch:
            write.done()
        return ended

    # The clock.

    def _tick(self, now_ms: int) -> None:
        late_ms = now_ms - self._tick_due_ms + self.options.heartbeat_ms
        stalled = late_ms > self.options.election_timeout_ms // 2
        dead = self._dead_peers()
        for replica in list(self._replicas.values()):
            core = replica.core
            if stalled:
                core.stalled(now_ms)
            for node in dead:
                core.peer_died(node, now_ms)
            if core.due_ms <= now_ms:
                core.on_tick(now_ms)
            if replica.reads or replica.appended or replica.proposals:
                replica.fail_late(now_ms)
            if core.dirty:
                self._touched[replica.group] = replica
            if (
                replica.lost_ms is not None
                and now_ms - replica.lost_ms >= self.options.election_timeout_ms
            ):
                replica.fail_appended()
        if now_ms >= self._slow_tick_due_ms:
            self._slow_tick_due_ms = self._next_slow_tick_ms(now_ms)
            self._tick_slowly(now_ms)
        self._tick_due_ms = self._tick_due(self._replicas.values(), now_ms)

    def _tick_due(self, replicas: Iterable[Replica], now_ms: int) -> int:
        """When these need a tick: a heartbeat from now, unless all of them are silent."""
        soon_ms = now_ms + self.options.heartbeat_ms
        due_ms = self._slow_tick_due_ms
        for replica in replicas:
            if not replica.core.quiescent or replica.appended or replica.proposals:
                return soon_ms
            due_ms = min(due_ms, replica.core.due_ms)
            for answer in replica.reads.values():
                if answer.due_ms is not None:
                    due_ms = min(due_ms, answer.due_ms)
        return max(due_ms, soon_ms)

    def _next_slow_tick_ms(self, now_ms: int) -> int:
        """As `host.clock.next_beat_s`, about once a second."""
        interval_ms = 10 * self.options.heartbeat_ms
        return (now_ms // interval_ms + 1) * interval_ms

    def _tick_at(self, due_ms: int) -> None:
        self._tick_due_ms = due_ms
        self._tick_scope.deadline = due_ms / 1000

    def _dead_peers(self) -> list[NodeId]:
        if self._peers is None:
            groups = {r.core.membership.members for r in self._replicas.values()}
            self._peers = frozenset().union(*groups)
        peers = self._peers - {self.node}
        return sorted(node for node in peers if not self._peer_alive(node))

    def _tick_slowly(self, now_ms: int) -> None:
        """What needs doing about once a second."""
        for replica in self._replicas.values():
            replica.core.compact(replica.machine.durable_index())
        self._receivers.drop_idle(now_ms)
        idle_ms = now_ms - self._write_ended_ms
        idle = not self._writes and not self._pace.is_writing
        if idle and idle_ms >= self.options.election_timeout_ms and self.wal.wants_mark:
            self._queue_write([MARK], lambda: None)
        if self._pace.look(now_ms):
            self._tell_pace()
        if self.is_slow:
            self._hand_over_all(now_ms, "the log's disk is slow")
        elif self._room.is_full:
            self._hand_over_all(now_ms, "the data folder is full")
        elif now_ms - self._balanced_ms >= self.options.balance_interval_ms:
            self._balanced_ms = now_ms
            self._balance(now_ms)
        # Apart, as a flush that hangs must not leave the log without a spare.
        self._start_alone(self.wal.prepare)
        self._start_alone(self._release_segments)

    def _start_alone(self, deed: Callable[[], Awaitable[None]]) -> None:
        """Run a background task unless it still runs."""

        async def run() -> None:
            try:
                await deed()
            finally:
                self._busy.discard(deed)

        if deed not in self._busy and self.start_soon(run):
            self._busy.add(deed)

    async def _release_segments(self) -> None:
        while await release_oldest(self):
            pass

    @property
    def is_slow(self) -> bool:
        """Whether our log's disk is too slow to lead with."""
        return self._pace.is_slow

    def _tell_pace(self) -> None:
        if self.is_slow:
            log.warning("raft.wal_slow")
        else:
            log.info("raft.wal_quick")
        self._on_pace()

    def _hand_over_all(self, now_ms: int, reason: str) -> None:
        """Our disk is slow or full: let others lead what they can (F09, F12)."""
        for replica in self._replicas.values():
            core = replica.core
            if core.is_leader and core.transfer_to is None:
                successor = core.best_successor(self._peer_unfit)
                if successor is not None and core.transfer(successor, now_ms):
                    log.warning(
                        "raft.leadership_handed_over",
                        group=replica.group,
                        peer=successor,
                        reason=reason,
                    )
                    self._touch(replica)

    def _balance(self, now_ms: int) -> None:
        """Hand some groups to the leaders they should have."""
        transfers = 0
        for replica in self._replicas.values():
            core = replica.core
            if not core.has_own_commit or replica.change is not None:
                continue
            preferred = self._preferred_leader(replica.group)
            if preferred is None or preferred == self.node:
                continue
            progress = core.progress.get(preferred)
            if progress is None or progress.match < core.log.committed:
                continue
            if not self._peer_alive(preferred) or self._peer_unfit(preferred):
                continue
            if now_ms - progress.heard_ms >= self.options.fresh_ms:
                core.stir(now_ms)  # If it lives, it answers until we come by again.
                self._touch(replica)
                continue
            if not core.transfer(preferred, now_ms):
                continue
            log.info("raft.leadership_handed_over", group=replica.group, peer=preferred)
            self._touch(replica)
            transfers += 1
            if transfers == self.options.transfers_max:
                return

    # For `worker`.

    def start_soon(self, deed: Callable[..., Awaitable[None]], *args: object) -> bool:
        """Run a background task as long as this host runs."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(deed, *args)
        return True

    def replica(self, group: int) -> Replica | None:
        return self._replicas.get(group)

    def tombstone(self, group: int) -> HardState | None:
        return self._tombstones.get(group)

    def touch(self, replica: Replica) -> None:
        self._touch(replica)
