"""A group of cores in one hand: every message, sync and tick happens when the test says."""

from collections.abc import Callable, Sequence
from random import Random

import attrs

from objstore.ids import NodeId
from objstore.raft.core import Core
from objstore.raft.effects import (
    Apply,
    Effect,
    Persist,
    ReadsFailed,
    ReadsReady,
    Removed,
    Send,
    SendSnapshot,
)
from objstore.raft.hard_state import HardState
from objstore.raft.log import Log
from objstore.raft.messages import Message, encode_membership
from objstore.raft.options import Options
from objstore.raft.state_machine import Applied, Entry, EntryKind, Membership

A, B, C, D, E = (NodeId(letter * 16) for letter in "abcde")
OPTIONS = Options(quiesce=False)
NOWHERE = Applied(0, 0, Membership(()))


def founding(*voters: NodeId) -> Entry:
    return Entry(1, 1, EntryKind.MEMBERSHIP, encode_membership(Membership(tuple(voters))))


def command(index: int, term: int, data: bytes = b"x") -> Entry:
    return Entry(index, term, EntryKind.COMMAND, data)


@attrs.define(eq=False)
class Peer:
    """A core with what a driver would keep for it."""

    core: Core
    hard_state: HardState  # Durable, like `entries`.
    entries: list[Entry]
    applied: Applied = NOWHERE
    commands: list[bytes] = attrs.field(factory=list)
    persists: list[Persist] = attrs.field(factory=list)  # Not durable yet.
    syncs: bool = True  # Whether a Persist is durable at once.
    ready: list[int] = attrs.field(factory=list)
    failed: list[int] = attrs.field(factory=list)
    snapshots: list[NodeId] = attrs.field(factory=list)
    removed: HardState | None = None


@attrs.define(eq=False, slots=False)
class Group:
    peers: dict[NodeId, Peer] = attrs.field(factory=dict)
    flying: list[tuple[NodeId, NodeId, Message]] = attrs.field(factory=list)
    cut: set[tuple[NodeId, NodeId]] = attrs.field(factory=set)
    dropped: list[tuple[NodeId, NodeId, Message]] = attrs.field(factory=list)
    options: Options = OPTIONS
    now_ms: int = 0
    dead: set[NodeId] = attrs.field(factory=set)

    def add(
        self,
        node: NodeId,
        *voters: NodeId,
        term: int = 1,
        entries: Sequence[Entry] = (),
        hard_state: HardState | None = None,
    ) -> Core:
        log = list(entries) or ([founding(*voters)] if voters else [])
        peer = Peer(None, hard_state or HardState(term), log)  # type: ignore[arg-type]
        self.peers[node] = peer
        self.start(node)
        return peer.core

    def start(self, node: NodeId) -> Core:
        """(Re)start from what is durable; the state machine begins anew."""
        peer = self.peers[node]
        peer.persists.clear()
        peer.applied, peer.commands = Applied(0, 0, Membership(())), []
        log = Log(offset=0, offset_term=0, entries=list(peer.entries))
        log.committed = min(peer.hard_state.commit, log.last_index)
        peer.core = Core(
            group=1,
            node=node,
            hard_state=peer.hard_state,
            log=log,
            membership=Membership(()),
            options=self.options,
            random=Random(ord(node[0])),
            is_alive=lambda other: other not in self.dead,
            now_ms=self.now_ms,
        )
        self.drain(node)
        return peer.core

    def __getitem__(self, node: NodeId) -> Core:
        return self.peers[node].core

    # What a driver does.

    def drain(self, node: NodeId) -> list[Effect]:
        peer = self.peers[node]
        done: list[Effect] = []
        while peer.core.dirty:
            for effect in peer.core.take():
                done.append(effect)
                self._carry_out(node, peer, effect)
        return done

    def _carry_out(self, node: NodeId, peer: Peer, effect: Effect) -> None:
        match effect:
            case Send(to, message):
                self.flying.append((node, to, message))
            case Persist():
                peer.persists.append(effect)
                if peer.syncs:
                    self.sync(node)
            case Apply(entries, membership):
                for entry in entries:
                    assert entry.index == peer.applied.index + 1
                    peer.applied = Applied(entry.index, entry.term, membership)
                    if entry.kind is EntryKind.COMMAND:
                        peer.commands.append(entry.data)
                peer.core.applied(entries[-1].index, self.now_ms)
            case ReadsReady(requests):
                peer.ready += requests
            case ReadsFailed(requests):
                peer.failed += requests
            case SendSnapshot(to):
                peer.snapshots.append(to)
            case Removed(hard_state):
                peer.removed = hard_state
            case _:
                pass

    def sync(self, node: NodeId) -> None:
        """Everything handed over so far becomes durable."""
        peer = self.peers[node]
        while peer.persists:
            effect = peer.persists.pop(0)
            if effect.hard_state is not None:
                peer.hard_state = effect.hard_state
            if effect.cut is not None:
                del peer.entries[effect.cut - 1 :]
            for entry in effect.entries:
                del peer.entries[entry.index - 1 :]
                peer.entries.append(entry)
            peer.core.persisted(effect.sequence, self.now_ms)
        self.drain(node)

    # What a test does.

    def deliver(
        self, wanted: Callable[[NodeId, NodeId, Message], bool] = lambda *_: True
    ) -> int:
        """Deliver what is flying and wanted, once; the rest stays."""
        flying, self.flying = self.flying, []
        count = 0
        for sender, to, message in flying:
            if (sender, to) in self.cut or to not in self.peers:
                self.dropped.append((sender, to, message))
            elif wanted(sender, to, message):
                self.give(sender, to, message)
                count += 1
            else:
                self.flying.append((sender, to, message))
        return count

    def give(self, sender: NodeId, to: NodeId, message: Message) -> None:
        self[to].on_message(sender, message, self.now_ms)
        self.drain(to)

    def settle(self) -> None:
        """Deliver until nobody has anything to say."""
        for _ in range(500):
            if not self.deliver():
                return
        raise AssertionError("it never ends")

    def tick(self, *nodes: NodeId, ms: int = 100) -> None:
        """Let time go by for `nodes` (or all), without delivering anything."""
        self.now_ms += ms
        for node in nodes or tuple(self.peers):
            self[node].on_tick(self.now_ms)
            self.drain(node)

    def run(self, ms: int) -> None:
        """Let time go by for all, and everything arrive."""
        for _ in range(ms // 100):
            self.tick()
            self.settle()

    def elect(self, node: NodeId) -> None:
        """Make `node` the leader, as far as the others allow: its patience ends now."""
        self.now_ms += 10_000
        for other, peer in self.peers.items():
            peer.core._restart_election_timer(self.now_ms)
            if other != node:
                peer.core._heard_ms = -(10**9)
        self[node]._election_due_ms = self.now_ms
        self.tick(node, ms=0)
        self.settle()

    def propose(self, node: NodeId, *datas: bytes) -> int | None:
        index = self[node].propose(list(datas), self.now_ms)
        self.drain(node)
        return index

    def read(self, node: NodeId, request: int) -> bool:
        taken = self[node].read_index(request, self.now_ms)
        self.drain(node)
        return taken

    def change(self, node: NodeId, membership: Membership) -> int | None:
        index = self[node].propose_membership(membership, self.now_ms)
        self.drain(node)
        return index

    def isolate(self, *nodes: NodeId) -> None:
        others = [node for node in (A, B, C, D, E) if node not in nodes]
        for node in nodes:
            self.cut |= {(node, other) for other in others}
            self.cut |= {(other, node) for other in others}

    def heal(self) -> None:
        self.cut.clear()

    def leaders(self) -> list[NodeId]:
        return [node for node, peer in self.peers.items() if peer.core.is_leader]


def group_of(*voters: NodeId, options: Options = OPTIONS) -> Group:
    group = Group(options=options)
    for node in voters:
        group.add(node, *voters)
    return group


def led(*voters: NodeId, options: Options = OPTIONS) -> Group:
    """A group whose first voter leads."""
    group = group_of(*voters, options=options)
    group.elect(voters[0])
    assert group.leaders() == [voters[0]]
    return group
