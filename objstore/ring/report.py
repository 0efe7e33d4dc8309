"""The ring's report: how even and how sparing layouts of known shapes are.

For 10, 100 and 1,000 nodes, equal and odd-sized, in 1 to 5 zones of even or uneven size:
lay the cluster out, let one odd-sized node join, let one node leave, and say for each width
in use what docs/concepts/ring.md promises.  `objstore bench ring` prints it, and the tests
hold it to the promises at smaller sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from random import Random

import attrs

from objstore.ids import ChunkId, NodeId
from objstore.ring import balance
from objstore.ring.layout import (
    PARTITION_COUNT,
    WIDTHS,
    Layout,
    Member,
    found,
    with_member,
    without_member,
)
from objstore.ring.moves import least_moved, moved
from objstore.ring.ring import Ring

NODE_COUNTS = (10, 100, 1000)
ZONE_COUNTS = (1, 2, 3, 4, 5)

# What fails with the chunk still readable, by width: replicate:3, ec:4+2, ec:6+3.
_LOST_MAX = {3: 2, 6: 2, 9: 3}
_ODD_WEIGHTS = (200, 500, 1000, 1000, 2000, 10_000)
_EQUAL_WEIGHT = 1000
_JOINING_WEIGHT = 1370
_LOOKUPS = 5000

COLUMNS = (
    ("nodes", "nodes"),
    ("weights", "weights"),
    ("zones", "zones"),
    ("width", "width"),
    ("fullest/attainable", "fullness"),
    ("less a partition", "fullness_net"),
    ("join: moved", "join_moved"),
    ("/least", "join_ratio"),
    ("leave: moved", "leave_moved"),
    ("/least", "leave_ratio"),
    ("crowded", "crowded"),
    ("over m", "over_m"),
    ("lay out s", "layout_s"),
    ("join s", "join_s"),
    ("leave s", "leave_s"),
    ("lookup us", "lookup_us"),
)

Row = dict[str, object]


@attrs.frozen
class Shape:
    """A cluster to lay out."""

    nodes: int
    zones: int
    odd: bool  # Weights from a fiftieth of the largest up, or all equal.
    uneven: bool  # Zone i has i + 1 parts of the nodes, or all the same.

    def members(self) -> list[Member]:
        random = Random(self.nodes * 100 + self.zones)  # noqa: S311 - a fixed cluster.
        parts = [zone for zone in range(self.zones) for _ in range(zone + 1)]
        zones = parts if self.uneven else list(range(self.zones))
        return [
            Member(
                node=NodeId(f"{random.getrandbits(64):016x}"),
                weight=random.choice(_ODD_WEIGHTS) if self.odd else _EQUAL_WEIGHT,
                zone=f"z{zones[number % len(zones)]}",
                host=f"h{number}",
                cluster_address=f"node-{number}.storage.example.net:7401",
                s3_address=f"node-{number}.storage.example.net:7400",
            )
            for number in range(self.nodes + 1)  # The last is to join.
        ]


def shapes(
    node_counts: Iterable[int] = NODE_COUNTS, zone_counts: Iterable[int] = ZONE_COUNTS
) -> Iterator[Shape]:
    for nodes, odd, zones in product(node_counts, (False, True), zone_counts):
        yield Shape(nodes, zones, odd, uneven=False)
        if zones > 1:
            yield Shape(nodes, zones, odd, uneven=True)


def measure(
    clock: Callable[[], float],
    chosen: Iterable[Shape] | None = None,
    *,
    partition_count: int = PARTITION_COUNT,
    widths: tuple[int, ...] = WIDTHS,
) -> list[Row]:
    """A row for each shape and width, keyed as COLUMNS say.  `clock`: CPU seconds."""
    rows: list[Row] = []
    for shape in shapes() if chosen is None else chosen:
        rows += measure_shape(clock, shape, partition_count=partition_count, widths=widths)
    return rows


def measure_shape(
    clock: Callable[[], float],
    shape: Shape,
    *,
    partition_count: int = PARTITION_COUNT,
    widths: tuple[int, ...] = WIDTHS,
) -> list[Row]:
    *members, newcomer = shape.members()
    newcomer = attrs.evolve(newcomer, weight=_JOINING_WEIGHT)
    leaver = members[shape.nodes // 2].node

    layout, layout_s = _timed(
        clock, lambda: found(members, partition_count=partition_count, widths=widths)
    )
    joined, join_s = _timed(clock, lambda: with_member(layout, newcomer))
    left, leave_s = _timed(clock, lambda: without_member(layout, leaver))
    ring = Ring(layout)
    rows: list[Row] = []
    for width in widths:
        fullness = [balance.fullest(each, width) for each in (layout, joined, left)]
        row: Row = {
            "nodes": shape.nodes,
            "weights": "odd" if shape.odd else "equal",
            "zones": f"{shape.zones}{' uneven' if shape.uneven else ''}",
            "width": width,
            "fullness": round(max(plain for plain, _ in fullness), 4),
            "fullness_net": round(max(net for _, net in fullness), 4),
            "crowded": sum(balance.crowded(each, width) for each in (layout, joined, left)),
            "over_m": _over_m((layout, joined, left), width),
            "layout_s": round(layout_s, 3),
            "join_s": round(join_s, 3),
            "leave_s": round(leave_s, 3),
            "lookup_us": round(_lookup_us(clock, ring, width), 2),
        }
        for name, after in (("join", joined), ("leave", left)):
            count = moved(layout, after, width)
            least = least_moved(layout, after, width)
            row[f"{name}_moved"] = count
            row[f"{name}_least"] = round(least, 2)
            row[f"{name}_ratio"] = round(count / least, 3) if least else 1.0
        rows.append(row)
    return rows


def _timed(clock: Callable[[], float], make: Callable[[], Layout]) -> tuple[Layout, float]:
    start = clock()
    made = make()
    return made, clock() - start


def _over_m(layouts: tuple[Layout, ...], width: int) -> int:
    lost_max = _LOST_MAX.get(width)
    if lost_max is None:
        return 0
    return sum(balance.crowded(each, width, lost_max=lost_max) for each in layouts)


def _lookup_us(clock: Callable[[], float], ring: Ring, width: int) -> float:
    random = Random(width)  # noqa: S311 - chunk ids to look up.
    chunks = [ChunkId(random.randbytes(16)) for _ in range(_LOOKUPS)]
    start = clock()
    for chunk in chunks:
        ring.owners(chunk, width)
    return (clock() - start) * 1e6 / _LOOKUPS
