"""Trio's channels without a step of the loop for what can be had at once.

A block of a body passes several of them, and a step for each was a fifth of all steps of
a large PUT.  So these are no checkpoints: who loops over them waits for something else too.
"""

from __future__ import annotations

from typing import TypeVar

import trio

T = TypeVar("T")


async def give(sender: trio.MemorySendChannel[T], value: T) -> None:
    """As `sender.send`."""
    try:
        sender.send_nowait(value)
    except trio.WouldBlock:
        await sender.send(value)


async def take(receiver: trio.MemoryReceiveChannel[T]) -> T | None:
    """The next value; None: there will be no more."""
    try:
        return receiver.receive_nowait()
    except trio.WouldBlock:
        pass
    except trio.EndOfChannel:
        return None
    try:
        return await receiver.receive()
    except trio.EndOfChannel:
        return None
