"""Fragments on any node: the local store directly, others over rpc.

    writer = await client.create(node, header)      async for block in client.read(...):
    await writer.append(block) ...                       read-ahead of two runs, blocks
        two blocks on their way                          verified here again
    await writer.commit()

A fragment of one block is one call to a peer, made by `commit`.  Work that overlaps with
its caller (blocks on their way, read-ahead) runs in tasks of the client's own nursery, so a
caller that is cancelled or gives up is free at once, even where a local drive hangs in a
write that nobody can interrupt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Generic, Protocol, TypeVar

import structlog
import trio

from objstore.buffer import Buffer
from objstore.chunks import messages as msg
from objstore.chunks.fragment import Block, FragmentHeader, FragmentStat, RecordRef
from objstore.chunks.store import BegunRun, ChunkStore, Run
from objstore.chunks.writer import FragmentWriter
from objstore.errors import CorruptData, ObjstoreError, RemoteProtocolError, Unavailable
from objstore.ids import FragmentId, NodeId
from objstore.rpc.call import Reply
from objstore.sums import Sums
from objstore.sums import crc32c as checksum

log = structlog.get_logger()

T = TypeVar("T")
M = TypeVar("M")

# Blocks on their way at once: while one is written at the other end the next one travels.
APPENDS_IN_FLIGHT = 2
READS_AHEAD = 2
# A call that takes longer than this has failed.  Whoever wants a faster answer asks
# somebody else meanwhile (objects.scatter, objects.gather).
CALL_TIMEOUT_MS = 30_000


class DamagedOnTheWay(CorruptData):
    """A block does not have the checksum that its sender named."""


class Caller(Protocol):
    """What is needed of `rpc.client.Peers`."""

    async def call(
        self,
        to: NodeId,
        method: str,
        value: object = None,
        *,
        payload: Buffer = b"",
        timeout_ms: int,
        bulk: bool = False,
    ) -> Reply: ...


class _Task(Generic[T]):
    """Work in the client's nursery, whose result somebody waits for."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work: Callable[[], Awaitable[T]] | None = work
        self._done = trio.Event()
        self._scope = trio.CancelScope()
        self._value: T
        self._error: Exception | None = Unavailable("this node is stopping", unknown=True)

    async def run(self) -> None:
        work, self._work = self._work, None  # It may hold a block: not for longer.
        assert work is not None
        try:
            with self._scope:
                try:
                    self._value = await work()
                    self._error = None
                except Exception as error:
                    self._error = error
        finally:
            self._done.set()

    async def result(self) -> T:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value

    async def ended(self) -> None:
        await self._done.wait()

    def cancel(self) -> None:
        self._scope.cancel()


class ChunkClient:
    """Fragments of the whole cluster, as seen from `node`."""

    def __init__(self, *, node: NodeId, local: ChunkStore, peers: Caller) -> None:
        self.node = node
        self.local = local
        self._peers = peers
        self._nursery: trio.Nursery | None = None

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Carry the tasks of writers and readers, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                # Before it closes: one that is closed takes no work, and says so badly.
                self._nursery = None

    def start(self, work: Callable[[], Awaitable[T]]) -> _Task[T]:
        """Run `work` in the client's nursery.  Raises Unavailable where it has ended."""
        if self._nursery is None:
            raise Unavailable("this node is starting or stopping")
        task = _Task(work)
        self._nursery.start_soon(task.run)
        return task

    async def call(
        self, node: NodeId, method: str, value: object, payload: Buffer = b""
    ) -> Reply:
        return await self._peers.call(
            node, method, value, payload=payload, timeout_ms=CALL_TIMEOUT_MS, bulk=True
        )

    # ---- fragments --------------------------------------------------------------------

    async def create(
        self, node: NodeId, header: FragmentHeader, *, into_reserve: bool = False
    ) -> ChunkWriter:
        """Begin to write a fragment on `node`.

        into_reserve: half of the reserve of the node's drives may be used: for repair.
        Raises OutOfSpace, Unavailable.  A peer is asked only by `commit` where the
        fragment has but one block.  If cancelled, nothing is left that does not end by
        itself.
        """
        if node == self.node:
            return await self._create_local(header, into_reserve=into_reserve)
        if header.block_count <= 1:
            return _SmallRemoteWriter(self, node, header, into_reserve=into_reserve)
        reply = await self.call(node, msg.BEGIN, msg.BeginFragment(header, into_reserve))
        session = _value_of(node, reply, msg.SessionRef).session
        return _RemoteWriter(self, node, header, session)

    async def _create_local(
        self, header: FragmentHeader, *, into_reserve: bool
    ) -> ChunkWriter:
        now = self.local.create_now(header, into_reserve=into_reserve)
        if now is not None:
            return _LocalWriter(self, header, now)
        task = self.start(lambda: self.local.create(header, into_reserve=into_reserve))
        try:
            writer = await task.result()
        except trio.Cancelled:
            self.start(lambda: _abort_when_there(task))
            raise
        return _LocalWriter(self, header, writer)

    def read(
        self, node: NodeId, fragment: FragmentId, offset: int, size: int
    ) -> BlockStream:
        """The verified blocks of a range, in order, cut to the range at both ends.

        For `async for`; `close` it where it is not exhausted.  A step raises
        NoSuchFragment, CorruptFragment, Unavailable; a fragment that ends before the
        range does raises CorruptData.
        """
        return BlockStream(self, node, fragment, offset, offset + size)

    async def delete(self, node: NodeId, fragments: Iterable[FragmentId]) -> None:
        """Delete fragments, durably.  Absent ones are no error.  If cancelled, do again."""
        if node == self.node:
            await self.local.delete(fragments)
            return
        for batch in _batches(fragments):
            await self.call(node, msg.DELETE, msg.Fragments(batch))

    async def record_of(self, node: NodeId, fragment: FragmentId) -> RecordRef | None:
        """Where `node` has a fragment now, sound or not; None where it has it not."""
        if node == self.node:
            return self.local.record_of(fragment)
        reply = await self.call(node, msg.RECORD, msg.Fragments((fragment,)))
        return _value_of(node, reply, msg.FragmentRecord).record

    async def delete_record(
        self, node: NodeId, fragment: FragmentId, record: RecordRef
    ) -> None:
        """Delete a fragment, durably, if it lies on `node` in `record` still."""
        if node == self.node:
            await self.local.delete_record(fragment, record)
        else:
            await self.call(node, msg.DELETE_RECORD, msg.FragmentRecord(fragment, record))

    async def stat(
        self, node: NodeId, fragments: Sequence[FragmentId]
    ) -> list[FragmentStat | None]:
        """What `node` knows of each; None where it has it not, or not sound."""
        if node == self.node:
            return await self.local.stat(fragments)
        stats: list[FragmentStat | None] = []
        for batch in _batches(fragments):
            reply = await self.call(node, msg.STAT, msg.Fragments(batch))
            found = _value_of(node, reply, msg.FragmentStats).stats
            if len(found) != len(batch):
                raise RemoteProtocolError(f"node {node}: an answer of the wrong length")
            stats += found
        return stats

    def begin_run(
        self, node: NodeId, fragment: FragmentId, offset: int, end: int
    ) -> Run | BegunRun | None:
        """Begin one step of a read here; None: `read_run` is to be asked, in a task."""
        return self.local.begin_run(fragment, offset, end) if node == self.node else None

    async def read_run(
        self, node: NodeId, fragment: FragmentId, offset: int, end: int
    ) -> Run:
        """One step of a read that `begin_run` could not begin."""
        if node == self.node:
            return await self.local.read_run(fragment, offset, end, on_thread=True)
        request = msg.ReadFragment(fragment, offset, end)
        reply = await self.call(node, msg.READ, request)
        run = _value_of(node, reply, msg.BlockRun)
        blocks = _verified(node, run, memoryview(reply.payload), reply.sums)
        return Run(blocks, run.block_size)


def _verified(
    node: NodeId, run: msg.BlockRun, payload: memoryview, sums: Sums | None
) -> list[Block]:
    """The blocks of an answer.  Raises DamagedOnTheWay, RemoteProtocolError."""
    blocks = []
    start = 0
    for size, crc in run.pieces:
        data = payload[start : start + size]
        if size <= 0 or len(data) != size:
            raise RemoteProtocolError(f"node {node}: a run of blocks does not add up")
        found = None if sums is None else sums.crc32c_of(start, start + size)
        if (checksum(data) if found is None else found) != crc:
            raise DamagedOnTheWay(f"a block from node {node} was damaged on its way")
        blocks.append(Block(run.offset + start, data, crc))
        start += size
    if start != len(payload) or run.block_size <= 0:
        raise RemoteProtocolError(f"node {node}: a run of blocks does not add up")
    return blocks


def _batches(fragments: Iterable[FragmentId]) -> Iterable[tuple[FragmentId, ...]]:
    left = iter(fragments)
    while batch := tuple(islice(left, msg.FRAGMENTS_A_CALL_MAX)):
        yield batch


def _value_of(node: NodeId, reply: Reply, kind: type[M]) -> M:
    if not isinstance(reply.value, kind):
        raise RemoteProtocolError(f"node {node}: an answer that is no {kind.__name__}")
    return reply.value


# ---- writers --------------------------------------------------------------------------


class ChunkWriter(Protocol):
    """One fragment on its way to a node.  Ends with `commit` or `abort`, always."""

    header: FragmentHeader

    async def append(
        self, data: Buffer, crc32c: int | None = None, sums: Sums | None = None
    ) -> None:
        """Send the next block: `block_size` bytes, the last one what remains.

        Returns when there is room for the next; an error may be that of an earlier block.
        data: must not change until the writer has ended.
        crc32c: of `data` as its sender made it: an error where it is not so any more.
        sums: those of `data`, where the caller has them.
        If cancelled, only `abort` is left.
        """
        ...

    async def commit(self) -> None:
        """Make the fragment durable and visible there.

        If cancelled or lost on the way, it may be there all the same.
        """
        ...

    async def abort(self) -> None:
        """Give the fragment up; never raises for it.  Does nothing after a commit."""
        ...


def _crc32c_of(data: Buffer, crc: int | None, sums: Sums | None) -> int:
    if crc is not None:
        return crc
    return checksum(data) if sums is None else sums.crc32c


class _SmallRemoteWriter:
    """A fragment of one block (or none): one call."""

    def __init__(
        self,
        client: ChunkClient,
        node: NodeId,
        header: FragmentHeader,
        *,
        into_reserve: bool,
    ) -> None:
        self.header = header
        self._client = client
        self._node = node
        self._into_reserve = into_reserve
        self._data: Buffer = b""
        self._crc = 0

    async def append(
        self, data: Buffer, crc32c: int | None = None, sums: Sums | None = None
    ) -> None:
        assert not self._data
        self._data = data  # It goes with the commit, so there is nothing to wait for.
        self._crc = _crc32c_of(data, crc32c, sums)

    async def commit(self) -> None:
        put = msg.PutFragment(self.header, self._crc, self._into_reserve)
        await self._client.call(self._node, msg.PUT, put, self._data)

    async def abort(self) -> None:
        self._data = b""
        await trio.lowlevel.checkpoint()


class _Pipelined:
    """What writers of several blocks share: blocks on their way, in tasks that stay.

    A task for each block was a sixteenth of all that Python did for it.
    """

    def __init__(self, client: ChunkClient, header: FragmentHeader) -> None:
        self.header = header
        self._client = client
        self._room = trio.Semaphore(APPENDS_IN_FLIGHT)
        # Blocks that no task has taken yet, as `_send` wants them.
        self._given: deque[tuple[int, Buffer, int | None, Sums | None]] = deque()
        self._tasks: list[_Task[None]] = []
        self._tasks_count = 0  # Of them, those that have not ended.
        self._idle = trio.lowlevel.ParkingLot()
        self._error: Exception | None = None
        self._next = 0
        self._is_whole = False  # Nothing will be given any more.
        self._is_done = False

    async def _send(
        self, number: int, data: Buffer, crc: int | None, sums: Sums | None
    ) -> None:
        raise NotImplementedError

    async def append(
        self, data: Buffer, crc32c: int | None = None, sums: Sums | None = None
    ) -> None:
        number, self._next = self._next, self._next + 1
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            await self._room.acquire()
        if self._error is not None:
            self._room.release()
            raise self._error
        if self._idle:
            self._idle.unpark()
        elif self._tasks_count < APPENDS_IN_FLIGHT:
            self._tasks.append(self._client.start(self._work))
            self._tasks_count += 1
        # Else a task is about to look for more (were all at work, there would be no room),
        # or to end, as the node is stopping.
        self._given.append((number, data, crc32c, sums))

    async def _work(self) -> None:
        """Send what is given, until nothing will be any more."""
        try:
            while True:
                if self._given:
                    await self._send_one(*self._given.popleft())
                elif self._is_whole:
                    return
                else:
                    await self._idle.park()
        finally:
            self._tasks_count -= 1
            if not self._tasks_count:  # Where it was cut off: nobody will take the rest.
                while self._given:
                    self._given.popleft()
                    self._room.release()

    async def _send_one(
        self, number: int, data: Buffer, crc: int | None, sums: Sums | None
    ) -> None:
        try:
            await self._send(number, data, crc, sums)
        except Exception as error:
            self._error = self._error or error
        finally:
            self._room.release()

    async def _all_sent(self) -> None:
        self._is_whole = True
        self._idle.unpark_all()
        for task in self._tasks:
            await task.ended()
        if self._error is not None:
            raise self._error

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()


class _RemoteWriter(_Pipelined):
    """A fragment of several blocks: a session on a peer."""

    def __init__(
        self, client: ChunkClient, node: NodeId, header: FragmentHeader, session: int
    ) -> None:
        super().__init__(client, header)
        self._node = node
        self._session = session

    async def _send(
        self, number: int, data: Buffer, crc: int | None, sums: Sums | None
    ) -> None:
        append = msg.AppendBlock(self._session, number, _crc32c_of(data, crc, sums))
        await self._client.call(self._node, msg.APPEND, append, data)

    async def commit(self) -> None:
        await self._all_sent()
        await self._client.call(self._node, msg.COMMIT, msg.SessionRef(self._session))
        self._is_done = True

    async def abort(self) -> None:
        if self._is_done:
            return
        self._is_done = True
        self._cancel_tasks()
        try:
            self._client.start(self._abort)
        except Unavailable:
            return  # Our end is the session's end: it expires.

    async def _abort(self) -> None:
        try:
            await self._client.call(self._node, msg.ABORT, msg.SessionRef(self._session))
        except ObjstoreError as error:
            log.debug("chunks.abort_failed", peer=self._node, reason=str(error))


class _LocalWriter(_Pipelined):
    """A fragment for this node's own drives."""

    def __init__(
        self, client: ChunkClient, header: FragmentHeader, writer: FragmentWriter
    ) -> None:
        super().__init__(client, header)
        self._writer = writer

    async def append(
        self, data: Buffer, crc32c: int | None = None, sums: Sums | None = None
    ) -> None:
        if self._next == self.header.block_count - 1:
            # The last block waits for the commit mostly: no task is needed for that.
            self._next += 1
            last = self.header.block_count - 1
            await self._writer.write_block(last, data, crc32c, sums)
        else:
            await super().append(data, crc32c, sums)

    async def _send(
        self, number: int, data: Buffer, crc: int | None, sums: Sums | None
    ) -> None:
        await self._writer.write_block(number, data, crc, sums)

    async def commit(self) -> None:
        await self._all_sent()
        await self._writer.commit()
        self._is_done = True

    async def abort(self) -> None:
        if self._is_done:
            return
        self._is_done = True
        self._cancel_tasks()
        try:
            self._client.start(self._abort)
        except Unavailable:
            return  # The store is stopping too; what has no trailer is dead.

    async def _abort(self) -> None:
        for task in self._tasks:
            await task.ended()
        await self._writer.abort()


async def _abort_when_there(task: _Task[FragmentWriter]) -> None:
    try:
        writer = await task.result()
    except Exception:
        return
    await writer.abort()


# ---- reader ---------------------------------------------------------------------------


class _Asked:
    """A run asked for: begun, in a task, or there already."""

    __slots__ = ("_begun", "_end", "_run", "_start", "_stream", "_task")

    def __init__(self, stream: BlockStream, start: int, end: int) -> None:
        self._stream, self._start, self._end = stream, start, end
        self._run: Run | None = None
        self._begun: BegunRun | None = None
        self._task: _Task[Run] | None = None
        begun = stream.client.begin_run(stream.node, stream.fragment, start, end)
        if begun is None:
            self._start_task()
        elif isinstance(begun, BegunRun):
            self._begun = begun
        else:
            self._run = begun

    @property
    def is_done(self) -> bool:
        """Whether `result` returns without waiting: what was read has come, and is good."""
        if self._run is None and self._begun is not None:
            self._run = self._begun.now()
        return self._run is not None

    async def result(self) -> Run:
        """The run.  If cancelled, it may be waited for again."""
        if self._run is not None:
            return self._run
        if self._begun is not None:
            self._run = await self._begun.wait()
            if self._run is not None:
                return self._run
            self._begun = None
            self._start_task()
        assert self._task is not None
        return await self._task.result()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _start_task(self) -> None:
        stream, start, end = self._stream, self._start, self._end
        self._task = stream.client.start(
            lambda: stream.client.read_run(stream.node, stream.fragment, start, end)
        )


class BlockStream:
    """Blocks of one range of one fragment of one node.

    The first step asks for one run, which tells the size of blocks; from then on up to
    READS_AHEAD runs are under way, read by the system or in the client's tasks.  A step
    that is cancelled loses nothing: the next step waits for the same run.
    """

    def __init__(
        self, client: ChunkClient, node: NodeId, fragment: FragmentId, offset: int, end: int
    ) -> None:
        assert 0 <= offset <= end
        self.node = node
        self.fragment = fragment
        self.client = client
        self._position = offset  # Of the next block to give.
        self._next = offset  # Where the runs asked for end.
        self._end = end
        self._run_size = 0  # Known after the first run.
        self._asked: deque[_Asked] = deque()
        self._blocks: deque[Block] = deque()

    def __aiter__(self) -> AsyncIterator[Block]:
        return self

    async def __anext__(self) -> Block:
        if self._position >= self._end:
            raise StopAsyncIteration
        while not self._blocks:
            if not self._asked:
                self._ask(self._end)
            run = await self._asked[0].result()
            self._asked.popleft()
            self._take(run)
        block = self._blocks.popleft()
        self._position += len(block.data)
        return block

    @property
    def is_ready(self) -> bool:
        """Whether the next step needs no waiting; asks for its run."""
        if not self._asked and not self._blocks and self._position < self._end:
            self._ask(self._end)
        return bool(self._blocks) or not self._asked or self._asked[0].is_done

    def close(self) -> None:
        """Stop what is under way.  The stream ends."""
        self._end = self._position
        for asked in self._asked:
            asked.cancel()
        self._asked.clear()
        self._blocks.clear()

    def _ask(self, end: int) -> None:
        start, self._next = self._next, min(end, self._end)
        self._asked.append(_Asked(self, start, self._next))

    def _take(self, run: Run) -> None:
        expected = self._position + sum(len(block.data) for block in self._blocks)
        for block in run.blocks:
            if block.offset != expected:
                raise CorruptData(f"node {self.node}: a block of another place came")
            expected += len(block.data)
        if not run.blocks or expected > self._end:
            raise CorruptData(
                f"fragment {self.fragment} of node {self.node} ends at {expected}, before"
                f" {self._end}"
            )
        self._blocks.extend(run.blocks)
        if self._run_size == 0:
            self._run_size = _run_size(run.block_size)
            self._next = expected  # The first run was asked for without a size.
        elif not self._asked and expected < self._next:
            self._next = expected  # It gave less than asked for, and nothing follows.
        while self._next < self._end and len(self._asked) < READS_AHEAD:
            self._ask(self._next - self._next % run.block_size + self._run_size)


def _run_size(block_size: int) -> int:
    """How much one call asks for: whole blocks, about BLOCK_SIZE."""
    return max(1, msg.RUN_SIZE // block_size) * block_size
