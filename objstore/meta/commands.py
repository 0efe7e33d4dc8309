"""What may be proposed: the commands of a slot, and those of the cluster shard.

A command is a value; `meta.apply` is a pure function (view, command) -> (rows, result).
Ids and stamps are put into it by its proposer, so that every replica applies alike (R12).
An object command names its bucket's incarnation and config version (`BucketRef`) and
fails with StaleBucket where the slot's fence differs; the front door then refreshes its
view and tries again.

Results: the type named in each docstring, or an error of `meta.errors` (raised to the
caller by the client).
"""

from __future__ import annotations

from typing import get_args

from objstore.frozen import frozen
from objstore.ids import (
    BucketId,
    Epoch,
    IntentId,
    Key,
    NodeId,
    Slot,
    UploadId,
    VersionId,
)
from objstore.limits import PART_SIZE_MIN
from objstore.meta.values import (
    AccessKey,
    BucketFence,
    BucketState,
    ChunkPlace,
    ChunkRef,
    JoinToken,
    PackedDraft,
    Part,
    Upload,
)
from objstore.rpc.codec import wire


@wire("c.bucket_ref")
@frozen
class BucketRef:
    """Which bucket, as the proposer knew it."""

    bucket: BucketId
    config_version: int


@wire("c.write_condition")
@frozen
class WriteCondition:
    """If-Match and If-None-Match of a write, decided inside the command.

    Etags without quotes; ("*",) for any.  AWS: If-None-Match allows only "*".
    If-Match with no current version: NoSuchKey; a mismatch: PreconditionFailed.
    """

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()


UNCONDITIONAL = WriteCondition()


def asked(condition: WriteCondition) -> WriteCondition | None:
    """As a command carries it: nothing, where nothing is asked, as of most writes."""
    is_nothing = condition is UNCONDITIONAL or condition == UNCONDITIONAL
    return None if is_nothing else condition


# ---- slot commands: each has `slot`, and is routed by it ------------------------------


@wire("c.open_bucket")
@frozen
class OpenBucket:
    """Open (or update) a bucket's fence in this slot.  Result: None."""

    slot: Slot
    fence: BucketFence


@wire("c.close_bucket")
@frozen
class CloseBucket:
    """Check that the slot holds nothing of the bucket, and close it, in one step.

    config_version: of the record in CLOSING; it makes a close that comes late, after the
    bucket was opened again, fail with StaleBucket.
    Result: None; BucketNotEmpty where it holds versions, markers or uploads.
    """

    slot: Slot
    bucket: BucketId
    config_version: int


@wire("c.drop_bucket")
@frozen
class DropBucket:
    """Forget the bucket's fence and counters.  Result: None.

    BucketNotEmpty where the slot is open and holds something: nobody may open one of a
    bucket in DROPPING.
    """

    slot: Slot
    bucket: BucketId


@wire("c.put_version", version=2)  # Version 1 had a draft that was not packed.
@frozen
class PutVersion:
    """Make a version the current one of its key.  Result: PutResult.

    intent: required where draft.location holds chunks; IntentGone where it is not alive.
    floor_epoch is checked against the chunks' epochs: StaleEpoch.
    """

    slot: Slot
    ref: BucketRef
    key: Key
    draft: PackedDraft
    condition: WriteCondition | None = None
    intent: IntentId | None = None


@wire("c.put_result")
@frozen
class PutResult:
    version_id: VersionId
    time_ms: int
    etag: str
    index: int
    term: int


@wire("c.delete_version", version=2)  # Version 1 always had a condition.
@frozen
class DeleteVersion:
    """Delete a key's current version, or a named one.  Result: DeleteResult.

    Without `version_id` in an unversioned bucket the null version goes; nothing there is
    no error (but with If-Match: NoSuchKey... see the class WriteCondition).
    """

    slot: Slot
    ref: BucketRef
    key: Key
    version_id: VersionId | None = None
    condition: WriteCondition | None = None


@wire("c.delete_result")
@frozen
class DeleteResult:
    version_id: VersionId | None  # Of the marker made, or of the version deleted.
    is_delete_marker: bool


# Intents that are begun with another one: seven of eight writes need no entry for theirs.
SPARES_MAX = 7


@wire("c.begin_intent")
@frozen
class BeginIntent:
    """Register or renew an intent for INTENT_LIFE_MS.  Result: expires_ms (int).

    is_renewal: said by a writer that may have chunks under it already; where the intent
    has expired, been used or dropped meanwhile: IntentGone, and not a new one.
    spares: intents of later writes of the same node, of whatever keys; SPARES_MAX at most,
    none with a renewal.  From feature level 2 on.
    """

    slot: Slot
    ref: BucketRef
    key: Key
    intent: IntentId
    is_renewal: bool = False
    spares: tuple[IntentId, ...] = ()


@wire("c.drop_intent")
@frozen
class DropIntent:
    """Give an intent up; `written` are the chunks begun under it, to be released.

    One of size 0 was not finished: which nodes have something of it is not known.
    Result: None.  An intent already used by a commit is left alone (nothing released).
    """

    slot: Slot
    bucket: BucketId
    intent: IntentId
    scheme: str
    written: tuple[ChunkRef, ...]


@wire("c.create_upload")
@frozen
class CreateUpload:
    """Result: Upload, with its time."""

    slot: Slot
    ref: BucketRef
    upload: Upload


@wire("c.put_part")
@frozen
class PutPart:
    """Store or replace a part; the replaced one's chunks are released.

    Result: Part, its location emptied to Inline(b"").
    """

    slot: Slot
    ref: BucketRef
    key: Key
    upload: UploadId
    part: Part
    intent: IntentId | None = None


@wire("c.part_ref")
@frozen
class PartRef:
    """A part as CompleteMultipartUpload lists it."""

    number: int
    etag: str
    checksum: bytes | None = None


@wire("c.complete_upload", version=2)  # Version 1 always had a condition.
@frozen
class CompleteUpload:
    """Make a version of the listed parts.  Result: CompleteResult.

    Checks numbers ascending, parts present with these etags (InvalidPart,
    InvalidPartOrder), sizes (EntityTooSmall), `condition`.  Parts not listed are
    released.  The same completion repeated answers the same for COMPLETION_KEPT_MS or
    until the key is overwritten, then NoSuchUpload.
    """

    slot: Slot
    ref: BucketRef
    key: Key
    upload: UploadId
    parts: tuple[PartRef, ...]
    condition: WriteCondition | None = None
    expected_size: int | None = None  # x-amz-mp-object-size
    expected_checksum: bytes | None = None  # Of the whole object, where the client sent it.
    part_size_min: int = PART_SIZE_MIN  # Of all but the last; of the node that was asked.


@wire("c.complete_result")
@frozen
class CompleteResult:
    put: PutResult
    checksum_algorithm: str | None
    checksum: bytes | None
    checksum_kind: str | None
    part_count: int
    size: int


@wire("c.abort_upload")
@frozen
class AbortUpload:
    """Drop an upload and release its parts.  Result: None; NoSuchUpload."""

    slot: Slot
    ref: BucketRef
    key: Key
    upload: UploadId


@wire("c.forget_released")
@frozen
class ForgetReleased:
    """Chunks of these Released rows are deleted everywhere.  Result: None."""

    slot: Slot
    sequences: tuple[int, ...]


@wire("c.change_displaced")
@frozen
class ChangeDisplaced:
    """Record where fragments of a chunk are now: repair and damage reports.

    For each entry: (index, found, now).  It is applied where the row's state of that
    index still is `found` (a node id, or None for missing, or "" for "on its ring
    owner"); `now` likewise.  `place` needs neither order nor part number.  Result: the
    ChunkRef's new `displaced`, or NoSuchKey where nothing refers to the chunk any more.
    """

    slot: Slot
    place: ChunkPlace
    changes: tuple[tuple[int, str | None, str | None], ...]


@wire("c.purge_step")
@frozen
class PurgeStep:
    """Drain what is due in a slot by one bounded step: expired rows, queued deletions.

    Proposed by the leader's worker.  Result: bool, whether more is due.
    """

    slot: Slot


@wire("c.raise_floor")
@frozen
class RaiseFloor:
    """Refuse commits placed by rings older than `epoch` in this slot.  Result: None."""

    slot: Slot
    epoch: Epoch


SlotCommand = (
    OpenBucket
    | CloseBucket
    | DropBucket
    | PutVersion
    | DeleteVersion
    | BeginIntent
    | DropIntent
    | CreateUpload
    | PutPart
    | CompleteUpload
    | AbortUpload
    | ForgetReleased
    | ChangeDisplaced
    | PurgeStep
    | RaiseFloor
)

# ---- cluster commands -----------------------------------------------------------------


@wire("c.found_cluster")
@frozen
class FoundCluster:
    """First command of a cluster.  Result: None; Conflict where one was founded."""

    layout: bytes  # ring.layout.Layout, encoded.
    settings: tuple[tuple[str, bytes], ...]  # cluster id, CA, gossip secret ...
    root_key: AccessKey


@wire("c.create_bucket_record")
@frozen
class CreateBucketRecord:
    """Result: BucketRecord (state CREATING).  BucketExists (with .owner) where taken."""

    name: str
    owner: str
    span: tuple[Slot, ...]
    scheme: str


@wire("c.set_bucket_state")
@frozen
class SetBucketState:
    """Take the next step of a bucket's life, if nobody did since the proposer looked.

    config_version: of the record as the proposer knew it.  Where it is another one now, or
    its state does not lead to `state`, nothing changes.  Entering CLOSING raises it.
    Result: BucketRecord, as it is then; NoSuchBucket where this incarnation is gone.
    """

    name: str
    bucket: BucketId
    config_version: int
    state: BucketState


@wire("c.drop_bucket_record")
@frozen
class DropBucketRecord:
    """Forget a record in DROPPING.  Result: None; Conflict where it is in another state."""

    name: str
    bucket: BucketId


@wire("c.create_access_key")
@frozen
class CreateAccessKey:
    """Result: AccessKey, with its time; AccessKeyExists."""

    key: AccessKey


@wire("c.delete_access_key")
@frozen
class DeleteAccessKey:
    """Result: None; NoSuchAccessKey."""

    access_key: str


@wire("c.create_join_token")
@frozen
class CreateJoinToken:
    """Result: None."""

    token: JoinToken


@wire("c.spend_join_token")
@frozen
class SpendJoinToken:
    """Take one use.  Result: None; InvalidToken where unknown, expired, used up, wrong.

    A node that has spent one may come again (its answer was lost): that costs nothing.
    """

    token_id: str
    secret_hash: bytes
    node: NodeId  # Who spends it.


@wire("c.set_layout")
@frozen
class SetLayout:
    """Put the next layout in force.  Result: None; StaleEpoch unless epoch is next."""

    layout: bytes


@wire("c.put_setting")
@frozen
class PutSetting:
    """Set (or with None remove) a setting.  Result: None."""

    name: str
    value: bytes | None


ClusterCommand = (
    FoundCluster
    | CreateBucketRecord
    | SetBucketState
    | DropBucketRecord
    | CreateAccessKey
    | DeleteAccessKey
    | CreateJoinToken
    | SpendJoinToken
    | SetLayout
    | PutSetting
)
Command = SlotCommand | ClusterCommand
# What adds rows for good: refused where a voter has no room for more.
GROWING: tuple[type, ...] = (
    PutVersion,
    PutPart,
    CreateUpload,
    BeginIntent,
    CreateBucketRecord,
    CreateAccessKey,
    CreateJoinToken,
)
SLOT_COMMANDS: tuple[type, ...] = get_args(SlotCommand)
COMMANDS: tuple[type, ...] = (*SLOT_COMMANDS, *get_args(ClusterCommand))
