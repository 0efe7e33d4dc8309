"""What a replica must remember across a crash, beside its log."""

from __future__ import annotations

from enum import IntEnum

from objstore.frozen import frozen
from objstore.ids import NodeId


class Damage(IntEnum):
    """What a replica cannot vouch for.  Any but NONE: it neither votes nor campaigns.

    A replica is mended by a leader, which was elected without it: once it has that
    leader's log up to where it ended when the leader heard of the damage, it holds
    everything that it can ever have acknowledged.  (FAULTS R14; Alagappan et al. 2018)
    """

    NONE = 0
    NEW = 1  # Never caught up since it was made: it may have been destroyed before.
    LOG = 2  # Entries that it may have acknowledged are gone.
    # Its vote is gone as well: also every other voter must have answered the leader, as
    # then no candidate can be left that was given the forgotten vote.
    VOTE = 3


@frozen
class HardState:
    """Durable before anything that follows from it is said."""

    term: int = 0
    vote: NodeId | None = None  # Given in `term`.
    damage: Damage = Damage.NONE
    # At least as high as any membership known to be committed: whoever durably has an entry
    # that followed a membership must know that membership as well, or it would campaign
    # among members of old.
    commit: int = 0
