"""`ends`: a node ends by itself only where its disk gave it a reason, or it has left."""

from __future__ import annotations

from collections.abc import Iterator

from objstore.ids import NodeId
from objstore.testing.cluster.evidence import Evidence, Violation
from objstore.testing.cluster.program import RunningNode

NAME = "ends"


def check(evidence: Evidence) -> Iterator[Violation]:
    for end in evidence.ends:
        if end.is_bug or not end.had_fault:
            yield Violation(NAME, f"{end.node} at {end.time:.3f}: {end.reason}")


def check_left(
    evidence: Evidence, left: dict[str, NodeId], nodes: dict[str, RunningNode]
) -> None:
    """Who says that it has left is in nobody's layout."""
    for name, node in left.items():
        for other, running in nodes.items():
            if running.view.layout.find(node) is not None:
                evidence.accuse(
                    NAME, f"{name} says it has left; {other} knows it as member"
                )
