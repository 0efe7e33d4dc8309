"""Intents that are begun ahead."""

from __future__ import annotations

import pytest
import trio

from objstore.errors import Unavailable
from objstore.ids import BucketId, IntentId, Key, Slot
from objstore.limits import INTENT_LIFE_MS
from objstore.meta.commands import BeginIntent, BucketRef
from objstore.objects import put
from objstore.objects.intents import (
    PLACES_MAX,
    SPARE_LIFE_S,
    BegunIntent,
    SpareIntents,
)
from objstore.objects.requests import ObjectAttributes
from objstore.units import KiB
from tests.unit.objects.capabilities import make_bucket, put_leave
from tests.unit.objects.composition import BytesBody, composed

PLAIN = ObjectAttributes()
REF = BucketRef(BucketId(1), 1)
PLACE = (REF, Slot(7))
KEY = Key(b"key")


def large() -> BytesBody:
    return BytesBody(bytes(17 * KiB))


def begun(count: int, now_s: float) -> list[BegunIntent]:
    return [BegunIntent(IntentId(bytes(12)), now_s)] * count


def begin(spares: SpareIntents, now_s: float, place=PLACE) -> int | None:
    """A write: how many spares its BeginIntent has; None: it needs none."""
    if spares.take(place, now_s) is not None:
        return None
    count = spares.order(place, now_s)
    spares.deliver(place, count, begun(count, now_s))
    return count


def test_who_writes_seldom_begins_one_at_a_time():
    spares = SpareIntents()
    assert [begin(spares, hour * 3600.0) for hour in range(5)] == [0] * 5


def test_writes_that_follow_each_other_begin_more_and_more_ahead():
    spares = SpareIntents()
    counts = [begin(spares, second / 10) for second in range(31)]
    assert [count for count in counts if count is not None] == [0, 1, 3, 7, 7, 7]
    assert counts[-16:] == [7, *[None] * 7] * 2


def test_of_writes_that_come_together_the_first_begins_for_the_others():
    spares = SpareIntents()
    for second in range(8):
        begin(spares, float(second))
    while spares.take(PLACE, 8.0) is not None:
        pass
    assert [spares.order(PLACE, 8.0) for _ in range(5)] == [7, 0, 0, 0, 0]
    spares.deliver(PLACE, 0, [])
    spares.deliver(PLACE, 7, begun(7, 8.0))
    assert [begin(spares, 9.0) for _ in range(8)] == [*[None] * 7, 7]


def test_what_was_ordered_and_is_not_known_to_be_there_is_ordered_again():
    spares = SpareIntents()
    begin(spares, 0.0)
    assert spares.order(PLACE, 1.0) == 1
    assert spares.order(PLACE, 1.0) == 0
    spares.deliver(PLACE, 0, [])
    spares.deliver(PLACE, 1, [])
    assert spares.take(PLACE, 1.0) is None
    assert begin(spares, 1.0) == 3


def test_a_spare_that_is_old_is_not_used_and_fewer_are_begun():
    spares = SpareIntents()
    for second in range(8):
        begin(spares, float(second))
    assert begin(spares, 50.0) is None
    assert begin(spares, 7 + SPARE_LIFE_S) == 1


def test_places_have_spares_of_their_own_and_only_so_many_are_remembered():
    spares = SpareIntents()
    begin(spares, 0.0)
    begin(spares, 0.0)  # One spare is there now.
    newer = BucketRef(BucketId(1), 2), Slot(7)
    for place in (newer, (REF, Slot(8))):
        assert begin(spares, 0.0, place) == 0
    for number in range(PLACES_MAX):
        begin(spares, 0.0, (REF, Slot(100 + number)))
    assert begin(spares, 0.0) == 0


def test_what_comes_for_a_place_that_was_forgotten_is_not_kept():
    spares = SpareIntents()
    begin(spares, 0.0)
    count = spares.order(PLACE, 1.0)
    spares.forget(PLACE)
    spares.deliver(PLACE, count, begun(count, 1.0))
    assert spares.take(PLACE, 1.0) is None


async def test_each_write_has_an_intent_that_the_shard_knows_and_nobody_else_has():
    async with composed() as c:
        record = await make_bucket(c.store)
        ref = BucketRef(record.bucket, record.config_version)
        slot = c.store.slot_of(record, KEY)
        before = len(c.meta.proposed)
        taken = [(await c.store.begin_intent(slot, ref, KEY)).intent for _ in range(40)]
        commands = c.meta.proposed[before:]
        assert len(commands) == 8  # 1, 2, 4 and 8 of them, then 8 each time.
        known = []
        for command in commands:
            assert isinstance(command, BeginIntent)
            known += [command.intent, *command.spares]
        assert taken == known[:40]
        assert len(set(taken)) == 40


async def test_of_an_entry_that_may_not_have_been_applied_no_spare_is_used():
    async with composed() as c:
        record = await make_bucket(c.store)
        ref = BucketRef(record.bucket, record.config_version)
        slot = c.store.slot_of(record, KEY)
        for _ in range(2):
            await c.store.begin_intent(slot, ref, KEY)
        await c.store.begin_intent(slot, ref, KEY)  # The one spare.
        lost = []

        def lose(command):
            lost.append(command)
            raise Unavailable("nobody knows", unknown=True)

        c.meta.before = lose
        with pytest.raises(Unavailable):
            await c.store.begin_intent(slot, ref, KEY)
        c.meta.before = None
        begun = await c.store.begin_intent(slot, ref, KEY)
        (command,) = lost
        assert len(command.spares) == 3
        assert begun.intent not in {command.intent, *command.spares}


async def test_writes_at_once_begin_hardly_more_than_they_use():
    async with composed() as c:
        record = await make_bucket(c.store)
        ref = BucketRef(record.bucket, record.config_version)
        slot = c.store.slot_of(record, KEY)
        taken: list[IntentId] = []

        async def slowly(command):
            await trio.sleep(0)

        async def writer():
            for _ in range(10):
                taken.append((await c.store.begin_intent(slot, ref, KEY)).intent)
                await trio.sleep(0)

        c.meta.before = slowly
        before = len(c.meta.proposed)
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(writer)
        commands = c.meta.proposed[before:]
        assert len(set(taken)) == 160
        begun_count = sum(1 + len(command.spares) for command in commands)
        assert begun_count <= 160 + 7


async def test_a_cluster_whose_level_is_older_begins_one_each_time():
    async with composed() as c:
        record = await make_bucket(c.store)
        ref = BucketRef(record.bucket, record.config_version)
        slot = c.store.slot_of(record, KEY)
        c.view.feature_level = 1
        before = len(c.meta.proposed)
        for _ in range(5):
            await c.store.begin_intent(slot, ref, KEY)
        assert [command.spares for command in c.meta.proposed[before:]] == [()] * 5


async def test_spares_are_forgotten_where_a_commit_finds_one_gone():
    """After a pause of the whole machine, which its own clock did not see."""
    async with composed() as c:
        record = await make_bucket(c.store)
        for _ in range(4):  # The last one begins three ahead.
            await put.put_object(c.store, put_leave(record, key=b"k"), large(), PLAIN)
        c.meta.time_ms += INTENT_LIFE_MS + 1
        with pytest.raises(Unavailable):
            await put.put_object(c.store, put_leave(record, key=b"k"), large(), PLAIN)
        await put.put_object(c.store, put_leave(record, key=b"k"), large(), PLAIN)
