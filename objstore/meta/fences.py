"""Fences: a bucket's record in each slot of its span, which object commands check.

    OpenBucket   (none) or older ---> open        config version only grows
    CloseBucket  open ---> closed, if nothing of the bucket is in the slot
    DropBucket   closed ---> dropped: refuses everything for a day, then the row goes

A closed fence has the config version of the record that was CLOSING, so that an OpenBucket
delayed from before cannot open it again, nor a late CloseBucket close what was reopened;
and a dropped one stays, so that one delayed from the bucket's creation finds it.
"""

from __future__ import annotations

import attrs

from objstore.ids import Slot
from objstore.limits import DROPPED_FENCE_KEPT_MS
from objstore.meta import payloads, schema
from objstore.meta.commands import BucketRef, CloseBucket, DropBucket, OpenBucket
from objstore.meta.errors import BucketNotEmpty, NoSuchBucket, StaleBucket
from objstore.meta.rows import RowView
from objstore.meta.values import BucketFence
from objstore.meta.work import Count, Work


def require(view: RowView, slot: Slot, ref: BucketRef) -> str:
    """Check a command's or query's bucket; the slot's versioning state.

    Raises StaleBucket where the fence is closed, absent or of another config version.
    """
    payload = view.get(schema.fence_key(slot, ref.bucket))
    if payload is None:
        raise StaleBucket(f"slot {slot} does not know bucket {ref.bucket:x}")
    config_version, versioning, is_open = payloads.unpack_fence_state(payload)
    if not is_open or config_version != ref.config_version:
        state = "open" if is_open else "closed"
        raise StaleBucket(
            f"bucket {ref.bucket:x} is {state} at config version {config_version},"
            f" the command has {ref.config_version}"
        )
    return versioning


def open_bucket(work: Work, command: OpenBucket) -> None:
    fence = command.fence
    row_key = schema.fence_key(work.slot, fence.bucket)
    payload = work.rows.get(row_key)
    if payload is not None:
        known, is_dropped = payloads.unpack_fence(fence.bucket, payload)
        if is_dropped:
            raise NoSuchBucket(f"bucket {fence.bucket:x} was deleted")
        if known.config_version > fence.config_version:
            return
    work.rows.put(row_key, payloads.pack_fence(fence))
    counters = schema.counters_key(work.slot, fence.bucket)
    if work.rows.get(counters) is None:
        work.rows.put(counters, payloads.pack_usage([0] * len(Count)))


def close_bucket(work: Work, command: CloseBucket) -> None:
    row_key = schema.fence_key(work.slot, command.bucket)
    payload = work.rows.get(row_key)
    if payload is None:
        # Its creation never came here; a delayed OpenBucket of it must find it closed.
        known = BucketFence(command.bucket, 0, "unversioned", is_open=True)
        is_dropped = False
    else:
        known, is_dropped = payloads.unpack_fence(command.bucket, payload)
    if known.config_version >= command.config_version:
        if known.is_open:
            raise StaleBucket(f"bucket {command.bucket:x} was opened again")
        return
    usage = work.usage(command.bucket)
    if known.is_open and (usage[Count.VERSIONS] or usage[Count.UPLOADS]):
        raise BucketNotEmpty(
            f"slot {work.slot} holds {usage[Count.VERSIONS]} versions and"
            f" {usage[Count.UPLOADS]} uploads of bucket {command.bucket:x}"
        )
    # One that is closed already is closed for this version too: an OpenBucket that was
    # meant to undo the earlier closing may still be on its way.
    closed = BucketFence(
        bucket=command.bucket,
        config_version=command.config_version,
        versioning=known.versioning,
        is_open=False,
    )
    work.rows.put(row_key, payloads.pack_fence(closed, is_dropped=is_dropped))


def drop_bucket(work: Work, command: DropBucket) -> None:
    row_key = schema.fence_key(work.slot, command.bucket)
    payload = work.rows.get(row_key)
    if payload is None:
        known, is_dropped = BucketFence(command.bucket, 0, "unversioned", False), False
    else:
        known, is_dropped = payloads.unpack_fence(command.bucket, payload)
    if is_dropped:
        return
    usage = work.usage(command.bucket)
    if known.is_open and (usage[Count.VERSIONS] or usage[Count.UPLOADS]):
        raise BucketNotEmpty(f"bucket {command.bucket:x} is open, and not empty")
    closed = attrs.evolve(known, is_open=False)
    work.rows.put(row_key, payloads.pack_fence(closed, is_dropped=True))
    work.rows.delete(schema.counters_key(work.slot, command.bucket))
    due_ms = work.time_ms + DROPPED_FENCE_KEPT_MS
    name = command.bucket.to_bytes(8, "big")
    expiry = schema.expiry_key(work.slot, due_ms, schema.Expiring.FENCE, name)
    work.rows.put(expiry, payloads.pack(None))
