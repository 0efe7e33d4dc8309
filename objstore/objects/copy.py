"""CopyObject, UploadPartCopy: bytes of a version become another version, or a part.

Bytes are copied, never shared: a chunk belongs to one row (DESIGN 5), so nothing has to
count references.  A small source goes inline into the command; a large one is streamed
through this node into new chunks, verified on the way in as every read is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from objstore.frozen import frozen
from objstore.meta.values import Part, Upload, Version
from objstore.objects import get, multipart, put
from objstore.objects.capability import Capability
from objstore.objects.put import Stored
from objstore.objects.requests import ExpectedDigest, ObjectAttributes
from objstore.objects.store import Store


@frozen
class SourceBody:
    """A run of a version's bytes, as the body of a write."""

    store: Store
    source: Capability
    version: Version
    offset: int
    size: int
    digests: Sequence[ExpectedDigest] = ()
    trailing_algorithm: str | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        pieces = get.read(
            self.store,
            self.source,
            self.version,
            offset=self.offset,
            size=self.size,
            is_budgeted=True,
        )
        async with aclosing(pieces):
            async for piece in pieces:
                yield bytes(piece)

    @property
    def memory(self) -> int:
        """What it holds while it is read: for its writer to hold."""
        return get.memory_of(self.version, self.size)

    def trailing_digests(self) -> Sequence[ExpectedDigest]:
        return ()


async def copy_object(
    store: Store,
    source: Capability,
    version: Version,
    target: Capability,
    attributes: ObjectAttributes,
) -> Stored:
    """Copy `version`, which was found by `source`, to the key of `target`.

    Raises as `get.read` and `put.put_object` do.
    If cancelled, the copy may or may not be visible.
    """
    source.require("s3:GetObject", "s3:GetObjectVersion")
    body = SourceBody(store, source, version, 0, get.draft_of(version).size)
    return await put.put_object(store, target, body, attributes, source_memory=body.memory)


async def copy_part(
    store: Store,
    body: SourceBody,
    target: Capability,
    upload: Upload,
    number: int,
    *,
    checksum_algorithm: str,
) -> Part:
    """Copy `body` to part `number` of an upload.

    Raises as `get.read` and `multipart.put_part` do.
    If cancelled, the part may be the copy or what it was.
    """
    return await multipart.put_part(
        store,
        target,
        upload,
        number,
        body,
        checksum_algorithm=checksum_algorithm,
        source_memory=body.memory,
    )
