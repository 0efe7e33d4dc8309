"""The byte rate is kept over any stretch of time; failures cost less and less."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.repair.backoff import PAUSE_MAX_S, PAUSE_MIN_S, Backoff
from objstore.repair.throttle import Throttle


@given(
    rate=st.integers(1, 1000),
    sizes=st.lists(st.integers(0, 500), max_size=50),
    pauses=st.lists(st.floats(0, 5), min_size=50, max_size=50),
)
def test_no_stretch_of_time_carries_more_than_the_rate_and_one_burst(
    rate: int, sizes: list[int], pauses: list[float]
) -> None:
    throttle = Throttle(rate)
    now = 100.0
    sent: list[tuple[float, int]] = []
    for size, pause in zip(sizes, pauses, strict=False):
        now += throttle.spend(size, now)
        sent.append((now, size))
        now += pause
    largest = max(sizes, default=0)
    for first in range(len(sent)):
        total = 0
        for last in range(first, len(sent)):
            total += sent[last][1]
            took = sent[last][0] - sent[first][0]
            assert total <= rate * (took + 1) + 2 * largest + 1e-3


def test_the_rate_is_used_up_and_not_wasted() -> None:
    throttle = Throttle(100)
    now = 0.0
    for _ in range(100):
        now += throttle.spend(10, now)
    assert now == pytest.approx(1000 / 100 - 1, abs=0.2)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError):
        Throttle(0)


def test_pauses_grow_to_their_limit_and_end_with_a_success() -> None:
    backoff: Backoff[str] = Backoff(10)
    now = 0.0
    dues = []
    for _ in range(2000):
        assert backoff.is_due("a", now)
        backoff.failed("a", now)
        assert not backoff.is_due("a", now)
        pause = next(p for p in _powers() if backoff.is_due("a", now + p))
        dues.append(pause)
        now += pause
    assert dues[0] == PAUSE_MIN_S
    assert all(one <= other for one, other in pairwise(dues))
    assert dues[-1] == PAUSE_MAX_S
    backoff.worked("a")
    assert len(backoff) == 0


def _powers() -> list[float]:
    return [min(PAUSE_MIN_S * 2**n, PAUSE_MAX_S) for n in range(20)]


@given(st.lists(st.integers(0, 30), max_size=200))
def test_only_so_many_failures_are_remembered(keys: list[int]) -> None:
    backoff: Backoff[int] = Backoff(8)
    for now, key in enumerate(keys):
        backoff.failed(key, now)
        assert len(backoff) <= 8
        assert not backoff.is_due(key, now)
