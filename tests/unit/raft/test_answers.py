"""A signal wakes one of those who wait for it, however many they are."""

from __future__ import annotations

import trio

from objstore.raft.answers import Signal


async def wait(signal: Signal, name: str, woken: list[str]) -> None:
    await signal.wait()
    woken.append(name)


async def test_each_setting_wakes_one_of_two_that_wait():
    signal, woken = Signal(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, signal, "first", woken)
        nursery.start_soon(wait, signal, "second", woken)
        await trio.testing.wait_all_tasks_blocked()
        signal.set()
        signal.set()  # Nobody was woken by then: it changes nothing.
        await trio.testing.wait_all_tasks_blocked()
        assert len(woken) == 1
        signal.set()
    assert sorted(woken) == ["first", "second"]


async def test_who_gives_up_takes_no_wake_up_with_him(autojump_clock):
    signal, woken = Signal(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, signal, "patient", woken)
        with trio.move_on_after(1):
            await wait(signal, "impatient", woken)
        signal.set()
    assert woken == ["patient"]


async def test_what_was_set_before_anybody_waits_is_not_lost(autojump_clock):
    signal = Signal()
    signal.set()
    with trio.fail_after(5):
        await signal.wait()
    with trio.move_on_after(1) as scope:
        await signal.wait()
    assert scope.cancelled_caught
