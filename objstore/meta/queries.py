"""What may be asked of a shard: reads behind a ReadIndex barrier, at any whole replica.

Each names its slots; a query of several slots is answered by the one shard that has them
(the client splits and merges).  Answers are the types named in each docstring; errors as
for commands.  A query with `ref` fails with StaleBucket like a command.
"""

from __future__ import annotations

from typing import Any, get_args

import attrs

from objstore.frozen import frozen
from objstore.ids import BucketId, ChunkId, Key, Slot, UploadId, VersionId
from objstore.meta import payloads
from objstore.meta.commands import BucketRef
from objstore.meta.values import (
    ChunkPlace,
    ChunkRef,
    Listed,
    ListedRow,
    ListedVersion,
    Part,
    Upload,
)
from objstore.rpc.codec import CorruptValue, wire


@wire("q.get_version")
@frozen
class GetVersion:
    """The current version of a key, or a named one.  Answer: Version.

    NoSuchKey, NoSuchVersion; a delete marker is an answer, not an error.
    """

    slot: Slot
    ref: BucketRef
    key: Key
    version_id: VersionId | None = None


@wire("q.read_spans")
@frozen
class ReadSpans:
    """Where bytes [offset, offset + size) of a version made of parts are.

    Answer: tuple[Span, ...], in order, the first holding `offset`, at most `spans_max`
    (ask again from the end of the last).  `order` pins the version: NoSuchKey once it is
    gone.  part_number: the span of that part instead (then offset, size are ignored).
    """

    slot: Slot
    ref: BucketRef
    key: Key
    order: int
    offset: int = 0
    size: int = 0
    part_number: int | None = None
    spans_max: int = 64


FROM_NEWEST = (1 << 63) - 1  # Above the order of every version.


@wire("q.list_keys")
@frozen
class ListKeys:
    """One page of each slot's keys or versions, merged.  Answer: ListAnswer.

    The client joins those of several shards to one.
    Entries with prefix <= key, after `after` (exclusive: a key, or with `is_prefix_after`
    every key that begins with it), in byte order, rolled up by `delimiter`; at most
    `limit` (1 .. 1,000) entries: keys and common prefixes together.
    versions: all versions and markers instead of current objects; then `after_version`
    continues within key `after`, with versions of a lower order (FROM_NEWEST: with all).
    """

    slots: tuple[Slot, ...]
    ref: BucketRef
    prefix: bytes = b""
    delimiter: bytes = b""
    after: bytes = b""
    is_prefix_after: bool = False
    after_version: int | None = None  # Its order.
    versions: bool = False
    limit: int = 1000


@wire("q.list_answer", version=3)
@frozen
class ListAnswer:
    """Sorted: keys or common prefixes, and what is shown of each.

    Rows come packed as they were read (`payloads`), nil for a common prefix: nobody looks
    into a thousand of them before they are shown.
    """

    names: tuple[bytes, ...]
    rows: tuple[bytes, ...] = attrs.field(repr=False)  # Packed Listed, or ListedVersion.
    is_truncated: bool

    def objects(self) -> tuple[ListedRow | None, ...]:
        """The current object of each name; None: a common prefix.  Raises CorruptValue."""
        return self._unpacked(len(Listed._fields))

    def versions(self) -> list[tuple[bytes, ListedVersion | None]]:
        """(key, one of its versions) or (common prefix, None), of a list of versions."""
        make = ListedVersion._make
        rows = self._unpacked(len(ListedVersion._fields))
        shown = [None if row is None else make(row) for row in rows]
        return list(zip(self.names, shown, strict=True))

    def _unpacked(self, field_count: int) -> tuple[Any, ...]:
        try:
            rows = payloads.unpack_listed(self.rows, field_count)
        except (ValueError, TypeError) as problem:
            raise CorruptValue(f"a page of a list: {problem}") from problem
        if len(rows) != len(self.names):
            raise CorruptValue(f"{len(rows)} rows of a list, {len(self.names)} names")
        return rows


@wire("q.get_upload")
@frozen
class GetUpload:
    """Answer: Upload; NoSuchUpload."""

    slot: Slot
    ref: BucketRef
    key: Key
    upload: UploadId


@wire("q.list_uploads")
@frozen
class ListUploads:
    """Answer: UploadsAnswer, by key, then by initiation time and upload id."""

    slots: tuple[Slot, ...]
    ref: BucketRef
    prefix: bytes = b""
    delimiter: bytes = b""
    after: bytes = b""
    after_upload: UploadId | None = None
    limit: int = 1000


@wire("q.uploads_answer")
@frozen
class UploadsAnswer:
    entries: tuple[tuple[bytes, Upload | None], ...]  # None: a common prefix.
    is_truncated: bool


@wire("q.list_parts")
@frozen
class ListParts:
    """Answer: PartsAnswer, by number."""

    slot: Slot
    ref: BucketRef
    key: Key
    upload: UploadId
    after: int = 0
    limit: int = 1000


@wire("q.list_version_parts")
@frozen
class ListVersionParts:
    """Parts of a completed version (GetObjectAttributes).  Answer: PartsAnswer."""

    slot: Slot
    ref: BucketRef
    key: Key
    order: int
    after: int = 0
    limit: int = 1000


@wire("q.parts_answer")
@frozen
class PartsAnswer:
    upload: Upload | None
    parts: tuple[Part, ...]  # Locations emptied: Inline(b"").
    is_truncated: bool


@wire("q.get_usage")
@frozen
class GetUsage:
    """Exact counters of a bucket (or of all: None) in these slots.  Answer: Usage."""

    slots: tuple[Slot, ...]
    bucket: BucketId | None = None


@wire("q.list_below")
@frozen
class ListBelow:
    """Chunks whose fragments are not all where they belong.  tuple[BelowEntry, ...].

    Most endangered first: by how many more fragments may be lost.  After those with
    missing fragments come the whole ones that have stand-ins (`ref.displaced` has no
    None): they are not below promise, but wait to be moved home.
    """

    slots: tuple[Slot, ...]
    limit: int = 256
    after: bytes = b""  # Cursor of the last entry seen.


@wire("q.below_entry")
@frozen
class BelowEntry:
    cursor: bytes
    place: ChunkPlace
    scheme: str
    ref: ChunkRef


@wire("q.list_released")
@frozen
class ListReleased:
    """Released rows older than `before_ms`, by sequence.  Answer: tuple[Released, ...]."""

    slot: Slot
    before_ms: int
    limit: int = 64
    after: int = -1  # Sequence of the last row seen.


@wire("q.list_released_slots")
@frozen
class ListReleasedSlots:
    """Those of these slots that have Released rows.  Answer: tuple[int, ...]."""

    slots: tuple[Slot, ...]


@wire("q.is_wanted")
@frozen
class IsWanted:
    """Which of these chunks a row or a live intent still refers to.

    Answer: tuple[bool, ...].  Linearizable: what is False will never be True again.
    """

    slot: Slot
    bucket: BucketId
    key: Key
    chunks: tuple[ChunkId, ...]


@wire("q.cluster_changes")
@frozen
class ClusterChanges:
    """The cluster shard's rows changed after `since`.  Answer: ClusterDelta.

    began: `state_version` of the first page, in later pages of a full answer.
    """

    since: int
    began: int = 0


@wire("q.cluster_delta")
@frozen
class ClusterDelta:
    version: int  # Of the state: the cluster shard's applied index at its last change.
    is_full: bool  # Replace everything: `since` was too old.
    rows: tuple[tuple[bytes, bytes | None], ...]  # None: deleted.
    has_more: bool = False  # The answer was cut: ask again since `version`.
    state_version: int = 0  # Of the state that was read; `version` is less if cut.


SlotQuery = (
    GetVersion
    | ReadSpans
    | ListKeys
    | GetUpload
    | ListUploads
    | ListParts
    | ListVersionParts
    | GetUsage
    | ListBelow
    | ListReleased
    | ListReleasedSlots
    | IsWanted
)
Query = SlotQuery | ClusterChanges
QUERIES: tuple[type, ...] = (*get_args(SlotQuery), ClusterChanges)
