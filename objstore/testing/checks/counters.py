"""`counters`: what is kept counted is what a recount of the rows gives."""

from __future__ import annotations

from typing import Any

from objstore.meta.audit import audit_slot
from objstore.testing.cluster.evidence import Evidence, Listed
from objstore.testing.cluster.program import RunningNode

NAME = "counters"


def audit(evidence: Evidence, nodes: dict[str, RunningNode]) -> None:
    """Recount each slot of each replica: counters, references, the below-promise index."""
    for name, node in nodes.items():
        for group in node.raft.groups():
            machine = node.meta_store.machine(group)
            for slot in machine.slots():
                for problem in audit_slot(machine.sealed_rows(slot)):
                    evidence.accuse(NAME, f"{name} group {group} slot {slot}: {problem}")


def compare(evidence: Evidence, usage: dict[str, Any], listed: Listed) -> None:
    """Compare the cluster's usage with what a list of its one bucket shows."""
    shown = len(listed.keys)
    if usage["objects"] != shown:
        what = f"the cluster counts {usage['objects']} objects, and lists {shown}"
        evidence.accuse(NAME, what)
