"""Answers calls: accepts links, checks who is there, runs the registered handlers.

    accept -> TLS -> hello -> session: one receive loop, one writer, a pool of workers

A request is given to an idle worker of its session, so that a call costs a wake-up and
not a task of its own; a worker whose call was cancelled ends with its cancel scope, and
another takes its place.  Deadlines of all calls are in one alarm.  A method that only
begins something, and is called back when that is done, needs no worker.

Who is there: the node of the client's certificate.  Its hello must name the same node,
and this cluster (F30).  A stranger, who shows no certificate, may call anonymous methods
only, in small frames, a few at a time, for a short while (F32).  Whoever has not said hello
yet counts as one.  When there are too many the oldest has to go, not the newest: a peer
that returns says hello at once, and must not be locked out by those who never do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import outcome
import structlog
import trio

from objstore import metrics
from objstore.buffer import Buffer
from objstore.errors import ObjstoreError, RemoteProtocolError
from objstore.frozen import frozen
from objstore.host.clock import next_beat_s
from objstore.host.network import Address, Listener, Network, ServerTls, Stream
from objstore.ids import ClusterId, NodeId
from objstore.limits import FRAME_SIZE_MAX
from objstore.rpc import codec
from objstore.rpc.call import (
    PROTOCOL,
    BadRequest,
    Beginner,
    Call,
    CastHandler,
    DeadlineExceeded,
    Handler,
    NoSuchMethod,
    PeerBusy,
    PeerFailed,
    Refused,
    Reply,
)
from objstore.rpc.config import RpcConfig
from objstore.rpc.connection import (
    Alarm,
    Connection,
    close_stream,
    deadline_after,
    encode_hello,
    receive_hello,
)
from objstore.rpc.frames import (
    CANCEL,
    CAST,
    ERROR,
    REQUEST,
    Frame,
    FrameReader,
    cast_header,
    encode_frame,
    encode_response,
    open_frame,
)
from objstore.sums import Sums

__all__ = ["Call", "Reply", "RpcServer"]

log = structlog.get_logger()

_IDLE_WORKERS_MAX = 32  # Per session; more end when they have nothing to do.


class _Method:
    """A registered method and its counters, looked up once."""

    def __init__(
        self, name: str, handler: Handler, *, anonymous: bool, begin: Beginner | None = None
    ) -> None:
        self.handler = handler
        self.begin = begin  # Does the same without a task.
        self.anonymous = anonymous
        self.done = metrics.RPC_CALLS.labels(name, "ok")
        self.refused = metrics.RPC_CALLS.labels(name, "error")
        self.failed = metrics.RPC_CALLS.labels(name, "bug")
        self.cancelled = metrics.RPC_CALLS.labels(name, "cancelled")


class RpcServer:
    """The methods of this node, and who may call them."""

    def __init__(
        self,
        network: Network,
        address: Address,
        *,
        tls: ServerTls | None,
        node: NodeId,
        cluster: ClusterId,
        config: RpcConfig | None = None,
        boot_id: bytes = b"",
    ) -> None:
        """`tls` None: a network whose streams know their peers by themselves (tests)."""
        self.node = node
        self.cluster = cluster
        self.config = config or RpcConfig()
        self.alarm: Alarm[_Worker] = Alarm()
        self._network = network
        self._address = address
        self._tls = tls
        self._boot_id = boot_id
        self._methods: dict[str, _Method] = {}
        self._casts: dict[str, CastHandler] = {}
        # Of casts without a value, by the bytes of their frames' headers.
        self._bare_casts: dict[bytes, tuple[str, CastHandler]] = {}
        self._sessions: set[_Session] = set()
        self._strangers: dict[Stream, trio.CancelScope] = {}  # The oldest one first.

    def register(self, method: str, handler: Handler, *, anonymous: bool = False) -> None:
        """Answer calls of `method` by `handler`.

        A handler raises ObjstoreErrors for its caller; any other exception is a bug: it
        is logged, and the caller gets PeerFailed.  It is cancelled at the call's
        deadline, when the caller gives up and when the link is lost.
        anonymous: strangers may call it.
        """
        assert method not in self._methods, method
        self._methods[method] = _Method(method, handler, anonymous=anonymous)

    def register_begun(self, method: str, begin: Beginner) -> None:
        """Answer calls of `method` by `begin`, in the receive loop: it must be quick.

        What was begun goes on when its caller gives up, and past the call's deadline.
        """
        assert method not in self._methods, method
        handler = partial(await_begun, begin)
        self._methods[method] = _Method(method, handler, anonymous=False, begin=begin)

    def register_cast(self, method: str, handler: CastHandler) -> None:
        """Hand casts of `method` to `handler`, in the receive loop: it must be quick."""
        assert method not in self._casts, method
        self._casts[method] = handler
        self._bare_casts[cast_header(method)] = method, handler

    async def run(
        self, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and serve until cancelled; started with the address in use.

        Raises OSError where it cannot listen.  Handlers in progress are cancelled.
        """
        listener = await self._network.listen(self._address, tls=self._tls)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.alarm.run, _expire)
                nursery.start_soon(self._watch)
                task_status.started(listener.address)
                await self._accept(listener, nursery)
        finally:
            with trio.move_on_after(1, shield=True):
                await listener.aclose()

    async def dispatch_local(self, call: Call) -> Reply:
        """Answer a call of this node to itself, in the caller's task."""
        method = self._methods.get(call.method)
        if method is None:
            raise NoSuchMethod(f"{call.method}: no such method")
        with trio.CancelScope(deadline=call.deadline):
            return await _answer(method, call, self.node)
        raise DeadlineExceeded(self.node, "no answer in time", unknown=True)

    def dispatch_local_cast(self, method: str, value: object, payload: Buffer) -> None:
        self.on_cast(self.node, method, value, memoryview(payload))

    def method(self, name: str) -> _Method | None:
        return self._methods.get(name)

    def on_bare_cast(self, peer: NodeId, header: bytes, payload: memoryview) -> bool:
        """Serve a cast that has no value; False: that is not what `header` says."""
        known = self._bare_casts.get(header)
        if known is None:
            return False
        method, handler = known
        try:
            handler(peer, None, payload)
        except Exception:
            log.exception("rpc.handler_failed", peer=peer, method=method)
        return True

    def on_cast(
        self, peer: NodeId, method: str, value: object, payload: memoryview
    ) -> None:
        handler = self._casts.get(method)
        if handler is None:
            metrics.RPC_CALLS.labels("unknown", "error").inc()
            return
        try:
            handler(peer, value, payload)
        except Exception:
            log.exception("rpc.handler_failed", peer=peer, method=method)

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        while True:
            stream = await listener.accept()
            if len(self._sessions) >= self.config.links_max:
                nursery.start_soon(close_stream, stream)
                continue
            while len(self._strangers) >= self.config.strangers_max:
                self._strangers.pop(next(iter(self._strangers))).cancel()
                metrics.RPC_EVICTED.inc()
            scope = self._strangers[stream] = trio.CancelScope()
            nursery.start_soon(self._serve_within, scope, stream)

    async def _serve_within(self, scope: trio.CancelScope, stream: Stream) -> None:
        with scope:
            await self._serve(stream)

    async def _serve(self, stream: Stream) -> None:
        config = self.config
        session: _Session | None = None
        try:
            try:
                with trio.fail_after(config.hello_timeout_ms / 1000):
                    peer, reader = await self._greet(stream)
            except (
                OSError,
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                trio.TooSlowError,
                ObjstoreError,
            ) as problem:
                reason = str(problem) or type(problem).__name__
                log.info("rpc.connection_refused", peer=str(stream.remote), reason=reason)
                return
            if peer is not None:
                self._strangers.pop(stream, None)
            session = _Session(self, Connection(stream, config, reader=reader), peer)
            self._sessions.add(session)
            await session.run()
        finally:
            if session is not None:
                self._sessions.discard(session)
            self._strangers.pop(stream, None)
            await close_stream(stream)

    async def _greet(self, stream: Stream) -> tuple[NodeId | None, FrameReader]:
        """Handshake and hello.  Raises Refused, after having told the peer why."""
        await stream.handshake()
        known = stream.peer_node
        size_max = self.config.stranger_frame_size_max
        reader = FrameReader(size_max=size_max if known is None else FRAME_SIZE_MAX)
        protocol, cluster, node, _ = await receive_hello(stream, reader)
        refusal = self._refusal(known, protocol, cluster, node)
        if refusal is not None:
            error = Refused(self.node, refusal, unknown=False)
            for buffer in encode_frame(ERROR, value=error):
                await stream.send_all(buffer)
            raise error
        for buffer in encode_hello(self.cluster, self.node, self._boot_id):
            await stream.send_all(buffer)
        return known, reader

    def _refusal(
        self,
        known: NodeId | None,
        protocol: int,
        cluster: ClusterId | None,
        node: NodeId | None,
    ) -> str | None:
        if protocol != PROTOCOL:
            return f"speaks protocol {PROTOCOL}, not {protocol}"
        if node != known:
            return f"hello names node {node}, the certificate {known}"
        if cluster != self.cluster and not (known is None and cluster is None):
            return "is of another cluster"
        return None

    async def _watch(self) -> None:
        """End sessions that are silent though their clients should have pinged (F20)."""
        config = self.config
        silent_max = (3 * config.ping_interval_ms + config.ping_timeout_ms) / 1000
        while True:
            await trio.sleep_until(next_beat_s(config.ping_interval_ms / 1000))
            now = trio.current_time()
            for session in list(self._sessions):
                session.watch(now, silent_max)


def _expire(worker: _Worker) -> None:
    worker.scope.cancel()


@attrs.define(eq=False)
class _Worker:
    """A task of a session's pool, and the call it works on."""

    scope: trio.CancelScope
    task: trio.lowlevel.Task | None = None  # Set while idle.
    bucket: int = 0  # Of the call's deadline in the alarm.


@frozen
class _Request:
    """A REQUEST frame, opened."""

    call: int
    name: Any
    method: _Method | None  # None: there is none of that name.
    timeout_ms: Any
    raw: Any  # The value as msgpack read it.
    payload: memoryview
    sums: Sums | None


class _Session:
    """One accepted connection after its hello."""

    def __init__(
        self, server: RpcServer, connection: Connection, peer: NodeId | None
    ) -> None:
        self._server = server
        self._connection = connection
        self._peer = peer
        self._began = trio.current_time()
        # By call number; None: begun, without a worker.
        self._active: dict[int, _Worker | None] = {}
        self._active_size = 0  # Payload bytes of the calls in flight.
        self._idle: list[_Worker] = []
        config = server.config
        self._calls_max = (
            config.stranger_calls_max if peer is None else config.calls_in_flight_max
        )
        self._size_max = config.bytes_in_flight_max + FRAME_SIZE_MAX
        self._nursery: trio.Nursery

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            reason = await self._connection.run(self._on_frame)
            log.debug("rpc.session_ended", peer=self._peer, reason=reason)
            self._nursery.cancel_scope.cancel()

    def watch(self, now: float, silent_max: float) -> None:
        life_max = self._server.config.stranger_life_ms / 1000
        if now - self._connection.last_received > silent_max:
            self._connection.close("silent")
        elif self._peer is None and now - self._began > life_max:
            self._connection.close("a stranger's time is over")

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind is REQUEST:
            self._on_request(frame)
        elif frame.kind is CAST and self._peer is not None:
            self._on_cast(frame, self._peer)
        elif frame.kind is CANCEL:
            worker = self._active.get(frame.call)
            if worker is not None:
                worker.scope.cancel()
        else:
            raise RemoteProtocolError(f"{frame.kind.name} from a client")

    def _on_cast(self, frame: Frame, peer: NodeId) -> None:
        if not frame.flags and self._server.on_bare_cast(peer, frame.header, frame.payload):
            return
        (method,), raw, payload = open_frame(frame, 1)
        if type(method) is not str:
            raise RemoteProtocolError("a cast without a method")
        try:
            value = codec.value_of(raw)
        except codec.CorruptValue as problem:  # Of a newer build, perhaps.
            log.warning("rpc.cast_unreadable", peer=peer, reason=str(problem))
            return
        self._server.on_cast(peer, method, value, payload)

    def _on_request(self, frame: Frame) -> None:
        if frame.call in self._active:
            raise RemoteProtocolError(f"call number {frame.call} used twice")
        size = len(frame.payload)
        if (
            len(self._active) >= self._calls_max
            or self._active_size + size > self._size_max
        ):
            self._refuse(frame)
            return
        (name, timeout_ms), raw, payload = open_frame(frame, 2)
        method = self._server.method(name) if type(name) is str else None
        request = _Request(frame.call, name, method, timeout_ms, raw, payload, frame.sums)
        self._active_size += len(payload)
        if self._begin(request):
            return
        if self._idle:
            worker = self._idle.pop()
            assert worker.task is not None
            trio.lowlevel.reschedule(worker.task, outcome.Value(request))
            worker.task = None
        else:
            worker = _Worker(trio.CancelScope())
            self._nursery.start_soon(self._work, worker, request)
        self._active[frame.call] = worker

    def _begin(self, request: _Request) -> bool:
        """Begin a call whose method needs no worker; False: it needs one."""
        method = request.method
        if (
            method is None
            or method.begin is None
            or self._peer is None
            or self._connection.is_full
        ):
            return False
        self._active[request.call] = None
        settle = partial(self._settle, request, method)
        try:
            method.begin(self._opened(request), settle)
        except Exception as problem:
            settle(partial(_raise, problem))
        return True

    def _settle(
        self, request: _Request, method: _Method, result: Callable[[], Reply]
    ) -> None:
        del self._active[request.call]
        self._active_size -= len(request.payload)
        if not self._connection.reason:  # Else nobody is there to be told.
            self._connection.send(self._frame_of(request, method, result))

    def _frame_of(
        self, request: _Request, method: _Method, result: Callable[[], Reply]
    ) -> list[Buffer]:
        """The frame that answers a call that was begun."""
        try:
            frame = _response(request, result())
        except Exception as problem:
            error = _refusal(
                method, problem, peer=self._peer, name=request.name, node=self._server.node
            )
            return encode_frame(ERROR, call=request.call, value=error)
        method.done.inc()
        return frame

    def _refuse(self, frame: Frame) -> None:
        busy = PeerBusy(self._server.node, "too many calls in flight", unknown=False)
        # A client of ours never comes here, as it keeps to the same bounds: a flood of
        # refusals that nobody reads must not fill the queue.
        if self._connection.queue_size > 2 * self._size_max:
            raise RemoteProtocolError("floods and does not read")
        self._connection.send(encode_frame(ERROR, call=frame.call, value=busy))

    async def _work(self, worker: _Worker, request: _Request) -> None:
        """Answer one request after another, until one is cancelled."""
        with worker.scope:
            while True:
                await self._work_on(worker, request)
                if worker.scope.cancel_called or len(self._idle) >= _IDLE_WORKERS_MAX:
                    return
                request = await self._next(worker)

    async def _next(self, worker: _Worker) -> _Request:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle.remove(worker)
            return trio.lowlevel.Abort.SUCCEEDED

        worker.task = trio.lowlevel.current_task()
        self._idle.append(worker)
        request: _Request = await trio.lowlevel.wait_task_rescheduled(abort)
        return request

    async def _work_on(self, worker: _Worker, request: _Request) -> None:
        try:
            if self._connection.is_full:  # Before there is a reply to hold in memory.
                await self._connection.room()
            buffers = await self._reply_to(worker, request)
            self._connection.send(buffers)
        finally:
            del self._active[request.call]
            self._active_size -= len(request.payload)
            self._server.alarm.discard(worker.bucket, worker)

    async def _reply_to(self, worker: _Worker, request: _Request) -> list[Buffer]:
        """Run the handler; return the frame that answers."""
        try:
            return _response(request, await self._run(worker, request))
        except ObjstoreError as error:
            return encode_frame(ERROR, call=request.call, value=error)
        except Exception:  # The reply could not be encoded: a bug of its handler.
            log.exception("rpc.handler_failed", peer=self._peer, method=request.name)
            failed = PeerFailed(self._server.node, "internal error", unknown=True)
            return encode_frame(ERROR, call=request.call, value=failed)

    async def _run(self, worker: _Worker, request: _Request) -> Reply:
        method = request.method
        if method is None or (self._peer is None and not method.anonymous):
            who = self._peer or "strangers"
            raise NoSuchMethod(f"{request.name}: no such method for {who}")
        call = self._opened(request)
        worker.bucket = self._server.alarm.add(call.deadline, worker)
        return await _answer(method, call, self._server.node)

    def _opened(self, request: _Request) -> Call:
        """Raises BadRequest."""
        name, timeout_ms = request.name, request.timeout_ms
        if type(timeout_ms) is not int or timeout_ms < 0:
            raise BadRequest(f"{name}: a call needs a timeout")
        try:
            value = codec.value_of(request.raw)
        except codec.CorruptValue as problem:
            raise BadRequest(f"{name}: {problem}") from problem
        deadline = deadline_after(timeout_ms)
        return Call(self._peer, value, request.payload, deadline, name, request.sums)


async def await_begun(begin: Beginner, call: Call) -> Reply:
    """Begin a call, and wait for what comes of it."""
    settled = trio.Event()
    results: list[Callable[[], Reply]] = []

    def settle(result: Callable[[], Reply]) -> None:
        results.append(result)
        settled.set()

    begin(call, settle)
    await settled.wait()
    return results[0]()


def _raise(problem: Exception) -> Reply:
    raise problem


async def _answer(method: _Method, call: Call, node: NodeId) -> Reply:
    """Run a handler.  Raises ObjstoreError alone; bugs are logged here."""
    try:
        reply = await method.handler(call)
    except trio.Cancelled:
        method.cancelled.inc()
        raise
    except Exception as problem:
        error = _refusal(method, problem, peer=call.peer, name=call.method, node=node)
        if error is problem:
            raise
        raise error from problem
    method.done.inc()
    return reply


def _response(request: _Request, reply: Reply) -> list[Buffer]:
    return encode_response(request.call, reply.value, reply.payload)


def _refusal(
    method: _Method, problem: Exception, *, peer: NodeId | None, name: str, node: NodeId
) -> ObjstoreError:
    """What a caller is told of what a handler raised; counted, and bugs are logged."""
    error = _only_error(problem)
    if error is not None:
        method.refused.inc()
        return error
    method.failed.inc()
    log.error("rpc.handler_failed", peer=peer, method=name, exc_info=problem)
    return PeerFailed(node, "internal error", unknown=True)


def _only_error(problem: BaseException) -> ObjstoreError | None:
    """The ObjstoreError that a nursery wrapped in a group of one."""
    while isinstance(problem, ExceptionGroup) and len(problem.exceptions) == 1:
        problem = problem.exceptions[0]
    return problem if isinstance(problem, ObjstoreError) else None
