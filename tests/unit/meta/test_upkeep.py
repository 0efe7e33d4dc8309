"""Who is given up or taken back, which buckets are gone on with, who may hand over."""

from __future__ import annotations

from objstore.ids import BucketId, NodeId
from objstore.meta.upkeep import (
    ABANDONED_AFTER_MS,
    HOLD_MAX_MS,
    HOLD_MIN_MS,
    REVIVE_AFTER_MS,
    Deaths,
    HalfDone,
    Holds,
)
from objstore.meta.values import BucketRecord, BucketState
from objstore.ring.layout import Layout, Member, found, with_member_state

NODES = [NodeId(letter * 16) for letter in "abcde"]
GRACE_MS = 300_000


def layout(count: int = 5) -> Layout:
    members = [Member(node, 1) for node in NODES[:count]]
    return found(members, partition_count=4, widths=(3,), shard_count=2)


def states(deaths: Deaths, now: Layout, now_ms: int) -> dict[NodeId, str]:
    return {member.node: member.state for member in deaths.changes(now, now_ms)}


def test_a_member_is_given_up_once_it_is_dead_for_the_grace_time() -> None:
    deaths = Deaths(GRACE_MS)
    now = layout()
    for at_ms in range(0, GRACE_MS, 10_000):
        deaths.observe(now, lambda node: node != NODES[0], at_ms)
        assert states(deaths, now, at_ms) == {}
    deaths.observe(now, lambda node: node != NODES[0], GRACE_MS)
    assert states(deaths, now, GRACE_MS) == {NODES[0]: "dead"}


def test_a_member_that_shows_itself_once_starts_afresh() -> None:
    deaths = Deaths(GRACE_MS)
    now = layout()
    deaths.observe(now, lambda node: node != NODES[0], 0)
    deaths.observe(now, lambda _: True, GRACE_MS - 1)
    deaths.observe(now, lambda node: node != NODES[0], GRACE_MS)
    assert states(deaths, now, GRACE_MS) == {}


def test_nobody_is_given_up_while_half_of_all_seem_dead() -> None:
    deaths = Deaths(GRACE_MS)
    now = layout(4)
    deaths.observe(now, lambda node: node in NODES[:2], 0)
    assert states(deaths, now, GRACE_MS) == {}


def test_nobody_is_given_up_where_fewer_than_three_voters_would_remain() -> None:
    for count, given_up in ((3, {}), (4, {NODES[0]: "dead"}), (5, {NODES[0]: "dead"})):
        deaths = Deaths(GRACE_MS)
        now = layout(count)
        deaths.observe(now, lambda node: node != NODES[0], 0)
        assert states(deaths, now, GRACE_MS) == given_up
    deaths = Deaths(GRACE_MS)
    one_gone = with_member_state(layout(4), NODES[0], "dead")
    deaths.observe(one_gone, lambda node: node not in NODES[:2], 0)
    assert states(deaths, one_gone, GRACE_MS) == {}


def test_a_dead_member_is_taken_back_after_a_while_of_living() -> None:
    """F21."""
    deaths = Deaths(GRACE_MS)
    now = with_member_state(layout(), NODES[0], "dead")
    for at_ms in range(0, 2 * REVIVE_AFTER_MS, 3_000):  # Up three seconds, down three.
        flaps = at_ms // 3_000 % 2 == 0
        deaths.observe(now, lambda node, up=flaps: up or node != NODES[0], at_ms)  # type: ignore[misc]
        assert states(deaths, now, at_ms) == {}
    began_ms = 2 * REVIVE_AFTER_MS + 3_000
    deaths.observe(now, lambda _: True, began_ms)
    ended_ms = began_ms + REVIVE_AFTER_MS
    deaths.observe(now, lambda _: True, ended_ms)
    assert states(deaths, now, ended_ms) == {NODES[0]: "active"}


def test_a_draining_member_is_nobodys_business_here() -> None:
    deaths = Deaths(GRACE_MS)
    now = with_member_state(layout(), NODES[0], "draining")
    deaths.observe(now, lambda node: node != NODES[0], 0)
    assert states(deaths, now, 10 * GRACE_MS) == {}


# ---- buckets --------------------------------------------------------------------------


def record(state: BucketState, config_version: int = 1) -> BucketRecord:
    return BucketRecord(
        "name", BucketId(1), "owner", 0, (), "replicate:3", state, config_version
    )


def test_a_bucket_is_gone_on_with_once_it_stood_half_done_long_enough() -> None:
    half = HalfDone()
    creating = record(BucketState.CREATING)
    assert half.abandoned([creating, record(BucketState.OPEN)], 0) == []
    assert half.abandoned([creating], ABANDONED_AFTER_MS) == [creating]
    half.worked_on(creating, ABANDONED_AFTER_MS)
    assert half.abandoned([creating], ABANDONED_AFTER_MS + 1) == []
    closing = record(BucketState.CLOSING, 2)  # It moved: somebody works on it.
    assert half.abandoned([closing], 2 * ABANDONED_AFTER_MS) == []
    assert half.abandoned([closing], 3 * ABANDONED_AFTER_MS) == [closing]


# ---- handing over ---------------------------------------------------------------------


def asked_until_yes(holds: Holds, start_ms: int) -> int:
    """When it said yes, asked once a second."""
    at_ms = start_ms
    while not holds.may_hand_over(1, at_ms):
        at_ms += 1_000
    return at_ms


def test_a_group_is_handed_over_after_a_moment() -> None:
    assert asked_until_yes(Holds(), 0) == HOLD_MIN_MS


def test_a_group_that_keeps_coming_back_is_kept_ever_longer() -> None:
    holds = Holds()
    waits = []
    at_ms = 0
    for _ in range(14):
        began_ms = at_ms
        at_ms = asked_until_yes(holds, began_ms)
        waits.append(at_ms - began_ms)
        at_ms += 5_000  # The other gives it back.
    assert waits[0] == HOLD_MIN_MS
    assert waits[3] >= 4 * HOLD_MIN_MS
    assert max(waits) <= HOLD_MAX_MS
    at_ms += 3 * HOLD_MAX_MS
    assert asked_until_yes(holds, at_ms) - at_ms == HOLD_MIN_MS
