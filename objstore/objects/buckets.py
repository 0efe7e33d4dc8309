"""Buckets: made and unmade in steps that any node can take up again.

    create   record CREATING --> OpenBucket in each span slot --> record OPEN
    delete   record CLOSING  --> CloseBucket in each span slot
                 all closed  --> DropBucket in each --> record dropped
                 one not empty --> OpenBucket in each --> record OPEN

Each step is idempotent.  `finish_creation` and `finish_deletion` begin at the first step
after the record's; the reconcile worker calls them for records that have stood half-way
for longer than any request lives, so that it never works beside a live request.

A delete looks for content before it marks the record: so that a mistaken delete of a
bucket in use disturbs nobody.  What decides is CloseBucket, inside each slot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import attrs
import trio

from objstore.errors import Conflict, ObjstoreError
from objstore.ids import Slot
from objstore.meta import slots
from objstore.meta.commands import (
    CloseBucket,
    CreateBucketRecord,
    DropBucket,
    DropBucketRecord,
    OpenBucket,
    SetBucketState,
)
from objstore.meta.errors import BucketExists, BucketNotEmpty, NoSuchBucket, StaleBucket
from objstore.meta.queries import ListKeys, ListUploads
from objstore.meta.values import BucketFence, BucketRecord, BucketState
from objstore.objects.capability import Capability
from objstore.objects.parallel import all_of, outcomes
from objstore.objects.store import Store

# A bucket that is half made or half deleted by somebody else settles within this, or the
# asker is told to come again.
_SETTLE_S = 5.0
_SETTLE_PAUSE_S = 0.05


class BucketBusy(Conflict):
    """The bucket is being made or deleted by another request."""


@attrs.frozen
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
    opened = await finish_creation(store, record)
    await store.view.refresh()
    return opened


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
            await store.view.refresh()
            found = store.view.bucket(name)
            if found is not None and found.state is BucketState.OPEN:
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


async def finish_creation(store: Store, record: BucketRecord) -> BucketRecord:
    """Open every slot of a record in CREATING, then the record.  Idempotent."""
    await _open_slots(store, record)
    return await _set_state(store, record, BucketState.OPEN)


async def delete_bucket(store: Store, capability: Capability) -> None:
    """Delete the bucket, if it holds nothing: versions, markers or uploads.

    Raises BucketNotEmpty, NoSuchBucket, BucketBusy (another deletion is ahead).
    If cancelled, the bucket may stay half-closed until the worker finishes the deletion.
    """
    capability.require("s3:DeleteBucket")
    await store.fenced(capability, partial(_check_empty, store))
    record = await store.find_bucket_now(capability.record.name)
    if record.bucket != capability.record.bucket:
        assert capability.renew is not None
        record = capability.renew(record).record
    closing = await _set_state(store, record, BucketState.CLOSING)
    await finish_deletion(store, closing)


async def _check_empty(store: Store, capability: Capability) -> None:
    """Raise BucketNotEmpty where anything is seen; seeing nothing decides nothing."""
    record = capability.record
    if record.state is not BucketState.OPEN:
        return
    keys = await store.query(
        ListKeys(slots=record.span, ref=capability.ref, versions=True, limit=1)
    )
    if not keys.entries:
        keys = await store.query(
            ListUploads(slots=record.span, ref=capability.ref, limit=1)
        )
    if keys.entries:
        raise BucketNotEmpty(f"bucket {record.name!r} is not empty")


async def finish_deletion(store: Store, record: BucketRecord) -> None:
    """Close every slot of a record in CLOSING and drop it, or open it again.  Idempotent.

    Raises BucketNotEmpty once the bucket is open again.
    """
    closings = await _each_slot(
        record, lambda slot: partial(_close_slot, store, slot, record)
    )
    errors = [outcome for outcome in closings if isinstance(outcome, ObjstoreError)]
    if any(isinstance(error, BucketNotEmpty) for error in errors):
        await _open_slots(store, record)
        await _set_state(store, record, BucketState.OPEN)
        await store.view.refresh()
        raise BucketNotEmpty(f"bucket {record.name!r} is not empty")
    if errors:
        raise errors[0]  # Still CLOSING: the worker goes on where this stopped.
    await all_of(
        [
            partial(store.propose, DropBucket(slot, record.bucket))
            for slot in record.span
        ],
        at_once_max=len(record.span),
    )
    await store.propose(DropBucketRecord(record.name, record.bucket))
    await store.view.refresh()


async def _close_slot(store: Store, slot: Slot, record: BucketRecord) -> None:
    try:
        await store.propose(CloseBucket(slot, record.bucket, record.config_version))
    except NoSuchBucket:
        return  # An earlier attempt closed and dropped it.
    except StaleBucket as error:
        raise BucketBusy(f"bucket {record.name!r} was opened again") from error


async def _open_slots(store: Store, record: BucketRecord) -> None:
    fence = BucketFence(
        bucket=record.bucket,
        config_version=record.config_version,
        versioning=record.versioning,
        is_open=True,
    )
    await all_of(
        [partial(store.propose, OpenBucket(slot, fence)) for slot in record.span],
        at_once_max=len(record.span),
    )


async def _each_slot(
    record: BucketRecord, call: Callable[[Slot], Callable[[], Awaitable[None]]]
) -> list[ObjstoreError | None]:
    return await outcomes(
        [call(slot) for slot in record.span], at_once_max=len(record.span)
    )


async def _set_state(
    store: Store, record: BucketRecord, state: BucketState
) -> BucketRecord:
    changed: BucketRecord = await store.propose(
        SetBucketState(name=record.name, bucket=record.bucket, state=state)
    )
    return changed


async def head_bucket(store: Store, capability: Capability) -> BucketRecord:
    """The bucket as it is now.  Raises NoSuchBucket."""
    capability.require("s3:ListBucket", "s3:GetBucketLocation")
    record = await store.find_bucket_now(capability.record.name)
    if record.bucket == capability.record.bucket:
        return record
    assert capability.renew is not None
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
    await store.view.refresh()
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
        and record.state is not BucketState.CREATING
        and (principal.is_root or record.owner == principal.canonical_id)
    )


def half_done(records: Iterable[BucketRecord]) -> list[BucketRecord]:
    """Those that stand in the middle of a creation or deletion: the worker's work."""
    return [record for record in records if record.state is not BucketState.OPEN]


