"""What the disk gives: appends made durable, as segments and the WAL make them.

Large writes are bounded by it: each stored byte is written once for every copy that lies
on the disk (docs/performance.md).
"""

from __future__ import annotations

import os
import tempfile
import time

from objstore.units import KiB, MiB, format_size

_BLOCK = 1 * MiB
# Bytes between two syncs: a segment's large fragments, a small one, an entry of the WAL.
SYNC_SIZES = (64 * MiB, 4 * MiB, 4 * KiB)
_ENTRIES = 500


def measure(folder: str, size: int) -> list[dict[str, object]]:
    """Write files of `size` bytes, or fewer for small syncs, in `folder`; a row of each."""
    return [_measure(folder, size, sync_size) for sync_size in SYNC_SIZES]


def _measure(folder: str, size: int, sync_size: int) -> dict[str, object]:
    size = min(size, sync_size * _ENTRIES)
    # Random: a disk that compresses, or knows zeros, must not look faster.
    block = os.urandom(min(_BLOCK, sync_size))
    syncs: list[float] = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix="bench-disk-") as file:
        started = time.monotonic()
        done = 0
        while done < size:
            for _ in range(max(1, min(sync_size, size - done) // len(block))):
                os.write(file.fileno(), block)
                done += len(block)
            before = time.monotonic()
            os.fdatasync(file.fileno())
            syncs.append(time.monotonic() - before)
        elapsed = time.monotonic() - started
    syncs.sort()
    return {
        "sync_every": format_size(sync_size),
        "written": format_size(done),
        "mb_s": round(done / elapsed / 1e6, 1),
        "syncs_s": round(len(syncs) / elapsed, 1),
        "sync_p50_ms": round(syncs[len(syncs) // 2] * 1000, 2),
        "sync_p99_ms": round(syncs[int(len(syncs) * 0.99)] * 1000, 2),
    }
