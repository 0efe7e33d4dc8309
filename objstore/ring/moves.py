"""Moves: what must go from node to node between two layouts.

    partition 5   before  n1 n4 n7
                  after   n1 n9 n7      one move: fragment 1 of its chunks, n4 -> n9

A count is in partitions: one of them stands for 1 / partition_count of the fragments of one
place.  `least` is what no scheme can go below for the same change, however it places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from math import ceil

import attrs

from objstore.ids import NodeId
from objstore.ring.balance import shares
from objstore.ring.domains import Leaf, fair_shares, grow_tree
from objstore.ring.layout import Layout
from objstore.ring.ring import Owners, Ring
from objstore.ring.transport import cheapest

_SATURATED = 1e-3  # A share so near to 1 is 1.
_FEW = 10  # Leaves: at most 252 different rows.
_START, _END = "start", "end"


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
    """The least that any scheme must move: the greatest of three lower bounds.

    How much the fair shares grow, of nodes whose share grows at all: it comes from others.
    The places in single rows that cannot stay, as their node is gone or its domain holds
    too many.  And what it takes to bring the widest domains to their fair shares, row by
    row within their caps, whichever of their nodes take part; a node that is to be in
    every row counts as a domain by itself.
    """
    had = shares(before, width)
    grown = (share - had.get(node, 0) for node, share in shares(after, width).items())
    fair = sum(growth for growth in grown if growth > 0) * after.partition_count
    change = _Change(before, after, width)
    return max(fair, change.forced(), change.between_domains())


class _Change:
    """The rows of `before`, seen with the domains of `after`."""

    def __init__(self, before: Layout, after: Layout, width: int) -> None:
        holders = [member for member in after.members if member.holds_data]
        leaves = [Leaf(member.weight, member.domains) for member in holders]
        self._tree = tree = grow_tree(leaves, width)
        fair = fair_shares(tree, leaves)
        leaf_of = {member.node: leaf for leaf, member in enumerate(holders)}
        ring = Ring(before)
        # What stays of each row, and how many rows are alike.
        self._rows: Counter[tuple[int, ...]] = Counter()
        for partition in range(before.partition_count):
            owners = ring.owners_of_partition(partition, width)
            self._rows[
                tuple(leaf_of[n] for n in owners if n is not None and n in leaf_of)
            ] += 1
        # Who moves as one: the leaves of a widest domain that binds.  By itself moves a
        # leaf that is to be in every row, and where leaves are few one of no such domain.
        domains = [path[-1] if path else 0 for path in tree.paths]
        alone = len(leaves) <= _FEW
        self._group = [
            (domain, leaf if share > 1 - _SATURATED or (alone and not domain) else None)
            for leaf, (domain, share) in enumerate(zip(domains, fair, strict=True))
        ]
        self._shares = dict.fromkeys(self._group, 0.0)
        for leaf, share in enumerate(fair):
            self._shares[self._group[leaf]] += share
        self._partition_count = after.partition_count

    def forced(self) -> int:
        tree = self._tree
        forced = 0
        for row, count in self._rows.items():
            held = Counter(domain for leaf in row for domain in tree.paths[leaf])
            over = [held_here - tree.caps[domain] for domain, held_here in held.items()]
            forced += count * (tree.width - len(row) + max([0, *over]))
        return forced

    def between_domains(self) -> float:
        groups = list(self._shares)
        kinds: Counter[tuple[int, ...]] = Counter()
        for row, count in self._rows.items():
            held = Counter(self._group[leaf] for leaf in row)
            kinds[tuple(held[group] for group in groups)] += count
        arcs: list[tuple[Hashable, Hashable, float, int]] = []
        for kind, count in kinds.items():
            arcs.append((_START, kind, self._tree.width * count, 0))
            arcs += [
                (kind, (kind, domain), self._tree.caps[domain] * count, 0)
                for domain in dict.fromkeys(domain for domain, _ in groups)
            ]
            for group, stay in zip(groups, kind, strict=True):
                cap = self._tree.caps[group[0]] if group[1] is None else 1
                arcs.append(((kind, group[0]), group, min(stay, cap) * count, 0))
                arcs.append(((kind, group[0]), group, (cap - min(stay, cap)) * count, 1))
        for group, share in self._shares.items():
            quota = ceil(share * self._partition_count - _SATURATED)
            arcs.append((group, _END, quota, 0))
        return cheapest(arcs, _START, _END)[1]
