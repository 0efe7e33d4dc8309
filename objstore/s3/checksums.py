"""Digests that clients send with a body: their headers, and their written form.

    Content-MD5: base64                        MD5
    x-amz-checksum-crc32: base64 ...           CRC32 CRC32C CRC64NVME SHA1 SHA256
    x-amz-trailer: x-amz-checksum-crc32 ...    the same, after the body
    x-amz-sdk-checksum-algorithm: CRC32        only says which of those comes
    x-amz-content-sha256: hex                  SHA-256 of the body as sent (`sigv4`)

Hashing is `objects.hashing`; combining the checksums of parts is `meta.combine`.

Source: Amazon S3 User Guide, "Checking object integrity".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from objstore.http.message import Headers
from objstore.objects.requests import CHECKSUM_ALGORITHMS, MD5, ExpectedDigest
from objstore.s3.errors import S3Error
from objstore.s3.sigv4 import OF_EVERY_REQUEST

PREFIX = "x-amz-checksum-"
SIZES = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32, MD5: 16}
_HEADERS = {f"{PREFIX}{name.lower()}": name for name in CHECKSUM_ALGORITHMS}
# Headers that begin alike and carry no checksum.
_NOT_VALUES = {f"{PREFIX}algorithm", f"{PREFIX}type", f"{PREFIX}mode"}
_FURTHER = frozenset({"content-md5", "x-amz-sdk-checksum-algorithm"})
FULL_OBJECT = "FULL_OBJECT"
COMPOSITE = "COMPOSITE"


def header_of(algorithm: str) -> str:
    """The header, or trailer, that carries a checksum."""
    return PREFIX + algorithm.lower()


def algorithm_of(header: str) -> str | None:
    """The algorithm whose checksum this header (lower-case) carries."""
    return _HEADERS.get(header)


def encode_checksum(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def decode_checksum(algorithm: str, text: str) -> bytes:
    """Read a checksum's base64.  Raises S3Error InvalidRequest."""
    value = _decode(text, SIZES[algorithm])
    if value is None:
        raise S3Error(
            "InvalidRequest", f"Value for {header_of(algorithm)} header is invalid."
        )
    return value


def expected_digests(headers: Headers) -> list[ExpectedDigest]:
    """Every digest that the headers promise.

    Raises S3Error InvalidDigest, InvalidRequest, NotImplemented.
    """
    if _FURTHER.isdisjoint(headers.by_name):
        plain = OF_EVERY_REQUEST.issuperset(headers.extensions)
        return [] if plain else _checksums(headers)
    digests = []
    md5 = headers.get("content-md5")
    if md5 is not None:
        value = _decode(md5.strip(), SIZES[MD5])
        if value is None:
            raise S3Error("InvalidDigest", details={"Content-MD5": md5})
        digests.append(ExpectedDigest(MD5, value))
    checksums = _checksums(headers)
    digests += checksums
    _check_asked_algorithm(headers, [digest.algorithm for digest in checksums])
    return digests


def trailing_algorithm(headers: Headers) -> str | None:
    """The algorithm of the checksum that x-amz-trailer announces.

    Raises S3Error InvalidRequest for more than one, or a trailer that is no checksum.
    """
    announced = headers.get("x-amz-trailer")
    if announced is None:
        return None
    names = [name.strip().lower() for name in announced.split(",") if name.strip()]
    if len(names) != 1 or names[0] not in _HEADERS:
        raise S3Error(
            "InvalidRequest",
            "The value specified in the x-amz-trailer header is not supported",
        )
    if any(header in headers for header in _HEADERS):
        raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header")
    return _HEADERS[names[0]]


def _checksums(headers: Headers) -> list[ExpectedDigest]:
    found = []
    for header in headers.extensions:
        if not header.startswith(PREFIX) or header in _NOT_VALUES:
            continue
        algorithm = _HEADERS.get(header)
        if algorithm is None:
            raise S3Error("NotImplemented", details={"Header": header})
        found.append((algorithm, headers[header]))
    if len(found) > 1:
        raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header")
    # A multipart completion's composite checksum ends in "-N": not of these bytes.
    return [
        ExpectedDigest(algorithm, decode_checksum(algorithm, value))
        for algorithm, value in found
        if "-" not in value
    ]


def _check_asked_algorithm(headers: Headers, sent: Sequence[str]) -> None:
    """x-amz-sdk-checksum-algorithm must be one we know, and not belie what is sent."""
    asked = headers.get("x-amz-sdk-checksum-algorithm")
    if asked is None:
        return
    if asked.upper() not in CHECKSUM_ALGORITHMS:
        raise S3Error(
            "InvalidRequest",
            "Checksum algorithm provided is unsupported. Please try again with any of the "
            f"valid types: [{', '.join(CHECKSUM_ALGORITHMS)}]",
        )
    if sent and asked.upper() not in sent:
        raise S3Error(
            "InvalidRequest",
            "Value for x-amz-sdk-checksum-algorithm header is invalid.",
        )


def _decode(text: str, size: int) -> bytes | None:
    try:
        value = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return value if len(value) == size else None
