"""`lists`: a list shows what was acknowledged before it began (I3L).

Of each key, by all its writes:

    must be there      a put returned before the list was called, and no delete that may
                       have come after it was called before the list returned
    must not be there  no put, or a delete returned before the list was called, and every
                       put had returned before that delete was called, or was called after
                       the list returned

And the keys are in order, each once, with etags that were put there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from objstore.testing.cluster.evidence import Evidence, Listed, Violation
from objstore.testing.history import Kind, Operation

NAME = "lists"


def check(evidence: Evidence) -> Iterator[Violation]:
    writes = _writes(evidence)
    for listed in evidence.lists:
        yield from _check_shape(evidence, listed)
        shown = set(listed.keys)
        for key in sorted(shown | writes.keys()):
            if key.partition("/")[0] != listed.bucket:
                continue
            puts, deletes = writes.get(key, ([], []))
            if key in shown and _is_surely_gone(puts, deletes, listed):
                yield _violation(listed, f"{key} is listed, and was deleted or never put")
            if key not in shown and _is_surely_there(puts, deletes, listed):
                yield _violation(listed, f"{key} was acknowledged, and is not listed")


def _check_shape(evidence: Evidence, listed: Listed) -> Iterator[Violation]:
    for left, right in itertools.pairwise(listed.keys):
        if left >= right:
            yield _violation(listed, f"{right} comes after {left}")
    for key, etag in zip(listed.keys, listed.etags, strict=True):
        number = evidence.etags.get(etag)
        if number is None or evidence.bodies[number].key != key:
            yield _violation(listed, f"{key} has etag {etag}, which was never put there")


def _writes(evidence: Evidence) -> dict[str, tuple[list[Operation], list[Operation]]]:
    """The puts and the deletes of each key."""
    writes: dict[str, tuple[list[Operation], list[Operation]]] = {}
    for operation in evidence.history.operations:
        puts, deletes = writes.setdefault(operation.key, ([], []))
        if operation.kind in {Kind.PUT, Kind.CAS}:
            puts.append(operation)
        elif operation.kind is Kind.DELETE:
            deletes.append(operation)
    return writes


def _is_surely_there(puts: list[Operation], deletes: list[Operation], at: Listed) -> bool:
    return any(
        put.returned < at.called
        and all(d.returned < put.called or d.called > at.returned for d in deletes)
        for put in puts
    )


def _is_surely_gone(puts: list[Operation], deletes: list[Operation], at: Listed) -> bool:
    if all(put.called > at.returned for put in puts):
        return True
    return any(
        delete.returned < at.called
        and all(p.returned < delete.called or p.called > at.returned for p in puts)
        for delete in deletes
    )


def _violation(listed: Listed, what: str) -> Violation:
    times = f"{listed.called:.3f}..{listed.returned:.3f}"
    return Violation(NAME, f"{listed.client} {times} {listed.bucket}: {what}")
