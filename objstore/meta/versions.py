"""Versions of a key: put, deleted, judged by conditions.

The newest version is current, and its row is at a place of its own: found by a get, and
overwritten in place.  When it is buried it moves among the older ones, which sort newest
first; when it is deleted by its id, the newest of those takes its place.

    current row    <--put, promote--  new version, or the newest older one
         '-------bury-------------->  older rows, by falling order

While it is an object, a small row in LISTED says what lists show of it: they read those
rows alone, neither bodies nor older versions nor delete markers.

What a write does depends on the bucket's versioning state, as S3 documents it:

    state         put                          delete (no version id)
    unversioned   replaces the null version    removes the null version
    enabled       adds a version               adds a delete marker
    suspended     replaces the null version,   removes the null version,
                  the others stay              adds a null delete marker

A null version that is not current is found through its row in NULL.
"""

from __future__ import annotations

from collections.abc import Iterable

from objstore.ids import NULL_VERSION, BucketId, Key, Slot, VersionId
from objstore.meta import fences, intents, payloads, references, schema
from objstore.meta.commands import (
    DeleteResult,
    DeleteVersion,
    PutResult,
    PutVersion,
    WriteCondition,
)
from objstore.meta.errors import NoSuchKey, PreconditionFailed
from objstore.meta.payloads import Place, VersionHead
from objstore.meta.rows import RowView, first_row
from objstore.meta.values import PackedDraft
from objstore.meta.work import ORDER_SHIFT, Work

UNVERSIONED = "unversioned"
ENABLED = "enabled"
_HALF = 16  # Hex digits of a version id that are the version's order.

Found = tuple[bytes, VersionHead]  # A row of VERSION.


# ---- looking --------------------------------------------------------------------------


def current(view: RowView, prefix: bytes) -> Found | None:
    """The current version (or delete marker) of the key that `prefix` is of."""
    row_key = schema.current_key(prefix)
    payload = view.get(row_key)
    return None if payload is None else (row_key, payloads.unpack_head(payload))


def find_by_order(view: RowView, prefix: bytes, order: int) -> Found | None:
    """The version of this order of the key that `prefix` is of."""
    top = current(view, prefix)
    if top is None or top[1].order == order:
        return top
    row_key = schema.version_key(prefix, order)
    payload = view.get(row_key)
    return None if payload is None else (row_key, payloads.unpack_head(payload))


def version_id_of(order: int, index: int) -> VersionId:
    return VersionId(f"{order:016x}{index:016x}")


def order_of(version_id: VersionId) -> int | None:
    """The order that a version id tells; None for the null version, or what is no id."""
    try:
        order = int(version_id[:_HALF], 16)
    except ValueError:
        return None
    return order if 0 <= order < schema.ORDER_MAX else None


def find_named(
    view: RowView, slot: Slot, bucket: BucketId, key: Key, version_id: VersionId
) -> Found | None:
    """The version of this id."""
    prefix = schema.versions_prefix(slot, bucket, key)
    if version_id == NULL_VERSION:
        return _find_null(view, slot, bucket, key, prefix)
    order = order_of(version_id)
    if order is None:
        return None
    found = find_by_order(view, prefix, order)
    return found if found is not None and found[1].version_id == version_id else None


def _find_null(
    view: RowView, slot: Slot, bucket: BucketId, key: Key, prefix: bytes
) -> Found | None:
    top = current(view, prefix)
    if top is None or top[1].version_id == NULL_VERSION:
        return top
    pointer = view.get(schema.null_key(slot, bucket, key))
    if pointer is None:
        return None
    row_key = schema.version_key(prefix, payloads.unpack(pointer))
    payload = view.get(row_key)
    assert payload is not None, "a NULL row points at no version"
    return row_key, payloads.unpack_head(payload)


# ---- conditions -----------------------------------------------------------------------


def etag_of(found: Found | None) -> str | None:
    """The etag that a condition is about: a delete marker is no object and has none."""
    return None if found is None or found[1].is_delete_marker else found[1].etag


def check_condition(condition: WriteCondition | None, etag: str | None) -> None:
    """Judge a write's condition by the etag of the object that is there (None: none).

    Raises NoSuchKey, PreconditionFailed.
    """
    if condition is None:
        return
    if condition.if_match:
        if etag is None:
            raise NoSuchKey("If-Match, and there is no such object")
        if not _matches(condition.if_match, etag):
            raise PreconditionFailed("the object has another etag", condition="If-Match")
    if etag is not None and _matches(condition.if_none_match, etag):
        raise PreconditionFailed("the object exists", condition="If-None-Match")


def _matches(etags: Iterable[str], etag: str) -> bool:
    return any(wanted in ("*", etag) for wanted in etags)


# ---- putting --------------------------------------------------------------------------


def put_version(work: Work, command: PutVersion) -> PutResult:
    ref, key, draft = command.ref, command.key, command.draft
    versioning = fences.require(work.rows, work.slot, ref)
    prefix = schema.versions_prefix(work.slot, ref.bucket, key)
    top = current(work.rows, prefix)
    if command.condition is not None:
        check_condition(command.condition, etag_of(top))
    outside = payloads.unpack_outside(draft.location)
    if command.intent is not None or outside is not None:
        intents.use_intent(work, ref.bucket, command.intent, outside)
    result = store_version(
        work, ref.bucket, key, draft, prefix=prefix, versioning=versioning, top=top
    )
    if outside is not None:
        order = work.time_ms << ORDER_SHIFT
        references.hold(work, Place(ref.bucket, key, order, "", 0), outside)
    return result


def store_version(
    work: Work,
    bucket: BucketId,
    key: Key,
    draft: PackedDraft | None,
    *,
    prefix: bytes,
    versioning: str,
    top: Found | None,
) -> PutResult:
    """Make `draft` (None: a delete marker) the current version.

    prefix: of the key's versions.  top: the version that was current.
    The caller sees to what the draft refers to.
    """
    time_ms = work.time_ms
    shown = None if draft is None else payloads.pack_listed(draft, time_ms)
    more_objects = _show(work, prefix, before=top, row=shown)
    more_versions, more_bytes = 1, 0 if draft is None else draft.size
    if versioning != ENABLED:
        replaced = top
        if versioning != UNVERSIONED:
            replaced = _find_null(work.rows, work.slot, bucket, key, prefix)
        if replaced is not None:
            _remove_row(work, bucket, key, replaced, versioning)
            more_versions, more_bytes = 0, more_bytes - replaced[1].size
            if top is not None and replaced[0] == top[0]:
                top = None  # The rest, if any, is buried already.
    if top is not None:
        _bury(work, bucket, key, prefix, top)
    order = time_ms << ORDER_SHIFT
    version_id = NULL_VERSION
    if versioning == ENABLED:
        version_id = version_id_of(order, work.index)
    row = payloads.pack_version(
        version_id,
        draft,
        order=order,
        time_ms=time_ms,
        index=work.index,
        term=work.term,
    )
    work.rows.put(schema.current_key(prefix), row)
    work.count(bucket, objects=more_objects, versions=more_versions, size=more_bytes)
    etag = "" if draft is None else draft.etag
    return PutResult(version_id, time_ms, etag, work.index, work.term)


def _show(work: Work, prefix: bytes, *, before: Found | None, row: bytes | None) -> int:
    """Show a key in lists, or no longer; how many objects there are more: 1, 0 or -1.

    prefix: of the key's versions.  before: its current version until now.
    row: of the current version; None where that is a delete marker, or there is none.
    """
    was_object = before is not None and before[1].packed_location is not None
    if row is not None:
        work.rows.put(schema.listed_of(prefix), row)
        return 0 if was_object else 1
    if was_object:
        work.rows.delete(schema.listed_of(prefix))
        return -1
    return 0


def _bury(work: Work, bucket: BucketId, key: Key, prefix: bytes, top: Found) -> None:
    """Move the current version among the older ones."""
    row_key, head = top
    payload = work.rows.get(row_key)
    assert payload is not None
    work.rows.put(schema.version_key(prefix, head.order), payload)
    work.rows.delete(row_key)
    if head.version_id == NULL_VERSION:
        pointer = payloads.pack(head.order)
        work.rows.put(schema.null_key(work.slot, bucket, key), pointer)


def _promote(work: Work, bucket: BucketId, key: Key, prefix: bytes) -> VersionHead | None:
    """Make the newest of the older versions current, if there is any."""
    row = first_row(work.rows, prefix, schema.versions_end(prefix))
    if row is None:
        return None
    work.rows.delete(row[0])
    work.rows.put(schema.current_key(prefix), row[1])
    head = payloads.unpack_head(row[1])
    if head.version_id == NULL_VERSION:
        work.rows.delete(schema.null_key(work.slot, bucket, key))
    return head


def _remove_row(
    work: Work, bucket: BucketId, key: Key, found: Found, versioning: str
) -> None:
    """Remove a version's row and what hangs on it; the caller shows and counts."""
    row_key, head = found
    work.rows.delete(row_key)
    outside = payloads.unpack_outside(head.packed_location)
    if outside is not None:
        references.let_go(work, bucket, key, outside)
    if head.version_id == NULL_VERSION and versioning != UNVERSIONED:
        work.rows.delete(schema.null_key(work.slot, bucket, key))


# ---- deleting -------------------------------------------------------------------------


def delete_version(work: Work, command: DeleteVersion) -> DeleteResult:
    ref, key = command.ref, command.key
    versioning = fences.require(work.rows, work.slot, ref)
    if command.version_id is not None:
        return _delete_named(work, command, command.version_id, versioning)
    prefix = schema.versions_prefix(work.slot, ref.bucket, key)
    top = current(work.rows, prefix)
    if command.condition is not None:
        check_condition(command.condition, etag_of(top))
    if versioning == UNVERSIONED:
        if top is not None:
            more = _show(work, prefix, before=top, row=None)
            _remove_row(work, ref.bucket, key, top, versioning)
            work.count(ref.bucket, objects=more, versions=-1, size=-top[1].size)
        return DeleteResult(None, is_delete_marker=False)
    marker = store_version(
        work, ref.bucket, key, None, prefix=prefix, versioning=versioning, top=top
    )
    return DeleteResult(marker.version_id, is_delete_marker=True)


def _delete_named(
    work: Work, command: DeleteVersion, version_id: VersionId, versioning: str
) -> DeleteResult:
    bucket, key = command.ref.bucket, command.key
    found = find_named(work.rows, work.slot, bucket, key, version_id)
    check_condition(command.condition, etag_of(found))
    if found is None:
        return DeleteResult(version_id, is_delete_marker=False)
    prefix = schema.versions_prefix(work.slot, bucket, key)
    top = current(work.rows, prefix)
    _remove_row(work, bucket, key, found, versioning)
    more = 0
    if top is not None and top[0] == found[0]:
        now = _promote(work, bucket, key, prefix)
        row = None
        if now is not None and not now.is_delete_marker:
            row = payloads.pack_listed(now, now.time_ms)
        more = _show(work, prefix, before=top, row=row)
    work.count(bucket, objects=more, versions=-1, size=-found[1].size)
    return DeleteResult(version_id, is_delete_marker=found[1].is_delete_marker)
