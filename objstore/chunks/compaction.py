"""Which segments are worth rewriting.

    nothing live                         remove: costs nothing
    live < LIVE_RATIO of a full segment  rewrite, the emptiest first
    else                                 leave

A segment cut short by a restart counts by its share of a *full* one, so that small ones
are merged.  Segments with damage are left alone: what is in them is kept for a person, or
until it was made again elsewhere and deleted here.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import attrs

# At one half, rewriting copies at most a byte for each byte of space that it wins.
LIVE_RATIO = 0.5


@attrs.frozen
class SegmentUse:
    """A segment, as far as it matters here."""

    number: int
    live_size: int  # Bytes of live extents.
    live_count: int
    is_settled: bool  # Sealed, and nothing is being written to it.
    is_damaged: bool  # Holds quarantined fragments, or bytes that nobody understands.


class Step(Enum):
    REMOVE = "remove"
    REWRITE = "rewrite"


def next_step(
    segments: Iterable[SegmentUse], *, segment_size: int
) -> tuple[Step, int] | None:
    """What to do next, and to which segment; None: nothing is worth it.

    The segment of the highest number is never chosen: while its file is there, its number
    cannot be given out a second time.
    """
    assert segment_size > 0
    known = list(segments)
    highest = max((segment.number for segment in known), default=0)
    chosen = [
        segment
        for segment in known
        if segment.is_settled
        and not segment.is_damaged
        and segment.number < highest
        and segment.live_size < LIVE_RATIO * segment_size
    ]
    if not chosen:
        return None
    best = min(chosen, key=lambda segment: (segment.live_size, segment.number))
    return (Step.REMOVE if best.live_count == 0 else Step.REWRITE), best.number
