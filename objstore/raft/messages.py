"""What the replicas of a group say to each other, and how a payload of it is written.

    candidate --- Vote(pre=True) ---> VoteReply     would you vote for me?
    candidate --- Vote -------------> VoteReply     then do
    leader ------ Append -----------> AppendReply   entries, and how far they are committed
    leader ------ Heartbeat --------> HeartbeatReply  I lead; rounds, quiescence, mending
    leader ------ TimeoutNow                        campaign at once (leadership transfer)
    leader ------ Gone                              you are no member any more
    replica ----- Wake                              I hear nobody: is there a leader?
    follower ---- ReadAsk ----------> ReadAnswer    how far must I have applied to be read?

All that one node has for another after one pass of its driver goes into one *payload*:

    offset  size  field
    0       1     version, 2
    1       8     int64le  wall clock of the sender in ms
    9       ...   messages in a row

    offset  size  field of a message
    0       4     uint32le  group
    4       1     type
    5       ...   its fields in their order below: numbers uint64le, flags a byte, 0 or not

    An Append ends in the number of its entries, uint32le, and they follow, each with its
    term, uint64le, kind, a byte, size of its data, uint32le, and the data.

Snapshots travel by calls of their own (`snapshot`).  Unknown versions and types, and what
ends in the midst of a message, raise RemoteProtocolError.  The table of all types is in
docs/internals/formats/raft-messages.md.  Source: Ongaro 2014 (Raft dissertation), 3, 6.4
and 9.6; etcd's raft.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from itertools import pairwise
from operator import attrgetter
from typing import Any

import attrs
import msgpack

from objstore.errors import RemoteProtocolError
from objstore.frozen import frozen
from objstore.ids import NodeId, is_node_id
from objstore.limits import ENTRY_SIZE_MAX
from objstore.packing import make_pack
from objstore.raft.state_machine import MEMBERSHIP, Entry, EntryKind, Membership

VERSION = 2  # 1 was msgpack.
# msgpack's stubs lack types: named once, with what they are.
_unpackb: Callable[..., Any] = msgpack.unpackb  # type: ignore[attr-defined]
_MEMBERS_MAX = 64  # Voters are at most five; learners and leavers come and go.


@frozen
class Vote:
    """Asks for a vote, or with `pre` whether one would be given."""

    term: int  # The candidate's; with `pre` the one it would campaign in.
    last_index: int
    last_term: int
    pre: bool
    transfer: bool  # The leader itself asked for this: it overrides the leader's lease.


@frozen
class VoteReply:
    term: int  # Of the request where granted, of the answerer where not.
    pre: bool
    granted: bool
    # A committed entry that the asker may have: without it, who left a group for good could
    # be the only one to know that, and be waited for in vain.  0, 0: nothing to tell.
    commit: int
    commit_term: int


@frozen
class Append:
    """Entries that follow (prev_index, prev_term)."""

    term: int
    prev_index: int
    prev_term: int
    commit: int
    entries: tuple[Entry, ...]


@frozen
class AppendReply:
    """`accepted`: the log agrees with the leader's, durably, up to `index`.

    Else the append at `index` (its prev_index) did not fit, and `hint_index` with
    `hint_term` is the highest place where the logs might agree.
    """

    term: int
    accepted: bool
    index: int
    hint_index: int
    hint_term: int
    commit: int  # How far the follower knows entries to be committed.
    damage: int  # A Damage; the leader tells how far to catch up before voting again.


@frozen
class Heartbeat:
    term: int
    round: int  # Ever growing within a term; acknowledges reads that came before it.
    commit: int  # Never more than the follower is known to have.
    last_index: int  # The leader's.
    quiesce: bool  # Fall silent if you have all of this.
    mend: int  # 0, or: having the leader's log up to here, you are whole again.
    lost: bool  # You have acknowledged more than you have: you are damaged.


@frozen
class HeartbeatReply:
    term: int
    round: int
    last_index: int
    commit: int
    quiescent: bool
    damage: int


@frozen
class TimeoutNow:
    term: int


@frozen
class Gone:
    """The receiver is no member as of the sender's applied membership."""

    term: int
    last_index: int  # The leader's: a replica that has more was added again.


@frozen
class Wake:
    """A replica that may not campaign has heard nobody for an election timeout."""

    term: int


@frozen
class ReadAsk:
    """A follower wants to be read; by asking it vouches for the receiver's term."""

    term: int
    number: int  # Never used twice by one follower, in whatever life of its process.


@frozen
class ReadAnswer:
    """What is applied up to `index` shows all that was acknowledged before the ask."""

    term: int
    number: int
    index: int


Message = (
    Vote
    | VoteReply
    | Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | TimeoutNow
    | Gone
    | Wake
    | ReadAsk
    | ReadAnswer
)

_CLASSES: tuple[type[Any], ...] = (
    Vote,
    VoteReply,
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    TimeoutNow,
    Gone,
    Wake,
    ReadAsk,
    ReadAnswer,
)
_TYPES = {cls: number for number, cls in enumerate(_CLASSES)}
_PAYLOAD = struct.Struct("<Bq")
_ENTRY = struct.Struct("<QBI")


def _form(cls: type[Any]) -> struct.Struct:
    """How a message of `cls` is written, from its group on to its entries' number."""
    letters = {"int": "Q", "bool": "?"}
    fields = [letters.get(str(field.type), "I") for field in attrs.fields(cls)]
    return struct.Struct("<IB" + "".join(fields))


_FORMS = [_form(cls) for cls in _CLASSES]
_APPEND = _FORMS[_TYPES[Append]]


def _writer(cls: type[Any]) -> Callable[[int, Any], bytes]:
    """A function that writes a message of `cls`, without the entries of an Append.

    Made once per class, as every message of every group passes here.
    """
    number, write = _TYPES[cls], _FORMS[_TYPES[cls]].pack
    names = [field.name for field in attrs.fields(cls)]
    if cls is Append:
        return lambda group, message: write(
            group,
            number,
            message.term,
            message.prev_index,
            message.prev_term,
            message.commit,
            len(message.entries),
        )
    if len(names) == 1:
        return lambda group, message: write(group, number, message.term)
    fields = attrgetter(*names)
    return lambda group, message: write(group, number, *fields(message))


_WRITERS = {cls: _writer(cls) for cls in _CLASSES}
_READERS = [
    (cls, form.unpack_from, form.size) for cls, form in zip(_CLASSES, _FORMS, strict=True)
]


def encode_payload(messages: Iterable[tuple[int, Message]], *, wall_ms: int) -> bytes:
    """Write (group, message) pairs and our wall clock as one payload."""
    parts = [_PAYLOAD.pack(VERSION, wall_ms)]
    for group, message in messages:
        parts.append(_WRITERS[type(message)](group, message))
        if type(message) is Append:
            for entry in message.entries:
                parts += (_ENTRY.pack(entry.term, entry.kind, len(entry.data)), entry.data)
    return b"".join(parts)


@frozen
class Payload:
    wall_ms: int  # The sender's wall clock when it wrote this.
    messages: list[tuple[int, Message]]


def decode_payload(data: bytes) -> Payload:
    """Read a payload.  Raises RemoteProtocolError."""
    messages: list[tuple[int, Message]] = []
    try:
        version, wall_ms = _PAYLOAD.unpack_from(data)
        if version != VERSION:
            raise RemoteProtocolError(f"raft payload of unknown version {version}")
        offset, end = _PAYLOAD.size, len(data)
        while offset < end:
            cls, read, size = _READERS[data[offset + 4]]
            fields = read(data, offset)
            offset += size
            if cls is Append:
                message, offset = _read_append(fields, data, offset)
                messages.append((fields[0], message))
            else:
                messages.append((fields[0], cls(*fields[2:])))
    except struct.error as error:
        raise RemoteProtocolError("raft payload that is cut off") from error
    except IndexError as error:
        raise RemoteProtocolError("raft message of unknown type, or cut off") from error
    return Payload(wall_ms, messages)


def _read_append(fields: tuple[int, ...], data: bytes, offset: int) -> tuple[Append, int]:
    """The message, and where the next begins."""
    _, _, term, prev_index, prev_term, commit, count = fields
    entries = []
    for index in range(prev_index + 1, prev_index + 1 + count):
        entry_term, number, size = _ENTRY.unpack_from(data, offset)
        start = offset + _ENTRY.size
        offset = start + size
        kind = _KINDS.get(number)
        if kind is None or not entry_term:
            raise RemoteProtocolError("raft entry with a bad term or kind")
        if size > ENTRY_SIZE_MAX or offset > len(data):
            raise RemoteProtocolError("raft entry with too much data, or cut off")
        content = data[start:offset]
        if kind is MEMBERSHIP:
            decode_membership(content)  # Refused here, and not when it is applied.
        entries.append(Entry(index, entry_term, kind, content))
    return Append(term, prev_index, prev_term, commit, tuple(entries)), offset


_KINDS = {int(kind): kind for kind in EntryKind}


pack = make_pack()


def unpack(data: bytes) -> Any:
    """Read msgpack from a peer.  Raises RemoteProtocolError."""
    try:
        return _unpackb(data)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise RemoteProtocolError(f"raft payload is not msgpack: {error}") from error


def encode_membership(membership: Membership) -> bytes:
    """Write the data of a MEMBERSHIP entry: msgpack [1, voters, outgoing, learners]."""
    return pack((1, membership.voters, membership.outgoing, membership.learners))


def decode_membership(data: bytes) -> Membership:
    """Read it.  Raises RemoteProtocolError."""
    row = unpack(data)
    if type(row) is not list or len(row) != 4 or row[0] != 1:
        raise RemoteProtocolError("membership of an unknown version")
    voters, outgoing, learners = (_read_nodes(names) for names in row[1:])
    if not voters:
        raise RemoteProtocolError("membership without voters")
    return Membership(voters, outgoing, learners)


def _read_nodes(names: Any) -> tuple[NodeId, ...]:
    if type(names) is not list or len(names) > _MEMBERS_MAX:
        raise RemoteProtocolError("membership is not made of arrays")
    if not all(type(name) is str and is_node_id(name) for name in names):
        raise RemoteProtocolError("membership names something that is no node")
    if any(first >= second for first, second in pairwise(names)):
        raise RemoteProtocolError("membership is not sorted")
    return tuple(NodeId(name) for name in names)
