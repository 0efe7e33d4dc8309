"""What reads find becomes known damage, whoever it belongs to, and is then mended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from objstore.chunks.fragment import FragmentOwner
from objstore.errors import InvalidRequest, Unavailable
from objstore.ids import FragmentId, IntentId, Slot
from objstore.meta import commands as c
from objstore.meta.values import Chunks, Displaced
from objstore.objects.gather import FragmentDamage
from tests.unit.chunks.stores import content
from tests.unit.meta.builders import REF, part, upload, upload_id

from .nodes import BUCKET, KEY, SLOT, Repairs, repairs

OWNER = FragmentOwner(BUCKET, SLOT, KEY)


@asynccontextmanager
async def running(count: int = 4) -> AsyncIterator[Repairs]:
    async with repairs(count) as r, trio.open_nursery() as nursery:
        nursery.start_soon(r.damage.run)
        yield r
        nursery.cancel_scope.cancel()


def damage_of(ref, index: int, node, **more) -> FragmentDamage:
    fields = {"reason": "corrupt", "is_at_home": True, "owner": OWNER} | more
    return FragmentDamage(ref, index, node, **fields)


async def test_damage_of_a_version_is_recorded_though_its_order_is_not_known(
    autojump_clock: object,
) -> None:
    async with running() as r:
        ref = await r.put()
        r.damage.report(damage_of(ref, 1, r.nodes[1]))
        await trio.sleep(1)
        assert [it.displaced for it in r.meta.below()] == [(Displaced(1, None),)]
        assert len(r.damage) == 0


async def test_what_was_recorded_a_moment_ago_is_not_recorded_again(
    autojump_clock: object,
) -> None:
    """The store tells at once, the read that met it at its end: it may be mended by then."""
    async with running() as r:
        ref = await r.put()
        await r.bench.owner(1).store.delete([FragmentId(ref.chunk, 1)])
        r.damage.report(damage_of(ref, 1, r.nodes[1]))
        await trio.sleep(0.1)
        await r.mender.work_once()
        assert r.meta.below() == []
        r.damage.report(damage_of(ref, 1, r.nodes[1]))
        await trio.sleep(0.1)
        assert r.meta.below() == []
        assert len(r.damage) == 0
        await trio.sleep(6)  # Then it is damage of the new copy.
        r.damage.report(damage_of(ref, 1, r.nodes[1]))
        await trio.sleep(0.1)
        assert [it.displaced for it in r.meta.below()] == [(Displaced(1, None),)]


async def test_damage_of_a_part_is_recorded_though_its_number_is_not_known(
    autojump_clock: object,
) -> None:
    async with running() as r:
        ref = await r.put()  # Its bytes; the row is that of a part.
        shard = r.meta.shard
        shard.must(c.DeleteVersion(SLOT, REF, KEY))
        of = IntentId(b"of.the.part.")
        chunk = type(ref.chunk)(of + bytes(4))
        shard.must(c.BeginIntent(SLOT, REF, KEY, of))
        shard.must(c.CreateUpload(SLOT, REF, upload(1, key=KEY)))
        location = Chunks("replicate:3", (attrs.evolve(ref, chunk=chunk),))
        put = part(4, size=ref.size, location=location)
        shard.must(c.PutPart(SLOT, REF, KEY, upload_id(1), put, intent=of))
        owner = attrs.evolve(OWNER, upload=upload_id(1))
        damaged = attrs.evolve(ref, chunk=chunk)
        r.damage.report(damage_of(damaged, 0, r.nodes[0], owner=owner))
        await trio.sleep(1)
        assert [it.displaced for it in r.meta.below()] == [(Displaced(0, None),)]


async def test_a_rotten_copy_that_a_read_met_is_made_again(autojump_clock: object) -> None:
    """F06"""
    async with running() as r:
        ref = await r.put()
        await r.flip(0, ref, 0)  # The reader's own copy: the first one asked.
        assert await r.bench.read(ref) == content(ref.chunk, ref.size)
        (found,) = r.bench.damage
        found = attrs.evolve(found, owner=OWNER)  # Who wrote it used the tests' owner.
        r.damage.report(found)
        await trio.sleep(1)
        await r.mender.work_once()
        assert await r.holders(ref) == {0: {0}, 1: {1}, 2: {2}}
        assert r.meta.below() == []
        r.bench.damage.clear()
        assert await r.bench.read(ref) == content(ref.chunk, ref.size)
        assert r.bench.damage == []


@pytest.mark.parametrize("away", [{}, {1: 3}], ids=["at home", "on a stand-in"])
async def test_damage_that_a_store_found_by_itself_is_recorded(
    autojump_clock: object, away: dict[int, int]
) -> None:
    """Of compaction: no read may ever come to that copy."""
    async with running() as r:
        ref = await r.put(away=away)
        holder = r.nodes[away.get(1, 1)]
        fragment = FragmentId(ref.chunk, 1)
        (stat,) = await r.member(away.get(1, 1)).store.stat([fragment])
        assert stat is not None
        header = attrs.evolve(stat.header, owner=OWNER)
        r.damage.report_own(holder, fragment, header)
        await trio.sleep(1)
        assert [it.displaced for it in r.meta.below()] == [(Displaced(1, None),)]


async def test_what_a_store_says_of_a_place_keeps_no_read_from_saying_better(
    autojump_clock: object,
) -> None:
    """Its ring may be newer than the chunk's, and have another owner."""
    async with running() as r:
        ref = await r.put()
        r.damage.report(damage_of(ref, 1, r.nodes[1], is_at_home=False))
        r.damage.report(damage_of(ref, 1, r.nodes[1], is_at_home=True))
        await trio.sleep(1)
        assert [it.displaced for it in r.meta.below()] == [(Displaced(1, None),)]


async def test_a_store_that_cannot_say_whose_a_fragment_is_leaves_it_to_reads() -> None:
    async with repairs(3) as r:
        ref = await r.put(size=100)
        r.damage.report_own(r.nodes[0], FragmentId(ref.chunk, 0), None)
        assert len(r.damage) == 0


async def test_damage_is_told_once_and_what_does_not_fit_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("objstore.repair.damage.DAMAGE_REPORTS_MAX", 2)
    async with repairs(3) as r:
        ref = await r.put(size=100)
        with capture_logs() as logs:
            for index in (0, 0, 1, 2):
                r.damage.report(damage_of(ref, index, r.nodes[index]))
        assert [entry["event"] for entry in logs] == [
            "repair.damage_found",
            "repair.damage_found",
            "repair.damage_found",
            "repair.damage_dropped",
        ]
        assert len(r.damage) == 2


async def test_damage_without_an_owner_is_dropped() -> None:
    async with repairs(3) as r:
        ref = await r.put(size=100)
        r.damage.report(damage_of(ref, 0, r.nodes[0], owner=None))
        assert len(r.damage) == 0


async def test_a_report_that_is_out_of_date_changes_nothing(autojump_clock: object) -> None:
    async with running() as r:
        ref = await r.put(away={1: 3})
        r.damage.report(damage_of(ref, 1, r.nodes[1]))
        await trio.sleep(1)
        assert [it.displaced for it in r.meta.below()] == [(Displaced(1, r.nodes[3]),)]


async def test_a_silent_shard_keeps_its_reports_and_holds_up_no_other(
    autojump_clock: object,
) -> None:
    async with running() as r:
        ref = await r.put()
        silent = attrs.evolve(OWNER, slot=Slot(SLOT + 1))
        tried = 0

        def silence(command: c.Command) -> None:
            nonlocal tried
            if getattr(command, "slot", None) == silent.slot:
                tried += 1
                raise Unavailable("no quorum")

        r.meta.before = silence
        for index in range(3):
            r.damage.report(damage_of(ref, index, r.nodes[3], owner=silent))
        r.damage.report(damage_of(ref, 0, r.nodes[0]))
        await trio.sleep(0.5)
        assert tried == 1
        assert len(r.damage) == 3
        assert len(r.meta.below()) == 1
        r.meta.before = lambda _: None
        await trio.sleep(2)
        assert len(r.damage) == 0


async def test_what_is_refused_for_good_is_given_up(autojump_clock: object) -> None:
    async with running() as r:
        ref = await r.put()

        def refuse(command: c.Command) -> None:
            raise InvalidRequest("fragment number")

        r.meta.before = refuse
        r.damage.report(damage_of(ref, 0, r.nodes[0]))
        await trio.sleep(1)
        assert len(r.damage) == 0
