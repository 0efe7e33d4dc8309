"""The consensus of one group, without I/O.

                    .------- higher term, or a leader of this term ------.
                    v                                                    |
    start --> FOLLOWER --silence--> PRE_CANDIDATE --quorum--> CANDIDATE -+--quorum--> LEADER
                    ^                                                                    |
                    '------------- higher term, or no quorum heard ---------------------'

Inputs are messages, the time, proposals, reads, and word of what became durable or was
applied.  They change the state and set `dirty`; `take` then gives all effects in order, so
that one pass of the driver makes one append per follower of all that has come.

What rests on what:
- A message that reveals a term or a vote waits here until that is durable; an
  acknowledgement of entries waits until they are.  A leader's appends wait for nothing:
  they go out beside its own sync, and it counts itself only when that is done.
- An entry is applied when it is committed *and* durable here, so the state machine is never
  ahead of the WAL.
- A membership takes effect when it is applied, as in etcd.  One change at a time, none
  before an entry of the leader's own term is committed (R2).  A leader that finds a joint
  membership leaves it by itself.
- A replica that has lost something, or was never whole, does not vote until it is mended
  (`hard_state.Damage`).

Invariants: a term and vote never go back; `log.committed` never falls; at most one leader a
term.  Source: Ongaro 2014; etcd's raft.go; FAULTS R1 to R15.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

import attrs

from objstore.frozen import frozen
from objstore.ids import NodeId
from objstore.raft.contacts import Contacts
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
from objstore.raft.hard_state import Damage, HardState
from objstore.raft.log import Log
from objstore.raft.messages import (
    Append,
    AppendReply,
    Gone,
    Heartbeat,
    HeartbeatReply,
    Message,
    ReadAnswer,
    ReadAsk,
    TimeoutNow,
    Vote,
    VoteReply,
    Wake,
    decode_membership,
    encode_membership,
)
from objstore.raft.options import Options
from objstore.raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from objstore.raft.quorum import Verdict, agreed, is_quorum, verdict
from objstore.raft.read_only import Ask, ReadOnly
from objstore.raft.state_machine import (
    MEMBERSHIP,
    Applied,
    Entry,
    EntryKind,
    Membership,
)

_NEVER_MS = -(10**15)
_FAR = 2**63


@frozen
class _Mark:
    """What becomes durable with a Persist."""

    sequence: int
    last_index: int
    cuts: int  # Of the log then; a later cut makes `last_index` meaningless.


@frozen
class _OwnVote:
    """A candidate's vote for itself, held like a message until it is durable."""

    term: int


@attrs.define(eq=False)
class Core:
    """One replica of one group.

    log: as recovered, with `applied` and `committed` where the state machine is.
    is_alive: the failure detector's word on a node; only quiescence rests on it.
    contacts: what all groups of this node hear and say, as the driver keeps it.
    """

    group: int
    node: NodeId
    hard_state: HardState
    log: Log
    membership: Membership
    options: Options
    random: Random
    is_alive: Callable[[NodeId], bool]
    now_ms: int

    contacts: Contacts = attrs.field(factory=Contacts)
    role: Role = Role.FOLLOWER
    leader: NodeId | None = None
    quiescent: bool = False
    dirty: bool = True
    removed: bool = False
    progress: dict[NodeId, Progress] = attrs.field(factory=dict)  # Leader: all but itself.
    reads: ReadOnly = attrs.field(factory=ReadOnly)
    transfer_to: NodeId | None = None

    is_leader: bool = attrs.field(init=False, default=False)  # As `role` says.
    term: int = attrs.field(init=False)
    vote: NodeId | None = attrs.field(init=False)
    damage: Damage = attrs.field(init=False)
    # The entry that made `membership`, or a later one.
    membership_index: int = attrs.field(init=False)

    _effects: list[Effect] = attrs.field(factory=list)
    _sequence: int = 0  # Of the last Persist.
    _durable: int = 0  # Likewise, that is durable.
    _hard_changed: bool = False
    _hard_sequence: int = 0  # The Persist with the newest hard state.
    _mended: bool = False
    _marks: deque[_Mark] = attrs.field(factory=deque)
    _held: deque[tuple[int, int, Send | _OwnVote]] = attrs.field(factory=deque)
    _ack: tuple[NodeId, int] | None = None  # An append to be acknowledged.
    _applying: bool = False
    _applies_membership: bool = False  # Among what is being applied is another one.
    _matched: int = 0  # Follower: agrees with this term's leader, as found since start.
    _mend_index: int = 0  # Its word on when we are whole; 0: not said.
    _told_commit: int = 0  # Follower: what this term's leader answered to a read.
    _ask_number: int = attrs.field(init=False)  # Of the last ReadAsk.

    _votes: dict[NodeId, bool] = attrs.field(factory=dict)
    _election_due_ms: int = 0
    _patience_ms: int = 0  # How long it waits for a word from its leader.
    _heard_ms: int = _NEVER_MS  # Follower: from its leader.
    _round: int = 0
    _round_ms: int = _NEVER_MS  # When the oldest read round in flight was sent, about.
    _heartbeat_due_ms: int = 0
    _quorum_due_ms: int = 0
    _transfer_due_ms: int = 0
    _busy_ms: int = _NEVER_MS  # Leader: when something last happened.
    _quiet_due_ms: int = 0
    _noop_index: int = 0  # Leader: the first entry of its term.
    _pending_membership: int = 0  # Leader: no further change until this is applied.
    _uncommitted_size: int = 0
    _commit_now: bool = False  # Followers should hear of the commit index at once.
    _gone: set[NodeId] = attrs.field(factory=set)  # Leader: to be told so.

    def __attrs_post_init__(self) -> None:
        self.term = self.hard_state.term
        self.vote = self.hard_state.vote
        self.damage = self.hard_state.damage
        self.membership_index = self.log.applied
        # So that the answers to an earlier life of this process are known from ours.
        self._ask_number = self.random.getrandbits(62)
        if (
            self.log.term(1) is not None
            and self.log.committed == 0
            and self.log.offset == 0
        ):
            self._commit_founding()
        self._restart_election_timer(self.now_ms)
        self._hasten_if_alone(self.now_ms)

    def _hasten_if_alone(self, now_ms: int) -> None:
        """A sole voter has nobody to wait for."""
        if self.membership.voters == (self.node,) and not self.membership.outgoing:
            self._election_due_ms = now_ms

    def _commit_founding(self) -> None:
        """Entry 1 is the founder's membership, and its decision alone: it is committed."""
        first = self.log.entry(1)
        if first.kind is MEMBERSHIP and first.term == 1 and self.log.stable >= 1:
            self._commit_to(1)

    # What is asked from outside.

    @property
    def has_own_commit(self) -> bool:
        """Leader: an entry of its own term is committed."""
        return self.is_leader and self.log.committed >= self._noop_index

    @property
    def is_promotable(self) -> bool:
        """Whether it may campaign."""
        return (
            self.damage is Damage.NONE
            and not self.removed
            and (
                self.node in self.membership.voters or self.node in self.membership.outgoing
            )
        )

    @property
    def due_ms(self) -> int:
        """When `on_tick` has something to do next."""
        if self.quiescent:
            if self.reads.rounds_in_flight:
                return min(self._quiet_due_ms, self._round_ms + self._answer_within_ms)
            return self._quiet_due_ms
        if not self.is_leader:
            return self._election_due_ms
        due_ms = min(self._heartbeat_due_ms, self._quorum_due_ms)
        return due_ms if self.transfer_to is None else min(due_ms, self._transfer_due_ms)

    @property
    def _answer_within_ms(self) -> int:
        """How long a read in a silent group waits before it ends the silence.

        A leader's goes to everybody then, as that of a group awake does; a follower's
        leader is missed, early enough for its reader to learn of a new one.
        """
        if self.is_leader:
            return self.options.heartbeat_ms
        return self.options.follower_read_ms // 2

    @property
    def can_read_now(self) -> bool:
        """Leader, sole voter, all committed applied: reads need no round."""
        return (
            self.is_leader
            and self.membership.voters == (self.node,)
            and not self.membership.outgoing
            and self.log.committed >= self._noop_index
            and self.log.applied == self.log.committed
        )

    @property
    def can_serve_reads(self) -> bool:
        """Leader, or a whole follower that knows its leader and counts in its quorum."""
        return self.is_leader or (
            self.leader is not None
            and self.damage is Damage.NONE
            and self.node in self.membership.voters
            and not self.removed
        )

    @property
    def apply_lag(self) -> int:
        """Entries known to be committed that are not applied here."""
        return max(self.log.committed, self._told_commit) - self.log.applied

    def hears(self, node: NodeId, now_ms: int) -> bool:
        """Leader: whether `node` was heard within an election timeout."""
        if node == self.node:
            return True
        progress = self.progress.get(node)
        return (
            progress is not None
            and now_ms - progress.heard_ms < self.options.election_timeout_ms
        )

    def is_caught_up(self, node: NodeId, now_ms: int) -> bool:
        """Leader: whether the learner `node` could vote at once."""
        progress = self.progress.get(node)
        return (
            progress is not None
            and self.hears(node, now_ms)
            and progress.stage is REPLICATE
            and progress.mend == 0
            and progress.match >= self.log.committed
        )

    # Inputs.

    def propose(self, commands: Sequence[bytes], now_ms: int) -> int | None:
        """Append commands; returns the index of the first.

        None: not leader, leadership is being transferred, or too much is uncommitted.
        """
        if not self.is_leader or self.transfer_to is not None or self._is_leaving:
            return None
        if self._uncommitted_size >= self.options.uncommitted_size_max:
            return None
        return self._append(EntryKind.COMMAND, commands, now_ms)

    def propose_membership(self, membership: Membership, now_ms: int) -> int | None:
        """Append a membership; returns its index, or None where it may not be now.

        The caller sees to it that a change of voters goes through a joint membership.
        """
        if not self.has_own_commit or self._pending_membership > self.log.applied:
            return None
        if self.transfer_to is not None or self._is_leaving:
            return None
        data = encode_membership(membership)
        index = self._append(MEMBERSHIP, (data,), now_ms)
        self._pending_membership = index
        return index

    def read_index(self, request: int, now_ms: int) -> bool:
        """Ask for a point to read at; answered by ReadsReady or ReadsFailed.

        False: not leader, and no follower that may ask its leader.
        """
        if not self.can_serve_reads:
            return False
        self.now_ms = now_ms
        self.reads.waiting.append(request)
        self.dirty = True
        return True

    def transfer(self, to: NodeId, now_ms: int) -> bool:
        """Hand leadership to the voter `to` as soon as it has the whole log."""
        progress = self.progress.get(to)
        if not self.is_leader or progress is None or to not in self.membership.voters:
            return False
        if progress.damage or self.transfer_to is not None:
            return self.transfer_to == to
        self.stir(now_ms)
        self.transfer_to = to
        self._transfer_due_ms = now_ms + self.options.election_timeout_ms
        self._try_transfer(to, progress)
        return True

    def persisted(self, sequence: int, now_ms: int) -> None:
        """Everything up to the Persist numbered `sequence` is durable."""
        self.now_ms = now_ms
        log, marks, waiting = self.log, self._marks, self._held
        self._durable = max(self._durable, sequence)
        while marks and marks[0].sequence <= sequence:
            mark = marks.popleft()
            if mark.cuts == log.cuts:
                log.stable = max(log.stable, mark.last_index)
        while waiting and waiting[0][0] <= sequence:
            _, term, held = waiting.popleft()
            if term != self.term:
                continue  # It speaks for a term that is over.
            if isinstance(held, Send):
                self._effects.append(held)
            else:
                self._count_vote(self.node, granted=True, now_ms=now_ms)
        if self.is_leader:
            if log.stable > log.committed:
                self._try_commit()
            self._settle(now_ms)
        if self._mend_index:
            self._try_mend()
        if self._effects or log.applied < log.committed:
            self.dirty = True

    def applied(self, index: int, now_ms: int) -> None:
        """The state machine has everything up to `index`."""
        self.now_ms = now_ms
        log = self.log
        self._applying = False
        first = log.applied + 1
        log.apply_to(index)
        if self._applies_membership:
            for at in range(first, index + 1):
                entry = log.entry(at)
                if entry.kind is MEMBERSHIP:
                    self._switch(decode_membership(entry.data), at, now_ms)
        if self.is_leader and self.membership.outgoing:
            self._leave_joint(now_ms)
        if self._effects or self.reads.ready or log.applied < log.committed:
            self.dirty = True

    def installed(self, applied: Applied, now_ms: int) -> None:
        """A snapshot has taken the place of the state machine's state."""
        self.now_ms = now_ms
        self._applying = False
        self.log.reset(applied.index, applied.term)
        self.membership = applied.membership
        self.membership_index = applied.index
        self._effects.append(MembershipChanged(self.membership))
        if self.leader is not None and not self.is_leader:
            # The snapshot is committed, so it agrees with every later leader's log.
            self._matched = max(self._matched, applied.index)
            self._ack = (self.leader, self._matched)
        self._try_mend()
        self.dirty = True

    def wants_snapshot(self, term: int, index: int) -> bool:
        """Whether a snapshot up to `index`, offered by the leader of `term`, is of use."""
        return term >= self.term and index > self.log.committed and not self.is_leader

    def snapshot_sent(self, to: NodeId, index: int | None, now_ms: int) -> None:
        """Sending to `to` has ended, at `index` or (None) with a failure."""
        self.now_ms = now_ms
        progress = self.progress.get(to)
        if progress is None or progress.stage is not SNAPSHOT:
            return
        if index is None:
            progress.snapshot_failed()
        else:
            progress.snapshot_index = index
            progress.become_probe()
        self.dirty = True

    def compact(self, durable_index: int) -> None:
        """Forget entries that neither a restart nor a follower is likely to need."""
        log, options = self.log, self.options
        limit = min(durable_index, log.applied)
        if (
            limit - log.offset < 2 * options.kept_entries
            and log.size < 2 * options.kept_size
        ):
            return
        point = log.compaction_point(
            limit, entries_kept=options.kept_entries, size_kept=options.kept_size
        )
        behind = min(
            (max(p.match, p.snapshot_index) for p in self.progress.values() if p.is_heard),
            default=point,
        )
        if behind < point:
            furthest = log.compaction_point(
                limit,
                entries_kept=options.kept_entries_max,
                size_kept=options.kept_size_max,
            )
            point = max(behind, furthest)
        log.compact(max(point, log.offset))

    def wake(self, now_ms: int) -> None:
        """End quiescence, if it is: time counts again, from now."""
        if not self.quiescent:
            return
        self.quiescent = False
        self.dirty = True
        if self.is_leader:
            self._heartbeat_due_ms = now_ms
            self._quorum_due_ms = now_ms + self.options.election_timeout_ms
            for progress in self.progress.values():
                progress.active = True
                progress.quiescent = False
        else:
            self._heard_ms = now_ms
            self._restart_election_timer(now_ms)

    def stir(self, now_ms: int) -> None:
        """Something happens, or is about to: no quiescence for a while."""
        self.now_ms = now_ms
        self._busy_ms = now_ms
        self.dirty = True
        if self.quiescent:
            self.wake(now_ms)

    def peer_died(self, node: NodeId, now_ms: int) -> None:
        """The failure detector holds `node` for dead."""
        if self.is_leader:
            if node in self.progress:
                self.wake(now_ms)
        elif node == self.leader:
            self.rouse(now_ms)

    def rouse(self, now_ms: int) -> None:
        """Somebody misses the leader of a silent group: have everybody look for it.

        All at once, as who wakes only for a candidate hears nobody else for a while.
        """
        if self.quiescent and not self.is_leader:
            self.wake(now_ms)
            self._ask_for_leader()

    def stalled(self, now_ms: int) -> None:
        """This process stood still: others had no chance to be heard meanwhile."""
        if not self.is_leader and not self.quiescent:
            grace_ms = self.random.randrange(self.options.election_timeout_ms // 2) + 1
            self._election_due_ms = max(self._election_due_ms, now_ms + grace_ms)

    def step_down(self, now_ms: int) -> None:
        """Give leadership up without naming a successor."""
        if self.is_leader:
            self._become_follower(self.term, None, now_ms)

    def on_tick(self, now_ms: int) -> None:
        """Do what is due."""
        self.now_ms = now_ms
        if now_ms < self.due_ms or self.removed:
            return
        if self.quiescent and not self.is_leader:
            self.rouse(now_ms)
            return
        self.wake(now_ms)
        if not self.is_leader:
            since_heartbeat_ms = self._leader_heard_ms() - self._heard_ms
            if now_ms >= self._election_due_ms + since_heartbeat_ms:
                self._on_silence(now_ms)
            return
        if self.transfer_to is not None and now_ms >= self._transfer_due_ms:
            self.transfer_to = None
            self.dirty = True  # Somebody may wait for that.
        if now_ms >= self._quorum_due_ms and not self._check_quorum(now_ms):
            return
        if now_ms >= self._heartbeat_due_ms:
            # A little early rather than one whole tick late.
            self._heartbeat_due_ms = now_ms + self.options.heartbeat_ms * 3 // 4
            self._leave_joint(now_ms)
            self._beat(now_ms)
        self.dirty = self.dirty or bool(self._effects)

    def on_message(self, sender: NodeId, message: Message, now_ms: int) -> None:
        """Take a message from another replica of this group."""
        self.now_ms = now_ms
        if self.removed:
            return
        if self.quiescent:
            self._wake_for(sender, message, now_ms)
        # Of these there are many, which mostly lead to nothing; what does, says so.
        if type(message) is not AppendReply and type(message) is not HeartbeatReply:
            self.dirty = True
            if type(message) is Wake:
                self._on_wake(sender, now_ms)
                return
            if type(message) is Vote and self._ignores_vote(sender, message, now_ms):
                return
        if message.term != self.term and not self._meet_term(sender, message, now_ms):
            return
        self._HANDLERS[type(message)](self, sender, message, now_ms)

    def _meet_term(self, sender: NodeId, message: Message, now_ms: int) -> bool:
        """Take a message of another term than ours; whether it is to be handled."""
        if message.term < self.term:
            self._on_old_term(sender, message)
            return False
        if not _is_about_future(message):
            leads = isinstance(message, Append | Heartbeat)
            self._become_follower(message.term, sender if leads else None, now_ms)
        return True

    def take(self) -> list[Effect]:
        """All effects since the last call, in the order to carry them out."""
        self.dirty = False
        if self.removed:  # Its last effect was that.
            effects, self._effects = self._effects, []
            return effects
        log, reads = self.log, self.reads
        if self.is_leader:
            if reads.waiting:
                self._begin_round()
            self._replicate()
        elif reads.waiting:
            self._ask_leader()
        if reads.ready:
            self._answer_reads()
        if log.saved < log.last_index or self._hard_changed or log.cut is not None:
            self._persist()
        if self._ack is not None:
            self._acknowledge()
        if log.applied < log.committed and not self._applying:
            self._apply()
        effects, self._effects = self._effects, []
        return effects

    # Taking effects.

    def _ask_leader(self) -> None:
        assert self.leader is not None
        if self.reads.rounds_in_flight >= self.options.asks_in_flight_max:
            self._drop_reads()  # They were lost, or the leader is: begin anew.
            return
        if self.reads.rounds_in_flight == 0:
            self._round_ms = self.now_ms
        self._ask_number += 1
        self.reads.begin(self._ask_number, 0)
        self._reply(self.leader, ReadAsk(self.term, self._ask_number))

    def _answer_reads(self) -> None:
        ours: list[int] = []
        for index, requests in self.reads.take(self.log.applied):
            for request in requests:
                if isinstance(request, Ask):
                    answer = ReadAnswer(self.term, request.number, index)
                    self._send(request.node, answer)
                else:
                    ours.append(request)
        if ours:
            self._effects.append(ReadsReady(ours))

    def _drop_reads(self) -> None:
        """Whom we asked, or we ourselves, may lead no more."""
        requests = self.reads.drop()
        if requests:
            self._effects.append(ReadsFailed(requests))

    def _persist(self) -> None:
        """Have the log written: entries, what was cut, term and vote."""
        entries = self.log.unsaved()
        self._sequence += 1
        hard_state = None
        if self._hard_changed:
            hard_state = HardState(self.term, self.vote, self.damage, self.log.committed)
            self._hard_sequence = self._sequence
            self._hard_changed = False
        self._effects.append(
            Persist(self._sequence, hard_state, self._mended, self.log.cut, entries)
        )
        self._mended = False
        self.log.cut = None
        self.log.saved = self.log.last_index
        self._marks.append(_Mark(self._sequence, self.log.last_index, self.log.cuts))

    def _commit_to(self, index: int) -> None:
        """Advance the commit index.

        That a membership is committed is written with whatever comes after it: a replica
        that restarts with entries from under a new membership must not go by the old one.
        """
        log = self.log
        if index <= log.committed:
            return
        first = log.committed + 1
        if log.commit_to(index):
            for at in range(first, log.committed + 1):
                if log.entry(at).kind is MEMBERSHIP:
                    self._hard_changed = True

    def _acknowledge(self) -> None:
        """Tell the leader how far our log is its own, once that is durable."""
        assert self._ack is not None
        (to, index), self._ack = self._ack, None
        reply = AppendReply(
            self.term, True, index, 0, 0, self.log.committed, int(self.damage)
        )
        if index <= self.log.stable:
            self._reply(to, reply)
        else:
            self._held.append((self._sequence, self.term, Send(to, reply)))

    def _apply(self) -> None:
        """Apply what is committed and durable here."""
        log = self.log
        last = min(log.committed, log.stable)
        if last <= log.applied:
            return
        entries = log.slice(
            log.applied + 1,
            last,
            entries_max=self.options.apply_entries_max,
            size_max=self.options.apply_size_max,
        )
        membership = self.membership
        for entry in entries:
            if entry.kind is MEMBERSHIP:
                membership = decode_membership(entry.data)
        self._applying = True
        self._applies_membership = membership is not self.membership
        self._effects.append(Apply(entries, membership))

    def _send(self, to: NodeId, message: Message) -> None:
        self._effects.append(Send(to, message))

    def _reply(self, to: NodeId, message: Message) -> None:
        """Send once our term and vote are durable; at once where they are."""
        if self._hard_changed:
            self._held.append((self._sequence + 1, self.term, Send(to, message)))
        elif self._hard_sequence > self._durable:
            self._held.append((self._hard_sequence, self.term, Send(to, message)))
        else:
            self._effects.append(Send(to, message))

    # Terms and roles.

    def _restart_election_timer(self, now_ms: int) -> None:
        timeout_ms = self.options.election_timeout_ms
        self._patience_ms = timeout_ms + self.random.randrange(timeout_ms)
        self._election_due_ms = now_ms + self._patience_ms

    def _enter(self, role: Role) -> None:
        self.role = role
        self.is_leader = role is Role.LEADER

    def _become_follower(self, term: int, leader: NodeId | None, now_ms: int) -> None:
        changed = (self.role, self.term, self.leader) != (Role.FOLLOWER, term, leader)
        if term != self.term:
            assert term > self.term
            self.term, self.vote = term, None
            self._hard_changed = True
            self._forget_leader_log()
        if self.is_leader:
            self._end_leadership()
        self._enter(Role.FOLLOWER)
        self.leader = leader
        self._votes.clear()
        self._restart_election_timer(now_ms)
        if changed:
            self._drop_reads()
            self._effects.append(RoleChanged(self.role, term, leader))
        self.dirty = True

    def _forget_leader_log(self) -> None:
        """What we know of a leader's log holds for its term only."""
        self._matched = 0
        self._told_commit = 0
        self._mend_index = 0
        self._ack = None

    def _end_leadership(self) -> None:
        self.progress.clear()
        self.transfer_to = None
        self.quiescent = False
        self._gone.clear()
        self._matched = 0

    def _on_silence(self, now_ms: int) -> None:
        """The election timer has run out."""
        self.dirty = True
        if self.is_promotable and not self._has_unapplied_membership():
            self._campaign(now_ms, pre=True, transfer=False)
            return
        if self.leader is not None:
            self._become_follower(self.term, None, now_ms)
        self._restart_election_timer(now_ms)
        self._ask_for_leader()

    def _ask_for_leader(self) -> None:
        for node in self.membership.members:
            if node != self.node:
                self._send(node, Wake(self.term))

    def _has_unapplied_membership(self) -> bool:
        """A committed membership that is not in force: our idea of a quorum is old."""
        log = self.log
        return any(
            log.entry(index).kind is MEMBERSHIP
            for index in range(log.applied + 1, log.committed + 1)
        )

    def _campaign(self, now_ms: int, *, pre: bool, transfer: bool) -> None:
        self.leader = None
        self._drop_reads()
        self._votes = {}
        self._restart_election_timer(now_ms)
        if pre:
            self._enter(Role.PRE_CANDIDATE)
            term = self.term + 1
        else:
            self._enter(Role.CANDIDATE)
            self.term += 1
            self.vote = self.node
            self._hard_changed = True
            self._forget_leader_log()
            term = self.term
        self._effects.append(RoleChanged(self.role, self.term, None))
        request = Vote(term, self.log.last_index, self.log.last_term, pre, transfer)
        for node in self.membership.electors:
            if node == self.node:
                continue
            if pre:
                self._send(node, request)
            else:
                self._reply(node, request)
        if pre:
            self._count_vote(self.node, granted=True, now_ms=now_ms)
        else:
            self._held.append((self._sequence + 1, self.term, _OwnVote(self.term)))
        self.dirty = True

    def _count_vote(self, node: NodeId, *, granted: bool, now_ms: int) -> None:
        if self.role not in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            return
        self._votes.setdefault(node, granted)
        match verdict(self.membership, self._votes):
            case Verdict.WON if self.role is Role.PRE_CANDIDATE:
                self._campaign(now_ms, pre=False, transfer=False)
            case Verdict.WON:
                self._become_leader(now_ms)
            case Verdict.LOST:
                self._become_follower(self.term, None, now_ms)
            case _:
                pass

    def _become_leader(self, now_ms: int) -> None:
        self._enter(Role.LEADER)
        self.leader = self.node
        self.quiescent = False
        self.reads = ReadOnly()
        self.progress = {}
        self._round = 0
        self._heartbeat_due_ms = now_ms
        self._quorum_due_ms = now_ms + self.options.election_timeout_ms
        self._uncommitted_size = 0
        # Any membership in the uncommitted tail must be applied before the next.
        self._pending_membership = self.log.last_index
        self._meet_members(now_ms)
        self._effects.append(RoleChanged(self.role, self.term, self.node))
        self._noop_index = self.log.last_index + 1
        self._append(EntryKind.NOOP, (b"",), now_ms)

    def _check_quorum(self, now_ms: int) -> bool:
        """Step down if no quorum was heard for an election timeout."""
        self._quorum_due_ms = now_ms + self.options.election_timeout_ms
        since_ms = now_ms - self.options.election_timeout_ms
        heard = [
            node
            for node, progress in self.progress.items()
            if progress.active or self._last_heard_ms(node, progress.heard_ms) > since_ms
        ]
        if not is_quorum(self.membership, [self.node, *heard]):
            self._become_follower(self.term, None, now_ms)
            return False
        for progress in self.progress.values():
            progress.was_active, progress.active = progress.active, False
        return True

    # Messages of any role.

    def _wake_for(self, sender: NodeId, message: Message, now_ms: int) -> None:
        """End quiescence unless this is the leader's word to stay so, or an echo."""
        if self.is_leader:
            if isinstance(message, AppendReply | VoteReply | ReadAsk):
                return
            # One that does not sleep, as its process began anew, needs us awake, too.
            if isinstance(message, HeartbeatReply) and (
                message.quiescent or message.round < self._round
            ):
                return
        elif message.term == self.term and sender == self.leader:
            if isinstance(message, ReadAnswer):
                return
            if isinstance(message, Heartbeat) and message.quiesce:
                return
        self.wake(now_ms)

    def _on_wake(self, sender: NodeId, now_ms: int) -> None:
        if self.is_leader:
            if sender in self.progress:
                self._heartbeat_due_ms = now_ms
            else:
                self._tell_gone(sender)
        elif sender == self.leader:
            self._lose_leader()

    def _lose_leader(self) -> None:
        """Our leader asks for a leader: it leads no more."""
        self.leader = None
        self._heard_ms = _NEVER_MS
        self._drop_reads()
        self._effects.append(RoleChanged(self.role, self.term, None))

    def _ignores_vote(self, sender: NodeId, message: Vote, now_ms: int) -> bool:
        """While a leader is heard, nobody else is listened to.

        Keeps a removed or returning replica from deposing a good leader (R8, R11; Ongaro
        2014, 4.2.3).
        """
        if self.is_leader:
            if sender not in self.progress:
                self._tell_gone(sender)
            elif message.term > self.term:
                self._heartbeat_due_ms = min(self._heartbeat_due_ms, now_ms)
            return not message.transfer and message.term > self.term
        if sender == self.leader and message.term > self.term:
            self._lose_leader()
        heard = now_ms - self._leader_heard_ms() < self.options.election_timeout_ms
        in_lease = self.leader is not None and heard
        return in_lease and not message.transfer and message.term > self.term

    def _on_old_term(self, sender: NodeId, message: Message) -> None:
        """Tell the sender of our term, where that may free it."""
        if isinstance(message, Append):
            self._refuse(sender, message.prev_index)
        elif isinstance(message, Heartbeat):
            self._reply(sender, self._heartbeat_reply(0))
        elif isinstance(message, Vote):
            self._refuse_vote(sender, message)
        elif isinstance(message, ReadAsk):
            self._reply(sender, ReadAnswer(self.term, message.number, 0))

    def _refuse_vote(self, sender: NodeId, message: Vote) -> None:
        index = min(self.log.committed, message.last_index)
        term = self.log.term(index) or 0
        self._reply(
            sender, VoteReply(self.term, message.pre, False, index if term else 0, term)
        )

    def _on_vote(self, sender: NodeId, message: Vote, now_ms: int) -> None:
        free = self.vote == sender or (self.vote is None and self.leader is None)
        may_vote = free or (message.pre and message.term > self.term)
        newer = self.log.is_newer_than(message.last_index, message.last_term)
        if self.damage is not Damage.NONE or not may_vote or newer:
            self._refuse_vote(sender, message)
            return
        if not message.pre:
            if self.vote != sender:
                self.vote = sender
                self._hard_changed = True
            self._restart_election_timer(now_ms)
        self._reply(sender, VoteReply(message.term, message.pre, True, 0, 0))

    def _on_vote_reply(self, sender: NodeId, message: VoteReply, now_ms: int) -> None:
        if message.commit_term and self.log.term(message.commit) == message.commit_term:
            self._commit_to(message.commit)
        expected = Role.PRE_CANDIDATE if message.pre else Role.CANDIDATE
        if self.role is not expected:
            return
        if message.granted and message.pre and message.term != self.term + 1:
            return
        self._count_vote(sender, granted=message.granted, now_ms=now_ms)

    def _on_timeout_now(self, sender: NodeId, message: TimeoutNow, now_ms: int) -> None:
        del sender, message
        if (
            not self.is_leader
            and self.is_promotable
            and not self._has_unapplied_membership()
        ):
            self._campaign(now_ms, pre=False, transfer=True)

    def _on_gone(self, sender: NodeId, message: Gone, now_ms: int) -> None:
        """Believe it unless our log shows that we were added again since."""
        del sender, now_ms
        if self.is_leader or self.log.last_index > message.last_index:
            return
        self.removed = True
        self._effects.append(Removed(HardState(self.term, self.vote, Damage.NONE)))

    # Followers.

    def _leader_heard_ms(self) -> int:
        if self.leader is None:
            return self._heard_ms
        return self._last_heard_ms(self.leader, self._heard_ms)

    def _last_heard_ms(self, node: NodeId, heard_ms: int) -> int:
        """When `node` was last heard, where this group last heard of it at `heard_ms`."""
        left_out_ms = self.options.beat_interval_ms + self.options.heartbeat_ms
        return self.contacts.extended(node, heard_ms, left_out_ms)

    def _hear_leader(self, sender: NodeId, now_ms: int) -> bool:
        """A message that only the leader of this term sends; False if that is not so."""
        if self.is_leader:
            return False  # Two leaders in a term: the sender is broken.
        if self.leader != sender:  # Who has a leader is a follower, or leads.
            self._become_follower(self.term, sender, now_ms)
        self._heard_ms = now_ms
        self._election_due_ms = now_ms + self._patience_ms
        return True

    def _on_append(self, sender: NodeId, message: Append, now_ms: int) -> None:
        if not self._hear_leader(sender, now_ms):
            return
        log = self.log
        if message.prev_index < log.committed:
            message = _above(message, log.committed)
        agreed_index = (
            log.committed  # All of it is committed here already.
            if message.prev_index < log.committed
            else log.merge(message.prev_index, message.prev_term, message.entries)
        )
        if agreed_index is None:
            self._refuse(sender, message.prev_index, message.prev_term)
            return
        self._matched = max(self._matched, agreed_index)
        self._commit_to(min(max(message.commit, self._told_commit), self._matched))
        if self._ack is None or self._ack[1] < agreed_index:
            self._ack = (sender, agreed_index)
        if self._mend_index:
            self._try_mend()

    def _refuse(self, to: NodeId, prev_index: int, prev_term: int | None = None) -> None:
        term = self.log.last_term if prev_term is None else prev_term
        hint_index, hint_term = self.log.conflict_hint(prev_index, term)
        self._reply(
            to,
            AppendReply(
                self.term,
                False,
                prev_index,
                hint_index,
                hint_term,
                self.log.committed,
                int(self.damage),
            ),
        )

    def _on_heartbeat(self, sender: NodeId, message: Heartbeat, now_ms: int) -> None:
        if not self._hear_leader(sender, now_ms):
            return
        log = self.log
        self._commit_to(min(message.commit, self._matched))
        if message.lost and self._matched < message.mend and self.damage < Damage.VOTE:
            self._set_damage(Damage.VOTE)
        self._mend_index = 0 if message.lost else message.mend
        if self._mend_index:
            self._try_mend()
        has_all = log.last_index == log.committed == message.last_index == self._matched
        self.quiescent = message.quiesce and has_all and not self.damage
        if self.quiescent:
            self._quiet_due_ms = now_ms + 3 * self.options.quiesce_refresh_ms
        self._reply(sender, self._heartbeat_reply(message.round))

    def _heartbeat_reply(self, round_: int) -> HeartbeatReply:
        return HeartbeatReply(
            self.term,
            round_,
            self.log.last_index,
            self.log.committed,
            self.quiescent,
            int(self.damage),
        )

    def _on_read_answer(self, sender: NodeId, message: ReadAnswer, now_ms: int) -> None:
        if self.is_leader or sender != self.leader:
            return
        self._round_ms = now_ms
        self._told_commit = max(self._told_commit, message.index)
        self._commit_to(min(message.index, self._matched))
        # A number above ours: an earlier life asked, before our readers came (R4).
        if message.number <= self._ask_number:
            self.reads.confirm(message.number, message.index)

    def _set_damage(self, damage: Damage) -> None:
        self.damage = damage
        self._mended = damage is Damage.NONE
        self._hard_changed = True
        self._effects.append(DamageChanged(damage))
        self.dirty = True

    def _try_mend(self) -> None:
        """Vote again once we durably have what the leader named."""
        if not self.damage or self._mend_index == 0 or self.is_leader:
            return
        if min(self._matched, self.log.stable) >= self._mend_index:
            self._set_damage(Damage.NONE)

    # Leaders: the log.

    def _append(self, kind: EntryKind, datas: Sequence[bytes], now_ms: int) -> int:
        first = self.log.last_index + 1
        self.log.append(
            [Entry(index, self.term, kind, data) for index, data in enumerate(datas, first)]
        )
        self._uncommitted_size += sum(map(len, datas))
        self.stir(now_ms)
        return first

    def _meet_members(self, now_ms: int) -> None:
        """Bring `progress` in line with the membership."""
        wanted = [node for node in self.membership.members if node != self.node]
        for node in [node for node in self.progress if node not in wanted]:
            del self.progress[node]
            self._gone.add(node)
        for node in wanted:
            self._gone.discard(node)
            if node not in self.progress:
                self.progress[node] = Progress(
                    next=self.log.last_index + 1, active=True, heard_ms=now_ms
                )

    def _replicate(self) -> None:
        last_index = self.log.last_index
        for node, progress in self.progress.items():
            has_all = progress.next > last_index and progress.stage is REPLICATE
            if not has_all or self._commit_now:
                self._feed(node, progress)
        self._commit_now = False

    def _feed(self, node: NodeId, progress: Progress) -> None:
        """Send `node` what it lacks, as far as its window allows."""
        options, log = self.options, self.log
        if progress.lost:
            return  # First it must know that it is damaged: its vote may be gone as well.
        while progress.stage is not SNAPSHOT:
            has_all = progress.next > log.last_index
            if progress.stage is PROBE:
                if progress.probing:
                    return
            elif has_all:
                if self._commit_now and progress.sent_commit < log.committed:
                    self._send_append(node, progress, log.last_term, ())
                return
            elif progress.is_full(
                messages_max=options.in_flight_messages_max,
                size_max=options.in_flight_size_max,
            ):
                return
            prev_term = log.term(progress.next - 1)
            if prev_term is None:
                progress.become_snapshot(log.applied)
                self._effects.append(SendSnapshot(node))
                return
            entries: Sequence[Entry] = ()
            if not has_all:
                entries = log.slice(
                    progress.next,
                    log.last_index,
                    entries_max=options.append_entries_max,
                    size_max=options.append_size_max,
                )
            self._send_append(node, progress, prev_term, entries)

    def _send_append(
        self, node: NodeId, progress: Progress, prev_term: int, entries: Sequence[Entry]
    ) -> None:
        """Send entries that follow on the one before `progress.next`, of `prev_term`."""
        prev_index = progress.next - 1
        commit = self.log.committed
        last = prev_index + len(entries)
        append = Append(self.term, prev_index, prev_term, commit, tuple(entries))
        self._effects.append(Send(node, append))
        progress.sent_ms = self.now_ms
        progress.sent_commit = max(progress.sent_commit, min(commit, last))
        if entries or progress.stage is PROBE:
            size = 0
            for entry in entries:
                size += len(entry.data)
            progress.sent(last, size, round_=self._round)

    def _on_append_reply(self, sender: NodeId, message: AppendReply, now_ms: int) -> None:
        """Note how far a follower is.  Sets `dirty` where that leads to something."""
        progress = self._heard(sender, now_ms)
        if progress is None:
            return
        if message.damage or progress.damage:
            self._note_damage(sender, progress, message.damage)
            self.dirty = True
        progress.commit = max(progress.commit, message.commit)
        if not message.accepted:
            hint = message.hint_index
            if message.hint_term > 0:
                hint, _ = self.log.conflict_hint(hint, message.hint_term)
            progress.refused(message.index, hint)
            self.dirty = True
            return
        if message.index > self.log.last_index:
            return  # Nobody can have what we have not: a broken peer.
        if progress.accepted(message.index, round_=self._round):
            if message.index > self.log.committed:  # Else it was agreed upon already.
                self._try_commit()
            if self.transfer_to == sender:
                self._try_transfer(sender, progress)
        if progress.next <= self.log.last_index:
            self.dirty = True  # There is room for more in its window.
        self._settle(now_ms)

    def _heard(self, sender: NodeId, now_ms: int) -> Progress | None:
        """The sender's progress, if we lead it."""
        if not self.is_leader:
            return None
        progress = self.progress.get(sender)
        if progress is None:
            self._tell_gone(sender)
            return None
        progress.active = True
        progress.heard_ms = now_ms
        return progress

    def _try_commit(self) -> None:
        """Commit what a quorum has made durable, if it is of our own term (R1)."""
        log = self.log
        reached = {
            node: progress.match
            for node, progress in self.progress.items()
            if not progress.forgot_its_term
        }
        reached[self.node] = log.stable
        index = agreed(self.membership, reached)
        if index <= log.committed or log.term(index) != self.term:
            return
        before = log.committed
        self._commit_to(index)
        for at in range(before + 1, index + 1):
            self._uncommitted_size -= len(log.entry(at).data)
        self._uncommitted_size = max(0, self._uncommitted_size)
        if before < self._pending_membership <= index or before < self._noop_index:
            self._commit_now = True
        self.dirty = True

    # Leaders: heartbeats, reads, quiescence.

    def _begin_round(self) -> None:
        """Send a read round for all requests that wait (6.4), if it is time."""
        reads = self.reads
        if not reads.waiting or not self.has_own_commit:
            return
        if self.membership.electors == (self.node,):
            self._round += 1
            reads.begin(self._round, self.log.committed)
            reads.confirm(self._round)
        elif reads.rounds_in_flight < self.options.rounds_in_flight_max:
            is_slow = self.now_ms - self._round_ms >= self.options.slow_round_ms
            everybody = reads.rounds_in_flight > 0 and is_slow
            if reads.rounds_in_flight == 0:
                self._round_ms = self.now_ms
            self._round += 1
            reads.begin(self._round, self.log.committed)
            nodes = self.progress if everybody else self._read_quorum()
            # A silent group answers in its sleep: nothing has changed but that we asked.
            for node in nodes:
                self._send_heartbeat(node, quiesce=self.quiescent)
            if not self.quiescent:
                self._busy_ms = self.now_ms

    def _read_quorum(self) -> list[NodeId]:
        """Followers that make a quorum with us: whole ones, who answered last, first.

        One that falls silent costs the reads of one heartbeat: that goes to everybody.
        """
        asked = [self.node]
        rank = {n: (p.damage > 0, -p.round) for n, p in self.progress.items()}
        for node in sorted(rank, key=rank.__getitem__):
            asked.append(node)
            if is_quorum(self.membership, asked):
                break
        return asked[1:]

    def _on_read_ask(self, sender: NodeId, message: ReadAsk, now_ms: int) -> None:
        """A follower wants to be read.

        It was in our term when it asked.  Where it and we are a quorum, no later leader
        can have been elected before that: our commit index is its answer at once.  Not
        if it has lost something, as we found out before it did: then its word is none.
        """
        if not self.is_leader:
            self._reply(sender, Wake(self.term))
            return
        progress = self._heard(sender, now_ms)
        if progress is None:
            return
        vouches = not progress.forgot_its_term
        pair = (self.node, sender)
        if vouches and self.has_own_commit and is_quorum(self.membership, pair):
            self._send(sender, ReadAnswer(self.term, message.number, self.log.committed))
        elif len(self.reads.waiting) < self.options.reads_max:
            self.reads.waiting.append(Ask(sender, message.number))

    def _beat(self, now_ms: int) -> None:
        """Send a heartbeat to all who were sent nothing lately."""
        self._round += 1
        quiesce = self._may_quiesce(now_ms)
        everybody = quiesce or not self.reads.is_empty or self.transfer_to is not None
        for node, progress in self.progress.items():
            if everybody or not self._is_kept_awake(node, progress, now_ms):
                self._send_heartbeat(node, quiesce=quiesce)

    def _is_kept_awake(self, node: NodeId, progress: Progress, now_ms: int) -> bool:
        """Whether a heartbeat would say nothing that is not said; one in three is sent.

        By appends; or by messages of other groups, where all is acknowledged: the commit
        index may wait, as a follower that is read asks for it.
        """
        since_ms = now_ms - self.options.heartbeat_ms * 3 // 4
        interval_ms = self.options.beat_interval_ms
        return (
            progress.stage is REPLICATE
            and progress.mend == 0
            and not progress.quiescent
            # All groups beat after the same moments, so that they share a payload.
            and progress.beat_ms // interval_ms == now_ms // interval_ms
            and (
                progress.sent_ms > since_ms
                or (
                    progress.match == self.log.last_index
                    and self.contacts.spoke_since(node, since_ms)
                )
            )
        )

    def _send_heartbeat(self, node: NodeId, *, quiesce: bool) -> None:
        progress = self.progress[node]
        progress.beat_ms = self.contacts.sent_ms[node] = self.now_ms
        if not quiesce:
            progress.quiescent = False
        self._send(
            node,
            Heartbeat(
                self.term,
                self._round,
                min(progress.match, self.log.committed),
                self.log.last_index,
                quiesce,
                progress.mend if progress.mend and self._may_mend(node, progress) else 0,
                progress.lost,
            ),
        )

    def _on_heartbeat_reply(
        self, sender: NodeId, message: HeartbeatReply, now_ms: int
    ) -> None:
        """Note that a follower has heard us.  Sets `dirty` as `_on_append_reply` does."""
        progress = self._heard(sender, now_ms)
        if progress is None:
            return
        # Before its answer counts: this may be the word that it counts no more.
        if message.damage or progress.damage:
            self._note_damage(sender, progress, message.damage)
            self.dirty = True
        if message.round > progress.match_round and message.last_index < progress.match:
            self._note_loss(progress)
            self.dirty = True
        progress.round = max(progress.round, message.round)
        progress.commit = max(progress.commit, message.commit)
        if not self.reads.is_empty:
            self.dirty = True
            rounds = {
                node: other.round
                for node, other in self.progress.items()
                if not other.forgot_its_term
            }
            rounds[self.node] = _FAR
            self.reads.confirm(agreed(self.membership, rounds))
            self._round_ms = now_ms
        self._resend(sender, progress, message)
        self._settle(now_ms)
        if message.quiescent and message.round == self._round:
            progress.quiescent = True
            self._try_quiesce(now_ms)

    def _resend(self, node: NodeId, progress: Progress, message: HeartbeatReply) -> None:
        """Send again what the answer to a later heartbeat shows to be lost."""
        if progress.stage is PROBE:
            progress.probing = False
            self.dirty = True
            return
        if progress.stage is SNAPSHOT or message.round <= progress.sent_round:
            return
        if message.last_index < progress.next - 1:
            progress.become_probe()
            self.dirty = True
            return
        behind = message.commit < min(progress.match, self.log.committed)
        unacknowledged = progress.match < progress.next - 1
        if behind or unacknowledged or message.damage:
            self.dirty = True
            prev_term = self.log.term(progress.next - 1)
            if prev_term is None:
                progress.become_probe()
            else:
                self._send_append(node, progress, prev_term, ())

    def _may_quiesce(self, now_ms: int) -> bool:
        log = self.log
        return (
            self.options.quiesce
            and now_ms - self._busy_ms >= self.options.quiesce_after_ms
            and log.applied == log.committed == log.last_index
            and self.reads.is_empty
            and self.transfer_to is None
            and not self._gone
            and not self._is_leaving
            and not self.membership.outgoing
            and all(
                progress.match == log.last_index
                and progress.mend == 0
                and progress.commit == log.committed
                and self.is_alive(node)
                for node, progress in self.progress.items()
            )
        )

    def _try_quiesce(self, now_ms: int) -> None:
        """Fall silent once every follower has."""
        if self.quiescent or not self._may_quiesce(now_ms):
            return
        if all(progress.quiescent for progress in self.progress.values()):
            self.quiescent = True
            spread_ms = self.random.randrange(self.options.quiesce_refresh_ms // 4 + 1)
            self._quiet_due_ms = now_ms + self.options.quiesce_refresh_ms - spread_ms

    # Leaders: damaged followers.

    def _note_damage(self, node: NodeId, progress: Progress, damage: int) -> None:
        """A follower says what it has lost, or that it is whole."""
        if damage == Damage.NEW and node in self.membership.electors:
            damage = Damage.VOTE  # Nobody votes before it was mended once: all is gone.
        if damage == 0:
            if not progress.lost and progress.damage:
                progress.mend = progress.damage = 0
                self._try_commit()  # What it holds counts from now on.
            return
        progress.lost = False
        if progress.mend == 0 or damage > progress.damage:
            if damage > Damage.NEW:
                progress.forget(next_=self.log.last_index + 1)
            self._begin_mending(progress, damage)

    def _note_loss(self, progress: Progress) -> None:
        """A follower has less than it had acknowledged in this very term (F28)."""
        if progress.lost or progress.damage:
            return
        progress.forget(next_=self.log.last_index + 1)
        progress.lost = True
        self._begin_mending(progress, Damage.VOTE)

    def _begin_mending(self, progress: Progress, damage: int) -> None:
        progress.damage = damage
        progress.mend = self.log.last_index
        progress.mend_round = self._round + 1
        self._busy_ms = self.now_ms

    def _may_mend(self, node: NodeId, progress: Progress) -> bool:
        """Whether a follower may be told what it takes to be whole again."""
        if progress.mend == 0 or progress.damage < Damage.VOTE:
            return progress.mend > 0
        return progress.lost or all(
            self.progress[other].round >= progress.mend_round
            for other in self.membership.electors
            if other not in (node, self.node)
        )

    # Leaders: membership and transfer.

    @property
    def _is_leaving(self) -> bool:
        """Leader, and not a voter of the membership in force."""
        return self.is_leader and self.node not in self.membership.electors

    def _switch(self, membership: Membership, index: int, now_ms: int) -> None:
        self.membership = membership
        self.membership_index = index
        self._effects.append(MembershipChanged(membership))
        if not self.is_leader:
            self._hasten_if_alone(now_ms)
            return
        self._meet_members(now_ms)
        self._commit_now = True
        self.stir(now_ms)
        if self.transfer_to not in membership.voters:
            self.transfer_to = None
        self._try_commit()

    def _leave_joint(self, now_ms: int) -> None:
        """Whoever leads a joint membership ends it."""
        if self.membership.outgoing:
            final = attrs.evolve(self.membership, outgoing=())
            self.propose_membership(final, now_ms)

    def _is_settled(self) -> bool:
        """A quorum knows that the membership in force is committed.

        Only then may those who are out of it be told, and forget: until then the others
        may need their votes to find that out.
        """
        known = {node: progress.commit for node, progress in self.progress.items()}
        durable = not self._hard_changed and self._hard_sequence <= self._durable
        known[self.node] = self.log.committed if durable else 0
        return (
            self.has_own_commit
            and not self.membership.outgoing
            and agreed(self.membership, known) >= self.membership_index
        )

    def _settle(self, now_ms: int) -> None:
        if not self._gone and self.node in self.membership.electors:
            return
        if not self._is_settled():
            return
        for node in sorted(self._gone):
            self._tell_gone(node)
        self._gone.clear()
        if self._is_leaving:
            successor = self.best_successor()
            if successor is not None:
                self._send(successor, TimeoutNow(self.term))
            self._become_follower(self.term, None, now_ms)

    def _tell_gone(self, node: NodeId) -> None:
        if node not in self.progress and self._is_settled():
            self._send(node, Gone(self.term, self.log.last_index))
            self.dirty = True

    def best_successor(
        self, is_unfit: Callable[[NodeId], bool] = lambda _: False
    ) -> NodeId | None:
        """The voter that lacks least, among those heard lately and fit to lead."""
        candidates = [
            (self.progress[node].match, node)
            for node in self.membership.voters
            if node in self.progress
            and not self.progress[node].damage
            and (self.progress[node].is_heard or self.quiescent)
            and not is_unfit(node)
        ]
        return max(candidates)[1] if candidates else None

    def _try_transfer(self, to: NodeId, progress: Progress) -> None:
        if progress.match == self.log.last_index:
            self._send(to, TimeoutNow(self.term))
            self.dirty = True

    _HANDLERS: ClassVar[dict[type[Any], Callable[..., None]]] = {
        Vote: _on_vote,
        VoteReply: _on_vote_reply,
        Append: _on_append,
        AppendReply: _on_append_reply,
        Heartbeat: _on_heartbeat,
        HeartbeatReply: _on_heartbeat_reply,
        TimeoutNow: _on_timeout_now,
        Gone: _on_gone,
        ReadAsk: _on_read_ask,
        ReadAnswer: _on_read_answer,
    }


def _is_about_future(message: Message) -> bool:
    """Messages of a higher term that nobody has entered yet."""
    return (isinstance(message, Vote) and message.pre) or (
        isinstance(message, VoteReply) and message.pre and message.granted
    )


def _above(message: Append, committed: int) -> Append:
    """The part of an append that is above `committed`; unchanged where none is."""
    skip = committed - message.prev_index
    if skip > len(message.entries) or skip == 0:
        return message
    return attrs.evolve(
        message,
        prev_index=committed,
        prev_term=message.entries[skip - 1].term,
        entries=message.entries[skip:],
    )
