"""`raft`: one leader a term; one history; what is committed stays so (FAULTS I4)."""

from __future__ import annotations

from zlib import crc32

import attrs

from objstore.raft.replica import Replica
from objstore.testing.cluster.evidence import Evidence
from objstore.testing.cluster.program import RunningNode

NAME = "raft"


@attrs.define
class RaftWatch:
    """Looks at the replicas of running nodes again and again."""

    evidence: Evidence
    _leaders: dict[tuple[int, int], str] = attrs.field(factory=dict)  # By group and term.
    # Committed: (group, index) -> term and checksum of the entry.
    _entries: dict[tuple[int, int], tuple[int, int]] = attrs.field(factory=dict)
    # (life of a node, group) -> its replica and commit index, as last seen.
    _seen: dict[tuple[str, int, int], tuple[Replica, int]] = attrs.field(factory=dict)

    def look(self, name: str, life: int, node: RunningNode) -> None:
        for group in node.raft.groups():
            replica = node.raft.replica(group)
            if replica is None:
                continue
            core, log = replica.core, replica.core.log
            if core.is_leader:
                holder = self._leaders.setdefault((group, core.term), name)
                if holder != name:
                    what = f"{holder} and {name} lead group {group} in term {core.term}"
                    self.evidence.accuse(NAME, what)
            before = log.offset
            seen = self._seen.get((name, life, group))
            # One that was removed and made anew begins from nothing.
            if seen is not None and seen[0] is replica:
                before = seen[1]
            if log.committed < before:
                what = f"{name} group {group}: commit fell from {before} to {log.committed}"
                self.evidence.accuse(NAME, what)
            self._seen[name, life, group] = replica, log.committed
            for index in range(max(before, log.offset) + 1, log.committed + 1):
                entry = log.entry(index)
                mine = (entry.term, crc32(entry.data))
                known = self._entries.setdefault((group, index), mine)
                if known != mine:
                    what = f"{name} group {group}: another entry {index} is committed"
                    self.evidence.accuse(NAME, f"{what}: {mine}, not {known}")
