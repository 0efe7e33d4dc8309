"""msgpack with packers that are kept.

A packer is born with a buffer of a quarter MiB: to make one for each value, as
`msgpack.packb` does, costs as much again as packing a row of 300 bytes.  A packer is taken
out while it packs, so a hook may pack, and so may another thread.  One whose buffer has
grown is let go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from objstore.units import KiB

# msgpack's stubs lack types: named once, with what it is.
_new_packer: Callable[..., Any] = msgpack.Packer  # type: ignore[attr-defined]
_KEPT_SIZE_MAX = 256 * KiB  # Of what it packed last: its buffer never shrinks.


def make_pack(default: Callable[[Any], Any] | None = None) -> Callable[[object], bytes]:
    """A function like `msgpack.packb`.  default: makes what can be packed of the rest."""
    idle: list[Any] = []

    def pack(value: object) -> bytes:
        packer = idle.pop() if idle else _new_packer(default=default)
        data: bytes = packer.pack(value)
        if len(data) <= _KEPT_SIZE_MAX and not idle:
            idle.append(packer)
        return data

    return pack
