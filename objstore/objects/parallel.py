"""Several calls at once, each with an outcome of its own.

A nursery alone would wrap the first error and cancel the rest.  Callers here want every
call to have happened, and its answer or its error in the place of the call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from objstore.errors import ObjstoreError

T = TypeVar("T")


async def outcomes(
    calls: Sequence[Callable[[], Awaitable[T]]], *, at_once_max: int
) -> list[T | ObjstoreError]:
    """Run all, at most `at_once_max` at a time; results or errors in the calls' order.

    If cancelled, calls under way are cancelled and the rest are not made.
    """
    results: dict[int, T | ObjstoreError] = {}
    waiting = iter(enumerate(calls))

    async def work() -> None:
        for number, call in waiting:
            try:
                results[number] = await call()
            except ObjstoreError as error:
                results[number] = error

    if len(calls) == 1:
        await work()
    else:
        async with trio.open_nursery() as nursery:
            for _ in range(min(at_once_max, len(calls))):
                nursery.start_soon(work)
    return [results[number] for number in range(len(calls))]
