"""`replicas`: equal applied index, equal state (R12).

While it runs, by the hash that each replica keeps of all changes; in the end by a hash of
all its rows.
"""

from __future__ import annotations

import attrs

from objstore.testing.cluster.evidence import Evidence
from objstore.testing.cluster.program import RunningNode

NAME = "replicas"


@attrs.define
class ReplicaWatch:
    """Looks at the state machines of running nodes again and again."""

    evidence: Evidence
    _chains: dict[tuple[int, int], bytes] = attrs.field(factory=dict)

    def look(self, name: str, node: RunningNode) -> None:
        for group in node.raft.groups():
            index, chain = node.meta_store.machine(group).chain
            known = self._chains.setdefault((group, index), chain)
            if known != chain:
                what = f"{name} has another history of group {group} up to {index}"
                self.evidence.accuse(NAME, what)


def are_level(nodes: dict[str, RunningNode]) -> bool:
    """Whether all replicas of each group have applied the same."""
    levels: dict[int, set[int]] = {}
    for node in nodes.values():
        for group in node.raft.groups():
            index, _ = node.meta_store.machine(group).chain
            levels.setdefault(group, set()).add(index)
    return all(len(level) == 1 for level in levels.values())


def compare(evidence: Evidence, nodes: dict[str, RunningNode]) -> None:
    """Compare all rows of all replicas; to be called when they are level."""
    hashes: dict[tuple[int, int], tuple[str, bytes]] = {}
    for name, node in nodes.items():
        for group in node.raft.groups():
            machine = node.meta_store.machine(group)
            mine = machine.state_hash()
            at = (group, machine.chain[0])
            other, known = hashes.setdefault(at, (name, mine))
            if known != mine:
                what = f"{name} and {other} differ in group {group} at {at[1]}"
                evidence.accuse(NAME, what)
