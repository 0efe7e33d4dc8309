"""A slow disk of the log is told from a single hiccup (F12)."""

from objstore.raft.options import Options
from objstore.raft.pace import Pace

OPTIONS = Options(slow_sync_ms=1000, stall_ms=5000, quick_after_ms=30_000)


def sync(pace: Pace, began_ms: int, took_ms: int) -> int:
    """One sync; returns when it ended."""
    pace.began(began_ms)
    pace.ended(began_ms + took_ms)
    return began_ms + took_ms


def test_one_slow_sync_is_a_hiccup() -> None:
    pace = Pace(OPTIONS)
    now_ms = sync(pace, 0, 2000)
    assert not pace.look(now_ms)
    now_ms = sync(pace, sync(pace, now_ms, 5), 2000)
    assert not pace.look(now_ms)
    assert not pace.is_slow


def test_two_slow_syncs_in_a_row_are_a_slow_disk_until_it_was_quick_for_long() -> None:
    pace = Pace(OPTIONS)
    slow_ms = sync(pace, sync(pace, 0, 2000), 2000)
    assert pace.look(slow_ms)
    assert pace.is_slow
    now_ms = sync(pace, slow_ms, 5)
    assert not pace.look(now_ms)
    assert not pace.look(slow_ms + 29_999)
    assert pace.is_slow
    assert pace.look(slow_ms + 30_000)
    assert not pace.is_slow


def test_a_write_is_waited_for_where_the_log_is_quick_and_not_for_long() -> None:
    pace = Pace(Options(brief_ms=2, hold_ms=10))
    assert not pace.ends_soon(0)  # Nothing is written.
    pace.began(0)
    assert pace.ends_soon(9)
    assert not pace.ends_soon(10)
    pace.ended(30)  # A hiccup, or no CPU for us.
    pace.began(40)
    assert pace.ends_soon(45)


def test_no_write_is_waited_for_where_each_takes_long_until_one_does_not() -> None:
    pace = Pace(Options(brief_ms=2, hold_ms=10))
    now_ms = 0
    for _ in range(32):
        now_ms = sync(pace, now_ms, 5)
    pace.began(now_ms)
    assert not pace.ends_soon(now_ms)
    pace.ended(now_ms + 1)
    pace.began(now_ms + 1)
    assert pace.ends_soon(now_ms + 1)


def test_a_sync_that_does_not_end_is_a_slow_disk() -> None:
    pace = Pace(OPTIONS)
    pace.began(0)
    assert not pace.look(4999)
    assert pace.look(5000)
    assert not pace.look(60_000)  # It still hangs: no change.
    pace.ended(60_000)
    assert not pace.look(89_999)
    assert pace.look(90_000)
