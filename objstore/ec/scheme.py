"""Schemes: how many fragments a chunk becomes, and how many of them must answer.

    written        k    m    width   write quorum        read quorum
    replicate:3    1    2    3       2 (a majority)      1
    ec:4+2         4    2    6       5 (k + ceil(m/2))   4

A copy is a fragment of a k=1 code, so replication is the k=1 row of the same table, and
everything above this module knows only `k`, `m` and `width`.  A scheme says nothing about
where the fragments go (`objstore.ring`) nor how they are computed (`objstore.ec.codec`).
"""

from __future__ import annotations

import re

import attrs

from objstore.errors import ConfigError, InvalidRequest

# liberasurecode's own bound on k + m; a chunk on more nodes than that gains nothing.
WIDTH_MAX = 32

_REPLICATE = re.compile(r"replicate:([0-9]{1,4})")
_EC = re.compile(r"ec:([0-9]{1,4})\+([0-9]{1,4})")


class BadScheme(ConfigError, InvalidRequest):
    """A redundancy scheme that cannot be used: wherever it was written, change it."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"redundancy {text!r}: {reason}")
        self.text = text
        self.reason = reason


def _check_width(scheme: Scheme, _attribute: object, _value: int) -> None:
    if scheme.k < 1:
        raise BadScheme(scheme.written, "at least one data fragment is needed")
    if scheme.m < 0 or (scheme.m == 0 and scheme.k > 1):
        raise BadScheme(scheme.written, "at least one parity fragment is needed")
    if scheme.width > WIDTH_MAX:
        raise BadScheme(
            scheme.written, f"{scheme.width} fragments, and at most {WIDTH_MAX} are allowed"
        )


@attrs.frozen
class Scheme:
    """A chunk becomes `k` data fragments and `m` more; any `k` of them give it back."""

    k: int  # Data fragments, from 1.
    m: int = attrs.field(validator=_check_width)  # Fragments that may be lost.

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """Read "replicate:N" or "ec:K+M".  Raises BadScheme, with what is allowed."""
        if match := _REPLICATE.fullmatch(text):
            if int(match[1]) == 0:
                raise BadScheme(text, "at least one copy is needed")
            return cls(1, int(match[1]) - 1)
        if match := _EC.fullmatch(text):
            if int(match[1]) == 1:
                copies = 1 + int(match[2])
                raise BadScheme(text, f'one data fragment is written "replicate:{copies}"')
            return cls(int(match[1]), int(match[2]))
        raise BadScheme(text, 'allowed are "replicate:N" and "ec:K+M", as in "ec:4+2"')

    def __str__(self) -> str:
        return self.written

    @property
    def written(self) -> str:
        return f"replicate:{1 + self.m}" if self.k == 1 else f"ec:{self.k}+{self.m}"

    @property
    def width(self) -> int:
        """How many fragments, and so how many nodes, a chunk takes."""
        return self.k + self.m

    @property
    def read_quorum(self) -> int:
        """How many fragments give the chunk back."""
        return self.k

    def write_quorum(self, places: int) -> int:
        """The least count of durable fragments at which a write may be acknowledged.

        `places` is how many different nodes the ring offers: below `width` only where the
        cluster has too few nodes, and then the floor is what there is.  It is never below
        k, so the answer may exceed `places`: such a write cannot be acknowledged at all.
        """
        parity = max(1, (self.m + 1) // 2)
        full = self.width // 2 + 1 if self.k == 1 else self.k + parity
        return max(self.k, min(full, places))

    def fragment_size(self, data_size: int) -> int:
        """The payload size in bytes of each fragment of `data_size` bytes coded as one."""
        return -(-data_size // self.k)

    def chunk_fragment_size(self, chunk_size: int, *, block_size: int) -> int:
        """The payload size of each fragment of a chunk that is coded block by block."""
        blocks, rest = divmod(chunk_size, block_size)
        return blocks * self.fragment_size(block_size) + self.fragment_size(rest)
