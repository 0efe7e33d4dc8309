"""The head of an answer, as bytes.

Written directly: h11 would take as long to check one as to parse a request (SPEED).  What
must never leave is checked here: line ends and NULs in values, which would let a stored
header write the rest of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus

from objstore.errors import LocalProtocolError

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES = {
    status: f"HTTP/1.1 {status} {reason}" for status, reason in _REASONS.items()
}
_NAMES_KEPT = 256
_BODILESS = {204, 304}
_OURS = {"content-length", "transfer-encoding", "connection", "date"}


def has_body(status: int) -> bool:
    """Whether an answer of this status may have a body at all."""
    return status not in _BODILESS


def encode_head(
    status: int,
    headers: Iterable[tuple[str, str]],
    *,
    content_length: int | None,
    date: str,
    is_last: bool,
) -> bytes:
    """Status line and fields, with those that are the connection's own.

    content_length: None for a chunked body.
    Raises LocalProtocolError for a field that cannot be written.
    """
    # Names and values in turn: `zip` would take twice as long to part them.
    fields: list[str] = []
    for field in headers:
        fields += field
    _refuse_line_ends("".join(fields[1::2]))
    fields[::2] = _field_starts(tuple(fields[::2]))
    ends = f"\r\nDate: {date}"
    if status not in _BODILESS:
        if content_length is None:
            ends += "\r\nTransfer-Encoding: chunked"
        else:
            ends += f"\r\nContent-Length: {content_length}"
    ends += "\r\nConnection: close\r\n\r\n" if is_last else "\r\n\r\n"
    start = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown"
    try:
        return "".join((start, *fields, ends)).encode("latin-1")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"a header field that is not latin-1: {error}") from error


# Most answers have fields of the same few names.
@lru_cache(_NAMES_KEPT)
def _field_starts(names: tuple[str, ...]) -> tuple[str, ...]:
    """What stands before the value of each field, the end of the line before it too."""
    for name in names:
        if name.lower() in _OURS:
            raise LocalProtocolError(f"{name} is for the connection to write")
        _refuse_line_ends(name)
    return tuple([f"\r\n{name}: " for name in names])


def _refuse_line_ends(text: str) -> None:
    if "\n" in text or "\r" in text or "\0" in text:
        raise LocalProtocolError("a line end or NUL inside a header field")
