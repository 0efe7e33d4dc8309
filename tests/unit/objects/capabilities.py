"""Leave for tests: capabilities as `s3.authorize` would make them."""

from __future__ import annotations

from functools import partial

from objstore.ids import Key, VersionId
from objstore.meta.values import BucketRecord
from objstore.objects import buckets
from objstore.objects.capability import Capability, Principal
from objstore.objects.store import Store
from tests.unit.objects.composition import ALICE


def leave(
    record: BucketRecord,
    action: str,
    key: bytes | None = None,
    *,
    principal: Principal = ALICE,
    version_id: VersionId | None = None,
) -> Capability:
    named = None if key is None else Key(key)

    def renew(newer: BucketRecord) -> Capability:
        return leave(newer, action, key, principal=principal, version_id=version_id)

    return Capability(
        principal, action, bucket=record, key=named, version_id=version_id, renew=renew
    )


put_leave = partial(leave, action="s3:PutObject")
get_leave = partial(leave, action="s3:GetObject")


async def make_bucket(
    store: Store, name: str = "photos", *, owner: Principal = ALICE
) -> BucketRecord:
    asked = Capability(owner, "s3:CreateBucket", bucket=None)
    return await buckets.create_bucket(store, asked, name)


async def drop_bucket(store: Store, record: BucketRecord) -> None:
    await buckets.delete_bucket(store, leave(record, "s3:DeleteBucket"))
