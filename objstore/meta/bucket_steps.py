"""Bucket steps: a creation or deletion gone on with from wherever it stands.

    CREATING   OpenBucket in each slot of the span ----------------------------> OPEN
    CLOSING    CloseBucket in each slot ---- all closed -----------------------> DROPPING
                                        '--- one not empty --> CREATING -------> OPEN
    DROPPING   DropBucket in each slot ----------------------------------------> (gone)

Each step may be repeated, by several nodes at once: the record's state is what decides
between them.  From DROPPING nothing leads back, so slots are dropped only when nobody may
open them any more; and reopening goes through CREATING, so it is resumed like a creation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from objstore.meta.commands import (
    CloseBucket,
    Command,
    DropBucket,
    DropBucketRecord,
    OpenBucket,
    SetBucketState,
)
from objstore.meta.errors import BucketNotEmpty
from objstore.meta.values import BucketFence, BucketRecord, BucketState

Propose = Callable[[Command], Awaitable[Any]]


async def finish(propose: Propose, record: BucketRecord) -> None:
    """Go on with a record that is not OPEN until it is, or is gone.

    Raises BucketNotEmpty where a deletion was turned back; `meta.errors`, Unavailable.
    If cancelled, the rest is for whoever goes on.
    """
    if record.state is BucketState.CREATING:
        await finish_creation(propose, record)
    elif record.state is not BucketState.OPEN:
        await finish_deletion(propose, record)


async def finish_creation(propose: Propose, record: BucketRecord) -> BucketRecord:
    """Open every slot of a record in CREATING, then the record."""
    fence = BucketFence(
        bucket=record.bucket,
        config_version=record.config_version,
        versioning=record.versioning,
        is_open=True,
    )
    for slot in record.span:
        await propose(OpenBucket(slot, fence))
    return await _set_state(propose, record, BucketState.OPEN)


async def finish_deletion(propose: Propose, record: BucketRecord) -> None:
    """Close every slot of a record in CLOSING and drop it, or open it again.

    Raises BucketNotEmpty once the bucket is open again.
    """
    if record.state is BucketState.CLOSING:
        try:
            for slot in record.span:
                await propose(CloseBucket(slot, record.bucket, record.config_version))
        except BucketNotEmpty:
            reopening = await _set_state(propose, record, BucketState.CREATING)
            await finish_creation(propose, reopening)
            raise
        record = await _set_state(propose, record, BucketState.DROPPING)
    for slot in record.span:
        await propose(DropBucket(slot, record.bucket))
    await propose(DropBucketRecord(record.name, record.bucket))


async def _set_state(
    propose: Propose, record: BucketRecord, state: BucketState
) -> BucketRecord:
    command = SetBucketState(name=record.name, bucket=record.bucket, state=state)
    changed: BucketRecord = await propose(command)
    return changed
