"""Sentences of the Raft paper and dissertation (Ongaro 2014), as etcd tests them."""

import pytest

from objstore.raft.effects import Role
from objstore.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from objstore.raft.options import Options
from objstore.raft.state_machine import EntryKind, Membership
from tests.unit.raft.cores import A, B, C, D, E, Group, command, founding, group_of, led


def sent(group: Group, kind: type) -> list:
    return [message for _, _, message in group.flying if isinstance(message, kind)]


def test_a_server_that_sees_a_larger_term_takes_it_and_follows() -> None:
    """5.1: if a candidate or leader discovers that its term is out of date, it immediately
    reverts to follower state."""
    group = led(A, B, C)
    group.give(B, A, Append(9, 1, 1, 1, ()))
    assert group[A].role is Role.FOLLOWER
    assert group[A].term == 9
    assert group[A].leader == B


def test_a_server_rejects_requests_of_a_stale_term() -> None:
    """5.1: if a server receives a request with a stale term number, it rejects it."""
    group = led(A, B, C)
    term = group[B].term
    group.give(C, B, Append(term - 1, 1, 1, 1, (command(2, term - 1),)))
    ((_, _, reply),) = group.flying
    assert reply == AppendReply(term, False, 1, 1, 1, 2, 0)
    assert group[B].leader == A


def test_servers_start_as_followers() -> None:
    """5.2: when servers start up, they begin as followers."""
    group = group_of(A, B, C)
    assert [group[node].role for node in (A, B, C)] == [Role.FOLLOWER] * 3


def test_a_leader_sends_heartbeats_to_all() -> None:
    """5.2: leaders send periodic heartbeats to all followers."""
    group = led(A, B, C)
    group.tick(A)
    assert {to for _, to, m in group.flying if isinstance(m, Heartbeat)} == {B, C}


def test_a_follower_that_hears_nothing_campaigns() -> None:
    """5.2: if a follower receives no communication over the election timeout, it begins an
    election: it increments its term, votes for itself and requests votes (after 9.6: once
    a majority says that it would vote)."""
    group = group_of(A, B, C)
    group.elect(A)
    term = group[A].term
    assert group[A].is_leader
    assert group[A].vote == A
    assert term == 2
    assert {group[node].vote for node in (B, C)} == {A}


def test_election_timeouts_are_random() -> None:
    """5.2: Raft uses randomized election timeouts to ensure that split votes are rare."""
    group = group_of(A, B, C)
    due = {group[A]._election_due_ms}
    for _ in range(50):
        group[A]._restart_election_timer(0)
        due.add(group[A]._election_due_ms)
    timeout_ms = group.options.election_timeout_ms
    assert len(due) > 30
    assert all(timeout_ms <= ms < 2 * timeout_ms for ms in due)


def test_patience_is_drawn_for_a_campaign_and_not_for_each_word_of_the_leader() -> None:
    """As in etcd: who failed together draws anew before it tries again."""
    group = led(A, B, C)
    heard = set()
    for _ in range(5):
        group.tick(A)
        group.settle()
        heard.add(group[B].due_ms - group.now_ms)
    assert len(heard) == 1
    group.isolate(B)
    tried = set()
    for _ in range(10):
        group.tick(B, ms=group[B].due_ms - group.now_ms)
        tried.add(group[B].due_ms - group.now_ms)
    assert len(tried) > 5


def test_a_server_votes_once_a_term_first_come_first_served() -> None:
    """5.2: each server will vote for at most one candidate in a given term."""
    group = group_of(A, B, C)
    group.give(A, C, Vote(5, 9, 9, False, False))
    group.give(B, C, Vote(5, 9, 9, False, False))
    group.give(A, C, Vote(5, 9, 9, False, False))
    granted = [(to, m.granted) for _, to, m in group.flying]
    assert granted == [(A, True), (B, False), (A, True)]


def test_a_candidate_with_the_votes_of_a_majority_wins() -> None:
    """5.2: a candidate wins an election if it receives votes from a majority."""
    group = group_of(A, B, C, D, E)
    group.isolate(D, E)
    group.elect(A)
    assert group[A].is_leader
    group = group_of(A, B, C, D, E)
    group.isolate(C, D, E)
    group.elect(A)
    assert not group.leaders()


def test_a_candidate_that_hears_the_leader_follows_it() -> None:
    """5.2: if the leader's term is at least as large, the candidate recognizes it."""
    group = group_of(A, B, C)
    group.isolate(A)
    group.elect(A)
    assert group[A].role is Role.PRE_CANDIDATE
    group.give(B, A, Append(1, 1, 1, 1, ()))
    assert (group[A].role, group[A].leader) == (Role.FOLLOWER, B)


def test_a_leader_appends_then_replicates_in_parallel() -> None:
    """5.3: the leader appends the command to its log as a new entry, then issues
    AppendEntries in parallel; here also beside its own sync (10.2.1)."""
    group = led(A, B, C)
    group.peers[A].syncs = False
    group.propose(A, b"x")
    (append, _) = sent(group, Append)
    assert append.entries[0].data == b"x"
    assert group[A].log.stable < group[A].log.last_index


def test_an_entry_is_committed_once_a_majority_has_it() -> None:
    """5.3: a log entry is committed once the leader has replicated it on a majority."""
    group = led(A, B, C)
    group.isolate(C)
    group.propose(A, b"x")
    assert group.peers[A].commands == []
    group.settle()
    assert group.peers[A].commands == [b"x"]


def test_an_answer_that_leads_to_nothing_leaves_nothing_to_take() -> None:
    """Of three answers to an entry one is late, and so are most to heartbeats."""
    group = led(A, B, C)
    group.propose(A, b"x")
    group.deliver(lambda _, to, message: to == B or isinstance(message, AppendReply))
    group.deliver(lambda sender, *_: sender == B)
    assert group.peers[A].commands == [b"x"]
    group.deliver(lambda _, to, __: to == C)
    ((sender, _, late),) = [flying for flying in group.flying if flying[1] == A]
    group[A].on_message(sender, late, group.now_ms)
    assert not group[A].dirty
    assert group[A].progress[C].match == group[A].log.last_index
    group.flying.clear()
    group.tick(A)
    group.deliver(lambda _, to, __: to in (B, C))
    answers = [flying for flying in group.flying if isinstance(flying[2], HeartbeatReply)]
    assert len(answers) == 2
    for sender, _, answer in answers:
        group[A].on_message(sender, answer, group.now_ms)
    assert not group[A].dirty


def test_an_answer_frees_the_window_for_what_waited() -> None:
    group = led(A, B, options=Options(quiesce=False, in_flight_messages_max=1))
    group.propose(A, b"x")
    group.propose(A, b"y")
    assert len(sent(group, Append)) == 1
    group.deliver()
    group.deliver()
    (append,) = sent(group, Append)
    assert [entry.data for entry in append.entries] == [b"y"]


def test_followers_apply_what_they_learn_is_committed() -> None:
    """5.3: once a follower learns that an entry is committed, it applies it in order."""
    group = led(A, B, C)
    group.propose(A, b"x", b"y")
    group.run(300)
    assert [group.peers[node].commands for node in (A, B, C)] == [[b"x", b"y"]] * 3


def test_an_append_that_does_not_fit_is_refused() -> None:
    """5.3: if the follower does not find an entry with the same index and term, it refuses
    the new entries."""
    group = led(A, B, C)
    term, last = group[B].term, group[B].log.last_index
    for prev, prev_term in ((last + 1, term), (last, term + 1)):
        group.give(A, B, Append(term, prev, prev_term, 0, (command(prev + 1, term),)))
        reply = group.flying.pop()[2]
        assert isinstance(reply, AppendReply)
        assert not reply.accepted
    assert group[B].log.last_index == last


@pytest.mark.parametrize(
    "follower_terms",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ],
    ids="abcdef",
)
def test_figure_7_logs_are_brought_in_line(follower_terms: list[int]) -> None:
    """5.3, figure 7: the leader forces the followers' logs to duplicate its own."""
    leader_terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]

    def log(terms: list[int]) -> list:
        rest = [command(n, term) for n, term in enumerate(terms[1:], 2)]
        return [founding(A, B, C), *rest]

    group = Group()
    group.add(A, A, B, C, term=7, entries=log(leader_terms))
    group.add(B, A, B, C, term=max(follower_terms), entries=log(follower_terms))
    group.add(C, A, B, C, term=1, entries=log([1]))
    group.isolate(B)
    group.elect(A)
    assert group[A].is_leader
    group.heal()
    group.run(1000)
    assert group[A].is_leader
    assert group.peers[B].entries == group.peers[A].entries
    assert group.peers[C].entries == group.peers[A].entries


def test_a_refusal_skips_a_whole_term() -> None:
    """5.3: the follower can include the term of the conflict; one exchange a term."""
    group = Group()
    long = [founding(A, B, C)] + [command(n, 2) for n in range(2, 60)]
    group.add(
        A,
        A,
        B,
        C,
        term=3,
        entries=[founding(A, B, C), *[command(n, 3) for n in range(2, 60)]],
    )
    group.add(B, A, B, C, term=2, entries=long)
    group.add(C, A, B, C, term=1)
    group.elect(A)
    refused = [m for m in _all_replies(group) if not m.accepted]
    assert len(refused) <= 4
    assert group.peers[B].entries == group.peers[A].entries


def _all_replies(group: Group) -> list[AppendReply]:
    replies = []
    give = group.give

    def watch(sender, to, message) -> None:
        if isinstance(message, AppendReply):
            replies.append(message)
        give(sender, to, message)

    group.give = watch  # type: ignore[method-assign]
    group.run(1000)
    return replies


def test_a_voter_refuses_a_candidate_whose_log_is_older() -> None:
    """5.4.1: the voter denies its vote if its own log is more up-to-date."""
    group = Group()
    group.add(A, A, B, C, entries=[founding(A, B, C), command(2, 3), command(3, 3)], term=3)
    for last_index, last_term, granted in (
        (3, 3, True),
        (9, 2, False),
        (2, 3, False),
        (1, 4, True),
    ):
        group.start(A)
        group.give(B, A, Vote(group[A].term + 1, last_index, last_term, False, False))
        reply = group.flying.pop()[2]
        assert isinstance(reply, VoteReply)
        assert reply.granted == granted


def test_a_new_leader_begins_with_an_empty_entry() -> None:
    """6.4 (and 5.4.2): each leader commits a blank no-op entry at the start of its term."""
    group = led(A, B, C)
    entry = group[A].log.entry(group[A].log.last_index)
    assert (entry.kind, entry.term) == (EntryKind.NOOP, group[A].term)


def test_commands_may_be_delivered_twice_in_the_network() -> None:
    """5.5: Raft RPCs are idempotent, so repetition causes no harm."""
    group = led(A, B, C)
    group.propose(A, b"x")
    for _ in range(3):
        for sender, to, message in list(group.flying):
            group.give(sender, to, message)
    group.run(300)
    assert group.peers[B].commands == [b"x"]


def test_a_leader_without_a_quorum_steps_down() -> None:
    """6.2: a leader steps down if an election timeout elapses without a successful round
    of heartbeats to a majority."""
    group = led(A, B, C)
    group.isolate(A)
    group.run(2500)
    assert not group[A].is_leader


def test_leadership_is_transferred_once_the_target_has_the_log() -> None:
    """3.10: the prior leader stops accepting requests, brings the target's log up to date,
    then tells it to time out now."""
    group = led(A, B, C)
    group.isolate(B)
    group.propose(A, b"x")
    group.settle()
    group.heal()
    assert group[A].transfer(B, group.now_ms)
    group.drain(A)
    assert sent(group, TimeoutNow) == []
    assert group.propose(A, b"y") is None
    group.run(600)
    assert group.leaders() == [B]
    assert group.peers[B].commands == [b"x"]


def test_a_transfer_that_fails_lets_the_leader_go_on() -> None:
    """3.10: if leadership transfer does not complete after about an election timeout, the
    prior leader aborts the transfer and resumes accepting client requests."""
    group = led(A, B, C)
    group.isolate(B)
    group[A].transfer(B, group.now_ms)
    group.propose(A, b"lost in vain")
    group.run(1500)
    assert group[A].is_leader
    assert group.propose(A, b"x") is not None


def test_a_learner_receives_the_log_and_does_not_count() -> None:
    """4.2.1: new servers join as non-voting members, not counted towards majorities."""
    group = led(A)
    group.add(B)
    group.change(A, Membership((A,), learners=(B,)))
    group.run(500)
    assert [entry.index for entry in group.peers[B].entries] == [1, 2, 3]
    group.isolate(B)
    group.propose(A, b"x")
    group.settle()
    assert group.peers[A].commands == [b"x"]
    group.heal()
    group.now_ms += 20_000
    group.tick(B)
    assert group[B].role is Role.FOLLOWER


def test_a_joint_membership_needs_both_majorities() -> None:
    """4.3: agreement (for elections and entry commitment) requires majorities from both
    the old and new configurations."""
    group = led(A, B, C)
    group.add(D)
    group.add(E)
    group.change(A, Membership((A, B, C), learners=(D, E)))
    group.run(1000)
    group.change(A, Membership((A, D, E), outgoing=(A, B, C)))
    group.deliver()
    group.deliver()
    assert group[A].membership.outgoing == (A, B, C)
    group.isolate(B, C)
    group.flying.clear()
    group.propose(A, b"x")
    group.settle()
    assert b"x" not in group.peers[A].commands
    group.heal()
    group.isolate(D, E)
    group.propose(A, b"y")
    group.run(300)
    assert b"y" not in group.peers[A].commands
    group.heal()
    group.run(600)
    assert group.peers[A].commands == [b"x", b"y"]
    assert group[A].membership == Membership((A, D, E))


def test_a_snapshot_is_sent_where_the_log_is_gone() -> None:
    """5.1 (dissertation): the leader sends a snapshot if it has discarded the next entry."""
    group = led(A, B, C)
    group.isolate(C)
    for n in range(20):
        group.propose(A, b"%d" % n)
    group.run(300)
    group[A].log.compact(group[A].log.applied)
    group.heal()
    group.run(300)
    assert group.peers[A].snapshots == [C]
    group.run(300)
    assert group.peers[A].snapshots == [C]  # One at a time.
    group[A].snapshot_sent(C, None, group.now_ms)
    group.drain(A)
    group.run(300)
    assert group.peers[A].snapshots == [C, C]
    applied = group.peers[A].applied
    group.peers[C].applied = applied
    group[C].installed(applied, group.now_ms)
    group.drain(C)
    group[A].snapshot_sent(C, applied.index, group.now_ms)
    group.drain(A)
    group.settle()
    group.propose(A, b"new")
    group.run(300)
    assert group.peers[C].commands == [b"new"]


def test_what_a_heard_follower_lacks_is_kept_just_after_a_check_of_the_quorum() -> None:
    """7: compacting without regard to a live follower would send it a snapshot for nothing."""
    options = Options(quiesce=False, kept_entries=4, kept_size=100)
    group = led(A, B, C, options=options)
    group.peers[C].syncs = False  # Slow, but it answers heartbeats.
    for n in range(20):
        group.propose(A, b"%d" % n)
    group.settle()
    leader = group[A]
    behind = leader.progress[C].match
    assert behind < leader.log.applied
    assert leader._check_quorum(group.now_ms)
    leader.compact(leader.log.applied)
    assert leader.log.offset <= behind
