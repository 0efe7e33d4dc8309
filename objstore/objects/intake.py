"""Intake: a body on its way in, until a command makes it visible.

    small   body --> memory, digested --> commit(Inline)
    large   an intent   --> body --> blocks --> chunks (scatter) --> commit(Chunks, intent)
                                       '--> digests, off the loop
            on failure or cancellation: DropIntent, with the chunks begun

Nothing becomes visible before `commit`, and that only where every promised digest is the
one computed.  A large write has an intent before the first byte is read and renews
it as bytes come in; the commit names it, and is refused where it is gone.  Dropping the
intent after a commit whose outcome is unknown is safe: an intent used by a commit is left
alone, and a commit that comes after the drop is refused.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TypeVar

import attrs
import structlog
import trio

from objstore.chunks.fragment import FragmentOwner
from objstore.errors import LocalProtocolError, ObjstoreError, Unavailable
from objstore.frozen import frozen
from objstore.host.buffers import POOL
from objstore.ids import IntentId, Slot, UploadId, chunk_id
from objstore.limits import BLOCK_SIZE, INTENT_LIFE_MS
from objstore.meta.commands import BeginIntent, DropIntent
from objstore.meta.errors import IntentGone, StaleEpoch
from objstore.meta.values import Checksum, ChunkRef, Chunks, Inline
from objstore.objects import patience
from objstore.objects.capability import Capability
from objstore.objects.hashing import StreamHasher, digest_of
from objstore.objects.requests import MD5, Body, Fill, hash_of, read_whole, verify
from objstore.objects.scatter import memory_of
from objstore.objects.store import BucketReplaced, Store
from objstore.sums import Summed, Summing
from objstore.units import KiB

log = structlog.get_logger()

T = TypeVar("T")

_DROP_TIMEOUT_S = 5.0  # A cancelled request holds its connection no longer than this.
_DROP_LIMIT_MS = 4_900  # Of the call: so that it says why, before it is cut off.
# The intent is looked at so often: the slowest sender that is served takes five minutes.
_PART_SIZE = 256 * KiB
_OWN_BLOCKS = 2  # One being filled, one being hashed.
_RENEW_AFTER_S = INTENT_LIFE_MS / 3000
_RENEW_AGAIN_S = INTENT_LIFE_MS / 15_000  # Where the slot's shard did not answer.


@frozen
class Received:
    """A body that is safe, but not visible yet."""

    size: int
    etag: str  # Hex MD5.
    checksum: Checksum
    location: Inline | Chunks
    intent: IntentId | None = None  # For the commit to name; None: it was small.


Commit = Callable[[Capability, Received], Awaitable[T]]


async def take_in(
    store: Store,
    capability: Capability,
    body: Body,
    *,
    checksum_algorithm: str,
    scheme: str | None = None,
    upload: UploadId | None = None,
    source_memory: int = 0,
    commit: Commit[T],
) -> T:
    """Store `body`, then run `commit`, which must propose the command that shows it.

    scheme: of an upload; None: the bucket's.
    source_memory: what `body` itself holds while it is read, of a copy.
    commit: may run again with a newer capability of the same bucket.
    Raises DigestMismatch, what iterating the body raises, Unavailable, OutOfSpace,
    NoSuchBucket, and what `commit` raises.
    If cancelled before `commit` is through, the bytes are given up; whether they became
    visible is unknown if it came to that.
    """
    if body.size <= store.options.inline_size_max:
        async with store.budget.hold(body.size + source_memory):
            received = await _receive_inline(body, checksum_algorithm)
            return await store.fenced(capability, lambda newer: commit(newer, received))
    async with store.budget.hold(_memory_of(store, body) + source_memory):
        writer = await _begin(store, capability, scheme, upload)
        is_committed = False
        try:
            received = await writer.write(body, checksum_algorithm)
            result = await writer.commit(received, commit)
            is_committed = True
            return result
        finally:
            if not is_committed:
                await writer.drop()


def _memory_of(store: Store, body: Body) -> int:
    """Blocks on their way to owners, and those that are hashed or filled meanwhile."""
    chunk_size = min(body.size, store.options.chunk_size)
    return memory_of(chunk_size) + min(body.size, _OWN_BLOCKS * BLOCK_SIZE)


# ---- small ----------------------------------------------------------------------------


async def _receive_inline(body: Body, checksum_algorithm: str) -> Received:
    data = await read_whole(body)
    digests = digest_of(data, _algorithms(body, checksum_algorithm))
    return _received(body, checksum_algorithm, digests, Inline(data), None)


def _algorithms(body: Body, checksum_algorithm: str) -> set[str]:
    """All hashes that this body is asked for."""
    algorithms = {MD5, checksum_algorithm}
    for digest in body.digests:
        algorithms.add(hash_of(digest.algorithm))
    if body.trailing_algorithm:
        algorithms.add(body.trailing_algorithm)
    return algorithms


def _received(
    body: Body,
    checksum_algorithm: str,
    digests: Mapping[str, bytes],
    location: Inline | Chunks,
    intent: IntentId | None,
) -> Received:
    """Compare every promised digest, header's or trailer's; then say what there is."""
    verify(body.digests, digests)
    verify(body.trailing_digests(), digests)
    checksum = Checksum(checksum_algorithm, digests[checksum_algorithm])
    return Received(body.size, digests[MD5].hex(), checksum, location, intent)


# ---- large ----------------------------------------------------------------------------


async def _begin(
    store: Store, capability: Capability, scheme: str | None, upload: UploadId | None
) -> _ChunkWriter:
    """Have an intent, before the first byte of the body is asked for."""

    async def begin(newer: Capability) -> _ChunkWriter:
        slot = store.slot_of(newer.record, newer.object_key)
        begun = await store.begin_intent(slot, newer.ref, newer.object_key)
        return _ChunkWriter(
            store=store,
            capability=newer,
            slot=slot,
            intent=begun.intent,
            scheme=scheme or newer.record.scheme,
            upload=upload,
            renew_at_s=begun.begun_at_s + _RENEW_AFTER_S,
        )

    return await store.fenced(capability, begin)


@attrs.define(kw_only=True)
class _ChunkWriter:
    """Writes one body as chunks under one intent."""

    store: Store
    capability: Capability
    slot: Slot
    intent: IntentId
    scheme: str
    upload: UploadId | None
    renew_at_s: float
    # The last is of size 0 while it is written: who has what of it is not known.
    begun: list[ChunkRef] = attrs.field(factory=list)

    async def write(self, body: Body, checksum_algorithm: str) -> Received:
        """Write all of `body`; every chunk is durable on its owners on return."""
        algorithms = _algorithms(body, checksum_algorithm)
        async with (
            StreamHasher(algorithms, self.store.host.threads) as hasher,
            aclosing(_Blocks(body, hasher, self.renew_if_due)) as blocks,
        ):
            try:
                left = body.size
                while left:
                    size = min(left, self.store.options.chunk_size)
                    await self._write_chunk(size, blocks)
                    left -= size
                await blocks.finish()
                digests = await hasher.finish()
            finally:  # Where it failed, `drop` follows: the client waits for that too.
                patience.count(blocks.received_at)
        location = Chunks(self.scheme, tuple(self.begun))
        return _received(body, checksum_algorithm, digests, location, self.intent)

    async def _write_chunk(self, size: int, blocks: _Blocks) -> None:
        ring = self.store.view.ring
        chunk = chunk_id(self.intent, len(self.begun))
        self.begun.append(ChunkRef(chunk, 0, ring.epoch))
        async with aclosing(blocks.take(size)) as taken:
            self.begun[-1] = await self.store.scatter.write_chunk(
                chunk,
                size,
                taken,
                ring=ring,
                scheme=self.scheme,
                owner=self._owner(),
            )

    def _owner(self) -> FragmentOwner:
        return FragmentOwner(
            bucket=self.capability.record.bucket,
            slot=self.slot,
            key=self.capability.object_key,
            upload=self.upload,
        )

    async def renew_if_due(self) -> None:
        if trio.current_time() < self.renew_at_s:
            return
        key = self.capability.object_key

        async def renew(newer: Capability) -> None:
            self._assert_same_bucket(newer)
            await self.store.propose(
                BeginIntent(self.slot, newer.ref, key, self.intent, is_renewal=True)
            )

        try:
            await self.store.fenced(self.capability, renew)
        except IntentGone as error:
            raise Unavailable(f"the write took too long: {error}") from error
        except Unavailable as error:
            # It lives for a while yet; whether it did long enough, the commit will tell.
            log.info("objects.intent_not_renewed", reason=str(error))
            self.renew_at_s = trio.current_time() + _RENEW_AGAIN_S
        else:
            self.renew_at_s = trio.current_time() + _RENEW_AFTER_S

    async def commit(self, received: Received, commit: Commit[T]) -> T:
        async def attempt(newer: Capability) -> T:
            self._assert_same_bucket(newer)
            return await commit(newer, received)

        try:
            return await self.store.fenced(self.capability, attempt)
        except (IntentGone, StaleEpoch) as error:
            if isinstance(error, IntentGone):  # A pause, perhaps: others are gone as well.
                self.store.spares.forget((self.capability.ref, self.slot))
            # The body is spent: only its sender can begin again.
            raise Unavailable(f"the write took too long: {error}") from error

    def _assert_same_bucket(self, newer: Capability) -> None:
        """Chunks belong to one incarnation: a bucket made anew is another bucket."""
        if newer.record.bucket != self.capability.record.bucket:
            raise BucketReplaced(f"bucket {newer.record.name!r} was deleted meanwhile")

    async def drop(self) -> None:
        """Give the intent up, so that what was written is freed; best effort."""
        command = DropIntent(
            slot=self.slot,
            bucket=self.capability.record.bucket,
            intent=self.intent,
            scheme=self.scheme,
            written=tuple(self.begun),
        )
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _DROP_TIMEOUT_S):
            try:
                await self.store.propose(command, limit_ms=_DROP_LIMIT_MS)
            except ObjstoreError as error:
                # It expires by itself; what was written stays until proved unowned.
                log.warning("objects.intent_left_behind", reason=str(error))


class _Blocks:
    """A body's bytes in blocks, fed to the hasher on their way."""

    def __init__(
        self, body: Body, hasher: StreamHasher, on_part: Callable[[], Awaitable[None]]
    ) -> None:
        self._pieces = aiter(body)
        self._fill: Fill = getattr(body, "fill", None) or self._fill_from_pieces
        self._hasher = hasher
        self._on_part = on_part
        self._rest = memoryview(b"")  # Of a piece: not yet in a block.
        self.received_at = trio.current_time()  # When the last block had come.

    async def take(self, size: int) -> AsyncGenerator[Summed, None]:
        """The next `size` bytes, in blocks of BLOCK_SIZE, the last one shorter."""
        while size:
            block = await self._next_block(min(size, BLOCK_SIZE))
            await self._hasher.update(block.data)
            size -= len(block.data)
            yield block

    async def _next_block(self, size: int) -> Summed:
        buffer = POOL.take(size)
        summing = Summing(buffer)
        for start in range(0, size, _PART_SIZE):
            await self._on_part()
            part = buffer[start : start + _PART_SIZE]
            if await self._fill(part) < len(part):
                raise LocalProtocolError("a body ended before its size, and did not say so")
            summing.add(len(part))
        self.received_at = trio.current_time()
        return Summed(buffer.toreadonly(), summing.end())

    async def _fill_from_pieces(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer):
            if not self._rest:
                piece = await anext(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
            part = self._rest[: len(buffer) - filled]
            buffer[filled : filled + len(part)] = part
            self._rest = self._rest[len(part) :]
            filled += len(part)
        return filled

    async def aclose(self) -> None:
        """End the body's iteration, wherever it stands."""
        if isinstance(self._pieces, AsyncGenerator):
            await self._pieces.aclose()

    async def finish(self) -> None:
        """Read the end: trailers come after the last byte."""
        assert not self._rest, "a body gave more bytes than its size"
        async for piece in self._pieces:
            assert not piece, "a body gave more bytes than its size"
