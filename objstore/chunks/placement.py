"""Which drive of a node gets a fragment: by hash, weighted by free space.

Weighted rendezvous hashing: each drive's score is -free / ln(h) with h in (0, 1) from the
fragment and the drive; the order is by falling score.  So drives fill evenly, a fragment
that is written again goes to the same drive mostly, and there is always a next one to try.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol, TypeVar

from objstore.chunks.format import crc32c
from objstore.ids import DriveId, FragmentId

_HASHES = 1 << 32


class _Drive(Protocol):
    @property
    def id(self) -> DriveId: ...

    @property
    def free(self) -> int:
        """Bytes above the reserve."""
        ...


D = TypeVar("D", bound=_Drive)


def ranked(fragment: FragmentId, drives: Iterable[D]) -> list[D]:
    """The drives in the order in which to try them."""
    name = crc32c(fragment.encode())
    return sorted(drives, key=lambda drive: (-_score(name, drive), drive.id))


def _score(name: int, drive: _Drive) -> float:
    h = (crc32c(bytes.fromhex(drive.id), name) + 0.5) / _HASHES
    return -max(drive.free, 1) / math.log(h)
