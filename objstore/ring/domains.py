"""Failure domains: how many fragments of a chunk each may hold, and each node's fair share.

    root, cap 6
     zone a, cap 2      no domain holds more than its cap of one chunk's fragments.  The
     zone b, cap 2      caps of siblings are the least that leave room for all of their
     zone c, cap 2      parent's: ceil(width / domains) where each has nodes enough.
      rack c1, cap 1
      rack c2, cap 1    A level that cannot bind (one zone, one rack, as many nodes as the
       node, node ...   cap) is left out, so the tree is mostly flat.

The *share* of a node is how many fragments of a chunk it holds on average.  It is at most
1 (one node, one fragment) and the shares below a domain add up to at most its cap.  Within
that, shares are proportional to weights: a domain or node that is full at its cap leaves
the rest to the others in proportion (water filling, level by level).  The outcome is the
fairest there is: the fullest node cannot be less full, nor then the next, under the same
caps.  The tests compare it with a max-flow.

Leaves are numbered 0 .. count - 1 here; `objstore.ring.assign` knows which node is which.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import attrs

# Float sums of shares are this near to whole numbers when they mean one.
_EPSILON = 1e-6
_BISECTIONS = 100  # Halves any float interval down to neighbouring floats.


@attrs.frozen
class Leaf:
    """A node that may hold fragments, as the tree sees it."""

    weight: float  # Above zero.
    path: tuple[str, ...]  # Its domains from the widest to the narrowest: zone, rack, host.


@attrs.define
class Domain:
    """A set of nodes that may hold at most `cap` fragments of one chunk."""

    number: int  # The root's is 0.
    cap: int
    leaves: list[int]  # Directly below.
    domains: list[Domain]

    def all_leaves(self) -> list[int]:
        below = list(self.leaves)
        for domain in self.domains:
            below += domain.all_leaves()
        return below


@attrs.frozen
class Tree:
    """The domains of a set of leaves, for chunks of one width."""

    root: Domain
    caps: list[int]  # By domain number.
    paths: list[tuple[int, ...]]  # By leaf: its domains, narrowest first, without the root.

    @property
    def width(self) -> int:
        """How many fragments of a chunk find a place: fewer if nodes are few."""
        return self.root.cap


def grow_tree(leaves: Sequence[Leaf], width: int) -> Tree:
    """Find the domains that bind chunks of `width` fragments, and their caps."""
    caps: list[int] = []
    paths: list[tuple[int, ...]] = [()] * len(leaves)

    def new_domain(cap: int, members: list[int], level: int) -> Domain:
        number = len(caps)
        caps.append(cap)
        if number:
            for leaf in members:
                paths[leaf] = (number, *paths[leaf])
        domain = Domain(number, cap, [], [])
        fill(domain, members, level, cap)
        return domain

    def fill(domain: Domain, members: list[int], level: int, cap: int) -> None:
        if level == len(leaves[members[0]].path) or cap >= len(members):
            domain.leaves += members
            return
        groups: dict[str, list[int]] = {}
        for leaf in members:
            groups.setdefault(leaves[leaf].path[level], []).append(leaf)
        most = _least_cap([len(group) for group in groups.values()], cap)
        for group in groups.values():
            group_cap = min(most, len(group))
            if group_cap >= cap or group_cap == len(group):
                fill(domain, group, level + 1, group_cap)
            else:
                domain.domains.append(new_domain(group_cap, group, level + 1))

    root_cap = min(width, len(leaves))
    if not leaves:
        return Tree(Domain(0, 0, [], []), [0], [])
    return Tree(new_domain(root_cap, list(range(len(leaves))), 0), caps, paths)


def _least_cap(sizes: list[int], total: int) -> int:
    """The least cap at which domains of these sizes hold `total` fragments together."""
    cap = -(-total // len(sizes))
    while sum(min(cap, size) for size in sizes) < total:
        cap += 1
    return cap


# Shares


class _Level:
    """How much a domain takes at a water level: weight times level, up to caps."""

    def __init__(self, domain: Domain, leaves: Sequence[Leaf]) -> None:
        self.domain = domain
        self.weights = sorted(leaves[leaf].weight for leaf in domain.leaves)
        self.sums = [0.0, *accumulate(self.weights)]
        self.below = [_Level(child, leaves) for child in domain.domains]
        least = [self.weights[0]] if self.weights else []
        self.weight_min: float = min([*least, *(child.weight_min for child in self.below)])

    def taken(self, level: float) -> float:
        partly = bisect_left(self.weights, 1 / level) if level > 0 else len(self.weights)
        direct = self.sums[partly] * level + (len(self.weights) - partly)
        return direct + sum(
            min(child.domain.cap, child.taken(level)) for child in self.below
        )

    def level_for(self, total: float) -> float:
        """The least level at which `total` is taken."""
        low, high = 0.0, 1 / self.weight_min
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if middle in (low, high):
                break
            if self.taken(middle) < total:
                low = middle
            else:
                high = middle
        return high


def fair_shares(tree: Tree, leaves: Sequence[Leaf]) -> list[float]:
    """The share of each leaf: 0 to 1, in all `tree.width`."""
    shares = [0.0] * len(leaves)

    def pour(level: _Level, total: float) -> None:
        height = level.level_for(total)
        for leaf in level.domain.leaves:
            shares[leaf] = min(1.0, leaves[leaf].weight * height)
        for child in level.below:
            pour(child, min(child.domain.cap, child.taken(height)))

    if leaves:
        pour(_Level(tree.root, leaves), tree.width)
    return shares


# Whole numbers


def round_shares(
    tree: Tree, quotas: Sequence[float], current: Sequence[int], *, partitions: int
) -> list[int]:
    """Round each leaf's quota down or up, so that every domain keeps to its cap exactly.

    `quotas`: by leaf, share times `partitions`.  Which leaves get the larger number is
    chosen so that few fragments leave the `current` ones.  The sum is width x partitions.
    """
    counts = [0] * len(quotas)

    def sums(domain: Domain) -> tuple[float, int]:
        quota = sum(quotas[leaf] for leaf in domain.leaves)
        held = sum(current[leaf] for leaf in domain.leaves)
        for child in domain.domains:
            child_quota, child_held = sums(child)
            quota += child_quota
            held += child_held
        return quota, held

    def share_out(domain: Domain, total: int) -> None:
        below = [sums(child) for child in domain.domains]
        wished = [quotas[leaf] for leaf in domain.leaves] + [quota for quota, _ in below]
        held = [current[leaf] for leaf in domain.leaves] + [held for _, held in below]
        rooms = [partitions] * len(domain.leaves)
        rooms += [child.cap * partitions for child in domain.domains]
        given = _round(wished, held, rooms, total)
        for leaf, count in zip(domain.leaves, given, strict=False):
            counts[leaf] = count
        for child, count in zip(domain.domains, given[len(domain.leaves) :], strict=True):
            share_out(child, count)

    share_out(tree.root, tree.width * partitions)
    return counts


def _round(wished: list[float], held: list[int], rooms: list[int], total: int) -> list[int]:
    given = [
        min(int(wish + _EPSILON), room) for wish, room in zip(wished, rooms, strict=True)
    ]
    missing = total - sum(given)
    # Whoever holds more than its rounded-down quota need give nothing up when rounded up.
    order = sorted(
        range(len(wished)), key=lambda i: (held[i] <= given[i], given[i] - wished[i])
    )
    for by_fraction in (True, False):
        for i in order:
            if missing <= 0:
                break
            if given[i] < rooms[i] and (not by_fraction or wished[i] - given[i] > _EPSILON):
                given[i] += 1
                missing -= 1
    for i in reversed(order):
        if missing >= 0:
            break
        if given[i] > 0:
            given[i] -= 1
            missing += 1
    assert missing == 0
    return given
