"""Freeing: only what is proved unowned, not too early, and nobody waits for one node."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from objstore.errors import Unavailable
from objstore.ids import Epoch, Slot, chunk_id
from objstore.meta import commands as c
from objstore.meta import queries as q
from objstore.meta.values import ChunkRef
from objstore.repair.freeing import Aging
from objstore.repair.worker import WorkerState
from tests.unit.meta.builders import REF, intent

from .nodes import BUCKET, KEY, SLOT, Repairs, repairs


async def until_old(r: Repairs) -> None:
    """Let the delay pass, as the worker sees it."""
    await r.freer.work_once()
    await trio.sleep(1.1)


async def test_what_a_delete_released_is_freed_everywhere(autojump_clock: object) -> None:
    async with repairs() as r:
        ref = await r.put()
        r.delete()
        await until_old(r)
        assert await r.freer.work_once() is WorkerState.BUSY
        assert await r.holders(ref) == {0: set(), 1: set(), 2: set()}
        assert r.meta.released() == []
        assert await r.freer.work_once() is WorkerState.IDLE


async def test_nothing_that_a_row_refers_to_is_freed(autojump_clock: object) -> None:
    async with repairs() as r:
        kept = await r.put(key=b"kept")
        await r.put()
        r.delete()
        await until_old(r)
        await r.freer.work_once()
        assert await r.holders(kept) == {0: {0}, 1: {1}, 2: {2}}


async def test_reads_in_progress_get_their_time_whatever_the_wall_clock_says(
    autojump_clock: object,
) -> None:
    """F15"""
    async with repairs(delay_ms=60_000) as r:
        ref = await r.put()
        r.delete()
        r.meta.shard.time_ms += 10**12  # Cluster time leaps too.
        assert await r.freer.work_once() is WorkerState.IDLE
        await trio.sleep(50)
        assert await r.freer.work_once() is WorkerState.IDLE
        assert await r.holders(ref) == {0: {0}, 1: {1}, 2: {2}}
        await trio.sleep(15)
        assert await r.freer.work_once() is WorkerState.BUSY
        assert (await r.holders(ref))[0] == set()


async def test_a_row_is_kept_until_every_holder_has_confirmed(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put()
        r.delete()
        r.kill(2)
        await until_old(r)
        assert await r.freer.work_once() is WorkerState.IDLE
        assert await r.holders(ref) == {0: set(), 1: set(), 2: {2}}
        assert r.meta.released() != []
        r.peers.calls.clear()
        await r.freer.work_once()
        assert r.peers.calls == []  # Who has confirmed is not asked again.
        r.revive(2)
        assert await r.freer.work_once() is WorkerState.BUSY
        assert await r.holders(ref) == {0: set(), 1: set(), 2: set()}
        assert r.meta.released() == []


async def test_rows_that_wait_do_not_hide_those_behind_them(autojump_clock: object) -> None:
    """More of them than a page holds."""
    async with repairs() as r:
        for n in range(70):
            await r.put(size=100, away={2: 4}, key=b"%d" % n)
        ref = await r.put(size=100, away={2: 3}, key=b"last")
        for n in range(70):
            r.delete(b"%d" % n)
        r.delete(b"last")
        r.kill(4)
        await until_old(r)
        await r.freer.work_once()
        assert await r.holders(ref) == {0: set(), 1: set(), 2: set()}
        assert len(r.meta.released()) == 70


async def test_a_stand_in_and_the_owner_that_it_stands_for_are_both_asked(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(away={1: 3})
        await r.copy_home(ref, 1, 3)  # As a mend that was cut off before its record.
        r.delete()
        await until_old(r)
        await r.freer.work_once()
        assert await r.holders(ref) == {0: set(), 1: set(), 2: set()}


async def test_who_is_no_member_any_more_is_not_waited_for(autojump_clock: object) -> None:
    async with repairs() as r:
        await r.put()
        r.delete()
        r.kill(2)
        r.view.members.discard(r.nodes[2])
        await until_old(r)
        assert await r.freer.work_once() is WorkerState.BUSY
        assert r.meta.released() == []


async def test_a_write_that_was_given_up_is_freed_from_stand_ins_too(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        of = intent(77)
        r.meta.shard.must(c.BeginIntent(SLOT, REF, KEY, of))
        chunk = chunk_id(of, 0)
        await r.bench.write(b"x" * 1000, chunk=chunk)
        await r.move(chunk, 1, 3)
        epoch = Epoch(r.bench.ring.epoch)
        drop = c.DropIntent(SLOT, BUCKET, of, "replicate:3", (ChunkRef(chunk, 0, epoch),))
        r.meta.shard.must(drop)
        await until_old(r)
        await r.freer.work_once()
        found = await r.bench.holders(chunk)
        assert found == {0: set(), 1: set(), 2: set()}


async def test_a_row_that_cannot_be_understood_stays_and_others_go(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        odd = await r.put(size=100, key=b"odd")
        ref = await r.put(size=100)
        r.delete(b"odd")
        r.delete()
        r.freer.view = _Forgetful(r.view, odd.chunk)  # type: ignore[assignment]
        await until_old(r)
        await r.freer.work_once()
        assert await r.holders(ref) == {0: set(), 1: set(), 2: set()}
        assert await r.holders(odd) == {0: {0}, 1: {1}, 2: {2}}
        assert len(r.meta.released()) == 1


async def test_a_node_that_fails_is_asked_less_and_less_often(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        await r.put()
        r.delete()
        r.peers.down.add(r.nodes[2])  # And gossip does not know.
        await until_old(r)
        r.peers.calls.clear()
        for _ in range(300):
            await r.freer.work_once()
            await trio.sleep(1)
        asked = [call for call in r.peers.calls if call[0] == r.nodes[2]]
        assert len(asked) < 10


async def test_a_silent_shard_is_asked_once_a_round_and_others_go_on(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put()
        r.delete()
        dumb = Slot(SLOT - 3)
        r.freer.slots_released = lambda: [dumb, SLOT]

        def silence(query: q.Query) -> None:
            if getattr(query, "slot", None) == dumb:
                raise Unavailable("no quorum")

        r.meta.before_query = silence
        await until_old(r)
        await r.freer.work_once()
        assert await r.holders(ref) == {0: set(), 1: set(), 2: set()}


async def test_where_the_row_cannot_be_forgotten_the_work_is_done_again(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        await r.put()
        r.delete()
        await until_old(r)

        def refuse(command: c.Command) -> None:
            raise Unavailable("no leader", unknown=True)

        r.meta.before = refuse
        assert await r.freer.work_once() is WorkerState.IDLE
        r.meta.before = lambda _: None
        assert await r.freer.work_once() is WorkerState.BUSY
        assert r.meta.released() == []


async def test_a_round_that_ran_out_of_time_goes_on_where_it_was(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with repairs() as r:
        for n in range(3):
            await r.put(size=100, key=b"%d" % n)
        for n in range(3):
            r.delete(b"%d" % n)
        monkeypatch.setattr("objstore.repair.freeing._PAGE", 1)
        await until_old(r)
        r.kill(2)
        limit = trio.current_time() + 5
        seen: list[int] = []

        def slow(query: q.Query) -> None:
            assert isinstance(query, q.ListReleased)
            seen.append(query.after)
            if len(seen) == 2:
                autojump_clock.jump(10)  # type: ignore[attr-defined]

        r.meta.before_query = slow
        assert await r.freer.work_once() is WorkerState.BUSY
        assert trio.current_time() > limit
        await r.freer.work_once()
        first, second, third, *_ = seen
        assert first < second < third


class _Forgetful:
    """A view that does not know the ring of one chunk."""

    def __init__(self, view: object, chunk: bytes) -> None:
        self._view = view
        self._chunk = chunk

    def __getattr__(self, name: str) -> object:
        return getattr(self._view, name)

    def ring_at(self, epoch: int) -> object:
        view, chunk = self._view, self._chunk

        class Ring:
            def owners(self, asked: bytes, width: int) -> object:
                if asked == chunk:
                    raise Unavailable("this node does not know the layout")
                return view.ring_at(epoch).owners(asked, width)  # type: ignore[attr-defined]

        return Ring()


@given(
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(0, 10_000)), max_size=60),
    delay=st.floats(0, 100),
)
def test_what_is_called_old_was_there_the_whole_delay_ago(
    steps: list[tuple[float, int]], delay: float
) -> None:
    """`note` is told a cluster time that only grows; each is of that moment at the least."""
    age = Aging(delay)
    now, cluster_ms = 1000.0, 0
    told: list[tuple[float, int]] = []
    for step_s, step_ms in steps:
        now, cluster_ms = now + step_s, cluster_ms + step_ms
        told.append((now, cluster_ms))
        age.note(now, cluster_ms)
        assert len(age._seen) <= 40
        if age.before_ms is not None:
            newest_old = age.before_ms - 1
            assert any(at <= now - delay and ms >= newest_old for at, ms in told)


@given(delay=st.floats(1, 100), period=st.floats(0.01, 3))
def test_rows_do_become_old(delay: float, period: float) -> None:
    age = Aging(delay)
    now = 0.0
    while now < 2.2 * delay + 2 * period:
        age.note(now, 7)
        now += max(period, delay / 200)
    assert age.before_ms == 8
