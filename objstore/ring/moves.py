"""Moves: what must go from node to node between two layouts.

    partition 5   before  n1 n4 n7
                  after   n1 n9 n7      one move: fragment 1 of its chunks, n4 -> n9

A count is in partitions: one of them stands for 1 / partition_count of the fragments of one
place.  `least` is what no scheme can go below for the same change, however it places.
"""

from __future__ import annotations

from collections import Counter

import attrs

from objstore.ids import NodeId
from objstore.ring.balance import shares
from objstore.ring.domains import Leaf, grow_tree
from objstore.ring.layout import Layout
from objstore.ring.ring import Owners, Ring


@attrs.frozen
class Move:
    """Fragment `place` of the chunks of one partition changes its owner."""

    partition: int
    place: int
    source: NodeId | None  # None: nobody had it; there were too few nodes.
    target: NodeId | None  # None: nobody is to have it any more.


def moves(before: Layout, after: Layout, width: int) -> list[Move]:
    """Every change of owner from `before` to `after`, by partition and place."""
    assert before.partition_count == after.partition_count
    old, new = Ring(before), Ring(after)
    found = []
    for partition in range(before.partition_count):
        was = old.owners_of_partition(partition, width)
        now = new.owners_of_partition(partition, width)
        if was != now:
            found += _changes(partition, was, now)
    return found


def _changes(partition: int, was: Owners, now: Owners) -> list[Move]:
    pairs = enumerate(zip(was, now, strict=True))
    return [
        Move(partition, place, source, target)
        for place, (source, target) in pairs
        if source != target
    ]


def moves_by_pair(
    before: Layout, after: Layout, width: int
) -> Counter[tuple[NodeId | None, NodeId | None]]:
    """How many partitions go from whom to whom."""
    return Counter((move.source, move.target) for move in moves(before, after, width))


def moved(before: Layout, after: Layout, width: int) -> int:
    """How many fragments' places get another node: each is a fragment to be written."""
    return sum(move.target is not None for move in moves(before, after, width))


def least_moved(before: Layout, after: Layout, width: int) -> float:
    """The least that any scheme must move: the greater of two lower bounds.

    How much the fair shares grow, of nodes whose share grows at all: it comes from others.
    And the places in single rows that cannot stay, as their node is gone or its domain
    holds too many.
    """
    had = shares(before, width)
    grown = (share - had.get(node, 0) for node, share in shares(after, width).items())
    fair = sum(growth for growth in grown if growth > 0) * after.partition_count
    return max(fair, _forced(before, after, width))


def _forced(before: Layout, after: Layout, width: int) -> int:
    holders = [member for member in after.members if member.holds_data]
    leaf_of = {member.node: leaf for leaf, member in enumerate(holders)}
    tree = grow_tree([Leaf(member.weight, member.domains) for member in holders], width)
    ring = Ring(before)
    forced = 0
    for partition in range(before.partition_count):
        owners = ring.owners_of_partition(partition, width)
        stay = [leaf_of[node] for node in owners if node is not None and node in leaf_of]
        held = Counter(domain for leaf in stay for domain in tree.paths[leaf])
        over = [count - tree.caps[domain] for domain, count in held.items()]
        forced += tree.width - len(stay) + max([0, *over])
    return forced
