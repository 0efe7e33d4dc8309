"""Voters and leaders of the metadata's groups."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objstore.ids import ShardId
from objstore.limits import BUCKET_SPAN, SHARD_COUNT
from objstore.ring import layout as lay
from objstore.ring.layout import Layout, Member, found
from objstore.ring.voters import bundle_of, preferred_leaders, voters_for

from .clusters import clusters, member, members, node_id, zone_cap

GROUPS = SHARD_COUNT + 1


def small(count: int, *, zones: int = 1) -> Layout:
    return found(members(count, zones=zones), partition_count=64, widths=(3,))


def moved(before: Layout, after: Layout) -> int:
    was, now = voters_for(before), voters_for(after)
    return sum(len(set(now[shard]) - set(was[shard])) for shard in now)


@pytest.mark.parametrize(
    ("nodes", "voters"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)]
)
def test_voters_are_the_largest_odd_number_up_to_five(nodes: int, voters: int) -> None:
    groups = voters_for(small(nodes))
    assert list(groups) == list(range(GROUPS))
    assert {len(set(group)) for group in groups.values()} == {voters}


def test_voters_grow_as_nodes_join_and_nobody_is_replaced_needlessly() -> None:
    layout = small(1)
    for count in range(2, 6):
        grown = lay.with_member(layout, member(count, zone="z0"))
        was, now = voters_for(layout), voters_for(grown)
        if len(now[ShardId(0)]) > len(was[ShardId(0)]) and count in {3, 5}:
            assert all(set(was[shard]) <= set(now[shard]) for shard in was)
        layout = grown


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters(), st.data())
def test_voters_are_even_active_and_apart(
    cluster: list[Member], data: st.DataObject
) -> None:
    layout = found(cluster, partition_count=64, widths=())
    dead = data.draw(st.sets(st.sampled_from([m.node for m in cluster])))
    for node in sorted(dead):
        if sum(m.votes for m in layout.members) > 1:
            layout = lay.with_member_state(layout, node, "dead")
    active = {m.node: m for m in layout.members if m.votes}
    groups = voters_for(layout)
    counts = Counter(node for group in groups.values() for node in group)
    assert set(counts) <= set(active)
    zones = {m.zone for m in active.values()}
    width = len(groups[ShardId(0)])
    cap = zone_cap([m for m in layout.members if m.votes], width)
    for group in groups.values():
        assert len(group) == width
        held = Counter(active[node].zone for node in group)
        assert max(held.values()) <= cap
    racks, hosts = ({m.rack for m in active.values()}, {m.host for m in active.values()})
    if len(zones) == len(racks) == 1 and len(hosts) == len(active):  # No domain binds.
        assert max(counts.values()) - min(counts[node] for node in active) <= 3


def test_equal_nodes_vote_in_equally_many_groups() -> None:
    counts = Counter(node for group in voters_for(small(9)).values() for node in group)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_weight_is_no_matter_for_votes() -> None:
    layout = lay.with_member(small(2), member(3, weight=0, zone="z0"))
    assert {len(group) for group in voters_for(layout).values()} == {3}


def test_joining_node_takes_its_part_and_little_else_moves() -> None:
    before = small(9, zones=3)
    after = lay.with_member(before, member(10, zone="z1"))
    taken = sum(node_id(10) in group for group in voters_for(after).values())
    assert taken >= 5 * GROUPS // 10 - 4
    assert moved(before, after) <= taken + 3


def test_dead_voter_is_replaced_and_nobody_else() -> None:
    before = small(7)
    had = {shard for shard, group in voters_for(before).items() if node_id(3) in group}
    after = lay.with_member_state(before, node_id(3), "dead")
    was, now = voters_for(before), voters_for(after)
    assert moved(before, after) == len(had)
    assert all(was[shard] == now[shard] for shard in was if shard not in had)
    assert node_id(3) not in {node for group in now.values() for node in group}


def test_address_or_epoch_moves_no_voter() -> None:
    before = small(7)
    after = lay.with_address(before, node_id(3), cluster_address="elsewhere:1")
    assert voters_for(after) == voters_for(before)
    assert preferred_leaders(after) == preferred_leaders(before)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters())
def test_leaders_are_voters_and_even(cluster: list[Member]) -> None:
    layout = found(cluster, partition_count=64, widths=())
    groups = voters_for(layout)
    leaders = preferred_leaders(layout)
    assert set(leaders) == set(groups)
    assert all(leaders[shard] in groups[shard] for shard in groups)
    voting = {node for group in groups.values() for node in group}
    counts = Counter(leaders.values())
    # Every node votes in at least as many groups as its even part of the leads.
    if all(
        sum(n in g for g in groups.values()) >= -(-GROUPS // len(voting)) for n in voting
    ):
        apart = max(counts.values()) - min(counts[node] for node in voting)
        assert apart <= max(BUCKET_SPAN // -(-len(voting) // layout.voters.width), 1)


def bundles() -> list[list[ShardId]]:
    shards = sorted(map(ShardId, range(1, GROUPS)), key=bundle_of)
    return [list(bundle) for _, bundle in groupby(shards, bundle_of)]


def test_all_bundles_have_the_shards_of_one_bucket() -> None:
    assert {len(bundle) for bundle in bundles()} == {BUCKET_SPAN}


@pytest.mark.parametrize(
    ("nodes", "leaders"),
    [(1, 1), (3, 1), (5, 1), (6, 2), (7, 2), (12, 4), (20, 4), (40, 4)],
)
def test_a_bundle_has_as_many_leaders_as_keep_all_nodes_at_work(
    nodes: int, leaders: int
) -> None:
    layout = small(nodes)
    preferred = preferred_leaders(layout)
    for bundle in bundles():
        assert len({preferred[shard] for shard in bundle}) == leaders


@pytest.mark.parametrize("nodes", [4, 8, 9, 10])
def test_voters_that_allow_it_only_nearly_cost_a_bundle_a_leader_more(nodes: int) -> None:
    preferred = preferred_leaders(small(nodes))
    counts = [len({preferred[shard] for shard in bundle}) for bundle in bundles()]
    assert max(counts) <= 3 and counts.count(2) > len(counts) / 2


def test_most_nodes_vote_for_each_bucket_also_where_they_joined_one_by_one() -> None:
    layout = small(1)
    for count in range(2, 13):
        layout = lay.with_member(layout, members(count)[-1])
        voters = voters_for(layout)
        for bundle in bundles():
            voting = {node for shard in bundle for node in voters[shard]}
            assert 3 * len(voting) >= 2 * count or count == 2


def test_voters_fall_back_when_nodes_leave() -> None:
    layout = small(5)
    for number, voters in ((1, 3), (2, 3), (3, 1)):
        layout = lay.without_member(layout, node_id(number))
        assert {len(group) for group in voters_for(layout).values()} == {voters}


def test_changed_zone_brings_voters_apart_again() -> None:
    layout = small(6, zones=2)
    for number, one in enumerate(layout.members):
        layout = lay.with_member(layout, attrs.evolve(one, zone=f"y{number % 3}"))
    for group in voters_for(layout).values():
        assert len({layout.member(node).zone for node in group}) == 3
