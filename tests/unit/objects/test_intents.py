"""Intents that are begun ahead."""

from __future__ import annotations

import pytest

from objstore.errors import Unavailable
from objstore.ids import BucketId, IntentId, Key, Slot
from objstore.meta.commands import SPARES_MAX, BeginIntent, BucketRef
from objstore.objects.intents import (
    PLACES_MAX,
    SPARE_LIFE_S,
    BegunIntent,
    SpareIntents,
)
from tests.unit.objects.capabilities import make_bucket
from tests.unit.objects.composition import composed

REF = BucketRef(BucketId(1), 1)
PLACE = (REF, Slot(7))
KEY = Key(b"key")


def begin(spares: SpareIntents, now_s: float, place=PLACE) -> int | None:
    """A write: how many spares its BeginIntent has; None: it needs none."""
    if spares.take(place, now_s) is not None:
        return None
    wanted = spares.wanted(place, now_s)
    spares.add(place, [BegunIntent(IntentId(bytes(12)), now_s)] * wanted)
    return wanted


def test_who_writes_seldom_begins_one_at_a_time():
    spares = SpareIntents()
    assert [begin(spares, hour * 3600.0) for hour in range(5)] == [0] * 5


def test_writes_that_follow_each_other_begin_more_and_more_ahead():
    spares = SpareIntents()
    begun = [begin(spares, second / 10) for second in range(31)]
    assert [wanted for wanted in begun if wanted is not None] == [0, 1, 3, 7, 7, 7]
    assert begun[-16:] == [7, *[None] * 7] * 2


def test_a_spare_that_is_old_is_not_used_and_fewer_are_begun():
    spares = SpareIntents()
    for second in range(8):
        begin(spares, float(second))
    assert begin(spares, 7 + SPARE_LIFE_S) == 0


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


def test_no_more_are_kept_than_one_entry_may_begin():
    spares = SpareIntents()
    spares.wanted(PLACE, 0.0)
    for _ in range(3):  # Writes at once, which found none.
        spares.add(PLACE, [BegunIntent(IntentId(bytes(12)), 0.0)] * SPARES_MAX)
    taken = 0
    while spares.take(PLACE, 1.0) is not None:
        taken += 1
    assert taken == SPARES_MAX


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
