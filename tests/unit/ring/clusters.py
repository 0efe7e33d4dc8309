"""Clusters to lay out: strategies and builders for the tests of the ring."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st

from objstore.ids import NodeId
from objstore.ring.layout import Layout, Member

PARTITIONS = 256


def node_id(number: int) -> NodeId:
    """Ids in no order of their numbers, as real ones are."""
    return NodeId(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}")


def member(number: int, *, weight: int = 100, zone: str = "", **rest: str | int) -> Member:
    return Member(node_id(number), weight, zone=zone, **rest)  # type: ignore[arg-type]


def members(count: int, *, zones: int = 1, weight: int = 100) -> list[Member]:
    return [member(n, weight=weight, zone=f"z{n % zones}") for n in range(1, count + 1)]


weights = st.sampled_from([1, 10, 50, 90, 100, 110, 200, 1000])


@st.composite
def clusters(draw: st.DrawFn, *, nodes_max: int = 14) -> list[Member]:
    """Up to `nodes_max` members of odd sizes in a few zones, racks and hosts."""
    count = draw(st.integers(1, nodes_max))
    zones = draw(st.integers(1, 5))
    racks = draw(st.integers(1, 3))
    hosts = draw(st.sampled_from([0, 2, 4]))
    equal = draw(st.booleans())
    return [
        Member(
            node_id(number),
            100 if equal else draw(weights),
            zone=f"z{draw(st.integers(0, zones - 1))}",
            rack=f"r{draw(st.integers(0, racks - 1))}",
            host=f"h{number % hosts if hosts else number}",
        )
        for number in range(1, count + 1)
    ]


def rows_of(layout: Layout, width: int) -> list[list[int]]:
    table = layout.table(width)
    assert table is not None
    cells = table.indexes().tolist()
    return [cells[start : start + width] for start in range(0, len(cells), width)]


def breaches(layout: Layout, width: int) -> list[str]:
    """What is wrong with the rows of a table, worked out from the members alone."""
    holders = {n for n, m in enumerate(layout.members) if m.holds_data}
    nobody = len(layout.members)
    found = []
    for row in set(map(tuple, rows_of(layout, width))):
        there = [index for index in row if index != nobody]
        if len(there) != min(width, len(holders)):
            found.append(f"{row}: {len(there)} places are filled")
        if len(set(there)) != len(there) or not set(there) <= holders:
            found.append(f"{row}: a node twice, or one that holds no data")
        zones = Counter(layout.members[index].zone for index in there)
        allowed = zone_cap([m for m in layout.members if m.holds_data], width)
        found += [f"{row}: {n} in zone {zone}" for zone, n in zones.items() if n > allowed]
    return found


def zone_cap(chosen: list[Member], width: int) -> int:
    """The most of `width` places that a zone of `chosen` need have."""
    sizes = Counter(one.zone for one in chosen)
    cap = -(-min(width, len(chosen)) // max(1, len(sizes)))
    while sum(min(cap, size) for size in sizes.values()) < min(width, len(chosen)):
        cap += 1  # Some zones have too few nodes for an even spread.
    return cap
