"""`ends`: a node ends by itself only where its disk gave it a reason."""

from __future__ import annotations

from collections.abc import Iterator

from objstore.testing.cluster.evidence import Evidence, Violation

NAME = "ends"


def check(evidence: Evidence) -> Iterator[Violation]:
    for end in evidence.ends:
        if end.is_bug or not end.had_fault:
            yield Violation(NAME, f"{end.node} at {end.time:.3f}: {end.reason}")
