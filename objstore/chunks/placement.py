"""Which drive of a node gets a fragment: by hash, weighted by free space.

Weighted rendezvous hashing: each drive's score is -free / ln(h) with h in (0, 1) from the
fragment and the drive; the order is by falling score.  So drives fill evenly, a fragment
that is written again goes to the same drive mostly, and there is always a next one to try.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Protocol, TypeVar

from objstore.ids import DriveId, FragmentId

_HASH_SIZE = 6  # Bytes: exact as a float.


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
    drives = list(drives)
    if len(drives) < 2:
        return drives
    name = fragment.encode()
    return sorted(drives, key=lambda drive: (-_score(name, drive), drive.id))


def _score(name: bytes, drive: _Drive) -> float:
    # Not a CRC: those of one fragment for two drives would be related.
    drawn = hashlib.blake2b(name, key=drive.id.encode(), digest_size=_HASH_SIZE).digest()
    h = (int.from_bytes(drawn, "big") + 0.5) / (1 << 8 * _HASH_SIZE)
    return -max(drive.free, 1) / math.log(h)
