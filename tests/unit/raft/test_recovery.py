"""The WAL's records and the state machine, joined."""

from objstore.ids import NodeId
from objstore.raft.hard_state import Damage, HardState
from objstore.raft.membership import Step, next_step
from objstore.raft.recovery import (
    RecoveredGroup,
    Replay,
    entry_record,
    hard_state_record,
    restore,
)
from objstore.raft.state_machine import Applied, Entry, EntryKind, Membership
from objstore.raft.wal_format import Good, Lost, Record, RecordType

A, B, C = (NodeId(letter * 16) for letter in "abc")
VOTERS = Membership((A, B, C))


def entries(first: int, last: int, *, term: int = 1) -> list[Record]:
    return [
        entry_record(1, Entry(n, term, EntryKind.COMMAND, b"%d" % n))
        for n in range(first, last + 1)
    ]


def replay(*records: Record, lost: tuple[int, ...] = ()) -> RecoveredGroup:
    found = Replay()
    for n, record in enumerate(records):
        found.take(Lost(n + 1, 1, 0, record) if n in lost else Good(n + 1, record))
    found.finish()
    return found.groups[1]


def state(term: int, *, floor: int = 0, commit: int = 0) -> Record:
    return hard_state_record(1, HardState(term, A, Damage.NONE, commit), floor=floor)


def test_it_goes_on_behind_what_is_applied() -> None:
    restored = restore(replay(state(3, commit=5), *entries(1, 9)), Applied(4, 1, VOTERS))
    log = restored.log
    assert (log.offset, log.applied, log.committed, log.last_index) == (1, 4, 5, 9)
    assert restored.hard_state == HardState(3, A, Damage.NONE, 5)
    assert not restored.changed


def test_everything_applied_and_released_leaves_an_empty_log() -> None:
    restored = restore(replay(state(3, floor=9)), Applied(9, 2, VOTERS))
    log = restored.log
    assert (log.offset, log.offset_term, log.last_index) == (9, 2, 9)
    assert restored.hard_state.damage is Damage.NONE


def test_a_lost_entry_ends_the_log_there() -> None:
    restored = restore(replay(state(1), *entries(1, 9), lost=(6,)), Applied(3, 1, VOTERS))
    assert restored.log.last_index == 5
    assert restored.log.cut == 6
    assert restored.hard_state.damage is Damage.LOG
    assert restored.changed


def test_a_lost_entry_that_was_applied_is_no_loss() -> None:
    restored = restore(replay(state(1), *entries(1, 9), lost=(3,)), Applied(5, 1, VOTERS))
    assert restored.log.last_index == 9
    assert restored.hard_state.damage is Damage.NONE


def test_a_lost_entry_that_was_truncated_is_no_loss() -> None:
    cut = Record(1, RecordType.TRUNCATE, index=5)
    found = replay(state(1), *entries(1, 6), cut, *entries(5, 8, term=2), lost=(5,))
    restored = restore(found, Applied(3, 1, VOTERS))
    assert restored.log.last_index == 8
    assert restored.hard_state.damage is Damage.NONE


def test_a_state_machine_ahead_of_the_log_means_a_log_gone_back_in_time() -> None:
    restored = restore(replay(state(1), *entries(1, 5)), Applied(8, 4, VOTERS))
    assert restored.hard_state.damage is Damage.VOTE
    assert restored.hard_state.term == 4
    assert restored.hard_state.vote is None
    assert restored.log.last_index == 8


def test_a_snapshot_that_was_about_to_be_installed_explains_that() -> None:
    mark = Record(1, RecordType.SNAPSHOT, 4, 8)
    restored = restore(replay(state(4), *entries(1, 5), mark), Applied(8, 4, VOTERS))
    assert restored.hard_state.damage is Damage.NONE
    assert restored.log.last_index == 8
    # And where it was not, the log is as it was.
    restored = restore(replay(state(4), *entries(1, 5), mark), Applied(2, 1, VOTERS))
    assert restored.log.last_index == 5
    assert restored.hard_state.damage is Damage.NONE


def test_a_state_machine_gone_back_in_time_is_damage() -> None:
    found = replay(state(1, floor=6), *entries(7, 9))
    restored = restore(found, Applied(0, 0, Membership(())))
    assert restored.hard_state.damage is Damage.LOG
    assert restored.log.last_index == 0


def test_a_tail_that_contradicts_the_snapshot_is_dropped() -> None:
    mark = Record(1, RecordType.SNAPSHOT, 4, 5)
    restored = restore(replay(state(4), *entries(1, 9), mark), Applied(5, 4, VOTERS))
    assert restored.log.last_index == 5
    assert restored.log.cut == 6
    assert restored.hard_state.damage is Damage.NONE


def test_the_same_vote_survives_any_other_damage() -> None:
    restored = restore(replay(state(7), *entries(1, 9), lost=(6,)), Applied(3, 1, VOTERS))
    assert (restored.hard_state.term, restored.hard_state.vote) == (7, A)


def test_a_lost_hard_state_is_a_lost_vote() -> None:
    found = replay(state(1), state(2), *entries(1, 3), lost=(1,))
    assert restore(found, Applied(0, 0, VOTERS)).hard_state.damage is Damage.VOTE


def test_membership_changes_step_by_step() -> None:
    everybody = {A, B, C}

    def step(
        current: Membership,
        target: tuple[NodeId, ...],
        *,
        caught_up: set[NodeId] = everybody,
        heard: set[NodeId] = everybody,
    ) -> Membership | Step:
        return next_step(
            current,
            target,
            is_caught_up=lambda node: node in caught_up,
            is_heard=lambda node: node in heard,
        )

    with_learners = step(Membership((A,)), (A, B, C))
    assert with_learners == Membership((A,), learners=(B, C))
    assert step(with_learners, (A, B, C), caught_up={A, B}) is Step.WAIT
    joint = step(with_learners, (A, B, C))
    assert joint == Membership((A, B, C), outgoing=(A,))
    assert step(joint, (A, B, C)) is Step.WAIT
    assert step(VOTERS, (A, B, C)) is Step.DONE
    left = Membership((A, B, C), learners=(NodeId("d" * 16),))
    assert step(left, (A, B, C)) == VOTERS
    assert step(VOTERS, (B,)) == Membership((B,), outgoing=(A, B, C))
    # A group is not given to voters that could decide nothing.
    assert step(VOTERS, (A, B), heard={A, C}) is Step.WAIT
