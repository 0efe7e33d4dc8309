"""Whole hosts: persist, send, apply, answer, grow, hand over, crash and come back."""

import contextlib
from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from objstore.errors import Conflict, InvalidRequest, OutOfSpace, Unavailable
from objstore.limits import ENTRY_SIZE_MAX
from objstore.raft.driver import RaftHost
from objstore.raft.errors import NotLeader
from objstore.raft.hard_state import HardState
from objstore.raft.messages import Heartbeat, Vote, encode_payload
from objstore.raft.options import Options
from objstore.raft.recovery import hard_state_record
from objstore.raft.snapshot import Begin, Call, Piece, Status, decode_reply, encode_call
from objstore.raft.state_machine import Applied, Membership
from objstore.testing.disk import DiskFault
from tests.unit.raft.hosts import CONFIG, Cluster, cluster_of, node_id

SMALL = Options(kept_entries=10, kept_size=2000, kept_entries_max=20)


async def test_a_lone_node_commits_as_fast_as_its_disk(autojump_clock: MockClock) -> None:
    async with cluster_of(1) as cluster:
        host = cluster.host(1)
        began = trio.current_time()
        assert await host.propose(0, b"a") == 1
        assert await host.propose(0, b"b") == 2
        await host.read_barrier(0)
        assert trio.current_time() == began  # Not one tick has gone by.
        assert cluster.computers[node_id(1)].machine(0).commands == [b"a", b"b"]


async def test_three_nodes_replicate_and_answer_reads(autojump_clock: MockClock) -> None:
    async with cluster_of(3) as cluster:
        for n in range(10):
            assert await cluster.propose(0, b"%d" % n) == n + 1
        await (await cluster.leader()).read_barrier(0)
        machines = [c.machine(0) for c in cluster.computers.values()]
        await cluster.until(lambda: all(len(m.commands) == 10 for m in machines))
        status = cluster.status(1, 0)
        assert status.membership.voters == (node_id(1), node_id(2), node_id(3))
        assert status.commit_index == status.applied_index == status.last_index
        assert set(status.followers) == {node_id(2), node_id(3)}
        assert not status.damaged


async def propose_during_a_write(cluster: Cluster, sync_delay_s: float) -> int:
    """Ten proposals a millisecond apart; how many payloads the leader sent meanwhile."""
    for computer in cluster.computers.values():
        computer.disk.sync_delay_s = sync_delay_s
    leader = cluster.computers[node_id(1)]
    sent = leader.sent
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(cluster.host(1).propose, 0, b"%d" % number)
            await trio.sleep(0.001)
    assert leader.machine(0).commands[-10:] == [b"%d" % number for number in range(10)]
    return leader.sent - sent


async def test_what_is_proposed_during_a_brief_write_of_the_log_goes_together(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        began = trio.current_time()
        # To two others: the first, the nine that came while it was written, and commits.
        assert await propose_during_a_write(cluster, 0.0095) <= 2 * 3
        round_trip_s = 2 * cluster.delay_s
        assert trio.current_time() - began <= 2 * 0.0095 + round_trip_s + 0.001


async def test_what_is_proposed_during_a_slow_write_of_the_log_goes_at_once(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        for computer in cluster.computers.values():
            computer.disk.sync_delay_s = 0.02
        for _ in range(40):
            await cluster.propose(0, b"x")
        assert await propose_during_a_write(cluster, 0.02) >= 2 * 10


async def test_a_write_that_hangs_holds_no_proposal_for_long(
    autojump_clock: MockClock,
) -> None:
    """What came as it began goes to the others with the next tick, or what comes next."""
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        cluster.computers[node_id(1)].disk.sync_delay_s = 3.0
        follower = cluster.computers[node_id(2)]
        last = cluster.status(1, 0).last_index
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.host(1).propose, 0, b"hangs")
            await trio.sleep(0.005)
            nursery.start_soon(cluster.host(1).propose, 0, b"waits")
            await trio.sleep(0.2)
            assert cluster.status(2, 0).last_index == last + 2
        commands = follower.machine(0).commands
        await cluster.until(lambda: commands[-2:] == [b"hangs", b"waits"])


async def test_a_proposal_during_a_write_is_given_up_in_time_also_after_a_silence(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        host = cluster.host(1)
        await cluster.until(lambda: cluster.status(1, 0).quiescent)
        await trio.sleep(2)
        cluster.computers[node_id(1)].disk.sync_delay_s = 3.0
        record = hard_state_record(0, HardState(cluster.status(1, 0).term))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.make_durable, [record])
            await trio.sleep(0.001)
            began = trio.current_time()
            with pytest.raises(Unavailable):
                await host.propose(0, b"late", timeout_ms=150)
            assert trio.current_time() - began < 0.3


async def outcome_of(host: RaftHost, data: bytes) -> str:
    try:
        await host.propose(0, data)
    except NotLeader:
        return "not made"
    except Unavailable as error:
        return "unknown" if error.unknown else "not made"
    return "made"


@pytest.mark.parametrize("how", ["handed over", "removed"])
async def test_proposals_held_during_a_write_have_one_outcome_though_the_leader_changes(
    how: str, autojump_clock: MockClock
) -> None:
    outcomes: dict[bytes, str] = {}
    changes = 0

    async def propose(host: RaftHost, data: bytes) -> None:
        outcomes[data] = await outcome_of(host, data)

    async def change(host: RaftHost, number: int) -> None:
        nonlocal changes
        others = [node_id(n) for n in (1, 2, 3) if node_id(n) != host.node]
        with contextlib.suppress(NotLeader, Unavailable, Conflict):
            if how == "removed":
                await host.change_membership(0, others)
            else:
                await host.transfer(0, others[number % 2])
            changes += 1

    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        for computer in cluster.computers.values():
            computer.disk.sync_delay_s = 0.0015  # Brief: what comes meanwhile is held.
        async with trio.open_nursery() as nursery:
            for number in range(600):
                for host in cluster.hosts():
                    if host.is_leader(0):
                        nursery.start_soon(propose, host, b"%d" % number)
                        if number % 100 == 50 and (how == "handed over" or not changes):
                            nursery.start_soon(change, host, number // 100)
                await trio.sleep(0.0007)
        machine = cluster.computers[(await cluster.leader()).node].machine(0)
        assert await cluster.propose(0, b"last") == len(machine.commands)
        made = [data for data, outcome in outcomes.items() if outcome == "made"]
        assert changes >= (3 if how == "handed over" else 1)
        assert len(made) > 100
        assert "not made" in outcomes.values()
        assert set(made) <= set(machine.commands)
        assert len(set(machine.commands)) == len(machine.commands)
        for data in machine.commands:
            assert outcomes.get(data) != "not made"


async def test_who_does_not_lead_says_who_does(autojump_clock: MockClock) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        await cluster.until(lambda: cluster.host(2).leader(0) is not None)
        with pytest.raises(NotLeader) as caught:
            await cluster.host(2).propose(0, b"x")
        assert caught.value.leader == node_id(1)
        assert not caught.value.unknown
        with pytest.raises(NotLeader):
            await cluster.host(2).read_barrier(99)
        with pytest.raises(NotLeader) as caught:
            await cluster.host(2).propose(99, b"x")
        assert caught.value.leader is None


async def test_33_groups_grow_from_one_node_to_three_to_five(
    autojump_clock: MockClock,
) -> None:
    groups = range(33)
    async with cluster_of(1, groups=groups) as cluster:
        for group in groups:
            await cluster.host(1).propose(group, b"first %d" % group)
        for count in (3, 5):
            while len(cluster.computers) < count:
                await cluster.start(len(cluster.computers) + 1)
            voters = [node_id(n) for n in range(1, count + 1)]
            async with trio.open_nursery() as nursery:
                for group in groups:
                    nursery.start_soon(cluster.host(1).change_membership, group, voters)
            for group in groups:
                assert cluster.status(1, group).membership.voters == tuple(voters)
                assert cluster.status(1, group).membership.learners == ()
        for group in groups:
            assert await cluster.propose(group, b"second") == 2
        await cluster.until(
            lambda: all(
                computer.machine(group).commands == [b"first %d" % group, b"second"]
                for computer in cluster.computers.values()
                for group in groups
            )
        )


async def test_changing_to_the_same_voters_is_done_at_once(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        host = await cluster.leader()
        before = cluster.status(1, 0).last_index
        await host.change_membership(0, [node_id(3), node_id(1), node_id(2)])
        assert cluster.status(1, 0).last_index == before


async def test_two_changes_at_once_are_refused(autojump_clock: MockClock) -> None:
    async with cluster_of(1) as cluster:
        host = cluster.host(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.change_membership, 0, [node_id(1), node_id(9)])
            await trio.sleep(0.5)  # Node 9 does not exist: it never catches up.
            with pytest.raises(Conflict):
                await host.change_membership(0, [node_id(1), node_id(8)])
            nursery.cancel_scope.cancel()
        await host.change_membership(0, [node_id(1)])
        assert cluster.status(1, 0).membership.learners == ()


async def test_the_death_of_a_leader_costs_an_election_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"before")
        await cluster.stop(1)
        began = trio.current_time()
        assert await cluster.propose(0, b"after") == 2
        assert trio.current_time() - began < 4
        await cluster.start(1)
        machine = cluster.computers[node_id(1)].machine(0)
        await cluster.until(lambda: machine.commands == [b"before", b"after"])


async def test_what_was_acknowledged_survives_a_restart_of_all(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3, groups=(0, 1, 2)) as cluster:
        for group in (0, 1, 2):
            for n in range(20):
                await cluster.propose(group, b"%d" % n)
        for number in (1, 2, 3):
            await cluster.stop(number)
            assert cluster.computers[node_id(number)].machine(0).commands == []
        for number in (1, 2, 3):
            await cluster.start(number)
        for group in (0, 1, 2):
            assert await cluster.propose(group, b"new") == 21


async def test_f03_power_loss_of_a_lone_node_loses_nothing_acknowledged(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(1) as cluster:
        computer = cluster.computers[node_id(1)]
        for round_ in range(1, 6):
            assert await cluster.propose(0, b"x") == round_
            await cluster.stop(1)
            computer.disk.crash(cluster.random)
            await cluster.start(1)


async def test_a_proposal_outlives_the_leader_that_took_it(
    autojump_clock: MockClock,
) -> None:
    """Leadership moves while it is under way: the outcome is still heard of."""
    async with cluster_of(3) as cluster:
        host = await cluster.leader()
        results = []

        async def propose() -> None:
            try:
                results.append(await host.propose(0, b"x"))
            except NotLeader:
                results.append(await cluster.propose(0, b"x"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(propose)
                await trio.sleep(0.0005)
            await host.transfer(0, node_id(2))
        assert sorted(results) == list(range(1, 21))
        assert (await cluster.leader()).node == node_id(2)


async def test_a_lost_leader_says_that_the_outcome_is_unknown(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        host = await cluster.leader()
        cluster.cut_off(1)
        with pytest.raises(Unavailable) as caught:
            await host.propose(0, b"x")
        assert caught.value.unknown
        with pytest.raises(NotLeader):
            await host.propose(0, b"y")


async def test_i5_a_leader_that_is_cut_off_answers_no_reads(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        host = await cluster.leader()
        await cluster.propose(0, b"old")
        cluster.cut_off(1)
        with pytest.raises(NotLeader):
            await host.read_barrier(0)
        new = await cluster.leader(among=(2, 3))
        assert await new.propose(0, b"new") == 2


async def test_proposals_are_bounded(autojump_clock: MockClock) -> None:
    options = Options(proposals_max=10, uncommitted_size_max=1)
    async with cluster_of(3, options=options) as cluster:
        host = await cluster.leader()
        cluster.cut_off(1)
        refused = 0

        async def propose() -> None:
            nonlocal refused
            try:
                await host.propose(0, b"x")
            except NotLeader:
                pass
            except Unavailable as error:
                refused += not error.unknown

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(propose)
        assert refused == 30


async def test_a_proposal_that_was_begun_and_given_up_is_not_made_later(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3, options=Options(uncommitted_size_max=1)) as cluster:
        host = await cluster.leader()
        heard: list[object] = []

        def hear(result: Callable[[], object]) -> None:
            try:
                heard.append(result())
            except Unavailable as error:
                heard.append(error)

        cluster.cut_off(1)
        host.begin_proposal(0, b"first").then(hear)
        await trio.sleep(0.01)  # It is appended, and leaves no room.
        host.begin_proposal(0, b"late", timeout_ms=20).then(hear)
        await cluster.until(lambda: bool(heard))
        (late,) = heard
        assert isinstance(late, Unavailable)
        assert not late.unknown
        cluster.cuts.clear()
        await cluster.until(lambda: len(heard) == 2)
        await cluster.propose(0, b"last")
        commands = cluster.computers[node_id(1)].machine(0).commands
        assert commands == [b"first", b"last"]


async def test_entries_too_large_are_refused(autojump_clock: MockClock) -> None:
    async with cluster_of(1) as cluster:
        with pytest.raises(InvalidRequest):
            await cluster.host(1).propose(0, bytes(ENTRY_SIZE_MAX + 1))


async def test_a_cancelled_caller_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with cluster_of(3) as cluster:
        host = await cluster.leader()
        with trio.move_on_after(0):
            await host.propose(0, b"x")
        with trio.move_on_after(0):
            await host.read_barrier(0)
        assert await host.propose(0, b"y") in (1, 2)


async def test_a_new_member_gets_a_snapshot_where_the_log_is_gone(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(1, options=SMALL) as cluster:
        for n in range(200):
            await cluster.host(1).propose(0, b"entry %d" % n)
        cluster.computers[node_id(1)].machine(0).flush()
        await trio.sleep(3)
        await cluster.start(2)
        await cluster.host(1).change_membership(0, [node_id(1), node_id(2)])
        machine = cluster.computers[node_id(2)].machine(0)
        assert machine.installs == 1
        assert cluster.calls > 10
        await cluster.until(lambda: len(machine.commands) == 200)
        await cluster.stop(2)
        await cluster.start(2)
        assert len(machine.commands) == 200
        assert await cluster.propose(0, b"more") == 201
        await cluster.until(lambda: len(machine.commands) == 201)
        assert not cluster.status(2, 0).damaged


async def test_a_follower_far_behind_gets_a_snapshot(autojump_clock: MockClock) -> None:
    async with cluster_of(3, options=SMALL) as cluster:
        await cluster.stop(3)
        for n in range(200):
            await cluster.propose(0, b"entry %d" % n)
        for computer in cluster.computers.values():
            computer.machine(0).flush()
        await trio.sleep(5)
        await cluster.start(3)
        machine = cluster.computers[node_id(3)].machine(0)
        await cluster.until(lambda: len(machine.commands) == 200)
        assert machine.installs == 1


async def test_a_snapshot_is_given_up_where_the_disk_fills_meanwhile(
    autojump_clock: MockClock,
) -> None:
    """F09: what it brings may be more than all that was left."""
    async with cluster_of(1) as cluster:
        host = cluster.host(1)
        sender = node_id(2)
        applied = Applied(10, 5, Membership((sender,)))
        piece = Piece(7, 1, 0, b"rows")

        async def say(call: Call) -> Status:
            return decode_reply(await host.on_call(sender, encode_call(call))).status

        assert await say(Begin(7, 1, 5, applied)) is Status.OK
        assert await say(piece) is Status.OK
        host.wal.is_full = True
        assert await say(attrs.evolve(piece, number=1)) is Status.BUSY
        host.wal.is_full = False
        assert await say(attrs.evolve(piece, number=1)) is Status.BROKEN
        assert await say(Begin(7, 2, 5, applied)) is Status.OK


async def test_a_snapshot_whose_sender_dies_is_begun_again(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3, options=SMALL) as cluster:
        await cluster.stop(3)
        for n in range(200):
            await cluster.propose(0, b"entry %d" % n)
        for computer in cluster.computers.values():
            computer.machine(0).flush()
        await trio.sleep(5)
        before = cluster.calls
        await cluster.start(3)
        await cluster.until(lambda: cluster.calls > before + 3)
        leader = await cluster.leader()
        await cluster.stop(int(leader.node, 16))
        machine = cluster.computers[node_id(3)].machine(0)
        await cluster.until(lambda: len(machine.commands) == 200)


async def test_a_removed_member_forgets_the_group_and_may_come_back(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        host = await cluster.leader()
        await host.change_membership(0, [node_id(1), node_id(2)])
        machine = cluster.computers[node_id(3)].machine(0)
        await cluster.until(lambda: machine.destroyed == 1)
        assert cluster.host(3).groups() == []
        await cluster.stop(3)
        await cluster.start(3)
        assert cluster.host(3).groups() == []
        await host.change_membership(0, [node_id(1), node_id(2), node_id(3)])
        await cluster.until(lambda: machine.commands == [b"x"])


async def test_r11_a_leader_that_is_removed_hands_over_and_forgets(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        host = await cluster.leader()
        assert host.node == node_id(1)
        await host.change_membership(0, [node_id(2), node_id(3)])
        machine = cluster.computers[node_id(1)].machine(0)
        assert await cluster.propose(0, b"y") == 2
        await cluster.until(lambda: machine.destroyed == 1)
        assert (await cluster.leader()).node != node_id(1)


async def test_a_dead_voter_is_replaced(autojump_clock: MockClock) -> None:
    async with cluster_of(3) as cluster:
        await cluster.stop(3)
        await cluster.start(4)
        host = await cluster.leader()
        await host.change_membership(0, [node_id(1), node_id(2), node_id(4)])
        await cluster.stop(1)
        assert await cluster.propose(0, b"x") == 1


async def test_leadership_goes_to_whom_it_is_preferred(autojump_clock: MockClock) -> None:
    groups = range(6)
    async with cluster_of(3, groups=groups) as cluster:
        for computer in cluster.computers.values():
            computer.preferred = lambda group: node_id(group % 3 + 1)
        await cluster.until(
            lambda: all(cluster.host(g % 3 + 1).is_leader(g) for g in groups)
        )


async def test_leadership_of_idle_groups_goes_to_whom_it_is_preferred(
    autojump_clock: MockClock,
) -> None:
    groups = range(6)
    async with cluster_of(3, groups=groups) as cluster:
        await cluster.until(
            lambda: all(cluster.status(n, g).quiescent for n in (1, 2, 3) for g in groups)
        )
        for computer in cluster.computers.values():
            computer.preferred = lambda group: node_id(3)
        with trio.fail_after(10):
            await cluster.until(lambda: all(cluster.host(3).is_leader(g) for g in groups))


@pytest.mark.parametrize("idle", [False, True])
async def test_leadership_is_not_offered_to_who_has_just_died(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, *, idle: bool
) -> None:
    """Nobody can propose while it is on its way; the failure detector takes seconds."""
    monkeypatch.setattr(Cluster, "is_up", lambda *_: True)
    async with cluster_of(3) as cluster:
        host = await cluster.leader()
        await host.propose(0, b"x")
        if idle:
            await cluster.until(lambda: cluster.status(1, 0).quiescent)
        await cluster.stop(3)
        await trio.sleep(cluster.options.fresh_ms / 1000)
        cluster.computers[node_id(1)].preferred = lambda group: node_id(3)
        # One round is over, and the next would offer it again.
        await trio.sleep(1.5 * cluster.options.balance_interval_ms / 1000)
        until = trio.current_time() + 4
        while trio.current_time() < until:
            began = trio.current_time()
            await host.propose(0, b"y")
            assert trio.current_time() - began < 0.5
        assert host.is_leader(0)


async def test_idle_groups_send_nothing_and_wake_for_a_dead_leader(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3, groups=range(5)) as cluster:
        for group in range(5):
            await cluster.propose(group, b"x")
        await cluster.until(
            lambda: all(cluster.status(n, g).quiescent for n in (1, 2, 3) for g in range(5))
        )
        before = sum(computer.sent for computer in cluster.computers.values())
        await trio.sleep(20)
        assert sum(computer.sent for computer in cluster.computers.values()) == before
        leader = await cluster.leader(0)
        await cluster.stop(int(leader.node, 16))
        began = trio.current_time()
        assert await cluster.propose(0, b"y") == 2
        assert trio.current_time() - began < 5


async def test_a_host_with_nothing_to_do_is_awake_once_a_second(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3, groups=range(5)) as cluster:
        await cluster.until(
            lambda: all(cluster.status(n, g).quiescent for n in (1, 2, 3) for g in range(5))
        )
        passes = _PassCounter()
        trio.lowlevel.add_instrument(passes)
        await trio.sleep(20)
        trio.lowlevel.remove_instrument(passes)
        assert passes.moments <= 20 * len(cluster.computers) + 1


class _PassCounter(trio.abc.Instrument):
    """Counts the moments in which anything was done."""

    moments = 0

    def after_io_wait(self, timeout: float) -> None:
        self.moments += timeout > 0


async def test_a_silent_group_looks_for_a_leader_that_is_suspected(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        await cluster.until(lambda: all(cluster.status(n, 0).quiescent for n in (1, 2, 3)))
        monkeypatch.setattr(Cluster, "is_up", lambda *_: True)  # Nobody is held for dead.
        await cluster.stop(1)
        await trio.sleep(5)
        assert cluster.status(2, 0).leader == node_id(1)
        cluster.host(2).on_peer_silent(node_id(1))
        with trio.fail_after(2.5):
            await cluster.until(
                lambda: cluster.status(3, 0).leader in (node_id(2), node_id(3))
            )


async def test_a_suspected_leader_that_lives_says_so(autojump_clock: MockClock) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        await cluster.until(lambda: all(cluster.status(n, 0).quiescent for n in (1, 2, 3)))
        term = cluster.status(1, 0).term
        cluster.host(2).on_peer_silent(node_id(1))
        assert not cluster.status(2, 0).quiescent
        await trio.sleep(0.25)
        assert all(cluster.status(n, 0).quiescent for n in (1, 2, 3))
        assert cluster.status(2, 0).term == term


async def test_a_death_is_acted_upon_though_all_groups_are_silent(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        await cluster.until(lambda: all(cluster.status(n, 0).quiescent for n in (1, 2, 3)))
        await cluster.stop(3)
        cluster.host(1).on_peer_silent(node_id(3))  # Dead, for its leader.
        await trio.sleep(0.001)
        assert not cluster.status(1, 0).quiescent


async def test_a_node_that_comes_back_to_a_silent_group_finds_its_leader(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        await cluster.until(lambda: cluster.status(1, 0).quiescent)
        await cluster.stop(3)
        await cluster.start(3)
        await cluster.until(lambda: cluster.host(3).leader(0) == node_id(1))
        assert cluster.status(1, 0).term == cluster.status(3, 0).term


async def test_r15_a_hanging_disk_delays_no_heartbeats(autojump_clock: MockClock) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        term = cluster.status(1, 0).term
        cluster.computers[node_id(1)].disk.sync_delay_s = 3.0
        began = trio.current_time()
        assert await cluster.leader() is cluster.host(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.host(1).propose, 0, b"slow")
            while trio.current_time() - began < 2.5:
                await trio.sleep(0.1)
                assert cluster.status(2, 0).leader == node_id(1)
        assert cluster.status(2, 0).term == term


async def test_f12_a_disk_that_hangs_for_long_loses_leadership(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        cluster.computers[node_id(1)].disk.sync_delay_s = 30.0
        with trio.move_on_after(1):
            await cluster.host(1).propose(0, b"slow")
        await cluster.until(lambda: not cluster.host(1).is_leader(0))
        assert await cluster.propose(0, b"quick")


async def test_f12_a_disk_of_slow_syncs_leads_nothing_until_it_is_quick_again(
    autojump_clock: MockClock,
) -> None:
    """Its leader would be right, and late with every answer."""
    groups = range(6)
    async with cluster_of(3, groups=groups) as cluster:
        for number in (1, 2, 3):
            cluster.computers[node_id(number)].preferred = lambda group: node_id(1)
        for group in groups:
            await cluster.propose(group, b"x")
        cluster.computers[node_id(1)].disk.sync_delay_s = 2.0
        for _ in range(3):
            with contextlib.suppress(Unavailable):  # Leadership goes meanwhile.
                await cluster.propose(0, b"slow")

        def led() -> int:
            return sum(cluster.host(1).is_leader(group) for group in groups)

        await cluster.until(lambda: led() == 0)
        assert cluster.host(1).is_slow
        began = trio.current_time()
        for group in groups:
            await cluster.propose(group, b"quick")
        assert trio.current_time() - began < 1
        await trio.sleep(20)
        assert led() == 0  # Though it is the preferred one.
        cluster.computers[node_id(1)].disk.sync_delay_s = 0.0
        with trio.fail_after(60):
            await cluster.until(lambda: led() == len(groups))


async def test_f11_an_error_of_the_disk_ends_the_host(autojump_clock: MockClock) -> None:
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with cluster_of(1) as cluster:
            cluster.computers[node_id(1)].disk.inject(DiskFault("/wal/*", "sync"))
            with trio.move_on_after(5):
                await cluster.host(1).propose(0, b"x")
            raise AssertionError("it went on")
    assert caught.value.subgroup(OSError) is not None
    assert caught.value.subgroup(AssertionError) is None


async def test_f09_without_room_for_the_log_proposals_are_refused(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(1) as cluster:
        host = cluster.host(1)
        host.wal.is_full = True
        with pytest.raises(OutOfSpace):
            await host.propose(0, b"x")
        await host.read_barrier(0)


async def test_old_segments_go_and_what_is_needed_is_kept(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(1, groups=(0, 1), segment_size=60_000) as cluster:
        host = cluster.host(1)
        await host.propose(1, b"idle since")
        for _ in range(300):
            await host.propose(0, bytes(2000))
            await trio.sleep(0.02)
        assert len(cluster.computers[node_id(1)].disk.paths("/wal/segment-*")) <= 5
        await cluster.stop(1)
        await cluster.start(1)
        assert await cluster.propose(0, b"x") == 301
        assert await cluster.propose(1, b"x") == 2
        assert not cluster.status(1, 0).damaged
        assert not cluster.status(1, 1).damaged


async def test_f06_a_follower_whose_log_rotted_is_mended_and_votes_again(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        for n in range(10):
            await cluster.propose(0, b"%d" % n * 50)
        await cluster.stop(3)
        disk = cluster.computers[node_id(3)].disk
        (segment,) = disk.paths("/wal/segment-*")
        disk.flip_bit(segment, offset=disk.contents(segment).index(b"5" * 50))
        await cluster.start(3)
        assert cluster.status(3, 0).damaged
        await cluster.until(lambda: not cluster.status(3, 0).damaged)
        machine = cluster.computers[node_id(3)].machine(0)
        await cluster.until(lambda: len(machine.commands) == 10)
        await cluster.stop(3)
        await cluster.start(3)
        assert not cluster.status(3, 0).damaged


async def test_f07_a_rotten_log_never_wins_an_election(autojump_clock: MockClock) -> None:
    async with cluster_of(3) as cluster:
        for n in range(10):
            await cluster.propose(0, b"%d" % n * 50)
        for number in (1, 2, 3):
            await cluster.stop(number)
        disk = cluster.computers[node_id(3)].disk
        (segment,) = disk.paths("/wal/segment-*")
        disk.flip_bit(segment, offset=disk.contents(segment).index(b"9" * 50))
        await cluster.start(3)
        await cluster.start(2)
        await trio.sleep(20)
        assert not cluster.host(3).is_leader(0)
        assert not cluster.host(2).is_leader(0)  # It would need the damaged one's vote.
        await cluster.start(1)
        assert await cluster.propose(0, b"new") == 11


async def test_f08_an_emptied_log_under_a_state_machine_does_not_vote(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        for n in range(10):
            await cluster.propose(0, b"%d" % n)
        await cluster.computers[node_id(3)].flush()
        await cluster.stop(3)
        disk = type(cluster.computers[node_id(3)].disk)()
        cluster.computers[node_id(3)].disk = disk
        await cluster.start(3)
        await cluster.propose(0, b"new")
        await cluster.until(lambda: cluster.host(3).status(0) is not None)
        assert cluster.status(3, 0).damaged
        await cluster.until(lambda: not cluster.status(3, 0).damaged)


async def test_the_clock_of_a_leader_is_compared_with_its_voters(
    autojump_clock: MockClock,
) -> None:
    async with cluster_of(3) as cluster:
        await cluster.propose(0, b"x")
        await trio.sleep(0.3)
        assert abs(cluster.status(1, 0).clock_offset_ms) < 100
        cluster.computers[node_id(1)].clock.offset_ms = 3_600_000
        assert abs(cluster.status(1, 0).clock_offset_ms - 3_600_000) < 100


async def test_garbage_from_a_peer_is_dropped(autojump_clock: MockClock) -> None:
    async with cluster_of(3) as cluster:
        for data in (b"", b"\x00", b"\x01", b"\x01\xc1", b"\x02abc", b"\x01" + bytes(100)):
            cluster.host(1).on_payload(node_id(2), data)
        assert await cluster.propose(0, b"x") == 1


async def test_a_stray_vote_makes_no_replica(autojump_clock: MockClock) -> None:
    """It may be of a group that this node has left, and nobody would end the replica."""
    async with cluster_of(1) as cluster:
        host = cluster.host(1)
        vote = Vote(9, last_index=9, last_term=8, pre=False, transfer=False)
        host.on_payload(node_id(2), encode_payload([(7, vote)], wall_ms=0))
        await trio.sleep(1)
        assert host.groups() == [0]
        beat = Heartbeat(
            9, round=0, commit=0, last_index=0, quiesce=False, mend=0, lost=False
        )
        host.on_payload(node_id(2), encode_payload([(7, beat)], wall_ms=0))
        await trio.sleep(1)
        assert host.groups() == [0, 7]


async def test_an_inbox_that_is_full_drops(autojump_clock: MockClock) -> None:
    async with cluster_of(3, options=Options(inbox_payloads_max=4)) as cluster:
        for _ in range(10_000):
            cluster.host(1).on_payload(node_id(2), b"\x01")
        assert await cluster.propose(0, b"x") == 1


async def test_founding_twice_changes_nothing(autojump_clock: MockClock) -> None:
    async with cluster_of(1, groups=(0, 1)) as cluster:
        await cluster.propose(0, b"x")
        await cluster.host(1).found([0, 1, 2])
        assert cluster.host(1).groups() == [0, 1, 2]
        assert await cluster.propose(0, b"y") == 2


async def test_a_stopped_host_fails_its_callers(autojump_clock: MockClock) -> None:
    async with cluster_of(3) as cluster:
        host = await cluster.leader()
        cluster.cut_off(1)
        failures = []

        async def propose() -> None:
            try:
                await host.propose(0, b"x")
            except Unavailable as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(propose)
            await trio.sleep(0.01)
            await cluster.stop(1)
        assert [error.unknown for error in failures] == [True]


def test_the_configuration_sets_the_times() -> None:
    options = Options.of(CONFIG)
    assert options.heartbeat_ms == CONFIG.heartbeat_interval_ms
    assert options.election_timeout_ms == CONFIG.election_timeout_ms
