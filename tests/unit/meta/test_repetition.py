"""The memory of requests: which periods are asked, which rows go, who is not looked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.limits import REQUEST_ID_KEPT_MS
from objstore.meta import repetition
from objstore.meta.repetition import Seen
from objstore.meta.rows import StagedRows
from tests.unit.meta.builders import SLOT, MemoryRows

REQUEST = b"r" * 16
NOTHING_BEFORE_MS = -2 * REQUEST_ID_KEPT_MS  # Of a `Seen` that is certain at once.

times = st.integers(0, 6 * REQUEST_ID_KEPT_MS)


def looked_for(
    rows: StagedRows, time_ms: int, request: bytes
) -> tuple[bytes, bytes | None]:
    """What is found by whoever has seen nothing."""
    return Seen(time_ms).find(rows, SLOT, time_ms, request)


@given(times, times, st.booleans())
def test_a_request_is_known_for_its_time_and_for_two_periods_at_most(
    put_ms: int, later_ms: int, is_certain: bool
) -> None:
    rows = StagedRows(MemoryRows())
    seen = Seen(NOTHING_BEFORE_MS if is_certain else put_ms)
    row_key, known = seen.find(rows, SLOT, put_ms, REQUEST)
    assert known is None
    rows.put(row_key, b"result")
    asked_ms = put_ms + later_ms
    known = seen.find(rows, SLOT, asked_ms, REQUEST)[1]
    if later_ms <= REQUEST_ID_KEPT_MS:
        assert known == b"result"
    if later_ms >= 2 * REQUEST_ID_KEPT_MS:
        assert known is None
    assert seen.find(rows, SLOT, asked_ms, b"s" * 16)[1] is None


@given(times, st.lists(times, min_size=1, max_size=5))
def test_what_is_dropped_is_what_is_no_longer_known(put_ms: int, steps: list[int]) -> None:
    """However many commands come between: each drops from where the one before stopped."""
    rows = StagedRows(MemoryRows())
    row_key = looked_for(rows, put_ms, REQUEST)[0]
    before_ms, is_dropped = put_ms, False
    for step in steps:
        time_ms = before_ms + step
        start, end = repetition.forgotten(SLOT, before_ms, time_ms)
        is_dropped = is_dropped or start <= row_key < end
        asked = {looked_for(rows, time_ms, REQUEST)[0]}
        asked.add(looked_for(rows, max(0, time_ms - REQUEST_ID_KEPT_MS), REQUEST)[0])
        assert is_dropped == (row_key not in asked)
        assert (time_ms >= repetition.period_end_ms(before_ms)) == (start != end)
        before_ms = time_ms


# ---- who is not looked for ------------------------------------------------------------

requests = st.integers(0, 9).map(lambda number: bytes([number]) * 16)
steps = st.sampled_from(
    [0, 1, REQUEST_ID_KEPT_MS // 2, REQUEST_ID_KEPT_MS - 1]
    + [n * REQUEST_ID_KEPT_MS for n in (1, 2, 253, 254, 255, 256, 257)]
)


@pytest.mark.parametrize("places", [1, 3, 1024])
@given(
    history=st.lists(st.tuples(steps, requests, st.booleans()), max_size=40),
    is_certain=st.booleans(),
)
def test_whoever_was_remembered_is_found_whatever_else_was_seen(
    places: int, history: list[tuple[int, bytes, bool]], is_certain: bool
) -> None:
    """Also after a restart, where places are shared, and once the periods' numbers wrap."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repetition, "_PLACES", places)
        rows, time_ms = StagedRows(MemoryRows()), 1000
        seen = Seen(NOTHING_BEFORE_MS if is_certain else time_ms)
        for step, request, is_restarted in history:
            if is_restarted:
                seen = Seen(time_ms)
            time_ms += step
            found = seen.find(rows, SLOT, time_ms, request)
            assert found == looked_for(rows, time_ms, request)
            rows.put(found[0], b"result")


class CountedRows(MemoryRows):
    """Rows that count how often they are asked."""

    asked = 0

    def get(self, key: bytes) -> bytes | None:
        self.asked += 1
        return super().get(key)


def test_new_requests_are_looked_for_until_a_whole_period_was_seen() -> None:
    rows = CountedRows()
    began_ms = REQUEST_ID_KEPT_MS // 2
    seen = Seen(began_ms)
    for number, time_ms in enumerate(
        [began_ms, REQUEST_ID_KEPT_MS, 2 * REQUEST_ID_KEPT_MS - 1]
    ):
        seen.find(rows, SLOT, time_ms, bytes([number]) * 16)
        assert rows.asked == 2 * (number + 1)
    seen.find(rows, SLOT, 2 * REQUEST_ID_KEPT_MS, b"n" * 16)
    assert rows.asked == 6
    seen.find(rows, SLOT, 2 * REQUEST_ID_KEPT_MS, b"n" * 16)
    assert rows.asked == 8
