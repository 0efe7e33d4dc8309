"""What a Raft group replicates, as seen from outside: entries, membership, the machine.

The driver applies committed entries to a `StateMachine` in order; the machine keeps the
applied index, term and membership in the same atomic batch as the rows they led to, so a
restart knows exactly where to go on (R9).  `objstore.meta` implements the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Final, Protocol

import attrs

from objstore.frozen import frozen
from objstore.ids import NodeId


class EntryKind(IntEnum):
    """What an entry is for."""

    NOOP = 0  # A leader's first entry of its term.
    COMMAND = 1  # For the state machine.
    MEMBERSHIP = 2  # An encoded Membership.


# Asked for at each step of each entry.  A member looked for in its Enum costs ten times as
# much, and as much as a call, in Python 3.11.
MEMBERSHIP: Final = EntryKind.MEMBERSHIP


@frozen
class Entry:
    """One entry of a group's log."""

    index: int  # From 1.
    term: int
    kind: EntryKind
    data: bytes


@frozen
class Membership:
    """Who is in a group.  `outgoing` is not empty while a joint change is under way."""

    voters: tuple[NodeId, ...]  # Sorted.
    outgoing: tuple[NodeId, ...] = ()  # The old voters, in a joint membership.  Sorted.
    learners: tuple[NodeId, ...] = ()  # Receive the log, do not count.  Sorted.
    # Everybody who receives the log, and everybody whose word counts.  Sorted.
    members: tuple[NodeId, ...] = attrs.field(init=False, eq=False, repr=False)
    electors: tuple[NodeId, ...] = attrs.field(init=False, eq=False, repr=False)

    @members.default
    def _everybody(self) -> tuple[NodeId, ...]:
        return sorted_nodes((*self.voters, *self.outgoing, *self.learners))

    @electors.default
    def _all_voters(self) -> tuple[NodeId, ...]:
        return sorted_nodes((*self.voters, *self.outgoing))


def sorted_nodes(nodes: Iterable[NodeId]) -> tuple[NodeId, ...]:
    return tuple(sorted(set(nodes)))


@frozen
class Applied:
    """How far a state machine is."""

    index: int
    term: int  # Of the entry at `index`.
    membership: Membership  # In force after `index`.


class Install(Protocol):
    """A snapshot on its way in.  What is fed stays invisible until `commit`."""

    def feed(self, piece: bytes) -> None: ...

    def commit(self, applied: Applied) -> None:
        """Put the snapshot in place of all rows, atomically with `applied`; durable."""
        ...

    def abort(self) -> None: ...


class StateMachine(Protocol):
    """One replica's state of one group.  Calls block for microseconds, unless said."""

    def applied(self) -> Applied:
        """(0, 0, no members) where nothing was ever applied."""
        ...

    def apply(self, entries: Sequence[Entry], membership: Membership) -> list[object]:
        """Apply entries in one atomic batch; one result an entry (None but for COMMAND).

        entries: contiguous, the first at applied().index + 1.
        membership: in force after the last of them.
        Deterministic: a command that fails returns its error as a result; an exception
        is a bug or a broken store and ends the process.
        """
        ...

    def durable_index(self) -> int:
        """The applied index that a crash now would leave: the WAL is kept above it."""
        ...

    def snapshot(self) -> Iterator[bytes]:
        """The state at this moment, in pieces of at most SNAPSHOT_PIECE_SIZE.

        The caller exhausts or closes the iterator within a minute.
        """
        ...

    def install(self) -> Install:
        """Begin to receive a snapshot; an earlier unfinished one is dropped."""
        ...

    def destroy(self) -> None:
        """Delete all rows of this replica: it was removed from the group."""
        ...
