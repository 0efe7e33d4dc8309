"""Objects: PutObject, GetObject, HeadObject, DeleteObject."""

from __future__ import annotations

from objstore.frozen import frozen
from objstore.http.conditions import (
    CONDITIONS,
    Conditions,
    Outcome,
    range_applies,
)
from objstore.http.message import Response
from objstore.http.ranges import RangeNotSatisfiable, parse_range
from objstore.limits import PUT_SIZE_MAX
from objstore.meta.values import BucketRecord, Version
from objstore.objects import delete, get, put
from objstore.objects.capability import Capability
from objstore.objects.get import (
    NoSuchPart,
    VersionReplaced,
    draft_of,
)
from objstore.objects.requests import ObjectAttributes
from objstore.s3.authorize import authorize
from objstore.s3.call import S3Call
from objstore.s3.errors import S3Error
from objstore.s3.operations import arguments, stored
from objstore.s3.operations.answers import (
    checksum_headers,
    empty_response,
    head_response,
    object_headers,
    quoted,
    stream_response,
)
from objstore.s3.operations.features import not_implemented, refuse_unknown_features

# How often a GET begins anew because its object is overwritten under it.
_REPLACED_MAX = 3
_CHECKSUM_MODE = "x-amz-checksum-mode"

# What `response-*` parameters may set, by header.
_OVERRIDES = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)


# ---- put ------------------------------------------------------------------------------


async def put_object(call: S3Call) -> Response:
    key = arguments.object_key(call)
    refuse_unknown_features(call.headers)
    body = call.body
    if body.size > PUT_SIZE_MAX:
        raise entity_too_large(body.size)
    attributes = ObjectAttributes(
        headers=stored.kept_headers(call.headers),
        user_metadata=stored.user_metadata(call.headers),
        checksum_algorithm=arguments.kept_algorithm(call, body),
        condition=arguments.write_condition(call),
    )
    capability = await authorize(call, "s3:PutObject", arguments.bucket_name(call), key)
    arguments.check_expected_owner(call, capability.record)
    written = await put.put_object(call.store, capability, body, attributes)
    return empty_response(
        200,
        [
            ("etag", quoted(written.result.etag)),
            *checksum_headers(written.checksum),
            *written_version_headers(capability.record, written.result.version_id),
        ],
    )


def entity_too_large(size: int) -> S3Error:
    return S3Error(
        "EntityTooLarge",
        "Your proposed upload exceeds the maximum allowed size",
        details={"ProposedSize": str(size), "MaxSizeAllowed": str(PUT_SIZE_MAX)},
    )


def written_version_headers(record: BucketRecord, version_id: str) -> list[tuple[str, str]]:
    """x-amz-version-id of a write, in a bucket that keeps versions."""
    if record.versioning == "unversioned":
        return []
    return [("x-amz-version-id", version_id)]


# ---- get, head ------------------------------------------------------------------------


@frozen
class _Selected:
    """What of an object is to be answered."""

    status: int
    offset: int
    size: int
    headers: list[tuple[str, str]]


async def get_object(call: S3Call) -> Response:
    for attempts_left in range(_REPLACED_MAX, -1, -1):
        try:
            capability, version, answer = await _look_up(call)
            if isinstance(answer, Response):
                return answer
            headers = _headers(call, capability.record, version, answer)
            data = get.inline_bytes(version)
            if data is None:
                return await _in_pieces(call, capability, version, answer, headers)
            if answer.size != len(data):
                data = data[answer.offset : answer.offset + answer.size]
            return Response(answer.status, headers, data)
        except VersionReplaced:
            if not attempts_left:
                raise
            # Overwritten between two steps: answer what is there now.
    raise AssertionError("the last attempt answers, or raises")


async def _in_pieces(
    call: S3Call,
    capability: Capability,
    version: Version,
    answer: _Selected,
    headers: list[tuple[str, str]],
) -> Response:
    pieces = get.read(
        call.store, capability, version, offset=answer.offset, size=answer.size
    )
    # The first piece is had before the status is sent: what cannot be read at all is an
    # error, and not a broken connection.
    first = await anext(pieces, None)
    if first is None or len(first) == answer.size:
        await pieces.aclose()
        return Response(answer.status, headers, first if first is not None else b"")
    pieces.unread(first)
    return stream_response(answer.status, headers, pieces, answer.size)


async def head_object(call: S3Call) -> Response:
    capability, version, answer = await _look_up(call)
    if isinstance(answer, Response):
        return answer
    headers = _headers(call, capability.record, version, answer)
    return head_response(answer.status, headers, answer.size)


async def _look_up(call: S3Call) -> tuple[Capability, Version, _Selected | Response]:
    """Find the version, judge the conditions, select the bytes."""
    key = arguments.object_key(call)
    refuse_unknown_features(call.headers)
    version_id = arguments.version_id(call)
    number = arguments.part_number(call) if "partNumber" in call.query else None
    if number is not None and "range" in call.headers:
        raise S3Error(
            "InvalidRequest",
            "Cannot specify both Range header and partNumber query parameter",
        )
    action = "s3:GetObject" if version_id is None else "s3:GetObjectVersion"
    capability = await authorize(call, action, arguments.bucket_name(call), key, version_id)
    arguments.check_expected_owner(call, capability.record)
    version = await get.find_any_version(call.store, capability)
    if version.draft is None:
        raise _marker_found(capability, version)
    if not CONDITIONS.isdisjoint(call.headers.by_name):
        not_modified = _judge(call, capability.record, version)
        if not_modified is not None:
            return capability, version, not_modified
    if number is not None:
        part = await _select_part(call, capability, version, number)
        return capability, version, part
    return capability, version, _select(call, version)


async def find_version(call: S3Call, capability: Capability) -> Version:
    """The version a read is about; delete markers are answered in S3's way."""
    version = await get.find_any_version(call.store, capability)
    if version.draft is None:
        raise _marker_found(capability, version)
    return version


def _marker_found(capability: Capability, version: Version) -> S3Error:
    marker = [("x-amz-delete-marker", "true"), ("x-amz-version-id", version.version_id)]
    if capability.version_id is not None:
        return S3Error(
            "MethodNotAllowed",
            "The specified method is not allowed against this resource.",
            headers=[*marker, ("allow", "DELETE")],
        )
    return S3Error("NoSuchKey", "The specified key does not exist.", headers=marker)


def _judge(call: S3Call, record: BucketRecord, version: Version) -> Response | None:
    """None to go on, the 304, or PreconditionFailed."""
    conditions = Conditions.from_headers(call.headers)
    draft = draft_of(version)
    outcome, header = conditions.check(etag=draft.etag, modified_ms=version.time_ms)
    if outcome is Outcome.FAILED:
        raise precondition_failed(header)
    if outcome is Outcome.NOT_MODIFIED:
        shown = {"etag", "last-modified", "cache-control", "expires", "x-amz-version-id"}
        headers = object_headers(version, record)
        return empty_response(304, [h for h in headers if h[0] in shown])
    return None


def precondition_failed(header: str) -> S3Error:
    return S3Error(
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
        details={"Condition": header},
    )


def _select(call: S3Call, version: Version) -> _Selected:
    draft = draft_of(version)
    size = draft.size
    value = call.headers.by_name.get("range")
    wanted = None if value is None else parse_range(value)
    if wanted is None or not range_applies(
        call.headers.get("if-range"), etag=draft.etag, modified_ms=version.time_ms
    ):
        is_asked = _CHECKSUM_MODE in call.headers.by_name
        return _Selected(200, 0, size, _kept_checksum(call, version) if is_asked else [])
    try:
        span = wanted.resolve(size)
    except RangeNotSatisfiable as error:
        raise S3Error(
            "InvalidRange",
            "The requested range is not satisfiable",
            details={"RangeRequested": str(value), "ActualObjectSize": str(size)},
            headers=[("content-range", f"bytes */{size}")],
        ) from error
    content_range = ("content-range", span.content_range(size))
    return _Selected(206, span.offset, span.length, [content_range])


async def _select_part(
    call: S3Call, capability: Capability, version: Version, number: int
) -> _Selected:
    size = draft_of(version).size
    try:
        span = await get.find_part(call.store, capability, version, number)
    except NoSuchPart as error:
        raise S3Error(
            "InvalidPartNumber",
            "The requested partnumber is not satisfiable",
            details={
                "PartNumberRequested": str(number),
                "ActualPartCount": str(error.part_count),
            },
        ) from error
    headers = []
    part_count = get.part_count_of(version)
    if part_count is not None:
        headers.append(("x-amz-mp-parts-count", str(part_count)))
    if span.size == 0:  # No range can say it.
        return _Selected(200, 0, 0, headers)
    last = span.offset + span.size - 1
    headers.append(("content-range", f"bytes {span.offset}-{last}/{size}"))
    return _Selected(206, span.offset, span.size, headers)


def _kept_checksum(call: S3Call, version: Version) -> list[tuple[str, str]]:
    """The object's checksum, which is asked for, as all bytes are answered.

    Not with a range: clients would compare it with the bytes they got.
    """
    mode = call.headers.by_name[_CHECKSUM_MODE]
    if mode.upper() != "ENABLED":
        raise arguments.invalid_argument(
            "The checksum mode must be ENABLED", _CHECKSUM_MODE, mode
        )
    return checksum_headers(draft_of(version).checksum, get.part_count_of(version))


def _headers(
    call: S3Call, record: BucketRecord, version: Version, answer: _Selected
) -> list[tuple[str, str]]:
    headers = object_headers(version, record)
    headers += answer.headers
    overrides = _overrides(call) if call.query else None
    if not overrides:
        return headers
    kept = [header for header in headers if header[0] not in overrides]
    return kept + list(overrides.items())


def _overrides(call: S3Call) -> dict[str, str]:
    """response-content-type and friends; every call that comes here is signed."""
    overrides = {}
    for name in _OVERRIDES:
        value = call.query.get(f"response-{name}")
        if value is None:
            continue
        if not _is_header_value(value):
            raise arguments.invalid_argument(
                "Header value cannot be represented using ISO-8859-1.",
                f"response-{name}",
                value,
            )
        overrides[name] = value
    return overrides


def _is_header_value(value: str) -> bool:
    return all(
        character == "\t" or (" " <= character <= "\xff" and character != "\x7f")
        for character in value
    )


# ---- delete ---------------------------------------------------------------------------


async def delete_object(call: S3Call) -> Response:
    key = arguments.object_key(call)
    refuse_unknown_features(call.headers)
    version_id = arguments.version_id(call)
    action = "s3:DeleteObject" if version_id is None else "s3:DeleteObjectVersion"
    capability = await authorize(call, action, arguments.bucket_name(call), key, version_id)
    arguments.check_expected_owner(call, capability.record)
    condition = arguments.write_condition(call)
    if condition.if_none_match:
        raise not_implemented("If-None-Match")
    result = await delete.delete_object(call.store, capability, condition)
    headers: list[tuple[str, str]] = []
    if result.version_id is not None:
        headers.append(("x-amz-version-id", result.version_id))
    if result.is_delete_marker:
        headers.append(("x-amz-delete-marker", "true"))
    return empty_response(204, headers)
