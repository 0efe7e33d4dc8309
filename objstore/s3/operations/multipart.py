"""Multipart uploads: CreateMultipartUpload, UploadPart, CompleteMultipartUpload, Abort."""

from __future__ import annotations

import base64
import binascii

from objstore.http.message import Response
from objstore.ids import UploadId
from objstore.limits import PART_NUMBER_MAX, PART_SIZE_MAX, XML_LARGE_SIZE_MAX
from objstore.meta.commands import CompleteResult, PartRef
from objstore.meta.errors import NoSuchUpload
from objstore.meta.values import Checksum, Upload
from objstore.objects import multipart
from objstore.objects.capability import Capability
from objstore.objects.multipart import Completion, UploadAttributes
from objstore.objects.requests import (
    CHECKSUM_ALGORITHMS,
    DEFAULT_CHECKSUM_ALGORITHM,
    Body,
)
from objstore.s3.authorize import authorize
from objstore.s3.call import S3Call
from objstore.s3.errors import S3Error
from objstore.s3.operations import arguments, stored
from objstore.s3.operations.answers import (
    checksum_headers,
    checksum_tags,
    empty_response,
    key_text,
    quoted,
    xml_response,
)
from objstore.s3.operations.bodies import read_document
from objstore.s3.operations.features import refuse_unknown_features
from objstore.s3.operations.object import entity_too_large, written_version_headers
from objstore.s3.xml import Element, document, malformed, tag

_FULL_OBJECT, _COMPOSITE = "FULL_OBJECT", "COMPOSITE"
# Which kinds an algorithm can have; the first is what it has when nobody says.
_KINDS = {
    "CRC32": (_COMPOSITE, _FULL_OBJECT),
    "CRC32C": (_COMPOSITE, _FULL_OBJECT),
    "CRC64NVME": (_FULL_OBJECT,),
    "SHA1": (_COMPOSITE,),
    "SHA256": (_COMPOSITE,),
}
assert set(_KINDS) == set(CHECKSUM_ALGORITHMS)


# ---- create ---------------------------------------------------------------------------


async def create_multipart_upload(call: S3Call) -> Response:
    key = arguments.object_key(call)
    refuse_unknown_features(call.headers)
    algorithm, kind = _asked_checksum(call)
    attributes = UploadAttributes(
        headers=stored.kept_headers(call.headers),
        user_metadata=stored.user_metadata(call.headers),
        checksum_algorithm=algorithm or DEFAULT_CHECKSUM_ALGORITHM,
        checksum_kind=kind or _FULL_OBJECT,
    )
    capability = await _authorize(call, "s3:PutObject")
    upload = await multipart.create_upload(call.store, capability, attributes)
    headers = []
    if algorithm is not None and kind is not None:
        headers = [
            ("x-amz-checksum-algorithm", algorithm),
            ("x-amz-checksum-type", kind),
        ]
    return xml_response(
        document(
            "InitiateMultipartUploadResult",
            tag("Bucket", call.bucket),
            tag("Key", key_text(key, None)),
            tag("UploadId", upload.upload),
        ),
        headers,
    )


def _asked_checksum(call: S3Call) -> tuple[str | None, str | None]:
    algorithm = arguments.asked_algorithm(call)
    kind = call.headers.get("x-amz-checksum-type")
    if algorithm is None:
        if kind is not None:
            raise S3Error(
                "InvalidRequest",
                "The x-amz-checksum-type header can only be used with the "
                "x-amz-checksum-algorithm header.",
            )
        return None, None
    allowed = _KINDS[algorithm]
    chosen = allowed[0] if kind is None else kind.upper()
    if chosen not in {_FULL_OBJECT, _COMPOSITE}:
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    if chosen not in allowed:
        raise S3Error(
            "InvalidRequest",
            f"The {chosen} checksum type cannot be used with the {algorithm.lower()} "
            "checksum algorithm.",
        )
    return algorithm, chosen


async def _authorize(call: S3Call, action: str) -> Capability:
    capability = await authorize(
        call, action, arguments.bucket_name(call), arguments.object_key(call)
    )
    arguments.check_expected_owner(call, capability.record)
    return capability


# ---- parts ----------------------------------------------------------------------------


async def upload_part(call: S3Call) -> Response:
    refuse_unknown_features(call.headers)
    number = arguments.part_number(call)
    upload_id = arguments.upload_id(call)
    body = call.body
    if body.size > PART_SIZE_MAX:
        raise entity_too_large(body.size)
    capability = await _authorize(call, "s3:PutObject")
    upload = await multipart.get_upload(call.store, capability, upload_id)
    algorithm = _part_algorithm(upload, body)
    part = await multipart.put_part(
        call.store, capability, upload, number, body, checksum_algorithm=algorithm
    )
    headers = [("etag", quoted(part.etag))]
    headers += checksum_headers(part.checksum)[:1]  # Its kind is the object's matter.
    return empty_response(200, headers)


def _part_algorithm(upload: Upload, body: Body) -> str:
    """What the upload keeps of its parts.

    A part may bring another checksum where the upload keeps what we chose ourselves:
    it is checked, and not kept.
    """
    kept = upload.checksum_algorithm or DEFAULT_CHECKSUM_ALGORITHM
    sent = arguments.sent_algorithm(body)
    if sent is not None and kept not in {sent, DEFAULT_CHECKSUM_ALGORITHM}:
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {kept.lower()}, "
            f"actual checksum Type: {sent.lower()}",
        )
    return kept


# ---- complete -------------------------------------------------------------------------


async def complete_multipart_upload(call: S3Call) -> Response:
    refuse_unknown_features(call.headers)
    upload_id = arguments.upload_id(call)
    capability = await _authorize(call, "s3:PutObject")
    condition = arguments.write_condition(call)
    expected_size = _expected_size(call)
    root = await read_document(call, "CompleteMultipartUpload", size_max=XML_LARGE_SIZE_MAX)
    assert root is not None

    async def answer() -> Response:
        algorithm = await _kept_algorithm(call, capability, upload_id)
        completion = Completion(
            parts=_parse_parts(root, algorithm),
            condition=condition,
            expected_size=expected_size,
            expected_checksum=_expected_checksum(call, algorithm),
        )
        result = await multipart.complete_upload(
            call.store, capability, upload_id, completion
        )
        return xml_response(
            _completed(call, result),
            written_version_headers(capability.record, result.put.version_id),
        )

    return await call.slow(answer)


async def _kept_algorithm(
    call: S3Call, capability: Capability, upload_id: UploadId
) -> str | None:
    """The upload's checksum algorithm; None where it is not in progress (any more).

    Then the completion may be a repeated one, which the command knows.
    """
    try:
        upload = await multipart.get_upload(call.store, capability, upload_id)
    except NoSuchUpload:
        return None
    kind = call.headers.get("x-amz-checksum-type")
    if kind is not None and kind.upper() != upload.checksum_kind:
        raise S3Error(
            "InvalidRequest",
            "The upload was created using the "
            f"{upload.checksum_kind} checksum mode. The complete request must use the "
            "same checksum mode.",
        )
    return upload.checksum_algorithm


def _parse_parts(root: Element, algorithm: str | None) -> tuple[PartRef, ...]:
    parts = tuple(_parse_part(element, algorithm) for element in root)
    if not 1 <= len(parts) <= PART_NUMBER_MAX:
        raise malformed()
    return parts


def _parse_part(element: Element, algorithm: str | None) -> PartRef:
    if element.name != "Part":
        raise malformed()
    fields = {child.name: child.text.strip() for child in element}
    number = fields.get("PartNumber", "")
    etag = fields.get("ETag", "").strip('"')
    if not (number.isascii() and number.isdigit() and len(number) <= 10 and etag):
        raise malformed()
    if not 1 <= int(number) <= PART_NUMBER_MAX:
        raise arguments.invalid_argument(
            f"Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive",
            "partNumber",
            number,
        )
    checksum = None if algorithm is None else fields.get(f"Checksum{algorithm}")
    return PartRef(
        number=int(number),
        etag=etag,
        checksum=None if not checksum else _decode_base64(checksum),
    )


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise S3Error(
            "InvalidRequest", "Value for a checksum is not valid base64."
        ) from error


def _expected_size(call: S3Call) -> int | None:
    text = call.headers.get("x-amz-mp-object-size")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise S3Error("InvalidRequest", "Value for x-amz-mp-object-size header is invalid.")
    return int(text)


def _expected_checksum(call: S3Call, algorithm: str | None) -> bytes | None:
    """The whole object's checksum that the client says, if it says one."""
    for name in CHECKSUM_ALGORITHMS:
        text = call.headers.get(f"x-amz-checksum-{name.lower()}")
        if text is None:
            continue
        if algorithm is not None and name != algorithm:
            raise S3Error(
                "InvalidRequest",
                f"Checksum Type mismatch occurred, expected checksum Type: "
                f"{algorithm.lower()}, actual checksum Type: {name.lower()}",
            )
        return _decode_base64(text.partition("-")[0])
    return None


def _completed(call: S3Call, result: CompleteResult) -> bytes:
    checksum = None
    if result.checksum_algorithm and result.checksum and result.checksum_kind:
        checksum = Checksum(
            result.checksum_algorithm, result.checksum, result.checksum_kind
        )
    key = arguments.object_key(call)
    scheme = "https" if call.request.secure else "http"
    host = call.headers.get("host", "")
    return document(
        "CompleteMultipartUploadResult",
        tag("Location", f"{scheme}://{host}{call.resource}"),
        tag("Bucket", call.bucket),
        tag("Key", key_text(key, None)),
        tag("ETag", quoted(result.put.etag)),
        checksum_tags(checksum, result.part_count),
    )


# ---- abort ----------------------------------------------------------------------------


async def abort_multipart_upload(call: S3Call) -> Response:
    refuse_unknown_features(call.headers)
    upload_id = arguments.upload_id(call)
    capability = await _authorize(call, "s3:AbortMultipartUpload")
    await multipart.abort_upload(call.store, capability, upload_id)
    return empty_response(204)
