"""`resurrection`: what was deleted after it was acknowledged is not seen again.

Values are unique and each is written once, so this needs no search: whoever reads a value
after a delete was acknowledged, that began after the write of the value was, is lied to.
"""

from __future__ import annotations

from collections.abc import Iterator

from objstore.testing.cluster.evidence import Evidence, Violation
from objstore.testing.history import Kind, Operation

NAME = "resurrection"


def check(evidence: Evidence) -> Iterator[Violation]:
    for key, operations in sorted(evidence.history.by_key().items()):
        written = {o.value: o for o in operations if o.kind in {Kind.PUT, Kind.CAS}}
        deletes = [o for o in operations if o.kind is Kind.DELETE and not o.is_unknown]
        for read in operations:
            write = written.get(read.value) if read.kind is Kind.GET else None
            if write is None or write.is_unknown:
                continue
            for delete in deletes:
                if _is_between(write, delete, read):
                    yield Violation(NAME, f"{key}: {write}; {delete}; {read}")
                    break


def _is_between(write: Operation, delete: Operation, read: Operation) -> bool:
    return write.returned < delete.called and delete.returned < read.called
