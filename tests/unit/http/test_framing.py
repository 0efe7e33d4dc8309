"""What h11 lets pass and must not: FAULTS section 4, line by line."""

from itertools import pairwise

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from objstore.errors import RemoteProtocolError
from objstore.http.framing import ChunkedReader, Refused, take_head
from objstore.http.head import _field_kept, read_plain
from objstore.http.message import TruncatedBody
from objstore.limits import (
    CHUNKS_OF_ANY_SIZE_MAX,
    HTTP_HEAD_SIZE_MAX,
    HTTP_TRAILERS_SIZE_MAX,
)


@pytest.fixture(params=[False, True], ids=["quick", "h11"])
def by_h11(request):
    """A test of heads is one of both parsers."""
    return request.param


def head(text: str, by_h11: bool):
    raw = bytearray(text.encode("latin-1"))
    found = take_head(raw, by_h11=by_h11)
    assert found is not None
    return found


def status_of(text: str, by_h11: bool) -> int:
    with pytest.raises(Refused) as caught:
        take_head(bytearray(text.encode("latin-1")), by_h11=by_h11)
    return caught.value.status


GET = "GET / HTTP/1.1\r\nHost: h\r\n"
PUT = "PUT /b/k HTTP/1.1\r\nHost: h\r\n"


HOSTILE = [
    # What h11 0.16 accepts.
    (PUT + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("PUT / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("GET / HTTP/1.1\nHost: h\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n\tb\r\n\r\n", 400),
    ("GET http://evil/b/k HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET http:///b/k HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET ftp://h/b/k HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 400),
    ("GET / HTTP/9.9\r\nHost: h\r\n\r\n", 505),
    ("GET / HTTP/0.9\r\nHost: h\r\n\r\n", 505),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (PUT + "Content-Length: 4, 4\r\n\r\n", 400),
    (PUT + "Content-Length: 4\r\nContent-Length: 4\r\n\r\n", 400),
    (PUT + "content-length: 4\r\nCONTENT-LENGTH: 4\r\n\r\n", 400),
    (GET + "X: y\r\n" * 200 + "\r\n", 431),
    (GET + "".join(f"X{number}: y\r\n" for number in range(100)) + "\r\n", 431),
    (GET + f"X: {'y' * HTTP_HEAD_SIZE_MAX}\r\n\r\n", 431),
    (GET + "Expect: a-miracle\r\n\r\n", 417),
    # What h11 refuses, and must go on to.
    (PUT + "Content-Length: 4\r\nContent-Length: 5\r\n\r\n", 400),
    (PUT + "Content-Length: +4\r\n\r\n", 400),
    (PUT + "Content-Length: 0x4\r\n\r\n", 400),
    (PUT + "Content-Length: -1\r\n\r\n", 400),
    (PUT + "Content-Length:\r\n\r\n", 400),
    (PUT + "Content-Length: 4 4\r\n\r\n", 400),
    (PUT + "Content-Length: ²\r\n\r\n", 400),
    (PUT + f"Content-Length: {'9' * 30}\r\n\r\n", 400),
    (PUT + "Transfer-Encoding: xchunked\r\n\r\n", 501),
    (PUT + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (PUT + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    (PUT + "Transfer-Encoding : chunked\r\n\r\n", 400),
    (PUT + "Content-Length : 4\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", 400),
    (GET + "X: a\0b\r\n\r\n", 400),
    ("GET /ü HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
    (GET + ": y\r\n\r\n", 400),
    (GET + "nonsense\r\n\r\n", 400),
    # A TLS hello on a plain port.
    ("\x16\x03\x01\x02\x00\x01", 400),
]


@pytest.mark.parametrize(("text", "status"), HOSTILE)
def test_a_head_that_two_readers_could_read_differently_is_refused(text, status, by_h11):
    assert status_of(text, by_h11) == status


def test_a_head_too_large_is_refused_before_its_end_comes(by_h11):
    assert status_of("GET /" + "a" * HTTP_HEAD_SIZE_MAX, by_h11) == 431


def test_a_bare_line_feed_is_refused_before_the_head_ends(by_h11):
    assert status_of("GET / HTTP/1.1\nHost: h", by_h11) == 400


def test_an_incomplete_head_waits_for_more(by_h11):
    text = PUT + "Content-Length: 4\r\n\r\n"
    for end in range(len(text)):
        buffer = bytearray(text[:end].encode())
        assert take_head(buffer, by_h11=by_h11) is None


def test_what_follows_a_head_stays(by_h11):
    buffer = bytearray((GET + "\r\nGET /next").encode())
    assert take_head(buffer, by_h11=by_h11).target == b"/"
    assert buffer == b"GET /next"


def test_one_stray_line_end_before_a_request_is_forgiven(by_h11):
    assert head("\r\n" + GET + "\r\n", by_h11).target == b"/"


def test_an_absolute_target_of_the_same_host_is_its_path(by_h11):
    found = head("GET http://H:80/b/k?a=1 HTTP/1.1\r\nHost: h:80\r\n\r\n", by_h11)
    assert found.target == b"/b/k?a=1"


def test_a_lower_case_method_is_another_method(by_h11):
    assert head("get / HTTP/1.1\r\nHost: h\r\n\r\n", by_h11).method == "get"


def test_bodies_are_framed_by_length_or_chunks_or_not_at_all(by_h11):
    assert head(GET + "\r\n", by_h11).length == 0
    assert head(PUT + "Content-Length: 12\r\n\r\n", by_h11).length == 12
    assert head(PUT + "Transfer-Encoding: Chunked\r\n\r\n", by_h11).length is None


def test_a_connection_ends_where_the_client_says_or_with_http_1_0(by_h11):
    assert not head(GET + "\r\n", by_h11).wants_close
    assert head(GET + "Connection: foo, Close\r\n\r\n", by_h11).wants_close
    assert head("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", by_h11).wants_close


# ---- two parsers, one verdict ---------------------------------------------------------


def verdict(raw: bytes, *, by_h11: bool):
    """What becomes of these bytes: a head and what is left, a status, or None: more."""
    buffer = bytearray(raw)
    try:
        found = take_head(buffer, by_h11=by_h11)
    except Refused as refusal:
        return refusal.status
    return None if found is None else (found, bytes(buffer))


def same_verdict(raw: bytes) -> None:
    assert verdict(raw, by_h11=False) == verdict(raw, by_h11=True)


WELL_FORMED = [
    GET + "\r\n",
    PUT + "Content-Length: 12\r\nExpect: 100-Continue\r\nConnection: a, Close\r\n\r\n",
    PUT + "Content-Length:0012\r\nconnection:\r\n\r\nbody",
    GET + "X-Amz-Meta-A:  two  blanks  \r\nEmpty:\r\nb!#$%&'*+-.^_`|~0: :\"@,\r\n\r\n",
    GET + "X: a\r\nx: b\r\n\r\n",
    GET + "X: \t a\tb \t\r\n\r\n",
    GET + "X: \xfcber\r\n\r\n",
    GET + f"{'n' * 65}: 1\r\n\r\n",
    "DELETE /%ff?a=b&c=?/ HTTP/1.1\r\nA: b\r\nHost:h\r\n\r\n",
    "OPTIONS /b HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET http://h/b HTTP/1.1\r\nHost: h\r\n\r\n",
    "HEAD / HTTP/1.0\r\n\r\n",
    PUT + "Transfer-Encoding: CHUNKED\r\n\r\n4\r\n",
    GET + "".join(f"X{number}: y\r\n" for number in range(99)) + "\r\n",
]


@pytest.mark.parametrize("text", [text for text, _ in HOSTILE] + WELL_FORMED)
def test_both_parsers_say_the_same_wherever_one_byte_is_another(text):
    raw = text.encode("latin-1")[:2000]
    same_verdict(raw)
    for place in range(min(len(raw), 200 if len(raw) < 500 else 50)):
        for byte in b"\0\t\n\r :,;/aZ\x7f\x80\xff":
            same_verdict(raw[:place] + bytes([byte]) + raw[place + 1 :])
            same_verdict(raw[:place] + bytes([byte]) + raw[place:])
        same_verdict(raw[:place] + raw[place + 1 :])


PARTS_OF_HEADS = st.sampled_from(
    [
        b"GET", b"PUT", b"get", b"OPTIONS", b" ", b"  ", b"/", b"/b/k?a=%20", b"http://h/",
        b"*", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"\r\n", b"\r\n", b"\r\n", b"\r", b"\n",
        b"\r\n\r\n", b"GET / HTTP/1.1\r\n", b"Host: h\r\n", b"Host: h\r\n", b"Host", b"host",
        b":", b": ", b" :", b"h", b"Content-Length", b"content-length: ", b"Transfer-Encoding",
        b"chunked", b"4", b"0", b"+4", b"4, 4", b"Expect", b"100-continue", b"Connection",
        b"close", b"keep-alive", b"Upgrade", b"x", b"X", b"\t", b"\0", b"\x0b", b"\xa0", b"\xff",
        b"PUT /b/k HTTP/1.1\r\nHost: h\r\n", b"(", b'"',
    ]
)  # fmt: skip
HEADS = st.one_of(
    st.binary(max_size=300),
    st.lists(PARTS_OF_HEADS, max_size=24).map(b"".join),
    st.lists(PARTS_OF_HEADS, max_size=12).map(
        lambda parts: b"PUT / HTTP/1.1\r\nHost: h\r\n" + b"".join(parts) + b"\r\n\r\n"
    ),
)


@settings(max_examples=300)
@given(HEADS)
@example(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
def test_any_bytes_are_a_head_or_refused_or_incomplete_by_either_parser(data):
    same_verdict(data)


def test_the_heads_of_common_clients_are_plain():
    for text in COMMON:
        raw = text.removesuffix("\n\n").replace("\n", "\r\n").encode()
        assert read_plain(raw) is not None, text


def test_lines_of_a_head_are_kept_unless_it_is_large():
    _field_kept.cache_clear()
    small = b"GET / HTTP/1.1\r\nHost: h\r\nX-B: \xe4"
    large = b"GET / HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 4096
    assert read_plain(large).headers["x-a"] == "a" * 4096
    assert _field_kept.cache_info().currsize == 0
    for _ in range(2):
        assert read_plain(small[:-1]).headers.by_name == {"host": "h", "x-b": ""}
        assert read_plain(small) is None, "what was kept makes nothing plain"
    assert _field_kept.cache_info().currsize > 0


COMMON = [
    """\
GET /bench/k/00000042 HTTP/1.1
Host: 127.0.0.1:9000
User-Agent: Go-http-client/1.1
Authorization: AWS4-HMAC-SHA256 Credential=K/20260102/us-east-1/s3/aws4_request, \
SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=00ff
X-Amz-Content-Sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
X-Amz-Date: 20260102T030405Z
Accept-Encoding: gzip

""",
    """\
PUT /photos/a%20b HTTP/1.1
Host: photos.example.com
Accept-Encoding: identity
Content-MD5: Y2Fybg==
x-amz-sdk-checksum-algorithm: CRC32
User-Agent: Boto3/1.42.2 md/Botocore#1.42.2 cfg/retry-mode#legacy
X-Amz-Date: 20260102T030405Z
Expect: 100-continue
Content-Length: 4096
Connection: keep-alive

""",
]


# ---- chunked bodies -------------------------------------------------------------------


def decode(*pieces: bytes) -> tuple[bytes, bytes]:
    """The body and what follows it."""
    reader, body = ChunkedReader(), b""
    for piece in pieces:
        reader.feed(piece)
        while (part := reader.take()) is not None:
            body += part
    if not reader.is_done:
        reader.feed(b"")
    return body, reader.rest()


@pytest.mark.parametrize(
    "raw",
    [
        b"4 \r\nabcd\r\n0\r\n\r\n",
        b" 4\r\nabcd\r\n0\r\n\r\n",
        b"0x4\r\nabcd\r\n0\r\n\r\n",
        b"+4\r\nabcd\r\n0\r\n\r\n",
        b"\r\nabcd\r\n0\r\n\r\n",
        b"4\nabcd\r\n0\r\n\r\n",
        b"4\r\nabcdXX0\r\n\r\n",  # CVE-2025-43859
        b"4\r\nabcd\n0\r\n\r\n",
        b"4 ;x\r\nabcd\r\n0\r\n\r\n",
        b"00000000000000004\r\nabcd\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\nabcd\r\n0\r\n\r\n",
        b"4;" + b"x" * 400 + b"\r\nabcd\r\n0\r\n\r\n",
        b"1;" + b"x" * 200 + b"\r\na\r\n" + (b"1;" + b"x" * 200 + b"\r\na\r\n") * 100,
        b"0\r\nnonsense\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\nA : x\r\n\r\n",
        b"0\r\nA: x\n\r\n",
        b"0\r\n" + b"A: x\r\n" * HTTP_TRAILERS_SIZE_MAX + b"\r\n",
        b"0\r\nA: " + b"x" * HTTP_TRAILERS_SIZE_MAX + b"\r\n\r\n",
    ],
)
def test_a_broken_chunked_body_is_refused(raw):
    with pytest.raises(Refused):
        decode(raw)


def test_chunks_extensions_and_trailers_are_read_and_dropped():
    raw = b'3;a="b"\r\nabc\r\nA\r\n0123456789\r\n0;x\r\nTrailer: t\r\n\r\nnext'
    assert decode(raw) == (b"abc0123456789", b"next")


def test_chunks_that_came_together_are_one_piece():
    reader = ChunkedReader()
    reader.feed(b"1\r\nx\r\n" * 100 + b"2\r\ny")
    assert reader.take() == b"x" * 100 + b"y"
    assert reader.take() is None


def test_a_flood_of_tiny_chunks_is_refused():  # F43: seconds of parsing a megabyte
    tiny, large = b"1\r\nx\r\n", b"400\r\n" + b"x" * 1024 + b"\r\n"
    few = CHUNKS_OF_ANY_SIZE_MAX - 1
    assert decode(tiny * few + b"0\r\n\r\n")[0] == b"x" * few
    with pytest.raises(Refused):
        decode(tiny * (few + 2) + b"0\r\n\r\n")
    assert decode((tiny * 3 + large) * 4096 + b"0\r\n\r\n")


def test_a_chunked_body_that_breaks_off_is_truncated():
    with pytest.raises(TruncatedBody):
        decode(b"4\r\nab")
    with pytest.raises(TruncatedBody):
        decode(b"4\r\nabcd\r\n0\r\n")


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_it_makes_no_difference_how_a_chunked_body_is_cut(chunks, cuts):
    raw = b"".join(b"%X\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    raw += b"0\r\n\r\nrest"
    places = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    pieces = [raw[a:b] for a, b in pairwise(places)]
    body = b"".join(chunks)
    reader, got, extra = ChunkedReader(), b"", b""
    for piece in pieces:
        if reader.is_done:
            extra += piece
            continue
        reader.feed(piece)
        while (part := reader.take()) is not None:
            got += part
    assert (got, reader.rest() + extra) == (body, b"rest")


def h11_decodes(raw: bytes) -> bytes | None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    connection.next_event()
    connection.receive_data(raw)
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None
        if isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return body
        else:
            return None


PIECES = st.sampled_from(
    [
        b"0",
        b"1",
        b"4",
        b"a",
        b"\r\n",
        b"\n",
        b"\r",
        b";x",
        b" ",
        b"abcd",
        b"A: b",
        b":",
        b"",
    ]
)


@given(st.lists(PIECES, max_size=14).map(b"".join))
@example(b"4\r\nabcd\r\n0\r\n\r\n")
def test_whatever_we_accept_h11_reads_the_same(raw):
    try:
        body, _ = decode(raw)
    except RemoteProtocolError:
        return
    assert h11_decodes(raw) == body
