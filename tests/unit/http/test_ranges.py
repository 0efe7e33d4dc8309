"""Byte ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.http.ranges import RangeNotSatisfiable, Span, parse_range


@pytest.mark.parametrize(
    ("value", "span"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-99", Span(0, 10)),
        ("bytes=3-5", Span(3, 3)),
        ("bytes=9-", Span(9, 1)),
        ("bytes=-3", Span(7, 3)),
        ("bytes=-99", Span(0, 10)),
        ("BYTES=0-1", Span(0, 2)),
        ("bytes=0-99999999999999999999999999", Span(0, 10)),
    ],
)
def test_a_range_of_ten_bytes_is(value, span):
    assert parse_range(value).resolve(10) == span


@pytest.mark.parametrize("value", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_range_beyond_the_end_cannot_be_satisfied(value):
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(value).resolve(10)
    assert caught.value.size == 10


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=-5", "bytes=0-0"])
def test_no_range_of_nothing_can_be_satisfied(value):
    with pytest.raises(RangeNotSatisfiable):
        parse_range(value).resolve(0)


@pytest.mark.parametrize(
    "value",
    ["", "bytes", "bytes=", "bytes=-", "bytes=5-3", "bytes=a-b", "items=0-1",
     "bytes=0-1,3-4", "bytes=--1", "bytes=0x0-1", "bytes=1-２", "bytes =0-1"],
)  # fmt: skip
def test_what_cannot_be_read_is_ignored(value):
    assert parse_range(value) is None


def test_content_range_says_first_last_and_size():
    assert Span(3, 4).content_range(10) == "bytes 3-6/10"


@given(st.text(max_size=30), st.integers(0, 100))
def test_any_range_that_resolves_lies_within(text, size):
    found = parse_range("bytes=" + text)
    if found is not None:
        try:
            span = found.resolve(size)
        except RangeNotSatisfiable:
            return
        assert 0 <= span.offset < span.offset + span.length <= size
