"""Upkeep decisions, pure: who is dead or back, which buckets stand half-way, who leads.

Each keeps what it has seen and is told the time; nothing is done here.

    a member dead for the grace time    -> "dead" in the next layout: loses votes and data
    one marked dead that is back        -> "active", after it has been alive for a while
    a bucket not OPEN for some seconds  -> whoever worked on it has gone: go on with it
    a group that came back soon after   -> keep it longer before handing it over again
    it was handed over
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from objstore.ids import BucketId, NodeId
from objstore.meta.values import BucketRecord, BucketState
from objstore.ring.layout import Layout, Member

REVIVE_AFTER_MS = 30_000  # Long enough that a flapping node stays out (F21).
ABANDONED_AFTER_MS = 30_000  # Longer than any request works on a bucket's steps.
HOLD_MIN_MS = 2_000
HOLD_MAX_MS = 600_000
_RETURN_WINDOW_MS = 60_000
_VOTERS_KEPT = 3  # The fewest that outlive the loss of one.


@attrs.define
class Deaths:
    """Which members' states in the layout should change, by what gossip says of them."""

    grace_ms: int
    _dead_since_ms: dict[NodeId, int] = attrs.field(factory=dict)
    _alive_since_ms: dict[NodeId, int] = attrs.field(factory=dict)

    def observe(
        self, layout: Layout, is_alive: Callable[[NodeId], bool], now_ms: int
    ) -> None:
        """Note who is alive now."""
        nodes = {member.node for member in layout.members}
        for known in (self._dead_since_ms, self._alive_since_ms):
            for node in known.keys() - nodes:
                del known[node]
        for node in nodes:
            alive, other = self._alive_since_ms, self._dead_since_ms
            if not is_alive(node):
                alive, other = other, alive
            alive.setdefault(node, now_ms)
            other.pop(node, None)

    def changes(self, layout: Layout, now_ms: int) -> list[Member]:
        """The members whose state is wrong, with the right one.

        Nobody is given up while half of the voting members seem dead: then it is rather
        we who are cut off, and there is nobody to move anything to.  Nor is anybody where
        fewer than three voters would remain: three with one dead lose nothing with the
        next disk, one alone would.
        """
        changed = [
            attrs.evolve(member, state="dead" if member.votes else "active")
            for member in layout.members
            if self._is_due(member, now_ms)
        ]
        voting = [member for member in layout.members if member.votes]
        silent = sum(1 for member in voting if member.node in self._dead_since_ms)
        replaceable = max(0, len(voting) - min(_VOTERS_KEPT, layout.voters.width))
        given_up = [member for member in changed if member.state == "dead"][:replaceable]
        if 2 * silent >= len(voting):
            given_up = []
        return given_up + [member for member in changed if member.state == "active"]

    def _is_due(self, member: Member, now_ms: int) -> bool:
        if member.state == "active":
            since_ms = self._dead_since_ms.get(member.node)
            return since_ms is not None and now_ms - since_ms >= self.grace_ms
        if member.state == "dead":
            since_ms = self._alive_since_ms.get(member.node)
            return since_ms is not None and now_ms - since_ms >= REVIVE_AFTER_MS
        return False


@attrs.define
class HalfDone:
    """Buckets that have stood in the middle of their creation or deletion."""

    _since_ms: dict[tuple[BucketId, int, BucketState], int] = attrs.field(factory=dict)

    def abandoned(self, records: Iterable[BucketRecord], now_ms: int) -> list[BucketRecord]:
        """Those that nobody has moved on for ABANDONED_AFTER_MS."""
        standing = {
            (r.bucket, r.config_version, r.state): r
            for r in records
            if r.state is not BucketState.OPEN
        }
        self._since_ms = {key: self._since_ms.get(key, now_ms) for key in standing}
        return [
            record
            for key, record in standing.items()
            if now_ms - self._since_ms[key] >= ABANDONED_AFTER_MS
        ]

    def worked_on(self, record: BucketRecord, now_ms: int) -> None:
        """Leave a record alone for a while: somebody tried just now."""
        self._since_ms[record.bucket, record.config_version, record.state] = now_ms


@attrs.define
class _Hold:
    led_since_ms: int
    last_seen_ms: int
    hold_ms: int = HOLD_MIN_MS
    given_up_ms: int | None = None


@attrs.define
class Holds:
    """How long this node keeps a group before it hands it to the preferred leader.

    A group that comes back soon was given up by the other for a reason (its clock, its
    disk): each time it is kept twice as long.
    """

    _holds: dict[int, _Hold] = attrs.field(factory=dict)

    def may_hand_over(self, group: int, now_ms: int) -> bool:
        """Ask about once a second while leading `group`; True: hand it over now."""
        hold = self._holds.get(group)
        if hold is None:
            self._holds[group] = _Hold(now_ms, now_ms)
            return False
        if hold.given_up_ms is not None and now_ms - hold.last_seen_ms >= HOLD_MIN_MS:
            is_return = now_ms - hold.given_up_ms < _RETURN_WINDOW_MS + hold.hold_ms
            hold.hold_ms = min(2 * hold.hold_ms, HOLD_MAX_MS) if is_return else HOLD_MIN_MS
            hold.led_since_ms, hold.given_up_ms = now_ms, None
        hold.last_seen_ms = now_ms
        if now_ms - hold.led_since_ms < hold.hold_ms:
            return False
        hold.given_up_ms = now_ms
        return True
