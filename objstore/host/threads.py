"""Blocking or CPU-bound work off the event loop.

In simulation everything runs inline, because a real thread ends determinism.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Worker(Protocol):
    """One dedicated thread with a queue: calls run one at a time, in order.

    For what is called often (WAL syncs, hashing of one body): a hand-over costs about
    two thirds of one through a pool (SPEED).
    """

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run and return (or raise) its result.

        Not cancelled once started: on cancellation it waits for the call to end, then
        raises Cancelled, so no call outlives its caller.
        """
        ...

    def close(self) -> None:
        """End the thread once the calls in progress are done."""
        ...


class Threads(Protocol):
    """Where such work goes."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run in a pool of bounded size; same cancellation as `Worker.run`."""
        ...

    def worker(self, name: str) -> Worker:
        """A new dedicated thread."""
        ...
