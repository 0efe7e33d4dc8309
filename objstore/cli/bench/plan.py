"""What a run of the bench does: steps, in order, each one operation at one size.

Counts are such that the default run takes about two minutes on two cores; `scale`
multiplies them.  Workers are as in the table of docs/performance.md, so that its figures
can be compared: 16 for small objects, 8 up to 1 MiB, 2 above.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from objstore.units import KiB, MiB, format_size

# In the order of a run: what is read was put before, what is deleted was read before.
OPERATIONS = (
    "put",
    "put-1",
    "get",
    "head",
    "range",
    "list",
    "mixed",
    "multipart",
    "cas",
    "delete",
)
SIZES = (4 * KiB, 1 * MiB, 64 * MiB)
RANGE_SIZE = 64 * KiB
CAS_WRITERS = 32
LIST_PAGE = 1000
PART_SIZE = 8 * MiB

_SMALL_MAX = 64 * KiB
_MEDIUM_MAX = 8 * MiB
# operation -> (operations at most, bytes that they move at most, operations at least)
_COUNTS = {
    "put": (3000, 256 * MiB, 6),
    "put-1": (300, 64 * MiB, 3),
    "get": (3000, 768 * MiB, 12),
    "head": (3000, None, 12),
    "range": (1500, None, 12),
    "list": (60, None, 3),
    "mixed": (3000, 512 * MiB, 8),
    "multipart": (200, 256 * MiB, 4),
    "cas": (20, 4 * MiB, 1),
    "delete": (3000, 256 * MiB, 6),
}
_MIXED_KEYS_MAX = 1000


@attrs.frozen
class Step:
    """One operation, many times."""

    operation: str
    size: int  # bytes of an object
    count: int  # operations, over all workers
    workers: int
    keys: int  # How many objects it goes over.
    prefix: str  # Of its keys.
    is_filled_first: bool = False  # Its objects are put beforehand, unmeasured.


def steps(
    operations: Iterable[str] = OPERATIONS,
    sizes: Sequence[int] = SIZES,
    *,
    run: str,
    scale: float = 1.0,
) -> list[Step]:
    """The steps of a run; `run` tells its keys from those of others."""
    wanted = set(operations)
    assert wanted <= set(OPERATIONS)
    return [step for size in sizes for step in _of_size(wanted, size, run, scale)]


def _of_size(wanted: set[str], size: int, run: str, scale: float) -> Iterator[Step]:
    # What the others read and delete; a list needs more than a page of small ones.
    stored = _count("put", size, scale)
    for operation in OPERATIONS:
        if operation not in wanted or not _makes_sense(operation, size):
            continue
        count, keys, prefix = _count(operation, size, scale), stored, "k"
        if operation == "mixed":
            # Objects of its own: it deletes some, and others should find all of theirs.
            keys, prefix = min(_MIXED_KEYS_MAX, max(1, stored // 3)), "mixed"
        elif operation in {"put-1", "multipart", "cas"}:
            keys, prefix = count, operation
        elif operation == "delete":
            count = stored
        is_read = operation in {"get", "head", "range", "list", "delete"}
        yield Step(
            operation,
            size,
            count,
            _workers(operation, size, count),
            keys,
            f"{run}/{format_size(size)}/{prefix}",
            is_filled_first=operation == "mixed" or (is_read and "put" not in wanted),
        )


def _makes_sense(operation: str, size: int) -> bool:
    if operation == "range":
        return size > RANGE_SIZE
    if operation == "list":  # Of objects of any size: the rows are the same.
        return size <= _SMALL_MAX
    if operation == "cas":  # 32 writers of 64 MiB a key measure something else.
        return size <= _MEDIUM_MAX
    return True


def _count(operation: str, size: int, scale: float) -> int:
    most, bytes_max, least = _COUNTS[operation]
    count = most if bytes_max is None else min(most, max(least, bytes_max // max(1, size)))
    return max(1, round(count * scale))


def _workers(operation: str, size: int, count: int) -> int:
    if operation == "put-1":
        return 1
    if operation == "cas":
        return CAS_WRITERS
    if operation == "range":
        return min(8, count)
    if operation == "head":
        return min(16, count)
    return min(16 if size <= _SMALL_MAX else 8 if size <= _MEDIUM_MAX else 2, count)
