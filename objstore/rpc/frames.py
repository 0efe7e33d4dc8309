"""Frames: how calls lie in a stream between two nodes.

    offset  size  type      field
    0       1     u8        version, 1
    1       1     u8        kind
    2       2     u16be     flags
    4       4     u32be     header size, at most FRAME_HEADER_SIZE_MAX
    8       4     u32be     payload size; the whole frame is at most FRAME_SIZE_MAX
    12      8     u64be     call number, chosen by the caller; 0 where it means nothing
    20      ...   msgpack   header: an array, by kind
    ...     ...   bytes     payload: raw

| kind | header | call number |
|---|---|---|
| 1 REQUEST | [method, timeout_ms, value] | of the call |
| 2 RESPONSE | [value] | of the call |
| 3 ERROR | [error] | of the call; 0: the connection is refused |
| 4 CAST | [method, value] | 0 |
| 5 CANCEL | empty | of the call |
| 6 PING | empty; flag ANSWER on the way back | echoed |
| 7 HELLO | [protocol, cluster, node, boot id, nil] | 0 |

The last item of a header is the value (see `codec`).  Where it would make the header too
long, flag LONG is set: the item is then the value's size, and its bytes head the payload.

This module packs and unpacks; it opens nothing and waits for nothing.  A payload that
arrived whole in one read is a view of that read: no copy.  A large one that did not is
received in its own place: in a buffer that begins at a page, as drives want it.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from typing import Any

from objstore.buffer import Buffer
from objstore.errors import LocalProtocolError, RemoteProtocolError
from objstore.frozen import frozen
from objstore.host.buffers import POOL
from objstore.limits import FRAME_HEADER_SIZE_MAX, FRAME_SIZE_MAX
from objstore.rpc import codec
from objstore.sums import Summing, Sums
from objstore.units import KiB

VERSION = 1
ANSWER = 1  # Flag of a PING: this is the answer.
LONG = 2  # Flag: the value is at the head of the payload.
_FLAGS_KNOWN = ANSWER | LONG  # All below it are known too.
_PREFIX = struct.Struct(">BBHIIQ")
PREFIX_SIZE = 20
assert _PREFIX.size == PREFIX_SIZE

# Smaller payloads are copied out of the read that brought them, so that a short one that
# is kept does not keep 64 KiB alive.
_VIEW_SIZE_MIN = 4096
# Payloads from here on get a buffer of their own when they come in several reads.
_PLACE_SIZE_MIN = 128 * KiB


class Kind(IntEnum):
    """What a frame is."""

    REQUEST = 1
    RESPONSE = 2
    ERROR = 3
    CAST = 4
    CANCEL = 5
    PING = 6
    HELLO = 7


# By names of their own: to find one in its enumeration is a call of Python.
REQUEST, RESPONSE, ERROR = Kind.REQUEST, Kind.RESPONSE, Kind.ERROR
CAST, CANCEL, PING = Kind.CAST, Kind.CANCEL, Kind.PING

_KINDS = {int(kind): kind for kind in Kind}
_EMPTY = memoryview(b"")


@frozen
class Frame:
    """One frame as it arrived; `open_frame` reads its header."""

    kind: Kind
    flags: int
    call: int
    header: bytes
    payload: memoryview
    sums: Sums | None = None  # Of a payload that came in its own place.


def encode_frame(
    kind: Kind,
    *,
    call: int = 0,
    parts: tuple[object, ...] = (),
    value: object = None,
    payload: Buffer = b"",
) -> list[Buffer]:
    """Pack a frame with a header, as buffers to be sent in this order.

    `payload` is not copied: it must not change until it was sent.  Raises
    LocalProtocolError if the frame would be too large, TypeError for a value that is not
    registered with the codec.
    """
    start = _array_of(len(parts) + 1) + b"".join(map(codec.encode, parts))
    return _encode(kind, call, start, value, payload)


def encode_request(
    call: int, method: str, timeout_ms: int, value: object, payload: Buffer
) -> list[Buffer]:
    """Pack a REQUEST, as `encode_frame` does."""
    return _encode(REQUEST, call, _request_start(method, timeout_ms), value, payload)


def encode_response(call: int, value: object, payload: Buffer) -> list[Buffer]:
    """Pack a RESPONSE, as `encode_frame` does."""
    return _encode(RESPONSE, call, _RESPONSE_START, value, payload)


def _array_of(count: int) -> bytes:
    """How a msgpack array of so few items begins."""
    assert count < 16
    return bytes((0x90 | count,))


_RESPONSE_START = _array_of(1)


@lru_cache(maxsize=256)
def _request_start(method: str, timeout_ms: int) -> bytes:
    """The header of a REQUEST up to its value: most calls of a method give as much time."""
    return _array_of(3) + codec.encode(method) + codec.encode(timeout_ms)


def _encode(
    kind: Kind, call: int, start: bytes, value: object, payload: Buffer
) -> list[Buffer]:
    """start: the header up to its value."""
    flags = 0
    body = b""
    if isinstance(payload, memoryview) and payload.itemsize != 1:
        payload = payload.cast("B")
    header = start + codec.encode(value)
    if len(header) > FRAME_HEADER_SIZE_MAX:
        flags = LONG
        body = header[len(start) :]
        header = start + codec.encode(len(body))
    payload_size = len(body) + len(payload)
    if (
        PREFIX_SIZE + len(header) + payload_size > FRAME_SIZE_MAX
        or len(header) > FRAME_HEADER_SIZE_MAX
    ):
        raise LocalProtocolError(
            f"frame too large: header {len(header)}, payload {payload_size}"
        )
    head = _PREFIX.pack(VERSION, kind, flags, len(header), payload_size, call) + header
    buffers: list[Buffer] = [head + body if body else head]
    if payload_size > len(body):
        buffers.append(payload)
    return buffers


def encode_cast(method: str, value: object, payload: Buffer) -> list[Buffer]:
    """Pack a CAST, as `encode_frame` does; cheaper where there is no value."""
    if value is not None or len(payload) > _CAST_SIZE_MAX:
        return encode_frame(CAST, parts=(method,), value=value, payload=payload)
    header = cast_header(method)
    size = len(payload)
    head = _PREFIX.pack(VERSION, CAST, 0, len(header), size, 0) + header
    return [head, payload] if size else [head]


@lru_cache(maxsize=64)
def cast_header(method: str) -> bytes:
    """The header of a CAST without a value: always these bytes."""
    return codec.pack_parts(method, None)


_CAST_SIZE_MAX = FRAME_SIZE_MAX - FRAME_HEADER_SIZE_MAX - PREFIX_SIZE


def encode_bare(kind: Kind, *, call: int = 0, flags: int = 0) -> bytes:
    """Pack a frame that has no header: CANCEL or PING."""
    return _PREFIX.pack(VERSION, kind, flags, 0, 0, call)


def open_frame(frame: Frame, parts_count: int) -> tuple[tuple[Any, ...], Any, memoryview]:
    """The `parts_count` leading items, the raw value (for `codec.value_of`), the payload.

    Raises RemoteProtocolError.
    """
    try:
        items = codec.unpack_parts(frame.header)
    except codec.CorruptValue as problem:
        raise RemoteProtocolError(f"header: {problem}") from problem
    if len(items) <= parts_count:
        raise RemoteProtocolError(f"a header of {len(items)} items")
    value, payload = items[parts_count], frame.payload
    if frame.flags & LONG:
        if type(value) is not int or not 0 <= value <= len(payload):
            raise RemoteProtocolError("a long value of no possible size")
        value, payload = _unpack_raw(payload[:value]), payload[value:]
    return items[:parts_count], value, payload


def _unpack_raw(data: memoryview) -> Any:
    try:
        return codec.unpack_raw(data)
    except codec.CorruptValue as problem:
        raise RemoteProtocolError(f"value: {problem}") from problem


class FrameReader:
    """Cuts a stream into frames.  After RemoteProtocolError the stream is lost."""

    def __init__(self, *, size_max: int = FRAME_SIZE_MAX) -> None:
        self._size_max = size_max
        self._parts: list[Buffer] = []  # The frame that is arriving.
        self._size = 0  # Invariant: the sum of the lengths of _parts.
        self._needed = PREFIX_SIZE  # Bytes that _parts must have before a look pays.
        # Of a large payload that is arriving: its frame, its place, and what is missing.
        self._placed: Frame | None = None
        self._place = _EMPTY
        self._summing: Summing | None = None  # Of what is in that place.
        self.room: memoryview | None = None

    @property
    def buffered_size(self) -> int:
        """Bytes held of a frame that is not complete."""
        return self._size + len(self._place) - len(self.room or _EMPTY)

    def filled(self, size: int) -> list[Frame]:
        """The frame that is complete now that `size` more bytes are in `room`.

        room: where the next bytes of the stream go.  Where it is not None they must be
            put there, and told here; else they are for `feed`.
        """
        assert self.room is not None
        assert self._placed is not None
        if self._summing is not None:
            self._summing.add(size)
        if size < len(self.room):
            self.room = self.room[size:]
            return []
        frame = self._placed
        whole = Frame(
            frame.kind,
            frame.flags,
            frame.call,
            frame.header,
            self._place.toreadonly(),
            None if self._summing is None else self._summing.end(),
        )
        self._placed, self._place, self.room = None, _EMPTY, None
        self._summing = None
        return [whole]

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes.

        Raises RemoteProtocolError for sizes beyond the limits, before they are buffered.
        """
        if self._parts:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return []
            data = b"".join(self._parts)
            self._parts = []
            self._size = 0
        frames: list[Frame] = []
        offset, end = 0, len(data)
        unpack, kinds, size_max = _PREFIX.unpack_from, _KINDS, self._size_max
        self._needed = PREFIX_SIZE
        while end - offset >= PREFIX_SIZE:
            version, kind, flags, header_size, payload_size, call = unpack(data, offset)
            start = offset + PREFIX_SIZE
            middle = start + header_size
            size = PREFIX_SIZE + header_size + payload_size
            if (
                version != VERSION
                or kind not in kinds
                or flags > _FLAGS_KNOWN
                or header_size > FRAME_HEADER_SIZE_MAX
                or size > size_max
            ):
                raise _refusal(version, kind, flags, header_size, payload_size)
            if end - offset < size:
                self._needed = size
                break
            offset += size
            if not payload_size:
                payload = _EMPTY
            elif payload_size < _VIEW_SIZE_MIN:
                payload = memoryview(data[middle:offset])
            else:
                payload = memoryview(data)[middle:offset]
            frames.append(Frame(kinds[kind], flags, call, data[start:middle], payload))
        if offset < end:
            if data[offset] != VERSION:  # Before more of it is waited for.
                raise RemoteProtocolError(f"frame version {data[offset]}")
            begun = memoryview(data)[offset:]
            if self._needed == PREFIX_SIZE or not self._make_place(begun):
                self._parts = [begun]
                self._size = end - offset
        return frames

    def _make_place(self, begun: memoryview) -> bool:
        """Give the payload of a frame that has begun a place, where that pays."""
        _, kind, flags, header_size, size, call = _PREFIX.unpack_from(begun)
        start = PREFIX_SIZE + header_size
        if size < _PLACE_SIZE_MIN or len(begun) < start:
            return False
        header = bytes(begun[PREFIX_SIZE:start])
        self._placed = Frame(_KINDS[kind], flags, call, header, _EMPTY)
        self._place = POOL.take(size)
        come = len(begun) - start
        self._place[:come] = begun[start:]
        if not flags & LONG:  # There the value is in front of what is called the payload.
            self._summing = Summing(self._place).add(come)
        self.room = self._place[come:]
        self._needed = PREFIX_SIZE
        return True


def _refusal(
    version: int, kind: int, flags: int, header_size: int, payload_size: int
) -> RemoteProtocolError:
    if version != VERSION:
        return RemoteProtocolError(f"frame version {version}")
    if kind not in _KINDS or flags > _FLAGS_KNOWN:
        return RemoteProtocolError(f"frame kind {kind}, flags {flags:#x}")
    return RemoteProtocolError(
        f"frame too large: header {header_size}, payload {payload_size}"
    )
