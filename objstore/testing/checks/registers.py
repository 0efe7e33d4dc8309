"""`registers`: each key is linearizable, through whichever nodes it was used."""

from __future__ import annotations

from collections.abc import Iterator

from objstore.testing.cluster.evidence import Evidence, Violation
from objstore.testing.linearizability import check_history

NAME = "registers"
_SHOWN = 6


def check(evidence: Evidence) -> Iterator[Violation]:
    for finding in check_history(evidence.history):
        shown = "; ".join(str(operation) for operation in finding.operations[:_SHOWN])
        what = f"{finding.key} {finding.verdict.value}: {finding.reason}"
        yield Violation(NAME, f"{what}: {shown}" if shown else what)
