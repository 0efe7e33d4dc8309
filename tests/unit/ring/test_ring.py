"""Lookups: owners, other widths, stand-ins."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings

from objstore.ids import ChunkId
from objstore.ring import layout as lay
from objstore.ring.balance import shares
from objstore.ring.layout import Member, found
from objstore.ring.ring import Ring

from .clusters import clusters, member, members, node_id, zone_cap


def chunks(count: int) -> list[ChunkId]:
    random = Random(7)
    return [ChunkId(random.randbytes(12) + n.to_bytes(4, "big")) for n in range(count)]


def test_ring_is_a_function_of_the_record_alone() -> None:
    layout = found(members(7, zones=3), partition_count=256)
    for n in range(8, 12):
        layout = lay.with_member(layout, member(n, zone=f"z{n % 3}"))
    one, other = Ring(layout), Ring(lay.decode(lay.encode(layout)))
    assert one.epoch == other.epoch == 5
    for chunk in chunks(200):
        for width in (1, 3, 4, 9, 12):
            assert one.owners(chunk, width) == other.owners(chunk, width)
        assert list(one.stand_ins(chunk, 3)) == list(other.stand_ins(chunk, 3))


def test_chunks_of_one_writer_spread_over_the_partitions() -> None:
    ring = Ring(found(members(3), partition_count=256))
    prefix = b"one intent's"
    counts = Counter(
        ring.partition_of(ChunkId(prefix + n.to_bytes(4, "big"))) for n in range(4096)
    )
    assert len(counts) == 256
    assert max(counts.values()) < 40


def test_place_without_a_node_is_none() -> None:
    ring = Ring(found(members(4), partition_count=64))
    for chunk in chunks(50):
        owners = ring.owners(chunk, 6)
        assert len(owners) == 6
        assert len({node for node in owners if node is not None}) == 4
        assert owners.count(None) == 2


def test_ring_without_data_nodes_owns_nothing() -> None:
    ring = Ring(found([member(1, weight=0)], partition_count=64))
    for width in (1, 3, 5):
        assert ring.owners(chunks(1)[0], width) == (None,) * width
    assert list(ring.stand_ins(chunks(1)[0], 3)) == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters())
def test_width_without_a_table_keeps_to_its_own_caps(
    cluster: list[Member],
) -> None:
    layout = found(cluster, partition_count=64)
    ring = Ring(layout)
    zone_of = {m.node: m.zone for m in cluster}
    for width in (1, 2, 4, 5, 7, 8, 12, 16):
        for partition in range(0, 64, 7):
            owners = ring.owners_of_partition(partition, width)
            there = [node for node in owners if node is not None]
            assert len(owners) == width
            assert len(set(there)) == len(there) == min(width, len(cluster))
            zones = Counter(zone_of[node] for node in there)
            assert max(zones.values()) <= zone_cap(cluster, width)


def test_width_without_a_table_is_even_enough() -> None:
    layout = found(members(30, zones=3), partition_count=4096)
    ring = Ring(layout)
    for width in (1, 2, 4, 5, 8):
        fair = shares(layout, width)
        loads = Counter(
            node for p in range(4096) for node in ring.owners_of_partition(p, width)
        )
        assert max(loads[node] / (fair[node] * 4096) for node in fair) < 1.2  # type: ignore[index]


def test_width_without_a_table_moves_little_when_a_node_joins() -> None:
    before = found(members(30, zones=3), partition_count=1024)
    after = lay.with_member(before, member(31, zone="z1"))
    one, other = Ring(before), Ring(after)
    moved = 0
    for partition in range(1024):
        was = set(one.owners_of_partition(partition, 5))
        moved += len(set(other.owners_of_partition(partition, 5)) - was)
    assert moved < 2 * shares(after, 5)[node_id(31)] * 1024


def test_stand_ins_are_all_others_once() -> None:
    ring = Ring(found([*members(9, zones=3), member(99, weight=0)], partition_count=64))
    for chunk in chunks(20):
        owners = set(ring.owners(chunk, 3))
        stand_ins = list(ring.stand_ins(chunk, 3))
        assert len(stand_ins) == len(set(stand_ins)) == 6
        assert not owners & set(stand_ins)
        assert node_id(99) not in stand_ins


def test_stand_in_comes_from_another_zone_first() -> None:
    layout = found(members(20, zones=5), partition_count=64)
    ring = Ring(layout)
    for chunk in chunks(30):
        taken = {layout.member(n).zone for n in ring.owners(chunk, 3) if n is not None}
        first = [layout.member(n).zone for n in list(ring.stand_ins(chunk, 3))[:2]]
        assert set(first) == {f"z{n}" for n in range(5)} - taken


def test_stand_in_may_take_the_zone_of_the_owner_that_failed() -> None:
    layout = found(members(12, zones=3), partition_count=64)
    ring = Ring(layout)
    for chunk in chunks(30):
        failed = ring.owners(chunk, 3)[1]
        assert failed is not None
        stand_in = next(ring.stand_ins(chunk, 3, without={failed}))
        assert layout.member(stand_in).zone == layout.member(failed).zone


def test_stand_ins_differ_from_chunk_to_chunk() -> None:
    ring = Ring(found(members(12), partition_count=64))
    firsts = Counter(next(ring.stand_ins(chunk, 3)) for chunk in chunks(600))
    assert len(firsts) == 12
    assert max(firsts.values()) < 3 * 600 / 12


@pytest.mark.parametrize("width", [3, 6, 9])
def test_owners_are_the_table_s_row(width: int) -> None:
    layout = found(members(10), partition_count=64)
    ring = Ring(layout)
    table = layout.table(width)
    assert table is not None
    for chunk in chunks(20):
        start = ring.partition_of(chunk) * width
        row = table.indexes()[start : start + width]
        assert ring.owners(chunk, width) == tuple(
            layout.members[index].node for index in row
        )
