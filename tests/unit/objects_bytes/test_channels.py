"""Channels without a step of the loop: the same values in the same order, and the same ends."""

from __future__ import annotations

import pytest
import trio

from objstore.objects.channels import give, take


async def test_what_is_there_is_taken_without_a_step_of_the_loop():
    sender, receiver = trio.open_memory_channel[int](2)
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    await give(sender, 1)
    await give(sender, 2)
    taken = [await take(receiver), await take(receiver)]
    sender.close()
    taken.append(await take(receiver))
    trio.lowlevel.remove_instrument(steps)
    assert taken == [1, 2, None]
    assert steps.count == 0


class Steps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self.count += 1


async def test_a_giver_waits_for_room_and_a_taker_for_a_value_or_the_end(autojump_clock):
    sender, receiver = trio.open_memory_channel[int](1)
    taken: list[int | None] = []

    async def take_all() -> None:
        while (value := await take(receiver)) is not None:
            taken.append(value)
            await trio.sleep(1)
        taken.append(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_all)
        await trio.sleep(5)  # It waits by then.
        for value in range(4):
            await give(sender, value)
        assert trio.current_time() >= 5 + 2  # Two lie in the channel or are on their way.
        await trio.sleep(5)
        sender.close()
    assert taken == [0, 1, 2, 3, None]


async def test_whom_nobody_listens_to_hears_of_it():
    sender, receiver = trio.open_memory_channel[int](1)
    receiver.close()
    with pytest.raises(trio.BrokenResourceError):
        await give(sender, 1)
