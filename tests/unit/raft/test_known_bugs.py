"""FAULTS R1 to R15: the bugs that every implementation of Raft repeats."""

from random import Random

import attrs
import pytest

from objstore.raft.core import Core
from objstore.raft.effects import Persist, Role, Send
from objstore.raft.hard_state import Damage, HardState
from objstore.raft.log import Log
from objstore.raft.messages import (
    Append,
    AppendReply,
    Gone,
    Heartbeat,
    HeartbeatReply,
    Vote,
    VoteReply,
)
from objstore.raft.options import Options
from objstore.raft.state_machine import Applied, Membership
from tests.unit.raft.cores import (
    OPTIONS,
    A,
    B,
    C,
    D,
    E,
    Group,
    command,
    founding,
    group_of,
    led,
)


def test_r1_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    """Figure 8: (c) S1 leads again and its old entry reaches a majority; (d) S5 wins all the
    same and overwrites it."""
    group = Group(options=attrs.evolve(OPTIONS, append_entries_max=1))
    first = founding(A, B, C, D, E)
    for node, terms in ((A, [2]), (B, [2]), (C, []), (D, []), (E, [3])):
        entries = [first, *[command(n, term) for n, term in enumerate(terms, 2)]]
        group.add(node, entries=entries, term=3)
    group.isolate(D, E)

    def not_the_noop(_sender: str, _to: str, message: object) -> bool:
        """All but what would carry S1's entry of its new term."""
        if isinstance(message, Append):
            return all(entry.term < 4 for entry in message.entries)
        return True

    group.now_ms = group[A]._election_due_ms = 9000
    group.tick(A, ms=0)
    for _ in range(20):
        group.deliver(not_the_noop)
        # The first probes carry the no-op: let the followers refuse them.
        for sender, to, message in list(group.flying):
            if isinstance(message, Append) and to == C and len(group.peers[C].entries) == 1:
                group.flying.remove((sender, to, message))
                group.give(sender, to, message)
    assert group[A].is_leader
    assert group[A].term == 4
    assert [len(group.peers[node].entries) for node in (A, B, C)] == [3, 2, 2]
    assert group[A].log.committed == 1
    group.flying.clear()
    group.heal()
    group.isolate(A, B)
    group.elect(E)  # In term 4, which is A's.
    group.elect(E)
    assert group[E].is_leader
    assert group[E].term == 5
    group.propose(E, b"new")
    group.settle()
    assert group.peers[C].entries[1].term == 3
    group.heal()
    group.run(3000)
    assert len({tuple(peer.entries) for peer in group.peers.values()}) == 1


@pytest.mark.parametrize("case", ["add and remove", "two adds", "two removes"])
def test_r2_a_membership_waits_for_an_own_entry_and_for_the_one_before(case: str) -> None:
    """Ongaro on raft-dev, 2015: a change by a new leader beside one of an old term."""
    targets = {
        "add and remove": Membership((A, B, C), outgoing=(A, B, C, D)),
        "two adds": Membership((A, B, C, D, E), outgoing=(A, B, C, D)),
        "two removes": Membership((A, B), outgoing=(A, B, C, D)),
    }
    group = group_of(A, B, C, D)
    group[A]._election_due_ms = group.now_ms = 5000
    group.tick(A, ms=0)
    while not group[A].is_leader:
        group.deliver()
    # A leader whose own entry is not committed may change nothing.
    assert group.change(A, targets[case]) is None
    group.settle()
    assert group.change(A, targets[case]) is not None
    # And one that has a change under way may not begin another.
    assert group.change(A, Membership((A,), outgoing=(A, B, C, D))) is None


def test_r3_a_read_waits_for_an_entry_of_the_leaders_own_term() -> None:
    group = group_of(A, B, C)
    group[A]._election_due_ms = group.now_ms = 5000
    group.tick(A, ms=0)
    while not group[A].is_leader:
        group.deliver()
    group.flying.clear()  # The no-op is lost.
    assert group.read(A, 1)
    assert not any(isinstance(m, Heartbeat) for _, _, m in group.flying)
    group.give(B, A, HeartbeatReply(group[A].term, 99, 1, 1, False, 0))
    assert group.peers[A].ready == []
    group.run(1000)
    assert group.peers[A].ready == [1]


def test_r4_an_answer_to_an_earlier_round_serves_no_later_read() -> None:
    """etcd 20418: the leader is paused, another writes, old answers arrive."""
    group = led(A, B, C)
    group.tick(A)
    group.deliver(lambda _s, to, _m: to in (B, C))
    old = [f for f in group.flying if isinstance(f[2], HeartbeatReply)]
    assert len(old) == 2
    group.flying.clear()
    group.isolate(A)
    group[B]._heard_ms = group[C]._heard_ms = -(10**9)
    group.elect(B)
    group.propose(B, b"new")
    group.settle()
    group.heal()
    assert group[A].is_leader  # It does not know yet.
    group.read(A, 7)
    group.flying.clear()
    for sender, to, message in old:
        group.give(sender, to, message)
        group.give(sender, to, message)
    assert group.peers[A].ready == []
    group.run(500)
    assert group.peers[A].ready == []
    assert group.peers[A].failed == [7]


def test_r4_rounds_never_repeat_a_number() -> None:
    group = led(A, B, C)
    seen: set[int] = set()
    for request in range(5):
        group.read(A, request)
        rounds = {m.round for _, _, m in group.flying if isinstance(m, Heartbeat)}
        assert len(rounds) == 1
        assert not rounds & seen
        seen |= rounds
        group.settle()
        group.tick(A)
        seen |= {m.round for _, _, m in group.flying if isinstance(m, Heartbeat)}
        group.settle()


def test_r5_a_lone_voter_commits_only_what_it_has_synced() -> None:
    """etcd 14370."""
    group = led(A)
    group.peers[A].syncs = False
    group.propose(A, b"x")
    assert group.peers[A].commands == []
    assert group[A].log.committed < group[A].log.last_index
    group.start(A)
    assert all(entry.data != b"x" for entry in group.peers[A].entries)


def test_r5_a_leader_does_not_count_itself_before_its_sync() -> None:
    group = led(A, B, C)
    group.peers[A].syncs = False
    group.isolate(C)
    group.propose(A, b"x")
    group.settle()
    assert group.peers[A].commands == []
    group.sync(A)
    assert group.peers[A].commands == [b"x"]


def test_r6_neither_vote_nor_term_is_told_before_it_is_durable() -> None:
    group = group_of(A, B, C)
    group.peers[B].syncs = False
    group.give(A, B, Vote(5, 9, 9, False, False))
    assert group.flying == []
    # The power goes: the vote was never given, and may go to another.
    group.start(B)
    group.peers[B].syncs = True
    group.give(C, B, Vote(5, 9, 9, False, False))
    assert [(to, m.granted) for _, to, m in group.flying] == [(C, True)]
    group.start(B)
    group.flying.clear()
    group.give(A, B, Vote(5, 9, 9, False, False))
    assert [m.granted for _, _, m in group.flying] == [False]


def test_r6_a_candidate_asks_for_votes_only_once_its_own_is_durable() -> None:
    group = group_of(A, B, C)
    group.peers[A].syncs = False
    group[A]._election_due_ms = group.now_ms = 5000
    group.tick(A, ms=0)
    group.settle()
    assert group[A].role is Role.CANDIDATE
    assert group[A]._votes == {}
    group.sync(A)
    assert any(isinstance(m, Vote) and not m.pre for _, _, m in group.flying)


def test_r7_a_leader_that_was_paused_serves_no_stale_read() -> None:
    """No leases: after any pause a read asks a quorum."""
    group = led(A, B, C)
    group.isolate(A)
    group[B]._heard_ms = group[C]._heard_ms = -(10**9)
    group.elect(B)
    group.propose(B, b"new")
    group.settle()
    group.heal()
    assert not group[A].can_read_now
    group.read(A, 1)
    group.run(500)
    assert group.peers[A].ready == []


def test_a_successor_is_known_at_every_moment_also_right_after_the_quorum_was_checked() -> (
    None
):
    """A slow disk asked once a second, in step with the check, and never found one."""
    group = led(A, B, C)
    found = set()
    for _ in range(30):
        group.tick(A)  # Before any answer to its heartbeat.
        found.add(group[A].best_successor())
        group.settle()
    assert found == {C}
    found.clear()
    group.isolate(C)
    group.run(3000)
    assert group[A].best_successor() == B
    assert group[A].best_successor(lambda node: node == B) is None


def test_r8_a_flapping_node_neither_grows_terms_nor_deposes_the_leader() -> None:
    """etcd 8499, 8501."""
    group = led(A, B, C)
    term = group[A].term
    for _ in range(100):
        group.isolate(C)
        group.run(2500)
        group.heal()
        group.run(300)
    assert group.leaders() == [A]
    assert group[A].term == term
    assert group[C].leader == A


def test_r8_a_node_with_a_huge_term_is_taken_in_by_one_election() -> None:
    group = led(A, B, C)
    group.isolate(C)
    group.run(200)
    group.peers[C].hard_state = HardState(1000)
    group.start(C)
    group.heal()
    group.run(6000)
    assert len(group.leaders()) == 1
    assert 1000 <= group[A].term <= 1003
    assert group[A].term == group[B].term == group[C].term


def test_r9_a_snapshot_older_than_the_commit_index_is_refused() -> None:
    group = led(A, B, C)
    group.propose(A, b"x", b"y")
    group.run(300)
    term = group[B].term
    assert not group[B].wants_snapshot(term, group[B].log.committed)
    assert not group[B].wants_snapshot(term - 1, 100)
    assert not group[A].wants_snapshot(term, 100)
    assert group[B].wants_snapshot(term, 100)


def test_r9_a_snapshot_drops_a_log_that_contradicts_it() -> None:
    group = Group()
    own = [founding(A, B, C), *[command(n, 2) for n in range(2, 12)]]
    group.add(B, entries=own, term=2)
    group.give(A, B, Append(5, 20, 5, 10, ()))
    group[B].installed(Applied(8, 4, Membership((A, B, C))), group.now_ms)
    effects = [e for e in group[B].take() if isinstance(e, Persist)]
    assert effects[0].cut == 2 or effects[0].cut == 1
    assert group[B].log.last_index == 8
    assert group[B].log.last_term == 4


def test_r9_a_snapshot_keeps_a_log_that_goes_on_from_it() -> None:
    group = Group()
    own = [founding(A, B, C), *[command(n, 2) for n in range(2, 12)]]
    group.add(B, entries=own, term=2)
    group.give(A, B, Append(5, 20, 5, 0, ()))
    group[B].installed(Applied(8, 2, Membership((A, B, C))), group.now_ms)
    assert group[B].log.last_index == 11
    assert group[B].log.applied == 8


def test_r10_a_late_append_takes_nothing_away() -> None:
    group = led(A, B, C)
    group.propose(A, b"1")
    early = [f for f in group.flying if f[1] == B and isinstance(f[2], Append)]
    group.settle()
    group.propose(A, b"2", b"3")
    group.settle()
    last = group[B].log.last_index
    for sender, to, message in early:
        group.give(sender, to, message)
    term = group[B].term
    group.give(A, B, Append(term, 1, 1, 1, ()))
    assert group[B].log.last_index == last
    assert len(group.peers[B].entries) == last


def test_r11_a_removed_node_disturbs_nobody() -> None:
    group = led(A, B, C)
    group.change(A, Membership((A, B), outgoing=(A, B, C)))
    group.cut = {(A, C)}  # It never hears that it was removed.
    group.run(2000)
    assert group[A].membership == Membership((A, B))
    term = group[A].term
    group.cut = {(A, C)}
    group.run(10_000)
    assert group.leaders() == [A]
    assert group[A].term == term
    group.heal()
    group.run(4000)
    assert group.peers[C].removed is not None
    assert group[A].term == term


def test_r11_a_removed_leader_leads_until_it_is_known_then_steps_down() -> None:
    group = led(A, B, C)
    group.change(A, Membership((B, C), outgoing=(A, B, C)))
    group.run(1000)
    assert not group[A].is_leader
    assert group.leaders() in ([B], [C])
    assert group[A].membership == Membership((B, C))
    group.run(6000)
    assert group.peers[A].removed is not None
    assert len(group.leaders()) == 1


def test_r11_late_news_of_a_removal_does_not_remove_who_is_back() -> None:
    group = led(A, B, C)
    gone = Gone(group[A].term, group[A].log.last_index)
    group.propose(A, b"x")
    group.run(300)
    group.give(A, C, gone)
    assert group.peers[C].removed is None


def test_r11_who_left_tells_those_who_stay_what_is_committed() -> None:
    """The old leader goes knowing more than they: they must not wait for its vote."""
    group = led(A)
    group.add(B)
    group.change(A, Membership((A,), learners=(B,)))
    group.run(1500)
    group.change(A, Membership((B,), outgoing=(A,)))
    group.deliver()
    group.deliver()
    while group[A].membership.outgoing or A in group[A].membership.voters:
        group.deliver()
    group.isolate(B)  # Nothing of what is said now arrives.
    group.settle()
    group.run(3000)
    assert not group[A].is_leader
    assert group[B].membership.outgoing == (A,)
    group.heal()
    group.run(6000)
    assert group.leaders() == [B]


def test_r14_a_damaged_replica_neither_votes_nor_campaigns() -> None:
    for damage in (Damage.NEW, Damage.LOG, Damage.VOTE):
        group = group_of(A, B, C)
        group.peers[B].hard_state = HardState(1, None, damage, 1)
        group.start(B)
        group.give(A, B, Vote(5, 9, 9, False, False))
        assert [m.granted for _, _, m in group.flying] == [False]
        group.flying.clear()
        group.elect(B)
        assert group[B].role is Role.FOLLOWER
        group.isolate(C)
        group.elect(A)
        assert not group.leaders()


@pytest.mark.parametrize("damage", [Damage.LOG, Damage.VOTE])
def test_r14_a_damaged_replica_is_mended_by_a_leader(damage: Damage) -> None:
    group = led(A, B, C)
    group.propose(A, b"1", b"2", b"3")
    group.run(300)
    peer = group.peers[B]
    del peer.entries[2:]
    peer.hard_state = attrs.evolve(peer.hard_state, damage=damage, commit=2)
    group.start(B)
    group.run(1500)
    assert group[B].damage is Damage.NONE
    assert peer.entries == group.peers[A].entries
    assert peer.hard_state.damage is Damage.NONE


def test_r14_a_follower_that_forgot_a_later_leader_makes_no_quorum_with_an_earlier_one() -> (
    None
):
    """B committed with C; C loses log and term; A, who knows of neither, leads on with C."""
    group = led(A, B, C)
    peer = group.peers[C]
    entries, state = list(peer.entries), peer.hard_state
    group.isolate(A)
    group[B]._heard_ms = group[C]._heard_ms = -(10**9)
    group.elect(B)
    group.propose(B, b"acknowledged")
    group.settle()
    assert group.peers[B].commands == [b"acknowledged"]
    peer.entries = entries
    peer.hard_state = attrs.evolve(state, damage=Damage.VOTE)
    group.start(C)
    group.heal()
    group.isolate(B)
    assert group[A].is_leader  # It does not know yet.
    group.read(A, 7)
    group.propose(A, b"of another history")
    group.run(500)
    assert group.peers[A].ready == []
    assert group.peers[A].commands == []
    group.heal()
    group.run(6000)
    assert {tuple(p.commands) for p in group.peers.values()} == {(b"acknowledged",)}
    assert group[C].damage is Damage.NONE


def test_r14_a_lost_vote_is_mended_only_once_every_other_voter_was_heard() -> None:
    group = led(A, B, C)
    peer = group.peers[B]
    peer.hard_state = attrs.evolve(peer.hard_state, damage=Damage.VOTE)
    group.start(B)
    group.isolate(C)
    group.run(900)
    assert group[B].damage is Damage.VOTE
    group.heal()
    group.run(1000)
    assert group[B].damage is Damage.NONE


def test_r14_acknowledged_entries_outlive_a_rotten_follower_and_its_leader() -> None:
    """A committed with B; B's copy rots; A dies: C must not win with B's vote."""
    group = led(A, B, C)
    group.isolate(C)
    group.propose(A, b"acknowledged")
    group.settle()
    assert group.peers[A].commands == [b"acknowledged"]
    peer = group.peers[B]
    peer.entries.pop()
    peer.hard_state = attrs.evolve(peer.hard_state, damage=Damage.LOG)
    group.start(B)
    group.heal()
    group.isolate(A)
    group.elect(C)
    group.run(10_000)
    assert group.leaders() == [] or group.leaders() == [A]
    group.heal()
    group.run(6000)
    assert len(group.leaders()) == 1
    assert group.peers[C].commands == [b"acknowledged"]


def test_f28_a_follower_that_went_back_in_time_is_found_out() -> None:
    """Its disk was restored from a copy: it has less than it acknowledged in this term."""
    group = led(A, B, C)
    group.propose(A, b"1")
    group.run(300)
    old = list(group.peers[B].entries)
    group.propose(A, b"2", b"3")
    group.run(300)
    group.peers[B].entries = old
    group.start(B)
    seen = []
    for _ in range(20):
        group.run(100)
        seen.append(group[B].damage)
    assert Damage.VOTE in seen
    assert seen[-1] is Damage.NONE
    assert group.peers[B].entries == group.peers[A].entries


def test_r15_heartbeats_are_answered_while_a_sync_hangs() -> None:
    group = led(A, B, C)
    group.peers[B].syncs = False
    group.propose(A, b"x")
    group.settle()
    group.tick(A)
    group.deliver(lambda _s, to, _m: to == B)
    answers = [m for sender, _, m in group.flying if sender == B]
    assert any(isinstance(m, HeartbeatReply) for m in answers)
    assert not any(isinstance(m, AppendReply) and m.index >= 3 for m in answers)


def test_an_acknowledgement_of_a_past_term_is_never_sent() -> None:
    group = led(A, B, C)
    group.peers[B].syncs = False
    group.propose(A, b"x")
    group.deliver(lambda _s, to, _m: to == B)
    group.give(C, B, Append(99, 1, 1, 1, (command(2, 99),)))
    group.flying.clear()
    group.sync(B)
    assert all(m.term == 99 for _, _, m in group.flying)


def test_a_truncated_and_appended_again_entry_is_durable_only_then() -> None:
    """The same index and term twice: an old sync must not vouch for the new one."""
    core = Core(
        group=1,
        node=B,
        hard_state=HardState(1),
        log=Log(offset=0, offset_term=0, entries=[founding(A, B, C)]),
        membership=Membership((A, B, C)),
        options=Options(),
        random=Random(1),
        is_alive=lambda _: True,
        now_ms=0,
    )

    def step(sender: str, message: object) -> list[int]:
        core.on_message(sender, message, 0)  # type: ignore[arg-type]
        return [e.sequence for e in core.take() if isinstance(e, Persist)]

    (first,) = step(A, Append(2, 1, 1, 0, (command(2, 2), command(3, 2))))
    (second,) = step(C, Append(3, 1, 1, 0, (command(2, 3),)))
    (third,) = step(A, Append(4, 1, 1, 0, (command(2, 2), command(3, 2))))
    core.persisted(first, 0)
    assert core.log.stable == 1
    core.persisted(second, 0)
    assert core.log.stable == 1
    core.persisted(third, 0)
    assert core.log.stable == 3
    acks = [e.message for e in core.take() if isinstance(e, Send)]
    assert [(m.term, m.index) for m in acks if isinstance(m, AppendReply)] == [(4, 3)]


def test_a_vote_of_someone_who_would_only_pre_vote_counts_for_nothing() -> None:
    group = group_of(A, B, C)
    group[A]._election_due_ms = group.now_ms = 5000
    group.tick(A, ms=0)
    group.give(B, A, VoteReply(2, True, True, 0, 0))
    assert group[A].role is Role.CANDIDATE
    group.give(B, A, VoteReply(2, True, True, 0, 0))
    assert group[A].role is Role.CANDIDATE
    group.give(B, A, VoteReply(2, False, True, 0, 0))
    assert group[A].is_leader
