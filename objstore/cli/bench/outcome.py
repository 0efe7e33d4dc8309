"""What the workers of a step saw, and what of it is wrong."""

from __future__ import annotations

import attrs


@attrs.define
class Outcome:
    """Counts and latencies, which add up over workers and processes."""

    latencies: list[float] = attrs.Factory(list)  # Seconds.
    statuses: dict[int, int] = attrs.Factory(dict)  # 0: the connection failed.
    failed: int = 0
    moved: int = 0  # Bytes of bodies, both ways.
    stored: int = 0  # Bytes of objects that were written.
    elapsed: float = 0.0
    # Of create-if-absent: how many writers of a key were told that they made it.
    winners: dict[int, int] = attrs.Factory(dict)

    def note(self, status: int, latency: float, *, is_good: bool) -> None:
        """Count one operation."""
        self.latencies.append(latency)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.failed += not is_good

    def add(self, other: Outcome) -> None:
        self.latencies += other.latencies
        self.failed += other.failed
        self.moved += other.moved
        self.stored += other.stored
        for mine, theirs in (
            (self.statuses, other.statuses),
            (self.winners, other.winners),
        ):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count

    def judge_winners(self, keys: int) -> None:
        """Count as failed each of `keys` keys that had no winner, or several."""
        self.failed += sum(self.winners.get(key, 0) != 1 for key in range(keys))

    def percentile(self, fraction: float) -> float:
        """Latency in seconds; 0.0 where nothing was measured."""
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]
