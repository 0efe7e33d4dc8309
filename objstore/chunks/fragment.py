"""Fragments as values: whose they are, how they are cut, and what a store says of one."""

from __future__ import annotations

import attrs

from objstore.errors import CorruptData, NotFound, Unavailable
from objstore.frozen import frozen
from objstore.ids import BucketId, DriveId, FragmentId, Key, Slot, UploadId
from objstore.rpc.codec import wire, wire_error


@wire("chunks.owner")
@frozen
class FragmentOwner:
    """The one row that a fragment's chunk belongs to: kept in the fragment's header.

    A collector asks the shard of `slot` whether the chunk is still wanted
    (`meta.queries.IsWanted`); nothing else may call a fragment unowned.
    """

    bucket: BucketId
    slot: Slot
    key: Key
    upload: UploadId | None = None


@wire("chunks.header")
@frozen
class FragmentHeader:
    """What a writer says before the first block."""

    fragment: FragmentId
    owner: FragmentOwner
    scheme: str  # "replicate:3"
    # Exact bytes of this fragment, known beforehand.
    payload_size: int = attrs.field(validator=attrs.validators.ge(0))
    # Bytes of payload that are written at once; the last block may be shorter.
    block_size: int = attrs.field(validator=attrs.validators.gt(0))
    created_ms: int

    @property
    def block_count(self) -> int:
        return -(-self.payload_size // self.block_size)

    def size_of_block(self, number: int) -> int:
        """Bytes of block `number`, which must exist."""
        assert 0 <= number < self.block_count
        return min(self.block_size, self.payload_size - number * self.block_size)


@wire("chunks.record")
@frozen
class RecordRef:
    """One record of a store: where it lies, which no other record ever will."""

    drive: DriveId
    segment: int
    place: int  # Offset in the segment.


@wire("chunks.stat")
@frozen
class FragmentStat:
    """What a store knows of a fragment without reading its payload."""

    header: FragmentHeader
    drive: DriveId


@frozen
class Block:
    """A verified piece of a fragment's payload."""

    offset: int  # In the fragment.
    data: bytes | memoryview = attrs.field(repr=False)
    crc32c: int | None = None  # Of `data`, where it came with one.


@wire_error("chunks.no_such_fragment")
class NoSuchFragment(NotFound):
    """This node has no such fragment (or has it only half written)."""


@wire_error("chunks.corrupt_fragment")
class CorruptFragment(CorruptData):
    """A fragment's stored bytes are damaged: it is quarantined, use another copy."""


@wire_error("chunks.drive_fenced")
class DriveFenced(Unavailable):
    """The drive that has (or was to get) the fragment is fenced after an I/O error."""


@wire_error("chunks.no_such_session")
class NoSuchSession(Unavailable):
    """The receiver knows no such write: it was idle for too long, or the node restarted."""
