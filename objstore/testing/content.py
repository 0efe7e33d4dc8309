"""A file's bytes, sparse: what was never written costs nothing and reads as zeros.

Pages are immutable, so that two states of a file (what is there, what is durable) share
those in which they do not differ.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from objstore.units import KiB

PAGE_SIZE = 16 * KiB

_ZEROS = bytes(PAGE_SIZE)


@attrs.define(eq=False)
class Content:
    size: int = 0
    pages: dict[int, bytes] = attrs.field(factory=dict)  # PAGE_SIZE each.

    def copy(self) -> Content:
        return Content(self.size, dict(self.pages))

    def read(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.size)
        return b"".join(
            self.pages.get(page, _ZEROS)[start:stop]
            for page, start, stop in _split(offset, end)
        )

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`; the file grows to hold it."""
        position = 0
        for page, start, stop in _split(offset, offset + len(data)):
            piece = data[position : position + stop - start]
            position += stop - start
            if stop - start < PAGE_SIZE:
                old = self.pages.get(page, _ZEROS)
                piece = old[:start] + piece + old[stop:]
            self.pages[page] = piece
        self.size = max(self.size, offset + len(data))

    def resize(self, size: int) -> None:
        if size < self.size:
            self.punch(size, self.size - size)
        self.size = size

    def punch(self, offset: int, size: int) -> None:
        """Make the range zeros; the size stays."""
        for page, start, stop in _split(offset, min(offset + size, self.size)):
            old = self.pages.get(page)
            if old is None:
                continue
            if stop - start == PAGE_SIZE:
                del self.pages[page]
            else:
                self.pages[page] = old[:start] + _ZEROS[start:stop] + old[stop:]


def pages_of(offset: int, end: int) -> range:
    """The numbers of the pages that hold offset <= byte < end."""
    return range(offset // PAGE_SIZE, -(-end // PAGE_SIZE)) if end > offset else range(0)


def _split(offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The range by pages: page number, and start and stop within the page."""
    for page in pages_of(offset, end):
        base = page * PAGE_SIZE
        yield page, max(offset - base, 0), min(end - base, PAGE_SIZE)
