"""What a call says beside its body: parameters, conditions, versions, checked one by one.

Every function raises S3Error with S3's own code where the argument cannot be used.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from objstore.frozen import frozen
from objstore.http.conditions import ANY, CONDITIONS, parse_etags
from objstore.ids import Key, UploadId, VersionId
from objstore.limits import KEY_SIZE_MAX, LIST_PAGE_MAX, PART_NUMBER_MAX
from objstore.meta.commands import UNCONDITIONAL, WriteCondition
from objstore.meta.values import BucketRecord
from objstore.objects.requests import (
    CHECKSUM_ALGORITHMS,
    DEFAULT_CHECKSUM_ALGORITHM,
    Body,
)
from objstore.s3.call import S3Call
from objstore.s3.errors import S3Error
from objstore.s3.operations.features import not_implemented

_INTEGER = re.compile(r"[0-9]{1,10}")
_INTEGER_MAX = 2**31 - 1
_VERSION_ID = re.compile(r"null|[0-9a-f]{32}")
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")


def invalid_argument(message: str, name: str, value: str) -> S3Error:
    return S3Error(
        "InvalidArgument",
        message,
        details={"ArgumentName": name, "ArgumentValue": value},
    )


# ---- numbers --------------------------------------------------------------------------


def page_size(call: S3Call, name: str, *, at_most: int = LIST_PAGE_MAX) -> int:
    """How many entries a page may have: `name`, 0 or more, capped."""
    text = call.query.get(name)
    if text is None or text == "":
        return at_most
    return min(_integer(text, name), at_most)


def marker_number(text: str | None, name: str) -> int:
    """A part number to go on after; 0 without."""
    return 0 if text is None or text == "" else _integer(text, name)


def _integer(text: str, name: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise invalid_argument(
            f"Provided {name} not an integer or within integer range", name, text
        )
    if int(text) > _INTEGER_MAX:
        raise invalid_argument(
            f"Argument {name} must be an integer between 0 and {_INTEGER_MAX}", name, text
        )
    return int(text)


def part_number(call: S3Call) -> int:
    """The number of the part that a call is about."""
    text = call.query.get("partNumber", "")
    if _INTEGER.fullmatch(text) is None or not 1 <= int(text) <= PART_NUMBER_MAX:
        raise invalid_argument(
            f"Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive",
            "partNumber",
            text,
        )
    return int(text)


# ---- ids ------------------------------------------------------------------------------


def version_id(call: S3Call) -> VersionId | None:
    """The version that a call names; None: the current one."""
    text = call.query.get("versionId")
    return None if text is None else parse_version_id(text)


def parse_version_id(text: str) -> VersionId:
    if text == "":
        raise invalid_argument("Version id cannot be the empty string", "versionId", text)
    if _VERSION_ID.fullmatch(text) is None:
        raise invalid_argument("Invalid version id specified", "versionId", text)
    return VersionId(text)


def upload_id(call: S3Call) -> UploadId:
    """The upload that a call names.  One that we never gave is none: NoSuchUpload."""
    text = call.query.get("uploadId", "")
    if _UPLOAD_ID.fullmatch(text) is None:
        raise no_such_upload()
    return UploadId(text)


def no_such_upload() -> S3Error:
    return S3Error(
        "NoSuchUpload",
        "The specified upload does not exist. The upload ID may be invalid, or the upload "
        "may have been aborted or completed.",
    )


def object_key(call: S3Call) -> Key:
    """The key that a call is about."""
    assert call.key, "the router gives no empty one, and none that is too long"
    return call.key


def check_key(key: Key) -> Key:
    """Raise S3Error where `key` cannot be one."""
    if not key:
        raise S3Error("UserKeyMustBeSpecified", "The key must not be empty")
    if len(key) > KEY_SIZE_MAX:
        raise S3Error(
            "KeyTooLongError",
            "Your key is too long",
            details={"Size": str(len(key)), "MaxSizeAllowed": str(KEY_SIZE_MAX)},
        )
    return key


def bucket_name(call: S3Call) -> str:
    assert call.bucket is not None
    return call.bucket


# ---- who ------------------------------------------------------------------------------


def check_expected_owner(
    call: S3Call, record: BucketRecord, header: str = "x-amz-expected-bucket-owner"
) -> None:
    """Raise AccessDenied where the bucket has another owner than the caller expects."""
    expected = call.headers.by_name.get(header)
    if expected is not None and expected != record.owner:
        raise S3Error("AccessDenied", "Access Denied")


# ---- lists ----------------------------------------------------------------------------


def encoding_type(call: S3Call) -> str | None:
    """How keys are to be shown: "url", or None for as they are."""
    text = call.query.get("encoding-type")
    if text is None or text == "":
        return None
    if text.lower() != "url":
        raise invalid_argument(
            "Invalid Encoding Method specified in Request", "encoding-type", text
        )
    return "url"


# ---- conditions -----------------------------------------------------------------------


def write_condition(call: S3Call) -> WriteCondition:
    """If-None-Match: * or If-Match of a write; S3 knows no others there."""
    headers = call.headers
    if CONDITIONS.isdisjoint(headers.by_name):
        return UNCONDITIONAL
    for name in ("if-modified-since", "if-unmodified-since"):
        if name in headers:
            raise not_implemented(name)
    none_match, match = headers.get("if-none-match"), headers.get("if-match")
    if none_match is None and match is None:
        return UNCONDITIONAL
    if none_match is not None:
        if match is not None or none_match.strip() != ANY:
            raise not_implemented("If-None-Match")
        return WriteCondition(if_none_match=(ANY,))
    assert match is not None
    return match_condition(match)


def match_condition(value: str) -> WriteCondition:
    """If-Match; a list that names no etag matches nothing."""
    return WriteCondition(if_match=parse_etags(value, weak=False) or ("",))


# ---- checksums ------------------------------------------------------------------------


def kept_algorithm(call: S3Call, body: Body) -> str:
    """The checksum that the object keeps: the one sent, else asked for, else ours."""
    return (
        sent_algorithm(body)
        or _asked_algorithm(call, "x-amz-sdk-checksum-algorithm")
        or DEFAULT_CHECKSUM_ALGORITHM
    )


def sent_algorithm(body: Body) -> str | None:
    """The checksum that comes with the body, in a header or trailer."""
    for digest in body.digests:
        if digest.algorithm in CHECKSUM_ALGORITHMS:
            return digest.algorithm
    return body.trailing_algorithm


def asked_algorithm(call: S3Call) -> str | None:
    """x-amz-checksum-algorithm, of a copy or a new upload."""
    return _asked_algorithm(call, "x-amz-checksum-algorithm")


def _asked_algorithm(call: S3Call, header: str) -> str | None:
    text = call.headers.by_name.get(header)
    if text is None:
        return None
    if text.upper() not in CHECKSUM_ALGORITHMS:
        raise S3Error(
            "InvalidRequest",
            "Checksum algorithm provided is unsupported. Please try again with any of the "
            f"valid types: [{', '.join(CHECKSUM_ALGORITHMS)}]",
        )
    return text.upper()


# ---- copy sources ---------------------------------------------------------------------


@frozen
class CopySource:
    """What x-amz-copy-source names."""

    bucket: str
    key: Key
    version_id: VersionId | None = None


def copy_source(call: S3Call) -> CopySource:
    """Read [/]bucket/key[?versionId=...], percent-encoded.  Keys stay opaque bytes."""
    header = call.headers.get("x-amz-copy-source", "")
    path, _, query = header.partition("?")
    name, slash, key = path.removeprefix("/").partition("/")
    raw_name = unquote_to_bytes(name.encode("latin-1"))
    raw_key = unquote_to_bytes(key.encode("latin-1"))
    if not slash and b"/" in raw_name:  # Some clients encode that slash as well.
        raw_name, _, raw_key = raw_name.lstrip(b"/").partition(b"/")
    if not raw_name or not raw_key or not (_is_text(raw_name) and _is_text(raw_key)):
        raise invalid_argument(
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            "x-amz-copy-source",
            header,
        )
    version = None
    if query:
        parameter, equals, value = query.partition("=")
        if parameter != "versionId" or not equals:
            raise invalid_argument(
                "Unsupported copy source parameter.", "x-amz-copy-source", header
            )
        version = parse_version_id(value)
    return CopySource(raw_name.decode(), check_key(Key(raw_key)), version)


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
