"""GetObjectAttributes: what is known of an object, without its bytes."""

from __future__ import annotations

from objstore.http.dates import format_http_date
from objstore.http.message import Response
from objstore.limits import LIST_PAGE_MAX
from objstore.meta.values import Part, Version
from objstore.objects import get, listing
from objstore.objects.capability import Capability
from objstore.objects.get import draft_of
from objstore.s3.authorize import authorize
from objstore.s3.call import S3Call
from objstore.s3.operations import arguments
from objstore.s3.operations.answers import (
    checksum_tags,
    part_checksum_tag,
    version_headers,
    xml_response,
)
from objstore.s3.operations.features import refuse_unknown_features
from objstore.s3.operations.object import find_version
from objstore.s3.xml import document, element, flag, tag

_NAMES = {"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"}


async def get_object_attributes(call: S3Call) -> Response:
    key = arguments.object_key(call)
    refuse_unknown_features(call.headers)
    wanted = _wanted(call)
    version_id = arguments.version_id(call)
    action = "s3:GetObject" if version_id is None else "s3:GetObjectVersion"
    capability = await authorize(call, action, arguments.bucket_name(call), key, version_id)
    arguments.check_expected_owner(call, capability.record)
    version = await find_version(call, capability)
    draft = draft_of(version)
    part_count = get.part_count_of(version)
    checksum = checksum_tags(draft.checksum, part_count)
    shown = {
        "ETag": tag("ETag", draft.etag),
        "Checksum": element("Checksum", checksum) if checksum else "",
        "StorageClass": tag("StorageClass", draft.storage_class),
        "ObjectSize": tag("ObjectSize", draft.size),
    }
    if "ObjectParts" in wanted and part_count is not None:
        shown["ObjectParts"] = await _parts(call, capability, version, part_count)
    return xml_response(
        document(
            "GetObjectAttributesResponse",
            *(text for name, text in shown.items() if name in wanted),
        ),
        [
            ("last-modified", format_http_date(version.time_ms)),
            *version_headers(version, capability.record),
        ],
    )


def _wanted(call: S3Call) -> set[str]:
    header = call.headers.get("x-amz-object-attributes", "")
    names = {name.strip() for name in header.split(",")} - {""}
    if not names or not names <= _NAMES:
        raise arguments.invalid_argument(
            "Invalid attribute name specified.", "x-amz-object-attributes", header
        )
    return names


async def _parts(
    call: S3Call, capability: Capability, version: Version, part_count: int
) -> str:
    limit = _max_parts(call)
    after = arguments.marker_number(
        call.headers.get("x-amz-part-number-marker"), "x-amz-part-number-marker"
    )
    counted = tag("PartsCount", part_count)
    if draft_of(version).checksum is None:
        return element("ObjectParts", counted)  # As AWS: parts are for checksums.
    answer = await listing.list_version_parts(
        call.store, capability, version, after=after, limit=limit
    )
    last = answer.parts[-1].number if answer.parts else 0
    return element(
        "ObjectParts",
        counted,
        tag("PartNumberMarker", after),
        tag("NextPartNumberMarker", last),
        tag("MaxParts", limit),
        flag("IsTruncated", answer.is_truncated),
        *(element("Part", _part(part)) for part in answer.parts),
    )


def _max_parts(call: S3Call) -> int:
    text = call.headers.get("x-amz-max-parts")
    if text is None:
        return LIST_PAGE_MAX
    return min(arguments.marker_number(text, "x-amz-max-parts"), LIST_PAGE_MAX)


def _part(part: Part) -> str:
    return "".join(
        (
            tag("PartNumber", part.number),
            tag("Size", part.size),
            part_checksum_tag(part.checksum),
        )
    )
