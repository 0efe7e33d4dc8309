"""Values that only rise, to catch a stale read or a forged write in the act.

    writers  --> nodes that should serve:  key = 1, 2, 3 ...  and what was acknowledged
    hunters  --> nodes under suspicion:    GET of the same keys, PUT of keys of their own

A read that shows less than was acknowledged before it began is stale, whatever the node
went through.  Cheaper than a whole history, so that thousands of reads a second can look.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import attrs

from objstore.cli.load import Target
from tests.cluster.crew import Crew
from tests.cluster.registers import Connection
from tests.cluster.scoreboard import Scoreboard


@attrs.define
class Window:
    """What hunters were answered by requests that began and ended within it."""

    reads: Counter[int] = attrs.Factory(Counter)
    writes: Counter[int] = attrs.Factory(Counter)
    without_retry_after: int = 0
    began: float = attrs.Factory(time.monotonic)
    ended: float = float("inf")

    def close(self) -> None:
        self.ended = time.monotonic()


@attrs.define
class Rising(Crew):
    """Writers and hunters until the block ends."""

    target: Target
    board: Scoreboard
    serving: Sequence[int]
    suspects: Sequence[int]
    keys: int = 8
    hunters: int = 2  # A suspect.
    prefix: str = "rising"
    window: Window = attrs.Factory(Window)
    acked: Counter[str] = attrs.Factory(Counter)

    def begin(self) -> None:
        for number in range(self.keys):
            self.start(self._write, f"{self.prefix}-{number}", number)
        for node in self.suspects:
            for number in range(self.hunters):
                self.start(self._hunt, node, number)

    def open_window(self) -> Window:
        """From now on what suspects answer is counted apart."""
        self.window = Window()
        return self.window

    def _write(self, key: str, number: int) -> None:
        connections = [Connection(self.target, self.target.urls[n]) for n in self.serving]
        value, turn = 0, number
        while not self.is_over:
            value, turn = value + 1, turn + 1
            node = self.serving[turn % len(self.serving)]
            status = self._ask(
                connections[turn % len(self.serving)], node, "PUT", key, b"%d" % value
            )[0]
            if status == 200:
                self.acked[key] = value
            time.sleep(0.02)

    def _hunt(self, node: int, number: int) -> None:
        connection = Connection(self.target, self.target.urls[node])
        turn = number
        while not self.is_over:
            turn += 1
            key = f"{self.prefix}-{turn % self.keys}"
            window, began, least = self.window, time.monotonic(), self.acked[key]
            if turn % 5 == 0:
                own = f"{self.prefix}-suspect-{node}-{number}-{turn % 50}"
                status, headers, body = self._ask(
                    connection, node, "PUT", own, b"%d" % turn
                )
                counted = window.writes
            else:
                status, headers, body = self._ask(connection, node, "GET", key)
                counted = window.reads
                read = int(body) if status == 200 else 0
                if (status == 200 and read < least) or (status == 404 and least):
                    self.board.stale.append(
                        f"{key}: node {node + 1} answered {read}, {least} was acknowledged"
                    )
            if began >= window.began and time.monotonic() <= window.ended:
                counted[status] += 1
                window.without_retry_after += status == 503 and "retry-after" not in headers
            if status not in {200, 404}:
                time.sleep(0.01)

    def _ask(
        self, connection: Connection, node: int, method: str, key: str, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        began = time.monotonic()
        path = f"/{self.target.bucket}/{key}"
        answer = connection.exchange(method, path, body=body)
        what = f"{method} {path} of node {node + 1}"
        self.board.note(node, what, answer[0], began, is_write=method == "PUT")
        return answer
