"""A call's body: its length, its coding, its digests."""

import hashlib

import pytest

from objstore.errors import LocalProtocolError
from objstore.http.message import BytesBody, Headers
from objstore.objects.requests import MD5, SHA256_PAYLOAD, Body, ExpectedDigest
from objstore.s3.body import S3Body, body_of
from objstore.s3.errors import S3Error
from objstore.s3.sigv4 import STREAMING_UNSIGNED_TRAILER, UNSIGNED_PAYLOAD
from tests.unit.s3.signer import encode_unsigned
from tests.unit.s3.test_streaming import crc32, verified


class ChunkedBody(BytesBody):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.size = None


def body_for(data: bytes, *, payload: str = UNSIGNED_PAYLOAD, digests=(), **headers: str):
    given = Headers((name.replace("_", "-"), value) for name, value in headers.items())
    return body_of(BytesBody(data), given, verified(payload=payload), digests=digests)


async def read(body: S3Body) -> bytes:
    return b"".join([piece async for piece in body])


async def test_a_plain_body_is_as_long_as_it_says():
    body: Body = body_for(b"hello")
    assert (body.size, await read(body)) == (5, b"hello")
    assert body.trailing_digests() == ()
    assert body.received == 5


async def test_the_payload_hash_is_a_digest_beside_the_others():
    md5 = ExpectedDigest(MD5, hashlib.md5(b"hello").digest())
    digest = hashlib.sha256(b"hello")
    body = body_for(b"hello", payload=digest.hexdigest(), digests=[md5])
    assert list(body.digests) == [md5, ExpectedDigest(SHA256_PAYLOAD, digest.digest())]


async def test_a_chunked_coding_is_undone_and_its_trailer_handed_out():
    raw = encode_unsigned([b"hel", b"lo"], ("x-amz-checksum-crc32", crc32(b"hello")))
    body = body_for(
        raw,
        payload=STREAMING_UNSIGNED_TRAILER,
        x_amz_decoded_content_length="5",
        x_amz_trailer="x-amz-checksum-crc32",
    )
    assert (body.size, body.trailing_algorithm) == (5, "CRC32")
    with pytest.raises(LocalProtocolError):
        body.trailing_digests()
    assert await read(body) == b"hello"
    (digest,) = body.trailing_digests()
    assert digest.algorithm == "CRC32"


async def test_a_body_that_stops_before_its_coding_ends_raises():  # F35
    raw = encode_unsigned([b"hello"], ("x-amz-checksum-crc32", crc32(b"hello")))
    for end in (0, 3, len(raw) - 1):
        body = body_for(
            raw[:end],
            payload=STREAMING_UNSIGNED_TRAILER,
            x_amz_decoded_content_length="5",
            x_amz_trailer="x-amz-checksum-crc32",
        )
        with pytest.raises(S3Error) as caught:
            await read(body)
        assert caught.value.code == "IncompleteBody"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "MissingContentLength"),
        ({"x_amz_decoded_content_length": "-5"}, "InvalidArgument"),
        ({"x_amz_decoded_content_length": "5.0"}, "InvalidArgument"),
        ({"x_amz_decoded_content_length": "5"}, "InvalidRequest"),
        ({"x_amz_decoded_content_length": str(6 * 1024**3)}, "EntityTooLarge"),
    ],
)
def test_a_chunked_coding_needs_its_headers(headers, code):
    with pytest.raises(S3Error) as caught:
        body_for(b"", payload=STREAMING_UNSIGNED_TRAILER, **headers)
    assert caught.value.code == code


def test_a_trailer_needs_a_chunked_coding():
    with pytest.raises(S3Error) as caught:
        body_for(b"hello", x_amz_trailer="x-amz-checksum-crc32")
    assert caught.value.code == "InvalidRequest"


def test_a_body_of_unknown_length_is_refused():
    with pytest.raises(S3Error) as caught:
        body_of(ChunkedBody(b"hello"), Headers(), None, digests=())
    assert (caught.value.code, caught.value.status) == ("MissingContentLength", 411)
