"""The view's pulls: large states in bounded pages, rounds that end early, a restart."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
import pytest
import trio

from objstore.errors import Unavailable
from objstore.ids import CLUSTER_SHARD, Epoch, NodeId, Slot
from objstore.limits import FRAME_SIZE_MAX, SLOT_COUNT
from objstore.meta import commands as c
from objstore.meta import payloads
from objstore.meta.queries import ClusterChanges, ClusterDelta
from objstore.meta.schema import CLUSTER_SLOT
from objstore.meta.store import MetaStore
from objstore.meta.values import AccessKey
from objstore.meta.view import ClusterView, _layout_row
from objstore.ring.layout import Member, encode, found
from objstore.rpc import codec
from objstore.rpc.frames import Kind, encode_frame
from objstore.testing.clock import SimulatedClock
from objstore.testing.host import SimulatedWorld
from tests.unit.meta.builders import Shard

NODE = NodeId("a" * 16)
LAYOUT = found([Member(NODE, 1)], partition_count=16, widths=(3,))
ROOT = AccessKey("ROOT", "secret", "root", "0" * 64, is_root=True, created_ms=0)
SPAN = (Slot(1), Slot(2), Slot(3), Slot(4))
BUCKETS, EPOCHS = 2_000, 300
LAYOUT_SIZE = 20_000  # As of ten nodes.


@attrs.define(eq=False)
class Source:
    """The cluster shard's leader, as a view asks it."""

    shard: Shard
    asked: int = 0
    patience: int | None = None  # Answers until it falls silent.

    async def pull(self, query: ClusterChanges, timeout_ms: int) -> ClusterDelta:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.patience is not None:
            self.patience -= 1
            if self.patience < 0:
                await trio.sleep(timeout_ms / 1000)
                raise Unavailable("no answer in time")
        delta: ClusterDelta = self.shard.ask(query)
        frame = encode_frame(Kind.RESPONSE, value=delta)
        assert sum(map(len, frame)) <= FRAME_SIZE_MAX
        return codec.decode_as(ClusterDelta, codec.encode(delta))


def founded() -> Shard:
    shard = Shard(slot=CLUSTER_SLOT)
    shard.must(c.FoundCluster(encode(LAYOUT), (), ROOT))
    return shard


def large() -> Shard:
    """Many buckets, many epochs; all layouts but the last are of no meaning."""
    shard = founded()
    for number in range(BUCKETS):
        shard.must(c.CreateBucketRecord(f"b-{number}", "owner", SPAN, "replicate:3"))
    for epoch in range(2, EPOCHS):
        shard.must(c.SetLayout(payloads.pack((1, epoch, bytes(LAYOUT_SIZE)))))
    shard.must(c.SetLayout(encode(attrs.evolve(LAYOUT, epoch=Epoch(EPOCHS)))))
    return shard


def store_of(world: SimulatedWorld) -> MetaStore:
    host = world.host("a")
    folder = host.disks.directory("data", create=True)
    return MetaStore(host.disks.key_value_store(folder, "meta"), host.threads)


def view_of(
    source: Source, store: MetaStore | None = None, clock: SimulatedClock | None = None
) -> ClusterView:
    view = ClusterView(
        store or store_of(SimulatedWorld(1)), Random(1), clock or SimulatedClock()
    )
    view.attach(source.pull, source.pull)
    return view


@pytest.fixture(scope="module")
def shard() -> Shard:
    return large()


async def test_a_large_state_comes_in_pages_that_fit_frames_and_is_kept(
    shard: Shard, autojump_clock: Any
) -> None:
    world, source = SimulatedWorld(1), Source(shard)
    store = store_of(world)
    view = view_of(source, store)
    await view.refresh()
    assert source.asked > 3
    assert len(tuple(view.buckets())) == BUCKETS
    assert view.epoch == EPOCHS
    assert view.layout.members == LAYOUT.members
    asked = source.asked
    await view.refresh()
    assert source.asked == asked + 1, "nothing is pulled twice"
    store.kv.flush()
    world.crash("a")
    world.restart("a")
    again = view_of(source, store_of(world))
    assert (again.version, again.epoch) == (view.version, EPOCHS)
    assert len(tuple(again.buckets())) == BUCKETS


async def test_a_pull_that_had_no_time_for_all_pages_is_gone_on_with(
    shard: Shard, autojump_clock: Any
) -> None:
    source = Source(shard)
    view = view_of(source)
    rounds = 0
    while not view.is_founded:
        source.patience = 2
        rounds += 1
        try:
            await view.refresh(timeout_ms=1_000)
        except Unavailable:
            assert not view.is_founded, "what is torn is not shown"
        assert rounds < 50
    assert rounds > 1
    assert len(tuple(view.buckets())) == BUCKETS


async def test_what_changes_between_the_rounds_of_one_pull_is_in_it(
    autojump_clock: Any,
) -> None:
    shard = large()
    source = Source(shard, patience=2)
    view = view_of(source)
    with pytest.raises(Unavailable):
        await view.refresh(timeout_ms=1_000)
    first = shard.ask(ClusterChanges(0)).rows[0]
    shard.must(c.CreateBucketRecord("late", "owner", SPAN, "replicate:3"))
    shard.must(c.DeleteAccessKey("ROOT"))
    source.patience = None
    await view.refresh()
    assert first is not None
    assert view.bucket("late") is not None
    assert view.access_key("ROOT") is None


async def test_who_gives_up_waiting_fails_nobody_else(autojump_clock: Any) -> None:
    source = Source(founded())
    view = view_of(source)

    async def impatient() -> None:
        with trio.move_on_after(0.5):
            await view.refresh()

    async def patient() -> None:
        await trio.sleep(0.1)
        await view.refresh()
        assert view.is_founded

    source.patience = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient)
        nursery.start_soon(patient)
        await trio.sleep(0.4)
        source.patience = None


async def test_a_crowd_that_wants_to_be_sure_waits_for_one_round_that_fails(
    autojump_clock: Any,
) -> None:
    """I5: a node that is cut off says so soon, however many ask it."""
    source = Source(founded(), patience=0)
    view = view_of(source)
    refused_s: list[float] = []

    async def ask(after_s: float) -> None:
        await trio.sleep(after_s)
        began_s = trio.current_time()
        with pytest.raises(Unavailable):
            await view.confirm(5_000)
        refused_s.append(trio.current_time() - began_s)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, number * 0.01)
    assert max(refused_s) <= 2.0
    assert source.asked == 1


async def test_what_was_confirmed_is_old_after_a_sleep_of_the_machine(
    autojump_clock: Any,
) -> None:
    source, clock = Source(founded()), SimulatedClock()
    view = view_of(source, clock=clock)
    await view.confirm(5_000)
    assert view.is_confirmed_within(5_000)
    await view.confirm(5_000)
    assert source.asked == 1
    clock.sleep_through(6_000)
    assert not view.is_confirmed_within(5_000)
    await view.confirm(5_000)
    assert source.asked == 2


def test_the_clusters_shard_is_the_first_one() -> None:
    assert view_of(Source(founded())).shard_of(CLUSTER_SLOT) == CLUSTER_SHARD


async def test_a_slots_shard_is_that_of_the_layout_in_force():
    view = view_of(Source(founded()))
    await view.refresh()
    slots = [Slot(0), Slot(SLOT_COUNT // 2), Slot(SLOT_COUNT - 1)]
    assert list(map(view.shard_of, slots)) == list(map(LAYOUT.shard_of, slots))
    fewer = found([Member(NODE, 1)], partition_count=16, widths=(3,), shard_count=4)
    newer = attrs.evolve(fewer, epoch=Epoch(2))
    row = (_layout_row(2), encode(newer))
    view.store.save_view(view.version, dict([row]), is_full=False)
    view._take_rows([row])
    assert list(map(view.shard_of, slots)) == [1, 3, 4]
