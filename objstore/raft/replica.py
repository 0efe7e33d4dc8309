"""One group on this node, as the driver holds it: its core, its machine, and who waits.

propose() --> proposals --appended--> appended --applied--> answered
                  |                       |
                  '--- not leader --------'--- leadership lost, not applied in time:
                   nothing has happened        the outcome is unknown
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial

import attrs

from objstore.errors import Unavailable
from objstore.ids import NodeId
from objstore.raft.answers import Answer
from objstore.raft.core import Core
from objstore.raft.errors import NotLeader
from objstore.raft.state_machine import Entry, StateMachine


@attrs.define(eq=False)
class Proposal:
    data: bytes
    answer: Answer
    began: float  # In seconds of trio's clock.
    term: int = 0  # In which it was appended.

    def is_late(self, now_ms: int) -> bool:
        due_ms = self.answer.due_ms
        return due_ms is not None and due_ms <= now_ms

    def fail_unknown(self) -> None:
        self.answer.fail(
            partial(
                Unavailable,
                "the outcome was not known in time",
                retry_after_ms=100,
                unknown=True,
            )
        )


@attrs.define(eq=False)
class Replica:
    group: int
    core: Core
    machine: StateMachine

    proposals: deque[Proposal] = attrs.field(factory=deque)  # Not appended yet.
    proposals_size: int = 0
    appended: dict[int, Proposal] = attrs.field(factory=dict)  # By index.
    next_read: Answer | None = None  # Joined by reads until the next pass.
    reads: dict[int, Answer] = attrs.field(factory=dict)  # By request.
    reads_waiting: int = 0
    lost_ms: int | None = None  # When leadership was lost with proposals unsettled.
    change: tuple[NodeId, ...] | None = None  # The voters of the change under way.
    changes_waiting: int = 0
    watch: Answer | None = None  # Of those who wait for it to be worked on.

    def note_moved(self) -> None:
        """The group has been worked on: let those look who wait for something."""
        if self.watch is not None:
            self.watch.succeed()
            self.watch = None

    async def moved(self) -> None:
        """Wait until the group has been worked on."""
        if self.watch is None:
            self.watch = Answer()
        await self.watch.wait()

    def propose(self, proposal: Proposal) -> None:
        self.proposals.append(proposal)
        self.proposals_size += len(proposal.data)

    def append_proposals(self, now_ms: int, *, size_max: int) -> None:
        """Hand to the core what waits, about `size_max` bytes of it at most."""
        wanted: list[Proposal] = []
        datas: list[bytes] = []
        count = size = 0
        for proposal in self.proposals:
            if size > size_max:
                break
            count += 1
            size += len(proposal.data)
            if proposal.answer.is_awaited:
                wanted.append(proposal)
                datas.append(proposal.data)
        if wanted:
            first = self.core.propose(datas, now_ms)
            if first is None:
                return  # Later: when some are committed, or a transfer has ended.
            for index, proposal in enumerate(wanted, first):
                proposal.term = self.core.term
                late = self.appended.get(index)
                if late is not None:
                    late.fail_unknown()
                self.appended[index] = proposal
        self.proposals_size -= size
        for _ in range(count):
            self.proposals.popleft()

    def settle(self, entry: Entry, result: object) -> Proposal | None:
        """Answer the proposal that `entry` was, if it came from here; returns it."""
        proposal = self.appended.pop(entry.index, None)
        if proposal is None:
            return None
        if proposal.term != entry.term:
            # Another entry took its place for good: it never happened.
            proposal.answer.fail(partial(NotLeader, self.core.leader))
            return None
        proposal.answer.succeed(result)
        return proposal

    def fail_proposals(self) -> None:
        """What was not appended has not happened."""
        while self.proposals:
            proposal = self.proposals.popleft()
            proposal.answer.fail(partial(NotLeader, self.core.leader))
        self.proposals_size = 0

    def fail_appended(self) -> None:
        for proposal in self.appended.values():
            proposal.fail_unknown()
        self.appended.clear()
        self.lost_ms = None

    def resume_appended(self) -> None:
        """We lead again: wait on for what is still in the log.

        The rest may be in that of another, and nothing here would ever tell.
        """
        self.lost_ms = None
        for index, proposal in list(self.appended.items()):
            if self.core.log.term(index) != proposal.term:
                del self.appended[index]
                proposal.fail_unknown()

    def fail_late(self, now_ms: int) -> None:
        """Give up what has waited for as long as its caller allowed."""
        for request, answer in list(self.reads.items()):
            if answer.due_ms is not None and answer.due_ms <= now_ms:
                del self.reads[request]
                answer.fail(partial(Unavailable, "no read point in time"))
        for index, proposal in list(self.appended.items()):
            if proposal.is_late(now_ms):
                del self.appended[index]
                proposal.fail_unknown()
        for proposal in self.proposals:  # Dropped there once its turn comes.
            if proposal.is_late(now_ms):
                proposal.answer.fail(partial(Unavailable, "not proposed in time"))

    def fail_reads(self, requests: Iterable[int]) -> None:
        for request in requests:
            answer = self.reads.pop(request, None)
            if answer is not None:  # Else it was given up before.
                answer.fail(partial(NotLeader, self.core.leader))

    def fail_all(self) -> None:
        """Nobody is answered here any more."""
        self.fail_proposals()
        self.fail_appended()
        self.fail_reads(list(self.reads))
        if self.next_read is not None:
            self.next_read.fail(partial(NotLeader, self.core.leader))
            self.next_read = None
        self.note_moved()
