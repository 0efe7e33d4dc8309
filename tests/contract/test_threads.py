from __future__ import annotations

import pytest
import trio


@pytest.fixture(params=["pool", "worker"])
def threads(request, host):
    """Something with `run`: both obey these."""
    if request.param == "pool":
        yield host.threads
    else:
        worker = host.threads.worker("test")
        yield worker
        worker.close()


async def test_a_result_comes_back(threads):
    assert await threads.run(divmod, 7, 3) == (2, 1)


async def test_an_error_comes_back(threads):
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)
    assert await threads.run(divmod, 7, 3) == (2, 1)


async def test_many_callers_each_get_their_own_result(threads):
    results = {}

    async def call(number):
        results[number] = await threads.run(lambda: number * number)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(call, number)
    assert results == {number: number * number for number in range(100)}


async def test_a_caller_already_cancelled_does_not_run(threads):
    ran = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await threads.run(ran.append, 1)
    assert scope.cancelled_caught
    assert ran == []


async def test_a_caller_cancelled_meanwhile_raises_cancelled_and_the_rest_goes_on(
    threads, kind
):
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        # A simulated thread is the loop itself; a real one has to ask it.
        if kind == "simulated":
            await threads.run(scope.cancel)
        else:
            await threads.run(token.run_sync_soon, scope.cancel)
    assert scope.cancelled_caught
    assert await threads.run(len, b"abc") == 3


async def test_a_worker_runs_its_calls_one_by_one_in_order(host):
    worker = host.threads.worker("test")
    ran = []
    async with trio.open_nursery() as nursery:

        async def call(number):
            await worker.run(ran.append, number)

        for number in range(50):
            nursery.start_soon(call, number)
            await trio.sleep(0)
            await trio.testing.wait_all_tasks_blocked()
    assert ran == list(range(50))
    worker.close()


async def test_a_closed_worker_takes_no_calls(host):
    worker = host.threads.worker("test")
    assert await worker.run(len, b"abc") == 3
    worker.close()
    worker.close()
    with pytest.raises(trio.ClosedResourceError):
        await worker.run(len, b"abc")
