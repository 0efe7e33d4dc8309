"""What an object keeps of the headers it was written with, and how it shows them again.

    Content-Type, Content-Encoding, Content-Language, Content-Disposition,
    Cache-Control, Expires                              as given
    x-amz-meta-*                                        user metadata, names lower-case

Header values are latin-1 text, a byte a character, and come back byte for byte.
`aws-chunked` is how a body came and no property of the object: it is taken out of
Content-Encoding.
"""

from __future__ import annotations

from objstore.http.message import Headers
from objstore.limits import USER_METADATA_SIZE_MAX
from objstore.s3.errors import S3Error
from objstore.s3.sigv4 import OF_EVERY_REQUEST

DEFAULT_CONTENT_TYPE = "binary/octet-stream"  # What AWS says where nobody did.
METADATA_PREFIX = "x-amz-meta-"
_DEFAULT = ("content-type", DEFAULT_CONTENT_TYPE)

_KEPT = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)
_KEPT_NAMES = frozenset(_KEPT)


def kept_headers(headers: Headers) -> tuple[tuple[str, str], ...]:
    """The headers that the object keeps, by lower-case name."""
    if _KEPT_NAMES.isdisjoint(headers.by_name):
        return ()
    kept = []
    for name in _KEPT:
        value = headers.get(name)
        if value is not None and name == "content-encoding":
            value = _without_aws_chunked(value)
        if value:
            kept.append((name, value))
    return tuple(kept)


def _without_aws_chunked(value: str) -> str:
    codings = [coding.strip() for coding in value.split(",")]
    return ",".join(coding for coding in codings if coding and coding != "aws-chunked")


def user_metadata(headers: Headers) -> tuple[tuple[str, str], ...]:
    """The user metadata, names without prefix.  Raises S3Error MetadataTooLarge."""
    if OF_EVERY_REQUEST.issuperset(headers.extensions):
        return ()
    metadata = tuple(
        (name.removeprefix(METADATA_PREFIX), headers[name])
        for name in headers.extensions
        if name.startswith(METADATA_PREFIX)
    )
    size = sum(len(name) + len(value) for name, value in metadata)
    if size > USER_METADATA_SIZE_MAX:
        raise S3Error(
            "MetadataTooLarge",
            "Your metadata headers exceed the maximum allowed metadata size",
            details={"Size": str(size), "MaxSizeAllowed": str(USER_METADATA_SIZE_MAX)},
        )
    return metadata


def shown_headers(
    headers: tuple[tuple[str, str], ...], metadata: tuple[tuple[str, str], ...]
) -> list[tuple[str, str]]:
    """What GetObject and HeadObject say of an object's own headers."""
    shown = list(headers)
    if not headers or not any(name == "content-type" for name, _ in headers):
        shown.append(_DEFAULT)
    if metadata:
        shown += [(METADATA_PREFIX + name, value) for name, value in metadata]
    return shown
