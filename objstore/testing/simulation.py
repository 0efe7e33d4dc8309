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

import attrs
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


@attrs.define
class Trace:
    """What happened, when: equal for two runs of one seed, or something is not seeded."""

    events: list[str] = attrs.field(factory=list)

    def note(self, event: str) -> None:
        self.events.append(f"{trio.current_time():.6f} {event}")

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.events).encode()).hexdigest()
