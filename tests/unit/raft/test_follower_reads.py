"""A follower is read once its leader has told it how far it must have applied (R4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest
import trio
from trio.testing import MockClock

from objstore.errors import Unavailable
from objstore.ids import NodeId
from objstore.raft.driver import RaftHost
from objstore.raft.errors import NotLeader
from objstore.raft.hard_state import Damage, HardState
from objstore.raft.messages import (
    Append,
    Heartbeat,
    ReadAnswer,
    ReadAsk,
    Wake,
    decode_payload,
    encode_payload,
)
from objstore.raft.options import Options
from tests.unit.raft.cores import A, B, C, D, E, Group, led
from tests.unit.raft.hosts import cluster_of


def _asks(group: Group) -> list[ReadAsk]:
    return [m for _, _, m in group.flying if isinstance(m, ReadAsk)]


def test_in_a_group_of_three_an_ask_and_its_answer_are_all_it_takes() -> None:
    group = led(A, B, C)
    group.propose(A, b"x")
    group.settle()
    assert group.read(B, 1)
    assert group.read(B, 2)  # Each drain is a pass: two asks.
    assert len(_asks(group)) == 2
    group.deliver()
    answers = [(to, m) for _, to, m in group.flying]
    assert all(to == B and isinstance(m, ReadAnswer) for to, m in answers)
    group.deliver()
    assert group.peers[B].ready == [1, 2]
    assert group.flying == []


def test_a_follower_waits_until_it_has_applied_what_the_leader_named() -> None:
    group = led(A, B, C)
    group.propose(A, b"x")
    group.deliver(lambda _s, to, _m: to == C)  # B's append is on its way.
    group.deliver(lambda s, _t, _m: s == C)
    assert group.peers[A].commands == [b"x"]
    group.read(B, 1)
    group.deliver(lambda _s, _t, m: isinstance(m, ReadAsk))
    group.deliver(lambda _s, _t, m: isinstance(m, ReadAnswer))
    assert group.peers[B].ready == []
    group.deliver(lambda _s, _t, m: isinstance(m, Append))
    # The append itself did not say that it is committed; the answer had.
    assert group.peers[B].commands == [b"x"]
    assert group.peers[B].ready == [1]


def test_a_follower_applies_only_what_it_has_synced() -> None:
    group = led(A, B, C)
    group.peers[B].syncs = False
    group.propose(A, b"x")
    group.settle()
    group.read(B, 1)
    group.settle()
    assert group.peers[B].ready == []
    group.sync(B)
    assert group.peers[B].ready == [1]


def test_of_five_two_are_no_quorum_so_the_leader_asks_another() -> None:
    group = led(A, B, C, D, E)
    group.read(B, 1)
    group.deliver()
    assert not any(isinstance(m, ReadAnswer) for _, _, m in group.flying)
    assert any(isinstance(m, Heartbeat) for _, _, m in group.flying)
    group.settle()
    assert group.peers[B].ready == [1]


def test_a_deposed_leader_answers_nobody_who_has_seen_its_successor() -> None:
    group = led(A, B, C)
    group.isolate(A)
    group.elect(B)
    group.propose(B, b"new")
    group.settle()
    group.heal()
    assert group[A].is_leader  # It does not know yet.
    group.read(C, 1)  # C follows B.
    group.settle()
    assert group.peers[C].commands == [b"new"]
    assert group.peers[C].ready == [1]


def test_a_stale_ask_serves_no_read_that_came_after_it() -> None:
    group = led(A, B, C)
    group.read(B, 1)
    group.deliver()
    answer = next(m for _, _, m in group.flying if isinstance(m, ReadAnswer))
    group.settle()
    group.propose(A, b"x")
    group.settle()
    group.read(B, 2)
    group.flying.clear()
    group.give(A, B, answer)
    assert group.peers[B].ready == [1]


@pytest.mark.parametrize("later", [-(2**40), 2**40])
def test_an_answer_to_an_earlier_life_serves_no_read_of_this_one(later: int) -> None:
    group = led(A, B, C)
    group.read(B, 1)
    group.deliver()
    answer = next(m for _, _, m in group.flying if isinstance(m, ReadAnswer))
    group.flying.clear()
    group.start(B)
    group.settle()
    # Each life begins anywhere: above the one before, or below.
    group[B]._ask_number = answer.number + later
    group.run(200)
    group.propose(A, b"x")
    group.settle()
    assert group.read(B, 2)
    group.flying.clear()
    group.give(A, B, answer)
    assert group.peers[B].ready == []


def test_two_lives_of_a_follower_number_their_asks_apart() -> None:
    group = led(A, B, C)
    core = group[B]
    numbers = []
    for seed in (1, 2):
        core.random = Random(seed)
        core.__attrs_post_init__()
        numbers.append(core._ask_number)
    assert abs(numbers[0] - numbers[1]) > 2**32


def test_who_was_found_to_have_lost_something_does_not_vouch_for_the_term() -> None:
    group = led(A, B, C)
    group[A].progress[B].damage = Damage.VOTE  # B has not heard of it yet.
    group.read(B, 1)
    group.deliver(lambda _s, _t, m: isinstance(m, ReadAsk))
    assert not any(isinstance(m, ReadAnswer) for _, _, m in group.flying)
    group.settle()
    assert group.peers[B].ready == [1]


def test_reads_of_a_follower_fail_when_its_leader_is_another() -> None:
    group = led(A, B, C)
    group.read(C, 1)
    group.flying.clear()
    group.isolate(A)
    group.elect(B)
    group.settle()
    assert group.peers[C].failed == [1]
    assert group.peers[C].ready == []


def test_asks_that_are_lost_do_not_keep_a_follower_from_asking_again() -> None:
    group = led(A, B, C, options=Options(quiesce=False, asks_in_flight_max=3))
    for request in (1, 2, 3, 4):
        assert group.read(B, request)
        group.flying.clear()
    assert group.peers[B].failed == [1, 2, 3, 4]
    assert group.read(B, 5)
    group.settle()
    assert group.peers[B].ready == [5]


def test_who_leads_no_more_says_so() -> None:
    group = led(A, B, C)
    group[A].step_down(group.now_ms)
    group.drain(A)
    group.read(B, 1)
    group.deliver()
    assert [type(m) for _, to, m in group.flying if to == B] == [Wake]
    group.settle()
    assert group.peers[B].failed == [1]


def test_a_silent_group_stays_silent_when_it_is_read() -> None:
    group = led(A, B, C, options=Options())
    group.run(3000)
    assert group[A].quiescent
    assert group[B].quiescent
    group.read(B, 1)
    group.settle()
    assert group.peers[B].ready == [1]
    assert group[A].quiescent
    assert group[B].quiescent


def silent(*voters: NodeId) -> Group:
    """A group whose first voter leads, and where nobody says anything any more."""
    group = led(*voters, options=Options())
    group.run(3000)
    assert all(group[node].quiescent for node in voters)
    return group


@pytest.mark.parametrize("voters", [(A, B, C), (A, B, C, D, E)])
def test_a_silent_group_stays_silent_when_its_leader_is_read(
    voters: tuple[NodeId, ...],
) -> None:
    group = silent(*voters)
    group.read(A, 1)
    asked = [to for _, to, m in group.flying if isinstance(m, Heartbeat)]
    assert len(asked) == len(voters) // 2
    group.settle()
    assert group.peers[A].ready == [1]
    assert all(group[node].quiescent for node in voters)
    group.tick(ms=1000)
    assert group.flying == []


def test_a_silent_group_of_five_stays_silent_when_a_follower_is_read() -> None:
    group = silent(A, B, C, D, E)
    group.read(B, 1)
    group.settle()
    assert group.peers[B].ready == [1]
    assert all(group[node].quiescent for node in (A, B, C, D, E))


def test_a_silent_leader_that_is_not_answered_asks_everybody() -> None:
    group = silent(A, B, C)
    group.read(A, 1)
    asked = [to for _, to, m in group.flying if isinstance(m, Heartbeat)]
    group.isolate(*asked)
    group.deliver()
    assert group[A].due_ms == group.now_ms + group.options.heartbeat_ms
    group.tick()
    group.settle()
    assert group.peers[A].ready == [1]


def test_a_silent_leader_that_is_read_finds_who_does_not_sleep() -> None:
    group = silent(A, B, C)
    asked = group[A]._read_quorum()[0]
    group.start(asked)  # It knows of no leader, and not how far it may apply.
    group.read(A, 1)
    group.settle()
    assert not group[A].quiescent
    group.run(300)
    assert group[asked].log.applied == group[A].log.applied
    group.run(2000)
    assert all(group[node].quiescent for node in (A, B, C))


def test_a_silent_leader_that_does_not_answer_a_reader_is_looked_for() -> None:
    group = silent(A, B, C)
    group.isolate(A)
    group.read(B, 1)
    group.tick(B)  # An answer may take a while.
    assert group[B].quiescent
    group.tick(B)
    group.tick(B)
    group.settle()
    assert not group[B].quiescent
    assert not group[C].quiescent
    group.run(2500)
    assert group.leaders()[-1] in (B, C)


def test_the_word_that_tells_of_a_lost_vote_vouches_for_no_read() -> None:
    group = led(A, B, C)
    group.isolate(C)
    group.peers[B].entries.clear()
    group.peers[B].hard_state = HardState(group[B].term, None, Damage.VOTE)
    group.start(B)
    group.read(A, 1)
    group.settle()
    group.tick(A)
    group.settle()
    assert group[A].progress[B].forgot_its_term
    assert group.peers[A].ready == []


def test_a_damaged_follower_is_not_read() -> None:
    group = led(A, B, C)
    group.peers[C].entries.clear()
    group.start(C)
    assert not group.read(C, 1)


def test_a_read_round_goes_to_a_quorum_and_past_a_silent_follower() -> None:
    group = led(A, B, C)
    group.run(200)
    group.read(A, 1)
    asked = [to for _, to, m in group.flying if isinstance(m, Heartbeat)]
    assert len(asked) == 1
    group.isolate(*asked)
    group.deliver()
    assert group.peers[A].ready == []
    group.run(200)  # The next heartbeat goes to all.
    assert group.peers[A].ready == [1]
    group.read(A, 2)
    then = [to for _, to, m in group.flying if isinstance(m, Heartbeat)]
    assert then not in ([], asked)
    group.settle()
    assert group.peers[A].ready == [1, 2]


def test_a_read_round_goes_to_the_whole_before_the_damaged() -> None:
    group = led(A, B, C)
    for damaged, whole in ((B, C), (C, B)):
        group[A].progress[damaged].damage = Damage.VOTE
        group[A].progress[whole].damage = Damage.NONE
        assert group[A]._read_quorum() == [whole]


async def test_a_read_barrier_on_a_follower_shows_what_was_acknowledged(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        for number in (1, 2, 3):
            await cluster.host(number).read_barrier(0)
            status = cluster.status(number, 0)
            assert status.applied_index >= cluster.status(1, 0).commit_index


async def test_a_follower_whose_leader_is_silent_gives_up_soon(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        await cluster.host(2).read_barrier(0)
        cluster.cut_off(1)
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await cluster.host(2).read_barrier(0)
        assert trio.current_time() - began < 1.0


async def test_a_follower_that_cannot_keep_up_is_not_read(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3, options=Options(apply_entries_max=2)) as cluster:
        await cluster.propose(0, b"x")
        follower, leader = cluster.host(2), await cluster.leader()
        assert follower.serves_reads(0)
        follower.wal.is_full = leader.wal.is_full = True
        assert leader.serves_reads(0)
        assert not follower.serves_reads(0)  # It takes no more entries.
        with pytest.raises(NotLeader):
            await follower.read_barrier(0)
        leader.wal.is_full = False


async def test_a_follower_that_was_told_how_far_it_is_behind_is_not_read(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3, options=Options(apply_entries_max=2)) as cluster:
        await cluster.propose(0, b"x")
        follower = cluster.host(2)
        with without_entries(follower):
            for number in range(3):
                await cluster.propose(0, b"%d" % number)
            assert follower.serves_reads(0)  # For all it knows.
            with pytest.raises(Unavailable):
                await follower.read_barrier(0)
            assert not follower.serves_reads(0)
        await cluster.until(lambda: follower.serves_reads(0))
        await follower.read_barrier(0)


@contextmanager
def without_entries(host: RaftHost) -> Iterator[None]:
    """As if all appends to a host were lost on their way."""
    take = host.on_payload

    def drop(sender: NodeId, data: bytes) -> None:
        payload = decode_payload(data)
        kept = [
            (group, message)
            for group, message in payload.messages
            if not isinstance(message, Append)
        ]
        take(sender, encode_payload(kept, wall_ms=payload.wall_ms))

    host.on_payload = drop  # type: ignore[method-assign]
    try:
        yield
    finally:
        host.on_payload = take  # type: ignore[method-assign]


async def test_a_proposal_is_given_up_when_its_time_is_over(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        leader = await cluster.leader()
        for number in (1, 2, 3):
            if cluster.host(number) is not leader:
                cluster.cut_off(number)
        began = trio.current_time()
        with pytest.raises(Unavailable) as caught:
            await leader.propose(0, b"y", timeout_ms=300)
        assert caught.value.unknown
        assert trio.current_time() - began < 0.6
