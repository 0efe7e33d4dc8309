"""The body of a call, decoded: what operations store or parse.

    plain          the request's bytes, of Content-Length
    aws-chunked    the bytes inside the chunks, of x-amz-decoded-content-length

Satisfies `objects.requests.Body`.  Iterating verifies signatures and lengths; digests are
handed out for who reads to compare: nothing may become visible before that.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence

from objstore.errors import LocalProtocolError
from objstore.http.message import NO_BODY, Body, Headers
from objstore.objects.requests import SHA256_PAYLOAD, ExpectedDigest, Fill
from objstore.s3 import checksums
from objstore.s3.errors import S3Error
from objstore.s3.sigv4 import EMPTY_SHA256, STREAMING, UNSIGNED_PAYLOAD, Verified
from objstore.s3.streaming import ChunkDecoder, decoder_for

_LENGTH = re.compile(r"[0-9]{1,16}")


class S3Body:
    """One body; iterated once.

    No generator: what trio does for each one costs more than a small body's reading.
    """

    __slots__ = (
        "_body",
        "_decoder",
        "_fill_raw",
        "_is_exhausted",
        "_pieces",
        "digests",
        "received",
        "size",
        "trailing_algorithm",
    )

    def __init__(
        self,
        body: Body,
        *,
        size: int,
        digests: Sequence[ExpectedDigest] = (),
        decoder: ChunkDecoder | None = None,
        trailing_algorithm: str | None = None,
    ) -> None:
        self._body = body
        self._pieces: AsyncIterator[bytes] | None = None
        self._decoder = decoder
        self._is_exhausted = False
        self.size = size
        self.digests = digests
        self.trailing_algorithm = trailing_algorithm
        self.received = 0  # Decoded bytes so far.
        # Bytes that need no decoding can be received right where they are wanted.
        fill = getattr(body, "fill", None) if decoder is None else None
        self._fill_raw: Fill | None = fill

    @property
    def fill(self) -> Fill | None:
        """See `objects.requests.Body`."""
        return None if self._fill_raw is None else self._fill

    async def _fill(self, buffer: memoryview) -> int:
        assert self._fill_raw is not None
        size = await self._fill_raw(buffer)
        self.received += size
        return size

    def take_now(self) -> bytes | None:
        """See `objects.requests.Body`."""
        take_now = getattr(self._body, "take_now", None)
        if take_now is None or self._decoder is not None or self.received:
            return None
        whole: bytes | None = take_now()
        if whole is not None:
            self.received = len(whole)
            self._is_exhausted = True
        return whole

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises S3Error, TruncatedBody; see the module."""
        return self

    async def __anext__(self) -> bytes:
        if self._is_exhausted:
            raise StopAsyncIteration
        if self._decoder is None:
            piece = await self._receive()
        else:
            piece = await self._decode(self._decoder)
        if piece is not None:
            self.received += len(piece)
            if self._decoder is None and self.received == self.size:
                self._is_exhausted = True  # Nothing can follow: it is not asked for.
            return piece
        if self.received != self.size:
            raise S3Error("IncompleteBody")
        self._is_exhausted = True
        raise StopAsyncIteration

    async def _receive(self) -> bytes | None:
        if self._pieces is None:
            self._pieces = aiter(self._body)
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            return None

    async def _decode(self, decoder: ChunkDecoder) -> bytes | None:
        while (piece := decoder.take()) is None:
            data = await self._receive()
            if data is None:
                decoder.finish()
                return None
            decoder.feed(data)
        return piece

    def trailing_digests(self) -> Sequence[ExpectedDigest]:
        """Of the trailer; once the body is exhausted."""
        if not self._is_exhausted:
            raise LocalProtocolError("a trailer is known once the body was read")
        if self._decoder is None or self.trailing_algorithm is None:
            return ()
        assert self._decoder.trailing_checksum is not None
        return (ExpectedDigest(self.trailing_algorithm, self._decoder.trailing_checksum),)


def body_of(
    body: Body,
    headers: Headers,
    verified: Verified | None,
    *,
    digests: Sequence[ExpectedDigest],
) -> S3Body:
    """The decoded body of a request.

    digests: those its headers promise (`checksums.expected_digests`).
    Raises S3Error MissingContentLength, NotImplemented, EntityTooLarge, InvalidRequest.
    """
    payload = UNSIGNED_PAYLOAD if verified is None else verified.claim.payload
    trailing = None
    if "x-amz-trailer" in headers.by_name:
        trailing = checksums.trailing_algorithm(headers)
    if payload in STREAMING:
        assert verified is not None
        size = _decoded_size(headers)
        decoder = decoder_for(
            payload, decoded_size=size, verified=verified, trailing_algorithm=trailing
        )
        return S3Body(
            body, size=size, digests=digests, decoder=decoder, trailing_algorithm=trailing
        )
    if trailing is not None:
        raise S3Error("InvalidRequest", "x-amz-trailer needs a STREAMING payload")
    if body.size is None:
        if "x-amz-decoded-content-length" in headers or "content-length" in headers:
            raise S3Error("InvalidRequest", "Only a STREAMING payload is aws-chunked")
        raise S3Error("MissingContentLength")
    if payload != UNSIGNED_PAYLOAD and (body.size or payload != EMPTY_SHA256):
        promised = ExpectedDigest(SHA256_PAYLOAD, bytes.fromhex(payload))
        digests = [*digests, promised]
    if not body.size and not digests:
        return _NOTHING
    return S3Body(body, size=body.size, digests=digests)


def _nothing() -> S3Body:
    """The body of most requests, which have none: one for all, as nothing in it changes."""
    body = S3Body(NO_BODY, size=0)
    body._is_exhausted = True
    return body


_NOTHING = _nothing()


def _decoded_size(headers: Headers) -> int:
    text = headers.get("x-amz-decoded-content-length")
    if text is None:
        raise S3Error("MissingContentLength")
    if _LENGTH.fullmatch(text) is None:
        raise S3Error(
            "InvalidArgument",
            "x-amz-decoded-content-length is not a number",
            details={"ArgumentName": "x-amz-decoded-content-length"},
        )
    return int(text)
