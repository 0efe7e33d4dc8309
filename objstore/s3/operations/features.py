"""Features that a header can ask for, and what we say to each.

A header that asks for something we do not do is refused by name, never ignored: who asks
for encryption or a lock must not believe that it was done.  What is truly the case without
doing anything (`x-amz-acl: private`, `x-amz-storage-class: STANDARD`) is accepted.
"""

from __future__ import annotations

from objstore.http.message import Headers
from objstore.s3.errors import S3Error
from objstore.s3.sigv4 import OF_EVERY_REQUEST

_NOT_IMPLEMENTED_PREFIXES = (
    "x-amz-server-side-encryption",
    "x-amz-copy-source-server-side-encryption",
    "x-amz-object-lock-",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
    "x-amz-mfa",
    "x-amz-bypass-governance-retention",
    "x-amz-if-match-",
    "x-amz-bucket-namespace",
)
_CHOICES = frozenset({"x-amz-acl", "x-amz-storage-class"})
# Header -> values that are the case anyway.
_TRUE_ANYWAY = {
    "x-amz-tagging": {""},
    "x-amz-tagging-directive": {"COPY", "REPLACE"},  # There are no tags to copy.
    "x-amz-object-annotation-directive": {"COPY", "EXCLUDE"},
    "x-amz-bucket-object-lock-enabled": {"false", "False"},
    "x-amz-object-ownership": {"BucketOwnerEnforced"},
    "x-amz-request-payer": {"requester"},  # Nobody pays here.
}
_TRUE_ACLS = {"private", "bucket-owner-full-control"}
_KNOWN_ACLS = _TRUE_ACLS | {
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "log-delivery-write",
}
# What AWS has beside the ones kept here: checked by nobody, so refused.
_CHECKSUM_PREFIX = "x-amz-checksum-"
_KNOWN_CHECKSUM_HEADERS = {
    f"{_CHECKSUM_PREFIX}{name}"
    for name in (
        "crc32", "crc32c", "crc64nvme", "sha1", "sha256", "algorithm", "type", "mode",
    )
}  # fmt: skip


def refuse_unknown_features(headers: Headers) -> None:
    """Raise S3Error for the first header that asks for what is not done here."""
    if OF_EVERY_REQUEST.issuperset(headers.extensions):
        return
    for name in headers.extensions:
        value = headers[name]
        if name.startswith(_NOT_IMPLEMENTED_PREFIXES):
            raise not_implemented(name)
        if name in _TRUE_ANYWAY and value not in _TRUE_ANYWAY[name]:
            raise not_implemented(name)
        if name.startswith(_CHECKSUM_PREFIX) and name not in _KNOWN_CHECKSUM_HEADERS:
            raise not_implemented(name)
        if name.startswith("x-amz-grant-"):
            raise _acl_not_supported()
    if not headers.lacks(_CHOICES):
        _check_acl(headers.get("x-amz-acl"))
        _check_storage_class(headers.get("x-amz-storage-class"))


def not_implemented(header: str) -> S3Error:
    """What AWS says of a header whose feature it does not have."""
    return S3Error(
        "NotImplemented",
        "A header you provided implies functionality that is not implemented",
        details={"Header": header},
    )


def _check_acl(acl: str | None) -> None:
    if acl is None or acl in _TRUE_ACLS:
        return
    if acl not in _KNOWN_ACLS:
        raise S3Error(
            "InvalidArgument",
            "The canned ACL you provided is not valid",
            details={"ArgumentName": "x-amz-acl", "ArgumentValue": acl},
        )
    raise _acl_not_supported()


def _acl_not_supported() -> S3Error:
    return S3Error("AccessControlListNotSupported", "The bucket does not allow ACLs")


def _check_storage_class(storage_class: str | None) -> None:
    if storage_class not in {None, "STANDARD"}:
        raise S3Error(
            "InvalidStorageClass",
            "The storage class you specified is not valid",
            details={"StorageClassRequested": str(storage_class)},
        )
