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
    0       1     version, 1
    1       ...   msgpack: [wall clock of the sender in ms, [message ...]]
                  message: [group, type, field ...] with the fields in their order below

Snapshots travel by calls of their own (`snapshot`).  Unknown versions, types, shapes and
trailing bytes raise RemoteProtocolError.  docs/internals/formats/raft-messages.md has the
table.  Source: Ongaro 2014 (Raft dissertation), 3, 6.4 and 9.6; etcd's raft.
"""

from __future__ import annotations

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

VERSION = 1
# msgpack's stubs lack types: named once, with what they are.
_unpackb: Callable[..., Any] = msgpack.unpackb  # type: ignore[attr-defined]
_GROUP_MAX = 2**32 - 1
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
# One letter a field: u(nsigned), b(ool), e(ntries).
_SHAPES = tuple(
    "".join(
        "b" if field.type in (bool, "bool") else "u" if field.type in (int, "int") else "e"
        for field in attrs.fields(cls)
    )
    for cls in _CLASSES
)
_LENGTHS = tuple(len(shape) + 2 for shape in _SHAPES)
_TYPE_MAX = len(_CLASSES) - 1
_TYPES = {cls: number for number, cls in enumerate(_CLASSES)}
_APPEND = _TYPES[Append]


def _writer(cls: type[Any]) -> Callable[[int, Any], tuple[object, ...]]:
    """A function that turns a message of `cls` into its array.

    Made once per class, as every message of every group passes here.
    """
    number = _TYPES[cls]
    if cls is Append:
        return lambda group, message: (
            group,
            _APPEND,
            message.term,
            message.prev_index,
            message.prev_term,
            message.commit,
            [(entry.term, entry.kind, entry.data) for entry in message.entries],
        )
    names = [field.name for field in attrs.fields(cls)]
    if len(names) == 1:
        return lambda group, message: (group, number, message.term)
    fields = attrgetter(*names)
    return lambda group, message: (group, number, *fields(message))


_WRITERS = {cls: _writer(cls) for cls in _CLASSES}


def encode_payload(messages: Iterable[tuple[int, Message]], *, wall_ms: int) -> bytes:
    """Write (group, message) pairs and our wall clock as one payload."""
    body = [_WRITERS[type(message)](group, message) for group, message in messages]
    return _VERSION_BYTE + pack((wall_ms, body))


_VERSION_BYTE = bytes((VERSION,))


@frozen
class Payload:
    wall_ms: int  # The sender's wall clock when it wrote this.
    messages: list[tuple[int, Message]]


def decode_payload(data: bytes) -> Payload:
    """Read a payload.  Raises RemoteProtocolError."""
    if not data or data[0] != VERSION:
        raise RemoteProtocolError(f"raft payload of unknown version {data[:1].hex()}")
    body = unpack(data[1:])
    if type(body) is not list or len(body) != 2 or type(body[1]) is not list:
        raise RemoteProtocolError("raft payload is not [clock, messages]")
    wall_ms, rows = body
    if type(wall_ms) is not int:
        raise RemoteProtocolError("raft payload's clock is no number")
    messages: list[tuple[int, Message]] = []
    for row in rows:
        if type(row) is not list or len(row) < 2:
            raise RemoteProtocolError("raft message is not an array")
        group, number = row[0], row[1]
        if type(group) is not int or not 0 <= group <= _GROUP_MAX:
            raise RemoteProtocolError("raft message has a bad group")
        if type(number) is not int or not 0 <= number <= _TYPE_MAX:
            raise RemoteProtocolError(f"raft message of unknown type {number!r}")
        if len(row) != _LENGTHS[number]:
            raise RemoteProtocolError("raft message with a wrong number of fields")
        messages.append((group, _READERS[number](row)))
    return Payload(wall_ms, messages)


pack = make_pack()


def unpack(data: bytes) -> Any:
    """Read msgpack from a peer.  Raises RemoteProtocolError."""
    try:
        return _unpackb(data)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise RemoteProtocolError(f"raft payload is not msgpack: {error}") from error


def _reader(cls: type[Any], shape: str) -> Callable[[list[Any]], Message]:
    """Compile a function from a message's array, of the right length, to the message.

    Its fields are looked at without a loop, as every message of every group passes here.
    """
    fields = [f"field{position}" for position in range(len(shape))]
    body = [f"    _, _, {', '.join(fields)} = row"]
    for field, letter in zip(fields, shape, strict=True):
        if letter == "u":  # msgpack has none above 64 bits.
            body.append(f"    if type({field}) is not int or {field} < 0:")
            body.append("        raise _Error('raft message with a bad number')")
        elif letter == "b":
            body.append(f"    if type({field}) is not bool:")
            body.append("        raise _Error('raft message with a bad flag')")
        else:
            body.append(f"    {field} = _read_entries({field}, field1 + 1)")
    source = "\n".join(["def read(row):", *body, f"    return _cls({', '.join(fields)})"])
    names: dict[str, Any] = {
        "_cls": cls,
        "_Error": RemoteProtocolError,
        "_read_entries": _read_entries,
    }
    exec(source, names)  # noqa: S102 - our own text.
    return names["read"]  # type: ignore[no-any-return]


def _read_entries(rows: Any, first: int) -> tuple[Entry, ...]:
    if type(rows) is not list:
        raise RemoteProtocolError("raft entries are not an array")
    entries = []
    for index, row in enumerate(rows, first):
        if type(row) is not list or len(row) != 3:
            raise RemoteProtocolError("raft entry is not [term, kind, data]")
        term, number, data = row
        if type(term) is not int or term <= 0:
            raise RemoteProtocolError("raft entry with a bad term")
        kind = _KINDS.get(number) if type(number) is int else None
        if kind is None:
            raise RemoteProtocolError("raft entry with a bad kind")
        if type(data) is not bytes or len(data) > ENTRY_SIZE_MAX:
            raise RemoteProtocolError("raft entry with bad data")
        if kind is MEMBERSHIP:
            decode_membership(data)  # Refused here, and not when it is applied.
        entries.append(Entry(index, term, kind, data))
    return tuple(entries)


_KINDS = {int(kind): kind for kind in EntryKind}
_READERS = [_reader(cls, shape) for cls, shape in zip(_CLASSES, _SHAPES, strict=True)]


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
