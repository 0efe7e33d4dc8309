"""Frames: cut from any pieces, and hostile ones refused before they cost memory."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.errors import LocalProtocolError, NotFound, RemoteProtocolError
from objstore.limits import FRAME_HEADER_SIZE_MAX, FRAME_SIZE_MAX
from objstore.rpc import codec
from objstore.rpc.connection import joined
from objstore.rpc.frames import (
    ANSWER,
    PREFIX_SIZE,
    Frame,
    FrameReader,
    Kind,
    encode_bare,
    encode_frame,
    encode_request,
    encode_response,
    open_frame,
)
from objstore.sums import Sums


def make(value: object = None, payload: bytes = b"", call: int = 1) -> bytes:
    return b"".join(
        encode_frame(Kind.REQUEST, call=call, parts=("m", 5), value=value, payload=payload)
    )


def read_one(data: bytes) -> Frame:
    (frame,) = FrameReader().feed(data)
    return frame


@given(
    st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=6000)), max_size=5),
    st.lists(st.integers(1, 4000), min_size=1, max_size=8),
)
def test_frames_come_out_alike_however_the_stream_is_cut(
    frames: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    data = b"".join(make(v, p, call=i) for i, (v, p) in enumerate(frames))
    reader, found, offset, turn = FrameReader(), [], 0, 0
    while offset < len(data):
        size = cuts[turn % len(cuts)]
        found += reader.feed(data[offset : offset + size])
        offset, turn = offset + size, turn + 1
    opened = [open_frame(frame, 2) for frame in found]
    assert [(raw, bytes(payload)) for _, raw, payload in opened] == frames
    assert [frame.call for frame in found] == list(range(len(frames)))
    assert reader.buffered_size == 0


@given(
    st.lists(st.integers(0, 400_000) | st.integers(0, 10), min_size=1, max_size=4),
    st.lists(st.integers(1, 300_000), min_size=1, max_size=8),
)
def test_a_large_payload_is_received_in_its_place(
    sizes: list[int], cuts: list[int]
) -> None:
    payloads = [bytes((i + 1,)) * size for i, size in enumerate(sizes)]
    data = b"".join(make(b"v", payload, call=i) for i, payload in enumerate(payloads))
    reader, found, offset, turn = FrameReader(), [], 0, 0
    while offset < len(data):
        size = cuts[turn % len(cuts)]
        if reader.room is not None:
            size = min(size, len(reader.room))
            reader.room[:size] = data[offset : offset + size]
            found += reader.filled(size)
        else:
            size = min(size, 100_000)
            found += reader.feed(data[offset : offset + size])
        offset, turn = offset + size, turn + 1
    opened = [open_frame(frame, 2) for frame in found]
    assert [(raw, bytes(payload)) for _, raw, payload in opened] == [
        (b"v", payload) for payload in payloads
    ]
    assert all(payload.readonly for _, _, payload in opened)
    for frame, payload in zip(found, payloads, strict=True):
        assert frame.sums in {None, Sums.of(payload)}
    assert reader.buffered_size == 0
    assert reader.room is None


@pytest.mark.parametrize("value", [b"v", b"v" * 90_000])
def test_sums_are_of_what_is_called_the_payload_or_there_are_none(value: bytes) -> None:
    """A value that is too long for its header lies in front of the payload."""
    reader, payload = FrameReader(), bytes(range(250)) * 1000
    data = make(value, payload)
    assert reader.feed(data[:100_000]) == []
    assert reader.room is not None
    reader.room[:] = data[100_000:]
    (frame,) = reader.filled(len(data) - 100_000)
    assert open_frame(frame, 2)[1:] == (value, payload)
    assert frame.sums == (None if frame.flags else Sums.of(payload))
    assert bool(frame.flags) == (len(value) > 1)


def test_a_header_has_its_parts_value_and_payload() -> None:
    frame = read_one(make((1, "x"), b"bytes", call=2**64 - 1))
    assert (frame.kind, frame.call) == (Kind.REQUEST, 2**64 - 1)
    parts, raw, payload = open_frame(frame, 2)
    assert (parts, codec.value_of(raw), payload) == (("m", 5), (1, "x"), b"bytes")


@pytest.mark.parametrize(
    "value", [None, 7, "x" * 40, (1, (2, {"a": b"b"})), NotFound("no"), (b"x" * 90_000,)]
)
def test_requests_and_responses_are_packed_as_every_frame_is(value: object) -> None:
    payload = b"payload"
    parts = ("meta.propose", 6000)
    header = codec.pack_parts(*parts, value)
    assert encode_request(5, *parts, value, payload) == encode_frame(
        Kind.REQUEST, call=5, parts=parts, value=value, payload=payload
    )
    assert encode_response(5, value, payload) == encode_frame(
        Kind.RESPONSE, call=5, value=value, payload=payload
    )
    if len(header) <= FRAME_HEADER_SIZE_MAX:
        frame = read_one(b"".join(encode_request(5, *parts, value, payload)))
        assert frame.header == header


def test_a_bare_frame_has_neither() -> None:
    frame = read_one(encode_bare(Kind.PING, call=3, flags=ANSWER))
    assert (frame.kind, frame.flags, frame.call) == (Kind.PING, ANSWER, 3)
    assert not frame.header
    assert not frame.payload


def test_a_value_too_long_for_a_header_rides_at_the_head_of_the_payload() -> None:
    value = tuple(bytes([n % 256]) * 100 for n in range(2000))
    frame = read_one(make(value, b"after"))
    assert len(frame.header) < 100
    _, raw, payload = open_frame(frame, 2)
    assert (codec.value_of(raw), bytes(payload)) == (value, b"after")


def test_a_large_payload_that_arrives_in_one_read_is_not_copied() -> None:
    data = make(None, b"x" * 100_000)
    assert read_one(data).payload.obj is data


def test_a_small_payload_does_not_keep_the_read_alive() -> None:
    data = make(None, b"x" * 100) + b"\x01\x01"
    assert FrameReader().feed(data)[0].payload.obj is not data


def test_what_is_too_large_to_send_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        make(None, bytes(FRAME_SIZE_MAX))
    with pytest.raises(LocalProtocolError):
        encode_frame(Kind.REQUEST, parts=("m" * FRAME_HEADER_SIZE_MAX, 1))
    with pytest.raises(LocalProtocolError):
        make(bytes(FRAME_SIZE_MAX))


@pytest.mark.parametrize(
    ("version", "kind", "flags", "header_size", "payload_size"),
    [
        (0, 1, 0, 0, 0),
        (2, 1, 0, 0, 0),
        (1, 0, 0, 0, 0),
        (1, 8, 0, 0, 0),
        (1, 1, 4, 0, 0),
        (1, 1, 0, FRAME_HEADER_SIZE_MAX + 1, 0),
        (1, 1, 0, 2**31, 0),
        (1, 1, 0, 0, FRAME_SIZE_MAX),
        (1, 1, 0, 0, 2**32 - 1),
    ],
)
def test_hostile_prefixes_are_refused_at_once(
    version: int, kind: int, flags: int, header_size: int, payload_size: int
) -> None:
    """F32."""
    data = struct.pack(">BBHIIQ", version, kind, flags, header_size, payload_size, 1)
    with pytest.raises(RemoteProtocolError):
        FrameReader().feed(data)


def test_strangers_get_a_smaller_limit() -> None:
    """F32."""
    reader = FrameReader(size_max=1000)
    with pytest.raises(RemoteProtocolError):
        reader.feed(make(None, bytes(1000))[:PREFIX_SIZE])


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_remote_protocol_error(data: bytes) -> None:
    """F32."""
    for stream in (data, struct.pack(">BBHIIQ", 1, 1, 2, 20, 8, 1) + data):
        try:
            for frame in FrameReader().feed(stream):
                open_frame(frame, 2)
        except RemoteProtocolError:
            pass


def test_headers_with_too_few_items_or_impossible_long_values_are_refused() -> None:
    for parts in ([], ["m"], ["m", 1]):
        header = codec.pack_parts(*parts)
        frame = Frame(Kind.REQUEST, 0, 1, memoryview(header), memoryview(b""))
        with pytest.raises(RemoteProtocolError):
            open_frame(frame, 2)
    for size in (-1, 5, "x", None, 2**63):
        header = codec.pack_parts("m", 1, size)
        frame = Frame(Kind.REQUEST, 2, 1, memoryview(header), memoryview(b"\x01\x02"))
        with pytest.raises(RemoteProtocolError):
            open_frame(frame, 2)


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=12))
def test_joined_buffers_are_the_same_bytes_in_fewer_pieces(sizes: list[int]) -> None:
    buffers: list[bytes | bytearray | memoryview] = [
        bytes([n]) * size for n, size in enumerate(sizes)
    ]
    pieces = joined(list(buffers))
    assert b"".join(pieces) == b"".join(buffers)
    assert len(pieces) <= len(buffers)
    assert all(len(a) + len(b) > 65_536 for a, b in itertools.pairwise(pieces))
