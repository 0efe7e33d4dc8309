"""Layouts: changes, validation, bytes."""

from __future__ import annotations

import attrs
import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objstore.errors import InvalidRequest, NotFound
from objstore.ids import ShardId, Slot
from objstore.limits import ENTRY_SIZE_MAX, SHARD_COUNT, SLOT_COUNT
from objstore.ring import layout as lay
from objstore.ring.layout import BadLayout, CorruptLayout, Layout, Member, SlotRange, found

from .clusters import breaches, clusters, member, members, node_id


def small(count: int = 4) -> Layout:
    return found(members(count, zones=2), partition_count=64)


def test_first_layout_has_epoch_one_and_sorted_members() -> None:
    layout = small()
    assert layout.epoch == 1
    assert [m.node for m in layout.members] == sorted(node_id(n) for n in range(1, 5))
    assert layout.widths == (3, 6, 9)
    assert layout.shard_count == SHARD_COUNT


def test_each_change_makes_the_next_epoch() -> None:
    layout = small()
    changes = [
        lay.with_member(layout, member(9)),
        lay.with_members(layout, [member(9), member(10)]),
        lay.without_member(layout, node_id(1)),
        lay.with_member_state(layout, node_id(1), "draining"),
        lay.with_address(layout, node_id(1), s3_address="a:1"),
        lay.with_widths(layout, (3, 4)),
    ]
    assert [changed.epoch for changed in changes] == [2] * len(changes)


def test_change_that_changes_nothing_is_no_change() -> None:
    layout = small()
    assert lay.with_member(layout, layout.members[0]) is layout
    assert lay.with_address(layout, node_id(1)) is layout
    assert lay.with_widths(layout, layout.widths) is layout


def test_address_moves_nothing() -> None:
    layout = small()
    changed = lay.with_address(
        layout, node_id(2), cluster_address="b:7401", s3_address="b:7400"
    )
    assert changed.tables == layout.tables
    assert changed.voters == layout.voters
    assert changed.member(node_id(2)).cluster_address == "b:7401"


def test_member_without_weight_or_activity_holds_nothing() -> None:
    layout = lay.with_members(
        small(6),
        [member(1, weight=0), member(2, state="draining"), member(3, state="dead")],
    )
    assert breaches(layout, 3) == []
    assert {m.node for m in layout.members if m.holds_data} == {
        node_id(n) for n in (4, 5, 6)
    }


def test_cluster_without_data_nodes_is_laid_out_empty() -> None:
    layout = found([member(1, weight=0)], partition_count=64)
    assert set(layout.table(3).indexes()) == {1}  # type: ignore[union-attr]


def test_last_active_member_stays() -> None:
    layout = found([member(1), member(2, state="dead")], partition_count=64)
    for change in (
        lambda: lay.without_member(layout, node_id(1)),
        lambda: lay.with_member_state(layout, node_id(1), "draining"),
        lambda: found([]),
    ):
        with pytest.raises(BadLayout):
            change()


@pytest.mark.parametrize(
    "wrong",
    [
        Member(node_id(1)[:-1], 1),  # type: ignore[arg-type]
        member(1, weight=-1),
        member(1, weight=lay.WEIGHT_MAX + 1),
        member(1, zone="z" * 65),
        member(1, state="asleep"),
        member(1, s3_address="a" * 301),
    ],
)
def test_wrong_member_is_refused(wrong: Member) -> None:
    with pytest.raises(InvalidRequest):
        found([wrong, member(5)], partition_count=64)


@pytest.mark.parametrize("count", [0, 3, 100, 2 * lay.PARTITION_COUNT_MAX])
def test_partition_count_is_a_power_of_two_within_bounds(count: int) -> None:
    with pytest.raises(BadLayout):
        found([member(1)], partition_count=count, widths=())


def test_unknown_member_is_not_found() -> None:
    layout = small()
    for change in (
        lambda: layout.member(node_id(99)),
        lambda: lay.without_member(layout, node_id(99)),
        lambda: lay.with_member_state(layout, node_id(99), "dead"),
    ):
        with pytest.raises(NotFound):
            change()
    assert layout.find(node_id(99)) is None


def test_slots_are_shared_out_evenly_and_each_has_one_shard() -> None:
    layout = small()
    shards = [layout.shard_of(Slot(slot)) for slot in range(SLOT_COUNT)]
    assert sorted(set(shards)) == list(range(1, SHARD_COUNT + 1))
    assert {shards.count(shard) for shard in set(shards)} == {SLOT_COUNT // SHARD_COUNT}
    for slots in layout.slots_of(ShardId(7)):
        assert layout.shard_of(slots.first) == 7


def test_slots_can_move_to_a_new_shard() -> None:
    layout = small(6)
    *rest, last = layout.slot_shards
    half = last.count // 2
    split = [
        *rest,
        SlotRange(last.first, half, last.shard),
        SlotRange(Slot(last.first + half), last.count - half, ShardId(SHARD_COUNT + 1)),
    ]
    changed = lay.with_slots(layout, split)
    assert changed.shard_count == SHARD_COUNT + 1
    assert changed.epoch == 2
    assert changed.shard_of(Slot(SLOT_COUNT - 1)) == SHARD_COUNT + 1
    assert changed.tables == layout.tables
    assert lay.decode(lay.encode(changed)) == changed


def test_slot_kept_by_two_shards_is_refused() -> None:
    layout = small()
    twice = (layout.slot_shards[0], *layout.slot_shards)
    with pytest.raises(BadLayout):
        lay.with_slots(layout, twice)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters())
def test_bytes_round_trip(cluster: list[Member]) -> None:
    layout = found(cluster, partition_count=64)
    assert lay.decode(lay.encode(layout)) == layout


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_still_make_a_layout(data: st.DataObject) -> None:
    encoded = bytearray(ENCODED)
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(
            st.integers(0, 255)
        )
    cut = data.draw(st.integers(0, len(encoded)))
    for candidate in (bytes(encoded), bytes(encoded[:cut])):
        try:
            decoded = lay.decode(candidate)
        except CorruptLayout:
            continue
        assert lay.decode(lay.encode(decoded)) == decoded


ENCODED = lay.encode(small())


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(CorruptLayout):
        lay.decode(garbage)


def test_unknown_format_says_so() -> None:
    fields = msgpack.unpackb(ENCODED)
    fields[0] = 99
    with pytest.raises(CorruptLayout, match="99"):
        lay.decode(msgpack.packb(fields))


def test_table_that_unpacks_to_more_than_it_says_is_refused() -> None:
    fields = msgpack.unpackb(ENCODED)
    fields[5][0][1] -= 2
    with pytest.raises(CorruptLayout):
        lay.decode(msgpack.packb(fields))


def test_thousand_nodes_fit_an_entry() -> None:
    layout = found(
        attrs.evolve(
            m,
            rack=f"rack-{n // 10}",
            host=f"host-{n}.rack-{n // 10}",
            cluster_address=f"storage-node-{n}.cluster.example.net:7401",
            s3_address=f"storage-node-{n}.cluster.example.net:7400",
        )
        for n, m in enumerate(members(1000, zones=3))
    )
    assert len(lay.encode(layout)) < 0.6 * ENTRY_SIZE_MAX


def test_layout_too_large_for_an_entry_is_refused() -> None:
    layout = found(members(500), widths=range(1, 17))
    with pytest.raises(BadLayout):
        lay.encode(layout)
