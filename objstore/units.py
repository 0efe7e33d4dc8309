"""Sizes, durations and times: constants, and their written form ("8MiB", "500ms")."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB

_SIZE_UNITS = {"B": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB, "TiB": TiB}
_DURATION_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_QUANTITY = re.compile(r"(\d+)\s*([A-Za-z]+)")


def parse_size(text: str) -> int:
    """Read a size such as "64MiB" or "0B".  Raises ValueError, with what is allowed."""
    return _parse(text, _SIZE_UNITS, "a size")


def parse_duration_ms(text: str) -> int:
    """Read a duration such as "500ms" or "24h", in milliseconds.  Raises ValueError."""
    return _parse(text, _DURATION_UNITS_MS, "a duration")


def format_size(size: int) -> str:
    """Print `size` bytes exactly, in the largest unit that divides it."""
    return _format(size, _SIZE_UNITS)


def format_duration_ms(duration_ms: int) -> str:
    """Print a duration exactly, in the largest unit that divides it."""
    return _format(duration_ms, _DURATION_UNITS_MS)


def iso_time(time_ms: int) -> str:
    """Print a time as in 2009-10-12T17:50:30.000Z."""
    return _iso_second(time_ms // 1000) + _MILLISECONDS[time_ms % 1000]


_MILLISECONDS = [f".{number:03}Z" for number in range(1000)]


@lru_cache(maxsize=4096)  # What is written or listed together is often of few seconds.
def _iso_second(time_s: int) -> str:
    return f"{_iso_minute(time_s // 60)}:{time_s % 60:02}"


@lru_cache(maxsize=4096)
def _iso_minute(time_min: int) -> str:
    return datetime.fromtimestamp(time_min * 60, UTC).isoformat()[:16]


def human_size(size: float) -> str:
    """Print `size` bytes for a person's eye, to three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < KiB:
            return f"{size:.3g} {unit}"
        size /= KiB
    return f"{size:.4g} TiB"


def _parse(text: str, units: dict[str, int], what: str) -> int:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in units:
        allowed = ", ".join(units)
        raise ValueError(f"{text!r} is not {what}: a whole number and one of {allowed}")
    return int(match[1]) * units[match[2]]


def _format(quantity: int, units: dict[str, int]) -> str:
    name = next(iter(units))
    for unit, factor in units.items():
        if quantity % factor == 0 and quantity >= factor:
            name = unit
    return f"{quantity // units[name]}{name}"
