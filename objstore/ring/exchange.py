"""Exchange: bring an assignment to new counts by as few replacements as can be.

A *row* is the set of leaves that hold one partition; each leaf has a *target*, how many
rows it shall be in.  Three steps, each on what the one before left over:

1. what may not stay goes: leaves that left, leaves too many for a domain's new cap;
2. places are given directly: an empty one, or one of a leaf above its target, to a leaf
   below its target that fits there;
3. the few that fit nowhere directly are moved by chains, found breadth first: y takes x's
   place in one row, and z takes y's in another.  With shortest chains this finds an
   assignment whenever there is one (an augmenting path in a flow network).  Chains that
   only put leaves back where they were at first cost no movement, and are tried first.

Every step keeps rows valid: no leaf twice, no domain over its cap.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from random import Random

import attrs

from objstore.ring.domains import Tree

NOBODY = -1  # An empty place.

# A receiver fits most rows; after so many that do not, the next row is a better bet.
_TRIES_MAX = 32


class Exchange:
    """One change of one table; made, run once, thrown away."""

    def __init__(
        self, tree: Tree, rows: list[list[int]], targets: Sequence[int], random: Random
    ) -> None:
        self.rows = rows  # By partition: the leaves that hold it, in no order.
        self._tree = tree
        self._width = tree.width
        self._random = random
        self._before: dict[int, list[int]] = {}  # Rows as they were, where they changed.
        loads = Counter(leaf for row in rows for leaf in row)
        # Target minus load: above zero, the leaf is to receive; below, to give.
        self._gaps = [target - loads[leaf] for leaf, target in enumerate(targets)]
        self._kinds: _Kinds | None = None  # From step 3 on.

    def run(self) -> None:
        self._evict()
        self._give_empty_places()
        self._trade()
        self._chain()
        self._fill_what_is_empty()

    # One replacement

    def _fits(self, partition: int, out: int, into: int) -> bool:
        """Whether `into` may take the place of `out` (or an empty one) in a row."""
        row = self.rows[partition]
        if into in row:
            return False
        paths = self._tree.paths
        beside = paths[out] if out != NOBODY else ()
        for domain in paths[into]:
            if domain in beside:
                break  # Here and above, one goes and one comes.
            if sum(domain in paths[leaf] for leaf in row) >= self._tree.caps[domain]:
                return False
        return True

    def _replace(self, partition: int, out: int, into: int) -> None:
        row = self.rows[partition]
        before = self._before.setdefault(partition, row.copy())
        if self._kinds is not None:
            self._kinds.drop(partition, row, before)
        if out != NOBODY:
            row.remove(out)
            self._gaps[out] += 1
        if into != NOBODY:
            row.append(into)
            self._gaps[into] -= 1
        if self._kinds is not None:
            self._kinds.add(partition, row, before)

    # Step 1

    def _evict(self) -> None:
        tree = self._tree
        verdicts: dict[tuple[tuple[int, ...], ...], bool] = {}
        for partition, row in enumerate(self.rows):
            while len(row) > self._width:
                self._replace(partition, self._fullest(row), NOBODY)
            if len(tree.caps) == 1:
                continue
            kind = tuple([tree.paths[leaf] for leaf in row])
            valid = verdicts.get(kind)
            if valid is None:
                valid = verdicts[kind] = self._crowded(row) is None
            if not valid:
                while (domain := self._crowded(row)) is not None:
                    inside = [leaf for leaf in row if domain in tree.paths[leaf]]
                    self._replace(partition, self._fullest(inside), NOBODY)

    def _crowded(self, row: list[int]) -> int | None:
        """A domain that holds more of this row than its cap allows."""
        counts = Counter(domain for leaf in row for domain in self._tree.paths[leaf])
        over = (domain for domain, count in counts.items() if count > self._tree.caps[domain])
        return next(over, None)

    def _fullest(self, leaves: Iterable[int]) -> int:
        return min(leaves, key=lambda leaf: (self._gaps[leaf], leaf))

    # Step 2

    def _give_empty_places(self) -> None:
        open_rows = [p for p, row in enumerate(self.rows) if len(row) < self._width]
        if not open_rows:
            return
        self._random.shuffle(open_rows)
        receivers = self._receivers()
        for partition in open_rows:
            for _ in range(self._width - len(self.rows[partition])):
                if (into := self._pick(receivers, partition, NOBODY)) is not None:
                    self._replace(partition, NOBODY, into)

    def _trade(self) -> None:
        gaps = self._gaps
        while True:
            givers = {leaf for leaf, gap in enumerate(gaps) if gap < 0}
            receivers = self._receivers()
            if not givers or not receivers:
                return
            partitions = [p for p, row in enumerate(self.rows) if not givers.isdisjoint(row)]
            self._random.shuffle(partitions)
            # How often each giver will still be met in this pass: one that must give in
            # every row to come goes first, or it is left with what it could not give.
            ahead = Counter(x for p in partitions for x in self.rows[p] if x in givers)
            traded = False
            for partition in partitions:
                ready = [leaf for leaf in self.rows[partition] if leaf in givers]
                ready.sort(key=lambda leaf: gaps[leaf] / ahead[leaf])
                ahead.subtract(ready)
                for out in ready:
                    if gaps[out] >= 0:
                        break
                    if (into := self._pick(receivers, partition, out)) is not None:
                        self._replace(partition, out, into)
                        traded = True
                        break
                if not receivers:
                    break
            if not traded:
                return

    def _receivers(self) -> list[tuple[int, float, int]]:
        """A heap of the leaves below their targets, the most wanting first."""
        random = self._random.random
        heap = [(-gap, random(), leaf) for leaf, gap in enumerate(self._gaps) if gap > 0]
        heapq.heapify(heap)
        return heap

    def _pick(
        self, receivers: list[tuple[int, float, int]], partition: int, out: int
    ) -> int | None:
        """Take the most wanting receiver that fits; its entry goes down by one."""
        passed = []
        found = None
        for _ in range(min(_TRIES_MAX, len(receivers))):
            entry = heapq.heappop(receivers)
            if self._fits(partition, out, entry[2]):
                found = entry[2]
                if entry[0] < -1:
                    entry = (entry[0] + 1, self._random.random(), entry[2])
                    passed.append(entry)
                break
            passed.append(entry)
        for entry in passed:
            heapq.heappush(receivers, entry)
        return found

    # Step 3

    def _chain(self) -> None:
        if not any(gap > 0 for gap in self._gaps):
            return
        kinds = self._kinds = _Kinds(self.rows, self._before, len(self._gaps))
        while any(gap > 0 for gap in self._gaps):
            progress = False
            for kind in list(kinds.rows):
                while kind in kinds.rows and len(kind.now) < self._width:
                    if not self._chain_from(NOBODY, kind):
                        break
                    progress = True
            for leaf in range(len(self._gaps)):
                while self._gaps[leaf] < 0 and self._chain_from(leaf, None):
                    progress = True
            if not progress:
                return

    def _chain_from(self, out: int, kind: _Kind | None) -> bool:
        """Move places from `out` to whoever wants them.  False if there is no way.

        An empty place is one of a row of `kind`.
        """
        chain = self._search(out, kind)
        if chain is None:
            return False
        last = chain[-1][2]
        times = 0
        # The same chain again, through other rows of the same kinds.
        while self._gaps[last] > 0 and (out == NOBODY or self._gaps[out] < 0):
            if not self._follow(chain):
                break
            times += 1
        return times > 0

    def _follow(self, chain: list[tuple[_Kind, int, int]]) -> bool:
        for kind, out, into in reversed(chain):
            partitions = self._kinds.rows.get(kind)
            if not partitions:
                return False
            self._replace(next(iter(partitions)), out, into)
        return True

    def _search(self, start: int, kind: _Kind | None) -> list[tuple[_Kind, int, int]] | None:
        """The cheapest chain of (kind of row, out, into) that ends in a receiver.

        It costs 1 for each leaf that goes into a row where it was not before, in the place
        of one that was.  (Dijkstra's algorithm with a deque, as a link costs 0 or 1.)
        """
        kinds = self._kinds
        came: dict[int, tuple[int, _Kind | None, int]] = {start: (0, None, NOBODY)}
        unmet = dict.fromkeys(leaf for leaf in range(len(self._gaps)) if leaf != start)
        unsettled = dict(unmet)
        queue = deque([(0, start)])
        while queue:
            cost, leaf = queue.popleft()
            if came[leaf][0] < cost or (leaf not in unsettled and leaf != start):
                continue
            unsettled.pop(leaf, None)
            if leaf != NOBODY and leaf != start and self._gaps[leaf] > 0:
                return _chain_to(came, start, leaf)
            for there in (kind,) if kind and leaf == NOBODY else list(kinds.of_leaf[leaf]):
                assert there is not None
                partition = next(iter(kinds.rows[there]))
                is_new = leaf != NOBODY and leaf not in there.before
                free = unsettled if is_new else there.absent
                for into in list(free):
                    if into in unsettled and came.get(into, (cost + 1,))[0] > cost:
                        if self._fits(partition, leaf, into):
                            came[into] = (cost, there, leaf)
                            unmet.pop(into, None)
                            queue.appendleft((cost, into))
                if is_new:
                    continue
                for into in list(unmet):
                    if self._fits(partition, leaf, into):
                        came[into] = (cost + 1, there, leaf)
                        del unmet[into]
                        queue.append((cost + 1, into))
        return None

    def _fill_what_is_empty(self) -> None:
        """Give places that no chain could fill to whoever fits, over its target."""
        for partition, row in enumerate(self.rows):
            while len(row) < self._width:
                order = sorted(range(len(self._gaps)), key=lambda leaf: -self._gaps[leaf])
                fitting = [leaf for leaf in order if self._fits(partition, NOBODY, leaf)]
                absent = [leaf for leaf in order if leaf not in row]
                self._replace(partition, NOBODY, (fitting or absent)[0])


@attrs.frozen
class _Kind:
    """What rows have in common that offer the same replacements."""

    before: frozenset[int]
    now: frozenset[int]

    @property
    def absent(self) -> list[int]:
        return sorted(self.before - self.now)


class _Kinds:
    """The rows by kind: in a small cluster thousands of rows are of few kinds."""

    def __init__(
        self, rows: list[list[int]], before: dict[int, list[int]], leaf_count: int
    ) -> None:
        self.rows: dict[_Kind, dict[int, None]] = {}  # Partitions, none of them empty.
        self.of_leaf: list[dict[_Kind, None]] = [{} for _ in range(leaf_count)]
        for partition, row in enumerate(rows):
            self.add(partition, row, before.get(partition, row))

    def add(self, partition: int, row: list[int], before: list[int]) -> None:
        kind = _Kind(frozenset(before), frozenset(row))
        partitions = self.rows.setdefault(kind, {})
        partitions[partition] = None
        if len(partitions) == 1:
            for leaf in row:
                self.of_leaf[leaf][kind] = None

    def drop(self, partition: int, row: list[int], before: list[int]) -> None:
        kind = _Kind(frozenset(before), frozenset(row))
        partitions = self.rows[kind]
        del partitions[partition]
        if not partitions:
            del self.rows[kind]
            for leaf in row:
                del self.of_leaf[leaf][kind]


def _chain_to(
    came: dict[int, tuple[int, _Kind | None, int]], start: int, last: int
) -> list[tuple[_Kind, int, int]]:
    chain = []
    leaf = last
    while leaf != start:
        _, kind, before = came[leaf]
        assert kind is not None
        chain.append((kind, before, leaf))
        leaf = before
    chain.reverse()
    return chain
