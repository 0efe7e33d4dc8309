"""Majorities of a membership, simple or joint.

A joint membership has two sets of voters, and a decision needs a majority of each:

    voters    A B C D        outgoing    A B E        agreed on by A B C? yes, 3 of 4 and
                                                      2 of 3; by B C D? no, 1 of 3

With nobody to ask there is no majority.  Source: Raft, 6; etcd's quorum package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from itertools import repeat

from objstore.ids import NodeId
from objstore.raft.state_machine import Membership


class Verdict(Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def agreed(membership: Membership, reached: Mapping[NodeId, int]) -> int:
    """The highest number that a quorum has reached; who is absent has reached 0."""
    number = _majority_reached(membership.voters, reached)
    if membership.outgoing:
        number = min(number, _majority_reached(membership.outgoing, reached))
    return number


def is_quorum(membership: Membership, nodes: Collection[NodeId]) -> bool:
    return _has_majority(membership.voters, nodes) and (
        not membership.outgoing or _has_majority(membership.outgoing, nodes)
    )


def verdict(membership: Membership, votes: Mapping[NodeId, bool]) -> Verdict:
    """Count votes, True for granted and False for refused."""
    if is_quorum(membership, [node for node, granted in votes.items() if granted]):
        return Verdict.WON
    if not is_quorum(membership, _not_refused(membership, votes)):
        return Verdict.LOST
    return Verdict.PENDING


def _not_refused(membership: Membership, votes: Mapping[NodeId, bool]) -> list[NodeId]:
    everybody = (*membership.voters, *membership.outgoing)
    return [node for node in everybody if votes.get(node, True)]


def _has_majority(voters: Sequence[NodeId], nodes: Collection[NodeId]) -> bool:
    count = 0
    for node in voters:
        if node in nodes:
            count += 1
    return 2 * count > len(voters)


def _majority_reached(voters: Sequence[NodeId], reached: Mapping[NodeId, int]) -> int:
    if not voters:
        return 0
    falling = sorted(map(reached.get, voters, _ZEROS), reverse=True)
    return falling[len(falling) // 2]


_ZEROS = repeat(0)  # What who is absent has reached.
