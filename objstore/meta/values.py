"""What metadata rows hold, as values.

    cluster shard   BucketRecord, AccessKey, JoinToken, settings, the layout of each epoch
    a slot          BucketFence, Version, Upload, Part, Intent, Released, counters

All rows of one key lie in one slot; a bucket's keys spread over the slots of its *span*.
Times are cluster time in milliseconds (fixed when a command is applied).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import attrs

from objstore.frozen import frozen
from objstore.ids import (
    BucketId,
    ChunkId,
    Epoch,
    IntentId,
    Key,
    NodeId,
    Slot,
    UploadId,
    VersionId,
)
from objstore.rpc.codec import wire

# ---- the cluster shard ----------------------------------------------------------------


class BucketState(IntEnum):
    """Where a bucket is in its life; objects are served only while OPEN."""

    CREATING = 0  # Recorded; its span slots are being opened (for the first time or again).
    OPEN = 1
    CLOSING = 2  # Its span slots are being checked for emptiness and closed.
    DROPPING = 3  # All are closed: it cannot be opened again, its fences are being dropped.


@wire("v.bucket_record")
@frozen
class BucketRecord:
    """A bucket, in the cluster shard."""

    name: str
    bucket: BucketId
    owner: str  # Canonical id of the principal that made it.
    created_ms: int
    span: tuple[Slot, ...]
    scheme: str  # "replicate:3", "ec:4+2": how new versions are kept.
    state: BucketState
    config_version: int = 1  # Raised by every change that shapes objects.
    versioning: str = "unversioned"  # "unversioned" | "enabled" | "suspended"
    tags: tuple[tuple[str, str], ...] = ()


@wire("v.access_key")
@frozen
class AccessKey:
    """A key pair of the S3 dialect.  `is_root` sees all; others what they made."""

    access_key: str
    secret_key: str = attrs.field(repr=False)
    name: str
    canonical_id: str  # 64 hex digits.
    is_root: bool
    created_ms: int


@wire("v.join_token")
@frozen
class JoinToken:
    """Admits nodes until it expires or its uses are up."""

    token_id: str
    secret_hash: bytes = attrs.field(repr=False)  # SHA-256 of the secret.
    expires_ms: int
    uses_left: int
    created_ms: int
    spent_by: tuple[NodeId, ...] = ()


# ---- bytes ----------------------------------------------------------------------------


@wire("v.displaced")
@frozen
class Displaced:
    """A fragment that is not where the ring of the chunk's epoch says."""

    index: int  # Fragment number.
    node: NodeId | None  # The stand-in that has it; None: it is missing.


@wire("v.chunk_ref")
@frozen
class ChunkRef:
    """One chunk of a version or part: which, how long, and where its fragments are.

    Fragment i lies on `ring(epoch).owners(chunk, width)[i]`, but for `displaced`.
    """

    chunk: ChunkId
    size: int  # Bytes of the object in it.
    epoch: Epoch
    displaced: tuple[Displaced, ...] = ()  # By index, each index once.


@wire("v.inline")
@frozen
class Inline:
    """The bytes ride in the row."""

    data: bytes = attrs.field(repr=False)


@wire("v.chunks")
@frozen
class Chunks:
    """The bytes are ring chunks, in order."""

    scheme: str
    chunks: tuple[ChunkRef, ...]


@wire("v.parts")
@frozen
class Parts:
    """The bytes are those of an upload's part rows, which stay where they are.

    The row `part map` of the upload (numbers and end offsets, packed) tells which part
    holds which byte; `meta.queries.ReadSpans` answers it in terms of chunks.
    """

    upload: UploadId
    part_count: int


@wire("v.external")
@frozen
class External:
    """The bytes are outside (a tier, an archive).  Format only: nothing makes one yet."""

    target: str
    reference: bytes


Location = Inline | Chunks | Parts | External


@wire("v.checksum")
@frozen
class Checksum:
    """A checksum that the client sees, beside the etag."""

    algorithm: str  # CRC32 | CRC32C | CRC64NVME | SHA1 | SHA256
    value: bytes
    kind: str = "FULL_OBJECT"  # | "COMPOSITE": of the parts' checksums


# ---- a slot ---------------------------------------------------------------------------


@wire("v.bucket_fence")
@frozen
class BucketFence:
    """A bucket's record in each of its span slots: what object commands check."""

    bucket: BucketId
    config_version: int
    versioning: str
    is_open: bool


@wire("v.draft")
@frozen
class Draft:
    """A version as its writer proposes it: all but what is fixed when applied."""

    size: int
    etag: str  # As shown, without quotes.
    headers: tuple[tuple[str, str], ...]  # Content-Type ..., lower-case names.
    user_metadata: tuple[tuple[str, str], ...]  # Names without x-amz-meta-.
    location: Location
    owner: str
    checksum: Checksum | None = None
    storage_class: str = "STANDARD"
    tags: tuple[tuple[str, str], ...] = ()


@wire("v.packed_draft")
@frozen
class PackedDraft:
    """A draft as commands carry it and rows keep it, packed once by who proposes it.

    Replicas look at its size, its etag and, unless the bytes are inline, its location;
    `bounds` looks at all of it before it is in a log.  See `payloads` for what is packed.
    """

    size: int
    etag: str
    traits: bytes  # What lists show: owner, class, the checksum's algorithm and kind.
    checksum: bytes | None  # Its value.
    about: bytes  # Headers, user metadata, tags.
    location: bytes = attrs.field(repr=False)


@wire("v.version")
@frozen
class Version:
    """One immutable content of an object, or a delete marker (then `draft` is None)."""

    version_id: VersionId
    order: int  # u64: later versions of a key have a greater one; cluster time << 20 | n.
    time_ms: int  # Last-Modified.
    draft: Draft | None
    index: int  # Raft index of the command that made it: with `term` a fencing token.
    term: int

    @property
    def is_delete_marker(self) -> bool:
        return self.draft is None


class Listed(NamedTuple):
    """A current object as lists show it: without headers, user metadata, tags and bytes.

    Lists hold a thousand: there the plain tuples of its fields (ListedRow) do as well.
    What mostly all objects of a bucket have in common stays packed, to be unpacked once.
    """

    time: str  # As `units.iso_time` writes it.
    size: int
    etag: str
    traits: bytes  # Packed Traits.


ListedRow = tuple[str, int, str, bytes]


class Traits(NamedTuple):
    """What lists show of an object and mostly all objects of a bucket have alike."""

    owner: str
    storage_class: str
    checksum_algorithm: str | None
    checksum_kind: str | None


class ListedVersion(NamedTuple):
    """A version as lists of versions show it."""

    time: str
    size: int
    etag: str
    traits: bytes
    version_id: VersionId
    order: int
    is_delete_marker: bool


@wire("v.upload")
@frozen
class Upload:
    """A multipart upload in progress."""

    upload: UploadId
    key: Key
    initiated_ms: int
    owner: str
    initiator: str
    headers: tuple[tuple[str, str], ...]
    user_metadata: tuple[tuple[str, str], ...]
    scheme: str
    storage_class: str = "STANDARD"
    checksum_algorithm: str | None = None
    checksum_kind: str | None = None
    tags: tuple[tuple[str, str], ...] = ()


@wire("v.part")
@frozen
class Part:
    """One numbered piece of an upload, as the client cut it."""

    number: int
    size: int
    etag: str  # Hex MD5 of its bytes.
    time_ms: int
    location: Inline | Chunks
    checksum: Checksum | None = None


@wire("v.span")
@frozen
class Span:
    """A run of an object's bytes, for readers: in order and without gaps."""

    offset: int  # Of its first byte in the object.
    size: int
    location: Inline | Chunks


@wire("v.intent")
@frozen
class Intent:
    """Says that a writer may be making chunks with this id prefix."""

    intent: IntentId
    bucket: BucketId
    key: Key
    expires_ms: int


@wire("v.released")
@frozen
class Released:
    """Chunks that a committed command let go of: provably unowned since `time_ms`."""

    sequence: int  # Per slot.
    time_ms: int
    scheme: str
    chunks: tuple[ChunkRef, ...]


@wire("v.chunk_place")
@frozen
class ChunkPlace:
    """Where a chunk is referred to: a version's manifest or an upload's part."""

    bucket: BucketId
    key: Key
    chunk: ChunkId
    order: int = 0  # Of the version that holds it; 0 where a part row holds it.
    upload: UploadId | None = None
    part_number: int = 0


@wire("v.usage")
@frozen
class Usage:
    """Exact counters."""

    objects: int = 0  # Keys whose current version is not a delete marker.
    versions: int = 0  # All versions, delete markers among them.
    bytes: int = 0  # Sizes of all versions.
    uploads: int = 0
    below_objects: int = 0  # Versions and parts with fewer good fragments than promised.
    below_bytes: int = 0
