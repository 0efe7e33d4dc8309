"""What may be asked of a shard: reads at its leader, behind a ReadIndex barrier.

Each names its slots; a query of several slots is answered by the one shard that has them
(the client splits and merges).  Answers are the types named in each docstring; errors as
for commands.  A query with `ref` fails with StaleBucket like a command.
"""

from __future__ import annotations

import attrs

from objstore.ids import BucketId, ChunkId, Key, Slot, UploadId, VersionId
from objstore.meta.commands import BucketRef
from objstore.meta.values import ChunkPlace, ChunkRef, Upload, Version


@attrs.frozen
class GetVersion:
    """The current version of a key, or a named one.  Answer: Version.

    NoSuchKey, NoSuchVersion; a delete marker is an answer, not an error.
    """

    slot: Slot
    ref: BucketRef
    key: Key
    version_id: VersionId | None = None


@attrs.frozen
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


@attrs.frozen
class ListKeys:
    """One page of each slot's keys or versions, merged.  Answer: ListAnswer.

    Entries with prefix <= key, after `after` (exclusive: a key, or with `is_prefix_after`
    every key that begins with it), in byte order, rolled up by `delimiter`; at most
    `limit` (1 .. 1,000) entries: keys and common prefixes together.
    versions: all versions and markers instead of current objects; then `after_version`
    continues within key `after`.
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


@attrs.frozen
class ListAnswer:
    """Sorted; `entries` are (key, version) or (common prefix, None)."""

    entries: tuple[tuple[bytes, Version | None], ...]
    is_truncated: bool


@attrs.frozen
class GetUpload:
    """Answer: Upload; NoSuchUpload."""

    slot: Slot
    ref: BucketRef
    key: Key
    upload: UploadId


@attrs.frozen
class ListUploads:
    """Answer: UploadsAnswer, by key, then by initiation time and upload id."""

    slots: tuple[Slot, ...]
    ref: BucketRef
    prefix: bytes = b""
    delimiter: bytes = b""
    after: bytes = b""
    after_upload: UploadId | None = None
    limit: int = 1000


@attrs.frozen
class UploadsAnswer:
    entries: tuple[tuple[bytes, Upload | None], ...]  # None: a common prefix.
    is_truncated: bool


@attrs.frozen
class ListParts:
    """Answer: PartsAnswer, by number."""

    slot: Slot
    ref: BucketRef
    key: Key
    upload: UploadId
    after: int = 0
    limit: int = 1000


@attrs.frozen
class ListVersionParts:
    """Parts of a completed version (GetObjectAttributes).  Answer: PartsAnswer."""

    slot: Slot
    ref: BucketRef
    key: Key
    order: int
    after: int = 0
    limit: int = 1000


@attrs.frozen
class PartsAnswer:
    upload: Upload | None
    parts: tuple[object, ...]  # meta.values.Part, without location.
    is_truncated: bool


@attrs.frozen
class GetUsage:
    """Exact counters of a bucket (or of all: None) in these slots.  Answer: Usage."""

    slots: tuple[Slot, ...]
    bucket: BucketId | None = None


@attrs.frozen
class ListBelow:
    """Chunks below promise, most endangered first.  Answer: tuple[BelowEntry, ...]."""

    slots: tuple[Slot, ...]
    limit: int = 256
    after: bytes = b""  # Cursor of the last entry seen.


@attrs.frozen
class BelowEntry:
    cursor: bytes
    place: ChunkPlace
    scheme: str
    ref: ChunkRef


@attrs.frozen
class ListReleased:
    """Released rows older than `before_ms`.  Answer: tuple[Released, ...]."""

    slot: Slot
    before_ms: int
    limit: int = 64


@attrs.frozen
class IsWanted:
    """Which of these chunks a row or a live intent still refers to.

    Answer: tuple[bool, ...].  Linearizable: what is False will never be True again.
    """

    slot: Slot
    bucket: BucketId
    key: Key
    chunks: tuple[ChunkId, ...]


@attrs.frozen
class ClusterChanges:
    """The cluster shard's rows changed after `since`.  Answer: ClusterDelta."""

    since: int


@attrs.frozen
class ClusterDelta:
    version: int  # Of the state: the cluster shard's applied index at its last change.
    is_full: bool  # Replace everything: `since` was too old.
    rows: tuple[tuple[bytes, bytes | None], ...]  # None: deleted.


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
    | IsWanted
)
Query = SlotQuery | ClusterChanges
