"""Copies: CopyObject and UploadPartCopy.

The source is authorised as a read of its own, and its conditions are judged by the version
that is then copied.  Both may take long, so their answers begin before they are known.
"""

from __future__ import annotations

import re

from objstore.errors import NotFound
from objstore.frozen import frozen
from objstore.http.conditions import Conditions, Outcome
from objstore.http.message import Response
from objstore.limits import COPY_SIZE_MAX
from objstore.meta.values import Version
from objstore.objects import copy, multipart
from objstore.objects.capability import Capability
from objstore.objects.copy import SourceBody
from objstore.objects.get import draft_of
from objstore.objects.requests import DEFAULT_CHECKSUM_ALGORITHM, ObjectAttributes
from objstore.s3.authorize import authorize
from objstore.s3.call import S3Call
from objstore.s3.errors import S3Error, to_s3_error
from objstore.s3.operations import arguments, stored
from objstore.s3.operations.answers import (
    checksum_tags,
    key_text,
    part_checksum_tag,
    quoted,
    version_headers,
    xml_response,
)
from objstore.s3.operations.arguments import CopySource
from objstore.s3.operations.features import refuse_unknown_features
from objstore.s3.operations.object import (
    find_version,
    precondition_failed,
    written_version_headers,
)
from objstore.s3.xml import document, tag
from objstore.units import iso_time

_RANGE = re.compile(r"bytes=([0-9]{1,19})-([0-9]{1,19})")
_CONDITIONS_PREFIX = "x-amz-copy-source-"


@frozen
class _Source:
    """What is copied."""

    capability: Capability
    version: Version

    def headers(self) -> list[tuple[str, str]]:
        return [
            ("x-amz-copy-source-version-id", value)
            for _, value in version_headers(self.version, self.capability.record)
        ]


async def _find_source(call: S3Call) -> _Source:
    """Authorise and find the source, and judge the conditions on it."""
    named = arguments.copy_source(call)
    action = "s3:GetObject" if named.version_id is None else "s3:GetObjectVersion"
    try:
        capability = await authorize(
            call, action, named.bucket, named.key, named.version_id
        )
        arguments.check_expected_owner(
            call, capability.record, "x-amz-source-expected-bucket-owner"
        )
        version = await find_version(call, capability)
    except NotFound as error:
        raise _missing(named, error) from error
    conditions = Conditions.from_headers(call.headers, prefix=_CONDITIONS_PREFIX)
    outcome, header = conditions.check(
        etag=draft_of(version).etag, modified_ms=version.time_ms
    )
    if outcome is not Outcome.PROCEED:
        raise precondition_failed(_CONDITIONS_PREFIX + header)
    return _Source(capability, version)


def _missing(named: CopySource, error: NotFound) -> S3Error:
    """The answer that names the source: the request's own resource is the target."""
    translated = to_s3_error(error)
    if translated.code == "NoSuchBucket":
        translated.details = {"BucketName": named.bucket}
    else:
        translated.details = {"Key": key_text(named.key, None)}
    return translated


# ---- CopyObject -----------------------------------------------------------------------


async def copy_object(call: S3Call) -> Response:
    key = arguments.object_key(call)
    refuse_unknown_features(call.headers)
    replaces = _replaces_metadata(call)
    asked = arguments.asked_algorithm(call)
    condition = arguments.write_condition(call)
    target = await authorize(call, "s3:PutObject", arguments.bucket_name(call), key)
    arguments.check_expected_owner(call, target.record)
    source = await _find_source(call)
    _check_self_copy(call, source, target, replaces=replaces)
    draft = draft_of(source.version)
    if draft.size > COPY_SIZE_MAX:
        raise _source_too_large()
    kept = draft.checksum.algorithm if draft.checksum else DEFAULT_CHECKSUM_ALGORITHM
    attributes = ObjectAttributes(
        headers=stored.kept_headers(call.headers) if replaces else draft.headers,
        user_metadata=(
            stored.user_metadata(call.headers) if replaces else draft.user_metadata
        ),
        checksum_algorithm=asked or kept,
        condition=condition,
    )

    async def answer() -> Response:
        written = await copy.copy_object(
            call.store, source.capability, source.version, target, attributes
        )
        result = written.result
        return xml_response(
            document(
                "CopyObjectResult",
                tag("LastModified", iso_time(result.time_ms)),
                tag("ETag", quoted(result.etag)),
                checksum_tags(written.checksum),
            ),
            [
                *source.headers(),
                *written_version_headers(target.record, result.version_id),
            ],
        )

    return await call.slow(answer)


def _replaces_metadata(call: S3Call) -> bool:
    directive = call.headers.get("x-amz-metadata-directive", "COPY")
    if directive not in {"COPY", "REPLACE"}:
        raise arguments.invalid_argument(
            "Unknown metadata directive.", "x-amz-metadata-directive", directive
        )
    return directive == "REPLACE"


def _check_self_copy(
    call: S3Call, source: _Source, target: Capability, *, replaces: bool
) -> None:
    """A copy onto itself must change something.

    An old version copied onto its key does: it becomes the current one.
    """
    same_bucket = source.capability.record.bucket == target.record.bucket
    same_key = source.capability.key == target.key
    changes = (
        replaces
        or source.capability.version_id is not None
        or "x-amz-storage-class" in call.headers
    )
    if same_bucket and same_key and not changes:
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to "
            "itself without changing the object's metadata, storage class, website "
            "redirect location or encryption attributes.",
        )


def _source_too_large() -> S3Error:
    return S3Error(
        "InvalidRequest",
        "The specified copy source is larger than the maximum allowable size for a copy "
        f"source: {COPY_SIZE_MAX}",
    )


# ---- UploadPartCopy -------------------------------------------------------------------


async def upload_part_copy(call: S3Call) -> Response:
    key = arguments.object_key(call)
    refuse_unknown_features(call.headers)
    number = arguments.part_number(call)
    upload_id = arguments.upload_id(call)
    target = await authorize(call, "s3:PutObject", arguments.bucket_name(call), key)
    arguments.check_expected_owner(call, target.record)
    source = await _find_source(call)
    upload = await multipart.get_upload(call.store, target, upload_id)
    offset, size = _range(call, draft_of(source.version).size)
    body = SourceBody(call.store, source.capability, source.version, offset, size)
    algorithm = upload.checksum_algorithm or DEFAULT_CHECKSUM_ALGORITHM

    async def answer() -> Response:
        part = await copy.copy_part(
            call.store, body, target, upload, number, checksum_algorithm=algorithm
        )
        return xml_response(
            document(
                "CopyPartResult",
                tag("LastModified", iso_time(part.time_ms)),
                tag("ETag", quoted(part.etag)),
                part_checksum_tag(part.checksum),
            ),
            source.headers(),
        )

    return await call.slow(answer)


def _range(call: S3Call, size: int) -> tuple[int, int]:
    """Offset and size of what is copied; all of the source without a range."""
    header = call.headers.get("x-amz-copy-source-range")
    if header is None:
        if size > COPY_SIZE_MAX:
            raise _source_too_large()
        return 0, size
    match = _RANGE.fullmatch(header)
    if match is None or int(match[2]) < int(match[1]):
        raise arguments.invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where "
            "first and last are the zero-based offsets of the first and last bytes to copy",
            "x-amz-copy-source-range",
            header,
        )
    first, last = int(match[1]), int(match[2])
    if last >= size:
        raise arguments.invalid_argument(
            f"Range specified is not valid for source object of size: {size}",
            "x-amz-copy-source-range",
            header,
        )
    if last - first + 1 > COPY_SIZE_MAX:
        raise _source_too_large()
    return first, last - first + 1
