"""The ring's four figures, as the benchmark's table shows them (issue: DESIGN 3)."""

from __future__ import annotations

import pytest

from objstore.ring.report import COLUMNS, Shape, measure, measure_shape, shapes

# In partitions: what rounding costs where a node has few of them.
ROUNDING = 3


def no_clock() -> float:
    return 0.0


def hold(row: dict) -> None:
    assert row["fullness_net"] <= 1.02
    assert row["crowded"] == 0
    assert row["over_m"] == 0
    for change in ("join", "leave"):
        assert row[f"{change}_moved"] <= 1.05 * row[f"{change}_least"] + ROUNDING


@pytest.mark.parametrize("shape", list(shapes([10])), ids=str)
def test_ten_nodes_keep_the_promises(shape: Shape) -> None:
    for row in measure_shape(no_clock, shape, partition_count=1024):
        hold(row)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [s for s in shapes([100]) if s.uneven and s.odd], ids=str)
def test_hundred_nodes_keep_the_promises(shape: Shape) -> None:
    for row in measure_shape(no_clock, shape, partition_count=1024):
        hold(row)


@pytest.mark.slow
def test_thousand_nodes_keep_the_promises_at_the_real_partition_count() -> None:
    for row in measure_shape(no_clock, Shape(1000, 5, odd=True, uneven=True)):
        hold(row)


@pytest.mark.full
@pytest.mark.parametrize("shape", list(shapes([100, 1000])), ids=str)
def test_every_shape_keeps_the_promises_at_the_real_partition_count(shape: Shape) -> None:
    for row in measure_shape(no_clock, shape):
        hold(row)


def test_report_has_a_row_a_shape_and_width_and_every_column() -> None:
    rows = measure(no_clock, [Shape(4, 2, odd=False, uneven=False)], partition_count=64)
    assert [row["width"] for row in rows] == [3, 6, 9]
    assert all(key in row for _, key in COLUMNS for row in rows)
