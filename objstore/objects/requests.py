"""What operations are asked with: bodies and the digests they must have.

A body is read once, in order.  Digests that the client gave beforehand (Content-MD5,
x-amz-checksum-*, x-amz-content-sha256) are in `digests`; those of a trailer are known
once the body is exhausted.  `objects` computes what is asked on the stream, compares, and
raises `DigestMismatch` before anything becomes visible.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import attrs

from objstore.errors import InvalidRequest


@attrs.frozen
class ExpectedDigest:
    """A digest that the client says its body has."""

    algorithm: str  # MD5 | SHA256-PAYLOAD | CRC32 | CRC32C | CRC64NVME | SHA1 | SHA256
    value: bytes


class Body(Protocol):
    """The bytes of a PUT or a part."""

    @property
    def size(self) -> int:
        """Exact; a body that ends early or late raises while it is iterated."""
        ...

    @property
    def digests(self) -> Sequence[ExpectedDigest]:
        """Known before the first byte."""
        ...

    @property
    def trailing_algorithm(self) -> str | None:
        """The checksum algorithm that a trailer will carry, if any."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def trailing_digests(self) -> Sequence[ExpectedDigest]:
        """Of the trailer; once the body is exhausted."""
        ...


class DigestMismatch(InvalidRequest):
    """The body is not what its sender says it is."""

    def __init__(self, algorithm: str, expected: bytes, found: bytes) -> None:
        super().__init__(
            f"{algorithm} of the body is {found.hex()}, expected {expected.hex()}"
        )
        self.algorithm = algorithm
        self.expected = expected
        self.found = found
