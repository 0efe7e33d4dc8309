"""Conditions of a request, in RFC 9110's order of precedence (13.2.2).

    If-Match ............... holds: go on   fails: FAILED (412)
      without it, If-Unmodified-Since       fails: FAILED
    If-None-Match .......... holds: go on   fails: NOT_MODIFIED (304; 412 for a write)
      without it, If-Modified-Since         fails: NOT_MODIFIED

Only reads are decided here.  Conditions of writes are decided where the write is
applied; they are parsed here all the same.  Dates that cannot be read are ignored.
"""

from __future__ import annotations

import re
from enum import Enum

import attrs

from objstore.http.dates import parse_http_date
from objstore.http.message import Headers

ANY = "*"

CONDITIONS = frozenset(
    {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"}
)

# Clients of S3 often leave the quotes out, so a bare word is an etag as well.
_ETAG = re.compile(r'\s*(?:(?P<weak>W/)?"(?P<quoted>[^"]*)"|(?P<bare>[^\s",]+))\s*(?:,|$)')


class Outcome(Enum):
    """What the conditions say."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not modified"
    FAILED = "failed"


@attrs.frozen(kw_only=True)
class Conditions:
    """The conditions of one request; None: not given."""

    if_match: tuple[str, ...] | None = None  # Etags without quotes, or (ANY,).
    if_none_match: tuple[str, ...] | None = None
    if_modified_since_ms: int | None = None
    if_unmodified_since_ms: int | None = None

    @classmethod
    def from_headers(cls, headers: Headers, *, prefix: str = "") -> Conditions:
        """Those of `headers`, whose names may bear a prefix."""
        if not prefix and headers.lacks(CONDITIONS):
            return UNCONDITIONAL
        match = headers.get(f"{prefix}if-match")
        none_match = headers.get(f"{prefix}if-none-match")
        modified = headers.get(f"{prefix}if-modified-since")
        unmodified = headers.get(f"{prefix}if-unmodified-since")
        if match is none_match is modified is unmodified is None:
            return UNCONDITIONAL
        return cls(
            if_match=None if match is None else parse_etags(match, weak=False),
            if_none_match=None if none_match is None else parse_etags(none_match),
            if_modified_since_ms=None if modified is None else parse_http_date(modified),
            if_unmodified_since_ms=(
                None if unmodified is None else parse_http_date(unmodified)
            ),
        )

    def check(self, *, etag: str, modified_ms: int) -> tuple[Outcome, str]:
        """Decide for what exists; with the header that decided, "" for PROCEED.

        etag: strong, without quotes.
        """
        modified_ms -= modified_ms % 1000  # Headers have whole seconds.
        if self.if_match is not None:
            if not _matches(self.if_match, etag):
                return Outcome.FAILED, "If-Match"
        elif (
            self.if_unmodified_since_ms is not None
            and modified_ms > self.if_unmodified_since_ms
        ):
            return Outcome.FAILED, "If-Unmodified-Since"
        if self.if_none_match is not None:
            if _matches(self.if_none_match, etag):
                return Outcome.NOT_MODIFIED, "If-None-Match"
        elif (
            self.if_modified_since_ms is not None
            and modified_ms <= self.if_modified_since_ms
        ):
            return Outcome.NOT_MODIFIED, "If-Modified-Since"
        return Outcome.PROCEED, ""


UNCONDITIONAL = Conditions()


def parse_etags(value: str, *, weak: bool = True) -> tuple[str, ...]:
    """The etags of a list, without quotes; (ANY,) for "*".

    weak: whether W/"x" counts as x (If-None-Match) or as nothing (If-Match).
    What is not a list of etags has none, and so matches nothing.
    """
    if value.strip() == ANY:
        return (ANY,)
    etags: list[str] = []
    position = 0
    while position < len(value):
        match = _ETAG.match(value, position)
        if match is None:
            return ()
        position = match.end()
        if weak or not match["weak"]:
            etags.append(match["bare"] if match["quoted"] is None else match["quoted"])
    # "*" in quotes or in a list is the etag "*", which nothing has.
    return tuple(etag for etag in etags if etag != ANY)


def range_applies(if_range: str | None, *, etag: str, modified_ms: int) -> bool:
    """Whether a Range is to be honoured, given If-Range (RFC 9110, 13.1.5)."""
    if if_range is None:
        return True
    date_ms = parse_http_date(if_range.strip())
    if date_ms is not None:
        return date_ms == modified_ms - modified_ms % 1000
    return parse_etags(if_range, weak=False) == (etag,)


def _matches(etags: tuple[str, ...], etag: str) -> bool:
    return etags == (ANY,) or etag in etags
