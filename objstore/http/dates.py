"""HTTP dates: the one form we write, the three we read (RFC 9110, 5.6.7).

    IMF-fixdate   Sun, 06 Nov 1994 08:49:37 GMT    written, and read
    RFC 850       Sunday, 06-Nov-94 08:49:37 GMT   read
    asctime       Sun Nov  6 08:49:37 1994         read

Times are milliseconds since the Unix epoch; HTTP has whole seconds.
"""

from __future__ import annotations

import re
from calendar import timegm
from datetime import UTC, datetime
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)}

_CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_FORMS = (
    re.compile(
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>[0-9]{{2}}) (?P<month>[A-Z][a-z]{{2}}) "
        rf"(?P<year>[0-9]{{4}}) {_CLOCK} GMT"
    ),
    re.compile(
        r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, "
        rf"(?P<day>[0-9]{{2}})-(?P<month>[A-Z][a-z]{{2}})-(?P<year>[0-9]{{2}}) {_CLOCK} GMT"
    ),
    re.compile(
        r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?P<month>[A-Z][a-z]{2}) "
        rf"(?P<day>[ 0-9][0-9]) {_CLOCK} (?P<year>[0-9]{{4}})"
    ),
)
_KEPT = 1024  # Seconds: objects that are read together were often written together.
# Two digits mean 1970 to 2069: the RFC's "no more than 50 years ahead" until then.
_CENTURY_PIVOT = 70


def format_http_date(time_ms: int) -> str:
    """As Last-Modified and Date show it; fractions of a second are cut off."""
    return _format(time_ms // 1000)


@lru_cache(_KEPT)
def _format(time_s: int) -> str:
    moment = datetime.fromtimestamp(time_s, UTC)
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} "
        f"{moment.year:04} {moment.hour:02}:{moment.minute:02}:{moment.second:02} GMT"
    )


def parse_http_date(text: str) -> int | None:
    """The time that `text` says, or None where it is no HTTP date.

    The day's name is not compared with the date.
    """
    for form in _FORMS:
        match = form.fullmatch(text)
        if match is not None:
            return _time_ms(match)
    return None


def _time_ms(match: re.Match[str]) -> int | None:
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += 1900 if year >= _CENTURY_PIVOT else 2000
    second = int(match["second"])
    try:
        moment = datetime(
            year,
            _MONTH_NUMBERS[match["month"]],
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            min(second, 59),  # A leap second is its predecessor.
            tzinfo=UTC,
        )
    except (KeyError, ValueError):
        return None
    return None if second > 60 else timegm(moment.utctimetuple()) * 1000
