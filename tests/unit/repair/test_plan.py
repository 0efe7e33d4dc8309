"""Plans, over any layout, any displacement and any set of nodes that are well."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from objstore.ids import ChunkId, Epoch, NodeId
from objstore.meta.references import displaced_after
from objstore.meta.values import ChunkRef, Displaced
from objstore.repair.plan import AT_HOME, holders_of, plan_mends, recorded_at
from objstore.ring import layout as layouts
from objstore.ring.ring import Ring

WIDTH = 3
NODES = [NodeId(f"{n:016x}") for n in range(1, 8)]
_RINGS: dict[int, Ring] = {}


def ring_of(count: int) -> Ring:
    """The ring of the first `count` nodes."""
    if count not in _RINGS:
        members = [layouts.Member(node=node, weight=10) for node in NODES[:count]]
        _RINGS[count] = Ring(layouts.found(members, partition_count=16))
    return _RINGS[count]


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    """A chunk as commits and damage reports can leave it."""
    old, new = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    chunk = ChunkId(draw(st.binary(min_size=16, max_size=16)))
    ring = ring_of(old)
    owners = ring.owners(chunk, WIDTH)
    displaced: list[Displaced] = []
    taken = {node for node in owners if node is not None}
    for index, owner in enumerate(owners):
        others = [node for node in NODES if node not in taken]
        choices = [None] if owner is None else ["home", None]
        where = draw(st.sampled_from([*choices, *others]))
        if where != "home":
            displaced.append(Displaced(index, where))
            if where is not None:
                taken.add(where)
    up = draw(st.sets(st.sampled_from(NODES)))
    full = draw(st.sets(st.sampled_from(NODES), max_size=3))
    return {
        "ref": ChunkRef(chunk, 10, Epoch(1), tuple(displaced)),
        "ring": ring,
        "newest": ring_of(new),
        "up": up,
        "may_take": lambda node: node in up and node not in full,
        "may_give": lambda node: node in up,
        "full": full,
    }


def plan(case: dict[str, Any]):
    keys = ("ring", "newest", "may_take", "may_give")
    return plan_mends(case["ref"], width=WIDTH, **{key: case[key] for key in keys})


def after(case: dict[str, Any], mends: Any) -> ChunkRef:
    """The ref once the mends are recorded, by the very function that records them."""
    ref = case["ref"]
    changes = tuple((mend.index, mend.found, mend.now) for mend in mends)
    return ChunkRef(ref.chunk, ref.size, ref.epoch, displaced_after(ref, changes))


def carry_out(case: dict[str, Any]) -> None:
    """Plan and mend until there is nothing left to do, which takes three rounds at most."""
    for _ in range(3):
        case["ref"] = after(case, plan(case))
    assert plan(case) == []


@given(cases())
def test_targets_can_take_and_sources_can_give_and_differ(case: dict[str, Any]) -> None:
    for mend in plan(case):
        assert case["may_take"](mend.target)
        assert mend.sources
        for source in mend.sources:
            assert case["may_give"](source.node)
            assert source.node != mend.target
            assert source.node == holders_before(case)[source.index]


def holders_before(case: dict[str, Any]) -> list[NodeId | None]:
    return holders_of(case["ref"], case["ring"].owners(case["ref"].chunk, WIDTH))


@given(cases())
def test_no_node_ends_up_with_two_fragments_of_a_chunk(case: dict[str, Any]) -> None:
    owners = case["ring"].owners(case["ref"].chunk, WIDTH)
    mends = plan(case)
    for count in range(len(mends) + 1):  # Also where only some of them succeed.
        held = [n for n in holders_of(after(case, mends[:count]), owners) if n is not None]
        assert len(held) == len(set(held))


@given(cases())
def test_each_mend_says_what_the_row_says_and_applies(case: dict[str, Any]) -> None:
    ref, mends = case["ref"], plan(case)
    result = after(case, mends)
    for mend in mends:
        assert recorded_at(ref, mend.index) == mend.found
        assert recorded_at(result, mend.index) == mend.now
        owner = case["ring"].owners(ref.chunk, WIDTH)[mend.index]
        assert (mend.now == AT_HOME) == (mend.target == owner)


@given(cases())
def test_good_copies_never_become_fewer(case: dict[str, Any]) -> None:
    owners = case["ring"].owners(case["ref"].chunk, WIDTH)

    def good(ref: ChunkRef) -> int:
        return sum(node in case["up"] for node in holders_of(ref, owners))

    assert good(after(case, plan(case))) >= good(case["ref"])


@given(cases())
def test_a_plan_that_is_carried_out_leaves_nothing_to_do_but_to_go_home(
    case: dict[str, Any],
) -> None:
    """It converges: mends do not chase each other."""
    carry_out(case)


@given(cases())
def test_what_can_be_mended_is(case: dict[str, Any]) -> None:
    """Missing fragments, while a copy is up and a node that has none can take one.

    In as many rounds as it takes: once its fragment is home a stand-in has none.
    """
    holders = holders_before(case)
    carry_out(case)
    left = [d for d in case["ref"].displaced if d.node is None]
    has_source = any(node in case["up"] for node in holders if node is not None)
    owners = case["ring"].owners(case["ref"].chunk, WIDTH)
    held = set(holders_of(case["ref"], owners))
    known = {member.node for member in case["newest"].layout.members}
    free = [n for n in known if case["may_take"](n) and n not in held]
    assert not (left and has_source and free)


def test_a_fragment_goes_home_rather_than_to_the_home_of_another() -> None:
    """One owner is away, another has lost its copy: that one gets its own fragment."""
    ring = ring_of(3)
    chunk = ChunkId(b"c" * 16)
    owners = ring.owners(chunk, WIDTH)
    ref = ChunkRef(chunk, 1, Epoch(1), (Displaced(0, None), Displaced(1, None)))
    is_up = lambda node: node != owners[0]  # noqa: E731
    (mend,) = plan_mends(
        ref, width=WIDTH, ring=ring, newest=ring, may_take=is_up, may_give=is_up
    )
    assert (mend.index, mend.target, mend.now) == (1, owners[1], AT_HOME)
