"""Transport: the cheapest way to carry as much as can be carried through a network.

    start --10 at 0--> a --4 at 0--> end         an arc has room, and a cost for each unit
                       a --9 at 1--> b --7 at 0--> end

A minimum-cost flow by successive cheapest paths (Bellman and Ford, with a queue), for
networks of some thousand arcs: `objstore.ring.moves` asks it what a change must move at
least.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

import attrs

_NOTHING = 1e-6  # Amounts below are rounding of floats.


@attrs.define
class _Arc:
    target: int
    room: float
    cost: int


def cheapest(
    arcs: Iterable[tuple[Hashable, Hashable, float, int]], start: Hashable, end: Hashable
) -> tuple[float, float]:
    """The most that can be carried from `start` to `end`, and the least that it costs.

    `arcs`: from, to, room, cost of one unit (0 or more).
    """
    numbers: dict[Hashable, int] = {start: 0, end: 1}
    network = _Network()
    for source, target, room, cost in arcs:
        if room > _NOTHING:
            from_number = numbers.setdefault(source, len(numbers))
            network.add(from_number, numbers.setdefault(target, len(numbers)), room, cost)
    carried = spent = 0.0
    while path := network.cheapest_path(0, 1):
        amount = min(network.arcs[number].room for number in path)
        for number in path:
            network.arcs[number].room -= amount
            network.arcs[number ^ 1].room += amount
        carried += amount
        spent += amount * sum(network.arcs[number].cost for number in path)
    return carried, spent


class _Network:
    def __init__(self) -> None:
        self.arcs: list[_Arc] = []  # In pairs: number ^ 1 is the way back.
        self._leaving: dict[int, list[int]] = {}

    def add(self, source: int, target: int, room: float, cost: int) -> None:
        self._leaving.setdefault(source, []).append(len(self.arcs))
        self.arcs.append(_Arc(target, room, cost))
        self._leaving.setdefault(target, []).append(len(self.arcs))
        self.arcs.append(_Arc(source, 0.0, -cost))

    def cheapest_path(self, start: int, end: int) -> list[int]:
        """The arcs of the cheapest path with room; empty if there is none."""
        costs = {start: 0}
        came: dict[int, int] = {}
        queue = deque([start])
        queued = {start}
        while queue:
            node = queue.popleft()
            queued.discard(node)
            for number in self._leaving.get(node, ()):
                arc = self.arcs[number]
                cost = costs[node] + arc.cost
                if arc.room > _NOTHING and cost < costs.get(arc.target, cost + 1):
                    costs[arc.target] = cost
                    came[arc.target] = number
                    if arc.target not in queued:
                        queued.add(arc.target)
                        queue.append(arc.target)
        path: list[int] = []
        while end != start and end in came:
            path.append(came[end])
            end = self.arcs[came[end] ^ 1].target
        return path
