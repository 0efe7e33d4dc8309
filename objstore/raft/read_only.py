"""Linearizable reads by asking a quorum: ReadIndex in rounds.

    requests come        round r is sent          a quorum has answered r
    -----------------+----------------------+----------------------------+------>
    they wait        | all that wait join r,|  commit index of the moment |
                     | none that come later |  r was sent is safe to read |

A round's number is never used twice in a term, answers name (term, round), and an answer
to r is one to every earlier round as well.  So an answer that was sent before a request
came can never serve it (R4).  Source: Ongaro 2014, 6.4; etcd issues 7331 and 20418.
"""

from __future__ import annotations

from collections import deque

import attrs


@attrs.define
class Round:
    number: int
    index: int  # The commit index when it was sent.
    requests: list[int]


@attrs.define
class ReadOnly:
    """The requests of one leader's term."""

    waiting: list[int] = attrs.field(factory=list)  # For the next round.
    # Answered once the state machine is there: (index, requests).
    ready: deque[tuple[int, list[int]]] = attrs.field(factory=deque)
    _rounds: deque[Round] = attrs.field(factory=deque)

    @property
    def rounds_in_flight(self) -> int:
        return len(self._rounds)

    def begin(self, number: int, index: int) -> None:
        """All that wait go with round `number`, which is about to be sent."""
        assert not self._rounds or number > self._rounds[-1].number
        self._rounds.append(Round(number, index, self.waiting))
        self.waiting = []

    def confirm(self, number: int) -> None:
        """A quorum has answered round `number`, or a later one."""
        while self._rounds and self._rounds[0].number <= number:
            done = self._rounds.popleft()
            self.ready.append((done.index, done.requests))

    def take(self, applied: int) -> list[int]:
        """The requests that may be answered from a state machine at `applied`."""
        requests: list[int] = []
        while self.ready and self.ready[0][0] <= applied:
            requests += self.ready.popleft()[1]
        return requests

    def drop(self) -> list[int]:
        """Give up all requests: leadership is lost."""
        requests = [r for _, group in self.ready for r in group]
        requests += [r for round_ in self._rounds for r in round_.requests]
        requests += self.waiting
        self.ready.clear()
        self._rounds.clear()
        self.waiting = []
        return requests

    @property
    def is_empty(self) -> bool:
        return not (self.waiting or self._rounds or self.ready)
