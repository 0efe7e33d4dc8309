"""Any word of a node counts for its groups, for a while after the heartbeat of each."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from objstore.raft.effects import Role
from objstore.raft.messages import Heartbeat, decode_payload
from objstore.raft.options import Options
from tests.unit.raft.cores import A, B, C, Group, led
from tests.unit.raft.hosts import Cluster, cluster_of, node_id

INTERVAL_MS = Options().beat_interval_ms


def beats(group: Group, ms: int, *, in_company: bool) -> int:
    """Heartbeats to B, while time goes by and all else arrives."""
    count = 0
    for _ in range(ms // 100):
        if in_company:
            speak(group)
        group.tick()
        count += sum(isinstance(m, Heartbeat) and to == B for _, to, m in group.flying)
        group.settle()
    return count


def speak(group: Group) -> None:
    """Other groups of A's node say something to all."""
    for node in (B, C):
        group[A].contacts.sent_ms[node] = group.now_ms + 100
        group[node].contacts.heard_ms[A] = group.now_ms + 100


def test_two_of_three_heartbeats_are_left_out_in_company() -> None:
    group = led(A, B, C)
    group.run(1000)
    assert beats(group, 4000, in_company=False) == 40
    assert 9 <= beats(group, 4000, in_company=True) <= 13
    assert group[A].is_leader
    assert [group[node].role for node in (B, C)] == [Role.FOLLOWER] * 2


def test_who_lacks_something_hears_every_heartbeat() -> None:
    group = led(A, B, C)
    group.run(1000)
    group.cut.add((B, A))  # B acknowledges, and is not heard.
    group.propose(A, b"x")
    group.settle()
    assert beats(group, 500, in_company=True) == 5


def test_a_leader_is_missed_as_long_after_its_last_word_as_ever() -> None:
    group = led(A, B, C)
    group.run(1000)
    due_ms = group[B]._election_due_ms
    heard_ms = group[B]._heard_ms
    group.isolate(A)
    group[B].contacts.heard_ms[A] = heard_ms + 300  # Of another group, and the last.
    group.tick(B, ms=due_ms - group.now_ms)
    assert group[B].role is Role.FOLLOWER
    group.tick(B, ms=299)
    assert group[B].role is Role.FOLLOWER
    group.tick(B, ms=1)
    assert group[B].role is Role.PRE_CANDIDATE


def test_a_node_that_lives_and_leads_no_more_is_missed() -> None:
    group = led(A, B, C)
    group.run(1000)
    due_ms = group[B]._election_due_ms
    group.isolate(A)
    group[B].contacts.heard_ms[A] = due_ms + 10_000
    group.tick(B, ms=due_ms + INTERVAL_MS + 100 - group.now_ms)
    assert group[B].role is Role.PRE_CANDIDATE


def test_no_other_is_voted_for_while_the_node_of_the_leader_is_heard() -> None:
    group = led(A, B, C)
    group.run(1000)
    heard_ms = group[B]._heard_ms
    group.isolate(A)
    group[B].contacts.heard_ms[A] = heard_ms + 300
    group.tick(B, ms=heard_ms + 1200 - group.now_ms)
    group[C]._election_due_ms = group.now_ms
    group.tick(C, ms=0)
    group.settle()
    assert group[C].role is Role.PRE_CANDIDATE


def test_a_leader_stays_while_the_nodes_of_its_followers_are_heard() -> None:
    group = led(A, B, C)
    group.run(1000)
    group.isolate(A)
    last_ms = group[A].progress[B].heard_ms
    group[A]._quorum_due_ms = last_ms + 1200
    group[A].progress[B].active = group[A].progress[C].active = False
    group[A].contacts.heard_ms[B] = last_ms + 300
    group.tick(A, ms=last_ms + 1200 - group.now_ms)
    assert group[A].is_leader
    group[A].contacts.heard_ms[B] = last_ms + 60_000  # But not of this group any more.
    group.tick(A, ms=1000)
    assert not group[A].is_leader


async def _write_now_and_then(cluster: Cluster, group: int) -> None:
    while True:
        await cluster.propose(group, b"x")
        await trio.sleep(0.4)


async def test_busy_groups_of_two_nodes_share_their_heartbeats(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = range(12)
    sent: list[int] = []
    deliver = Cluster.deliver

    def count(cluster: Cluster, sender: object, to: object, payload: bytes) -> None:
        messages = decode_payload(payload).messages
        sent.extend(g for g, m in messages if isinstance(m, Heartbeat) and not m.quiesce)
        deliver(cluster, sender, to, payload)  # type: ignore[arg-type]

    async with cluster_of(3, groups=groups) as cluster, trio.open_nursery() as nursery:
        for group in groups:
            nursery.start_soon(_write_now_and_then, cluster, group)
        await trio.sleep(2)
        terms = [cluster.status(1, group).term for group in groups]
        monkeypatch.setattr(Cluster, "deliver", count)
        await trio.sleep(5)
        monkeypatch.undo()
        assert len(sent) <= 5 * 2 * len(groups) * 5  # It was up to ten a second.
        assert [cluster.status(1, group).term for group in groups] == terms
        nursery.cancel_scope.cancel()


async def test_all_groups_of_a_dead_node_are_led_by_others_as_soon_as_ever(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = range(12)
    monkeypatch.setattr(Cluster, "is_up", lambda *_: True)  # Nobody is told.
    async with cluster_of(3, groups=groups, options=Options(quiesce=False)) as cluster:
        await trio.sleep(2)
        assert all(cluster.host(1).is_leader(group) for group in groups)
        await cluster.stop(1)
        await trio.sleep(2.2)
        leaders = [cluster.status(3, group).leader for group in groups]
        # But for those where both stood at once, and have to again.
        assert sum(leader in (node_id(2), node_id(3)) for leader in leaders) >= 8
