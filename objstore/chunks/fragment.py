"""Fragments as values: whose they are, how they are cut, and what a store says of one."""

from __future__ import annotations

import attrs

from objstore.errors import NotFound
from objstore.ids import BucketId, DriveId, FragmentId, Key, Slot, UploadId


@attrs.frozen
class FragmentOwner:
    """The one row that a fragment's chunk belongs to: kept in the fragment's header.

    A collector asks the shard of `slot` whether the chunk is still wanted
    (`meta.queries.IsWanted`); nothing else may call a fragment unowned.
    """

    bucket: BucketId
    slot: Slot
    key: Key
    upload: UploadId | None = None


@attrs.frozen
class FragmentHeader:
    """What a writer says before the first block."""

    fragment: FragmentId
    owner: FragmentOwner
    scheme: str  # "replicate:3"
    payload_size: int  # Exact bytes of this fragment, known beforehand.
    block_size: int  # Bytes of payload a checksum covers; the last block is shorter.
    created_ms: int


@attrs.frozen
class FragmentStat:
    """What a store knows of a fragment without reading its payload."""

    header: FragmentHeader
    drive: DriveId


@attrs.frozen
class Block:
    """A verified piece of a fragment's payload."""

    offset: int  # In the fragment.
    data: bytes | memoryview = attrs.field(repr=False)
    crc32c: int


class NoSuchFragment(NotFound):
    """This node has no such fragment (or has it only half written)."""
