"""Gauges that nobody keeps up to date by himself: brought up to date for each scrape.

Gossip's are also set as they change; here they are made exact, so that a scrape shows one
moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import attrs

from objstore import metrics
from objstore.chunks.store import ChunkStore
from objstore.gossip.members import State
from objstore.raft.driver import GroupStatus, RaftHost
from objstore.raft.effects import Role


@attrs.frozen
class Gauges:
    """Reads the parts of a node; `update` is cheap, and never waits."""

    raft: RaftHost
    chunks: ChunkStore
    member_states: Callable[[], Iterable[State]]  # As gossip has them, this node's too.
    repair_queued: Callable[[], int]
    memory_held: Callable[[], int]  # Bytes, of the budget of bodies.

    def update(self) -> None:
        self._update_raft()
        self._update_members()
        self._update_drives()
        metrics.REPAIR_QUEUE.set(self.repair_queued())
        metrics.MEMORY_IN_FLIGHT.set(self.memory_held())

    def _update_raft(self) -> None:
        groups = self.raft.groups()
        statuses = [status for group in groups if (status := self.raft.status(group))]
        led = [status for status in statuses if status.role is Role.LEADER]
        metrics.RAFT_GROUPS.set(len(statuses))
        metrics.RAFT_LEADERS.set(len(led))
        metrics.RAFT_TERM_MAX.set(max((status.term for status in statuses), default=0))
        metrics.RAFT_COMMIT_LAG.set(sum(s.last_index - s.commit_index for s in led))
        metrics.RAFT_APPLY_LAG.set(sum(map(_apply_lag, statuses)))
        metrics.RAFT_LOG_ENTRIES.set(sum(status.log_entries for status in statuses))
        metrics.RAFT_DAMAGED.set(sum(status.damaged for status in statuses))
        metrics.RAFT_WAL_FULL.set(self.raft.wal.is_full)
        metrics.RAFT_WAL_SLOW.set(self.raft.is_slow)

    def _update_members(self) -> None:
        counts = Counter(self.member_states())
        for state in State:
            metrics.GOSSIP_MEMBERS.labels(state.name.lower()).set(counts[state])

    def _update_drives(self) -> None:
        for drive in self.chunks.space():
            label = drive.drive or drive.path  # Refused before its id was known.
            metrics.DRIVE_BYTES.labels(label, "total").set(drive.total)
            metrics.DRIVE_BYTES.labels(label, "free").set(drive.free)
            metrics.DRIVE_BYTES.labels(label, "live").set(drive.live)
            metrics.DRIVE_FRAGMENTS.labels(label).set(drive.fragments)
            metrics.DRIVE_FENCED.labels(label).set(drive.fenced is not None)


def _apply_lag(status: GroupStatus) -> int:
    return status.commit_index - status.applied_index
