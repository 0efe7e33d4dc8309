"""The way from one set of voters to another, step by step.

    voters A            add B, C as learners    they receive the log, and do not count
    + learners B C      wait                    until both have (nearly) all of it
    joint A B C | A     enter                   decisions need both majorities; not while
                                                too few of the new ones are heard
    voters A B C        leave                   the leader does this by itself

Each step is one committed entry; a step is decided from the membership in force alone, so a
new leader, or the same request made again, goes on where the last one stopped.
Source: Raft, 6; Ongaro 2014, 4.3; etcd's confchange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from objstore.ids import NodeId
from objstore.raft.quorum import is_quorum
from objstore.raft.state_machine import Membership


class Step(Enum):
    """Where there is nothing to propose."""

    DONE = "done"
    WAIT = "wait"


def next_step(
    current: Membership,
    target: Sequence[NodeId],
    *,
    is_caught_up: Callable[[NodeId], bool],
    is_heard: Callable[[NodeId], bool],
) -> Membership | Step:
    """What to propose next so that the voters become `target` (sorted, not empty).

    is_heard: as of now.  Voters that can decide nothing among themselves are not
        given a group: it would be stuck until they come back.
    """
    if current.outgoing:
        return Step.WAIT
    wanted = tuple(target)
    if current.voters == wanted:
        if current.learners:
            return Membership(wanted)
        return Step.DONE
    missing = tuple(node for node in wanted if node not in current.voters)
    if missing != current.learners:
        return Membership(current.voters, learners=missing)
    heard = [node for node in wanted if is_heard(node)]
    is_able = is_quorum(Membership(wanted), heard)
    if is_able and all(is_caught_up(node) for node in missing):
        return Membership(wanted, outgoing=current.voters)
    return Step.WAIT
