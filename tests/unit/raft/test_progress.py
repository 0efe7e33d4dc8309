"""One follower as its leader sees it, and the rounds of reads."""

from hypothesis import given
from hypothesis import strategies as st

from objstore.raft.progress import Progress, Stage
from objstore.raft.read_only import ReadOnly


def replicating(match: int = 10) -> Progress:
    progress = Progress(next=match + 1, match=match)
    progress.become_replicate()
    return progress


def test_a_probe_is_one_message_at_a_time() -> None:
    progress = Progress(next=5)
    progress.sent(9, 100, round_=1)
    assert progress.probing
    assert progress.next == 5
    progress.accepted(9, round_=1)
    assert (progress.stage, progress.match, progress.next) == (Stage.REPLICATE, 9, 10)


def test_a_refused_probe_goes_down_to_the_hint() -> None:
    progress = Progress(next=50)
    progress.sent(50, 0, round_=1)
    assert progress.refused(49, 20)
    assert progress.next == 21
    assert not progress.probing
    assert not progress.refused(49, 3)  # The same refusal again.
    assert progress.refused(20, 20)  # A hint that does not help.
    assert progress.next == 20


def test_replication_is_pipelined_within_its_window() -> None:
    progress = replicating()
    for n in range(4):
        assert not progress.is_full(messages_max=4, size_max=1000)
        progress.sent(11 + n, 100, round_=1)
    assert progress.is_full(messages_max=4, size_max=1000)
    assert progress.is_full(messages_max=9, size_max=400)
    progress.accepted(12, round_=1)
    assert not progress.is_full(messages_max=4, size_max=1000)
    assert progress.next == 15


def test_a_refusal_in_replication_begins_again_from_what_is_known() -> None:
    progress = replicating()
    progress.sent(15, 100, round_=1)
    assert not progress.refused(9, 3)  # Settled long ago.
    assert progress.refused(15, 12)
    assert (progress.stage, progress.next) == (Stage.PROBE, 13)


def test_a_snapshot_suspends_everything() -> None:
    progress = Progress(next=5)
    progress.become_snapshot(100)
    assert not progress.refused(4, 0)
    progress.accepted(3, round_=1)
    assert progress.stage is Stage.SNAPSHOT
    progress.accepted(100, round_=1)
    assert (progress.stage, progress.next) == (Stage.REPLICATE, 101)


def test_a_failed_snapshot_waits_for_a_word() -> None:
    progress = Progress(next=5, match=3)
    progress.become_snapshot(100)
    progress.snapshot_failed()
    assert (progress.stage, progress.next, progress.probing) == (Stage.PROBE, 4, True)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("sent"), st.integers(0, 5)),
        st.tuples(st.just("accepted"), st.integers(0, 60)),
        st.tuples(st.just("refused"), st.integers(0, 60)),
        st.tuples(st.just("probe"), st.just(0)),
        st.tuples(st.just("snapshot"), st.integers(1, 60)),
        st.tuples(st.just("failed"), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_match_never_falls_and_stays_below_next(steps: list[tuple[str, int]]) -> None:
    progress = Progress(next=1)
    for what, number in steps:
        before = progress.match
        match what:
            case "sent":
                progress.sent(progress.next - 1 + number, number * 10, round_=1)
            case "accepted":
                progress.accepted(number, round_=1)
            case "refused":
                progress.refused(number, max(0, number - 3))
            case "probe":
                progress.become_probe()
            case "snapshot":
                progress.become_snapshot(max(number, progress.match))
            case _:
                progress.snapshot_failed()
        assert before <= progress.match < progress.next
        assert progress._window_size == sum(size for _, size in progress._window)
        if progress.stage is not Stage.REPLICATE:
            assert not progress._window


def test_reads_join_the_round_that_is_sent_after_them() -> None:
    reads = ReadOnly()
    reads.waiting += [1, 2]
    reads.begin(5, 100)
    reads.waiting.append(3)
    reads.confirm(4)
    assert reads.take(1000) == []
    reads.confirm(5)
    assert reads.take(99) == []
    assert reads.take(100) == [(100, [1, 2])]
    assert reads.waiting == [3]


def test_a_later_round_confirms_the_earlier_ones() -> None:
    reads = ReadOnly()
    for number in (1, 2, 3):
        reads.waiting.append(number)
        reads.begin(number, 10 * number)
    reads.confirm(2)
    assert reads.take(100) == [(10, [1]), (20, [2])]
    assert reads.rounds_in_flight == 1
    reads.waiting.append(4)
    assert sorted(reads.drop()) == [3, 4]
    assert reads.is_empty
