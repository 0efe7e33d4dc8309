"""Lists: pages of keys, versions, uploads and parts, merged over a bucket's span.

Every page is a read of its own (FAULTS I3L): it shows each write acknowledged before it
began; two pages are not a point-in-time cut.
"""

from __future__ import annotations

import attrs

from objstore.ids import Key, UploadId, VersionId
from objstore.meta.errors import NoSuchKey, NoSuchVersion
from objstore.meta.listing import roll_up
from objstore.meta.queries import (
    FROM_NEWEST,
    GetVersion,
    ListAnswer,
    ListKeys,
    ListParts,
    ListUploads,
    ListVersionParts,
    PartsAnswer,
    UploadsAnswer,
)
from objstore.meta.values import Version
from objstore.meta.versions import order_of
from objstore.objects.capability import Capability
from objstore.objects.store import Store


@attrs.frozen(kw_only=True)
class KeysPage:
    """Which keys to list."""

    prefix: bytes = b""
    delimiter: bytes = b""
    after: bytes = b""  # Exclusive.
    limit: int = 1000

    @property
    def is_prefix_after(self) -> bool:
        """Whether `after` is a common prefix itself: then all it stands for was listed."""
        rolled = roll_up(self.after, self.prefix, self.delimiter)
        return rolled == self.after != b"" and self.after.startswith(self.prefix)


async def list_keys(store: Store, capability: Capability, page: KeysPage) -> ListAnswer:
    """One page of current objects and common prefixes.  Raises NoSuchBucket."""
    capability.require("s3:ListBucket")
    if page.limit == 0:
        return ListAnswer((), (), is_truncated=False)

    async def attempt(newer: Capability) -> ListAnswer:
        answer: ListAnswer = await store.query(
            ListKeys(
                slots=newer.record.span,
                ref=newer.ref,
                prefix=page.prefix,
                delimiter=page.delimiter,
                after=page.after,
                is_prefix_after=page.is_prefix_after,
                limit=page.limit,
            )
        )
        return answer

    return await store.fenced(capability, attempt)


async def list_versions(
    store: Store,
    capability: Capability,
    page: KeysPage,
    *,
    after_version: VersionId | None = None,
) -> ListAnswer:
    """One page of all versions and markers, newest first within a key.

    after_version: go on within key `page.after`, behind this version.
    """
    capability.require("s3:ListBucketVersions")
    if page.limit == 0:
        return ListAnswer((), (), is_truncated=False)

    async def attempt(newer: Capability) -> ListAnswer:
        order = await _order_of(store, newer, page.after, after_version)
        answer: ListAnswer = await store.query(
            ListKeys(
                slots=newer.record.span,
                ref=newer.ref,
                prefix=page.prefix,
                delimiter=page.delimiter,
                after=page.after,
                is_prefix_after=page.is_prefix_after,
                after_version=order,
                versions=True,
                limit=page.limit,
            )
        )
        return answer

    return await store.fenced(capability, attempt)


async def _order_of(
    store: Store, capability: Capability, key: bytes, version_id: VersionId | None
) -> int | None:
    """Below which order a list goes on within `key`; None: behind the key.

    An id tells the order, whether the version is still there or not.  The null version's
    must be looked up; where it is gone, better to show some again than to skip any.
    """
    if version_id is None or not key:
        return None
    order = order_of(version_id)
    if order is not None:
        return order
    record = capability.record
    query = GetVersion(
        slot=store.slot_of(record, Key(key)),
        ref=capability.ref,
        key=Key(key),
        version_id=version_id,
    )
    try:
        version: Version = await store.query(query)
    except (NoSuchKey, NoSuchVersion):
        return FROM_NEWEST
    return version.order


async def list_uploads(
    store: Store,
    capability: Capability,
    page: KeysPage,
    *,
    after_upload: UploadId | None = None,
) -> UploadsAnswer:
    """One page of uploads in progress, by key and age.

    after_upload: go on within key `page.after`, behind this upload.
    """
    capability.require("s3:ListBucketMultipartUploads")
    if page.limit == 0:
        return UploadsAnswer((), is_truncated=False)

    async def attempt(newer: Capability) -> UploadsAnswer:
        answer: UploadsAnswer = await store.query(
            ListUploads(
                slots=newer.record.span,
                ref=newer.ref,
                prefix=page.prefix,
                delimiter=page.delimiter,
                after=page.after,
                after_upload=after_upload,
                limit=page.limit,
            )
        )
        return answer

    return await store.fenced(capability, attempt)


async def list_parts(
    store: Store, capability: Capability, upload: UploadId, *, after: int, limit: int
) -> PartsAnswer:
    """One page of an upload's parts, by number.  Raises NoSuchUpload.

    With limit 0 the upload is looked up all the same.
    """
    capability.require("s3:ListMultipartUploadParts")

    async def attempt(newer: Capability) -> PartsAnswer:
        answer: PartsAnswer = await store.query(
            ListParts(
                slot=store.slot_of(newer.record, newer.object_key),
                ref=newer.ref,
                key=newer.object_key,
                upload=upload,
                after=after,
                limit=max(1, limit),
            )
        )
        return answer

    answer = await store.fenced(capability, attempt)
    if limit == 0:
        return PartsAnswer(answer.upload, (), is_truncated=False)
    return answer


async def list_version_parts(
    store: Store, capability: Capability, version: Version, *, after: int, limit: int
) -> PartsAnswer:
    """One page of the parts that `version` was completed from, by number."""
    capability.require("s3:GetObject", "s3:GetObjectVersion")
    if limit == 0:
        return PartsAnswer(None, (), is_truncated=False)

    async def attempt(newer: Capability) -> PartsAnswer:
        answer: PartsAnswer = await store.query(
            ListVersionParts(
                slot=store.slot_of(newer.record, newer.object_key),
                ref=newer.ref,
                key=newer.object_key,
                order=version.order,
                after=after,
                limit=limit,
            )
        )
        return answer

    return await store.fenced(capability, attempt)
