"""The end of a pass of trio's loop: after every task that was runnable, before it waits.

What tasks have to send can go together then, without a task of its own that would be woken
for it, in a pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

log = structlog.get_logger()


class _PassEnd(trio.abc.Instrument):
    def __init__(self) -> None:
        self.deeds: list[Callable[[], None]] = []

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        if self.deeds:
            for deed in self.deeds:
                try:
                    deed()
                except Exception:  # trio would take us out, and nothing be sent any more.
                    log.exception("host.pass_end_failed")
            self.deeds.clear()


_pass_end: trio.lowlevel.RunVar[_PassEnd] = trio.lowlevel.RunVar("objstore-pass-end")


def at_pass_end() -> Callable[[Callable[[], None]], None]:
    """What takes a function to be called once, at the end of the pass, of this trio run.

    It should not raise, and may not wake a task but by `TrioToken.run_sync_soon`: how long
    the loop will wait has been decided by then.
    """
    try:
        end = _pass_end.get()
    except LookupError:
        end = _PassEnd()
        _pass_end.set(end)
        trio.lowlevel.add_instrument(end)
    return end.deeds.append
