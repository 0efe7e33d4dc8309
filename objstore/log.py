"""Structured logging: stable event names, everything else is keys.

Events are `package.thing_happened`; keys come from one list (docs/reference/events.md).
Output goes to stderr, JSON or for a console.  Secrets and object bytes never.

    structlog ----> a line ----> Output ----> stderr
    FrequentLog --> a line ---'     '- info and debug are held for a moment while
                                       `hold_lines` runs; warnings write all that waits

A line of every request would cost as much as all of its parsing, if it went through
structlog's chain and each through a write of its own: so `FrequentLog`, and so the hold.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Literal

import structlog
import trio

LogFormat = Literal["json", "console"]

HOLD_S = 0.25  # No reader waits for it, and a killed process loses no more quiet news.
HELD_SIZE_MAX = 64 * 1024

# Made once: json.dumps would make one for each line.
_ENCODER = json.JSONEncoder(default=str)


def configure(*, level: str, format: LogFormat, node: str | None = None) -> None:  # noqa: A002
    """Set up the process's log; `node` is bound to every line."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(_to_json)
        if format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        renderer,
    ]
    least = logging.getLevelNamesMapping()[level.upper()]
    output = _output()
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: output,
        # Looking all this up anew would cost as much as a line itself.
        cache_logger_on_first_use=True,
    )
    _installed.output = output if format == "json" else None
    _installed.processors, _installed.renderer = processors, renderer
    _installed.has_info = least <= logging.INFO
    if node is not None:
        structlog.contextvars.bind_contextvars(node=node)


def _to_json(event: object, **_: object) -> str:
    return _ENCODER.encode(event)


# ---- where lines go -------------------------------------------------------------------


class Output:
    """Standard error, as structlog's logger and the place where lines wait.

    A line that cannot be written is lost: nobody's request fails for it.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        """write: all of a text; may raise OSError."""
        self._write = write
        self._lines: deque[str] = deque()  # Threads log too; its steps are atomic.
        self._size = 0
        self.is_holding = False
        # To be called for the next line that waits, once.
        self.on_waiting: Callable[[], None] | None = None

    def info(self, line: str) -> None:
        """Write a line soon."""
        self._lines.append(line)
        self._size += len(line)
        # After that: whoever flushes has set this before, or takes the line.
        if self.on_waiting is not None:
            on_waiting, self.on_waiting = self.on_waiting, None
            on_waiting()
        if not self.is_holding or self._size >= HELD_SIZE_MAX:
            self.flush()

    debug = info

    def error(self, line: str) -> None:
        """Write a line now, and all that waits before it."""
        self._lines.append(line)
        self.flush()

    warning = exception = critical = error

    def flush(self) -> None:
        """Write what waits."""
        self._size = 0
        waiting = []
        while self._lines:
            waiting.append(self._lines.popleft())
        if waiting:
            try:
                self._write("\n".join(waiting) + "\n")
            except OSError:
                return


def _output() -> Output:
    stream = sys.stderr
    try:
        descriptor = stream.fileno()
    except OSError:  # Replaced by something in memory.
        return Output(lambda text: (stream.write(text), stream.flush()))
    output = Output(lambda text: _write_all(descriptor, text.encode(errors="replace")))
    atexit.register(output.flush)
    return output


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


async def hold_lines(
    *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Let lines of no urgency wait for HOLD_S, so that many go out in one write.

    Until cancelled; then they are written as they come again.
    """
    output = _installed.output
    task_status.started()
    if output is None:
        return
    token, thread = trio.lowlevel.current_trio_token(), threading.get_ident()
    waiting = trio.Event()

    def wake() -> None:
        if threading.get_ident() == thread:
            waiting.set()
        else:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(wake)

    output.is_holding = True
    try:
        while True:
            waiting = trio.Event()
            output.on_waiting = wake
            output.flush()
            await waiting.wait()
            await trio.sleep(HOLD_S)
    finally:
        output.is_holding = False
        output.on_waiting = None
        output.flush()


# ---- frequent lines -------------------------------------------------------------------


class _Installed:
    """What `configure` set up last."""

    output: Output | None = None  # Where lines are JSON.
    processors: Sequence[structlog.typing.Processor | None] = (None,)
    renderer: structlog.typing.Processor | None = None
    has_info = False


_installed = _Installed()


class FrequentLog:
    """Writes what a structlog logger would, at a tenth of the cost where it is JSON.

    All its lines are of one event, so what is the same in each is made once.
    """

    def __init__(self, node: str, event: str) -> None:
        self._log = structlog.get_logger()
        self._event = event
        ends = f', "event": {quoted(event)}, "node": {quoted(node)}, "level": "info"'
        self._ends = f'{ends}, "timestamp": "'

    def write(self, members: str) -> None:
        """Write a line; members: its keys and values, as within a JSON object."""
        output = _installed.output
        # Tests put another processor into the list, to see what is logged.
        if output is None or _installed.processors[-1] is not _installed.renderer:
            self._log.info(self._event, **json.loads(f"{{{members}}}"))
        elif _installed.has_info:
            line = f'{{{members}{self._ends}{_timestamp()}"}}'
            output.info(line)


quoted: Callable[[str], str] = encode_basestring_ascii  # A text as JSON.


def _timestamp() -> str:
    nanoseconds = str(time.time_ns())
    return _second(nanoseconds[:-9]) + nanoseconds[-9:-3] + "Z"


@lru_cache(2)
def _second(time_s: str) -> str:
    return datetime.fromtimestamp(int(time_s), UTC).strftime("%Y-%m-%dT%H:%M:%S.")
