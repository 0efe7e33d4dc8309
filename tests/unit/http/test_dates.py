"""HTTP dates: three forms read, one written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.http.dates import format_http_date, parse_http_date

NOV_6_1994 = 784_111_777_000


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_all_three_forms_of_the_rfc_are_read(text):
    assert parse_http_date(text) == NOV_6_1994


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        " Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 0６ Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_no_date_is_none(text):
    assert parse_http_date(text) is None


def test_two_digit_years_are_of_the_century_around_us():
    assert parse_http_date("Sunday, 06-Nov-69 08:49:37 GMT") == 3_150_953_377_000
    assert parse_http_date("Sunday, 06-Nov-70 08:49:37 GMT") == 26_729_377_000


def test_a_leap_second_is_read_as_its_predecessor():
    assert parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT") == 1_483_228_799_000


@given(st.integers(0, 4_102_444_800_000))
def test_what_is_written_is_read_back_to_the_second(time_ms):
    assert parse_http_date(format_http_date(time_ms)) == time_ms - time_ms % 1000


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_none(text):
    parse_http_date(text)
