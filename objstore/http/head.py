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
_NAME_SIZE_MAX = 64
_FIELDS_KEPT = 512  # A dozen clients of a few kinds, and what each request has alone.
_KEPT_OF_SIZE_MAX = 4096  # Of a head: so nobody fills the memory with what is kept.


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


def read_plain(raw: bytes | bytearray) -> Head | None:
    """Read a whole head without the empty line that ends it; None: it is not plain."""
    lines = raw.decode("latin-1").split("\r\n")
    # What is left without the printable bytes must be those line ends, and so it is no
    # bare CR or LF, no NUL, no tab and no byte above ASCII.
    if len(raw.translate(None, _PRINTABLE)) != 2 * (len(lines) - 1):
        return None
    method, _, rest = lines.pop(0).partition(" ")
    target, _, version = rest.partition(" ")
    if method not in _METHODS or version != "HTTP/1.1" or not target.startswith("/"):
        return None
    read_field = _field_kept if len(raw) <= _KEPT_OF_SIZE_MAX else _read_field
    values = dict(map(read_field, lines))
    if (
        len(values) != len(lines)  # A name came twice.
        or len(lines) > HTTP_HEADERS_MAX
        or "" in values
        or "host" not in values
        or "transfer-encoding" in values
    ):
        return None
    expect = values.get("expect")
    if expect is not None and expect.lower() != CONTINUE:
        return None
    length = 0
    if "content-length" in values:
        if _LENGTH.fullmatch(values["content-length"]) is None:
            return None
        length = int(values["content-length"])
    path, _, query = target.partition("?")
    return Head(
        method,
        target.encode("ascii"),
        path,
        query,
        "1.1",
        Headers.of(values),
        length,
        expect is not None,
        "connection" in values and names_close(values["connection"]),
    )


def names_close(connection: str) -> bool:
    """Whether a Connection field asks for the end of the connection."""
    return any(option.strip().lower() == "close" for option in connection.split(","))


def _read_field(line: str) -> tuple[str, str]:
    """(name in lower case, value) of a line; ("", ...) where it has no right name."""
    name, colon, value = line.partition(":")
    if not colon or len(name) > _NAME_SIZE_MAX:
        return "", ""
    return _lower_name(name), value.strip(" ")


@lru_cache(_FIELDS_KEPT)
def _lower_name(name: str) -> str:
    """A field's name in lower case; "" where it is none."""
    return "" if _TOKEN.fullmatch(name) is None else name.lower()


# The next request of a client has mostly the same lines again, but for two or three.
_field_kept = lru_cache(_FIELDS_KEPT)(_read_field)
