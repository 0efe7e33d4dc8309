"""What a group's core wants done.  The driver carries effects out in the order given."""

from __future__ import annotations

from enum import Enum

from objstore.frozen import frozen
from objstore.ids import NodeId
from objstore.raft.hard_state import Damage, HardState
from objstore.raft.messages import Message
from objstore.raft.state_machine import Entry, Membership


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@frozen
class Send:
    """Send now; what rests on something durable is given out only when it is."""

    to: NodeId
    message: Message


@frozen
class Persist:
    """Write to the WAL, in this order; call `Core.persisted(sequence)` once durable."""

    sequence: int
    hard_state: HardState | None  # None: unchanged.
    mended: bool  # Damage found earlier is made good.
    cut: int | None  # Entries from here on are void.
    entries: list[Entry]


@frozen
class Apply:
    """Give these to the state machine; call `Core.applied(index of the last)`."""

    entries: list[Entry]
    membership: Membership  # In force after the last of them.


@frozen
class ReadsReady:
    """The state machine may be read for these requests."""

    requests: list[int]


@frozen
class ReadsFailed:
    """Leadership was lost before they could be answered."""

    requests: list[int]


@frozen
class RoleChanged:
    role: Role
    term: int
    leader: NodeId | None


@frozen
class SendSnapshot:
    """Send a snapshot to `to`; call `Core.snapshot_sent` when done or failed."""

    to: NodeId


@frozen
class MembershipChanged:
    membership: Membership


@frozen
class DamageChanged:
    """Damage was learned of, or (NONE) made good."""

    damage: Damage


@frozen
class Removed:
    """This replica is no member any more: destroy it, keep `hard_state` as tombstone."""

    hard_state: HardState


Effect = (
    Send
    | Persist
    | Apply
    | ReadsReady
    | ReadsFailed
    | RoleChanged
    | SendSnapshot
    | MembershipChanged
    | DamageChanged
    | Removed
)
