"""Calls to peers: one control link and a few bulk links each, made when first needed.

A link's life:

                 first call or cast             hello done
    IDLE ------------------------> CONNECTING --------------> UP
     ^  pause over, next call           | failed               | lost, silent, idle
     +------------- DOWN <--------------+----------------------+
                    calls fail at once; the pause grows with each failed connect, jittered

A call that waits for its answer holds nothing but a parked task and a place in the alarm
that all calls share.  When its link is lost it fails at once: `unknown` where the request
may have left.  Nothing is ever sent twice here; whoever retries knows what may be.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Protocol

import attrs
import outcome
import structlog
import trio

from objstore import metrics
from objstore.buffer import Buffer
from objstore.errors import ObjstoreError, RemoteProtocolError
from objstore.host.clock import next_beat_s
from objstore.host.network import Address, ClientTls, Network, Stream, TlsIdentity
from objstore.ids import ClusterId, NodeId
from objstore.rpc import codec
from objstore.rpc.call import (
    PROTOCOL,
    Call,
    DeadlineExceeded,
    PeerUnavailable,
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
    time_left_ms,
)
from objstore.rpc.frames import (
    CANCEL,
    ERROR,
    PING,
    RESPONSE,
    Frame,
    FrameReader,
    encode_bare,
    encode_cast,
    encode_request,
    open_frame,
)

__all__ = ["Peers", "Reply", "call_address", "deadline_after", "time_left_ms"]

log = structlog.get_logger()


class LocalServer(Protocol):
    """What answers calls that a node makes to itself."""

    async def dispatch_local(self, call: Call) -> Reply: ...

    def dispatch_local_cast(self, method: str, value: object, payload: Buffer) -> None: ...


class _State(enum.Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"


@attrs.define(eq=False)
class _Pending:
    """A call that waits for its answer."""

    task: trio.lowlevel.Task
    place: int  # How many frames were queued before it was: was it sent?
    size: int  # Of its payload, in bytes.
    bucket: int  # In the alarm.


class Peers:
    """Every other node of the cluster, as something to call."""

    def __init__(
        self,
        network: Network,
        *,
        node: NodeId,
        cluster: ClusterId,
        identity: Callable[[], TlsIdentity],
        resolve: Callable[[NodeId], Address | None],
        config: RpcConfig | None = None,
        boot_id: bytes = b"",
        random: Random | None = None,
    ) -> None:
        self.network = network
        self.node = node
        self.cluster = cluster
        self.identity = identity
        self.resolve = resolve
        self.config = config or RpcConfig()
        self.boot_id = boot_id
        self.random = random or Random(node)  # noqa: S311 - jitter only.
        self.local: LocalServer | None = None  # node.py sets it before `run`.
        self.alarm: Alarm[tuple[_Link, int]] = Alarm()
        self.nursery: trio.Nursery | None = None
        self._links: dict[tuple[NodeId, int], _Link] = {}

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; then every link is closed and every call has failed."""
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                nursery.start_soon(self.alarm.run, _expire)
                nursery.start_soon(self._watch)
                try:
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    # Before it closes: one that is closed takes no work.
                    self.nursery = None
        finally:
            for link in self._links.values():
                link.fail_calls("this node is stopping")

    async def call(
        self,
        to: NodeId,
        method: str,
        value: object = None,
        *,
        payload: Buffer = b"",
        timeout_ms: int,
        bulk: bool = False,
    ) -> Reply:
        """Ask `to` and wait for its answer.

        bulk: on one of the links for large payloads, so that small calls need not wait
            behind them.
        Raises what the handler raised (by `codec.wire_error`), or PeerUnavailable.
        If cancelled, the peer is told to cancel; it may have finished all the same.
        """
        if to == self.node:
            return await self._call_local(method, value, payload, timeout_ms)
        link = self._link(to, bulk=bulk)
        return await link.call(method, value, payload, timeout_ms)

    def cast(
        self, to: NodeId, method: str, value: object = None, payload: Buffer = b""
    ) -> None:
        """Tell `to`, without an answer.  Never waits; may be lost, which is counted."""
        if to == self.node:
            if self.nursery is not None and self.local is not None:
                # In a task of its own: the caller may be in the middle of a step.
                self.nursery.start_soon(self._cast_local, method, value, payload)
            return
        link = self._links.get((to, 0)) or self._numbered(to, 0)
        if not link.cast(method, value, payload):
            metrics.RPC_CASTS_DROPPED.inc()

    def forget_pause(self, node: NodeId) -> None:
        """Try at once when next called: gossip says that the node is there."""
        for link in self._links_of(node):
            link.forget_pause()

    def disconnect(self, node: NodeId, reason: str) -> None:
        """Close the links to a node that left, or whose address changed."""
        for link in self._links_of(node):
            link.close(reason)

    def boot_id_of(self, node: NodeId) -> bytes | None:
        """What `node` named at its last hello."""
        ids = (link.peer_boot_id for link in self._links_of(node))
        return next((boot_id for boot_id in ids if boot_id is not None), None)

    def is_connected(self, node: NodeId) -> bool:
        """Whether a control link is up."""
        link = self._links.get((node, 0))
        return link is not None and link.state is _State.UP

    def _links_of(self, node: NodeId) -> Iterator[_Link]:
        for number in range(1 + self.config.bulk_links):
            link = self._links.get((node, number))
            if link is not None:
                yield link

    def _link(self, to: NodeId, *, bulk: bool) -> _Link:
        """The control link (number 0), or the bulk link with the least in flight."""
        if bulk and self.config.bulk_links:
            return min(
                (self._numbered(to, n + 1) for n in range(self.config.bulk_links)),
                key=_Link.load,
            )
        return self._numbered(to, 0)

    def _numbered(self, to: NodeId, number: int) -> _Link:
        link = self._links.get((to, number))
        if link is None:
            link = self._links[to, number] = _Link(self, to, number)
        return link

    async def _call_local(
        self, method: str, value: object, payload: Buffer, timeout_ms: int
    ) -> Reply:
        if self.local is None:
            raise PeerUnavailable(self.node, "no local server yet", unknown=False)
        call = Call(
            self.node, value, memoryview(payload), deadline_after(timeout_ms), method
        )
        reply = await self.local.dispatch_local(call)
        return Reply(reply.value, memoryview(reply.payload))

    async def _cast_local(self, method: str, value: object, payload: Buffer) -> None:
        if self.local is not None:
            self.local.dispatch_local_cast(method, value, payload)

    async def _watch(self) -> None:
        """Ping links that are silent, end those that are dead or unused."""
        while True:
            await trio.sleep_until(next_beat_s(self.config.ping_interval_ms / 2000))
            now = trio.current_time()
            for key, link in list(self._links.items()):
                link.watch(now)
                if link.is_forgettable(now):
                    del self._links[key]


def _expire(key: tuple[_Link, int]) -> None:
    link, number = key
    link.expire(number)


class _Link:
    """One connection to one peer, through its ups and downs."""

    def __init__(self, peers: Peers, peer: NodeId, number: int) -> None:
        self.peers = peers
        self.peer = peer
        self.number = number
        self.config = peers.config
        self.state = _State.IDLE
        self.connection: Connection | None = None  # Set while UP.
        self.reason = "not connected"  # Why it is down.
        self.peer_boot_id: bytes | None = None
        self._failures = 0  # Connects that failed in a row.
        self._retry_at = 0.0
        self._last_used = trio.current_time()
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._pending_size = 0
        self._early: list[list[Buffer]] = []  # Casts that wait for the hello.
        self._early_size = 0
        self._ready = trio.lowlevel.ParkingLot()  # Calls waiting for UP or DOWN.
        self._room = trio.lowlevel.ParkingLot()  # Calls waiting for others to end.
        self._scope = trio.CancelScope()

    # Calls.

    def load(self) -> tuple[int, int, int]:
        """What a new call would wait behind: for the choice among bulk links."""
        waiting = len(self._ready) + len(self._room)
        return self._pending_size, len(self._pending) + waiting, self.number

    async def call(
        self, method: str, value: object, payload: Buffer, timeout_ms: int
    ) -> Reply:
        deadline = deadline_after(timeout_ms)
        size = len(payload)
        if self.connection is None or self._room or not self._has_room(size):
            await self._until_usable(size, deadline)
            timeout_ms = max(1, time_left_ms(deadline))
        number = next(self._numbers)
        buffers = encode_request(number, method, timeout_ms, value, payload)
        connection = self.connection
        assert connection is not None
        self._pending[number] = _Pending(
            trio.lowlevel.current_task(),
            connection.queued_count,
            size,
            self.peers.alarm.add(deadline, (self, number)),
        )
        self._pending_size += size
        connection.send(buffers)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._take(number)
            self._send_cancel(number)
            return trio.lowlevel.Abort.SUCCEEDED

        return self._read(await trio.lowlevel.wait_task_rescheduled(abort))

    def _read(self, frame: Frame) -> Reply:
        try:
            _, raw, payload = open_frame(frame, 0)
            value = codec.value_of(raw)
        except codec.CorruptValue as problem:
            raise RemoteProtocolError(f"node {self.peer}: {problem}") from problem
        if frame.kind is ERROR:
            if isinstance(value, ObjstoreError):
                raise value
            raise RemoteProtocolError(f"node {self.peer}: an error that is none")
        return Reply(value, payload, frame.sums)

    def _has_room(self, size: int) -> bool:
        assert self.connection is not None
        return (
            len(self._pending) < self.config.calls_in_flight_max
            and (not size or self._pending_size + size <= self.config.bytes_in_flight_max)
            and not self.connection.is_full
        )

    async def _until_usable(self, size: int, deadline: float) -> None:
        """Return once UP with room.  Raises PeerUnavailable; the deadline ends the wait.

        Where the last connect failed, the wait for the next one is short.
        """
        if self._failures and self.state is not _State.UP:
            soon = deadline_after(self.config.reconnect_wait_ms)
            deadline = min(deadline, soon)
        with trio.CancelScope(deadline=deadline):
            while True:
                if self.state is _State.UP and self._has_room(size):
                    self._room.unpark()  # Another may fit too: it looks for itself.
                    return
                if self.state is _State.UP:
                    assert self.connection is not None
                    if self.connection.reason:  # It is ending; `_down` comes.
                        await self._ready.park()
                    elif self.connection.is_full:
                        await self.connection.room()
                    else:
                        await self._room.park()
                    continue
                self._connect_if_due()
                if self.state is not _State.CONNECTING:
                    raise PeerUnavailable(self.peer, self.reason, unknown=False)
                await self._ready.park()
        raise DeadlineExceeded(self.peer, "no connection in time", unknown=False)

    def expire(self, number: int) -> None:
        """The deadline of a call has passed."""
        pending = self._take(number)
        if pending is not None:
            self._send_cancel(number)
            error = DeadlineExceeded(
                self.peer, "no answer in time", unknown=self._was_sent(pending)
            )
            trio.lowlevel.reschedule(pending.task, outcome.Error(error))

    def fail_calls(self, reason: str) -> None:
        """Fail whatever waits."""
        for number in list(self._pending):
            pending = self._take(number)
            assert pending is not None
            error = PeerUnavailable(self.peer, reason, unknown=self._was_sent(pending))
            trio.lowlevel.reschedule(pending.task, outcome.Error(error))
        self._ready.unpark_all()
        self._room.unpark_all()

    def _was_sent(self, pending: _Pending) -> bool:
        return self.connection is None or pending.place < self.connection.sent_count

    def _take(self, number: int) -> _Pending | None:
        pending = self._pending.pop(number, None)
        if pending is not None:
            self._pending_size -= pending.size
            self.peers.alarm.discard(pending.bucket, (self, number))
            self._last_used = trio.current_time()
            if self._room:
                self._room.unpark()
        return pending

    def _send_cancel(self, number: int) -> None:
        if self.connection is not None and not self.connection.is_full:
            self.connection.send([encode_bare(CANCEL, call=number)])

    # Casts.

    def cast(self, method: str, value: object, payload: Buffer) -> bool:
        """Queue a cast; False: it was dropped."""
        if self.connection is None:
            self._connect_if_due()
            if self.state is not _State.CONNECTING:
                return False
        waiting = (
            self._early_size if self.connection is None else self.connection.queue_size
        )
        if waiting + len(payload) > self.config.cast_size_max:
            return False
        buffers = encode_cast(method, value, payload)
        if self.connection is not None:
            self.connection.send(buffers, at_once=True)
        else:
            self._early.append(buffers)
            self._early_size += sum(map(len, buffers))
        return True

    # The connection.

    def forget_pause(self) -> None:
        self._retry_at = 0.0

    def close(self, reason: str) -> None:
        """End the connection, or the attempt at one."""
        self.reason = reason
        if self.connection is not None:
            self.connection.close(reason)
        else:
            self._scope.cancel()

    def watch(self, now: float) -> None:
        connection = self.connection
        if connection is None:
            return
        if self._pending or self._early:
            self._last_used = now
        silent_ms = (now - connection.last_received) * 1000
        if silent_ms >= self.config.ping_interval_ms + self.config.ping_timeout_ms:
            connection.close("silent")
            self._failures = max(1, self._failures)  # The next connect may hang as well.
        elif (now - self._last_used) * 1000 >= self.config.idle_timeout_ms:
            connection.close("unused")
        elif silent_ms >= self.config.ping_interval_ms and not connection.is_full:
            connection.send([encode_bare(PING)])

    def is_forgettable(self, now: float) -> bool:
        """Whether nothing is lost with this object: its peer may be gone for good."""
        return (
            self.state in {_State.IDLE, _State.DOWN}
            and not self._ready
            and (now - self._last_used) * 1000 >= self.config.idle_timeout_ms
        )

    def _connect_if_due(self) -> None:
        nursery = self.peers.nursery
        if nursery is None:
            self.state, self.reason = _State.DOWN, "this node is not running"
        elif (
            self.state in {_State.IDLE, _State.DOWN}
            and trio.current_time() >= self._retry_at
        ):
            self.state = _State.CONNECTING
            nursery.start_soon(self._run)

    async def _run(self) -> None:
        """Connect, then serve the connection until it ends."""
        with trio.CancelScope() as self._scope:
            try:
                stream, reader = await self._connect()
            except (
                OSError,
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                trio.TooSlowError,
                ObjstoreError,
            ) as problem:
                self._pause(_reason_of(problem))
            else:
                await self._serve(stream, reader)
        if self._scope.cancelled_caught:
            self._down(self.reason)

    async def _connect(self) -> tuple[Stream, FrameReader]:
        address = self.peers.resolve(self.peer)
        if address is None:
            raise PeerUnavailable(self.peer, "its address is not known", unknown=False)
        tls = ClientTls(
            self.peers.identity(), server_node=self.peer, for_bulk=self.number > 0
        )
        with trio.fail_after(self.config.connect_timeout_ms / 1000):
            stream = await self.peers.network.connect(address, tls=tls)
            try:
                reader = await self._greet(stream)
            except BaseException:
                await close_stream(stream)
                raise
        return stream, reader

    async def _greet(self, stream: Stream) -> FrameReader:
        peers = self.peers
        reader = FrameReader()
        for buffer in encode_hello(peers.cluster, peers.node, peers.boot_id):
            await stream.send_all(buffer)
        protocol, cluster, node, boot_id = await receive_hello(stream, reader)
        if cluster != peers.cluster or node != self.peer:
            raise Refused(
                self.peer, f"node {node} of cluster {cluster} answered", unknown=False
            )
        if protocol != PROTOCOL:
            raise Refused(self.peer, f"it speaks protocol {protocol}", unknown=False)
        self.peer_boot_id = boot_id
        return reader

    async def _serve(self, stream: Stream, reader: FrameReader) -> None:
        connection = Connection(stream, self.config, reader=reader)
        self.connection, self.state, self._failures = connection, _State.UP, 0
        self._last_used = trio.current_time()
        log.debug("rpc.link_opened", peer=self.peer, link=self.number)
        early, self._early, self._early_size = self._early, [], 0
        for buffers in early:
            connection.send(buffers)
        self._ready.unpark_all()
        try:
            await connection.run(self._on_frame)
        finally:
            self._down(connection.reason or self.reason)

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind is not RESPONSE and frame.kind is not ERROR:
            raise RemoteProtocolError(f"{frame.kind.name} from a server")
        pending = self._take(frame.call)
        if pending is not None:  # Else its caller has given up.
            trio.lowlevel.reschedule(pending.task, outcome.Value(frame))

    def _down(self, reason: str) -> None:
        """The connection is gone: fail its calls; the next one may connect at once."""
        if self.connection is not None:
            log.info("rpc.link_lost", peer=self.peer, link=self.number, reason=reason)
        self.state, self.reason = _State.DOWN, reason
        self._early, self._early_size = [], 0
        self.fail_calls(reason)
        self.connection = None

    def _pause(self, reason: str) -> None:
        """A connect failed: fail at once what waits, and whatever comes for a while."""
        config = self.config
        pause_ms = min(
            config.backoff_max_ms, config.backoff_min_ms << min(self._failures, 16)
        )
        self._retry_at = (
            trio.current_time() + pause_ms * self.peers.random.uniform(0.5, 1) / 1000
        )
        self._failures += 1
        log.debug("rpc.connect_failed", peer=self.peer, link=self.number, reason=reason)
        self._down(reason)


def _reason_of(problem: Exception) -> str:
    if isinstance(problem, PeerUnavailable):
        return problem.reason
    if isinstance(problem, trio.TooSlowError):
        return "no connection in time"
    return str(problem) or str(problem.__cause__ or "") or type(problem).__name__


async def call_address(
    network: Network,
    address: Address,
    tls: ClientTls,
    method: str,
    value: object = None,
    *,
    payload: Buffer = b"",
    timeout_ms: int,
    cluster: ClusterId | None = None,
    node: NodeId | None = None,
) -> Reply:
    """Make one call over a connection of its own: for joins, before there are `Peers`.

    cluster, node: who we are, where `tls` shows a certificate that says so.
    Raises what the handler raised, or PeerUnavailable.
    """
    sent = False
    try:
        with trio.fail_after(timeout_ms / 1000):
            stream = await network.connect(address, tls=tls)
            try:
                reader = FrameReader()
                for buffer in encode_hello(cluster, node, b""):
                    await stream.send_all(buffer)
                await receive_hello(stream, reader)
                sent = True
                for buffer in encode_request(1, method, timeout_ms, value, payload):
                    await stream.send_all(buffer)
                frame = await _first_answer(stream, reader)
            finally:
                await close_stream(stream)
    except trio.TooSlowError as problem:
        raise DeadlineExceeded(str(address), "no answer in time", unknown=sent) from problem
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as problem:
        raise PeerUnavailable(str(address), _reason_of(problem), unknown=sent) from problem
    return _answer(frame, address)


async def _first_answer(stream: Stream, reader: FrameReader) -> Frame:
    while data := await stream.receive_some(65_536):
        for frame in reader.feed(data):
            if frame.kind in {RESPONSE, ERROR}:
                return frame
    raise trio.BrokenResourceError("closed before the answer")


def _answer(frame: Frame, address: Address) -> Reply:
    _, raw, payload = open_frame(frame, 0)
    try:
        value: Any = codec.value_of(raw)
    except codec.CorruptValue as problem:
        raise RemoteProtocolError(f"{address}: {problem}") from problem
    if frame.kind is RESPONSE:
        return Reply(value, payload)
    if isinstance(value, ObjstoreError):
        raise value
    raise RemoteProtocolError(f"{address}: an error that is none")
