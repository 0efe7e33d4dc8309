"""Caps of failure domains and fair shares, against a max-flow."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.ring.domains import Domain, Leaf, Tree, fair_shares, grow_tree, round_shares

from .clusters import clusters, weights


def leaves_in(*zones: int, weight: float = 1) -> list[Leaf]:
    """zones: how many nodes each has."""
    return [
        Leaf(weight, (f"z{zone}", "", f"{zone}.{n}"))
        for zone, count in enumerate(zones)
        for n in range(count)
    ]


def cap_of(tree: Tree, leaf: int) -> int:
    return min([tree.caps[domain] for domain in tree.paths[leaf]], default=tree.width)


@pytest.mark.parametrize(
    ("zones", "width", "cap"),
    [
        ((5,), 3, 3),  # One zone: it binds nothing.
        ((5, 5), 3, 2),
        ((5, 5, 5), 3, 1),
        ((5, 5, 5), 6, 2),
        ((5, 5, 5, 5), 6, 2),
        ((5, 5, 5, 5, 5), 9, 2),
        ((8, 8, 1), 6, 3),  # The small zone cannot take its two.
    ],
)
def test_zone_holds_no_more_than_it_need(
    zones: tuple[int, ...], width: int, cap: int
) -> None:
    assert cap_of(grow_tree(leaves_in(*zones), width), 0) == cap


def test_racks_bind_where_there_is_one_zone() -> None:
    leaves = [Leaf(1, ("", f"r{n % 3}", f"h{n}")) for n in range(9)]
    assert cap_of(grow_tree(leaves, 6), 0) == 2


def test_racks_bind_within_each_zone_too() -> None:
    leaves = [Leaf(1, (f"z{n % 2}", f"r{n // 2 % 3}", f"h{n}")) for n in range(12)]
    tree = grow_tree(leaves, 6)
    assert [tree.caps[domain] for domain in tree.paths[0]] == [1, 3]


def test_hosts_bind_where_there_is_nothing_else() -> None:
    leaves = [Leaf(1, ("", "", f"h{n % 3}")) for n in range(6)]
    assert cap_of(grow_tree(leaves, 3), 0) == 1


def test_small_cluster_fills_fewer_places_than_the_width() -> None:
    assert grow_tree(leaves_in(1, 1), 6).width == 2
    assert grow_tree([], 3).width == 0


def test_heavy_node_is_in_every_row_and_no_more() -> None:
    leaves = [Leaf(1000, ("",)), *[Leaf(1, ("",))] * 4]
    assert fair_shares(grow_tree(leaves, 3), leaves) == pytest.approx(
        [1, 0.5, 0.5, 0.5, 0.5]
    )


def test_small_zone_must_hold_what_the_others_may_not() -> None:
    leaves = leaves_in(4, 4, 1)
    shares = fair_shares(grow_tree(leaves, 3), leaves)
    assert shares == pytest.approx([0.25] * 8 + [1])


@settings(max_examples=60, deadline=None)
@given(clusters(), st.integers(1, 16))
def test_fullest_node_is_as_full_as_the_max_flow_says(cluster: list, width: int) -> None:
    leaves = [Leaf(m.weight, m.domains) for m in cluster]
    tree = grow_tree(leaves, width)
    shares = fair_shares(tree, leaves)
    fullest = max(share / leaf.weight for share, leaf in zip(shares, leaves, strict=True))
    assert sum(shares) == pytest.approx(tree.width)
    assert flow(tree, leaves, fullest * (1 + 1e-6)) == pytest.approx(tree.width)
    assert flow(tree, leaves, fullest * 0.999) < tree.width - 1e-6


@settings(max_examples=60, deadline=None)
@given(clusters(), st.integers(1, 16), st.data())
def test_rounded_shares_add_up_and_keep_to_every_cap(
    cluster: list, width: int, data: st.DataObject
) -> None:
    leaves = [Leaf(m.weight, m.domains) for m in cluster]
    tree = grow_tree(leaves, width)
    quotas = [share * 64 for share in fair_shares(tree, leaves)]
    current = [data.draw(st.integers(0, 64)) for _ in leaves]
    counts = round_shares(tree, quotas, current, partitions=64)
    assert sum(counts) == tree.width * 64
    for count, quota in zip(counts, quotas, strict=True):
        assert abs(count - quota) < 1 + 1e-6
        assert count <= 64
    for domain in _domains(tree.root):
        assert sum(counts[leaf] for leaf in domain.all_leaves()) <= domain.cap * 64


@given(st.lists(weights, min_size=3, max_size=9), st.integers(1, 6))
def test_share_grows_with_weight(sizes: list[int], width: int) -> None:
    leaves = [Leaf(size, ("",)) for size in sizes]
    shares = fair_shares(grow_tree(leaves, width), leaves)
    ranked = sorted(zip(sizes, shares, strict=True))
    assert [share for _, share in ranked] == sorted(shares)


# The oracle: a max-flow from the root through its domains to the leaves, where a leaf takes
# no more than its weight times `level`, nor more than 1.  (Edmonds and Karp 1972)


def flow(tree: Tree, leaves: list[Leaf], level: float) -> float:
    rooms: dict[tuple[object, object], float] = {("in", tree.root.number): tree.root.cap}

    def lay(domain: Domain) -> None:
        for leaf in domain.leaves:
            rooms[domain.number, f"leaf {leaf}"] = 1
            rooms[f"leaf {leaf}", "out"] = leaves[leaf].weight * level
        for child in domain.domains:
            rooms[domain.number, child.number] = child.cap
            lay(child)

    lay(tree.root)
    return max_flow(rooms, "in", "out")


def max_flow(
    rooms: dict[tuple[object, object], float], start: object, end: object
) -> float:
    left = dict(rooms)
    beside: dict[object, list[object]] = {}
    for source, target in rooms:
        left.setdefault((target, source), 0)
        beside.setdefault(source, []).append(target)
        beside.setdefault(target, []).append(source)
    total = 0.0
    while True:
        came: dict[object, object] = {start: None}
        queue = deque([start])
        while queue and end not in came:
            node = queue.popleft()
            for other in beside[node]:
                if other not in came and left[node, other] > 1e-12:
                    came[other] = node
                    queue.append(other)
        if end not in came:
            return total
        path = [end]
        while came[path[-1]] is not None:
            path.append(came[path[-1]])
        steps = list(zip(path[1:], path, strict=False))
        amount = min(left[step] for step in steps)
        for source, target in steps:
            left[source, target] -= amount
            left[target, source] += amount
        total += amount


def _domains(domain: Domain) -> list[Domain]:
    return [domain, *(below for child in domain.domains for below in _domains(child))]
