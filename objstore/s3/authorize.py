"""Who may do what: the one place that makes capabilities.

It is asked about the *effective* resource of every operation: the bucket and key of the
address, the source of a copy, each key in the body of DeleteObjects.

    principal      may
    anonymous      nothing
    root           everything
    an access key  make buckets, list its own, and everything in those it owns

Who may not gets AccessDenied before a key is looked for, so the answer is no hint whether
it exists.  A name that no bucket has is NoSuchBucket, for everybody, as S3 has it.
"""

from __future__ import annotations

from objstore.ids import Key, VersionId
from objstore.meta.values import BucketRecord
from objstore.objects.capability import Capability, Principal
from objstore.s3.call import S3Call
from objstore.s3.errors import S3Error


def authorize_service(call: S3Call, action: str) -> Capability:
    """Leave for an action that is about no bucket that exists: ListBuckets, CreateBucket.

    Raises S3Error AccessDenied.
    """
    if call.principal is None:
        raise access_denied()
    return Capability(call.principal, action, bucket=None)


async def authorize(
    call: S3Call,
    action: str,
    bucket: str,
    key: Key | None = None,
    version_id: VersionId | None = None,
) -> Capability:
    """Leave for `action` on `bucket` or a key in it.

    Raises S3Error AccessDenied, NoSuchBucket.
    """
    principal, store = call.principal, call.store
    if principal is None:
        raise access_denied()
    record = store.known_bucket(bucket) or await store.find_bucket_now(bucket)
    return decide(principal, action, record, key, version_id)


def decide(
    principal: Principal,
    action: str,
    record: BucketRecord,
    key: Key | None = None,
    version_id: VersionId | None = None,
) -> Capability:
    """The decision about a known bucket.  Raises S3Error AccessDenied."""
    if not principal.is_root and record.owner != principal.canonical_id:
        raise access_denied()
    return Capability(principal, action, record, key, version_id, decide)


def access_denied() -> S3Error:
    return S3Error("AccessDenied", "Access Denied")
