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

    return _make(principal, action, record, named, version_id)


def _make(
    principal: Principal,
    action: str,
    record: BucketRecord,
    key: Key | None,
    version_id: VersionId | None,
) -> Capability:
    return Capability(principal, action, record, key, version_id, _make)


put_leave = partial(leave, action="s3:PutObject")
get_leave = partial(leave, action="s3:GetObject")


async def make_bucket(
    store: Store, name: str = "photos", *, owner: Principal = ALICE
) -> BucketRecord:
    asked = Capability(owner, "s3:CreateBucket", bucket=None)
    return await buckets.create_bucket(store, asked, name)


async def drop_bucket(store: Store, record: BucketRecord) -> None:
    await buckets.delete_bucket(store, leave(record, "s3:DeleteBucket"))
