"""Mending: what is missing is made again, stand-ins go home, nothing is lost on the way."""

from __future__ import annotations

from unittest.mock import patch

import attrs
import pytest
import trio

from objstore.chunks.fragment import RecordRef
from objstore.chunks.index import Location
from objstore.errors import OutOfSpace, Unavailable
from objstore.ids import FragmentId, Key, NodeId, Slot, chunk_id
from objstore.meta import commands as c
from objstore.meta import schema
from objstore.meta.payloads import pack_draft
from objstore.meta.values import Chunks, Displaced
from objstore.repair.plan import AT_HOME
from objstore.repair.worker import WorkerState
from objstore.rpc.call import NoSuchMethod
from objstore.testing.disk import DiskFault
from tests.unit.meta.builders import REF, intent, large_draft

from .nodes import KEY, SLOT, Repairs, repairs


async def test_a_fragment_missing_at_the_commit_is_made_again_at_home(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(missing=(1,))
        assert r.meta.shard.usage().below_objects == 1
        assert await r.mender.work_once() is WorkerState.BUSY
        assert await r.holders(ref) == {0: {0}, 1: {1}, 2: {2}}
        assert r.meta.below() == []
        assert r.meta.shard.usage().below_objects == 0
        assert await r.mender.work_once() is WorkerState.IDLE
        assert r.mender.queued == 0


async def test_two_missing_fragments_of_a_chunk_are_both_mended_in_one_round(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(missing=(0, 2))
        await r.mender.work_once()
        assert await r.holders(ref) == {0: {0}, 1: {1}, 2: {2}}


async def test_while_the_owner_is_dead_a_stand_in_gets_the_missing_fragment(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(missing=(1,))
        r.kill(1)
        await r.mender.work_once()
        assert await r.holders(ref) == {0: {0}, 1: {3}, 2: {2}}
        assert r.meta.shard.usage().below_objects == 0  # As many good copies as promised.
        assert r.meta.below()[0].displaced == (Displaced(1, r.nodes[3]),)
        r.revive(1)
        await r.mender.work_once()
        assert await r.holders(ref) == {0: {0}, 1: {1}, 2: {2}}
        assert r.meta.below() == []


async def test_a_stand_in_keeps_its_copy_until_the_row_says_that_it_is_home(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(away={1: 3})
        seen: list[bool] = []

        def look(command: c.Command) -> None:
            assert isinstance(command, c.ChangeDisplaced)
            store = r.member(3).store
            seen.append(store.index.get(FragmentId(ref.chunk, 1)) is not None)

        r.meta.before = r.meta.after = look
        await r.mender.work_once()
        assert seen == [True, True]
        assert await r.holders(ref) == {0: {0}, 1: {1}, 2: {2}}


async def test_a_late_deletion_does_not_meet_a_copy_that_was_sent_back(
    autojump_clock: object,
) -> None:
    """Who mends may sleep between the row's change and the deletion (F14)."""
    async with repairs() as r:
        ref = await r.put(away={1: 3})
        delete_record = r.mender.chunks.delete_record

        async def sleep_first(node: NodeId, fragment: FragmentId, old: RecordRef) -> None:
            # Another mender: the owner is lost, its fragment stands in where it did before.
            (change,) = r.meta.changes()
            await r._copy(fragment, r.bench.owner(1), r.member(3))
            back = ((1, AT_HOME, r.nodes[3]),)
            r.meta.shard.must(attrs.evolve(change, changes=back))
            await delete_record(node, fragment, old)

        with patch.object(r.mender.chunks, "delete_record", sleep_first):
            await r.mender.work_once()
        assert r.meta.below()[0].displaced == (Displaced(1, r.nodes[3]),)
        assert 3 in (await r.holders(ref))[1]


async def test_a_change_that_fits_by_chance_is_not_believed(autojump_clock: object) -> None:
    """The row went forth and back while the mender slept, and its own copy is gone."""
    async with repairs() as r:
        ref = await r.put(away={1: 3})
        fragment = FragmentId(ref.chunk, 1)

        def lose(to: NodeId, method: str, value: object) -> None:
            if method == "chunks.record" and to == r.nodes[1]:
                r.bench.owner(1).store._drop_row(fragment, location(r, 1, fragment))

        r.peers.before = lose
        await r.mender.work_once()
        assert r.meta.below()[0].displaced == (Displaced(1, None),)
        assert (await r.holders(ref))[1] == {3}
        r.peers.before = lambda *_: None
        await r.mender.work_once()
        assert 1 in (await r.holders(ref))[1]
        assert r.meta.below() == []


def location(r: Repairs, index: int, fragment: FragmentId) -> Location:
    found = r.member(index).store.index.get(fragment)
    assert found is not None
    return found


async def test_a_stand_in_that_does_not_say_where_its_copy_is_keeps_it(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(away={1: 3})

        record_of = r.mender.chunks.record_of

        async def refuse(node: NodeId, fragment: FragmentId) -> RecordRef | None:
            if node == r.nodes[3]:
                raise NoSuchMethod("an older build")
            return await record_of(node, fragment)

        with patch.object(r.mender.chunks, "record_of", refuse):
            await r.mender.work_once()
        assert r.meta.below() == []
        assert (await r.holders(ref))[1] == {1, 3}


async def test_where_the_answer_is_lost_no_copy_is_deleted(autojump_clock: object) -> None:
    """F01: the row may have been changed, or not."""
    async with repairs() as r:
        ref = await r.put(away={1: 3})

        def lose(command: c.Command) -> None:
            raise Unavailable("the leader is gone", unknown=True)

        r.meta.after = lose
        await r.mender.work_once()
        assert (await r.holders(ref))[1] == {1, 3}


async def test_a_mend_that_was_overtaken_deletes_nothing(autojump_clock: object) -> None:
    async with repairs() as r:
        ref = await r.put(away={1: 3})

        def overtake(command: c.Command) -> None:
            assert isinstance(command, c.ChangeDisplaced)
            other = ((1, r.nodes[3], r.nodes[4]),)
            r.meta.shard.must(attrs.evolve(command, changes=other))

        r.meta.before = overtake
        await r.mender.work_once()
        assert (await r.holders(ref))[1] == {1, 3}


async def test_what_was_copied_for_a_version_that_went_is_deleted_again(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(missing=(1,))
        r.meta.before = lambda _: r.delete()
        assert await r.mender.work_once() is WorkerState.IDLE
        assert (await r.holders(ref))[1] == set()


async def test_a_rotten_source_is_passed_over_and_becomes_known_damage(
    autojump_clock: object,
) -> None:
    """F06"""
    async with repairs() as r:
        ref = await r.put(missing=(2,))
        await r.flip(0, ref, 0)
        await r.mender.work_once()
        assert (await r.holders(ref))[2] == {2}
        assert r.meta.below()[0].displaced == (Displaced(0, None),)
        await r.mender.work_once()
        assert await r.holders(ref) == {0: {0}, 1: {1}, 2: {2}}
        assert r.meta.below() == []


async def test_a_copy_that_is_simply_gone_becomes_known_damage_too(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(missing=(2,))
        await r.member(0).store.delete([FragmentId(ref.chunk, 0)])
        await r.mender.work_once()
        await r.mender.work_once()
        assert await r.holders(ref) == {0: {0}, 1: {1}, 2: {2}}


async def test_a_fenced_drive_is_no_proof_that_its_fragments_are_lost(
    autojump_clock: object,
) -> None:
    """F10"""
    async with repairs() as r:
        ref = await r.put(missing=(2,))
        for drive in r.member(0).store.drives.values():
            drive.fence("test")
        await r.mender.work_once()
        assert r.meta.below() == []
        assert (await r.holders(ref))[2] == {2}


async def test_a_source_that_dies_midway_is_replaced_by_another(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(missing=(0,))
        calls = 0

        def die(node: object, method: str, value: object) -> None:
            nonlocal calls
            calls += method == "chunks.read"
            if calls == 2:
                r.peers.down.add(r.nodes[1])

        r.peers.before = die
        await r.mender.work_once()
        assert (await r.holders(ref))[0] == {0}


async def test_a_node_that_is_being_drained_may_give_but_not_take(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(missing=(0, 1))
        r.unusable.update({r.nodes[1], r.nodes[2]})
        await r.mender.work_once()
        assert await r.holders(ref) == {0: {0}, 1: {3}, 2: {2}}


async def test_where_nobody_can_help_the_worker_rests(autojump_clock: object) -> None:
    async with repairs(3) as r:
        await r.put(missing=(1,))
        r.kill(1)
        assert await r.mender.work_once() is WorkerState.IDLE
        assert r.mender.queued == 1
        assert r.meta.changes() == []


async def test_entries_that_cannot_be_mended_do_not_hide_those_behind_them(
    autojump_clock: object,
) -> None:
    """More of them than a page holds, and all of them first in order."""
    async with repairs() as r:
        for n in range(70):
            await r.put(size=100, away={1: 3}, key=b"stuck %d" % n)
        ref = await r.put(size=100, away={2: 4}, key=b"mendable")
        r.kill(1)
        await r.mender.work_once()
        assert (await r.holders(ref))[2] == {2}
        assert r.mender.queued == 70


async def test_the_most_endangered_chunk_of_all_slots_comes_first(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        refs = [
            await r.put(size=100, away={0: 3}, key=b"a"),
            await r.put(size=100, missing=(1,), key=b"b"),
            await r.put(size=100, missing=(1, 2), key=b"c"),
        ]
        await r.mender.work_once()
        chunks = list(dict.fromkeys(it.place.chunk for it in r.meta.changes()))
        assert chunks == [ref.chunk for ref in reversed(refs)]


async def test_ranks_are_compared_over_slots(autojump_clock: object) -> None:
    async with repairs() as r:
        whole = await r.put(size=100, away={0: 3}, key=b"a")
        other = Slot(SLOT + 1)
        r.meta.shard.open(slot=other)
        endangered = await r.put(size=100, missing=(1, 2), key=b"b", slot=other)
        await r.mender.work_once()
        chunks = list(dict.fromkeys(it.place.chunk for it in r.meta.changes()))
        assert chunks == [endangered.chunk, whole.chunk]


async def test_a_node_that_hangs_costs_one_deadline_and_not_one_a_chunk(
    autojump_clock: object,
) -> None:
    """F12, F20"""
    async with repairs() as r:
        for n in range(6):
            await r.put(size=100, missing=(1,), key=b"%d" % n)
        r.peers.delay_s[r.nodes[1]] = 1e6
        began = trio.current_time()
        while r.meta.shard.usage().below_objects:
            await r.mender.work_once()
            await trio.sleep(1)
        assert trio.current_time() - began < 40
        assert {ref.displaced for ref in r.meta.below()} == {(Displaced(1, r.nodes[3]),)}


async def test_a_full_target_leaves_room_for_another(autojump_clock: object) -> None:
    """F09"""
    async with repairs() as r:
        ref = await r.put(missing=(1,))

        def refuse(node: object, method: str, value: object) -> None:
            if node == r.nodes[1] and method in {"chunks.begin", "chunks.put"}:
                raise OutOfSpace("full")

        r.peers.before = refuse
        await r.mender.work_once()
        await trio.sleep(5)
        r.bench.dead.add(r.nodes[1])
        await r.mender.work_once()
        assert (await r.holders(ref))[1] == {3}


async def test_a_chunk_whose_mend_fails_is_left_alone_for_a_while(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        await r.put(missing=(1,))

        def fail(command: c.Command) -> None:
            raise ValueError("a bug")

        r.meta.before = fail
        assert await r.mender.work_once() is WorkerState.IDLE
        count = len(r.meta.changes())
        assert await r.mender.work_once() is WorkerState.IDLE
        assert len(r.meta.changes()) == count
        r.meta.before = lambda _: None
        await trio.sleep(3)
        assert await r.mender.work_once() is WorkerState.BUSY


async def test_a_scheme_that_cannot_be_rebuilt_yet_is_left_as_it_is(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        ref = await r.put(missing=(1,), key=b"copies")
        of = intent(50)
        r.meta.shard.must(c.BeginIntent(SLOT, REF, KEY, of))
        coded = attrs.evolve(ref, chunk=chunk_id(of, 0))
        draft = large_draft(Chunks("ec:2+1", (coded,)))
        r.meta.shard.must(
            c.PutVersion(SLOT, REF, Key(b"coded"), pack_draft(draft), intent=of)
        )
        await r.mender.work_once()
        assert [it.chunk for it in r.meta.below()] == [coded.chunk]


async def test_a_silent_shard_does_not_stop_the_others(autojump_clock: object) -> None:
    async with repairs() as r:
        ref = await r.put(missing=(1,))
        silent = Slot(SLOT + 5)
        r.mender.slots_below = lambda: [silent, SLOT]

        def silence(query: object) -> None:
            if silent in getattr(query, "slots", ()):
                raise Unavailable("no quorum")

        r.meta.before_query = silence
        await r.mender.work_once()
        assert (await r.holders(ref))[1] == {1}


async def test_a_mend_that_is_cancelled_leaves_no_write_session_behind(
    autojump_clock: object,
) -> None:
    async with repairs() as r:
        await r.put(missing=(1,))
        r.peers.delay_s[r.nodes[1]] = 1
        with trio.move_on_after(2.5):
            await r.mender.work_once()
        await trio.sleep(10)
        assert r.member(1).server.session_count == 0
        assert r.meta.changes() == []


async def test_rounds_are_bounded_and_the_end_of_a_long_index_is_reached(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("objstore.repair.mend.ROUND_S", 0.0)
    async with repairs() as r:
        ref = await r.put(missing=(1,))
        assert await r.mender.work_once() is WorkerState.BUSY  # Cut off at once.
        monkeypatch.setattr("objstore.repair.mend.ROUND_S", 5.0)
        assert await r.mender.work_once() is WorkerState.BUSY  # Goes on.
        assert (await r.holders(ref))[1] == {1}
        assert await r.mender.work_once() is WorkerState.IDLE


async def test_a_failed_sync_on_the_target_is_no_mended_fragment(
    autojump_clock: object,
) -> None:
    """F11"""
    async with repairs() as r:
        ref = await r.put(missing=(1,))
        r.member(1).node.disk.inject(DiskFault("*/segment-*", "sync", count=None))
        await r.mender.work_once()
        assert (await r.holders(ref))[1] == set()
        assert r.meta.below()[0].displaced == (Displaced(1, None),)


async def test_slots_are_those_with_rows(autojump_clock: object) -> None:
    async with repairs() as r:
        await r.put(missing=(1,))
        assert r.slots(schema.Table.BELOW) == [SLOT]
