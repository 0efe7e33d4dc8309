"""Buckets: made, deleted, looked up, listed.

    create   record CREATING, then its steps, until it is OPEN
    delete   nothing is seen in it --> record CLOSING, then its steps, until it is gone

The steps, and why a racing PUT either keeps its bucket or fails, are in
`meta.bucket_steps`; a creation or deletion cut off half-way is gone on with by whoever
wants the bucket next, or by the reconciler.

A delete looks for content before it marks the record: so that a mistaken delete of a
bucket in use disturbs nobody.  What decides is CloseBucket, inside each slot.
"""

from __future__ import annotations

from functools import partial

import trio

from objstore.errors import Conflict
from objstore.frozen import frozen
from objstore.meta import bucket_steps, slots
from objstore.meta.commands import CreateBucketRecord, SetBucketState
from objstore.meta.errors import BucketExists, BucketNotEmpty
from objstore.meta.queries import ListKeys, ListUploads
from objstore.meta.values import BucketRecord, BucketState
from objstore.objects.capability import Capability
from objstore.objects.store import Store, is_there

# A bucket that is half made or half deleted by somebody else settles within this, or the
# asker is told to come again.
_SETTLE_S = 5.0
_SETTLE_PAUSE_S = 0.05


class BucketBusy(Conflict):
    """The bucket is being made or deleted by another request."""


@frozen
class BucketPage:
    """Buckets by name."""

    buckets: tuple[BucketRecord, ...]
    is_truncated: bool


async def create_bucket(store: Store, capability: Capability, name: str) -> BucketRecord:
    """Make the bucket; once this returns, every node serves it.

    Raises BucketExists (with the owner), BucketBusy.
    If cancelled, the bucket may come to be: a creation begun is finished by the worker.
    """
    capability.require("s3:CreateBucket")
    owner = capability.principal.canonical_id
    record = await _create_record(store, name, owner)
    # Gone by now, or further: then it was open in between, and was deleted since.
    opened = await bucket_steps.finish(store.propose_each, record)
    await store.refresh_view()
    return opened or record


async def _create_record(store: Store, name: str, owner: str) -> BucketRecord:
    """A record in CREATING: new, or our own that an earlier request left there."""
    command = CreateBucketRecord(
        name=name,
        owner=owner,
        span=slots.choose_span(store.host.entropy.random),
        scheme=store.options.scheme,
    )
    gives_up_at = trio.current_time() + _SETTLE_S
    while True:
        try:
            record: BucketRecord = await store.propose(command)
            return record
        except BucketExists as error:
            await store.refresh_view()
            found = store.view.bucket(name)
            if found is not None and is_there(found):
                raise BucketExists(str(error), owner=found.owner) from error
            if (
                found is not None
                and found.owner == owner
                and found.state is BucketState.CREATING
            ):
                return found
            if trio.current_time() > gives_up_at:
                raise BucketBusy(f"bucket {name!r} is being changed") from error
        await trio.sleep(_SETTLE_PAUSE_S)


async def delete_bucket(store: Store, capability: Capability) -> None:
    """Delete the bucket, if it holds nothing: versions, markers or uploads.

    Raises BucketNotEmpty, NoSuchBucket, BucketBusy.
    If cancelled, the bucket may stay half-closed until the reconciler finishes the
    deletion.
    """
    capability.require("s3:DeleteBucket")
    await store.fenced(capability, partial(_check_empty, store))
    gives_up_at = trio.current_time() + _SETTLE_S
    while trio.current_time() <= gives_up_at:
        record = await head_record(store, capability)
        if record.state is BucketState.OPEN:
            record = await store.propose(
                SetBucketState(
                    record.name, record.bucket, record.config_version, BucketState.CLOSING
                )
            )
        # Where others' deletion saw content that is gone by now: once more.
        if await bucket_steps.finish(store.propose_each, record) is None:
            await store.refresh_view()
            return
    raise BucketBusy(f"bucket {capability.record.name!r} is being changed")


async def _check_empty(store: Store, capability: Capability) -> None:
    """Raise BucketNotEmpty where anything is seen; seeing nothing decides nothing."""
    record = capability.record
    if record.state is not BucketState.OPEN:
        return
    versions = await store.query(
        ListKeys(slots=record.span, ref=capability.ref, versions=True, limit=1)
    )
    is_empty = not versions.names
    if is_empty:
        uploads = await store.query(
            ListUploads(slots=record.span, ref=capability.ref, limit=1)
        )
        is_empty = not uploads.entries
    if not is_empty:
        raise BucketNotEmpty(f"bucket {record.name!r} is not empty")


async def head_bucket(store: Store, capability: Capability) -> BucketRecord:
    """The bucket as it is now.  Raises NoSuchBucket."""
    capability.require("s3:ListBucket", "s3:GetBucketLocation")
    return await head_record(store, capability)


async def head_record(store: Store, capability: Capability) -> BucketRecord:
    """The record as it is now, decided about again where it is another bucket's."""
    record = await store.find_bucket_now(capability.record.name)
    if record.bucket == capability.record.bucket:
        return record
    return capability.renew(record).record


async def list_buckets(
    store: Store,
    capability: Capability,
    *,
    prefix: str = "",
    after: str = "",
    limit: int,
) -> BucketPage:
    """The principal's buckets (all of them for root), by name, `after` exclusive."""
    capability.require("s3:ListAllMyBuckets")
    await store.refresh_view()
    seen = [
        record
        for record in sorted(store.view.buckets(), key=lambda record: record.name)
        if record.name > after and _is_visible(capability, record, prefix)
    ]
    return BucketPage(tuple(seen[:limit]), is_truncated=len(seen) > limit)


def _is_visible(capability: Capability, record: BucketRecord, prefix: str) -> bool:
    principal = capability.principal
    return (
        record.name.startswith(prefix)
        and is_there(record)
        and (principal.is_root or record.owner == principal.canonical_id)
    )
