"""The loop that all repair workers share."""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import Protocol

import structlog
import trio

from objstore.errors import ObjstoreError

log = structlog.get_logger()


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
        state = WorkerState.IDLE
        try:
            state = await worker.work_once()
        except* ObjstoreError as errors:
            log.warning(
                "repair.round_failed",
                worker=type(worker).__name__,
                reason=str(errors.exceptions[0]),
            )
        if state is WorkerState.IDLE:
            await trio.sleep(interval_ms / 1000 * random.uniform(0.5, 1.5))
        else:
            await trio.lowlevel.checkpoint()
