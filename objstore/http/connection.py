"""One client's connection: requests in order, each answered before the next is read.

    receive --> framing.take_head --> handler(Request) --> answer --> drain --> again
                     | Refused            | raises            '--> or close
                     '--> 4xx, close      '--> 500, logged

One task a connection, and no cancel scope per read: while the task waits for the client,
`deadline` says until when, and the server's timer cancels connections that are past it.
Between requests it is the timer that sets it, when it finds a client idle (`is_expired`).
While the handler works it is infinite: the handler has deadlines of its own.

How a body that the handler did not read ends: a short rest is drained and the connection
goes on; a long one is drained a little, so that a client still sending gets to read its
answer instead of a reset, and then the connection is closed.  Either way for a few seconds
in all: whoever was refused may not hold a connection by sending slowly.

If cancelled, the connection is closed at once; so a client never takes a broken answer
for a whole one: an answer whose end is the end of the connection is never given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from math import inf
from typing import TypeVar

import attrs
import structlog
import trio

from objstore.buffer import Buffer
from objstore.errors import LocalProtocolError, RemoteProtocolError
from objstore.host.network import Address, Stream
from objstore.http.answer import encode_head, has_body
from objstore.http.framing import ChunkedReader, Refused, take_head
from objstore.http.head import Head
from objstore.http.message import NO_BODY, Request, Response, TruncatedBody
from objstore.limits import (
    HTTP_BODY_RATE_MIN,
    HTTP_BODY_READ_SIZE,
    HTTP_BUFFERED_ANSWER_MAX,
    HTTP_DRAIN_SIZE_MAX,
    HTTP_JOIN_SIZE_MAX,
    HTTP_READ_SIZE,
    HTTP_SEND_SIZE,
)

log = structlog.get_logger()

T = TypeVar("T")

Handler = Callable[[Request], Awaitable[Response]]
# The answer to what is no request: its framing is broken.  Whose, is all that is known.
RefusalHandler = Callable[[Refused, Address], Response]

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_EVICTED_AFTER_S = 1.0  # Time for a handshake and a head, when places are short.
_LINGER_S = 5.0  # Waiting for the rest of a body that nobody wants, once it is answered.


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long a client may keep us waiting."""

    head_s: float  # For the handshake, the first head, the rest of any further one.
    idle_s: float  # Between requests.
    body_s: float  # For any progress of a body, either way.


class _Broken(Exception):
    """The connection cannot go on: leave without another word."""


class RequestBody:
    """The body of the request at hand; see `message.Body`."""

    __slots__ = ("_connection", "size")

    def __init__(self, connection: Connection, size: int | None) -> None:
        self._connection: Connection | None = connection
        self.size = size

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise LocalProtocolError("the request of this body is over")
        piece = await self._connection.receive_piece()
        if not piece:
            raise StopAsyncIteration
        return piece

    def take_now(self) -> bytes | None:
        """The whole of a body whose size is known, where it came with its head; else None.

        None takes nothing.
        """
        return None if self._connection is None else self._connection.take_now()

    async def fill(self, buffer: memoryview) -> int:
        """Receive into `buffer` until it is full; fewer bytes only at the body's end.

        Only of a body whose size is known.  Raises as iterating does.
        """
        if self._connection is None:
            raise LocalProtocolError("the request of this body is over")
        return await self._connection.fill(buffer)

    def detach(self) -> None:
        self._connection = None


def plain_refusal(refusal: Refused, remote: Address) -> Response:
    """The reason, in a line."""
    del remote
    return _plain(refusal.status, str(refusal), close=True)


class Connection:
    """Serves one stream until either end has had enough."""

    def __init__(
        self,
        stream: Stream,
        handler: Handler,
        *,
        timeouts: Timeouts,
        date: Callable[[], str],
        secure: bool,
        refuse: RefusalHandler = plain_refusal,
        by_h11: bool = False,
    ) -> None:
        """by_h11: read every head by h11 (`framing.take_head`)."""
        self.deadline = inf  # By trio's clock; see the module.
        self.phase = "head"  # What is waited for: head, idle, body, answer.
        self.scope = trio.CancelScope()
        self._stream = stream
        self._remote = str(stream.remote)
        self._handler = handler
        self._timeouts = timeouts
        self._date = date
        self._secure = secure
        self._refusal = refuse
        self._by_h11 = by_h11
        self._is_draining = False
        self._waits_since = inf
        self.is_idle = False  # Between requests, nothing of the next one received.
        self._has_served = False
        self._buffer = bytearray()  # Received, not yet understood.
        # The request at hand.
        self._left = 0  # Bytes of a body with a length still to come.
        self._chunked: ChunkedReader | None = None
        self._owes_continue = False
        self._is_broken = False  # Where the body ends can no longer be known.
        self._patience_s = timeouts.body_s
        self._waited_s = 0.0  # For bytes of the body, ours to judge its rate by.
        self._received = 0  # Bytes of the body.
        self._is_answered = False  # What comes of the body is thrown away.

    def may_be_evicted(self, now: float) -> bool:
        """Whether hardly anybody would miss it.

        It is idle, or has for long had no request that arrived whole and is unanswered.
        """
        if self.scope.cancel_called:
            return False
        if self.phase == "idle":
            return self.is_idle
        if self.deadline == inf:
            return False
        has_no_request = self.phase == "head" or self._is_answered
        return has_no_request and now - self._waits_since >= _EVICTED_AFTER_S

    def is_expired(self, now: float) -> bool:
        """Whether the client has let us wait for too long: the server's timer asks.

        An idle client is timed from the first time that it is asked: the next request
        mostly comes before that, and does not pay for a look at the clock.
        """
        if self.is_idle and self.deadline == inf:
            self.deadline = now + self._timeouts.idle_s
        return self.deadline <= now

    # ---- the life of a connection -----------------------------------------------------

    async def run(self) -> None:
        """Serve until the end; closes the stream.  Raises nothing of the client's doing."""
        try:
            with self.scope:
                await self._serve()
        except (_Broken, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except LocalProtocolError as error:
            log.exception("http.answer_invalid", reason=str(error))
        finally:
            await self._stream.aclose()

    def drain(self) -> None:
        """Close after the answer at hand, or now where there is none to give."""
        self._is_draining = True
        if self.is_idle:
            self.scope.cancel()

    async def _serve(self) -> None:
        self._wait("head", self._timeouts.head_s)
        await self._stream.handshake()
        self.deadline = inf
        while True:
            try:
                head = await self._next_head()
            except Refused as refusal:
                await self._refuse(refusal)
                return
            if head is None:
                return
            if not await self._answer(head):
                return
            self._has_served = True

    async def _next_head(self) -> Head | None:
        """The next request's head; None where the client is done.  Raises Refused."""
        started = bool(self._buffer)
        head = take_head(self._buffer, by_h11=self._by_h11) if started else None
        if head is None:
            self.is_idle = not self._buffer
            if self._is_draining and self.is_idle:
                return None
            if started or not self._has_served:
                self._wait("head", self._timeouts.head_s)
            else:
                self.phase = "idle"  # See `is_expired`.
            while head is None:
                data = await self._stream.receive_some(HTTP_READ_SIZE)
                if not data:
                    return None
                is_first = not self._buffer
                self._buffer += data
                head = take_head(self._buffer, by_h11=self._by_h11)
                if head is None and is_first:
                    self.is_idle = False
                    self._wait("head", self._timeouts.head_s)
        self.is_idle = False
        self.deadline = inf
        return head

    def _wait(self, phase: str, timeout_s: float) -> None:
        self.phase = phase
        self._waits_since = trio.current_time()
        self.deadline = self._waits_since + timeout_s

    async def _answer(self, head: Head) -> bool:
        """Serve one request; whether the connection goes on."""
        self._left = head.length or 0
        self._chunked = ChunkedReader() if head.length is None else None
        if self._chunked is not None and self._buffer:
            self._chunked.feed(self._buffer)
            self._buffer.clear()
        self._owes_continue = head.expects_continue and not self._body_is_over()
        self._is_broken = False
        self._waited_s = 0.0
        self._received = 0
        self._is_answered = False
        self._patience_s = self._timeouts.body_s
        body = NO_BODY if head.length == 0 else RequestBody(self, head.length)
        request = Request(
            head.method,
            head.target,
            head.path,
            head.query,
            head.headers,
            body,
            head.http_version,
            self._remote,
            self._secure,
        )
        try:
            response = await self._handler(request)
        except Exception as error:
            response = _failed(request, error)
        # A client that waits for a 100 it never got may send its body or not: nobody
        # can tell what comes next on this connection.
        goes_on = not (
            head.wants_close
            or response.close
            or self._is_draining
            or self._owes_continue
            or self._is_broken
            or self._left > HTTP_DRAIN_SIZE_MAX
        )
        answer = response.body
        if not isinstance(answer, (bytes, bytearray, memoryview)):
            await self._send_pieces(head, response, answer, goes_on=goes_on)
        else:
            whole = self._whole_answer(head, response, answer, goes_on=goes_on)
            # Mostly there is room for it, and nobody to wait for.
            if len(whole) > 1 or not self._stream.try_send(whole[0]):
                for part in whole:
                    await self._send_all(part)
        if isinstance(body, RequestBody):
            body.detach()
        if not self._left and self._chunked is None:
            return goes_on
        if self._body_is_over():
            self._end_body()
            return goes_on
        if not goes_on:
            await self._stream.send_eof()  # The client need not wait out our patience.
        return await self._discard_body() and goes_on

    async def _refuse(self, refusal: Refused) -> None:
        log.debug(
            "http.request_refused",
            remote=self._remote,
            status=refusal.status,
            reason=str(refusal),
        )
        response = self._refusal(refusal, self._stream.remote)
        body = response.body
        assert isinstance(body, bytes)
        head = encode_head(
            response.status,
            response.headers,
            content_length=len(body),
            date=self._date(),
            is_last=True,
        )
        self._wait("answer", self._timeouts.body_s)
        await self._stream.send_all(head + body)
        await self._stream.send_eof()
        self._left, self._chunked = HTTP_DRAIN_SIZE_MAX, None
        self._buffer.clear()
        await self._discard_body()

    # ---- the request's body -----------------------------------------------------------

    async def receive_piece(self, size_max: int = HTTP_BODY_READ_SIZE) -> bytes:
        """The next bytes of the body; b"" at its end.

        Raises TruncatedBody, Refused; then again whenever it is called.
        """
        try:
            if self._is_broken:
                raise TruncatedBody("the body is broken")
            if self._chunked is not None:
                return await self._receive_chunked(self._chunked)
            return await self._receive_sized(size_max)
        except RemoteProtocolError:
            self._is_broken = True
            raise

    def take_now(self) -> bytes | None:
        """The body that is received and not taken, if that is all of it."""
        size = self._left
        if not size or self._received or len(self._buffer) < size or self._is_broken:
            return None
        with memoryview(self._buffer) as received:
            whole = bytes(received[:size])
        del self._buffer[:size]
        self._take(size)
        return whole

    async def fill(self, buffer: memoryview) -> int:
        """As `receive_piece`, into `buffer` until that is full or the body ends."""
        assert self._chunked is None
        wanted = min(len(buffer), self._left)
        filled = 0
        while filled < wanted:
            if self._is_broken or self._buffer:
                piece = await self.receive_piece(wanted - filled)
                size = len(piece)
                buffer[filled : filled + size] = piece
            else:
                size = await self._fill_some(buffer[filled:wanted])
            filled += size
        return filled

    async def _fill_some(self, buffer: memoryview) -> int:
        try:
            size = await self._receive_body(partial(self._stream.receive_into, buffer))
            if not size:
                raise self._truncated()
        except RemoteProtocolError:
            self._is_broken = True
            raise
        self._take(size)
        return size

    def _take(self, size: int) -> None:
        """So many bytes of a body with a length have come."""
        self._owes_continue = False  # Who sends the body does not wait for a 100.
        self._left -= size
        self._received += size

    def _truncated(self) -> TruncatedBody:
        return TruncatedBody(f"the connection ended {self._left} bytes too early")

    async def _receive_sized(self, size_max: int) -> bytes:
        if not self._left:
            return b""
        if self._buffer:
            piece = bytes(memoryview(self._buffer)[: min(self._left, size_max)])
            del self._buffer[: len(piece)]
        else:
            piece = await self._receive_some(min(self._left, size_max))
            if not piece:
                raise self._truncated()
        self._take(len(piece))
        return piece

    async def _receive_chunked(self, reader: ChunkedReader) -> bytes:
        while True:
            piece = reader.take()
            if piece is not None:
                self._owes_continue = False
                self._received += len(piece)
                return piece
            if reader.is_done:
                return b""
            reader.feed(await self._receive_some(HTTP_BODY_READ_SIZE))

    async def _receive_some(self, size_max: int) -> bytes:
        return await self._receive_body(partial(self._stream.receive_some, size_max))

    async def _receive_body(self, receive: Callable[[], Awaitable[T]]) -> T:
        """Wait for more of the body, but not for ever."""
        started = trio.current_time()
        try:
            if self._owes_continue:
                self._owes_continue = False
                await self._send_all(_CONTINUE)
            patience_s = self._patience_s
            earned_s = 0.0 if self._is_answered else self._received / HTTP_BODY_RATE_MIN
            spare_s = patience_s + earned_s - self._waited_s
            self._wait("body", min(patience_s, max(0.0, spare_s)))
            return await receive()
        except trio.BrokenResourceError as error:
            raise TruncatedBody("the connection broke inside the body") from error
        finally:
            self.deadline = inf
            self._waited_s += trio.current_time() - started

    def _body_is_over(self) -> bool:
        if self._chunked is None:
            return not self._left
        return self._chunked.is_done

    def _end_body(self) -> None:
        if self._chunked is not None:
            self._buffer += self._chunked.rest()
            self._chunked = None

    async def _discard_body(self) -> bool:
        """Read on for a while; whether the body's end was reached."""
        self._owes_continue = False
        self._is_answered = True
        self._patience_s = min(_LINGER_S, self._timeouts.body_s)
        self._waited_s = 0.0
        discarded = 0
        try:
            while not self._body_is_over():
                discarded += len(await self.receive_piece())
                if discarded > HTTP_DRAIN_SIZE_MAX:
                    return False
        except RemoteProtocolError:
            return False
        self._end_body()
        return True

    # ---- the answer -------------------------------------------------------------------

    def _whole_answer(
        self, head: Head, response: Response, body: Buffer, *, goes_on: bool
    ) -> tuple[bytes] | tuple[bytes, Buffer]:
        """An answer's head and body, joined where they leave in one send."""
        size = len(body)
        is_sent = size > 0 and head.method != "HEAD" and has_body(response.status)
        if head.method == "HEAD" and response.content_length is not None:
            size = response.content_length
        start = encode_head(
            response.status,
            response.headers,
            content_length=size,
            date=self._date(),
            is_last=not goes_on,
        )
        if not is_sent:
            return (start,)
        return (start + body,) if size <= HTTP_JOIN_SIZE_MAX else (start, body)

    async def _send_pieces(
        self, head: Head, response: Response, body: AsyncIterator[Buffer], *, goes_on: bool
    ) -> None:
        try:
            await self._send_each(head, response, body, goes_on=goes_on)
        finally:
            aclose = getattr(body, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _send_each(
        self, head: Head, response: Response, body: AsyncIterator[Buffer], *, goes_on: bool
    ) -> None:
        size = response.content_length
        if size is None and head.http_version == "1.0" and head.method != "HEAD":
            # Its end could only be the connection's end, which looks the same broken.
            collected = await self._collect(body)
            for part in self._whole_answer(head, response, collected, goes_on=goes_on):
                await self._send_all(part)
            return
        start = encode_head(
            response.status,
            response.headers,
            content_length=size,
            date=self._date(),
            is_last=not goes_on,
        )
        if head.method == "HEAD" or not has_body(response.status):
            await self._send_all(start)
            return
        if size is None:
            await self._send_chunked(start, body)
        else:
            await self._send_sized(start, body, size)

    async def _send_sized(
        self, start: bytes, body: AsyncIterator[Buffer], size: int
    ) -> None:
        left = size
        pending: bytes | None = start  # Waits for a first piece to join it.
        while (piece := await self._next_of(body)) is not None:
            left -= len(piece)
            if left < 0:
                raise LocalProtocolError(f"an answer of {size} bytes has more")
            if pending is not None:
                if len(pending) + len(piece) <= HTTP_JOIN_SIZE_MAX:
                    piece = b"".join((pending, piece))
                else:
                    await self._send_all(pending)
                pending = None
            await self._send_all(piece)
        if pending is not None:
            await self._send_all(pending)
        if left:
            raise LocalProtocolError(f"an answer of {size} bytes lacks {left}")

    async def _send_chunked(self, start: bytes, body: AsyncIterator[Buffer]) -> None:
        await self._send_all(start)
        while (piece := await self._next_of(body)) is not None:
            if len(piece):
                await self._send_all(b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")))
        await self._send_all(b"0\r\n\r\n")

    async def _collect(self, body: AsyncIterator[Buffer]) -> bytes:
        whole = bytearray()
        while (piece := await self._next_of(body)) is not None:
            whole += piece
            if len(whole) > HTTP_BUFFERED_ANSWER_MAX:
                raise LocalProtocolError("too large an answer for HTTP/1.0")
        return bytes(whole)

    async def _next_of(self, body: AsyncIterator[Buffer]) -> Buffer | None:
        """The next piece of an answer, None at its end; a failure breaks the connection."""
        try:
            return await anext(body)
        except StopAsyncIteration:
            return None
        except Exception as error:
            log.warning("http.answer_broken", reason=str(error), exc_info=error)
            raise _Broken from error

    async def _send_all(self, data: Buffer) -> None:
        size = len(data)
        self._wait("answer", self._timeouts.body_s)
        if size <= HTTP_SEND_SIZE:
            await self._stream.send_all(data)
        else:
            view = memoryview(data)
            for offset in range(0, size, HTTP_SEND_SIZE):
                self._wait("answer", self._timeouts.body_s)
                await self._stream.send_all(view[offset : offset + HTTP_SEND_SIZE])
        self.deadline = inf


def _failed(request: Request, error: Exception) -> Response:
    """The answer where the handler has none."""
    if isinstance(error, RemoteProtocolError):  # Of the body, and nobody caught it.
        status = error.status if isinstance(error, Refused) else 400
        return _plain(status, str(error), close=True)
    log.error(
        "http.request_failed", method=request.method, reason=str(error), exc_info=error
    )
    return _plain(500, "internal error", close=True)


def _plain(status: int, text: str, *, close: bool) -> Response:
    return Response(
        status, [("Content-Type", "text/plain")], text.encode() + b"\n", close=close
    )
