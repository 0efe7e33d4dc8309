"""Members, and the rule by which news about one replaces what was known.

    later incarnation wins; within one incarnation  ALIVE < SUSPECT < DEAD < LEFT

Only a node itself raises its incarnation, to refute.  It begins at its start count << 20,
so that a restarted node overrides whatever is said of its former life.  What a node tells
about itself beside that (`meta`) has a version of its own within the incarnation: news of
it never clears a suspicion.

(Das et al. 2002, 4.2, where "confirm" is our DEAD and overrides everything; here a later
incarnation overrides it too, so that a node wrongly declared dead can come back.)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import attrs

from objstore.host.network import Address
from objstore.ids import NodeId

META_SIZE_MAX = 256  # Packed; three members fit in a packet.
MEMBERS_MAX = 4_096  # Four times the nodes a cluster is meant to have.
_START_COUNT_SHIFT = 20  # A million refutations a start.


class State(IntEnum):
    """What is believed of a member; the order is that of the merge rule."""

    ALIVE = 1
    SUSPECT = 2
    DEAD = 3
    LEFT = 4


UNKNOWN_BOOT = b""  # Of a process that only rumours told of.


@attrs.frozen
class Member:
    """A node as gossip knows it."""

    node: NodeId
    address: Address  # Of its cluster port: rpc and gossip.
    meta: Mapping[str, object]  # What it tells of itself.
    incarnation: int
    state: State
    boot_id: bytes  # Of its process, or UNKNOWN_BOOT.
    since_ms: int  # When the state was learnt here, on this node's monotonic clock.
    meta_version: int = 0
    packed_meta: bytes = attrs.field(default=b"\x80", repr=False)

    @property
    def is_up(self) -> bool:
        """Whether it takes part, as far as known: alive, or only suspected."""
        return self.state <= State.SUSPECT


def first_incarnation(start_count: int) -> int:
    """Where a node's incarnation begins at its `start_count`-th start."""
    return start_count << _START_COUNT_SHIFT


def start_count_of(incarnation: int) -> int:
    return incarnation >> _START_COUNT_SHIFT


def overrides(member: Member, state: State, incarnation: int) -> bool:
    """Whether news of `state` in `incarnation` replaces what is known of `member`."""
    if incarnation != member.incarnation:
        return incarnation > member.incarnation
    return state > member.state


def rumoured(member: Member, state: State, incarnation: int, now_ms: int) -> Member:
    """`member` as news of its state makes it, which names no process.

    Of a later start than we knew of, it is about a process that we know nothing else of.
    """
    is_same_life = start_count_of(incarnation) == start_count_of(member.incarnation)
    return attrs.evolve(
        member,
        state=state,
        incarnation=incarnation,
        boot_id=member.boot_id if is_same_life else UNKNOWN_BOOT,
        since_ms=now_ms,
    )


def is_news_of_meta(member: Member, incarnation: int, meta_version: int) -> bool:
    """Whether news of a living node tells more of it, without changing its state."""
    return (
        incarnation == member.incarnation
        and meta_version > member.meta_version
        and member.is_up
    )
