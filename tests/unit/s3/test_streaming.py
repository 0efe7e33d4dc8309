"""aws-chunked: AWS's published examples, every cut, every forgery."""

import base64
import zlib
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.limits import AWS_CHUNK_SIZE_MAX, CHUNKS_OF_ANY_SIZE_MAX
from objstore.s3.checksums import encode_checksum
from objstore.s3.errors import S3Error
from objstore.s3.sigv4 import (
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    Claim,
    Signer,
    Verified,
    derive_key,
)
from objstore.s3.streaming import ChunkDecoder, decoder_for
from tests.unit.s3.signer import encode_signed, encode_unsigned

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEY = derive_key(SECRET, day="20130524", region="us-east-1")
SIGNED_SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"


def verified(seed: str = SIGNED_SEED, payload: str = STREAMING_SIGNED) -> Verified:
    """As `sigv4.verify` leaves it."""
    signer = Signer(
        access_key="AKIAIOSFODNN7EXAMPLE", day="20130524", region="us-east-1", service="s3",
        terminator="aws4_request", signed_headers=("host",),
    )  # fmt: skip
    claim = Claim(
        signer=signer, signature=seed, timestamp="20130524T000000Z", time_ms=0,
        payload=payload, is_presigned=False,
    )  # fmt: skip
    return Verified(claim=claim, signing_key=KEY)


def decoder(payload: str, size: int, trailing: str | None = None) -> ChunkDecoder:
    seed = TRAILER_SEED if payload == STREAMING_SIGNED_TRAILER else SIGNED_SEED
    return decoder_for(
        payload, decoded_size=size, verified=verified(seed, payload),
        trailing_algorithm=trailing,
    )  # fmt: skip


def decode(chunks: ChunkDecoder, *pieces: bytes) -> bytes:
    body = b""
    for piece in pieces:
        chunks.feed(piece)
        while (part := chunks.take()) is not None:
            body += part
    chunks.finish()
    return body


def refusal(chunks: ChunkDecoder, raw: bytes) -> str:
    with pytest.raises(S3Error) as caught:
        decode(chunks, raw)
    return caught.value.code


# ---- published examples ---------------------------------------------------------------

EXAMPLE = (
    b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"
    b"\r\n" + b"a" * 65536 + b"\r\n"
    b"400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"
    b"\r\n" + b"a" * 1024 + b"\r\n"
    b"0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"
    b"\r\n\r\n"
)
TRAILER_EXAMPLE = (
    b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2"
    b"\r\n" + b"a" * 65536 + b"\r\n"
    b"400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7"
    b"\r\n" + b"a" * 1024 + b"\r\n"
    b"0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"
    b"\r\nx-amz-checksum-crc32c:sOO8/Q==\r\n"
    b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"
    b"\r\n\r\n"
)


def test_example_signed():
    assert decode(decoder(STREAMING_SIGNED, 66560), EXAMPLE) == b"a" * 66560


def test_example_signed_with_trailer():
    chunks = decoder(STREAMING_SIGNED_TRAILER, 66560, "CRC32C")
    assert decode(chunks, TRAILER_EXAMPLE) == b"a" * 66560
    assert encode_checksum(chunks.trailing_checksum) == "sOO8/Q=="


# ---- any body, any cut ----------------------------------------------------------------

CHUNKS = st.lists(st.binary(min_size=1, max_size=50), max_size=5)


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def coded(mode: str, chunks: list[bytes]) -> tuple[bytes, ChunkDecoder]:
    body = b"".join(chunks)
    trailer = None if mode == STREAMING_SIGNED else ("x-amz-checksum-crc32", crc32(body))
    if mode == STREAMING_UNSIGNED_TRAILER:
        raw = encode_unsigned(chunks, trailer)
    else:
        seed = TRAILER_SEED if mode == STREAMING_SIGNED_TRAILER else SIGNED_SEED
        raw = encode_signed(verified(seed), chunks, trailer)
    return raw, decoder(mode, len(body), None if trailer is None else "CRC32")


MODES = st.sampled_from(
    [STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER]
)


@given(MODES, CHUNKS, st.lists(st.integers(0, 1000), max_size=8))
def test_it_makes_no_difference_how_a_body_is_cut(mode, chunks, cuts):
    raw, whole = coded(mode, chunks)
    places = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    pieces = [raw[a:b] for a, b in pairwise(places)]
    assert decode(whole, *pieces) == b"".join(chunks)
    if mode != STREAMING_SIGNED:
        assert whole.trailing_checksum == base64.b64decode(crc32(b"".join(chunks)))


@given(MODES, CHUNKS, st.integers(0, 10_000))
def test_a_body_cut_short_is_incomplete(mode, chunks, end):  # F35
    raw, whole = coded(mode, chunks)
    assert refusal(whole, raw[: end % len(raw)]) == "IncompleteBody"


@settings(max_examples=200)
@given(
    st.sampled_from([STREAMING_SIGNED, STREAMING_SIGNED_TRAILER]),
    CHUNKS,
    st.integers(0, 10_000),
    st.integers(0, 7),
)
def test_no_flipped_bit_of_a_signed_body_gets_through(mode, chunks, place, bit):
    raw, whole = coded(mode, chunks)
    place %= len(raw)
    flipped = bytearray(raw)
    flipped[place] ^= 1 << bit
    expected = b"".join(chunks)
    try:
        # Letter case of sizes and of trailer names is all that may differ.
        assert decode(whole, bytes(flipped)) == expected
        assert chr(flipped[place]).lower() == chr(raw[place]).lower()
    except S3Error:
        pass


@given(CHUNKS.filter(lambda chunks: len(chunks) > 1))
def test_not_a_byte_of_a_chunk_comes_out_before_its_signature_is_right(chunks):
    raw, whole = coded(STREAMING_SIGNED, chunks)
    place = raw.index(b"\r\n") + 2  # The first chunk's first byte.
    forged = bytearray(raw)
    forged[place] ^= 1
    whole.feed(bytes(forged))
    with pytest.raises(S3Error):
        whole.take()


@given(st.binary(max_size=200), MODES)
def test_any_bytes_are_decoded_or_refused(data, mode):
    chunks = decoder(mode, 10, None if mode == STREAMING_SIGNED else "CRC32")
    with suppress(S3Error):
        decode(chunks, data)


# ---- forgeries and mistakes -----------------------------------------------------------


def test_chunks_cannot_be_swapped_dropped_or_repeated():
    raw, _ = coded(STREAMING_SIGNED, [b"aaaa", b"bbbb"])
    size = (len(raw) - raw.rindex(b"0;chunk")) - 2
    first, second, last = (
        raw[: size + 6],
        raw[size + 6 : 2 * (size + 6)],
        raw[2 * (size + 6) :],
    )
    assert first + second + last == raw
    for forged in (second + first + last, first + first + last):
        assert refusal(decoder(STREAMING_SIGNED, 8), forged) == "SignatureDoesNotMatch"
    assert refusal(decoder(STREAMING_SIGNED, 4), first + last) == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    ("raw", "size", "code"),
    [
        (b"5\r\nhello\r\n0\r\n", 5, "IncompleteBody"),
        (b"5\r\nhello\r\n", 5, "IncompleteBody"),
        (b"100000\r\nhello", 5, "IncompleteBody"),  # CVE-2021-21390
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", 4, "IncompleteBody"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", 6, "IncompleteBody"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\nx", 5, "IncompleteBody"),
        (b"5\r\nhelloXX0\r\n\r\n", 5, "IncompleteBody"),
        (b"5\nhello\r\n0\r\n\r\n", 5, "IncompleteBody"),
        (b"5 \r\nhello\r\n0\r\n\r\n", 5, "IncompleteBody"),
        (b"-5\r\nhello\r\n0\r\n\r\n", 5, "IncompleteBody"),
        (b"5;chunk-signature=" + b"0" * 64 + b"\r\nhello", 5, "IncompleteBody"),
        (b"5" * 300, 5, "IncompleteBody"),
        (b"5\r\nhello\r\n0\r\n\r\n", 5, "MalformedTrailerError"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32c:x\r\n\r\n", 5, "MalformedTrailerError"),
        (b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n", 5, "MalformedTrailerError"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\nx-amz-checksum-crc32:a\r\n\r\n", 5,
         "MalformedTrailerError"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\nother:1\r\n\r\n", 5,
         "MalformedTrailerError"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:????\r\n\r\n", 5, "InvalidRequest"),
        (b"5\r\nhello\r\n0\r\n" + b"a:b\r\n" * 2000, 5, "MalformedTrailerError"),
    ],
)  # fmt: skip
def test_a_broken_unsigned_body_is_refused(raw, size, code):
    assert refusal(decoder(STREAMING_UNSIGNED_TRAILER, size, "CRC32"), raw) == code


def test_a_trailer_must_be_signed_where_chunks_are():
    raw, whole = coded(STREAMING_SIGNED_TRAILER, [b"hello"])
    unsigned = raw[: raw.index(b"x-amz-trailer-signature")] + b"\r\n"
    assert refusal(whole, unsigned) == "MalformedTrailerError"
    _, again = coded(STREAMING_SIGNED_TRAILER, [b"hello"])
    forged = raw.replace(crc32(b"hello").encode(), crc32(b"other").encode())
    assert refusal(again, forged) == "SignatureDoesNotMatch"


def test_a_signed_chunk_is_bounded_because_it_is_held():  # F43
    line = f"{AWS_CHUNK_SIZE_MAX + 1:x};chunk-signature={'0' * 64}\r\n".encode()
    chunks = decoder(STREAMING_SIGNED, AWS_CHUNK_SIZE_MAX + 1)
    assert refusal(chunks, line) == "InvalidChunkSizeError"


@pytest.mark.parametrize("mode", [STREAMING_SIGNED, STREAMING_UNSIGNED_TRAILER])
def test_a_flood_of_tiny_chunks_is_refused(mode):  # F43
    few = [b"x"] * (CHUNKS_OF_ANY_SIZE_MAX - 1)
    raw, chunks = coded(mode, few)
    assert decode(chunks, raw) == b"x" * len(few)
    raw, chunks = coded(mode, [b"x"] * 2000)
    assert refusal(chunks, raw) == "InvalidChunkSizeError"


def test_chunks_that_came_together_are_one_piece():
    raw, chunks = coded(STREAMING_UNSIGNED_TRAILER, [b"x"] * 100)
    chunks.feed(raw)
    assert chunks.take() == b"x" * 100
    assert chunks.is_done


def test_a_large_unsigned_chunk_passes_through_as_it_comes():
    chunks = decoder(STREAMING_UNSIGNED_TRAILER, 10**9, "CRC32")
    chunks.feed(f"{10**9:x}\r\n".encode() + b"abc")
    assert chunks.take() == b"abc"


@pytest.mark.parametrize(
    ("payload", "trailing"),
    [(STREAMING_SIGNED, "CRC32"), (STREAMING_SIGNED_TRAILER, None),
     (STREAMING_UNSIGNED_TRAILER, None)],
)  # fmt: skip
def test_a_trailer_is_announced_by_both_headers_or_none(payload, trailing):
    with pytest.raises(S3Error) as caught:
        decoder(payload, 5, trailing)
    assert caught.value.code == "InvalidRequest"
