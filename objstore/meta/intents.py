"""Intents: leave to make chunks under an id prefix, until it expires or is used.

    BeginIntent ---> alive --(renewed)--> alive --> used by a commit | dropped | expired
       '----> spares: alive, for later writes of the same node

A chunk may only be called unowned when no row and no intent covers it; so an intent that
is gone never comes back: a renewal of one fails, and so does its commit.
"""

from __future__ import annotations

from objstore.ids import BucketId, IntentId, intent_of
from objstore.limits import INTENT_LIFE_MS
from objstore.meta import fences, payloads, references, schema
from objstore.meta.commands import BeginIntent, DropIntent
from objstore.meta.errors import IntentGone, StaleEpoch
from objstore.meta.values import ChunkRef, Chunks, Location
from objstore.meta.work import Work


def begin_intent(work: Work, command: BeginIntent) -> int:
    fences.require(work.rows, work.slot, command.ref)
    row_key = schema.intent_key(work.slot, command.intent)
    known = work.rows.get(row_key)
    now_ms = work.time_ms
    if known is not None:
        known_expires_ms = payloads.unpack(known)[2]
        if known_expires_ms <= now_ms:
            raise IntentGone(f"intent {command.intent.hex()} has expired")
        work.rows.delete(_expiry(work, known_expires_ms, command.intent))
    elif command.is_renewal:
        raise IntentGone(f"intent {command.intent.hex()} is gone")
    expires_ms = now_ms + INTENT_LIFE_MS
    row = payloads.pack((command.ref.bucket, command.key, expires_ms))
    for intent in (command.intent, *command.spares):
        work.rows.put(schema.intent_key(work.slot, intent), row)
        work.rows.put(_expiry(work, expires_ms, intent), payloads.pack(None))
    return expires_ms


def drop_intent(work: Work, command: DropIntent) -> None:
    if not _remove(work, command.bucket, command.intent):
        return  # Used by a commit, or expired: then only a search may free its chunks.
    chunks = tuple(ref for ref in command.written if intent_of(ref.chunk) == command.intent)
    references.release(work, command.scheme, chunks)


def use_intent(
    work: Work, bucket: BucketId, intent: IntentId | None, location: Location | None
) -> None:
    """Check that `location` may be committed, and use its intent up.

    Raises IntentGone, StaleEpoch.
    """
    chunks = location.chunks if isinstance(location, Chunks) else ()
    if chunks:
        _require_alive(work, bucket, intent, chunks)
        floor = work.floor_epoch
        for ref in chunks:
            if ref.epoch < floor:
                raise StaleEpoch(f"placed by epoch {ref.epoch}, the floor is {floor}")
    if intent is not None:
        _remove(work, bucket, intent)


def _require_alive(
    work: Work, bucket: BucketId, intent: IntentId | None, chunks: tuple[ChunkRef, ...]
) -> None:
    if intent is None:
        raise IntentGone("chunks were written without an intent")
    row = work.rows.get(schema.intent_key(work.slot, intent))
    if row is None:
        raise IntentGone(f"intent {intent.hex()} is gone")
    owner, _key, expires_ms = payloads.unpack(row)[:3]
    if owner != bucket or expires_ms <= work.time_ms:
        raise IntentGone(f"intent {intent.hex()} has expired")
    for ref in chunks:
        if intent_of(ref.chunk) != intent:
            raise IntentGone(f"chunk {ref.chunk.hex()} is not covered by the intent")


def _remove(work: Work, bucket: BucketId, intent: IntentId) -> bool:
    """Forget an intent.  False where it is not there."""
    row_key = schema.intent_key(work.slot, intent)
    row = work.rows.get(row_key)
    if row is None:
        return False
    owner, _key, expires_ms = payloads.unpack(row)[:3]
    if owner != bucket:
        return False
    work.rows.delete(row_key)
    work.rows.delete(_expiry(work, expires_ms, intent))
    return True


def _expiry(work: Work, due_ms: int, intent: IntentId) -> bytes:
    return schema.expiry_key(work.slot, due_ms, schema.Expiring.INTENT, intent)
