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


def run_simulation(
    seed: int,
    program: Callable[[], Awaitable[T]],
    *,
    time_limit_s: float = TIME_LIMIT_S,
) -> T:
    """Run `program` to its end on virtual time, scheduled by `seed`.

    Raises what it raises, and trio.TooSlowError after `time_limit_s` of virtual time.
    Not to be called inside trio.
    """

    async def limited() -> T:
        with trio.fail_after(time_limit_s):
            return await program()

    loop: Any = trio._core._run
    before, state = loop._ALLOW_DETERMINISTIC_SCHEDULING, loop._r.getstate()
    loop._ALLOW_DETERMINISTIC_SCHEDULING = True
    loop._r.seed(seed)
    try:
        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(limited, clock=clock)
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
