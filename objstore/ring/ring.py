"""The ring: which nodes hold a chunk, by one epoch's layout.

    chunk id --crc32--> partition --table of the width--> ordered owners

    owners(chunk, 3)      (n4, n0, n7): fragment i is for the i-th
    owners(chunk, 6)      (n2, n4, n9, n1, None, None): only four nodes hold data

A ring is a pure function of one layout: any node that has the record gives the same answer.
A width without a table of its own is answered from the next wider table (or the widest),
row by row: the first places that keep to the width's own domain caps.  That is sane, not
exact: the promises of docs/concepts/ring.md hold for the widths in the layout.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Collection, Iterator

from objstore.ids import ChunkId, Epoch, NodeId
from objstore.ring.domains import Leaf, Tree, grow_tree
from objstore.ring.layout import TABLE_WIDTH_MAX, Layout, Member

Owners = tuple[NodeId | None, ...]

_CRC_SPAN = 1 << 32


class Ring:
    """The placement of one epoch."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.epoch: Epoch = layout.epoch
        # The last is nobody: a table says so by the count of members.
        self._names: tuple[NodeId | None, ...] = (*(m.node for m in layout.members), None)
        self._mask = layout.partition_count - 1
        self._cells = {table.width: table.indexes() for table in layout.tables}
        self._holders = [m for m in layout.members if m.holds_data]
        self._derived: dict[int, _Derived] = {}

    def partition_of(self, chunk: ChunkId) -> int:
        return zlib.crc32(chunk) & self._mask

    def owners(self, chunk: ChunkId, width: int) -> Owners:
        """The nodes for the fragments of `chunk`: place i holds fragment i.

        All different; None where there are fewer nodes than places.
        """
        return self.owners_of_partition(zlib.crc32(chunk) & self._mask, width)

    def owners_of_partition(self, partition: int, width: int) -> Owners:
        cells = self._cells.get(width)
        if cells is None:
            return self._derive(partition, width)
        names = self._names
        start = partition * width
        return tuple([names[index] for index in cells[start : start + width]])

    def stand_ins(
        self, chunk: ChunkId, width: int, *, without: Collection[NodeId] = ()
    ) -> Iterator[NodeId]:
        """Nodes that hold data and do not own `chunk`, the best replacement first.

        Other failure domains than those of the owners come first; `without` names owners
        that failed, whose domains are therefore free.  Among equals the order is by chunk
        and weight, so that no node stands in for all.  Whether a node is alive is for the
        caller to know.
        """
        owners = {node for node in self.owners(chunk, width) if node is not None}
        members = [self.layout.member(node) for node in owners if node not in without]
        taken: Counter[tuple[str, ...]] = Counter()
        for member in members:
            taken.update(_prefixes(member))
        rest = [
            (_rank(chunk, member), member)
            for member in self._holders
            if member.node not in owners
        ]
        rest.sort(key=lambda ranked: ranked[0])
        while rest:
            chosen = min(rest, key=lambda ranked: _crowding(taken, ranked[1]))
            rest.remove(chosen)
            taken.update(_prefixes(chosen[1]))
            yield chosen[1].node

    def _derive(self, partition: int, width: int) -> Owners:
        derived = self._derived.get(width)
        if derived is None:
            assert 1 <= width <= TABLE_WIDTH_MAX
            derived = self._derived[width] = _Derived(self, self._holders, width)
        return derived.owners(partition)


class _Derived:
    """Placement for a width that the layout has no table for."""

    def __init__(self, ring: Ring, holders: list[Member], width: int) -> None:
        self._ring = ring
        self._holders = holders
        self._width = width
        self._leaf = {member.node: leaf for leaf, member in enumerate(holders)}
        leaves = [Leaf(member.weight, member.domains) for member in holders]
        self._tree: Tree = grow_tree(leaves, width)
        widths = ring.layout.widths
        self._source = next((w for w in widths if w >= width), max(widths, default=0))

    def owners(self, partition: int) -> Owners:
        """The first of the wider row that keep to the caps, then others that do."""
        chosen: list[int] = []
        taken: Counter[int] = Counter()
        tree = self._tree
        for leaf in self._candidates(partition):
            if len(chosen) == tree.width:
                break
            path = tree.paths[leaf]
            if leaf not in chosen and all(taken[d] < tree.caps[d] for d in path):
                chosen.append(leaf)
                taken.update(path)
        names = [self._holders[leaf].node for leaf in chosen]
        return (*names, *[None] * (self._width - len(names)))

    def _candidates(self, partition: int) -> Iterator[int]:
        if self._source:
            row = self._ring.owners_of_partition(partition, self._source)
            # A different place comes first from row to row, so that the places that are
            # left out are not always the same nodes'.
            turn = partition % self._source if self._source > self._width else 0
            for node in (*row[turn:], *row[:turn]):
                if node is not None:
                    yield self._leaf[node]
        key = partition.to_bytes(4, "big")
        yield from sorted(
            range(len(self._holders)), key=lambda leaf: _rank(key, self._holders[leaf])
        )


def _rank(key: bytes, member: Member) -> float:
    """Weighted rendezvous hashing: the least comes first, in proportion to weight."""
    drawn = (zlib.crc32(member.node.encode(), zlib.crc32(key)) + 1) / (_CRC_SPAN + 1)
    return -math.log(drawn) / member.weight


def _prefixes(member: Member) -> list[tuple[str, ...]]:
    domains = member.domains
    return [domains[: level + 1] for level in range(len(domains))]


def _crowding(taken: Counter[tuple[str, ...]], member: Member) -> list[int]:
    return [taken[prefix] for prefix in _prefixes(member)]
