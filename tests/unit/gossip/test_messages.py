"""Packets: what is forged, replayed, misdirected or garbled is dropped."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.errors import RemoteProtocolError
from objstore.gossip import messages
from objstore.gossip.members import Member, State
from objstore.gossip.messages import (
    OVERHEAD,
    Ack,
    Alive,
    Dead,
    Left,
    Message,
    Nack,
    Ping,
    PingRequest,
    ReplayWindow,
    Sealer,
    Suspect,
    decode_exchange,
    encode_exchange,
    encode_message,
    encode_probe,
    pack_meta,
)
from objstore.host.network import Address
from objstore.limits import PACKET_SIZE_MAX

from .cluster import BOB, CAROL, ME, SECRET, address_of

ids = st.sampled_from([ME, BOB, CAROL])
numbers = st.integers(0, 2**31)
counts = st.integers(0, 2**62)
addresses = st.builds(
    Address, st.sampled_from(["127.0.0.1", "::1", "node-1.lan"]), st.integers(1, 65535)
)
metas = st.dictionaries(st.text(max_size=5), st.integers(0, 2**40), max_size=4)
alives = st.builds(
    Alive, ids, counts, counts, addresses, st.binary(max_size=16), metas.map(pack_meta)
)
all_messages = st.one_of(
    st.builds(Ping, numbers),
    st.builds(Ack, numbers),
    st.builds(Nack, numbers),
    st.builds(PingRequest, numbers, ids, addresses),
    alives,
    st.builds(Suspect, ids, counts, ids),
    st.builds(Dead, ids, counts, ids),
    st.builds(Left, ids, counts),
)


def seal(*parts: Message | bytes, sequence: int = 7) -> bytes:
    packed = [p if isinstance(p, bytes) else encode_message(p) for p in parts]
    return Sealer(SECRET, BOB).seal(ME, sequence, packed)


@given(st.lists(all_messages, min_size=1, max_size=5), counts)
def test_messages_come_back_equal(parts: list[Message], sequence: int) -> None:
    packet = Sealer(SECRET, ME).open(seal(*parts, sequence=sequence))
    assert packet is not None
    assert (packet.sender, packet.recipient, packet.sequence) == (BOB, ME, sequence)
    assert packet.messages == tuple(parts)


@given(st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    """F33."""
    packet = bytearray(seal(Ping(1), Dead(ME, 5, BOB)))
    packet[data.draw(st.integers(0, len(packed := packet) - 1))] ^= 1 << data.draw(
        st.integers(0, 7)
    )
    assert Sealer(SECRET, ME).open(bytes(packed)) is None


def test_another_secret_another_recipient_and_other_sizes_are_dropped() -> None:
    """F30, F31, F33."""
    packet = seal(Ping(1))
    assert Sealer(b"another cluster's secret", ME).open(packet) is None
    assert Sealer(SECRET, CAROL).open(packet) is None
    assert Sealer(SECRET, BOB).open(packet) is None  # Reflected to its sender.
    assert Sealer(SECRET, ME).open(packet[:-1]) is None
    assert Sealer(SECRET, ME).open(packet[:OVERHEAD]) is None
    assert Sealer(SECRET, ME).open(b"") is None
    assert Sealer(SECRET, ME).open(bytes(PACKET_SIZE_MAX + 1)) is None


@given(st.binary(max_size=1400))
def test_garbage_is_dropped(data: bytes) -> None:
    """F32, F33."""
    assert Sealer(SECRET, ME).open(data) is None


@given(st.binary(max_size=300))
def test_garbage_under_the_right_secret_raises_nothing_else(data: bytes) -> None:
    """F32: a bug of a peer, or a newer one."""
    with contextlib.suppress(RemoteProtocolError):
        Sealer(SECRET, ME).open(seal(data))
    with contextlib.suppress(RemoteProtocolError):
        decode_exchange(data)


@pytest.mark.parametrize(
    "raw",
    [
        [],
        [0, 1],
        [1],
        [1, "x"],
        [3, 1, b"12345678", "host", 0],
        [3, 1, b"12345678", "", 1],
        [3, 1, b"short", "host", 1],
        [6, b"12345678", -1, b"12345678"],
        [6, b"12345678", 2**63, b"12345678"],
        [5, b"12345678", 1, 1, "host", 1, b"x" * 17, b"\x80"],
        [5, b"12345678", 1, 1, "host", 1, b"x", b"\x80" + bytes(300)],
        [5, b"12345678", 1, 1, "host", 1, b"x", b"\x90"],
        [5, b"12345678", 1, 1, "host", 1, b"x", msgpack.packb({1: 2})],
        "ping",
        7,
    ],
)
def test_messages_that_make_no_sense_are_refused(raw: object) -> None:
    with pytest.raises(RemoteProtocolError):
        Sealer(SECRET, ME).open(seal(msgpack.packb(raw)))


def test_messages_of_a_newer_kind_and_items_of_a_newer_build_are_passed_over() -> None:
    packet = Sealer(SECRET, ME).open(
        seal(msgpack.packb([9, "new"]), msgpack.packb([1, 5, "new"]))
    )
    assert packet is not None
    assert packet.messages == (Ping(5),)


def test_meta_is_small() -> None:
    assert messages.unpack_meta(pack_meta({"b": 1, "a": (1, "x")})) == {
        "a": (1, "x"),
        "b": 1,
    }
    assert pack_meta({"b": 1, "a": 2}) == pack_meta({"a": 2, "b": 1})
    with pytest.raises(ValueError):
        pack_meta({"x": "y" * 300})


@given(
    st.lists(st.tuples(alives, st.sampled_from(State), st.integers(0, 10**6)), max_size=5)
)
def test_an_exchange_carries_every_member_and_its_age(
    found: list[tuple[Alive, State, int]],
) -> None:
    members = [
        Member(
            node=a.node,
            address=a.address,
            meta=messages.unpack_meta(a.meta),
            incarnation=a.incarnation,
            state=state,
            boot_id=a.boot_id,
            since_ms=2_000_000 - age,
            meta_version=a.meta_version,
            packed_meta=a.meta,
        )
        for a, state, age in found
    ]
    exchange = decode_exchange(encode_exchange(BOB, members, 2_000_000))
    assert exchange.sender == BOB
    assert [(s.alive, s.state, s.age_ms) for s in exchange.states] == found
    assert decode_exchange(encode_probe(BOB)).is_probe


@given(st.lists(st.integers(0, 3000), max_size=200))
def test_each_sequence_is_accepted_at_most_once(sequences: list[int]) -> None:
    """F31."""
    window = ReplayWindow()
    accepted: set[int] = set()
    highest = -1
    for sequence in sequences:
        expected = sequence not in accepted and highest - sequence < ReplayWindow.SIZE
        assert window.accept(sequence) == expected
        if expected:
            accepted.add(sequence)
        highest = max(highest, sequence)


def test_a_packet_has_room_for_three_members_with_full_meta() -> None:
    meta = pack_meta({"m": "x" * 250})
    full = Alive(ME, 2**40, 2**20, address_of(ME), bytes(16), meta)
    assert OVERHEAD + 3 * len(encode_message(full)) <= PACKET_SIZE_MAX
