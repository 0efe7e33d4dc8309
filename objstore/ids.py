"""The identifiers, one type each.

| id | form | made by |
|---|---|---|
| ClusterId | 32 lower hex digits | the founding node |
| NodeId | 16 lower hex digits | a node's first start, never reused |
| DriveId | 16 lower hex digits | a drive folder's first start, never reused |
| BucketId | u64: the bucket's *incarnation* | the cluster shard, at creation |
| IntentId | 12 random bytes: the prefix of the chunk ids it covers | the writer |
| ChunkId | 16 bytes: intent id and a u32be counter | the writer |
| FragmentId | chunk id and fragment number, 17 bytes | follows from the chunk |
| VersionId | "null", or 32 lower hex digits | the apply of the command |
| UploadId | 32 lower hex digits | the front door |
| RequestId | 16 random bytes | the proposer of a command |
"""

from __future__ import annotations

import struct
from typing import NewType

from objstore.frozen import frozen

ClusterId = NewType("ClusterId", str)
NodeId = NewType("NodeId", str)
DriveId = NewType("DriveId", str)
BucketId = NewType("BucketId", int)
IntentId = NewType("IntentId", bytes)
ChunkId = NewType("ChunkId", bytes)
VersionId = NewType("VersionId", str)
UploadId = NewType("UploadId", str)
RequestId = NewType("RequestId", bytes)
Key = NewType("Key", bytes)  # An object's key: 1 to 1,024 bytes of UTF-8, opaque.

Epoch = NewType("Epoch", int)  # The number of a ring, ever growing, from 1.
Slot = NewType("Slot", int)  # 0 .. SLOT_COUNT - 1.
# A shard's number is also its Raft group's number. 0 is the cluster shard.
ShardId = NewType("ShardId", int)

CLUSTER_SHARD = ShardId(0)
NULL_VERSION = VersionId("null")

INTENT_ID_SIZE = 12
CHUNK_ID_SIZE = 16
_CHUNK_COUNTER = struct.Struct(">I")
_NODE_ID_DIGITS = 16


@frozen(order=True)
class FragmentId:
    """One of the k + m pieces of a chunk; data fragments first, parity after."""

    chunk: ChunkId
    index: int  # 0 .. 255

    def encode(self) -> bytes:
        return self.chunk + bytes((self.index,))

    @classmethod
    def decode(cls, data: bytes) -> FragmentId:
        assert len(data) == CHUNK_ID_SIZE + 1
        return cls(ChunkId(bytes(data[:CHUNK_ID_SIZE])), data[CHUNK_ID_SIZE])

    def __str__(self) -> str:
        return f"{self.chunk.hex()}.{self.index}"


def chunk_id(intent: IntentId, number: int) -> ChunkId:
    """The id of the `number`-th chunk written under `intent`."""
    assert len(intent) == INTENT_ID_SIZE
    return ChunkId(intent + _CHUNK_COUNTER.pack(number))


def intent_of(chunk: ChunkId) -> IntentId:
    return IntentId(chunk[:INTENT_ID_SIZE])


def is_node_id(text: str) -> bool:
    """Whether `text` has the form of a node id."""
    return len(text) == _NODE_ID_DIGITS and all(c in "0123456789abcdef" for c in text)
