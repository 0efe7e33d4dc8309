"""Waiting that ends when the node is told to stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def unless(stopping: trio.Event, deed: Callable[[], Awaitable[T]]) -> T | None:
    """Run `deed` to its end; or cancel it once `stopping` is set, and return None."""
    result: T | None = None
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel, stopping, nursery.cancel_scope)
        try:
            result = await deed()
        except Exception as error:
            failure = error  # Raised outside, so that it does not come in a group.
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def either(one: trio.Event, other: trio.Event) -> None:
    """Return once one of two events is set."""
    await unless(one, other.wait)


async def _cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
