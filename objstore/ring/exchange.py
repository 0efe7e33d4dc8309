"""Exchange: bring an assignment to new counts by as few replacements as can be.

A *row* is the set of leaves that hold one partition; each leaf has a *target*, how many
rows it shall be in.  Three steps, each on what the one before left over:

1. what may not stay goes: leaves that left, leaves too many for a domain's new cap;
2. places are given directly: an empty one, or one of a leaf above its target, to a leaf
   below its target that fits there;
3. what fits nowhere directly goes where it fits, and comes from where it can, while a leaf
   is off its target by no more than _SLACK: that costs no further movement.  The rest is
   moved by chains: y takes x's place in one row, and z takes y's in another.  With cheapest
   chains this finds an assignment whenever there is one (augmenting paths in a flow
   network); a chain that only puts leaves back, or gives what was just given to another,
   costs nothing.

Every step keeps rows valid: no leaf twice, no domain over its cap.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from math import ceil
from random import Random

import attrs

from objstore.ring.domains import Tree

NOBODY = -1  # An empty place.

# A receiver fits most rows; after so many that do not, the next row is a better bet.
_TRIES_MAX = 32

# How far a load may be off its target before data is moved twice for it.  Half of what is
# promised (DESIGN 3), so that one change after another keeps the promise.
_SLACK = 0.01

# A search for chains ends after so many looks at (row, leaf): about two seconds.  What is
# off its target then stays so until the next change.
_LOOKS_MAX = 2_000_000

_SAMPLE_MAX = 64  # Rows looked at to see how often a receiver fits.


# Minus its want; chance; the leaf; how much one row counts.
_Receiver = tuple[float, float, int, float]


class Exchange:
    """One change of one table; made, run once, thrown away."""

    def __init__(
        self,
        tree: Tree,
        rows: list[list[int]],
        targets: Sequence[int],
        quotas: Sequence[float],
        random: Random,
    ) -> None:
        self.rows = rows  # By partition: the leaves that hold it, in no order.
        self._tree = tree
        self._width = tree.width
        self._random = random
        self._before: dict[int, list[int]] = {}  # Rows as they were, where they changed.
        loads = Counter(leaf for row in rows for leaf in row)
        # Target minus load: above zero, the leaf is to receive; below, to give.
        self._gaps = [target - loads[leaf] for leaf, target in enumerate(targets)]
        # How far above and below the gap may stay: a load of quota x (1 +- _SLACK) +- 1.
        pairs = list(zip(targets, quotas, strict=True))
        self._room = [
            max(0, int(quota * (1 + _SLACK) + 1) - target) for target, quota in pairs
        ]
        self._lack = [
            max(0, target - ceil(quota * (1 - _SLACK) - 1)) for target, quota in pairs
        ]
        self._kinds: _Kinds | None = None  # From step 3 on.
        self._looks_left = _LOOKS_MAX

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
        over = (
            domain for domain, count in counts.items() if count > self._tree.caps[domain]
        )
        return next(over, None)

    def _fullest(self, leaves: Iterable[int]) -> int:
        return min(leaves, key=lambda leaf: (self._gaps[leaf], leaf))

    # Step 2

    def _give_empty_places(self) -> None:
        open_rows = [p for p, row in enumerate(self.rows) if len(row) < self._width]
        if not open_rows:
            return
        self._random.shuffle(open_rows)
        receivers = self._receivers([(partition, NOBODY) for partition in open_rows])
        for partition in open_rows:
            for _ in range(self._width - len(self.rows[partition])):
                if (into := self._pick(receivers, partition, NOBODY)) is not None:
                    self._replace(partition, NOBODY, into)

    def _trade(self) -> None:
        gaps, rows = self._gaps, self.rows
        while True:
            givers = {leaf for leaf, gap in enumerate(gaps) if gap < 0}
            if not givers or not any(gap > 0 for gap in gaps):
                return
            partitions = [
                p for p, row in enumerate(self.rows) if not givers.isdisjoint(row)
            ]
            self._random.shuffle(partitions)
            # How often each giver will still be met in this pass: one that must give in
            # every row to come goes first, or it is left with what it could not give.
            ahead = Counter(x for p in partitions for x in rows[p] if x in givers)
            receivers = self._receivers(
                [
                    (p, x)
                    for p in partitions[:_SAMPLE_MAX]
                    for x in self.rows[p]
                    if x in givers
                ]
            )
            traded = False
            for partition in partitions:
                ready = [leaf for leaf in rows[partition] if leaf in givers]
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

    def _receivers(self, places: list[tuple[int, int]]) -> list[_Receiver]:
        """A heap of the leaves below their targets, the one with most want first.

        Want is the gap over how many `places` (partition, leaf to go) fit: who fits in few
        must not find them taken.
        """
        sample = places[:_SAMPLE_MAX]
        heap: list[_Receiver] = []
        for leaf, gap in enumerate(self._gaps):
            if gap > 0:
                fitting = sum(self._fits(partition, out, leaf) for partition, out in sample)
                weight = len(sample) / (fitting or 0.5)
                heap.append((-gap * weight, self._random.random(), leaf, weight))
        heapq.heapify(heap)
        return heap

    def _pick(self, receivers: list[_Receiver], partition: int, out: int) -> int | None:
        """Take the most wanting receiver that fits; it wants one less."""
        passed = []
        found = None
        for _ in range(min(_TRIES_MAX, len(receivers))):
            entry = heapq.heappop(receivers)
            leaf = entry[2]
            if self._fits(partition, out, leaf):
                found = leaf
                if self._gaps[leaf] > 1:
                    want = (1 - self._gaps[leaf]) * entry[3]
                    passed.append((want, self._random.random(), leaf, entry[3]))
                break
            passed.append(entry)
        for entry in passed:
            heapq.heappush(receivers, entry)
        return found

    # Step 3

    def _chain(self) -> None:
        gaps, room, lack = self._gaps, self._room, self._lack
        for partition, row in enumerate(self.rows):
            while len(row) < self._width and self._absorb(partition):
                pass
        for leaf, gap in enumerate(gaps):
            if gap > lack[leaf]:
                self._borrow(leaf)
        empty = [p for p, row in enumerate(self.rows) if len(row) < self._width]
        wanting = [leaf for leaf, gap in enumerate(gaps) if gap > lack[leaf]]
        giving = [leaf for leaf, gap in enumerate(gaps) if -gap > room[leaf]]
        if not (empty or wanting or giving):
            return
        self._kinds = _Kinds(self.rows, self._before, len(gaps))
        for partition in empty:
            while len(row := self.rows[partition]) < self._width:
                before = self._before.get(partition, row)
                if not self._chain_from(
                    NOBODY, _Kind(frozenset(before), frozenset(row)), 0
                ):
                    break
        for leaf in giving:
            while -gaps[leaf] > room[leaf] and self._chain_from(leaf, None, 0):
                pass
        # Whoever still wants much gets it from whoever has the least too much.
        for leaf in range(len(gaps)):
            while gaps[leaf] < 0 and self._chain_from(leaf, None, None):
                pass

    def _absorb(self, partition: int) -> bool:
        """Give an empty place to a leaf within its slack, whoever has most of it left."""
        left = [gap + room for gap, room in zip(self._gaps, self._room, strict=True)]
        leaves = [leaf for leaf, count in enumerate(left) if count > 0]
        for leaf in sorted(leaves, key=lambda leaf: (-left[leaf], leaf)):
            if self._fits(partition, NOBODY, leaf):
                self._replace(partition, NOBODY, leaf)
                return True
        return False

    def _borrow(self, into: int) -> None:
        """Give `into` places of leaves that may lack them, until it lacks little itself."""
        gaps, lack = self._gaps, self._lack
        order = list(range(len(self.rows)))
        self._random.shuffle(order)
        for partition in order:
            if gaps[into] <= lack[into]:
                return
            row = self.rows[partition]
            if into in row:
                continue
            out = max(row, key=lambda leaf: lack[leaf] - gaps[leaf])
            if gaps[out] < lack[out] and self._fits(partition, out, into):
                self._replace(partition, out, into)

    def _chain_from(self, out: int, kind: _Kind | None, want_min: int | None) -> bool:
        """Move places from `out` to whoever wants them.  False if there is no way.

        An empty place is one of a row of `kind`.  Who wants: whose gap is above
        `want_min`, None standing for what the leaf may lack.
        """
        wanting = {
            leaf
            for leaf, gap in enumerate(self._gaps)
            if gap > (self._lack[leaf] if want_min is None else want_min)
        }
        chain = (
            self._search(out, kind, wanting) if wanting and self._looks_left > 0 else None
        )
        if chain is None:
            return False
        last = chain[-1].into
        times = 0
        # The same chain again, through other rows of the same kinds.
        while self._gaps[last] > 0 and (out == NOBODY or self._gaps[out] < 0):
            if not self._follow(chain):
                break
            times += 1
        return times > 0

    def _follow(self, chain: list[_Link]) -> bool:
        assert self._kinds is not None
        for link in reversed(chain):
            # Two links may want the same row.  What was done is valid all the same, and
            # the next search starts from there.
            partitions = self._kinds.rows.get(link.kind)
            if not partitions:
                return False
            self._replace(next(iter(partitions)), link.out, link.into)
        return True

    def _search(
        self, start: int, kind: _Kind | None, wanting: set[int]
    ) -> list[_Link] | None:
        """The cheapest chain from `start` that ends in one of `wanting`.

        A link costs 1 if it puts a leaf where it was not before in the place of one that
        was, else nothing.  (Dijkstra's algorithm with a deque, as costs are 0 and 1.)
        """
        kinds = self._kinds
        assert kinds is not None
        costs = {start: 0}
        came: dict[int, _Link] = {}
        unmet = dict.fromkeys(leaf for leaf in range(len(self._gaps)) if leaf != start)
        unsettled = dict(unmet)
        queue = deque([start])
        while queue:
            leaf = queue.popleft()
            if leaf in wanting:
                return _chain_to(came, start, leaf)
            if leaf != start and leaf not in unsettled:
                continue  # It was met again, cheaper, and is settled.
            unsettled.pop(leaf, None)
            cost = costs[leaf]
            self._looks_left -= len(unmet) * len(kinds.of_leaf[leaf])
            for there in (kind,) if leaf == NOBODY else kinds.of_leaf[leaf]:
                assert there is not None
                partition = next(iter(kinds.rows[there]))
                is_new = leaf != NOBODY and leaf not in there.before
                for into in list(unsettled) if is_new else there.absent:
                    if into not in unsettled or costs.get(into, cost + 1) <= cost:
                        continue
                    if self._fits(partition, leaf, into):
                        costs[into] = cost
                        came[into] = _Link(there, leaf, into)
                        unmet.pop(into, None)
                        queue.appendleft(into)
                if is_new:
                    continue
                for into in list(unmet):
                    if self._fits(partition, leaf, into):
                        costs[into] = cost + 1
                        came[into] = _Link(there, leaf, into)
                        del unmet[into]
                        queue.append(into)
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

    absent: tuple[int, ...] = attrs.field(
        init=False, eq=False
    )  # Of `before`, not of `now`.

    @absent.default
    def _absent(self) -> tuple[int, ...]:
        return tuple(sorted(self.before - self.now))


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


@attrs.frozen
class _Link:
    """In a row of `kind`, `into` takes the place of `out`."""

    kind: _Kind
    out: int
    into: int


def _chain_to(came: dict[int, _Link], start: int, last: int) -> list[_Link]:
    chain = []
    leaf = last
    while leaf != start:
        link = came[leaf]
        chain.append(link)
        leaf = link.out
    chain.reverse()
    return chain
