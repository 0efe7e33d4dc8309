"""Local rows: what a node keeps of its replicas beside their rows, under FFFE.

    FFFE 01 group u32be                    index u64be, term u64be, cluster time u64be,
                                           running hash of changes 16, and as msgpack
                                           [voters, outgoing, learners]
    FFFE 02 slot u16be                     [generation, group]
    FFFE 03 group, slot, generation        a snapshot is being fed into this
    FFFE 04                                the last generation that was given out
    FFFE 05 table u8, name                 the view's copy of a row of the cluster shard
    FFFE 06                                the version of that copy
    FFFE 07                                which rows there are for each object, u16be: 7.
                                           Of 1 to 6, which had no LISTED, another, a
                                           CHANGE, REQUEST without a period, or other
                                           versions or counters, nothing was released

Each value is sealed with its whole key.
"""

from __future__ import annotations

import struct

import attrs

from objstore.ids import NodeId, Slot
from objstore.meta import payloads
from objstore.meta.rows import HASH_SIZE
from objstore.meta.schema import LOCAL_PREFIX
from objstore.raft.state_machine import Applied, Membership

_GROUP = struct.Struct(">I")
_SLOT = struct.Struct(">H")
_INSTALLING = struct.Struct(">IH4s")
_PROGRESS = struct.Struct(f">QQQ{HASH_SIZE}s")

APPLIED_PREFIX = LOCAL_PREFIX + b"\1"
SLOT_PREFIX = LOCAL_PREFIX + b"\2"
INSTALLING_PREFIX = LOCAL_PREFIX + b"\3"
GENERATION_KEY = LOCAL_PREFIX + b"\4"
VIEW_PREFIX = LOCAL_PREFIX + b"\5"
VIEW_VERSION_KEY = LOCAL_PREFIX + b"\6"
FORMAT_KEY = LOCAL_PREFIX + b"\7"
FORMAT = 7


@attrs.define
class Progress:
    """How far a replica is, and what goes on from there.  Changed by each batch."""

    index: int  # Of the last entry applied.
    term: int  # Of that entry.
    membership: Membership  # In force after it.
    time_ms: int  # Cluster time of the last command.
    chain: bytes  # The running hash of changes.

    @property
    def applied(self) -> Applied:
        return Applied(self.index, self.term, self.membership)


def nothing() -> Progress:
    """Of a replica that has applied nothing."""
    return Progress(0, 0, Membership(()), 0, bytes(HASH_SIZE))


def applied_key(group: int) -> bytes:
    return APPLIED_PREFIX + _GROUP.pack(group)


def group_of_applied(key: bytes) -> int:
    return int(_GROUP.unpack_from(key, len(APPLIED_PREFIX))[0])


def pack_members(members: Membership) -> bytes:
    return payloads.pack((members.voters, members.outgoing, members.learners))


def pack_progress(progress: Progress, members: bytes) -> bytes:
    """members: as `pack_members` packed them, since they hardly ever change."""
    return (
        _PROGRESS.pack(progress.index, progress.term, progress.time_ms, progress.chain)
        + members
    )


def unpack_progress(payload: bytes) -> Progress:
    index, term, time_ms, chain = _PROGRESS.unpack_from(payload)
    voters, outgoing, learners = payloads.unpack(payload[_PROGRESS.size :])[:3]
    membership = Membership(_nodes(voters), _nodes(outgoing), _nodes(learners))
    return Progress(index, term, membership, time_ms, chain)


def _nodes(names: tuple[str, ...]) -> tuple[NodeId, ...]:
    return tuple(NodeId(name) for name in names)


def slot_key(slot: Slot) -> bytes:
    return SLOT_PREFIX + _SLOT.pack(slot)


def slot_of_key(key: bytes) -> Slot:
    return Slot(_SLOT.unpack_from(key, len(SLOT_PREFIX))[0])


def pack_slot(generation: bytes, group: int) -> bytes:
    return payloads.pack((generation, group))


def unpack_slot(payload: bytes) -> tuple[bytes, int]:
    """(generation, group)."""
    generation, group = payloads.unpack(payload)[:2]
    return generation, group


def installing_key(group: int, slot: Slot, generation: bytes) -> bytes:
    return INSTALLING_PREFIX + _INSTALLING.pack(group, slot, generation)


def installing_of_key(key: bytes) -> tuple[int, Slot, bytes]:
    """(group, slot, generation)."""
    group, slot, generation = _INSTALLING.unpack_from(key, len(INSTALLING_PREFIX))
    return group, Slot(slot), generation
