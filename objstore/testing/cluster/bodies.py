r"""Bodies that say what they are, so that any answer can be judged alone.

    objstore-sim <key> <number> <size>\n   then bytes that follow from these three

The number is unique in its simulation: it is the value of the key's register in the
history.  A body is wrong where it is not exactly the one that its own first line names, is
another key's, or was never sent.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import attrs

_MAGIC = b"objstore-sim "
SIZE_MIN = 96  # Any first line fits.


@attrs.frozen(slots=False)
class Body:
    """What one write put, or meant to."""

    key: str  # "bucket/key".
    number: int
    size: int

    @cached_property
    def data(self) -> bytes:
        head = f"objstore-sim {self.key} {self.number} {self.size}\n".encode()
        assert len(head) <= SIZE_MIN <= self.size
        return head + hashlib.shake_128(head).digest(self.size - len(head))

    @cached_property
    def etag(self) -> str:
        return hashlib.md5(self.data, usedforsecurity=False).hexdigest()

    @cached_property
    def upload_etag(self) -> str:
        """The etag where it was uploaded as the only part of an upload."""
        part = hashlib.md5(self.data, usedforsecurity=False).digest()
        return hashlib.md5(part, usedforsecurity=False).hexdigest() + "-1"


def number_in(data: bytes) -> int | None:
    """The number that the first line of a body names; None where there is none."""
    head, newline, _ = data[:SIZE_MIN].partition(b"\n")
    fields = head.split(b" ")
    if not newline or not head.startswith(_MAGIC) or not fields[2].isdigit():
        return None
    return int(fields[2])
