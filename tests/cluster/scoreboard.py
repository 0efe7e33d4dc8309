"""What a run under faults is judged by, told in one line.

    acked=4210 lost=0 wrong=0 stale=0 undecided=0 gap=1.4s slowest=2.2s 503=17

lost: acknowledged and not there.  wrong: bytes that nobody wrote under that key.  stale:
keys whose history no order of operations explains.  gap: the longest time without an
acknowledged write.  slowest: of the requests to nodes that were up from its begin to its
end, whatever they answered.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

# No request of a client whose node is up may take longer: `http.request_timeout`, and
# what moving its bytes and a busy machine add.
SLOWEST_S = 10.0


@attrs.define
class Scoreboard:
    """Counts of all workers of a run, told by them as they go."""

    acked: int = 0  # Writes.
    lost: list[str] = attrs.Factory(list)
    wrong: list[str] = attrs.Factory(list)
    stale: list[str] = attrs.Factory(list)
    undecided: list[str] = attrs.Factory(list)
    statuses: Counter[int] = attrs.Factory(Counter)
    slowest_s: float = 0.0
    slowest: str = ""  # Which request that was.
    longest_gap_s: float = 0.0
    last_ack: float = attrs.Factory(time.monotonic)
    _up_since: dict[int, float] = attrs.Factory(dict)  # inf: it is away.
    _lock: threading.Lock = attrs.Factory(threading.Lock)

    def note(
        self, node: int, what: str, status: int, began: float, *, is_write: bool
    ) -> None:
        """A request ended just now.  `status` 0: the connection failed."""
        with self._lock:
            now = time.monotonic()
            self.statuses[status] += 1
            was_up = self._up_since.get(node, 0.0) <= began
            if was_up and now - began > self.slowest_s:
                self.slowest_s, self.slowest = now - began, f"{what}: {status}"
            if is_write and status in {200, 204}:
                self.acked += 1
                self.longest_gap_s = max(self.longest_gap_s, now - self.last_ack)
                self.last_ack = now

    @contextmanager
    def away(self, *nodes: int) -> Iterator[None]:
        """Requests to these nodes may take any time meanwhile."""
        for node in nodes:
            self._up_since[node] = float("inf")
        try:
            yield
        finally:
            for node in nodes:
                self._up_since[node] = time.monotonic()

    def wait_for_acks(self, count: int, *, timeout_s: float = 60) -> None:
        """Until `count` more writes were acknowledged."""
        wanted = self.acked + count
        deadline = time.monotonic() + timeout_s
        while self.acked < wanted:
            assert time.monotonic() < deadline, f"no progress: {self.line()}"
            time.sleep(0.02)

    def line(self, **more: object) -> str:
        told: dict[str, object] = {
            "acked": self.acked,
            "lost": len(self.lost),
            "wrong": len(self.wrong),
            "stale": len(self.stale),
            "undecided": len(self.undecided),
            "gap": f"{self.longest_gap_s:.1f}s",
            "slowest": f"{self.slowest_s:.1f}s",
            "503": self.statuses[503],
        } | more
        return " ".join(f"{name}={value}" for name, value in told.items())

    def judge(self, *, slowest_s: float | None = SLOWEST_S, **more: object) -> None:
        """Tell the figures, and fail the test unless all is well."""
        print(f"scoreboard: {self.line(**more)}")
        print(f"statuses: {dict(self.statuses)}; slowest: {self.slowest}")
        for name in ("lost", "wrong", "stale", "undecided"):
            found = getattr(self, name)
            assert not found, f"{name}: {found[:5]}"
        assert not self.statuses[500], "an internal error"
        assert self.acked, "nothing was written at all"
        if slowest_s is not None:
            assert self.slowest_s < slowest_s, self.slowest
