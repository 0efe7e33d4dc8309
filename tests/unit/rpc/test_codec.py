"""The codec: what goes in comes out, and old bytes stay readable."""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import attrs
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.errors import Conflict, NotFound, ObjstoreError, Unavailable
from objstore.host.network import Address
from objstore.ids import BucketId, ChunkId, FragmentId, Key, NodeId
from objstore.rpc import codec
from objstore.rpc.codec import CorruptValue, decode, decode_as, encode, wire, wire_error


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Line(NamedTuple):
    name: str
    size: int | None


@wire("t.lines")
@attrs.frozen
class Lines:
    lines: tuple[tuple[bytes, Line | None], ...]


@wire("t.point")
@attrs.frozen
class Point:
    x: int
    y: int = 0


@wire("t.circle")
@attrs.frozen
class Circle:
    middle: Point
    radius: float


Shape = Point | Circle


@wire("t.all")
@attrs.frozen(kw_only=True)
class Everything:
    node: NodeId
    bucket: BucketId
    key: Key
    chunk: ChunkId | None
    color: Color
    level: Level | None
    shape: Shape | None
    points: tuple[Point, ...]
    pair: tuple[int, bytes | None]
    sizes: tuple[int, ...]
    tags: Mapping[str, bytes]
    shapes: dict[str, Shape]
    anything: object
    names: frozenset[str] = frozenset()
    mode: Literal["on", "off"] = "on"
    flag: bool = False
    ratio: float = 1.0
    maybe: tuple[Shape, ...] | None = None


@wire_error("t.no_such_thing")
class NoSuchThing(NotFound):
    def __init__(self, name: str, *, place: Point | None = None) -> None:
        super().__init__(f"no {name}")
        self.name = name
        self.place = place


@wire_error("t.raced")
@attrs.define
class Raced(Conflict):
    winner: str
    version: int

    def __str__(self) -> str:
        return f"{self.winner} won with {self.version}"


points = st.builds(Point, st.integers(-(2**63), 2**64 - 1), st.integers(0, 100))
shapes = st.one_of(points, st.builds(Circle, points, st.floats(allow_nan=False)))
plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.binary(max_size=9),
        st.text(max_size=9), shapes,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=4), inner, max_size=3),
    ),
    max_leaves=12,
)  # fmt: skip
everything = st.builds(
    Everything,
    node=st.just(NodeId("0123456789abcdef")),
    bucket=st.integers(0, 2**64 - 1).map(BucketId),
    key=st.binary(max_size=20).map(Key),
    chunk=st.one_of(st.none(), st.binary(min_size=16, max_size=16).map(ChunkId)),
    color=st.sampled_from(Color),
    level=st.one_of(st.none(), st.sampled_from(Level)),
    shape=st.one_of(st.none(), shapes),
    points=st.lists(points, max_size=3).map(tuple),
    pair=st.tuples(st.integers(0, 9), st.one_of(st.none(), st.binary(max_size=3))),
    sizes=st.lists(st.integers(0, 2**40)).map(tuple),
    tags=st.dictionaries(st.text(max_size=3), st.binary(max_size=3), max_size=3),
    shapes=st.dictionaries(st.text(max_size=3), shapes, max_size=3),
    anything=plain,
    names=st.frozensets(st.text(max_size=3), max_size=3),
    flag=st.booleans(),
    maybe=st.one_of(st.none(), st.lists(shapes, max_size=2).map(tuple)),
)


@given(everything)
def test_every_kind_of_field_comes_back_equal(value: Everything) -> None:
    found = decode(encode(value))
    assert found == value
    assert type(found.color) is Color
    assert encode(found) == encode(value)


@given(plain)
def test_plain_values_come_back_equal_with_tuples_for_lists(value: object) -> None:
    assert decode(encode(value)) == value


def test_a_tuple_that_looks_like_a_tagged_value_stays_a_tuple() -> None:
    for value in (("t.point", 1, 2, 3), (), (None,), ("!", 1, "x", "y", "z", {})):
        assert decode(encode(value)) == value
        assert decode(encode({"a": (value,)})) == {"a": (value,)}


def test_equal_maps_and_sets_give_equal_bytes() -> None:
    def make(order: list[str]) -> Everything:
        return attrs.evolve(
            _EXAMPLE,
            tags=dict.fromkeys(order, b""),
            shapes={name: Point(1) for name in order},
            names=frozenset(order),
            anything=dict.fromkeys(order, 1),
        )

    assert encode(make(["b", "a", "c"])) == encode(make(["c", "b", "a"]))


def test_fields_added_by_a_newer_writer_are_ignored() -> None:
    data = msgpack.packb(["t.point", 1, 3, 4, "new", [1, 2]])
    assert decode(data) == Point(3, 4)


def test_trailing_fields_that_an_older_writer_did_not_know_get_their_defaults() -> None:
    assert decode(msgpack.packb(["t.point", 1, 3])) == Point(3, 0)


def test_a_missing_field_without_default_is_refused() -> None:
    with pytest.raises(CorruptValue):
        decode(msgpack.packb(["t.point", 1]))


def test_older_versions_go_through_their_upgrades_in_turn() -> None:
    @wire(
        "t.moved",
        version=3,
        upgrades={1: lambda f: (f[0] * 10,), 2: lambda f: (*f, "added")},
    )
    @attrs.frozen
    class Moved:
        size: int
        note: str

    assert decode(msgpack.packb(["t.moved", 1, 7])) == Moved(70, "added")
    assert decode(msgpack.packb(["t.moved", 2, 7])) == Moved(7, "added")
    assert decode(encode(Moved(1, "x"))) == Moved(1, "x")
    for version in (0, 4, -1, "1", None, True):
        with pytest.raises(CorruptValue):
            decode(msgpack.packb(["t.moved", version, 7, "x"]))


def test_a_version_whose_upgrade_was_dropped_is_refused() -> None:
    @wire("t.dropped", version=2)
    @attrs.frozen
    class Dropped:
        size: int

    with pytest.raises(CorruptValue):
        decode(msgpack.packb(["t.dropped", 1, 7]))
    assert Dropped is not None


@pytest.mark.parametrize(
    "raw",
    [
        ["t.unknown", 1],
        ["t.point", 1, "3", 4],
        ["t.point", 1, True, 4],
        ["t.point", 1, None],
        ["t.circle", 1, ["t.circle", 1, ["t.point", 1, 1], 1.0], 1.0],
        ["t.circle", 1, [1, 2], 1.0],
        ["t.circle", 1, "t.point", 1.0],
        ["t.point"],
        [],
        [7, 8],
        ["!", 1, "t.raced", "conflict", "message"],
        ["!", 1, 5, "conflict", "message", {}],
        ["!", 1, "t.raced", "conflict", "message", {"winner": "a"}],
        msgpack.ExtType(5, b"x"),
        {"a": msgpack.ExtType(5, b"x")},
    ],
)
def test_wrong_shapes_are_corrupt_values(raw: object) -> None:
    with pytest.raises(CorruptValue):
        decode(msgpack.packb(raw))


@given(st.binary(max_size=60))
def test_garbage_raises_nothing_but_corrupt_value(data: bytes) -> None:
    for value in (data, encode(_EXAMPLE)[: len(data)] + data):
        with contextlib.suppress(CorruptValue):
            decode(value)


@given(st.data())
def test_any_flipped_bit_gives_a_value_or_corrupt_value(data: st.DataObject) -> None:
    packed = bytearray(encode(_EXAMPLE))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(CorruptValue):
        decode(packed)


def test_deep_nesting_is_refused_and_does_not_overflow_the_stack() -> None:
    """F32."""
    with pytest.raises(CorruptValue):
        decode(b"\x91" * 100_000 + b"\x00")
    with pytest.raises(CorruptValue):
        decode(b"\x92\xc0" * 400 + b"\xc0")
    nested: Any = 1
    for _ in range(40):
        nested = (nested,)
    with pytest.raises(TypeError):
        encode(nested)


def test_recursive_classes_nested_past_the_stack_are_refused() -> None:
    """F32."""
    data = b"\x93\xa5chain\x01" * sys.getrecursionlimit()  # Which others may have raised.
    with pytest.raises(CorruptValue):
        decode(data + b"\xc0")
    assert decode(encode(Chain(Chain(None)))) == Chain(Chain(None))


def test_validators_of_the_class_are_run_on_what_arrives() -> None:
    @wire("t.small")
    @attrs.frozen
    class Small:
        size: int = attrs.field(validator=attrs.validators.lt(10))

    with pytest.raises(CorruptValue):
        decode(msgpack.packb(["t.small", 1, 10]))
    assert decode(encode(Small(9))) == Small(9)


def test_a_class_that_is_not_registered_is_our_own_mistake() -> None:
    @attrs.frozen
    class Stranger:
        x: int

    for value in (Stranger(1), (Stranger(1),), {"a": Stranger(1)}, object()):
        with pytest.raises(TypeError):
            encode(value)
    with pytest.raises(TypeError):
        encode(attrs.evolve(_EXAMPLE, anything=Stranger(1)))


def test_a_tag_is_given_once() -> None:
    with pytest.raises(AssertionError):
        wire("t.point")(Circle)
    with pytest.raises(AssertionError):
        wire_error("t.raced")(NoSuchThing)


def test_decode_as_refuses_another_class() -> None:
    assert decode_as(Point, encode(Point(1))) == Point(1)
    with pytest.raises(CorruptValue):
        decode_as(Circle, encode(Point(1)))


def test_ids_and_addresses_of_the_foundation_can_travel() -> None:
    fragment = FragmentId(ChunkId(bytes(16)), 3)
    assert decode(encode((fragment, Address("::1", 80)))) == (fragment, Address("::1", 80))


def test_errors_keep_class_message_and_attributes() -> None:
    found = decode(encode(NoSuchThing("cat", place=Point(1, 2))))
    assert type(found) is NoSuchThing
    assert (str(found), found.name, found.place) == ("no cat", "cat", Point(1, 2))
    raced = decode(encode((Raced("alice", 3),)))[0]
    assert type(raced) is Raced
    assert (raced.winner, raced.version) == ("alice", 3)
    busy = decode(encode(Unavailable("busy", retry_after_ms=7, unknown=True)))
    assert (busy.retry_after_ms, busy.unknown) == (7, True)


def test_an_error_of_an_unknown_code_becomes_its_kind() -> None:
    raw = ["!", 1, "future.thing", "unavailable", "later", {"retry_after_ms": 5}]
    found = decode(msgpack.packb(raw))
    assert type(found) is Unavailable
    assert (found.retry_after_ms, found.unknown) == (5, True)
    raw[3] = "future"
    assert type(decode(msgpack.packb(raw))) is ObjstoreError


def test_an_error_class_without_a_code_travels_as_the_nearest_that_has_one() -> None:
    class Narrow(NoSuchThing):
        pass

    found = decode(encode(Narrow("dog")))
    assert type(found) is NoSuchThing
    assert found.name == "dog"


def test_an_error_gets_through_with_an_attribute_that_cannot() -> None:
    error = NoSuchThing("x")
    error.place = object()  # type: ignore[assignment]
    assert "object" in decode(encode(error)).place


def test_errors_may_be_fields() -> None:
    value = Outcome(Raced("bob", 2))
    assert decode(encode(value)).result.winner == "bob"
    assert decode(encode(Outcome(Point(1)))) == Outcome(Point(1))


def test_parts_are_values_side_by_side() -> None:
    parts = codec.unpack_parts(codec.pack_parts("m", (1, Point(2)), None))
    assert [codec.value_of(part) for part in parts] == ["m", (1, Point(2)), None]
    with pytest.raises(CorruptValue):
        codec.unpack_parts(b"\x01")


@wire("chain")
@attrs.frozen
class Chain:
    rest: Chain | None


@wire("t.outcome")
@attrs.frozen
class Outcome:
    result: Point | ObjstoreError | None


_EXAMPLE = Everything(
    node=NodeId("0123456789abcdef"),
    bucket=BucketId(7),
    key=Key(b"k"),
    chunk=None,
    color=Color.BLUE,
    level=Level.HIGH,
    shape=Circle(Point(1, 2), 0.5),
    points=(Point(1), Point(2)),
    pair=(1, None),
    sizes=(1, 2),
    tags={"a": b"b"},
    shapes={"s": Point(1)},
    anything=(1, "x", Point(4)),
)


def test_a_named_tuple_of_scalars_travels_as_an_array_and_is_one_again() -> None:
    lines = Lines(((b"a", Line("x", 1)), (b"b", None), (b"c", Line("y", None))))
    decoded = decode(encode(lines))
    assert decoded == lines
    assert type(decoded.lines[0][1]) is Line
    assert b"Line" not in encode(lines)


@pytest.mark.parametrize("line", [["x"], ["x", "1"], [b"x", 1], "x", {}])
def test_a_named_tuple_of_other_scalars_is_refused(line: object) -> None:
    data = msgpack.packb(["t.lines", 1, [[b"a", line]]])
    with pytest.raises(CorruptValue):
        decode(data)


def test_a_named_tuple_of_a_newer_writer_loses_what_is_not_known() -> None:
    data = msgpack.packb(["t.lines", 1, [[b"a", ["x", 1, "new"]]]])
    assert decode(data) == Lines(((b"a", Line("x", 1)),))
