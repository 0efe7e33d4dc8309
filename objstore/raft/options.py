"""What shapes a group's behaviour: the times and bounds of core and driver.

Two times come from the operator (`objstore.config.RaftConfig`); the rest are bounds that
nobody should need to touch, gathered here so that tests can make them small.
"""

from __future__ import annotations

import attrs

from objstore.config import RaftConfig
from objstore.limits import ENTRY_SIZE_MAX, FRAME_HEADER_SIZE_MAX, FRAME_SIZE_MAX
from objstore.units import KiB, MiB


@attrs.frozen(kw_only=True)
class Options:
    """Times in milliseconds, sizes in bytes."""

    heartbeat_ms: int = 100
    # A follower campaigns after one to two of these without a word from its leader; a
    # leader steps down when it has not heard a quorum for one of these.
    election_timeout_ms: int = 1000
    # A group with nothing to say falls silent after so long ...
    quiesce_after_ms: int = 1000
    # ... and says one word so often, in case the failure detector is mistaken.
    quiesce_refresh_ms: int = 60_000
    quiesce: bool = True

    # One message of entries: amortises the frame, and does not hold up a heartbeat long.
    append_size_max: int = 256 * KiB
    append_entries_max: int = 512
    # Sent and not acknowledged, per follower: a long fat link is kept busy, a dead one
    # costs no more than this.
    in_flight_messages_max: int = 64
    in_flight_size_max: int = 4 * MiB
    # Appended and not committed, per group: a leader without a quorum takes no more.
    uncommitted_size_max: int = 8 * MiB
    # Waiting for the WAL, over all groups: beyond it the disk is too slow for more.
    writes_size_max: int = 64 * MiB
    # Of the WAL's segments.  It grows this far only where a flush of the state machines
    # hangs; memory holds what they have not flushed as well.
    wal_size_max: int = 512 * MiB
    # Proposals that wait for their turn, per group; more are refused with Unavailable.
    proposals_max: int = 4096
    proposals_size_max: int = 8 * MiB
    # A follower's reads: then their callers ask the leader.
    follower_read_ms: int = 500
    reads_max: int = 16_384  # Likewise reads that wait for a round.
    rounds_in_flight_max: int = 4  # Read rounds on their way; later reads join the next.
    # A read round without its quorum for so long: the next one goes to everybody.
    slow_round_ms: int = 25
    asks_in_flight_max: int = 1024  # Of one follower, unanswered: then it gives all up.

    # Entries kept in memory below the applied index, so that a follower that is a little
    # behind needs no snapshot; a live follower's entries are kept up to the larger pair.
    kept_entries: int = 512
    kept_size: int = 128 * KiB  # Of each group: a node has 33 and more.
    kept_entries_max: int = 65_536
    kept_size_max: int = 8 * MiB
    apply_entries_max: int = 512  # One batch; the loop breathes between two.
    apply_size_max: int = 2 * MiB

    # One payload to a peer holds messages up to about this; a single message may exceed
    # it by one entry.
    payload_size_max: int = 1 * MiB
    inbox_payloads_max: int = 1024  # Not yet read payloads; more are dropped, as if lost.
    inbox_size_max: int = 64 * MiB
    snapshots_max: int = 2  # Sent, and received, at a time by one node.
    snapshot_life_ms: int = 55_000  # A machine's snapshot may be pinned for a minute.
    snapshot_idle_ms: int = 20_000  # A receiver forgets a sender silent for so long.
    balance_interval_ms: int = 1000
    transfers_max: int = 4  # Leaderships handed over per balancing round.
    # Leadership goes to healthier disks (`pace`) after one sync of the WAL this long ...
    stall_ms: int = 5_000
    slow_sync_ms: int = 1_000  # ... or two in a row of these,
    quick_after_ms: int = 30_000  # and may come back after so long without one.
    # Where the log's least write takes less than this, proposals wait for the end of the
    # one under way, and go together (`pace`); unless it takes longer than `hold_ms`.
    brief_ms: int = 2
    hold_ms: int = 10

    @property
    def beat_interval_ms(self) -> int:
        """At least so often a follower hears a heartbeat of its own group."""
        return self.election_timeout_ms // 3

    @property
    def fresh_ms(self) -> int:
        """Leadership goes by itself only to who was heard within this.

        While it is on its way nobody can propose, and whether a node has just died its
        failure detector says seconds later.  A follower that lives answers a heartbeat of
        its own group after `beat_interval_ms` and one more tick.
        """
        return self.election_timeout_ms // 2

    @classmethod
    def of(cls, config: RaftConfig) -> Options:
        """The operator's times, everything else at its default."""
        return cls(
            heartbeat_ms=config.heartbeat_interval_ms,
            election_timeout_ms=config.election_timeout_ms,
            quiesce_after_ms=config.election_timeout_ms,
        )


_DEFAULT = Options()
# The largest payload: nearly full, then one message whose last entry is the largest.
assert (
    _DEFAULT.payload_size_max + _DEFAULT.append_size_max + ENTRY_SIZE_MAX
    < FRAME_SIZE_MAX - FRAME_HEADER_SIZE_MAX
)
assert _DEFAULT.kept_size <= _DEFAULT.kept_size_max
