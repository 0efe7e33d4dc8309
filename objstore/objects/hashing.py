"""Hashes of a body, computed once on the stream, off the event loop.

    update(block) --- small: here, that is cheaper than a hop
                  '-- large: all hashes of the block in one hop to a thread

Used plainly, `update` returns when the block is hashed; meanwhile earlier blocks travel to
their owners.  As `async with`, it returns as soon as there is room for the next block, so
that receiving, hashing and writing all overlap:

    async with StreamHasher(algorithms, threads) as hasher:
        await hasher.update(block) ...
        digests = await hasher.finish()
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, Self

import trio
from awscrt import checksums

from objstore.buffer import Buffer
from objstore.host.threads import Threads
from objstore.objects.channels import give, take
from objstore.sums import crc32c
from objstore.units import KiB

ALGORITHMS = ("MD5", "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")

# MD5 of so much takes as long as a hop to a thread (SPEED).
INLINE_SIZE_MAX = 32 * KiB
BLOCKS_WAITING_MAX = 1  # Beside the one being hashed: they stay in memory.


class _Hash(Protocol):
    def update(self, data: Buffer, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A CRC as a hash: big endian, as S3 writes it."""

    def __init__(self, function: Callable[[Buffer, int], int], size: int) -> None:
        self._function = function
        self._size = size
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def _crc64nvme(data: Buffer, value: int) -> int:
    return checksums.crc64nvme(data, value)  # type: ignore[arg-type]


def _crc32(data: Buffer, value: int) -> int:
    return zlib.crc32(data, value)


_MAKERS: Mapping[str, Callable[[], _Hash]] = {
    # Neither guards against an enemy here: S3 prescribes them.
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
    "SHA1": lambda: hashlib.sha1(usedforsecurity=False),
    "SHA256": hashlib.sha256,
    "CRC32": lambda: _Crc(_crc32, 4),
    "CRC32C": lambda: _Crc(crc32c, 4),
    "CRC64NVME": lambda: _Crc(_crc64nvme, 8),
}
# Of data that is all there: without an object to keep the state in between.
_DIGESTS: Mapping[str, Callable[[Buffer], bytes]] = {
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
    "SHA1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
    "CRC32": lambda data: _crc32(data, 0).to_bytes(4, "big"),
    "CRC32C": lambda data: crc32c(data, 0).to_bytes(4, "big"),
    "CRC64NVME": lambda data: checksums.crc64nvme(data).to_bytes(8, "big"),  # type: ignore[arg-type]
}
assert set(_MAKERS) == set(_DIGESTS) == set(ALGORITHMS)


def digest_of(data: Buffer, algorithms: Collection[str]) -> dict[str, bytes]:
    """The digests of `data`, at once and on the caller's thread: for small bodies."""
    return {name: _DIGESTS[name](data) for name in algorithms}


class StreamHasher:
    """The hashes of one stream."""

    def __init__(self, algorithms: Collection[str], threads: Threads) -> None:
        """`algorithms`: names of ALGORITHMS."""
        self._hashes = {name: _MAKERS[name]() for name in sorted(set(algorithms))}
        self._threads = threads
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None
        self._sender: trio.MemorySendChannel[Buffer] | None = None
        self._ended = trio.Event()
        self._is_finished = False

    async def __aenter__(self) -> Self:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._sender, receiver = trio.open_memory_channel[Buffer](BLOCKS_WAITING_MAX)
        self._nursery.start_soon(self._serve, receiver)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._manager is not None
        assert self._nursery is not None
        # The body's error is not the nursery's: it goes on as it is, not in a group.
        self._nursery.cancel_scope.cancel()
        await self._manager.__aexit__(None, None, None)

    async def update(self, data: Buffer) -> None:
        """Hash the next piece of the stream; it must not change until `finish`.

        If cancelled, the hasher is of no more use.
        """
        assert not self._is_finished
        if self._sender is not None:
            await give(self._sender, data)
        else:
            await self._update(data)

    async def finish(self) -> dict[str, bytes]:
        """The digests of all that was fed, by algorithm.  Nothing may follow."""
        self._is_finished = True
        if self._sender is not None:
            self._sender.close()
            await self._ended.wait()
        return {name: state.digest() for name, state in self._hashes.items()}

    async def _serve(self, receiver: trio.MemoryReceiveChannel[Buffer]) -> None:
        while (data := await take(receiver)) is not None:
            await self._update(data)
        self._ended.set()

    async def _update(self, data: Buffer) -> None:
        if len(data) * len(self._hashes) <= INLINE_SIZE_MAX:
            self._feed(data)
        else:
            await self._threads.run(self._feed, data)

    def _feed(self, data: Buffer) -> None:
        for state in self._hashes.values():
            state.update(data)
