"""Gossip's messages, the packets they travel in, and the state exchanged over streams.

A packet:

    offset  size  type     field
    0       1     u8       version, 1
    1       16    bytes    HMAC-SHA256 by the cluster's gossip secret of all that follows,
                           and of the version, cut to 16 bytes
    17      8     bytes    sender: its node id
    25      8     bytes    recipient: its node id
    33      8     u64be    sequence: the sender's start count << 40 | a counter
    41      ...   msgpack  messages, one after the other

The recipient refuses what is not for it, and each sequence of a sender but once
(`ReplayWindow`): a captured packet is of no use later, elsewhere or twice (F31, F33).
Whoever lacks the secret is dropped without an answer.

| message | msgpack array |
|---|---|
| Ping | [1, probe] |
| Ack | [2, probe] |
| PingRequest | [3, probe, target, host, port] |
| Nack | [4, probe] |
| Alive | [5, node, incarnation, meta version, host, port, boot id, meta] |
| Suspect | [6, node, incarnation, accuser] |
| Dead | [7, node, incarnation, accuser] |
| Left | [8, node, incarnation] |

A reader ignores items that follow those it knows, and messages of unknown kinds.

State exchanged over a stream (mutual TLS guards it): the msgpack array
[1, kind, sender, states], with kind 1 for an exchange of state, where each state is
[state, age_ms, node, incarnation, meta version, host, port, boot id, meta], and kind 2 for
a probe, whose states are empty.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import msgpack

from objstore.buffer import Buffer
from objstore.errors import RemoteProtocolError
from objstore.gossip.members import META_SIZE_MAX, Member, State
from objstore.host.network import Address
from objstore.ids import NodeId
from objstore.limits import PACKET_SIZE_MAX
from objstore.packing import make_pack

# msgpack's stubs lack types: named once, with what they are.
_unpackb: Callable[..., Any] = msgpack.unpackb  # type: ignore[attr-defined]
_unpacker: Callable[..., Any] = msgpack.Unpacker  # type: ignore[attr-defined]

_packb = make_pack()

_VERSION = 1
_MAC_SIZE = 16
_HEAD = struct.Struct(">8s8sQ")
OVERHEAD = 1 + _MAC_SIZE + _HEAD.size
assert OVERHEAD == 41
SECRET_SIZE_MIN = 16

_ID_SIZE = 8  # Of a node id, packed.
_COUNTER_BITS = 40
_HOST_SIZE_MAX = 255
_BOOT_ID_SIZE_MAX = 16
_INCARNATION_MAX = 2**63
_EXCHANGE, _PROBE = 1, 2


@attrs.frozen
class Ping:
    probe: int  # 32 bits, chosen by the prober.


@attrs.frozen
class Ack:
    probe: int


@attrs.frozen
class PingRequest:
    """Ping `target` for me, and tell me of its ack; nack if there is none."""

    probe: int
    target: NodeId
    address: Address


@attrs.frozen
class Nack:
    probe: int


@attrs.frozen
class Alive:
    node: NodeId
    incarnation: int
    meta_version: int
    address: Address
    boot_id: bytes
    meta: bytes  # Packed.


@attrs.frozen
class Suspect:
    node: NodeId
    incarnation: int
    accuser: NodeId


@attrs.frozen
class Dead:
    node: NodeId
    incarnation: int
    accuser: NodeId


@attrs.frozen
class Left:
    node: NodeId
    incarnation: int


Message = Ping | Ack | PingRequest | Nack | Alive | Suspect | Dead | Left


@attrs.frozen
class Packet:
    """A packet whose authenticator was right."""

    sender: NodeId
    recipient: NodeId
    sequence: int
    messages: tuple[Message, ...]


@attrs.frozen
class RemoteState:
    """A member as a peer knows it."""

    state: State
    age_ms: int  # Since it is in that state, as far as the peer knows.
    alive: Alive


@attrs.frozen
class Exchange:
    """One side of an exchange over a stream."""

    sender: NodeId
    is_probe: bool
    states: tuple[RemoteState, ...] = ()


def sequence_of(start_count: int, counter: int) -> int:
    return start_count << _COUNTER_BITS | counter


# Messages.


def encode_message(message: Message) -> bytes:
    match message:
        case Ping(probe):
            return _packb((1, probe))
        case Ack(probe):
            return _packb((2, probe))
        case PingRequest(probe, target, address):
            return _packb((3, probe, _pack_id(target), address.host, address.port))
        case Nack(probe):
            return _packb((4, probe))
        case Alive():
            return _packb((5, *_alive_items(message)))
        case Suspect(node, incarnation, accuser):
            return _packb((6, _pack_id(node), incarnation, _pack_id(accuser)))
        case Dead(node, incarnation, accuser):
            return _packb((7, _pack_id(node), incarnation, _pack_id(accuser)))
        case Left(node, incarnation):
            return _packb((8, _pack_id(node), incarnation))


def _alive_items(alive: Alive) -> tuple[object, ...]:
    return (
        _pack_id(alive.node),
        alive.incarnation,
        alive.meta_version,
        alive.address.host,
        alive.address.port,
        alive.boot_id,
        alive.meta,
    )


def _decode_message(raw: Any) -> Message | None:
    """None for a kind that this build does not know."""
    match raw:
        case (1, int(probe), *_):
            return Ping(probe)
        case (2, int(probe), *_):
            return Ack(probe)
        case (3, int(probe), bytes(target), str(host), int(port), *_):
            return PingRequest(probe, _id_of(target), _address_of(host, port))
        case (4, int(probe), *_):
            return Nack(probe)
        case (5, *items):
            return _alive_of(items)
        case (6, bytes(node), int(incarnation), bytes(accuser), *_):
            return Suspect(_id_of(node), _count(incarnation), _id_of(accuser))
        case (7, bytes(node), int(incarnation), bytes(accuser), *_):
            return Dead(_id_of(node), _count(incarnation), _id_of(accuser))
        case (8, bytes(node), int(incarnation), *_):
            return Left(_id_of(node), _count(incarnation))
        case (int(kind), *_) if kind > 8:
            return None
    raise RemoteProtocolError("a message of no known form")


def _alive_of(items: Any) -> Alive:
    match items:
        case (
            bytes(node),
            int(incarnation),
            int(meta_version),
            str(host),
            int(port),
            bytes(boot_id),
            bytes(meta),
            *_,
        ):
            if len(boot_id) > _BOOT_ID_SIZE_MAX or len(meta) > META_SIZE_MAX:
                raise RemoteProtocolError("boot id or meta too long")
            unpack_meta(meta)  # Refused here, not where it is used.
            return Alive(
                _id_of(node),
                _count(incarnation),
                _count(meta_version),
                _address_of(host, port),
                boot_id,
                meta,
            )
    raise RemoteProtocolError("a member of no known form")


def _pack_id(node: NodeId) -> bytes:
    return bytes.fromhex(node)


def _id_of(raw: bytes) -> NodeId:
    if len(raw) != _ID_SIZE:
        raise RemoteProtocolError("not a node id")
    return NodeId(raw.hex())


def _count(number: int) -> int:
    if not 0 <= number < _INCARNATION_MAX:
        raise RemoteProtocolError("a count out of range")
    return number


def _address_of(host: str, port: int) -> Address:
    if not host or len(host) > _HOST_SIZE_MAX or not 0 < port < 65_536:
        raise RemoteProtocolError("not an address")
    return Address(host, port)


# Meta.


def pack_meta(meta: Mapping[str, object]) -> bytes:
    """Raises ValueError where it is longer than META_SIZE_MAX, TypeError for odd values."""
    packed = _packb({key: meta[key] for key in sorted(meta)})
    if len(packed) > META_SIZE_MAX:
        raise ValueError(f"meta of {len(packed)} bytes; {META_SIZE_MAX} are allowed")
    return packed


def unpack_meta(packed: bytes) -> dict[str, object]:
    meta = _unpack(packed)
    if type(meta) is not dict or not all(type(key) is str for key in meta):
        raise RemoteProtocolError("meta is not a map of strings")
    return meta


# Packets.


class Sealer:
    """Packs and opens packets under the cluster's gossip secret."""

    def __init__(self, secret: bytes, node: NodeId) -> None:
        assert len(secret) >= SECRET_SIZE_MIN
        self._secret = secret
        self._node = node
        self._sender = _pack_id(node)

    def seal(self, recipient: NodeId, sequence: int, messages: Iterable[bytes]) -> bytes:
        body = _HEAD.pack(self._sender, _pack_id(recipient), sequence) + b"".join(messages)
        packet = bytes((_VERSION,)) + self._mac(_VERSION, body) + body
        assert len(packet) <= PACKET_SIZE_MAX
        return packet

    def open(self, data: bytes) -> Packet | None:
        """The packet, or None where it is not authentic or not for this node.

        Raises RemoteProtocolError where an authentic one makes no sense.
        """
        if not OVERHEAD <= len(data) <= PACKET_SIZE_MAX or data[0] != _VERSION:
            return None
        body = data[1 + _MAC_SIZE :]
        mac = self._mac(data[0], body)
        if not hmac.compare_digest(mac, data[1 : 1 + _MAC_SIZE]):
            return None
        sender, recipient, sequence = _HEAD.unpack_from(body)
        if recipient != self._sender or sender == self._sender:
            return None
        unpacker = _unpacker(
            use_list=False, strict_map_key=True, max_buffer_size=PACKET_SIZE_MAX
        )
        unpacker.feed(body[_HEAD.size :])
        messages = [_decode_message(raw) for raw in _items(unpacker)]
        known = tuple(message for message in messages if message is not None)
        return Packet(NodeId(sender.hex()), self._node, sequence, known)

    def _mac(self, version: int, body: bytes) -> bytes:
        signed = bytes((version,)) + body
        return hmac.digest(self._secret, signed, hashlib.sha256)[:_MAC_SIZE]


def _items(unpacker: Any) -> Iterable[Any]:
    try:
        yield from unpacker
        if unpacker.tell() == 0:
            raise RemoteProtocolError("a packet without a message")
    except (ValueError, TypeError, RecursionError) as problem:
        raise RemoteProtocolError(f"not msgpack: {problem}") from problem


class ReplayWindow:
    """Which sequences of one sender were seen: each is accepted once, old ones never."""

    SIZE = 1024  # A packet overtaken by so many others is lost anyway.
    _MASK = (1 << SIZE) - 1

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0  # Bit i: highest - i was seen.

    def accept(self, sequence: int) -> bool:
        """Whether it is new; if so it is not new any more."""
        ahead = sequence - self._highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, self.SIZE) | 1) & self._MASK
            self._highest = sequence
            return True
        if -ahead >= self.SIZE or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


# State over a stream.


def alive_of(member: Member) -> Alive:
    """The message that says of `member` what we know."""
    return Alive(
        member.node,
        member.incarnation,
        member.meta_version,
        member.address,
        member.boot_id,
        member.packed_meta,
    )


def encode_exchange(sender: NodeId, members: Iterable[Member], now_ms: int) -> bytes:
    states = [
        (
            member.state.value,
            max(0, now_ms - member.since_ms),
            *_alive_items(alive_of(member)),
        )
        for member in members
    ]
    return _packb((1, _EXCHANGE, _pack_id(sender), states))


def encode_probe(sender: NodeId) -> bytes:
    return _packb((1, _PROBE, _pack_id(sender), ()))


def decode_exchange(data: Buffer) -> Exchange:
    """Raises RemoteProtocolError."""
    match _unpack(data):
        case (1, int(kind), bytes(sender), tuple(states), *_) if kind in {1, 2}:
            found = tuple(_state_of(raw) for raw in states)
            return Exchange(_id_of(sender), kind == _PROBE, found)
    raise RemoteProtocolError("an exchange of no known form")


_STATES = {state.value: state for state in State}


def _state_of(raw: Any) -> RemoteState:
    match raw:
        case (int(state), int(age_ms), *items) if state in _STATES:
            return RemoteState(_STATES[state], _count(age_ms), _alive_of(items))
    raise RemoteProtocolError("a state of no known form")


def _unpack(data: Buffer) -> Any:
    try:
        return _unpackb(data, use_list=False, strict_map_key=True)
    except (ValueError, TypeError, RecursionError) as problem:
        raise RemoteProtocolError(f"not msgpack: {problem}") from problem
