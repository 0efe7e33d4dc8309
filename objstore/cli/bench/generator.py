"""The load generator: several processes, each with blocking workers, one request at a time.

    step --> processes --> threads, each with a connection to one node --> Outcome, summed

Workers are spread over the nodes.  Latencies are the client's; the cost of the servers is
read from /proc (`processes`), so that a slow client does not count as a slow server.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import attrs

from objstore.cli.bench.operations import Operator
from objstore.cli.bench.outcome import Outcome
from objstore.cli.bench.plan import Step
from objstore.cli.load import Target

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from multiprocessing.queues import Queue

_READY_TIMEOUT_S = 60.0
_TOGETHER_TIMEOUT_S = 300.0  # The slowest of 32 writers of a key.
_LOOK_S = 1.0


def run(
    target: Target,
    step: Step,
    *,
    processes: int,
    on_start: Callable[[], None] = lambda: None,
) -> Outcome:
    """Do a step, all workers at once, and judge what came of it.

    on_start: called when all are ready, so that starting them is charged to nobody.
    """
    processes = min(processes, step.workers)
    context = multiprocessing.get_context("spawn")
    results: Queue[Outcome] = context.Queue()
    ready = context.Barrier(processes + 1)
    # The writers of one key of create-if-absent begin together.
    together = context.Barrier(step.workers) if step.operation == "cas" else None
    members = [
        context.Process(
            target=_process,
            args=(target, step, range(number, step.workers, processes)),
            kwargs={"ready": ready, "together": together, "results": results},
            daemon=True,
        )
        for number in range(processes)
    ]
    for member in members:
        member.start()
    while ready.n_waiting < processes:  # They wait for us.
        time.sleep(0.002)
        if any(member.exitcode for member in members):
            raise ChildProcessError("a process of the load generator did not start")
    on_start()
    ready.wait(_READY_TIMEOUT_S)
    started = time.monotonic()
    total = Outcome()
    for _ in members:
        total.add(_result(results, members))
    total.elapsed = time.monotonic() - started
    for member in members:
        member.join()
    if step.operation == "cas":
        total.judge_winners(step.count)
    return total


def _result(results: Queue[Outcome], members: Iterable[BaseProcess]) -> Outcome:
    """The next process's outcome.  Raises ChildProcessError where one died instead."""
    while True:
        try:
            return results.get(timeout=_LOOK_S)
        except queue.Empty:
            if any(member.exitcode for member in members):
                raise ChildProcessError("a process of the load generator died") from None


def fill(target: Target, step: Step, *, processes: int) -> Outcome:
    """Put the objects that a step goes over."""
    puts = attrs.evolve(step, operation="put", count=step.keys)
    return run(target, puts, processes=processes)


def _process(
    target: Target,
    step: Step,
    workers: Iterable[int],
    *,
    ready: threading.Barrier,
    together: threading.Barrier | None,
    results: Queue[Outcome],
) -> None:
    """One process: its share of the workers, each a thread."""
    outcomes: list[Outcome] = []
    threads: list[threading.Thread] = []
    for worker in workers:
        outcome = Outcome()
        url = target.urls[worker % len(target.urls)]
        operator = Operator(target, url, step, worker, outcome)
        outcomes.append(outcome)
        threads.append(
            threading.Thread(target=_work, args=(operator, step, worker, together))
        )
    ready.wait(_READY_TIMEOUT_S)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Outcome()
    for outcome in outcomes:
        total.add(outcome)
    results.put(total)


def _work(
    operator: Operator, step: Step, worker: int, together: threading.Barrier | None
) -> None:
    """One worker: every so many-th operation; of create-if-absent, each key with all."""
    if together is None:
        for number in range(worker, step.count, step.workers):
            operator.operate(number)
    else:
        for number in range(step.count):
            together.wait(_TOGETHER_TIMEOUT_S)
            operator.operate(number)
    operator.close()
