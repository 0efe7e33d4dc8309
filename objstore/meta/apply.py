"""Apply: what a command does to the rows.  A pure function, the same on every replica.

    (working set, request id, command) --> changes staged in its rows, and a result

    a request id seen before   -> the result of then, and nothing changes (`repetition`)
    the command fails          -> its error is the result, under the request id
    it succeeds                -> its rows, and the result under the request id

Failures are remembered too: a first attempt that was delayed on its way must not succeed
after its retry was told that it failed.  Commands that change nothing when they are
repeated are not remembered.

Errors of `meta.errors` are results.  CorruptData and everything unforeseen escapes and
ends the process: a replica that goes on after it would differ from the others (R12).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from objstore.errors import Conflict, InvalidRequest, NotFound, ObjstoreError
from objstore.ids import RequestId, UploadId
from objstore.limits import PURGE_ROWS_MAX
from objstore.meta import (
    cluster,
    expiry,
    fences,
    intents,
    payloads,
    references,
    repetition,
    schema,
    uploads,
    versions,
)
from objstore.meta import commands as c
from objstore.meta.errors import NoSuchKey
from objstore.meta.values import ChunkPlace, Displaced
from objstore.meta.work import Work
from objstore.rpc import codec

# Every eighth command drains a step of what is due, so a slot in use keeps up: a command
# leaves at most so many rows to expire, and a step drains PURGE_ROWS_MAX.
_DRAIN_PERIOD = 8
assert _DRAIN_PERIOD * (1 + c.SPARES_MAX) <= PURGE_ROWS_MAX

Handler = Callable[[Work, Any], object]


def apply(
    work: Work, request: RequestId, command: c.Command, seen: repetition.Seen
) -> object:
    """Apply one command; its result, or its error as a value.

    work: new, of this command.  seen: of the replica.
    """
    rows = work.rows
    memory = b""  # The row to remember the result by.
    handler = _ONCE.get(type(command))
    if handler is None:
        handler = _REPEATABLE[type(command)]
    else:
        memory, known = seen.find(rows, work.slot, work.time_ms, request)
        if known is not None:
            return codec.decode(known)
    try:
        result = handler(work, command)
    except (NotFound, Conflict, InvalidRequest) as error:
        work.rollback()
        result = error
    if memory:
        rows.put(memory, codec.encode(result))
    if work.index % _DRAIN_PERIOD == 0:
        expiry.drain(work)
    work.finish()
    return result


# ---- small ones -----------------------------------------------------------------------


def _forget_released(work: Work, command: c.ForgetReleased) -> None:
    for sequence in command.sequences:
        row_key = schema.released_key(work.slot, sequence)
        if work.rows.get(row_key) is not None:
            work.rows.delete(row_key)


def _change_displaced(work: Work, command: c.ChangeDisplaced) -> tuple[Displaced, ...]:
    chunk = command.place.chunk
    found = _found_place(work, command.place)
    place = references.place_of(found)
    row_key = _row_of(work, found)
    payload = None if row_key is None else work.rows.get(row_key)
    if row_key is None or payload is None:
        raise NoSuchKey("nothing refers to the chunk any more")
    if place.upload:
        part = payloads.unpack_part(place.part_number, payload)
        moved = references.displace(work, place, part.location, chunk, command.changes)
        if moved is not None:
            work.rows.put(row_key, payloads.relocated_part(payload, moved[0]))
    else:
        location = payloads.unpack_head(payload).location()
        moved = references.displace(work, place, location, chunk, command.changes)
        if moved is not None:
            work.rows.put(row_key, payloads.relocated(payload, moved[0]))
    if moved is None:
        raise NoSuchKey("nothing refers to the chunk any more")
    return moved[1].displaced


def _found_place(work: Work, place: ChunkPlace) -> ChunkPlace:
    """The place with order and part number, which no fragment's header can know."""
    payload = work.rows.get(schema.chunk_key(work.slot, place.chunk))
    if payload is None:
        raise NoSuchKey("nothing refers to the chunk any more")
    order, upload, part_number = payloads.unpack(payload)[:3]
    return attrs.evolve(
        place,
        order=order,
        upload=UploadId(upload) if upload else None,
        part_number=part_number,
    )


def _row_of(work: Work, place: ChunkPlace) -> bytes | None:
    slot = work.slot
    if place.upload is not None:
        prefix = schema.parts_prefix(slot, place.bucket, place.upload)
        return schema.part_key(prefix, place.part_number)
    prefix = schema.versions_prefix(slot, place.bucket, place.key)
    found = versions.find_by_order(work.rows, prefix, place.order)
    return None if found is None else found[0]


def _purge_step(work: Work, command: c.PurgeStep) -> bool:
    del command
    return expiry.drain(work)


def _raise_floor(work: Work, command: c.RaiseFloor) -> None:
    work.raise_floor(command.epoch)


# Applied once: a repetition would do harm, or answer otherwise than the first time.
_ONCE: dict[type, Handler] = {
    c.PutVersion: versions.put_version,
    c.DeleteVersion: versions.delete_version,
    c.CreateUpload: uploads.create_upload,
    c.PutPart: uploads.put_part,
    c.CompleteUpload: uploads.complete_upload,
    c.AbortUpload: uploads.abort_upload,
    c.BeginIntent: intents.begin_intent,
    c.DropIntent: intents.drop_intent,
    c.ChangeDisplaced: _change_displaced,
    c.FoundCluster: cluster.found_cluster,
    c.CreateBucketRecord: cluster.create_bucket_record,
    c.SetBucketState: cluster.set_bucket_state,
    c.CreateAccessKey: cluster.create_access_key,
    c.DeleteAccessKey: cluster.delete_access_key,
    c.SpendJoinToken: cluster.spend_join_token,
    c.SetLayout: cluster.set_layout,
    c.PutSetting: cluster.put_setting,
}

# Repeated, they change nothing and answer the same.
_REPEATABLE: dict[type, Handler] = {
    c.OpenBucket: fences.open_bucket,
    c.CloseBucket: fences.close_bucket,
    c.DropBucket: fences.drop_bucket,
    c.ForgetReleased: _forget_released,
    c.PurgeStep: _purge_step,
    c.RaiseFloor: _raise_floor,
    c.DropBucketRecord: cluster.drop_bucket_record,
    c.CreateJoinToken: cluster.create_join_token,
}

assert {*_ONCE, *_REPEATABLE} == set(c.COMMANDS)


def is_error(result: object) -> bool:
    return isinstance(result, ObjstoreError)
