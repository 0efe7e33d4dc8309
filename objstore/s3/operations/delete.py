"""DeleteObjects: up to a thousand keys, each authorised and decided for itself."""

from __future__ import annotations

from objstore.errors import ObjstoreError
from objstore.frozen import frozen
from objstore.http.message import Response
from objstore.ids import Key, VersionId
from objstore.limits import DELETE_OBJECTS_MAX, XML_LARGE_SIZE_MAX
from objstore.meta.commands import UNCONDITIONAL, DeleteResult, WriteCondition
from objstore.objects import delete
from objstore.objects.capability import Capability
from objstore.objects.requests import MD5
from objstore.s3.authorize import authorize
from objstore.s3.call import S3Call
from objstore.s3.errors import S3Error, to_s3_error
from objstore.s3.operations import arguments
from objstore.s3.operations.answers import key_text, xml_response
from objstore.s3.operations.bodies import read_document
from objstore.s3.operations.features import not_implemented, refuse_unknown_features
from objstore.s3.xml import Element, document, element, malformed, tag, tag_if


@frozen
class _Item:
    """One <Object> of the request."""

    key: Key
    version_id: str | None = None
    condition: WriteCondition = UNCONDITIONAL
    refused: str | None = None  # A condition that only directory buckets have.


_Outcome = DeleteResult | ObjstoreError


async def delete_objects(call: S3Call) -> Response:
    refuse_unknown_features(call.headers)
    bucket = arguments.bucket_name(call)
    capability = await authorize(call, "s3:DeleteObject", bucket)
    arguments.check_expected_owner(call, capability.record)
    _require_digest(call)
    root = await read_document(call, "Delete", size_max=XML_LARGE_SIZE_MAX)
    assert root is not None
    items, is_quiet = _parse(root)
    outcomes = await _delete(call, bucket, items)
    shown = [
        _shown(item, outcome, is_quiet=is_quiet)
        for item, outcome in zip(items, outcomes, strict=True)
    ]
    return xml_response(document("DeleteResult", *shown))


def _require_digest(call: S3Call) -> None:
    """The body decides what is lost, so it must come with a digest of its own."""
    has_md5 = any(digest.algorithm == MD5 for digest in call.body.digests)
    if not has_md5 and arguments.sent_algorithm(call.body) is None:
        raise S3Error(
            "InvalidRequest",
            "Missing required header for this request: Content-MD5 OR x-amz-checksum-*",
        )


def _parse(root: Element) -> tuple[list[_Item], bool]:
    items: list[_Item] = []
    is_quiet = False
    for child in root:
        if child.name == "Object":
            items.append(_item(child))
        elif child.name == "Quiet":
            is_quiet = child.text.strip().lower() == "true"
        else:
            raise malformed()
    if not 1 <= len(items) <= DELETE_OBJECTS_MAX:
        raise malformed()
    return items, is_quiet


def _item(described: Element) -> _Item:
    fields = {child.name: child.text for child in described}
    # A field twice: whoever checked the document before us may have read the other one.
    if "Key" not in fields or len(fields) != len(described.children):
        raise malformed()
    refused = next((n for n in ("LastModifiedTime", "Size") if n in fields), None)
    condition = UNCONDITIONAL
    if fields.get("ETag"):
        condition = arguments.match_condition(fields["ETag"])
    return _Item(
        key=Key(fields["Key"].encode()),
        version_id=fields.get("VersionId"),
        condition=condition,
        refused=refused,
    )


async def _delete(call: S3Call, bucket: str, items: list[_Item]) -> list[_Outcome]:
    """One outcome an item, in order."""
    outcomes: dict[int, _Outcome] = {}
    allowed: list[tuple[int, Capability, WriteCondition]] = []
    for number, item in enumerate(items):
        try:
            capability = await _authorize(call, bucket, item)
        except ObjstoreError as error:
            outcomes[number] = error
        else:
            allowed.append((number, capability, item.condition))
    deleted = await delete.delete_objects(
        call.store, [(capability, condition) for _, capability, condition in allowed]
    )
    for (number, _, _), outcome in zip(allowed, deleted, strict=True):
        outcomes[number] = outcome
    return [outcomes[number] for number in range(len(items))]


async def _authorize(call: S3Call, bucket: str, item: _Item) -> Capability:
    if item.refused is not None:
        raise not_implemented(item.refused)
    version_id: VersionId | None = None
    if item.version_id:
        version_id = arguments.parse_version_id(item.version_id)
    action = "s3:DeleteObject" if version_id is None else "s3:DeleteObjectVersion"
    key = arguments.check_key(item.key)
    return await authorize(call, action, bucket, key, version_id)


def _shown(item: _Item, outcome: _Outcome, *, is_quiet: bool) -> str:
    key = tag("Key", key_text(item.key, None))
    version = tag_if("VersionId", item.version_id or None)
    if isinstance(outcome, ObjstoreError):
        error = to_s3_error(outcome)
        code, message = tag("Code", error.code), tag("Message", error.message)
        return element("Error", key, version, code, message)
    if is_quiet:
        return ""
    marker = ""
    if outcome.is_delete_marker:
        marker = tag("DeleteMarker", "true") + tag_if(
            "DeleteMarkerVersionId", outcome.version_id
        )
    return element("Deleted", key, version, marker)
