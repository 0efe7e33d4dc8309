"""The loop that all repair workers share, and the deadline of their steps.

A round ends by itself, whatever fails in it: workers bound their rounds and leave alone
for a while what failed.  What is left is a bug: it is logged with its trace, and the node
serves on.  Only a fault of this node's own stores (OSError, CorruptRow) passes through
and ends the process, as it must.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from random import Random
from typing import Protocol, TypeVar

import structlog
import trio

from objstore.chunks.client import ChunkClient
from objstore.errors import ObjstoreError, Unavailable
from objstore.meta.schema import CorruptRow

log = structlog.get_logger()

T = TypeVar("T")

STEP_TIMEOUT_S = 30.0  # Of one call to a node, or one block to or from it.
# After a round that found nothing to do, however long it looked: a tenth of the time at
# most is spent on looking.
_REST = 9
_REST_MAX_S = 120.0

FATAL = (OSError, CorruptRow)  # Of this node's own stores.


class WorkerState(Enum):
    """How a round ended."""

    BUSY = "busy"  # There may be more: go on at once.
    IDLE = "idle"


class Worker(Protocol):
    """Something that is done again and again."""

    async def work_once(self) -> WorkerState: ...


async def run_worker(worker: Worker, *, interval_ms: int, random: Random) -> None:
    """Work until cancelled; pause, jittered, when idle or after an error."""
    while True:
        began_s = trio.current_time()
        state = await _round(worker)
        if state is WorkerState.BUSY:
            await trio.lowlevel.checkpoint()
            continue
        took_s = trio.current_time() - began_s
        pause_s = max(interval_ms / 1000, min(took_s * _REST, _REST_MAX_S))
        await trio.sleep(pause_s * random.uniform(0.5, 1.5))


async def _round(worker: Worker) -> WorkerState:
    name = type(worker).__name__
    state = WorkerState.IDLE
    try:
        state = await worker.work_once()
    except* FATAL:
        raise
    except* ObjstoreError as errors:
        log.warning("repair.round_failed", worker=name, reason=str(_first(errors)))
    except* Exception as errors:
        log.exception("repair.worker_failed", worker=name, reason=str(_first(errors)))
    return state


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group, and of the groups in it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def within(chunks: ChunkClient, work: Callable[[], Awaitable[T]], *, what: str) -> T:
    """The result of `work`, or Unavailable after STEP_TIMEOUT_S.

    It runs in the client's nursery: a local drive may hang in a call that nobody can
    interrupt, and only that call's task then waits for it.  If cancelled, so is `work`.
    """
    task = chunks.start(work)
    try:
        with trio.move_on_after(STEP_TIMEOUT_S):
            return await task.result()
    finally:
        task.cancel()  # Does nothing where it has ended.
    raise Unavailable(f"{what} did not answer in {STEP_TIMEOUT_S:.0f} s", unknown=True)
