"""Buckets: ListBuckets, CreateBucket, HeadBucket, GetBucketLocation, DeleteBucket.

GetBucketVersioning is here too, because clients ask before they work: it truthfully says
that versioning was never set.
"""

from __future__ import annotations

from objstore.http.message import Response
from objstore.limits import BUCKETS_MAX
from objstore.meta.errors import BucketExists
from objstore.meta.values import BucketRecord
from objstore.objects import buckets
from objstore.s3.authorize import authorize, authorize_service
from objstore.s3.call import S3Call
from objstore.s3.errors import S3Error
from objstore.s3.names import check_new_bucket_name
from objstore.s3.operations import arguments
from objstore.s3.operations.answers import (
    empty_response,
    owner_tag,
    xml_response,
)
from objstore.s3.operations.bodies import read_document
from objstore.s3.operations.features import not_implemented, refuse_unknown_features
from objstore.s3.operations.tokens import (
    InvalidContinuation,
    decode_token,
    encode_token,
)
from objstore.s3.xml import document, element, tag, tag_if
from objstore.units import iso_time

_HOME_REGION = "us-east-1"  # Where S3 keeps its oldest habits.
_LIST_SCOPE = "/"  # Of ListBuckets' tokens: no bucket has this name.


async def list_buckets(call: S3Call) -> Response:
    capability = authorize_service(call, "s3:ListAllMyBuckets")
    query = call.query
    limit = _max_buckets(call)
    prefix = query.get("prefix", "")
    token = query.get("continuation-token")
    after = "" if token is None else _place(token)
    is_elsewhere = query.get("bucket-region", call.region) != call.region
    page = await buckets.list_buckets(
        call.store,
        capability,
        prefix=prefix,
        after=after,
        limit=0 if is_elsewhere else limit,
    )
    following = None
    if page.is_truncated and page.buckets:
        following = encode_token(_LIST_SCOPE, page.buckets[-1].name.encode())
    names = {"max-buckets", "prefix", "continuation-token", "bucket-region"}
    region = call.region if any(name in query for name in names) else None
    principal = capability.principal
    return xml_response(
        document(
            "ListAllMyBucketsResult",
            owner_tag("Owner", principal.canonical_id, principal.name),
            element("Buckets", *(_bucket(record, region) for record in page.buckets)),
            tag_if("ContinuationToken", following),
            tag_if("Prefix", prefix or None),
        )
    )


def _bucket(record: BucketRecord, region: str | None) -> str:
    return element(
        "Bucket",
        tag("Name", record.name),
        tag("CreationDate", iso_time(record.created_ms)),
        tag_if("BucketRegion", region),
    )


def _max_buckets(call: S3Call) -> int:
    text = call.query.get("max-buckets")
    limit = arguments.page_size(call, "max-buckets", at_most=BUCKETS_MAX)
    if limit == 0:
        raise arguments.invalid_argument(
            f"Argument max-buckets must be an integer between 1 and {BUCKETS_MAX}",
            "max-buckets",
            text or "",
        )
    return limit


def _place(token: str) -> str:
    try:
        return decode_token(_LIST_SCOPE, token).decode()
    except InvalidContinuation as error:
        raise arguments.invalid_argument(
            "The continuation token provided is incorrect", "continuation-token", token
        ) from error


async def create_bucket(call: S3Call) -> Response:
    capability = authorize_service(call, "s3:CreateBucket")
    name = arguments.bucket_name(call)
    check_new_bucket_name(name)
    _check_features(call)
    await _check_location(call)
    try:
        await buckets.create_bucket(call.store, capability, name)
    except BucketExists as error:
        _check_own(call, error.owner == capability.principal.canonical_id)
    return empty_response(200, [("location", f"/{name}"), _arn(name)])


def _arn(name: str) -> tuple[str, str]:
    return ("x-amz-bucket-arn", f"arn:aws:s3:::{name}")


def _check_features(call: S3Call) -> None:
    """Buckets have no ACLs, locks or tags."""
    try:
        refuse_unknown_features(call.headers)
    except S3Error as error:
        if error.code != "AccessControlListNotSupported":
            raise
        raise S3Error(
            "InvalidBucketAclWithObjectOwnership",
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced "
            "setting",
        ) from error


async def _check_location(call: S3Call) -> None:
    """The region must be ours, said the way S3 wants it said."""
    root = await read_document(call, "CreateBucketConfiguration", is_optional=True)
    location = None
    for child in root or ():
        if child.name != "LocationConstraint":
            raise not_implemented(f"CreateBucketConfiguration/{child.name}")
        location = child.text.strip()
    region = call.region
    if region == _HOME_REGION:
        if not location:
            return
        if location == _HOME_REGION:
            raise S3Error(
                "InvalidLocationConstraint",
                "The specified location-constraint is not valid",
                details={"LocationConstraint": location},
            )
    if location != region:
        raise S3Error(
            "IllegalLocationConstraintException",
            f"The {location or 'unspecified'} location constraint is incompatible for the "
            "region specific endpoint this request was sent to.",
        )


def _check_own(call: S3Call, is_own: bool) -> None:
    """Making one's own bucket again is fine at home and an error elsewhere."""
    if not is_own:
        raise S3Error(
            "BucketAlreadyExists",
            "The requested bucket name is not available. The bucket namespace is shared "
            "by all users of the system. Please select a different name and try again.",
        )
    if call.region != _HOME_REGION:
        raise S3Error(
            "BucketAlreadyOwnedByYou",
            "Your previous request to create the named bucket succeeded and you already "
            "own it.",
        )


async def head_bucket(call: S3Call) -> Response:
    record = await _found(call, "s3:ListBucket")
    return empty_response(
        200,
        [
            ("x-amz-bucket-region", call.region),
            ("x-amz-access-point-alias", "false"),
            _arn(record.name),
        ],
    )


async def get_bucket_location(call: S3Call) -> Response:
    await _found(call, "s3:GetBucketLocation")
    location = "" if call.region == _HOME_REGION else call.region
    return xml_response(document("LocationConstraint", location))


async def get_bucket_versioning(call: S3Call) -> Response:
    """Empty where versioning was never set, as S3 answers then."""
    capability = await authorize(
        call, "s3:GetBucketVersioning", arguments.bucket_name(call)
    )
    arguments.check_expected_owner(call, capability.record)
    states = {"enabled": "Enabled", "suspended": "Suspended"}
    state = states.get(capability.record.versioning)
    return xml_response(document("VersioningConfiguration", tag_if("Status", state)))


async def _found(call: S3Call, action: str) -> BucketRecord:
    capability = await authorize(call, action, arguments.bucket_name(call))
    arguments.check_expected_owner(call, capability.record)
    return await buckets.head_bucket(call.store, capability)


async def delete_bucket(call: S3Call) -> Response:
    capability = await authorize(call, "s3:DeleteBucket", arguments.bucket_name(call))
    arguments.check_expected_owner(call, capability.record)
    await buckets.delete_bucket(call.store, capability)
    return empty_response(204)
