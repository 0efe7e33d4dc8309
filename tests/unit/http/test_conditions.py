"""Conditions, in RFC 9110's precedence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.http.conditions import (
    UNCONDITIONAL,
    Conditions,
    Outcome,
    parse_etags,
    range_applies,
)
from objstore.http.dates import format_http_date
from objstore.http.message import Headers

NOW = 784_111_777_500  # Half a second after a whole one.
BEFORE = format_http_date(NOW - 10_000)
AT = format_http_date(NOW)
AFTER = format_http_date(NOW + 10_000)
GO, SAME, FAILED = Outcome.PROCEED, Outcome.NOT_MODIFIED, Outcome.FAILED


def check(**given_headers: str) -> Outcome:
    headers = Headers((name.replace("_", "-"), v) for name, v in given_headers.items())
    return Conditions.from_headers(headers).check(etag="abc", modified_ms=NOW)[0]


@pytest.mark.parametrize(
    ("headers", "outcome"),
    [
        ({}, GO),
        ({"if_match": '"abc"'}, GO),
        ({"if_match": "abc"}, GO),
        ({"if_match": '"x", "abc"'}, GO),
        ({"if_match": "*"}, GO),
        ({"if_match": '"*"'}, FAILED),
        ({"if_match": '"x"'}, FAILED),
        ({"if_match": 'W/"abc"'}, FAILED),  # The strong comparison (13.1.1).
        ({"if_match": ""}, FAILED),
        ({"if_none_match": '"abc"'}, SAME),
        ({"if_none_match": 'W/"abc"'}, SAME),  # The weak one (13.1.2).
        ({"if_none_match": "*"}, SAME),
        ({"if_none_match": '"x"'}, GO),
        ({"if_modified_since": BEFORE}, GO),
        ({"if_modified_since": AT}, SAME),
        ({"if_modified_since": AFTER}, SAME),
        ({"if_unmodified_since": BEFORE}, FAILED),
        ({"if_unmodified_since": AT}, GO),
        ({"if_unmodified_since": AFTER}, GO),
        ({"if_modified_since": "not a date"}, GO),
        ({"if_unmodified_since": "not a date"}, GO),
        # If-Match decides, If-Unmodified-Since is not looked at; likewise the others.
        ({"if_match": '"abc"', "if_unmodified_since": BEFORE}, GO),
        ({"if_match": '"x"', "if_unmodified_since": AFTER}, FAILED),
        ({"if_none_match": '"x"', "if_modified_since": AFTER}, GO),
        ({"if_none_match": '"abc"', "if_modified_since": BEFORE}, SAME),
        ({"if_match": '"abc"', "if_none_match": '"abc"'}, SAME),
        ({"if_match": '"x"', "if_none_match": '"abc"'}, FAILED),
        ({"if_unmodified_since": BEFORE, "if_none_match": '"abc"'}, FAILED),
    ],
)
def test_conditions_on_what_exists(headers, outcome):
    assert check(**headers) is outcome


def test_the_header_that_decided_is_named():
    conditions = Conditions(if_match=("x",))
    assert conditions.check(etag="abc", modified_ms=NOW) == (FAILED, "If-Match")


def test_a_request_without_conditions_has_none():
    assert Conditions.from_headers(Headers([("host", "h")])) is UNCONDITIONAL


def test_conditions_on_a_copy_source_bear_a_prefix():
    headers = Headers([("x-copy-if-match", '"a"'), ("if-match", '"b"')])
    assert Conditions.from_headers(headers, prefix="x-copy-").if_match == ("a",)


def test_if_range_is_an_etag_or_a_date():
    assert range_applies(None, etag="abc", modified_ms=NOW)
    assert range_applies('"abc"', etag="abc", modified_ms=NOW)
    assert not range_applies('W/"abc"', etag="abc", modified_ms=NOW)
    assert not range_applies('"x"', etag="abc", modified_ms=NOW)
    assert range_applies(AT, etag="abc", modified_ms=NOW)
    assert not range_applies(BEFORE, etag="abc", modified_ms=NOW)


@given(st.text(max_size=40))
def test_any_text_is_a_list_of_etags(text):
    assert all('"' not in etag for etag in parse_etags(text))


@given(st.lists(st.from_regex(r"[0-9a-f]{1,32}(-[0-9]{1,5})?", fullmatch=True), min_size=1))
def test_a_list_of_etags_is_read_back(etags):
    assert parse_etags(", ".join(f'"{etag}"' for etag in etags)) == tuple(etags)
