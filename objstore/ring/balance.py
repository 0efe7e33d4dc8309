"""Balance: how even a layout is, and how even any layout of its members could be.

    load         rows of a table that a node is in
    share        the fair part of a chunk's fragments that a node can have (ring.domains)
    attainable   share x partitions: the load of a perfect table
    crowded      a domain with more fragments of one chunk than it need have

Pure arithmetic over one layout, for reports, `plan` and tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from objstore.ids import NodeId
from objstore.ring.domains import Leaf, fair_shares, grow_tree
from objstore.ring.layout import Layout, Table


def loads(layout: Layout, width: int) -> dict[NodeId, int]:
    """How many fragments' places each member has, of all partitions."""
    counts = Counter(_table(layout, width).indexes())
    return {member.node: counts[index] for index, member in enumerate(layout.members)}


def shares(layout: Layout, width: int) -> dict[NodeId, float]:
    """The fair share of each member: 0 to 1 fragment of a chunk, on average."""
    holders = [member for member in layout.members if member.holds_data]
    leaves = [Leaf(member.weight, member.domains) for member in holders]
    found = dict.fromkeys((member.node for member in layout.members), 0.0)
    fair = fair_shares(grow_tree(leaves, width), leaves)
    found.update((member.node, share) for member, share in zip(holders, fair, strict=True))
    return found


def fullest(layout: Layout, width: int) -> tuple[float, float]:
    """The fullest node's load over its attainable one: plainly, and less one partition."""
    loaded = loads(layout, width)
    plain = net = 0.0
    for node, share in shares(layout, width).items():
        if share > 0:
            attainable = share * layout.partition_count
            plain = max(plain, loaded[node] / attainable)
            net = max(net, (loaded[node] - 1) / attainable)
    return plain, net


def crowded(layout: Layout, width: int, *, lost_max: int | None = None) -> int:
    """Rows in which a failure domain holds more fragments than it need.

    At each level of domains (zone, rack, host), no domain need hold more than the least
    number at which all of that level have room for the row.  With `lost_max` (a scheme's
    m), only rows count in which losing one zone would lose more than that, needlessly.
    """
    rows = Counter(_rows(_table(layout, width)))
    over = 0
    for level in range(1 if lost_max is not None else 3):
        names = [member.domains[: level + 1] for member in layout.members]
        sizes = Counter(
            name for name, m in zip(names, layout.members, strict=True) if m.holds_data
        )
        if not sizes:
            continue
        allowed = _allowed(sizes, width)
        if lost_max is not None and allowed > lost_max:
            continue  # It cannot be met.
        allowed = max(allowed, lost_max or 0)
        if level and not _evenly_nested(sizes):
            continue  # What is least here is for each parent to say.
        for row, count in rows.items():
            held = Counter(names[index] for index in row if index < len(names))
            over += count * (max(held.values(), default=0) > allowed)
    return over


def _allowed(sizes: Counter[tuple[str, ...]], width: int) -> int:
    total = min(width, sizes.total())
    allowed = -(-total // len(sizes))
    while sum(min(allowed, size) for size in sizes.values()) < total:
        allowed += 1
    return allowed


def _evenly_nested(sizes: Counter[tuple[str, ...]]) -> bool:
    """Whether every parent has as many domains of this level, all of one size."""
    parents = Counter(name[:-1] for name in sizes)
    return len(set(parents.values())) == 1 and len(set(sizes.values())) == 1


def _rows(table: Table) -> Iterator[tuple[int, ...]]:
    cells = table.indexes()
    return (
        tuple(cells[start : start + table.width])
        for start in range(0, len(cells), table.width)
    )


def _table(layout: Layout, width: int) -> Table:
    table = layout.table(width)
    assert table is not None, f"the layout has no table of width {width}"
    return table
