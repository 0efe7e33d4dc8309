"""One follower, as its leader sees it.

    PROBE       one message at a time, until it is known where the logs agree
    REPLICATE   messages are pipelined, bounded by the window in flight
    SNAPSHOT    nothing but heartbeats, until a snapshot has been sent

               refused, lost,                      entries are gone
      .-------- silent <-------- REPLICATE -------------------.
      v                              ^                        v
    PROBE ----- accepted ------------'                    SNAPSHOT
      ^ '------ entries are gone ----------------------------'|
      '-------- sent or failed -------------------------------'

Source: etcd's tracker (progress.go, inflights.go).
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

import attrs

from objstore.raft.hard_state import Damage


class Stage(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


# As `state_machine.MEMBERSHIP`: asked for with each message.
PROBE: Final = Stage.PROBE
REPLICATE: Final = Stage.REPLICATE
SNAPSHOT: Final = Stage.SNAPSHOT
_LOST_VOTE: Final = int(Damage.VOTE)


@attrs.define
class Progress:
    """State of one follower; indexes are of its leader's log."""

    next: int  # The entry to send next.  Invariant: match < next.
    match: int = 0  # Known to be durable there, and to agree.
    stage: Stage = PROBE
    probing: bool = False  # PROBE: a message is out; one more with each heartbeat reply.
    snapshot_index: int = 0  # SNAPSHOT: what is being sent.
    commit: int = 0  # How far it knows entries to be committed.
    sent_commit: int = 0  # The highest commit index it was told by an append.

    active: bool = False  # Heard of since the last check of the quorum.
    was_active: bool = False  # Between the one before and the last.
    heard_ms: int = 0
    sent_ms: int = -(10**15)  # When it was last sent an append.
    beat_ms: int = -(10**15)  # Likewise a heartbeat.
    round: int = 0  # The newest heartbeat round it has answered.
    sent_round: int = 0  # The round that was newest when entries were last sent.
    match_round: int = 0  # The round that was newest when `match` last grew.
    quiescent: bool = False  # It said that it has fallen silent.

    damage: int = 0  # What it said it has lost (a Damage).
    mend: int = 0  # It is whole again with our log up to here; 0: not damaged.
    lost: bool = False  # It has less than it acknowledged, and does not know it yet.
    mend_round: int = 0  # A lost vote: everybody must have answered this round.

    # (last index, size) of each message in flight.
    _window: deque[tuple[int, int]] = attrs.field(factory=deque)
    _window_size: int = 0

    @property
    def forgot_its_term(self) -> bool:
        """Its answers make no quorum: it may have promised a later leader otherwise.

        What it acknowledges then could be acknowledged to two leaders of one index.
        """
        return self.damage >= _LOST_VOTE

    @property
    def is_heard(self) -> bool:
        """Heard of lately; not only since a check of the quorum that was just now."""
        return self.active or self.was_active

    def is_full(self, *, messages_max: int, size_max: int) -> bool:
        return len(self._window) >= messages_max or self._window_size >= size_max

    def sent(self, last: int, size: int, *, round_: int) -> None:
        """Note that entries up to `last` have been sent."""
        self.sent_round = round_
        if self.stage is REPLICATE:
            self.next = last + 1
            self._window.append((last, size))
            self._window_size += size
        else:
            self.probing = True

    def accepted(self, index: int, *, round_: int) -> bool:
        """The follower has everything up to `index`; says whether that is news."""
        news = index > self.match
        if news:
            self.match = index
            self.match_round = round_
        if index >= self.next:
            self.next = index + 1
        window = self._window
        while window and window[0][0] <= index:
            self._window_size -= window.popleft()[1]
        if self.stage is REPLICATE:
            return news
        if self.stage is PROBE:
            self.become_replicate()
        elif index >= self.snapshot_index:
            self.become_probe()
            self.become_replicate()
        return news

    def refused(self, index: int, hint: int) -> bool:
        """The append behind `index` did not fit; says whether to try a lower one.

        Late refusals of what has been settled since are ignored.
        """
        if self.stage is REPLICATE:
            if index <= self.match:
                return False
            self.become_probe()
            self.next = max(self.match + 1, min(index, hint + 1))
            return True
        if self.stage is SNAPSHOT or index != self.next - 1:
            return False
        self.next = max(self.match + 1, min(index, hint + 1))
        self.probing = False
        return True

    def become_probe(self) -> None:
        """Find out again where the logs agree; what was in flight may be lost."""
        if self.stage is SNAPSHOT:
            self.next = max(self.match, self.snapshot_index) + 1
        else:
            self.next = self.match + 1
        self.stage = PROBE
        self._clear()

    def become_replicate(self) -> None:
        self.stage = REPLICATE
        self.next = self.match + 1
        self._clear()

    def become_snapshot(self, index: int) -> None:
        self.stage = SNAPSHOT
        self.snapshot_index = index
        self._clear()

    def snapshot_failed(self) -> None:
        """Begin again after the next heartbeat reply."""
        if self.stage is SNAPSHOT:
            self.snapshot_index = 0
            self.become_probe()
            self.probing = True

    def forget(self, *, next_: int) -> None:
        """It has lost what it acknowledged: begin as with a new follower."""
        self.match = 0
        self.commit = 0
        self.snapshot_index = 0
        self.become_probe()
        self.next = max(1, next_)

    def _clear(self) -> None:
        self._window.clear()
        self._window_size = 0
        self.probing = False
        self.snapshot_index = self.snapshot_index if self.stage is SNAPSHOT else 0
