"""The server side of metadata: proposals and queries to the groups this node leads.

    meta.propose   ProposeCall --> stamp, level, bounds --> Raft --> the command's result
    meta.query     QueryCall   --> ReadIndex barrier --> applied rows --> the answer
    meta.changes   ClusterChanges, from this node's replica as it is (no barrier)
    meta.chains    the running hash of each replica here, at some indexes (R12)

A node that does not lead the shard answers WrongShard, with a hint.  A worker drains
what is due in the slots of led shards, by PurgeStep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import attrs
import structlog
import trio

from objstore.errors import (
    CorruptData,
    InvalidRequest,
    NotFound,
    ObjstoreError,
    OutOfSpace,
    Unavailable,
)
from objstore.frozen import frozen
from objstore.host.clock import Clock
from objstore.host.entropy import Entropy
from objstore.ids import CLUSTER_SHARD, NodeId, RequestId, ShardId, Slot
from objstore.limits import ENTRY_SIZE_MAX
from objstore.meta import cluster, envelope, reads
from objstore.meta.bounds import check_command, check_query
from objstore.meta.commands import COMMANDS, GROWING, Command, PurgeStep
from objstore.meta.errors import WrongShard
from objstore.meta.queries import QUERIES, ClusterChanges, Query
from objstore.meta.store import MetaStore, ShardMachine
from objstore.meta.view import ClusterView
from objstore.raft.answers import Answer
from objstore.raft.driver import RaftHost
from objstore.raft.errors import NotLeader
from objstore.rpc import codec
from objstore.rpc.call import Call, Reply, Settle
from objstore.rpc.codec import wire
from objstore.rpc.connection import time_left_ms
from objstore.rpc.server import RpcServer

log = structlog.get_logger()

PROPOSE = "meta.propose"
QUERY = "meta.query"
CHANGES = "meta.changes"
CHAINS = "meta.chains"
CLOCK_OFFSET_MAX_MS = 500  # From the voters' median, for a leader's stamps.
# None of them has subclasses.
_COMMANDS, _GROWING = frozenset(COMMANDS), frozenset(GROWING)
_DRAIN_INTERVAL_S = 5.0
_DRAIN_TIMEOUT_S = 10.0  # Then the next round goes on.
_DRAIN_STEPS_MAX = 64  # Of one slot in one round: four thousand rows.


@wire("meta.propose_call")
@frozen
class ProposeCall:
    """The encoded command is the call's payload."""

    shard: ShardId
    request: RequestId


@wire("meta.query_call")
@frozen
class QueryCall:
    shard: ShardId
    query: object


@wire("meta.chain")
@frozen
class Chain:
    """A replica's running hash of changes, at some applied indexes."""

    shard: ShardId
    marks: tuple[tuple[int, bytes], ...]


@attrs.define(eq=False)
class MetaServer:
    """Answers for the shards that this node leads."""

    raft: RaftHost
    store: MetaStore
    view: ClusterView
    clock: Clock
    entropy: Entropy
    # Whether so many of these voters have no room for more metadata that no quorum has.
    is_full: Callable[[Sequence[NodeId]], bool] = lambda _: False

    _store_error: Exception | None = attrs.field(default=None, init=False)
    _store_failed: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.view.follow(self.store.machine(CLUSTER_SHARD))

    def register(self, rpc: RpcServer) -> None:
        rpc.register_begun(PROPOSE, self._begin_propose)
        rpc.register(QUERY, self._on_query)
        rpc.register(CHANGES, self._on_changes)
        rpc.register(CHAINS, self._on_chains)

    # ---- proposals --------------------------------------------------------------------

    async def propose(
        self,
        shard: ShardId,
        request: RequestId,
        command: Command,
        *,
        timeout_ms: int | None = None,
    ) -> Any:
        """Propose to a shard that this node leads; the command's result.

        Raises WrongShard, the errors of the command, Unavailable (`unknown` where it may
        be applied all the same), OutOfSpace.  If cancelled, it may be applied or not.
        """
        encoded = codec.encode(command)
        answer = self._begin(shard, request, command, encoded, timeout_ms)
        try:
            return _value_of(await answer.wait())
        except NotLeader as error:
            raise self._wrong_shard(shard, error) from error

    def _begin(
        self,
        shard: ShardId,
        request: RequestId,
        command: Command,
        encoded: bytes,
        timeout_ms: int | None,
        *,
        is_decoded: bool = False,
    ) -> Answer:
        """Check a command and hand it to Raft; what to wait for.

        is_decoded: it was made of `encoded`, as every replica will make it.
        Raises what `propose` does; its answer may raise NotLeader.
        """
        check_command(command, encoded_size=len(encoded))
        if len(request) != envelope.REQUEST_ID_SIZE:
            raise InvalidRequest("a request id has 16 bytes")
        self._check_shard(shard, getattr(command, "slot", None))
        if type(command) in _GROWING and self.is_full(self.view.voters(shard)):
            raise OutOfSpace(
                f"too many of the nodes that keep shard {shard} have reached their reserve"
            )
        level = envelope.level_of(command)
        if level > self.view.feature_level:
            # Whoever proposes it knows of a level that this node has yet to hear of.
            raise Unavailable(
                f"{type(command).__name__} needs feature level {level},"
                f" the cluster is at {self.view.feature_level}"
            )
        data = envelope.encode(request, self._stamp_ms(shard), encoded, level=level)
        try:
            answer = self.raft.begin_proposal(shard, data, timeout_ms=timeout_ms)
        except NotLeader as error:
            raise self._wrong_shard(shard, error) from error
        if is_decoded:
            self.store.proposed.keep(data, command)
        return answer

    def _stamp_ms(self, shard: ShardId) -> int:
        """Our clock, but never far ahead of most voters' clocks.

        Cluster time only grows: a single stamp of 2099 would let all that expires expire,
        now, and nothing ever again.  A clock that is behind does no harm; either way the
        reconciler hands the group to another.
        """
        stamp_ms = self.clock.utc_now_ms()
        offset_ms = self.raft.clock_offset_ms(shard)
        if offset_ms > CLOCK_OFFSET_MAX_MS:
            stamp_ms -= offset_ms - CLOCK_OFFSET_MAX_MS
        if 0 <= stamp_ms <= envelope.STAMP_MAX_MS:
            return stamp_ms
        return min(max(0, stamp_ms), envelope.STAMP_MAX_MS)

    def _check_shard(self, shard: ShardId, slot: Slot | None) -> None:
        """Refuse a slot that is not the shard's: the asker's layout is another one."""
        if slot is None:
            if shard != CLUSTER_SHARD:
                raise InvalidRequest("a command of the cluster shard names no other")
        elif self.view.shard_of(slot) != shard:
            raise WrongShard(f"slot {slot} is not of shard {shard}")

    def _wrong_shard(self, shard: ShardId, error: NotLeader) -> WrongShard:
        """Who leads instead; else who should, by our layout, where we are no voter.

        The asker's layout may be so old that none of the voters it knows is one.
        """
        leader = error.leader
        if leader is None and self.raft.node not in self.view.voters(shard):
            leader = self.view.preferred_leader(shard)
        return WrongShard(str(error), leader=leader or "")

    def _begin_propose(self, call: Call, settle: Settle) -> None:
        if not isinstance(call.value, ProposeCall):
            raise InvalidRequest("not a proposal")
        if len(call.payload) > ENTRY_SIZE_MAX:
            raise InvalidRequest(f"a command of {len(call.payload)} bytes")
        command = codec.decode(call.payload)
        if type(command) not in _COMMANDS:
            raise InvalidRequest("not a command")
        where = call.value
        known = cast("Command", command)
        encoded = bytes(call.payload)
        timeout_ms = time_left_ms(call.deadline)
        answer = self._begin(
            where.shard, where.request, known, encoded, timeout_ms, is_decoded=True
        )

        def reply(result: Callable[[], object]) -> Reply:
            try:
                return Reply(_value_of(result()))
            except NotLeader as error:
                raise self._wrong_shard(where.shard, error) from error

        answer.then(lambda result: settle(lambda: reply(result)))

    # ---- queries ----------------------------------------------------------------------

    async def query(
        self, shard: ShardId, query: Query, *, timeout_ms: int | None = None
    ) -> Any:
        """Answer from a shard that this node leads or follows, linearizably.

        Raises WrongShard, the errors of the query, Unavailable.
        """
        check_query(query)
        slot: Slot | None = getattr(query, "slot", None)
        if slot is not None:
            self._check_shard(shard, slot)
        else:
            for each in getattr(query, "slots", ()):
                self._check_shard(shard, each)
        try:
            await self.raft.read_barrier(shard, timeout_ms=timeout_ms)
        except NotLeader as error:
            raise self._wrong_shard(shard, error) from error
        try:
            return reads.answer(self.store.machine(shard).rows, query)
        except (CorruptData, OSError) as error:
            raise self._unreadable(error) from error

    async def _on_query(self, call: Call) -> Reply:
        where = call.value
        if not isinstance(where, QueryCall) or not isinstance(where.query, QUERIES):
            raise InvalidRequest("not a query")
        return Reply(await self.query(where.shard, cast("Query", where.query)))

    async def _on_changes(self, call: Call) -> Reply:
        if not isinstance(call.value, ClusterChanges):
            raise InvalidRequest("not a pull")
        if CLUSTER_SHARD not in self.raft.groups():
            raise NotFound("this node has no replica of the cluster shard")
        rows = self.store.machine(CLUSTER_SHARD).rows
        try:
            return Reply(cluster.changes_since(rows, call.value))
        except (CorruptData, OSError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> Unavailable:
        """End this node, whose store cannot be read; whoever asked asks another.

        An answer with the error itself would be everybody's, for as long as we lead.
        """
        if self._store_error is None:
            self._store_error = error
            self._store_failed.set()
        return Unavailable("this node cannot read its metadata")

    # ---- comparing replicas -----------------------------------------------------------

    async def _on_chains(self, call: Call) -> Reply:
        del call
        return Reply(tuple(self.chains()))

    def chains(self) -> Iterable[Chain]:
        """The running hash of each replica here."""
        for shard in map(ShardId, self.raft.groups()):
            yield Chain(shard, tuple(self.store.machine(shard).chain_marks))

    # ---- work in led shards -----------------------------------------------------------

    def _led(self) -> list[ShardMachine]:
        led = [group for group in self.raft.groups() if self.raft.is_leader(group)]
        return [self.store.machine(group) for group in led]

    def slots_below(self) -> list[Slot]:
        """Slots of led shards with chunks that are below promise or displaced."""
        return [s for m in self._led() for s in self.store.slots_below(m.group)]

    def slots_released(self) -> list[Slot]:
        """Slots of led shards with Released rows."""
        return [s for m in self._led() for s in self.store.slots_released(m.group)]

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Drain what is due in led shards, until cancelled.

        Raises CorruptData or OSError where the store turns out to be unreadable.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain_all)
            task_status.started()
            await self._store_failed.wait()
            assert self._store_error is not None
            raise self._store_error

    async def _drain_all(self) -> None:
        while True:
            await trio.sleep(_DRAIN_INTERVAL_S * self.entropy.random.uniform(0.8, 1.2))
            for machine in self._led():
                for slot in machine.slots_due(self.clock.utc_now_ms()):
                    await self._drain(ShardId(machine.group), slot)

    async def _drain(self, shard: ShardId, slot: Slot) -> None:
        for _ in range(_DRAIN_STEPS_MAX):
            request = RequestId(self.entropy.token(envelope.REQUEST_ID_SIZE))
            has_more = False
            try:
                with trio.move_on_after(_DRAIN_TIMEOUT_S):
                    has_more = await self.propose(shard, request, PurgeStep(slot))
            except (Unavailable, OutOfSpace) as error:
                log.debug("meta.drain_postponed", shard=shard, reason=str(error))
            if not has_more:
                return


def _value_of(result: object) -> object:
    """What a command came to; where it was refused, its error is raised."""
    if isinstance(result, ObjstoreError):
        raise result
    return result
