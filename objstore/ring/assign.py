"""The assignment: which leaves hold each partition, even by weight, in few moves.

    cells, width 3      place 0  1  2          a table of partitions x width leaves;
    partition 0               4  0  7          place i of a row holds fragment i;
    partition 1               2  9  4          NOBODY where there are fewer leaves than
    ...                                        places

Counts first, rows second.  `objstore.ring.domains` says how many rows each leaf shall be in
(its fair share, rounded so that few fragments move); then either

- nothing is there yet: *spread*.  Lay the leaves on a line, each as long as its count, the
  leaves of a domain side by side; cut the line into width pieces of one length and lay them
  under each other: the columns are rows of the table.  A leaf is no longer than one piece,
  so it is never twice in a column; a domain no longer than cap pieces, so never more than
  cap times (McNaughton's wrap-around rule, 1959).  Done in batches of partitions, each with
  a line in a new random order, so that a node's partners are many and a lost node is
  rebuilt from and to many; or

- a table is there: *exchange* (`objstore.ring.exchange`), which touches no other row than
  it must, and in a row only the places that change: a fragment never moves from one place
  to another.

Chance comes from a seed, so the same input gives the same table.  Only who proposes a
layout computes one; everybody else reads it from the layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from random import Random

from objstore.ring.domains import Domain, Leaf, Tree, fair_shares, grow_tree, round_shares
from objstore.ring.exchange import NOBODY, Exchange

# Batches of the first spread: more give a node more partners and take longer.
_BATCHES_MAX = 64


def assign(
    leaves: Sequence[Leaf],
    before: Sequence[list[int]] | None,
    *,
    width: int,
    partitions: int,
    seed: int,
) -> list[int]:
    """The cells of the next table: partitions x width leaf numbers or NOBODY, row by row.

    `before`: the rows so far, of `width` places or more, in the leaf numbers of now; NOBODY
    for leaves that are gone.
    """
    if not leaves:
        return [NOBODY] * (partitions * width)
    assert before is None or len(before) == partitions
    random = Random(seed)  # noqa: S311 - spreads load; guards nothing.
    tree = grow_tree(leaves, width)
    quotas = [share * partitions for share in fair_shares(tree, leaves)]
    current = _counts(before or (), len(leaves))
    targets = round_shares(tree, quotas, current, partitions=partitions)
    if before is None or not any(current):
        return _spread(tree, targets, width=width, partitions=partitions, random=random)
    rows = [[leaf for leaf in row if leaf != NOBODY] for row in before]
    exchange = Exchange(tree, rows, targets, quotas, random)
    exchange.run()
    cells: list[int] = []
    for was, row in zip(before, exchange.rows, strict=True):
        cells += _placed(was[:width], row)
    return cells


def _counts(rows: Sequence[list[int]], leaf_count: int) -> list[int]:
    counts = Counter(chain.from_iterable(rows))
    return [counts[leaf] for leaf in range(leaf_count)]


# Spread


def _spread(
    tree: Tree, targets: list[int], *, width: int, partitions: int, random: Random
) -> list[int]:
    batches = 1
    while batches < _BATCHES_MAX and partitions % (2 * batches) == 0:
        batches *= 2
    rest = list(targets)
    empty = [NOBODY] * (width - tree.width)
    rows = partitions // batches
    cells: list[int] = []
    for left in range(batches, 0, -1):
        line = _line(tree, rest, left, rows, random)
        for number in range(rows):
            row = line[number::rows]
            turn = number % tree.width  # Or each piece of the line would be one place.
            cells += row[turn:]
            cells += row[:turn]
            cells += empty
    assert not any(rest)
    return cells


def _line(tree: Tree, rest: list[int], left: int, rows: int, random: Random) -> list[int]:
    """The line of one batch; takes what it lays out from `rest`, the counts to come.

    `left`: how many batches there are to come, this one included.
    """
    line: list[int] = []
    sums: dict[int, int] = {}

    def add_up(domain: Domain) -> int:
        total = sum([rest[leaf] for leaf in domain.leaves])
        total += sum(add_up(child) for child in domain.domains)
        sums[domain.number] = total
        return total

    def lay(domain: Domain, total: int) -> None:
        # Leaves and domains in one random order; each gets an even part of its rest, and
        # the ones that are cut short the most get one more.
        items: list[tuple[float, int, int, Domain | None]] = [
            (random.random(), rest[leaf], leaf, None) for leaf in domain.leaves
        ]
        items += [
            (random.random(), sums[child.number], 0, child) for child in domain.domains
        ]
        items.sort(key=_first)
        counts = [item[1] // left for item in items]
        more = total - sum(counts)
        if more:
            short = [item[1] % left for item in items]
            order = sorted(range(len(items)), key=short.__getitem__, reverse=True)
            for number in order[:more]:
                counts[number] += 1
        for (_, _, leaf, child), count in zip(items, counts, strict=True):
            if child is not None:
                lay(child, count)
            elif count:
                line.extend([leaf] * count)
                rest[leaf] -= count

    add_up(tree.root)
    lay(tree.root, tree.width * rows)
    return line


def _first(item: tuple[float, int, int, Domain | None]) -> float:
    return item[0]


def _placed(was: list[int], row: list[int]) -> list[int]:
    """Who stays keeps its place; who is new takes one that became free."""
    placed = [leaf if leaf in row else NOBODY for leaf in was]
    for leaf in row:
        if leaf not in was:
            placed[placed.index(NOBODY)] = leaf
    return placed
