"""One client's connection, from every side (FAULTS F34 to F37)."""

from contextlib import suppress

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from objstore.http.message import Request, Response, TruncatedBody
from objstore.limits import HTTP_DRAIN_SIZE_MAX, HTTP_HEAD_SIZE_MAX
from tests.unit.http.wire import serving

GET = b"GET /b/k?x=1 HTTP/1.1\r\nHost: h\r\n\r\n"


def put(body: bytes, *headers: str) -> bytes:
    lines = ["PUT /b/k HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def echo(request: Request) -> Response:
    """What was asked, and the body that came."""
    body = b"".join([piece async for piece in request.body])
    return Response(200, [("X-Target", request.target.decode())], body)


async def ignore(request: Request) -> Response:
    """An answer that looks at no body."""
    return Response(403, [], b"no")


async def test_a_request_is_given_to_the_handler_as_it_came():
    seen = []

    async def handler(request: Request) -> Response:
        seen.append(request)
        return Response(204)

    async with serving(handler) as served:
        client = served.connect()
        await client.send(
            b"GET /b//../%2Fk?a=%20+b HTTP/1.1\r\nHost: H\r\nX-A: \xfcber\r\n\r\n"
        )
        answer = await client.answer()
    (request,) = seen
    assert (request.method, request.path, request.query) == (
        "GET",
        "/b//../%2Fk",
        "a=%20+b",
    )
    assert request.headers["x-a"] == "über"
    assert request.body.size == 0
    assert request.remote == "192.0.2.7:1234"
    assert not request.secure
    assert answer.status == 204


async def test_every_answer_has_a_date_and_a_length():
    async with serving(echo) as served:
        client = served.connect()
        await client.send(put(b"hello"))
        answer = await client.answer()
    assert answer.headers["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert answer.headers["content-length"] == "5"
    assert "connection" not in answer.headers


async def test_a_small_answer_leaves_in_one_send():
    async with serving(echo) as served:
        client = served.connect()
        await client.send(put(b"hello"))
        await client.answer()
        assert len(client.server_stream.sends) == 1


async def test_a_head_may_come_byte_by_byte():
    async with serving(echo) as served:
        client = served.connect()
        for byte in put(b"hi"):
            await client.send(bytes([byte]))
        assert (await client.answer()).body == b"hi"


async def test_pipelined_requests_are_answered_in_order():  # F37
    async with serving(echo) as served:
        client = served.connect()
        requests = [put(str(number).encode() * number) for number in range(1, 40)]
        await client.send(b"".join(requests) + GET)
        for number in range(1, 40):
            assert (await client.answer("PUT")).body == str(number).encode() * number
        assert (await client.answer()).headers["x-target"] == "/b/k?x=1"


async def test_pipelined_chunked_bodies_end_where_they_say():
    chunked = b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with serving(echo) as served:
        client = served.connect()
        await client.send(chunked * 3 + GET)
        for _ in range(3):
            assert (await client.answer("PUT")).body == b"abc"
        assert (await client.answer()).body == b""


async def test_a_thousand_requests_on_one_connection_are_served():  # F37
    async with serving(echo) as served:
        client = served.connect()
        for _ in range(1000):
            await client.send(GET)
            assert (await client.answer()).status == 200


async def test_a_half_closing_client_still_gets_its_answer():  # F36
    async with serving(echo) as served:
        client = served.connect()
        await client.send(put(b"hello"))
        await client.half_close()
        assert (await client.answer()).body == b"hello"
        assert await client.rest() == b""


async def test_a_refused_head_is_answered_and_the_connection_closed():
    async with serving(echo) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n" + GET)
        answer = await client.answer()
        await client.half_close()
        assert answer.status == 400
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_a_head_too_large_is_answered():
    async with serving(echo) as served:
        client = served.connect()
        async with trio.open_nursery() as nursery:
            data = b"GET / HTTP/1.1\r\nX: " + b"a" * HTTP_HEAD_SIZE_MAX
            nursery.start_soon(client.send, data)
            assert (await client.answer()).status == 431


# ---- request bodies -------------------------------------------------------------------


async def test_never_more_than_the_declared_length_is_read():
    async with serving(echo) as served:
        client = served.connect()
        await client.send(put(b"hello") + b"GET / HTTP/1.1\r\n")
        assert (await client.answer()).body == b"hello"


async def test_a_body_that_came_with_its_head_is_taken_at_once():
    taken = []

    async def handler(request: Request) -> Response:
        taken.append(request.body.take_now())
        return await echo(request)

    async with serving(handler) as served:
        client = served.connect()
        await client.send(put(b"small") + put(b"next"))
        assert (await client.answer()).body == b""
        assert (await client.answer()).body == b""
        assert taken == [b"small", b"next"]


async def test_a_body_of_which_a_part_came_is_not_taken_at_once_but_iterated():
    asked = trio.Event()

    async def handler(request: Request) -> Response:
        assert request.body.take_now() is None
        asked.set()
        return await echo(request)

    async with serving(handler) as served:
        client = served.connect()
        whole = put(b"in two")
        await client.send(whole[:-3])
        await asked.wait()
        await client.send(whole[-3:])
        assert (await client.answer()).body == b"in two"


async def test_an_answer_that_fits_is_sent_without_waiting():
    async with serving(echo) as served:
        client = served.connect()
        client.server_stream.takes_at_once = True
        await client.send(put(b"a") + GET)
        assert (await client.answer()).body == b"a"
        assert (await client.answer()).body == b""
        assert client.server_stream.sends == []


async def test_a_body_cut_short_raises_at_the_handler():  # F35
    caught = []

    async def handler(request: Request) -> Response:
        try:
            async for _ in request.body:
                pass
        except TruncatedBody as error:
            caught.append(error)
            raise
        return Response(200)

    for raw in (
        put(b"hello")[:-1],
        put(b"hello")[:-5],
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ):
        async with serving(handler) as served:
            client = served.connect()
            await client.send(raw)
            await client.half_close()
            assert (await client.answer()).status == 400
            assert await client.rest() == b""
    assert len(caught) == 3


async def test_a_chunked_body_gone_wrong_never_becomes_a_request():
    async def handler(request: Request) -> Response:
        try:
            return await echo(request)
        except Exception:
            return Response(400, [], b"broken")

    async with serving(handler) as served:
        client = served.connect()
        await client.send(
            b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhelloXX\r\n0\r\n\r\n" + GET
        )
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await client.rest() == b""


async def test_a_short_unread_body_is_drained_and_the_connection_goes_on():  # F37
    async with serving(ignore) as served:
        client = served.connect()
        await client.send(put(b"x" * 5000) + GET)
        assert (await client.answer("PUT")).status == 403
        assert (await client.answer()).status == 403


async def test_a_long_unread_body_closes_the_connection_after_its_answer():  # F37
    async with serving(ignore) as served:
        client = served.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                _send_while_read, client, put(b"x" * (3 * HTTP_DRAIN_SIZE_MAX))
            )
            answer = await client.answer("PUT")
            assert (answer.status, answer.headers["connection"]) == (403, "close")
            assert await client.rest() == b""


async def _send_while_read(client, data: bytes) -> None:
    try:
        for offset in range(0, len(data), 65536):
            await client.send(data[offset : offset + 65536])
    except trio.BrokenResourceError:
        pass


async def test_a_100_is_sent_when_the_handler_asks_for_the_body():
    async with serving(echo) as served:
        client = served.connect()
        whole = put(b"hello", "Expect: 100-continue")
        await client.send(whole[:-5])
        await trio.testing.wait_all_tasks_blocked()
        await client.send(whole[-5:])
        assert (await client.answer("PUT")).body == b"hello"
        assert client.informational == [100]


async def test_no_100_is_sent_to_who_sends_anyway():
    async with serving(echo) as served:
        client = served.connect()
        await client.send(put(b"hello", "Expect: 100-continue"))
        assert (await client.answer("PUT")).body == b"hello"
        assert client.informational == []


async def test_no_100_is_sent_where_the_answer_needs_no_body():
    async with serving(ignore) as served:
        client = served.connect()
        await client.send(put(b"hello", "Expect: 100-continue")[:-5])
        answer = await client.answer("PUT")
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        assert client.informational == []


async def test_a_100_is_expected_without_a_body_and_nothing_breaks():  # F37
    async with serving(echo) as served:
        client = served.connect()
        await client.send(put(b"", "Expect: 100-continue") + GET)
        assert (await client.answer("PUT")).body == b""
        assert (await client.answer()).status == 200
        assert client.informational == []


# ---- answers --------------------------------------------------------------------------


def streaming(*pieces: bytes | Exception, size: int | None, status: int = 200):
    closed = []

    async def body():
        try:
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            closed.append(True)

    async def handler(request: Request) -> Response:
        return Response(status, [], body(), content_length=size)

    return handler, closed


async def test_a_streamed_answer_of_known_length_keeps_the_connection():
    handler, closed = streaming(b"abc", memoryview(b"defg"), bytearray(b"h"), size=8)
    async with serving(handler) as served:
        client = served.connect()
        await client.send(GET)
        answer = await client.answer()
        assert (answer.body, answer.headers["content-length"]) == (b"abcdefgh", "8")
        await client.send(GET)
        assert (await client.answer()).body == b"abcdefgh"
    assert closed == [True, True]


async def test_a_streamed_answer_of_unknown_length_is_chunked():
    handler, _ = streaming(b"abc", b"", b"d" * 1000, size=None)
    async with serving(handler) as served:
        client = served.connect()
        await client.send(GET)
        answer = await client.answer()
        assert answer.body == b"abc" + b"d" * 1000
        assert answer.headers["transfer-encoding"] == "chunked"


async def test_http_1_0_gets_a_length_instead_of_chunks():
    handler, _ = streaming(b"abc", b"def", size=None)
    async with serving(handler) as served:
        client = served.connect()
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = await client.answer()
        assert (answer.body, answer.headers["content-length"]) == (b"abcdef", "6")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("size", [None, 6])
async def test_an_answer_that_fails_midway_never_ends_cleanly(version, size):
    handler, closed = streaming(b"abc", ValueError("broken"), size=size)
    with capture_logs() as logs:
        async with serving(handler) as served:
            client = served.connect()
            await client.send(f"GET / HTTP/{version}\r\nHost: h\r\n\r\n".encode())
            with pytest.raises(h11.RemoteProtocolError):
                await client.answer()
    assert closed == [True]
    assert "http.answer_broken" in [line["event"] for line in logs]


@pytest.mark.parametrize("pieces", [(b"abc",), (b"abc", b"defg")])
async def test_an_answer_of_another_length_than_declared_never_ends_cleanly(pieces):
    handler, _ = streaming(*pieces, size=6)
    with capture_logs() as logs:
        async with serving(handler) as served:
            client = served.connect()
            await client.send(GET)
            with pytest.raises(h11.RemoteProtocolError):
                await client.answer()
    assert "http.answer_invalid" in [line["event"] for line in logs]


async def test_head_has_the_length_and_no_body():
    async def handler(request: Request) -> Response:
        return Response(200, [("ETag", '"x"')], content_length=1234)

    async with serving(handler) as served:
        client = served.connect()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = await client.answer("HEAD")
        assert (answer.headers["content-length"], answer.body) == ("1234", b"")
        await client.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.answer("HEAD")).status == 200


async def test_a_head_never_starts_the_body_and_closes_it():
    handler, closed = streaming(b"abc", size=3)
    async with serving(handler) as served:
        client = served.connect()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.answer("HEAD")).headers["content-length"] == "3"
    assert closed == []  # Never begun, so there was nothing to close.


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_may_have_no_body_has_none(status):
    async def handler(request: Request) -> Response:
        return Response(status, [], b"not this")

    async with serving(handler) as served:
        client = served.connect()
        await client.send(GET * 2)
        for _ in range(2):
            answer = await client.answer()
            assert (answer.status, answer.body) == (status, b"")
            assert "content-length" not in answer.headers


async def test_a_large_answer_is_sent_in_bounded_pieces_without_a_copy():
    data = memoryview(bytes(1_000_000))

    async def handler(request: Request) -> Response:
        return Response(200, [], data)

    async with serving(handler) as served:
        client = served.connect()
        await client.send(GET)
        assert len((await client.answer()).body) == 1_000_000
        assert max(client.server_stream.sends) == 256 * 1024


async def test_a_handler_that_fails_is_a_500_and_logged():
    async def handler(request: Request) -> Response:
        raise ValueError("secret details")

    with capture_logs() as logs:
        async with serving(handler) as served:
            client = served.connect()
            await client.send(GET)
            answer = await client.answer()
    assert answer.status == 500
    assert b"secret" not in answer.body
    (line,) = [line for line in logs if line["event"] == "http.request_failed"]
    assert line["log_level"] == "error"


@pytest.mark.parametrize(
    "field", [("X", "a\r\nEvil: yes"), ("X", "a\rb"), ("X", "a\nb"), ("X\r\nEvil", "a"),
              ("X", "a\0b"), ("X", "\u20ac"), ("Content-Length", "3"), ("date", "never")]
)  # fmt: skip
async def test_a_header_that_would_write_more_than_itself_never_leaves(field):
    async def handler(request: Request) -> Response:
        return Response(200, [field], b"abc")

    with capture_logs() as logs:
        async with serving(handler) as served:
            client = served.connect()
            await client.send(GET)
            assert await client.rest() == b""
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "http.answer_invalid"
    ]


async def test_the_handler_may_end_the_connection():
    async def handler(request: Request) -> Response:
        return Response(200, [], b"bye", close=True)

    async with serving(handler) as served:
        client = served.connect()
        await client.send(GET + GET)
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.rest() == b""


async def test_a_client_that_leaves_while_it_is_answered_is_no_error():
    handler, closed = streaming(*[bytes(100_000)] * 50, size=5_000_000)
    with capture_logs() as logs:
        async with serving(handler) as served:
            client = served.connect()
            await client.send(GET)
            await client.stream.receive_some(10)
            await client.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert client.server_stream.is_closed
    assert closed == [True]
    assert [line for line in logs if line["log_level"] in {"error", "warning"}] == []


# ---- deadlines ------------------------------------------------------------------------


async def ends_after(client) -> float:
    started = trio.current_time()
    await client.rest()
    return trio.current_time() - started


async def test_a_head_that_does_not_come_ends_the_connection(autojump_clock):  # F34
    async with serving(echo, header_timeout_ms=10_000, idle_timeout_ms=60_000) as served:
        client = served.connect()
        await client.send(b"GET /")
        assert 10 <= await ends_after(client) <= 11


async def test_a_head_that_comes_a_byte_a_second_ends_the_connection(autojump_clock):  # F34
    async with serving(echo, header_timeout_ms=10_000) as served:
        client = served.connect()

        async def drip() -> None:
            for byte in GET:
                await client.send(bytes([byte]))
                await trio.sleep(1)

        started = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await drip()
        assert 10 <= trio.current_time() - started <= 12


async def test_an_idle_connection_is_closed(autojump_clock):
    async with serving(echo, idle_timeout_ms=60_000) as served:
        client = served.connect()
        await client.send(GET)
        await client.answer()
        assert 60 <= await ends_after(client) <= 61


async def test_a_body_that_stalls_ends_the_connection(autojump_clock):  # F34
    cancelled = []

    async def handler(request: Request) -> Response:
        try:
            return await echo(request)
        except trio.Cancelled:
            cancelled.append(True)
            raise

    async with serving(handler, body_timeout_ms=30_000) as served:
        client = served.connect()
        await client.send(put(b"hello")[:-1])
        assert 30 <= await ends_after(client) <= 31
    assert cancelled == [True]


async def test_a_body_that_drips_below_the_least_rate_ends_the_connection(
    autojump_clock,
):  # F34
    async with serving(echo, body_timeout_ms=30_000) as served:
        client = served.connect()
        await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
        started = trio.current_time()

        async def drip() -> None:
            for _ in range(1000):
                await client.send(b"x")
                await trio.sleep(1)

        with pytest.raises(trio.BrokenResourceError):
            await drip()
        assert 29 <= trio.current_time() - started <= 33


async def test_a_slow_body_above_the_least_rate_is_served(autojump_clock):
    async with serving(echo, body_timeout_ms=30_000) as served:
        client = served.connect()
        await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 409600\r\n\r\n")
        for _ in range(200):
            await client.send(b"x" * 2048)
            await trio.sleep(1)
        assert len((await client.answer("PUT")).body) == 409_600


async def test_a_slow_handler_is_not_the_clients_fault(autojump_clock):
    async def handler(request: Request) -> Response:
        pieces = []
        async for piece in request.body:
            await trio.sleep(100)
            pieces.append(piece)
        return Response(200, [], b"".join(pieces))

    async with serving(handler, body_timeout_ms=30_000) as served:
        client = served.connect()
        await client.send(put(b"hello"))
        assert (await client.answer("PUT")).body == b"hello"


async def test_a_client_that_does_not_read_ends_the_connection(autojump_clock):  # F34, F36
    pulled = []

    async def body():
        while True:
            pulled.append(True)
            yield bytes(100_000)

    async def handler(request: Request) -> Response:
        return Response(200, [], body(), content_length=10**9)

    async with serving(handler, body_timeout_ms=30_000) as served:
        client = served.connect()
        client.server_stream.inner.send_stream.send_all_hook = trio.sleep_forever
        await client.send(GET)
        while not client.server_stream.is_closed:
            await trio.sleep(1)
        assert 30 <= trio.current_time() <= 35
    assert len(pulled) == 1  # Nothing is asked of the store while the client is deaf.


async def test_who_was_refused_may_linger_only_shortly(autojump_clock):
    async with serving(ignore, body_timeout_ms=30_000) as served:
        client = served.connect()
        await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc")
        assert (await client.answer("PUT")).status == 403
        assert 5 <= await ends_after(client) <= 6


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n",
        b"NONSENSE\r\n\r\n",
    ],
)
async def test_who_was_refused_sees_the_end_at_once(autojump_clock, request_bytes):
    """Half-closed: we go on reading for a while, the client need not wait for that."""
    async with serving(ignore, body_timeout_ms=30_000) as served:
        client = served.connect()
        await client.send(request_bytes)
        assert (await client.answer("PUT")).headers["connection"] == "close"
        assert await ends_after(client) == 0
        assert not client.server_stream.is_closed


# ---- hostile input --------------------------------------------------------------------


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [GET, b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
                 b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", b"5\r\nhello\r\n",
                 b"0\r\n\r\n", b"hello", b"\r\n\r\n", b"HEAD / HTTP/1.0\r\n\r\n"]
            ),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_whatever_is_sent_the_server_answers_and_closes(pieces):
    async def main() -> None:
        with capture_logs() as logs:
            async with serving(echo) as served:
                client = served.connect()
                for piece in pieces:
                    with suppress(trio.BrokenResourceError):
                        await client.send(piece)
                with suppress(trio.BrokenResourceError):
                    await client.half_close()
                data = await client.rest()
        assert data == b"" or data.startswith(b"HTTP/1.1 ")
        assert [line for line in logs if line["log_level"] == "error"] == []

    trio.run(main)


async def test_a_tls_stream_cut_inside_a_body_is_a_truncated_body():  # F49
    caught = []

    async def handler(request: Request) -> Response:
        try:
            return await echo(request)
        except TruncatedBody as error:
            caught.append(error)
            raise

    async with serving(handler) as served:
        client = served.connect()
        await client.send(put(b"hello")[:-2])
        await trio.testing.wait_all_tasks_blocked()

        async def broken(size_max: int) -> bytes:
            raise trio.BrokenResourceError("no close_notify")

        client.server_stream.receive_some = broken
        await client.send(b"l")  # Wakes the read in progress; the next one breaks.
        await trio.testing.wait_all_tasks_blocked()
        assert client.server_stream.is_closed
    assert len(caught) == 1
