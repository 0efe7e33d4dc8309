"""Linearizable reads by asking a quorum: ReadIndex in rounds.

    requests come        round r is sent          a quorum has answered r
    -----------------+----------------------+----------------------------+------>
    they wait        | all that wait join r,|  commit index of the moment |
                     | none that come later |  r was sent is safe to read |

A follower that is to be read asks its leader in the same way: its round is one ask, and
the answer names the index.  For the leader such an ask is a request like any other; that
its sender vouches for the term spares it, in a group of three, the round.

A round's number is never used twice in a term, answers name (term, round), and an answer
to r is one to every earlier round as well.  So an answer that was sent before a request
came can never serve it (R4).  Source: Ongaro 2014, 6.4; etcd issues 7331 and 20418.
"""

from __future__ import annotations

from collections import deque

import attrs

from objstore.frozen import frozen
from objstore.ids import NodeId


@frozen
class Ask:
    """A request that a follower sent to its leader."""

    node: NodeId
    number: int


Request = int | Ask  # An int: from this node.


@attrs.define
class Round:
    number: int
    index: int  # The commit index when it was sent; a follower's: not known yet.
    requests: list[Request]


@attrs.define
class ReadOnly:
    """The requests of one term, of its leader or of one follower."""

    waiting: list[Request] = attrs.field(factory=list)  # For the next round.
    # Answered once the state machine is there: (index, requests).
    ready: deque[tuple[int, list[Request]]] = attrs.field(factory=deque)
    _rounds: deque[Round] = attrs.field(factory=deque)

    @property
    def rounds_in_flight(self) -> int:
        return len(self._rounds)

    def begin(self, number: int, index: int) -> None:
        """All that wait go with round `number`, which is about to be sent."""
        assert not self._rounds or number > self._rounds[-1].number
        self._rounds.append(Round(number, index, self.waiting))
        self.waiting = []

    def confirm(self, number: int, index: int = 0) -> None:
        """Round `number`, or a later one, has been answered.

        index: what a follower's leader said; never below what it said before.
        """
        while self._rounds and self._rounds[0].number <= number:
            done = self._rounds.popleft()
            self.ready.append((max(done.index, index), done.requests))

    def take(self, applied: int) -> list[tuple[int, list[Request]]]:
        """(index, requests) that may be answered from a state machine at `applied`."""
        taken: list[tuple[int, list[Request]]] = []
        while self.ready and self.ready[0][0] <= applied:
            taken.append(self.ready.popleft())
        return taken

    def drop(self) -> list[int]:
        """Give up all requests: the term is over.  Returns those of this node."""
        requests = [r for _, group in self.ready for r in group]
        requests += [r for round_ in self._rounds for r in round_.requests]
        requests += self.waiting
        self.ready.clear()
        self._rounds.clear()
        self.waiting = []
        return [request for request in requests if isinstance(request, int)]

    @property
    def is_empty(self) -> bool:
        return not (self.waiting or self._rounds or self.ready)
