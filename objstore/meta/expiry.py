"""What is due in a slot: expired rows and queued deletions, drained in bounded steps.

    EXPIRY, by time:  (due, kind, id)
      INTENT        forget an intent whose writer gave up without a word
      COMPLETION    forget a completion's answer
      FENCE         forget the fence of a deleted bucket
      PURGE         (due at once) delete some parts of an upload, or those not listed

Every eighth command of a slot does a step, and the leader's worker proposes PurgeStep
where more is due; both are in the log, so all replicas drain alike (R12).
"""

from __future__ import annotations

from itertools import islice

from objstore.ids import BucketId, IntentId, Key, Slot, UploadId
from objstore.limits import PURGE_CHUNKS_MAX, PURGE_ROWS_MAX
from objstore.meta import part_map, payloads, references, schema
from objstore.meta.rows import RowView, first_row
from objstore.meta.schema import Expiring, Table
from objstore.meta.values import Chunks
from objstore.meta.work import Work


def next_due_ms(view: RowView, slot: Slot) -> int | None:
    """When the first thing of a slot is due."""
    prefix = schema.table_prefix(slot, Table.EXPIRY)
    row = first_row(view, prefix, schema.range_end(prefix))
    return None if row is None else schema.expiry_of_row(row[0])[0]


def drain(work: Work, rows_max: int = PURGE_ROWS_MAX) -> bool:
    """Do one step.  True where more is due."""
    start = schema.expiry_start(work.slot)
    end = schema.expiry_end(work.slot, work.time_ms)
    due = list(islice(work.rows.scan(start, end), rows_max + 1))
    for row_key, payload in due[:rows_max]:
        _due_ms, kind, name = schema.expiry_of_row(row_key)
        if kind is Expiring.PURGE:
            is_done = _purge(work, row_key, name, payload)
            return not is_done or len(due) > 1
        work.rows.delete(row_key)
        work.rows.delete(_expired_row(work, kind, name))
    return len(due) > rows_max


def _expired_row(work: Work, kind: Expiring, name: bytes) -> bytes:
    if kind is Expiring.INTENT:
        return schema.intent_key(work.slot, IntentId(name))
    bucket = BucketId(int.from_bytes(name[:8], "big"))
    if kind is Expiring.FENCE:
        return schema.fence_key(work.slot, bucket)
    assert kind is Expiring.COMPLETION
    return schema.completion_key(work.slot, bucket, UploadId(name[8:].hex()))


def _purge(work: Work, row_key: bytes, name: bytes, payload: bytes) -> bool:
    """Delete some of an upload's parts.  True once none is left to delete."""
    bucket = BucketId(int.from_bytes(name[:8], "big"))
    upload = UploadId(name[8:].hex())
    key, unlisted_only, after = payloads.unpack(payload)[:3]
    map_key = schema.part_map_key(work.slot, bucket, upload)
    listed = (work.rows.get(map_key) or b"") if unlisted_only else b""
    prefix = schema.parts_prefix(work.slot, bucket, upload)
    parts = _some_parts(work, schema.part_key(prefix, after + 1), prefix)
    chunk_count = 0
    number = after
    for part_row, part_payload in parts:
        number = schema.number_of_part(part_row)
        if part_map.place_of_number(listed, number) is not None:
            continue
        location = payloads.unpack_part(number, part_payload).location
        references.let_go(work, bucket, Key(key), location)
        work.rows.delete(part_row)
        if isinstance(location, Chunks):
            chunk_count += len(location.chunks)
        if chunk_count >= PURGE_CHUNKS_MAX:
            break
    rest = schema.part_key(prefix, number + 1), schema.range_end(prefix)
    if first_row(work.rows, *rest) is not None:
        work.rows.put(row_key, payloads.pack((key, unlisted_only, number)))
        return False
    work.rows.delete(row_key)
    if not unlisted_only:
        work.rows.delete(map_key)
    return True


def _some_parts(work: Work, start: bytes, prefix: bytes) -> list[tuple[bytes, bytes]]:
    parts = []
    for row in work.rows.scan(start, schema.range_end(prefix)):
        parts.append(row)
        if len(parts) == PURGE_ROWS_MAX:
            break
    return parts
