"""The chunk store for peers: the chunks.* calls, and the sessions of their writes.

A session is a `FragmentWriter` under a number that cannot be guessed, bound to the peer
that began it.  It ends with commit or abort; idle for SESSION_IDLE_S it is aborted, as its
writer died or found somebody better.  Their number is bounded; what a session holds in
memory is at most its blocks on their way, which the link bounds, and one last block, which
the store bounds.
"""

from __future__ import annotations

from typing import TypeVar

import attrs
import structlog
import trio

from objstore.chunks import messages as msg
from objstore.chunks.format import is_fragment_id
from objstore.chunks.fragment import NoSuchSession
from objstore.chunks.store import ChunkStore
from objstore.chunks.writer import FragmentWriter
from objstore.errors import InvalidRequest, Unavailable
from objstore.host.entropy import Entropy
from objstore.ids import FragmentId, NodeId
from objstore.limits import WRITE_SESSIONS_MAX
from objstore.rpc.call import Call, Reply
from objstore.rpc.server import RpcServer
from objstore.sums import crc32c

log = structlog.get_logger()

M = TypeVar("M")

SESSION_IDLE_S = 60.0
_SESSION_ID_SIZE = 8


@attrs.define(eq=False)
class _Session:
    writer: FragmentWriter
    peer: NodeId | None
    last_used: float
    calls: int = 0  # In progress.
    is_aborted: bool = False

    async def abort_if_over(self) -> None:
        """Abort once the last call has ended: its block may still be on the way."""
        if self.is_aborted and self.calls == 0:
            with trio.CancelScope(shield=True):
                await self.writer.abort()


class ChunkServer:
    """Answers peers from the local store."""

    def __init__(self, *, store: ChunkStore, entropy: Entropy) -> None:
        self._store = store
        self._entropy = entropy
        self._sessions: dict[int, _Session] = {}

    def register(self, server: RpcServer) -> None:
        """Offer the chunks.* calls on `server`."""
        server.register(msg.PUT, self._put)
        server.register(msg.BEGIN, self._begin)
        server.register(msg.APPEND, self._append)
        server.register(msg.COMMIT, self._commit)
        server.register(msg.ABORT, self._abort)
        server.register(msg.READ, self._read)
        server.register(msg.STAT, self._stat)
        server.register(msg.DELETE, self._delete)
        server.register(msg.RECORD, self._record)
        server.register(msg.DELETE_RECORD, self._delete_record)

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Abort sessions that are idle, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(SESSION_IDLE_S / 4)
            for number, session in list(self._sessions.items()):
                idle_s = trio.current_time() - session.last_used
                if session.calls == 0 and idle_s > SESSION_IDLE_S:
                    self._sessions.pop(number, None)
                    log.info(
                        "chunks.session_expired",
                        peer=session.peer,
                        fragment=str(session.writer.header.fragment),
                    )
                    await session.writer.abort()

    @property
    def session_count(self) -> int:
        return len(self._sessions)

    # ---- writes -----------------------------------------------------------------------

    async def _put(self, call: Call) -> Reply:
        put = _value(call, msg.PutFragment)
        if put.header.block_count > 1:
            raise InvalidRequest("a fragment of several blocks needs a session")
        writer = await self._store.create(put.header, into_reserve=put.into_reserve)
        try:
            if put.header.block_count:
                await writer.append(call.payload, put.crc32c, call.sums)
            await writer.commit()
        except BaseException:
            with trio.CancelScope(shield=True):
                await writer.abort()
            raise
        return Reply()

    async def _begin(self, call: Call) -> Reply:
        begin = _value(call, msg.BeginFragment)
        if len(self._sessions) >= WRITE_SESSIONS_MAX:
            raise Unavailable("too many writes in progress here")
        writer = await self._store.create(begin.header, into_reserve=begin.into_reserve)
        number = int.from_bytes(self._entropy.token(_SESSION_ID_SIZE), "big")
        self._sessions[number] = _Session(writer, call.peer, trio.current_time())
        return Reply(msg.SessionRef(number))

    async def _append(self, call: Call) -> Reply:
        append = _value(call, msg.AppendBlock)
        session = self._session(call, append.session)
        session.calls += 1
        try:
            await session.writer.write_block(
                append.number, call.payload, append.crc32c, call.sums
            )
        finally:
            session.calls -= 1
            session.last_used = trio.current_time()
            await session.abort_if_over()
        return Reply()

    async def _commit(self, call: Call) -> Reply:
        number = _value(call, msg.SessionRef).session
        session = self._session(call, number)
        if session.calls:
            raise InvalidRequest("blocks of this session are still on their way")
        del self._sessions[number]
        try:
            await session.writer.commit()
        except BaseException:
            with trio.CancelScope(shield=True):
                await session.writer.abort()
            raise
        return Reply()

    async def _abort(self, call: Call) -> Reply:
        number = _value(call, msg.SessionRef).session
        session = self._session(call, number)
        del self._sessions[number]
        session.is_aborted = True
        await session.abort_if_over()
        return Reply()

    def _session(self, call: Call, number: int) -> _Session:
        session = self._sessions.get(number)
        if session is None or session.peer != call.peer:
            raise NoSuchSession(f"no write {number:016x} in progress")
        return session

    # ---- reads ------------------------------------------------------------------------

    async def _read(self, call: Call) -> Reply:
        read = _value(call, msg.ReadFragment)
        if not is_fragment_id(read.fragment) or not 0 <= read.offset <= read.end:
            raise InvalidRequest("no fragment id, or a range that runs backwards")
        run = await self._store.read_run(read.fragment, read.offset, read.end)
        blocks = run.blocks
        pieces = tuple((len(block.data), crc32c(block.data)) for block in blocks)
        payload = (
            blocks[0].data if len(blocks) == 1 else b"".join(block.data for block in blocks)
        )
        return Reply(msg.BlockRun(read.offset, pieces, run.block_size), payload)

    async def _stat(self, call: Call) -> Reply:
        stats = await self._store.stat(_fragments(call))
        return Reply(msg.FragmentStats(tuple(stats)))

    async def _delete(self, call: Call) -> Reply:
        await self._store.delete(_fragments(call))
        return Reply()

    async def _record(self, call: Call) -> Reply:
        fragments = _fragments(call)
        if len(fragments) != 1:
            raise InvalidRequest("one fragment a call")
        return Reply(msg.FragmentRecord(fragments[0], self._store.record_of(fragments[0])))

    async def _delete_record(self, call: Call) -> Reply:
        named = _value(call, msg.FragmentRecord)
        if not is_fragment_id(named.fragment) or named.record is None:
            raise InvalidRequest("no fragment id, or no record")
        await self._store.delete_record(named.fragment, named.record)
        return Reply()


def _value(call: Call, kind: type[M]) -> M:
    if not isinstance(call.value, kind):
        raise InvalidRequest(f"{call.method} needs a {kind.__name__}")
    return call.value


def _fragments(call: Call) -> tuple[FragmentId, ...]:
    fragments = _value(call, msg.Fragments).fragments
    if len(fragments) > msg.FRAGMENTS_A_CALL_MAX:
        raise InvalidRequest(f"at most {msg.FRAGMENTS_A_CALL_MAX} fragments a call")
    if not all(is_fragment_id(fragment) for fragment in fragments):
        raise InvalidRequest("no fragment id")
    return fragments
