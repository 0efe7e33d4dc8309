"""Byte ranges: one `Range: bytes=...` and what it means for a given size.

    bytes=0-99    from, to (inclusive)
    bytes=100-    from there to the end
    bytes=-100    the last 100

A Range that is malformed, of another unit, or of several ranges is ignored (RFC 9110,
14.2 allows it; S3 answers the whole object then).
"""

from __future__ import annotations

import re

from objstore.errors import InvalidRequest
from objstore.frozen import frozen

_BYTES = re.compile(r"bytes=([0-9]{0,99})-([0-9]{0,99})", re.IGNORECASE)


class RangeNotSatisfiable(InvalidRequest):
    """No byte of the range exists; `size` says how many there are."""

    def __init__(self, size: int) -> None:
        super().__init__(f"no byte of the range exists: there are {size}")
        self.size = size


@frozen
class ByteRange:
    """What was asked for, before the size is known."""

    first: int | None  # None: `last` counts from the end.
    last: int | None  # Inclusive; None: to the end.

    def resolve(self, size: int) -> Span:
        """The bytes meant, of `size`.  Raises RangeNotSatisfiable."""
        if self.first is None:
            assert self.last is not None
            length = min(self.last, size)
            if length == 0:
                raise RangeNotSatisfiable(size)
            return Span(size - length, length)
        if self.first >= size:
            raise RangeNotSatisfiable(size)
        last = size - 1 if self.last is None else min(self.last, size - 1)
        return Span(self.first, last - self.first + 1)


@frozen
class Span:
    """A run of bytes that exists."""

    offset: int
    length: int  # At least 1.

    def content_range(self, size: int) -> str:
        """As the header Content-Range says it, of `size` bytes in all."""
        return f"bytes {self.offset}-{self.offset + self.length - 1}/{size}"


def parse_range(value: str) -> ByteRange | None:
    """Read a Range header; None where it is to be ignored."""
    match = _BYTES.fullmatch(value.strip(" \t"))
    if match is None:
        return None
    first = int(match[1]) if match[1] else None
    last = int(match[2]) if match[2] else None
    if first is None and last is None:
        return None
    if first is not None and last is not None and last < first:
        return None
    return ByteRange(first, last)
