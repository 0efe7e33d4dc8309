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
_HEAD_END = ("", "")  # Behind the last line, when all are joined.
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
    lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown"]
    lines += [_field_start(name) + value for name, value in headers]
    lines.append(f"Date: {date}")
    if status not in _BODILESS:
        if content_length is None:
            lines.append("Transfer-Encoding: chunked")
        else:
            lines.append(f"Content-Length: {content_length}")
    if is_last:
        lines.append("Connection: close")
    ends = len(lines) + 1
    lines += _HEAD_END
    text = "\r\n".join(lines)
    if text.count("\n") != ends or text.count("\r") != ends or "\0" in text:
        raise LocalProtocolError("a line end or NUL inside a header field")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"a header field that is not latin-1: {error}") from error


@lru_cache(_NAMES_KEPT)
def _field_start(name: str) -> str:
    if name.lower() in _OURS:
        raise LocalProtocolError(f"{name} is for the connection to write")
    return f"{name}: "
