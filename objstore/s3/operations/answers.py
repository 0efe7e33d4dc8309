"""Answers in S3's shapes: responses, and the headers and elements that versions show."""

from __future__ import annotations

import binascii
import string
from collections.abc import AsyncIterator, Iterable, Sequence

from objstore.http.dates import format_http_date
from objstore.http.message import Response
from objstore.meta.values import BucketRecord, Checksum, Version
from objstore.objects.get import draft_of
from objstore.s3.operations.stored import shown_headers
from objstore.s3.xml import element, escape, tag, tag_if, url_encode

_ACCEPT_RANGES = ("accept-ranges", "bytes")
XML_TYPE = ("content-type", "application/xml")


# ---- responses ------------------------------------------------------------------------


def xml_response(
    body: bytes, headers: Iterable[tuple[str, str]] = (), *, status: int = 200
) -> Response:
    return Response(status, [XML_TYPE, *headers], body)


def empty_response(status: int, headers: Iterable[tuple[str, str]] = ()) -> Response:
    return Response(status, list(headers))


def stream_response(
    status: int,
    headers: list[tuple[str, str]],
    body: AsyncIterator[bytes | memoryview],
    size: int,
) -> Response:
    return Response(status, headers, body, content_length=size)


def head_response(status: int, headers: list[tuple[str, str]], size: int) -> Response:
    """An answer to HEAD: the length of what a GET would send."""
    return Response(status, headers, content_length=size)


# ---- values ---------------------------------------------------------------------------


def quoted(etag: str) -> str:
    return f'"{etag}"'


def key_text(key: bytes, encoding: str | None) -> str:
    """A key or prefix as a list shows it."""
    if encoding == "url":
        return url_encode(key)
    return key.decode("utf-8", "replace")


def shown_keys(keys: Sequence[bytes], encoding: str | None) -> list[str]:
    """Keys as the content of elements: `key_text`, escaped.

    Hot: a page has a thousand, and mostly none with a character to encode or escape.
    """
    joined = b"\n".join(keys)
    if keys and joined.translate(None, _PLAIN) == b"\n" * (len(keys) - 1):
        return joined.decode("ascii").split("\n")
    return [escape(key_text(key, encoding)) for key in keys]


_PLAIN = (string.ascii_letters + string.digits + "/._~-").encode()  # In XML and in URLs.


def argument_text(text: str, encoding: str | None) -> str:
    """An argument as a list repeats it."""
    return url_encode(text.encode()) if encoding == "url" else text


def owner_tag(name: str, canonical_id: str, display_name: str = "") -> str:
    return element(
        name, tag("ID", canonical_id), tag_if("DisplayName", display_name or None)
    )


# ---- checksums ------------------------------------------------------------------------


def checksum_text(checksum: Checksum, part_count: int | None) -> str:
    """Base64; a composite one ends in the number of parts."""
    text = binascii.b2a_base64(checksum.value, newline=False).decode("ascii")
    if checksum.kind == "COMPOSITE" and part_count is not None:
        return f"{text}-{part_count}"
    return text


def checksum_headers(
    checksum: Checksum | None, part_count: int | None = None
) -> list[tuple[str, str]]:
    if checksum is None:
        return []
    return [
        (
            f"x-amz-checksum-{checksum.algorithm.lower()}",
            checksum_text(checksum, part_count),
        ),
        ("x-amz-checksum-type", checksum.kind),
    ]


def checksum_tags(checksum: Checksum | None, part_count: int | None = None) -> str:
    if checksum is None:
        return ""
    text = checksum_text(checksum, part_count)
    return tag(f"Checksum{checksum.algorithm}", text) + tag("ChecksumType", checksum.kind)


def part_checksum_tag(checksum: Checksum | None) -> str:
    if checksum is None:
        return ""
    return tag(f"Checksum{checksum.algorithm}", checksum_text(checksum, None))


# ---- versions -------------------------------------------------------------------------


def version_headers(version: Version, record: BucketRecord) -> list[tuple[str, str]]:
    """x-amz-version-id, where the bucket has or had versions."""
    if record.versioning == "unversioned":
        return []
    return [("x-amz-version-id", version.version_id)]


def object_headers(version: Version, record: BucketRecord) -> list[tuple[str, str]]:
    """What GetObject and HeadObject say of an object, but for length and range."""
    draft = draft_of(version)
    headers = [
        ("last-modified", format_http_date(version.time_ms)),
        ("etag", quoted(draft.etag)),
        _ACCEPT_RANGES,
    ]
    headers += version_headers(version, record)
    headers += shown_headers(draft.headers, draft.user_metadata)
    if draft.storage_class != "STANDARD":
        headers.append(("x-amz-storage-class", draft.storage_class))
    return headers
