"""Intents of this node's writes: begun a few ahead where writes follow each other.

    first write into a slot     BeginIntent of one
    those that follow soon      BeginIntent of one and 1, 3, 7 spares: the next writes
                                take those, and nothing has to be proposed

An intent costs as much as any entry of the log, an eighth of what a body of 1 MiB costs in
all; eight in one entry cost little more than one.  Each serves one write all the same: it
is used up by that commit, or dropped with its chunks.  One that nobody takes covers no
chunk, and expires.

Writes that come together and find none begin one each, and only the first of them spares:
the others miss the same ones.

What a fence would have said when the write began, its commit says: the bucket is another
one, or gone.  A spare is of one config version, so a node that knows of a newer one takes
none of the old.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

import attrs

from objstore.frozen import frozen
from objstore.ids import IntentId, Slot
from objstore.meta.commands import SPARES_MAX, BucketRef

# Well below INTENT_LIFE_MS: who takes one has nearly all of its life.
SPARE_LIFE_S = 60.0
PLACES_MAX = 1024  # Slots of buckets that are remembered; each has SPARES_MAX at most.

Place = tuple[BucketRef, Slot]


@frozen
class BegunIntent:
    """An intent that the slot's shard knows."""

    intent: IntentId
    begun_at_s: float  # Trio time, at the earliest.


@attrs.define
class _Spares:
    intents: deque[BegunIntent] = attrs.field(factory=deque)
    coming: int = 0  # Of entries that are on their way.
    enough: int = 0  # So many are to be there, or coming.
    used_at_s: float = 0.0


class SpareIntents:
    """What this node has begun ahead.  Of the event loop alone."""

    def __init__(self) -> None:
        self._places: OrderedDict[Place, _Spares] = OrderedDict()

    def take(self, place: Place, now_s: float) -> BegunIntent | None:
        """A spare that nobody else has; None: one must be begun."""
        spares = self._places.get(place)
        if spares is None:
            return None
        while spares.intents:
            begun = spares.intents.popleft()
            if now_s - begun.begun_at_s < SPARE_LIFE_S:
                spares.used_at_s = now_s
                return begun
            spares.enough = 0  # Too many were begun the last time.
        return None

    def order(self, place: Place, now_s: float) -> int:
        """How many spares to begin along with the intent of a write that found none.

        `deliver` must follow, whatever comes of it.
        """
        spares = self._places.get(place)
        if spares is None:
            spares = self._places[place] = _Spares()
            if len(self._places) > PLACES_MAX:
                self._places.popitem(last=False)
        elif now_s - spares.used_at_s >= SPARE_LIFE_S:
            spares.enough = 0
        elif not spares.coming:  # Else others miss those that are on their way already.
            spares.enough = min(2 * spares.enough + 1, SPARES_MAX)
        self._places.move_to_end(place)
        spares.used_at_s = now_s
        count = max(0, spares.enough - spares.coming)
        spares.coming += count
        return count

    def deliver(self, place: Place, count: int, begun: Sequence[BegunIntent]) -> None:
        """What became of `count` that were ordered: they are `begun`, or may not be."""
        spares = self._places.get(place)
        if spares is not None:  # Else it was forgotten meanwhile: they expire.
            spares.coming = max(0, spares.coming - count)
            spares.intents.extend(begun[: SPARES_MAX - len(spares.intents)])

    def forget(self, place: Place) -> None:
        """Those of a place are not what they were taken for: time has passed unseen."""
        self._places.pop(place, None)
