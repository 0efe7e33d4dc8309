"""Framing: where a message ends, decided so that no two readers could disagree.

A head that is plain is read at once (`head.read_plain`); h11 parses every other one, and
all of them where it is told to.  What h11 lets pass and must not (FAULTS 4) is refused
here, before and after it:

    before   bare CR or LF, folded lines, versions but 1.0 and 1.1, too many fields
    after    Content-Length with Transfer-Encoding, twice, or as a list;
             chunked in HTTP/1.0; a target that names another host than Host does

Chunked bodies are decoded by `ChunkedReader`, which is stricter than h11's: a size is 1
to 16 hex digits with nothing after it, extensions are dropped but counted, trailers are
bounded, and so is the number of chunks that are hardly worth their parsing.
"""

from __future__ import annotations

import re

import h11

from objstore.errors import RemoteProtocolError
from objstore.http.head import CONTINUE, Head, names_close, read_plain
from objstore.http.message import Headers, TruncatedBody
from objstore.limits import (
    CHUNK_SIZE_MEAN_MIN,
    CHUNKS_OF_ANY_SIZE_MAX,
    HTTP_CHUNK_EXTENSIONS_MAX,
    HTTP_CHUNK_LINE_MAX,
    HTTP_CHUNK_SIZE_MAX,
    HTTP_HEAD_SIZE_MAX,
    HTTP_HEADERS_MAX,
    HTTP_TRAILERS_SIZE_MAX,
)

_REQUEST_LINE = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} [\x21-\x7e]+ (HTTP/[0-9]\.[0-9])"
)
_VERSIONS = {b"HTTP/1.1", b"HTTP/1.0"}
_LENGTH = re.compile(r"[0-9]{1,16}")
_LENGTH_FIELDS = re.compile(rb"\r\ncontent-length:[\t ]*([^\r\n]*)", re.IGNORECASE)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t ]*(?:[\x21-\x7e\x80-\xff]"
    rb"(?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?[\t ]*"
)
_HEAD_END = b"\r\n\r\n"
_CR = 0x0D


class Refused(RemoteProtocolError):
    """A message that is not answered by the handler; `status` is the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def take_head(buffer: bytearray, *, by_h11: bool = False) -> Head | None:
    """Take a whole head off the front of `buffer`, or None while it is incomplete.

    by_h11: every head, be it as plain as can be.
    Raises Refused; the connection cannot go on after that.
    """
    if (
        buffer and buffer[0] == _CR and buffer.startswith(b"\r\n")
    ):  # RFC 9112, 2.2: one stray line end is forgiven.
        del buffer[:2]
    end = buffer.find(_HEAD_END, 0, HTTP_HEAD_SIZE_MAX)
    if end < 0:
        _check_incomplete(buffer)
        return None
    head = None if by_h11 else read_plain(buffer[:end])
    end += len(_HEAD_END)
    if head is None:
        raw = bytes(buffer[:end])
        _check_raw(raw)
        head = _check_parsed(_parse(raw))
    del buffer[:end]
    return head


def _check_incomplete(buffer: bytearray) -> None:
    """Refuse early what will never be a head."""
    if len(buffer) >= HTTP_HEAD_SIZE_MAX:
        raise Refused(431, "the request's head is too large")
    if b"\n" in buffer and _has_bare_line_end(bytes(buffer).removesuffix(b"\r")):
        raise Refused(400, "a line of the head does not end with CRLF")
    if buffer and not 0x21 <= buffer[0] <= 0x7E:
        raise Refused(400, "this is not HTTP")  # A TLS hello on a plain port, say.


def _has_bare_line_end(raw: bytes) -> bool:
    pairs = raw.count(b"\r\n")
    return raw.count(b"\n") != pairs or raw.count(b"\r") != pairs


def _check_raw(raw: bytes) -> None:
    if _has_bare_line_end(raw):
        raise Refused(400, "a line of the head does not end with CRLF")
    line_end = raw.find(b"\r\n")
    match = _REQUEST_LINE.fullmatch(raw, 0, line_end)
    if match is None:
        raise Refused(400, "malformed request line")
    if match[1] not in _VERSIONS:
        raise Refused(505, "HTTP/1.1 is spoken here")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise Refused(400, "folded header lines are obsolete")
    # h11 would join equal repetitions and the list "4, 4" into one.
    if len(lengths := _LENGTH_FIELDS.findall(raw)) > 1 or any(b"," in it for it in lengths):
        raise Refused(400, "Content-Length more than once")
    if raw.count(b"\r\n") - 2 > HTTP_HEADERS_MAX:
        raise Refused(431, f"more than {HTTP_HEADERS_MAX} header fields")


def _parse(raw: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(raw) + 1)
    connection.receive_data(raw)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused(501 if error.error_status_hint == 501 else 400, str(error)) from error
    assert isinstance(event, h11.Request), event
    return event


def _check_parsed(event: h11.Request) -> Head:
    version = event.http_version.decode("ascii")
    headers = Headers.from_wire(event.headers)
    expect = headers.get("expect")
    if expect is not None and expect.lower() != CONTINUE:
        raise Refused(417, "the only expectation met here is 100-continue")
    target = _origin_form(event.target, headers)
    path, _, query = target.decode("ascii").partition("?")
    return Head(
        method=event.method.decode("ascii"),
        target=target,
        path=path,
        query=query,
        http_version=version,
        headers=headers,
        length=_body_length(headers, version),
        expects_continue=expect is not None and version == "1.1",
        # HTTP/1.0's keep-alive is not offered: its framing is not worth the doubt.
        wants_close=version == "1.0" or names_close(headers.get("connection", "")),
    )


def _body_length(headers: Headers, version: str) -> int | None:
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise Refused(400, "both Content-Length and Transfer-Encoding")
        if version == "1.0":
            raise Refused(400, "Transfer-Encoding in HTTP/1.0")
        if coding.lower() != "chunked":
            raise Refused(501, "the only transfer coding is chunked")
        return None
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise Refused(400, "Content-Length is not a number")
    return int(length)


def _origin_form(target: bytes, headers: Headers) -> bytes:
    """The target as "/path?query".

    An absolute target is taken where it names the same authority as Host, which is what
    signatures cover (RFC 9112, 3.2.2 lets the target win; then the two could differ).
    """
    if target.startswith(b"/"):
        return target
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Refused(400, "the target is neither a path nor a URL")
    host = headers.get("host", "").encode("latin-1")
    if match[1].lower() != host.lower() or not match[1]:
        raise Refused(400, "the target and Host name different hosts")
    rest = match[2]
    return rest if rest.startswith(b"/") else b"/" + rest


class ChunkedReader:
    """A chunked body's decoder, sans-IO: feed bytes, take pieces.

    size [;extension] CRLF  data CRLF  ...  0 CRLF  (trailer CRLF)*  CRLF
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0  # Bytes of the current chunk still to come.
        self._awaits_chunk_end = False
        self._is_in_trailers = False
        self._chunk_count = 0
        self._chunks_size = 0  # Bytes of all chunks begun.
        self._extensions_size = 0
        self._trailers_size = 0
        self.is_done = False

    def feed(self, data: bytes | bytearray) -> None:
        """Add received bytes; b"" says that the client ended the stream.

        Raises TruncatedBody for that, unless the body is complete.
        """
        if not data and not self.is_done:
            raise TruncatedBody("the connection ended inside a chunked body")
        self._buffer += data

    def take(self) -> bytes | None:
        """All of the body that can be read by now; None: feed more, or it `is_done`.

        Raises Refused where the framing is broken: then there is no going on.
        """
        pieces: list[bytes] = []
        while self._advance(pieces):
            pass
        # Joined: a piece costs its readers more than its bytes, however short it is.
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)) if pieces else None

    def _advance(self, pieces: list[bytes]) -> bool:
        """Read one thing, data into `pieces`; whether there may be more to read."""
        if self.is_done:
            return False
        if self._left:
            piece = self._take_data()
            if piece is None:
                return False
            pieces.append(piece)
            return True
        if self._awaits_chunk_end:
            return self._take_chunk_end()
        if self._is_in_trailers:
            return self._take_trailer()
        return self._take_size()

    def rest(self) -> bytes:
        """What follows the body: the next request's bytes."""
        assert self.is_done
        return bytes(self._buffer)

    def _take_data(self) -> bytes | None:
        size = min(self._left, len(self._buffer))
        if size == 0:
            return None
        piece = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._left -= size
        self._awaits_chunk_end = self._left == 0
        return piece

    def _take_chunk_end(self) -> bool:
        found = bytes(self._buffer[:2])
        if not b"\r\n".startswith(found):
            raise Refused(400, "a chunk does not end with CRLF")
        if len(found) < 2:
            return False
        del self._buffer[:2]
        self._awaits_chunk_end = False
        return True

    def _take_size(self) -> bool:
        line = self._take_line(HTTP_CHUNK_LINE_MAX)
        if line is None:
            return False
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise Refused(400, "malformed chunk size")
        self._extensions_size += len(match[2] or b"")
        if self._extensions_size > HTTP_CHUNK_EXTENSIONS_MAX:
            raise Refused(400, "too many chunk extensions")
        self._left = int(match[1], 16)
        if self._left > HTTP_CHUNK_SIZE_MAX:
            raise Refused(413, "a chunk is too large")
        self._chunk_count += 1
        self._chunks_size += self._left
        mean_min = CHUNK_SIZE_MEAN_MIN * self._chunk_count
        if self._chunk_count > CHUNKS_OF_ANY_SIZE_MAX and self._chunks_size < mean_min:
            raise Refused(400, "too many small chunks")
        self._is_in_trailers = self._left == 0
        return True

    def _take_trailer(self) -> bool:
        line = self._take_line(HTTP_TRAILERS_SIZE_MAX)
        if line is None:
            return False
        self._trailers_size += len(line) + 2
        if self._trailers_size > HTTP_TRAILERS_SIZE_MAX:
            raise Refused(431, "the trailers are too large")
        if not line:
            self.is_done = True
        elif _TRAILER.fullmatch(line) is None:
            raise Refused(400, "malformed trailer")
        return True

    def _take_line(self, size_max: int) -> bytes | None:
        end = self._buffer.find(b"\n", 0, size_max + 2)
        if end < 0:
            if len(self._buffer) >= size_max + 2:
                raise Refused(400, "a line of a chunked body is too long")
            return None
        line = bytes(self._buffer[:end])
        if not line.endswith(b"\r"):
            raise Refused(400, "a line of a chunked body does not end with CRLF")
        del self._buffer[: end + 1]
        return line[:-1]
