"""What peers send, as bytes: round trips, and nothing but RemoteProtocolError for the rest."""

import struct
from contextlib import suppress
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.errors import RemoteProtocolError
from objstore.ids import NodeId
from objstore.limits import ENTRY_SIZE_MAX
from objstore.raft import messages
from objstore.raft.messages import (
    Append,
    Heartbeat,
    Message,
    Wake,
    decode_membership,
    decode_payload,
    encode_membership,
    encode_payload,
)
from objstore.raft.snapshot import (
    Begin,
    Commit,
    Piece,
    Reply,
    Status,
    decode_call,
    decode_reply,
    encode_call,
    encode_reply,
)
from objstore.raft.state_machine import Applied, Entry, EntryKind, Membership

u64 = st.integers(0, 2**64 - 1)
nodes = st.integers(0, 2**64 - 1).map(lambda n: NodeId(f"{n:016x}"))
node_sets = st.lists(nodes, max_size=5).map(lambda names: tuple(sorted(set(names))))
memberships = st.builds(Membership, node_sets.filter(bool), node_sets, node_sets)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    prev = draw(st.integers(0, 2**40))
    count = draw(st.integers(0, 5))
    kinds = st.sampled_from([EntryKind.NOOP, EntryKind.COMMAND])
    entries = tuple(
        Entry(
            prev + n, draw(st.integers(1, 2**40)), draw(kinds), draw(st.binary(max_size=50))
        )
        for n in range(1, count + 1)
    )
    return Append(draw(u64), prev, draw(u64), draw(u64), entries)


def plain(cls: type[Any]) -> st.SearchStrategy[Any]:
    kinds = {"int": u64, int: u64, "bool": st.booleans(), bool: st.booleans()}
    return st.builds(cls, *[kinds[field.type] for field in attrs.fields(cls)])


any_message = st.one_of(
    appends(), *[plain(cls) for cls in messages._CLASSES if cls is not Append]
)


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), any_message), max_size=6),
    st.integers(-(2**50), 2**50),
)
def test_payloads_come_back_as_they_were(
    batch: list[tuple[int, Message]], wall_ms: int
) -> None:
    payload = decode_payload(encode_payload(batch, wall_ms=wall_ms))
    assert payload.messages == batch
    assert payload.wall_ms == wall_ms


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read(data: bytes) -> None:
    for prefix in (b"", b"\x01", b"\x02"):
        for decode in (decode_payload, decode_call, decode_reply):
            with suppress(RemoteProtocolError):
                decode(prefix + data)


@given(
    st.lists(st.tuples(st.integers(0, 99), any_message), min_size=1, max_size=3), st.data()
)
def test_a_changed_byte_never_does_worse(
    batch: list[tuple[int, Message]], data: st.DataObject
) -> None:
    encoded = bytearray(encode_payload(batch, wall_ms=1))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    with suppress(RemoteProtocolError):
        decode_payload(bytes(encoded))


HEAD = b"\x02" + bytes(8)  # Version and wall clock.
WAKE = struct.pack("<IBQ", 1, 8, 5)


def append(*entries: bytes, count: int | None = None) -> bytes:
    number = len(entries) if count is None else count
    return struct.pack("<IBQQQQI", 1, 2, 1, 1, 1, 1, number) + b"".join(entries)


def entry(data: bytes = b"", *, term: int = 1, kind: int = 1, size: int = -1) -> bytes:
    return struct.pack("<QBI", term, kind, len(data) if size < 0 else size) + data


def test_the_form_is_as_documented() -> None:
    assert decode_payload(HEAD).messages == []
    assert decode_payload(HEAD + WAKE + WAKE).messages == [(1, Wake(5)), (1, Wake(5))]
    (message,) = decode_payload(HEAD + append(entry(b"data", term=3), entry())).messages
    entries = (Entry(2, 3, EntryKind.COMMAND, b"data"), Entry(3, 1, EntryKind.COMMAND, b""))
    assert message == (1, Append(1, 1, 1, 1, entries))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD[:-1],
        HEAD + WAKE[:4],
        HEAD + WAKE[:5],
        HEAD + WAKE[:-1],
        HEAD + WAKE + b"\0",
        HEAD + struct.pack("<IBQ", 1, 99, 5),
        HEAD + append(count=1),
        HEAD + append(count=2**32 - 1),
        HEAD + append(entry(b"data")[:-1]),
        HEAD + append(entry(b"data", size=5)),
        HEAD + append(entry(term=0)),
        HEAD + append(entry(kind=9)),
        HEAD + append(entry(b"no membership", kind=2)),
        HEAD + append(entry(bytes(ENTRY_SIZE_MAX + 1))),
    ],
)
def test_wrong_forms_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_payload(data)


def test_an_unknown_version_is_refused() -> None:
    data = encode_payload([(1, Heartbeat(1, 1, 1, 1, False, 0, False))], wall_ms=1)
    for version in (b"\x01", b"\x03"):
        with pytest.raises(RemoteProtocolError):
            decode_payload(version + data[1:])


@given(memberships)
def test_memberships_come_back_as_they_were(membership: Membership) -> None:
    assert decode_membership(encode_membership(membership)) == membership


@pytest.mark.parametrize(
    "row",
    [
        (2, ["a" * 16], [], []),
        (1, [], [], []),
        (1, ["b" * 16, "a" * 16], [], []),
        (1, ["a" * 16, "a" * 16], [], []),
        (1, ["nobody"], [], []),
        (1, [1], [], []),
        (1, ["a" * 16], []),
    ],
)
def test_wrong_memberships_are_refused(row: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_membership(msgpack.packb(row))


@given(memberships, st.integers(0, 2**63), st.binary(max_size=300))
def test_snapshot_calls_come_back_as_they_were(
    membership: Membership, number: int, data: bytes
) -> None:
    for call in (
        Begin(7, number, 3, Applied(number, 2, membership)),
        Piece(7, number, 3, data),
        Commit(7, number, 3, 2**32 - 1),
    ):
        assert decode_call(encode_call(call)) == call
    for status in Status:
        assert decode_reply(encode_reply(Reply(status, number))) == Reply(status, number)


def test_an_oversized_piece_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_call(encode_call(Piece(1, 1, 1, bytes(300_000))))
