"""Buckets: made and unmade in steps that any node can take up again.

    create   record CREATING --> OpenBucket in each span slot --> record OPEN
    delete   record CLOSING --> CloseBucket in each span slot
                 all closed    --> record DROPPING --> DropBucket in each --> record gone
                 one not empty --> record CREATING, and on as above

Each step is idempotent, and what several do at once is decided by the record: from
CLOSING it goes either to DROPPING or to CREATING, and whoever comes second joins in.
`finish_creation` and `finish_deletion` begin at the record's state; the reconcile worker
calls them for records that have stood half-way for longer than any request lives.

A delete looks for content before it marks the record: so that a mistaken delete of a
bucket in use disturbs nobody.  What decides is CloseBucket, inside each slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import NoReturn

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
    SetBucketState,
)
from objstore.meta.errors import BucketExists, BucketNotEmpty, NoSuchBucket
from objstore.meta.queries import ListKeys, ListUploads
from objstore.meta.values import BucketRecord, BucketState
from objstore.objects.capability import Capability
from objstore.objects.parallel import all_of, outcomes
from objstore.objects.store import Store, is_there

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


async def finish_creation(store: Store, record: BucketRecord) -> BucketRecord:
    """Open every slot of a record in CREATING, then the record.  Idempotent."""
    await store.open_slots(record)
    return await _set_state(store, record, BucketState.OPEN)


async def delete_bucket(store: Store, capability: Capability) -> None:
    """Delete the bucket, if it holds nothing: versions, markers or uploads.

    Raises BucketNotEmpty, NoSuchBucket.
    If cancelled, the bucket may stay half-closed until the worker finishes the deletion.
    """
    capability.require("s3:DeleteBucket")
    await store.fenced(capability, partial(_check_empty, store))
    record = await head_record(store, capability)
    await finish_deletion(store, await _begin_deletion(store, record))


async def _check_empty(store: Store, capability: Capability) -> None:
    """Raise BucketNotEmpty where anything is seen; seeing nothing decides nothing."""
    record = capability.record
    if record.state is not BucketState.OPEN:
        return
    found = await store.query(
        ListKeys(slots=record.span, ref=capability.ref, versions=True, limit=1)
    )
    if not found.entries:
        found = await store.query(
            ListUploads(slots=record.span, ref=capability.ref, limit=1)
        )
    if found.entries:
        raise BucketNotEmpty(f"bucket {record.name!r} is not empty")


async def _begin_deletion(store: Store, record: BucketRecord) -> BucketRecord:
    """The record in CLOSING.  NoSuchBucket where another deletion is past that."""
    try:
        return await _set_state(store, record, BucketState.CLOSING)
    except Conflict as error:
        raise NoSuchBucket(f"bucket {record.name!r} was deleted") from error


async def finish_deletion(store: Store, record: BucketRecord) -> None:
    """Take a record in CLOSING or DROPPING to its end, or open it again.  Idempotent.

    Raises BucketNotEmpty once the bucket is open again.
    """
    if record.state is BucketState.CLOSING:
        record = await _close(store, record)
    await all_of(
        [partial(store.propose, DropBucket(slot, record.bucket)) for slot in record.span],
        at_once_max=len(record.span),
    )
    await store.propose(DropBucketRecord(record.name, record.bucket))
    await store.view.refresh()


async def _close(store: Store, record: BucketRecord) -> BucketRecord:
    """Close every slot; the record in DROPPING, or BucketNotEmpty once it is open again."""
    closings = await outcomes(
        [partial(_close_slot, store, slot, record) for slot in record.span],
        at_once_max=len(record.span),
    )
    errors = [outcome for outcome in closings if isinstance(outcome, ObjstoreError)]
    if any(isinstance(error, BucketNotEmpty) for error in errors):
        await _reopen(store, record)
    if errors:
        raise errors[0]  # Still CLOSING: the worker goes on where this stopped.
    try:
        return await _set_state(store, record, BucketState.DROPPING)
    except Conflict:
        # Somebody found it not empty and opens it: what was closed here, too.
        await _reopen(store, record)


async def _close_slot(store: Store, slot: Slot, record: BucketRecord) -> None:
    with suppress(NoSuchBucket):  # An earlier attempt came past this.
        await store.propose(CloseBucket(slot, record.bucket, record.config_version))


async def _reopen(store: Store, record: BucketRecord) -> NoReturn:
    """Open what was closed, and say so."""
    with suppress(Conflict):  # It is OPEN again already.
        await _set_state(store, record, BucketState.CREATING)
    await finish_creation(store, record)
    await store.view.refresh()
    raise BucketNotEmpty(f"bucket {record.name!r} is not empty")


async def _set_state(
    store: Store, record: BucketRecord, state: BucketState
) -> BucketRecord:
    """Raises Conflict where the record stands so that `state` cannot follow."""
    changed: BucketRecord = await store.propose(
        SetBucketState(name=record.name, bucket=record.bucket, state=state)
    )
    return changed


async def head_bucket(store: Store, capability: Capability) -> BucketRecord:
    """The bucket as it is now.  Raises NoSuchBucket."""
    capability.require("s3:ListBucket", "s3:GetBucketLocation")
    return await head_record(store, capability)


async def head_record(store: Store, capability: Capability) -> BucketRecord:
    """The record as it is now, decided about again where it is another bucket's."""
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
        and is_there(record)
        and (principal.is_root or record.owner == principal.canonical_id)
    )


def half_done(records: Iterable[BucketRecord]) -> list[BucketRecord]:
    """Those that stand in the middle of a creation or deletion: the worker's work."""
    return [record for record in records if record.state is not BucketState.OPEN]
