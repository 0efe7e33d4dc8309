"""`loss`: what was acknowledged is there in the end.

The last read of each key must give a value that may be the last: of a write that no other
acknowledged one certainly came after.  `registers` would say the same, by a search; this
says it plainly.
"""

from __future__ import annotations

from collections.abc import Iterator

from objstore.testing.cluster.evidence import Evidence, Violation
from objstore.testing.history import Kind, Operation, Value

NAME = "loss"
_WRITES = {Kind.PUT, Kind.CAS, Kind.DELETE}


def check(evidence: Evidence, *, healed: float) -> Iterator[Violation]:
    """healed: reads that began after it are those of the end."""
    for key, operations in sorted(evidence.history.by_key().items()):
        writes = [o for o in operations if o.kind in _WRITES]
        expected = possible(writes)
        settled = [w.called if w.is_unknown else w.returned for w in writes]
        last_write = max(settled, default=0.0)
        for read in operations:
            is_last = read.called > max(healed, last_write)
            if read.kind is not Kind.GET or not is_last or read.value in expected:
                continue
            shown = "; ".join(str(w) for w in writes if w.value in expected)
            yield Violation(NAME, f"{key}: {read}, and not one of: {shown}")


def possible(writes: list[Operation]) -> set[Value]:
    """The values that a key may have after these writes."""
    known = [write for write in writes if not write.is_unknown]
    latest_call = max((write.called for write in known), default=-1.0)
    values: set[Value] = {
        write.value if write.kind is not Kind.DELETE else None
        for write in writes
        if write.returned >= latest_call
    }
    return values if known else values | {None}
