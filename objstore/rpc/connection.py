"""A connection: one stream, its frames in, its joined sends out; and the deadline alarm.

Both ends use it: `client` for links it opened, `server` for those it accepted.  What many
tasks queue in one pass of the loop goes at its end, as one piece: it costs one send (SPEED
3).  A writer task sends what is too much for that, what the stream does not take at once,
and all of it where the stream knows of no end of a pass.  What is one piece already, as
Raft's messages of a pass, goes at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Generic

import trio

from objstore.buffer import Buffer
from objstore.errors import ProtocolError, RemoteProtocolError
from objstore.host.network import Stream
from objstore.ids import ClusterId, NodeId
from objstore.rpc import codec
from objstore.rpc.call import PROTOCOL, Refused
from objstore.rpc.config import RpcConfig
from objstore.rpc.deadlines import Deadlines, K
from objstore.rpc.frames import (
    ANSWER,
    ERROR,
    PING,
    Frame,
    FrameReader,
    Kind,
    encode_bare,
    encode_frame,
    open_frame,
)
from objstore.units import KiB

# Up to so much is sent without the writer: a few messages of Raft with small objects.
_AT_ONCE_SIZE_MAX = 64 * KiB
# Buffers up to this size are joined into one send; larger ones go as they are, since
# copying a block costs more than a send.
_JOIN_SIZE_MAX = 64 * KiB
_TIMEOUT_MS_MAX = 3_600_000
# How many that wait for room go on for each piece sent: were it all, they would fill the
# queue many times over, as each looks before any has queued.
_WAKE_COUNT = 4


class Connection:
    """One stream after its hello.

    `run` serves it until the end; `send` may be called from any task meanwhile.
    """

    def __init__(self, stream: Stream, config: RpcConfig, *, reader: FrameReader) -> None:
        self.stream = stream
        self.reader = reader  # The one that read the hello.
        self.last_received = trio.current_time()
        self.queue_size = 0  # Bytes queued and not yet taken by the stream.
        self.queued_count = 0  # Frames ever queued.
        self.sent_count = 0  # Frames that may have left.  Invariant: <= queued_count.
        self.reason = ""  # Why it ended, once it did.
        self._queue_size_max = config.queue_size_max
        self._queue: list[Buffer] = []
        self._writer: trio.lowlevel.Task | None = None  # Set while it waits for work.
        self._is_writing = False  # The writer is in the midst of a send.
        self._at_pass_end = stream.at_pass_end()
        self._is_due = False  # At the end of this pass of the loop, all is sent.
        self._room = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()

    async def run(self, on_frame: Callable[[Frame], None]) -> str:
        """Serve until either end closes or fails; return the reason.

        `on_frame` runs in the receive loop: it must be quick; RemoteProtocolError from it
        ends the connection.  Closes the stream, also when cancelled.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                if self.reason:  # Closed before it began.
                    self._scope.cancel()
                nursery.start_soon(self._write)
                await self._receive(on_frame)
                nursery.cancel_scope.cancel()
        finally:
            self.close(self.reason or "stopped")
            await close_stream(self.stream)
        return self.reason

    def send(self, buffers: list[Buffer], *, at_once: bool = False) -> None:
        """Queue one frame.  Never waits; callers bound what they queue by `queue_size`.

        at_once: nothing will come in this pass of the loop that it should be joined with.
        """
        self._queue.extend(buffers)
        self.queue_size += sum(map(len, buffers))
        self.queued_count += 1
        if at_once and self._send_at_once():
            return
        if at_once or self.queue_size > _AT_ONCE_SIZE_MAX or self._at_pass_end is None:
            self._wake_writer()
        elif not self._is_due:
            self._is_due = True
            self._at_pass_end(self._send_what_is_due)

    def _send_what_is_due(self) -> None:
        """Send what was queued in this pass of the loop."""
        self._is_due = False
        # Where the writer was woken or is at work it takes the rest.
        if self._queue and not self._send_at_once() and self._writer is not None:
            trio.lowlevel.current_trio_token().run_sync_soon(self._wake_writer)

    def _wake_writer(self) -> None:
        if self._writer is not None:
            trio.lowlevel.reschedule(self._writer)
            self._writer = None

    def _send_at_once(self) -> bool:
        """Send all that is queued, if that is little and the stream takes it whole."""
        if self._is_writing or self.queue_size > _AT_ONCE_SIZE_MAX or self.reason:
            return False
        data = b"".join(self._queue)
        self.sent_count = self.queued_count
        if not self.stream.try_send(data):
            self._queue = [data]  # As the stream demands: some of it may have left.
            return False
        self._queue = []
        self.queue_size = 0
        return True

    @property
    def is_full(self) -> bool:
        return self.queue_size > self._queue_size_max

    async def room(self) -> None:
        """Wait until the queue has room again, or the connection has ended."""
        if self.reason:
            await trio.lowlevel.checkpoint()
        while self.is_full and not self.reason:
            await self._room.park()

    def close(self, reason: str) -> None:
        """End it; `run` returns soon."""
        self.reason = self.reason or reason
        self._scope.cancel()
        self._room.unpark_all()

    async def _receive(self, on_frame: Callable[[Frame], None]) -> None:
        take = partial(self._take, on_frame)
        try:
            while not self.reason:
                if (room := self.reader.room) is None:
                    await self.stream.receive_each(take)
                elif size := await self.stream.receive_into(room):
                    self._hand_over(self.reader.filled(size), on_frame)
                else:
                    self.close("closed by the peer")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            self.close(str(problem.__cause__ or problem) or "connection lost")
        except ProtocolError as problem:
            self.close(f"protocol error: {problem}")

    def _take(self, on_frame: Callable[[Frame], None], data: bytes) -> bool:
        """Hand over the frames that `data` completes; False: no more of it, as yet."""
        if not data:
            self.close("closed by the peer")
            return False
        self._hand_over(self.reader.feed(data), on_frame)
        return self.reader.room is None and not self.reason

    def _hand_over(self, frames: list[Frame], on_frame: Callable[[Frame], None]) -> None:
        self.last_received = trio.current_time()
        for frame in frames:
            if frame.kind is PING:
                self._on_ping(frame)
            else:
                on_frame(frame)

    def _on_ping(self, frame: Frame) -> None:
        if not frame.flags & ANSWER and not self.is_full:
            self.send([encode_bare(PING, call=frame.call, flags=ANSWER)])

    async def _write(self) -> None:
        try:
            while True:
                if not self._queue:
                    await self._wait_for_work()
                    continue
                queue, self._queue = self._queue, []
                self.sent_count = self.queued_count
                self._is_writing = True
                await self._send_joined(queue)
                self._is_writing = False
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            self.close(str(problem.__cause__ or problem) or "connection lost")

    async def _wait_for_work(self) -> None:
        if self._room:  # Some are still parked: let them queue, a few in a pass.
            self._room.unpark(count=_WAKE_COUNT)
            await trio.lowlevel.checkpoint()
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _send_joined(self, queue: list[Buffer]) -> None:
        for piece in joined(queue):
            await self.stream.send_all(piece)
            self.queue_size -= len(piece)
            if self._room and not self.is_full:
                self._room.unpark(count=_WAKE_COUNT)


async def close_stream(stream: Stream) -> None:
    """Close at once, also where the caller is cancelled."""
    with trio.move_on_after(1, shield=True):
        await stream.aclose()


def joined(buffers: list[Buffer]) -> list[Buffer]:
    """The same bytes in few pieces: small buffers joined, large ones as they are.

    But for the beginning of a large one behind a small one: a frame's head that went alone
    would wake its receiver for nothing.
    """
    if len(buffers) == 1:
        return buffers
    pieces: list[Buffer] = []
    run: list[Buffer] = []
    run_size = 0
    for whole in buffers:
        buffer, size = whole, len(whole)
        if run and size > _JOIN_SIZE_MAX > run_size:
            view = memoryview(buffer)
            begin = _JOIN_SIZE_MAX - run_size
            pieces.append(b"".join((*run, view[:begin])))
            run, run_size = [], 0
            buffer, size = view[begin:], size - begin
        elif run and run_size + size > _JOIN_SIZE_MAX:
            pieces.append(b"".join(run) if len(run) > 1 else run[0])
            run, run_size = [], 0
        run.append(buffer)
        run_size += size
    if run:
        pieces.append(b"".join(run) if len(run) > 1 else run[0])
    return pieces


class Alarm(Generic[K]):
    """Calls back for each deadline that passes: one task for all of them."""

    def __init__(self) -> None:
        self._deadlines: Deadlines[K] = Deadlines()
        self._scope = trio.CancelScope()

    def add(self, deadline: float, key: K) -> int:
        """`deadline` is in seconds of trio's clock.  Returns what `discard` needs."""
        bucket = self._deadlines.add(math.ceil(deadline * 1000), key)
        if self._scope.deadline > deadline:
            self._scope.deadline = (self._deadlines.next_ms() or 0) / 1000
        return bucket

    def discard(self, bucket: int, key: K) -> None:
        self._deadlines.discard(bucket, key)

    async def run(self, on_expired: Callable[[K], None]) -> None:
        """Serve until cancelled."""
        while True:
            next_ms = self._deadlines.next_ms()
            deadline = math.inf if next_ms is None else next_ms / 1000
            self._scope = trio.CancelScope(deadline=deadline)
            with self._scope:
                await trio.sleep_forever()
            # Rounded and not cut off: 16.08 s are 16,079.9 ms to a float, and nothing
            # would be due in the moment that was waited for.
            for key in self._deadlines.expired(round(trio.current_time() * 1000)):
                on_expired(key)


def time_left_ms(deadline: float) -> int:
    """Milliseconds until `deadline` (trio's clock), at least 0."""
    if deadline == math.inf:
        return _TIMEOUT_MS_MAX
    return min(_TIMEOUT_MS_MAX, max(0, int((deadline - trio.current_time()) * 1000)))


def deadline_after(timeout_ms: int) -> float:
    """The deadline on trio's clock; what a peer asks for is bounded to an hour."""
    timeout_ms = min(timeout_ms, _TIMEOUT_MS_MAX)
    return trio.current_time() + timeout_ms / 1000


# Hello.


def encode_hello(
    cluster: ClusterId | None, node: NodeId | None, boot_id: bytes
) -> list[Buffer]:
    return encode_frame(Kind.HELLO, parts=(PROTOCOL, cluster, node, boot_id))


async def receive_hello(
    stream: Stream, reader: FrameReader
) -> tuple[int, ClusterId | None, NodeId | None, bytes]:
    """Read the peer's hello: protocol, cluster, node, boot id.

    The peer waits for ours or for our answer, so nothing may follow in the same read.
    Raises Refused where it refuses us, RemoteProtocolError, trio.BrokenResourceError.
    """
    while True:
        data = await stream.receive_some(4 * KiB)
        if not data:
            raise trio.BrokenResourceError("closed before hello")
        frames = reader.feed(data)
        if frames:
            break
    if len(frames) > 1 or reader.buffered_size:
        raise RemoteProtocolError("bytes after hello")
    return _open_hello(frames[0])


def _open_hello(frame: Frame) -> tuple[int, ClusterId | None, NodeId | None, bytes]:
    if frame.kind is ERROR:
        _, raw, _ = open_frame(frame, 0)
        raise _refusal(raw)
    if frame.kind is not Kind.HELLO:
        raise RemoteProtocolError(f"{frame.kind.name} before hello")
    (protocol, cluster, node, boot_id), _, _ = open_frame(frame, 4)
    if (
        type(protocol) is not int
        or not isinstance(cluster, str | None)
        or not isinstance(node, str | None)
        or type(boot_id) is not bytes
    ):
        raise RemoteProtocolError("a hello with wrong fields")
    return (
        protocol,
        None if cluster is None else ClusterId(cluster),
        None if node is None else NodeId(node),
        boot_id,
    )


def _refusal(raw: object) -> Exception:
    try:
        error = codec.value_of(raw)
    except codec.CorruptValue as problem:
        return RemoteProtocolError(f"error before hello: {problem}")
    if isinstance(error, Refused):
        return error
    return RemoteProtocolError("an error before hello that is no refusal")
