"""The part map: which part of a completed upload holds which byte, packed.

    [ number u16be | end offset u64be ] a part, in order

10,000 parts are 100 kB in one row; a byte's part is found by halving, without unpacking.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_ENTRY = struct.Struct(">HQ")


def pack_map(parts: Iterable[tuple[int, int]]) -> bytes:
    """Pack (number, end offset) of each part, ascending."""
    return b"".join([_ENTRY.pack(number, end) for number, end in parts])


def count(packed: bytes) -> int:
    return len(packed) // _ENTRY.size


def entry(packed: bytes, place: int) -> tuple[int, int, int]:
    """(number, start, end) of the part at `place`, from 0."""
    number, end = _ENTRY.unpack_from(packed, place * _ENTRY.size)
    start = _ENTRY.unpack_from(packed, (place - 1) * _ENTRY.size)[1] if place else 0
    return number, start, end


def place_of_offset(packed: bytes, offset: int) -> int:
    """Where the part with byte `offset` is in the map; `count` where none has it."""
    low, high = 0, count(packed)
    while low < high:
        middle = (low + high) // 2
        if _ENTRY.unpack_from(packed, middle * _ENTRY.size)[1] > offset:
            high = middle
        else:
            low = middle + 1
    return low


def first_place_from(packed: bytes, number: int) -> int:
    """Where the first part of this number or above is; `count` where there is none."""
    low, high = 0, count(packed)
    while low < high:
        middle = (low + high) // 2
        if _ENTRY.unpack_from(packed, middle * _ENTRY.size)[0] < number:
            low = middle + 1
        else:
            high = middle
    return low


def place_of_number(packed: bytes, number: int) -> int | None:
    """Where the part of this number is in the map."""
    place = first_place_from(packed, number)
    if place < count(packed) and entry(packed, place)[0] == number:
        return place
    return None
