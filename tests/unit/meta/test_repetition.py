"""The memory of requests: which periods are asked, which rows go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from objstore.limits import REQUEST_ID_KEPT_MS
from objstore.meta import repetition
from objstore.meta.rows import StagedRows
from tests.unit.meta.builders import SLOT, MemoryRows

REQUEST = b"r" * 16

times = st.integers(0, 6 * REQUEST_ID_KEPT_MS)


@given(times, times)
def test_a_request_is_known_for_its_time_and_for_two_periods_at_most(
    put_ms: int, later_ms: int
) -> None:
    rows = StagedRows(MemoryRows())
    row_key, known = repetition.find(rows, SLOT, put_ms, REQUEST)
    assert known is None
    rows.put(row_key, b"result")
    asked_ms = put_ms + later_ms
    known = repetition.find(rows, SLOT, asked_ms, REQUEST)[1]
    if later_ms <= REQUEST_ID_KEPT_MS:
        assert known == b"result"
    if later_ms >= 2 * REQUEST_ID_KEPT_MS:
        assert known is None
    assert repetition.find(rows, SLOT, asked_ms, b"s" * 16)[1] is None


@given(times, st.lists(times, min_size=1, max_size=5))
def test_what_is_dropped_is_what_is_no_longer_known(put_ms: int, steps: list[int]) -> None:
    """However many commands come between: each drops from where the one before stopped."""
    rows = StagedRows(MemoryRows())
    row_key = repetition.find(rows, SLOT, put_ms, REQUEST)[0]
    before_ms, is_dropped = put_ms, False
    for step in steps:
        time_ms = before_ms + step
        start, end = repetition.forgotten(SLOT, before_ms, time_ms)
        is_dropped = is_dropped or start <= row_key < end
        asked = {repetition.find(rows, SLOT, time_ms, REQUEST)[0]}
        asked.add(
            repetition.find(rows, SLOT, max(0, time_ms - REQUEST_ID_KEPT_MS), REQUEST)[0]
        )
        assert is_dropped == (row_key not in asked)
        assert repetition.is_new_period(before_ms, time_ms) == (start != end)
        before_ms = time_ms
