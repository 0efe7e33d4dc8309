"""A request's head, and the quick reader of those that are beyond doubt.

    GET /photos/a?x=1 HTTP/1.1 CRLF
    Host: 127.0.0.1:9000 CRLF          printable ASCII, CRLF, every name once
    X-Amz-Date: 20260102T030405Z CRLF
    CRLF

`read_plain` reads nothing else: for whatever is out of the ordinary (another version or
method, a field twice, folded or without colon, a tab, a byte outside printable ASCII, a
transfer coding, a length that is no number) it answers None, and `framing` asks h11, whose
verdict and our own checks around it count.  So it can never refuse, and what it accepts
has one reading; a test compares that with h11's.
"""

from __future__ import annotations

import re
from functools import lru_cache

import attrs

from objstore.http.message import Headers
from objstore.limits import HTTP_HEADERS_MAX

CONTINUE = "100-continue"

_METHODS = {"GET", "PUT", "HEAD", "POST", "DELETE"}
_PRINTABLE = bytes(range(0x20, 0x7F))
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LENGTH = re.compile(r"[0-9]{1,16}")
# Names that clients send are some twenty, in few spellings; x-amz-meta-* is anybody's.
_NAMES_KEPT = 512
_NAME_SIZE_MAX = 64


@attrs.define
class Head:
    """A request's head, and how its body is framed."""

    method: str
    target: bytes  # In origin form.
    path: str  # Of the target.
    query: str  # After its first "?".
    http_version: str
    headers: Headers
    length: int | None  # Of the body; None: chunked.
    expects_continue: bool
    wants_close: bool


def read_plain(raw: bytes) -> Head | None:
    """Read a whole head, empty line included; None where it is not plain."""
    text = raw.decode("latin-1")
    lines = text.split("\r\n")
    lines.pop()
    if lines.pop() or len(lines) > HTTP_HEADERS_MAX + 1:
        return None
    # What is left without the printable bytes must be those line ends, and so it is no
    # bare CR or LF, no NUL, no tab and no byte above ASCII.
    if len(raw.translate(None, _PRINTABLE)) != 2 * len(lines) + 2:
        return None
    method, _, rest = lines[0].partition(" ")
    target, _, version = rest.partition(" ")
    if method not in _METHODS or version != "HTTP/1.1" or not target.startswith("/"):
        return None
    values = _read_fields(lines)
    if values is None or "host" not in values or "transfer-encoding" in values:
        return None
    expect = values.get("expect")
    if expect is not None and expect.lower() != CONTINUE:
        return None
    length = values.get("content-length", "0")
    if _LENGTH.fullmatch(length) is None:
        return None
    path, _, query = target.partition("?")
    return Head(
        method,
        target.encode("ascii"),
        path,
        query,
        "1.1",
        Headers.of(values),
        int(length),
        expect is not None,
        "connection" in values and names_close(values["connection"]),
    )


def names_close(connection: str) -> bool:
    """Whether a Connection field asks for the end of the connection."""
    return any(option.strip().lower() == "close" for option in connection.split(","))


def _read_fields(lines: list[str]) -> dict[str, str] | None:
    """Values by lower-case name; None for a line that is no field, or a name twice."""
    values: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or len(name) > _NAME_SIZE_MAX:
            return None
        values[_lower_name(name)] = value.strip(" ")
    if len(values) != len(lines) - 1 or "" in values:
        return None
    return values


@lru_cache(_NAMES_KEPT)
def _lower_name(name: str) -> str:
    """The name in lower case; "" for one that cannot be a name."""
    return name.lower() if _TOKEN.fullmatch(name) else ""
