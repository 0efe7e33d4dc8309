"""Sizes, durations and times as text."""

from __future__ import annotations

import pytest

from objstore.units import iso_time


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_255_369_830_007, "2009-10-12T17:50:30.007Z"),
        ((1 << 43) - 1, "2248-09-26T15:10:22.207Z"),
    ],
)
def test_times_are_printed_to_the_millisecond(time_ms: int, text: str) -> None:
    assert iso_time(time_ms) == text
