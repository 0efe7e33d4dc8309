"""What operations are asked with: bodies and the digests they must have.

A body is read once, in order.  Digests that the client gave beforehand (Content-MD5,
x-amz-checksum-*, x-amz-content-sha256) are in `digests`; those of a trailer are known
once the body is exhausted.  `objects` computes what is asked on the stream, compares, and
raises `DigestMismatch` before anything becomes visible.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Protocol

from objstore.errors import InvalidRequest
from objstore.frozen import frozen
from objstore.meta.commands import UNCONDITIONAL, WriteCondition

MD5 = "MD5"
SHA256_PAYLOAD = "SHA256-PAYLOAD"  # x-amz-content-sha256: of the body as sent.
CHECKSUM_ALGORITHMS = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")
DEFAULT_CHECKSUM_ALGORITHM = "CRC64NVME"  # Where the client asks for none, as AWS.


@frozen
class ExpectedDigest:
    """A digest that the client says its body has."""

    algorithm: str  # MD5 | SHA256-PAYLOAD | CRC32 | CRC32C | CRC64NVME | SHA1 | SHA256
    value: bytes


Fill = Callable[[memoryview], Awaitable[int]]
"""Receives the next bytes into a buffer until it is full; fewer only at the body's end."""


class Body(Protocol):
    """The bytes of a PUT or a part.

    It may have `fill: Fill | None`, for who has buffers that the bytes can be received in;
    what it has filled is no longer iterated.  Both raise the same.  And it may have
    `take_now() -> bytes | None`: all of a body that is there already, mostly of a small
    one, which needs no iterating then; None: it is not, and nothing was taken.
    """

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


async def read_whole(body: AsyncIterable[bytes]) -> bytes:
    """All of a body that fits into memory, in hardly more memory than its size.

    The pieces are not kept one by one: short ones would take many times their size.
    """
    take_now: Callable[[], bytes | None] | None = getattr(body, "take_now", None)
    if take_now is not None and (all_of_it := take_now()) is not None:
        return all_of_it
    first = b""
    whole = bytearray()
    async for piece in body:
        if whole or first:
            whole = whole or bytearray(first)
            whole += piece
        else:
            first = piece
    return bytes(whole) if whole else first


@frozen(kw_only=True)
class ObjectAttributes:
    """What an object has beside its bytes, as its writer asks for it."""

    headers: tuple[tuple[str, str], ...] = ()  # Content-Type ..., lower-case names.
    user_metadata: tuple[tuple[str, str], ...] = ()  # Names without x-amz-meta-.
    storage_class: str = "STANDARD"
    checksum_algorithm: str = DEFAULT_CHECKSUM_ALGORITHM  # The one that is kept.
    condition: WriteCondition = UNCONDITIONAL


class DigestMismatch(InvalidRequest):
    """The body is not what its sender says it is."""

    def __init__(self, algorithm: str, expected: bytes, found: bytes) -> None:
        super().__init__(
            f"{algorithm} of the body is {found.hex()}, expected {expected.hex()}"
        )
        self.algorithm = algorithm
        self.expected = expected
        self.found = found


def hash_of(algorithm: str) -> str:
    """The hash that computes `algorithm`: two names share SHA-256."""
    return "SHA256" if algorithm == SHA256_PAYLOAD else algorithm


def verify(expected: Iterable[ExpectedDigest], found: Mapping[str, bytes]) -> None:
    """Compare what was promised with what was computed, by hash name.

    Raises DigestMismatch for the first that differs.
    """
    for digest in expected:
        value = found[hash_of(digest.algorithm)]
        if value != digest.value:
            raise DigestMismatch(digest.algorithm, digest.value, value)
