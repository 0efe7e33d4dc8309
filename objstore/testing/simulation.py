"""The loop that runs a simulation: virtual time, and tasks in an order from the seed.

Time is trio's MockClock with autojump: where every task waits, it jumps to the next
deadline.  trio shuffles runnable tasks on purpose; its private switch for Hypothesis makes
that a function of a seed.  Both are used here and nowhere else.

What a simulation must not do, or its seed does not replay: use a thread, read the real
clock, draw from `random` or `secrets` themselves, go over a set of strings or objects whose
order matters.  Strings hash alike only in processes of one PYTHONHASHSEED.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from zlib import crc32

import trio
import trio.testing

T = TypeVar("T")

# A simulation that waits for ever is a bug that must end: a week of virtual time is more
# than any scenario has, and costs nothing to jump over.
TIME_LIMIT_S = 7 * 24 * 3600.0
# Passes of the scheduler in which no time passes: tasks that wake each other for ever.
PASSES_MAX = 100_000


def run_simulation(
    seed: int,
    program: Callable[[], Awaitable[T]],
    *,
    time_limit_s: float = TIME_LIMIT_S,
) -> T:
    """Run `program` to its end on virtual time, scheduled by `seed`.

    Raises what it raises, trio.TooSlowError after `time_limit_s` of virtual time, and
    Livelock where that stands still.  Not to be called inside trio.
    """
    watchdog = _Watchdog()

    async def limited() -> T:
        with trio.fail_after(time_limit_s), watchdog.scope:
            return await program()
        raise Livelock(f"tasks wake each other for ever at {trio.current_time():.6f}")

    loop: Any = trio._core._run
    before, state = loop._ALLOW_DETERMINISTIC_SCHEDULING, loop._r.getstate()
    loop._ALLOW_DETERMINISTIC_SCHEDULING = True
    loop._r.seed(seed)
    try:
        clock = trio.testing.MockClock(autojump_threshold=0)
        # Its time stands still but for jumps, so there is nothing to compute.
        clock.current_time = lambda: clock._virtual_base  # type: ignore[method-assign]
        return trio.run(limited, clock=clock, instruments=[watchdog])
    finally:
        loop._ALLOW_DETERMINISTIC_SCHEDULING = before
        loop._r.setstate(state)


async def until(condition: Callable[[], bool], *, pause_s: float = 0.1) -> None:
    """Wait on virtual time, which costs nothing, until `condition` holds."""
    while not condition():  # noqa: ASYNC110 - what it looks at tells nobody.
        await trio.sleep(pause_s)


async def insist(deed: Callable[[], Awaitable[bool]], *, pause_s: float = 0.2) -> None:
    """Do `deed` again and again until it says that it worked."""
    while not await deed():  # noqa: ASYNC110
        await trio.sleep(pause_s)


class Livelock(Exception):
    """Something is always runnable, so that virtual time cannot pass."""


class _Watchdog(trio.abc.Instrument):
    """Cancels `scope` where no time passes."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._time = -1.0
        self._passes = 0

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        now = trio.current_time()
        self._passes = self._passes + 1 if now == self._time else 0
        self._time = now
        if self._passes > PASSES_MAX:
            self.scope.cancel()


class Trace:
    """What happened, when: equal for two runs of one seed, or something is not seeded."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    def note(self, event: str) -> None:
        self._digest.update(f"{trio.current_time():.6f} {event}\n".encode())

    def note_sent(self, source: str, target: str, data: bytes) -> None:
        """Note bytes that went from one host to another."""
        self.note(f"{source} {target} {len(data)} {crc32(data)}")

    def digest(self) -> str:
        return self._digest.hexdigest()
