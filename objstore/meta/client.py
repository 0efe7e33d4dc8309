"""The metadata client: any node proposes and asks; it finds the leader.

    slot --layout--> shard --> its leader: this node's replica knows it, a redirect told
                               it, or the shard's voters are asked in turn
                     query --> this node's own replica, if it has one: a follower asks
                               its leader only how far it must have applied

A leader that did not answer lately is asked through another node, which may reach it (F18:
a cut between two nodes, while a third sees both):

    we --x--> leader           we --meta.relay--> another node --> leader

A proposal keeps its request id through all retries, so it applies once (R13), and is
retried until the deadline.  What then is not known to have failed is `unknown`: it may
have happened, or happen yet.

Queries of several slots are split by shard, asked at once, and joined: lists merge into
exact pages, usage is summed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import attrs
import trio

from objstore.buffer import Buffer
from objstore.errors import (
    InvalidRequest,
    NotFound,
    ObjstoreError,
    OutOfSpace,
    Unavailable,
)
from objstore.frozen import frozen
from objstore.host.entropy import Entropy
from objstore.ids import CLUSTER_SHARD, NodeId, RequestId, ShardId, Slot
from objstore.meta import envelope, listing, slots
from objstore.meta import queries as q
from objstore.meta.commands import Command
from objstore.meta.errors import WrongShard
from objstore.meta.server import CHANGES, PROPOSE, QUERY, MetaServer, ProposeCall, QueryCall
from objstore.meta.silence import Silence
from objstore.meta.values import Usage
from objstore.meta.view import ClusterView
from objstore.rpc import codec
from objstore.rpc.call import Call, NoSuchMethod, Reply
from objstore.rpc.client import Peers, time_left_ms
from objstore.rpc.codec import wire
from objstore.rpc.server import RpcServer

T = TypeVar("T")

DEFAULT_TIMEOUT_MS = 10_000
# One attempt: longer than an election, so that a proposal that waits for one is not asked
# for twice; shorter than a request's patience, so that a silent peer does not cost it all.
_ATTEMPT_MS = 3_000
_ALONE_S = 1.0  # A pause of all others is no cut yet.
_FAIR_MS = 1_000  # Who was given less to answer in is not silent yet.
_PAUSE_MIN_S = 0.02
_PAUSE_MAX_S = 0.25
_OTHERS_ASKED = 2  # In each turn, of nodes that are no voters as far as we know.
_LEADERS_KEPT = 4097  # One a shard, at the most shards there can be.

RELAY = "meta.relay"
_RELAYED = {PROPOSE, QUERY}

# (node to ask, through whom, milliseconds) -> its answer
_Attempt = Callable[[NodeId, NodeId | None, int], Awaitable[Any]]


@wire("meta.relay_call")
@frozen
class RelayCall:
    """Make this call for us, with our payload; one hop and no further."""

    to: NodeId
    method: str
    value: object


@attrs.define(eq=False)
class MetaClient:
    """Proposes to and asks any shard of the cluster."""

    server: MetaServer
    view: ClusterView
    peers: Peers
    entropy: Entropy
    # Nodes to ask where no layout is known, or an old one.
    seeds: Callable[[], Sequence[NodeId]] = tuple
    _leaders: dict[ShardId, NodeId] = attrs.field(factory=dict, init=False)
    _silence: Silence = attrs.field(factory=Silence, init=False)

    def __attrs_post_init__(self) -> None:
        self.view.attach(self._pull, self._pull_any)

    def register(self, rpc: RpcServer) -> None:
        rpc.register(RELAY, self._on_relay)

    # ---- proposing --------------------------------------------------------------------

    def propose(
        self, command: Command, *, timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> Awaitable[Any]:
        """Propose until it is answered; the result that the command's docstring names.

        Raises `meta.errors`, OutOfSpace, Unavailable (`unknown` where it may have been
        applied): when it is called, or awaited.  If cancelled, the command may be applied
        all the same.
        """
        request = RequestId(self.entropy.token(envelope.REQUEST_ID_SIZE))
        slot: Slot | None = getattr(command, "slot", None)
        shard = CLUSTER_SHARD if slot is None else self.view.shard_of(slot)
        encoded: bytes | None = None

        def attempt(node: NodeId, via: NodeId | None, attempt_ms: int) -> Awaitable[Any]:
            nonlocal encoded
            if node == self.peers.node:
                return self.server.propose(shard, request, command, timeout_ms=attempt_ms)
            encoded = encoded or codec.encode(command)
            call = ProposeCall(shard, request)
            return self._call(
                node, via, PROPOSE, call, payload=encoded, timeout_ms=attempt_ms
            )

        return self._until_answered(shard, attempt, timeout_ms)

    async def propose_each(
        self, commands: Sequence[Command], *, timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> list[object]:
        """Propose several at once; a result or an error in each one's place.

        If cancelled, any of them may be applied all the same.
        """
        answers: dict[int, object] = {}

        async def propose(number: int, command: Command) -> None:
            try:
                answers[number] = await self.propose(command, timeout_ms=timeout_ms)
            except ObjstoreError as error:
                answers[number] = error

        async with trio.open_nursery() as nursery:
            for number, command in enumerate(commands):
                nursery.start_soon(propose, number, command)
        return [answers[number] for number in range(len(commands))]

    # ---- asking -----------------------------------------------------------------------

    def query(
        self, query: q.Query, *, timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> Awaitable[Any]:
        """Ask, linearizably; the answer that the query's docstring names.

        Raises `meta.errors`, Unavailable: when it is called, or awaited.
        """
        slot: Slot | None = getattr(query, "slot", None)
        if slot is not None:
            return self._ask(self.view.shard_of(slot), query, timeout_ms)
        if isinstance(query, q.ClusterChanges):
            return self._ask(CLUSTER_SHARD, query, timeout_ms)
        if isinstance(query, q.ListKeys):
            return self._list_keys(query, timeout_ms)
        return self._ask_all(query, timeout_ms)

    async def _ask(self, shard: ShardId, query: q.Query, timeout_ms: int) -> Any:
        if self.server.raft.serves_reads(shard):
            began_s = trio.current_time()
            own_ms = min(timeout_ms, _ATTEMPT_MS)
            try:
                return await self.server.query(shard, query, timeout_ms=own_ms)
            except (WrongShard, Unavailable):
                # Its leader is gone, or slow: whoever leads will answer, as for a stranger.
                timeout_ms -= round((trio.current_time() - began_s) * 1000)
        return await self._ask_others(shard, query, timeout_ms)

    async def _ask_others(self, shard: ShardId, query: q.Query, timeout_ms: int) -> Any:
        """Ask the leader, wherever it is."""

        def attempt(node: NodeId, via: NodeId | None, attempt_ms: int) -> Awaitable[Any]:
            if node == self.peers.node:
                return self.server.query(shard, query, timeout_ms=attempt_ms)
            call = QueryCall(shard, query)
            return self._call(node, via, QUERY, call, timeout_ms=attempt_ms)

        return await self._until_answered(shard, attempt, timeout_ms, is_read=True)

    async def _list_keys(self, query: q.ListKeys, timeout_ms: int) -> q.ListAnswer:
        """A full page: of each shard its share, and a second time what that is short of."""
        deadline_s = trio.current_time() + timeout_ms / 1000
        page: listing.Page[bytes] = await self._ask_all(query, timeout_ms, by_share=True)
        names, rows, is_truncated = page.names, page.rows, page.is_truncated
        rest = listing.rest_of(query, page)
        if rest is not None:
            left_ms = max(1, int((deadline_s - trio.current_time()) * 1000))
            more: listing.Page[bytes] = await self._ask_all(rest, left_ms)
            names, rows = [*names, *more.names], [*rows, *more.rows]
            is_truncated = more.is_truncated
        return q.ListAnswer(tuple(names), tuple(rows), is_truncated)

    async def _ask_all(self, query: Any, timeout_ms: int, *, by_share: bool = False) -> Any:
        """Ask every shard that has some of the query's slots, and join the answers.

        by_share: each for no more of a list than it will have (`listing.share_of_shard`).
        """
        split = slots.by_shard(query.slots, self.view.shard_of)
        if len(split) == 1:
            (shard,) = split
            return _join(query, [await self._ask(shard, query, timeout_ms)])
        answers: dict[ShardId, Any] = {}

        async def ask(shard: ShardId, part: Any) -> None:
            answers[shard] = await self._ask(shard, part, timeout_ms)

        try:
            async with trio.open_nursery() as nursery:
                for shard, mine in split.items():
                    part = attrs.evolve(query, slots=mine)
                    if by_share:
                        limit = listing.share_of_shard(query, len(mine))
                        part = attrs.evolve(part, limit=limit)
                    nursery.start_soon(ask, shard, part)
        except* Exception as group:
            raise _first_error(group) from group
        return _join(query, [answers[shard] for shard in split])

    # ---- finding the leader -----------------------------------------------------------

    async def _until_answered(
        self, shard: ShardId, attempt: _Attempt, timeout_ms: int, *, is_read: bool = False
    ) -> Any:
        """Try one node after another until one answers or the deadline is over.

        Sooner where no other voter answers: this node is cut off, and its clients should
        hear so while they have the time to ask another (I5).
        WrongShard says that nothing happened there; Unavailable may leave it unknown.
        """
        began_s = trio.current_time()
        left_ms = timeout_ms
        tried: set[NodeId] = set()
        is_unknown = False
        problem: Unavailable | None = None
        pause_s = _PAUSE_MIN_S
        while left_ms > 0:
            node = self._next_node(shard, tried)
            if node is None:
                if self._is_alone(shard) and trio.current_time() - began_s >= _ALONE_S:
                    break
                tried.clear()
                self._leaders.pop(shard, None)
                jitter = self.entropy.random.uniform(0.5, 1.0)
                await trio.sleep(min(pause_s * jitter, left_ms / 1000))
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)
            else:
                via = self._relay_for(node, shard)
                try:
                    result = await attempt(node, via, min(left_ms, _ATTEMPT_MS))
                except WrongShard as error:
                    tried.add(node)
                    self._note_leader(shard, NodeId(error.leader), tried)
                    problem = error
                except Unavailable as error:
                    tried.add(node)
                    is_unknown |= error.unknown and not is_read
                    problem = error
                    if is_read and self._leaders.get(shard) == node:
                        del self._leaders[shard]  # Perhaps a follower that is cut off.
                except NoSuchMethod as error:  # It is starting, or stopping.
                    tried.add(node)
                    problem = Unavailable(str(error))
                except OutOfSpace as error:
                    if not is_unknown:
                        raise
                    # An earlier attempt may be applied all the same: "no" would be a lie.
                    raise _given_up(shard, Unavailable(str(error)), unknown=True) from error
                else:
                    if is_read:  # Perhaps of a follower, but better than to look each time.
                        self._leaders.setdefault(shard, node)
                    elif self._leaders.get(shard) != node:
                        self._leaders[shard] = node
                    return result
            left_ms = timeout_ms - int((trio.current_time() - began_s) * 1000)
        raise _given_up(shard, problem, unknown=is_unknown) from problem

    def _note_leader(self, shard: ShardId, leader: NodeId, tried: set[NodeId]) -> None:
        """Follow a redirect, unless it leads to where nothing was found."""
        if leader and leader not in tried:
            if len(self._leaders) >= _LEADERS_KEPT:
                self._leaders.clear()
            self._leaders[shard] = leader
        else:
            self._leaders.pop(shard, None)

    def _next_node(self, shard: ShardId, tried: set[NodeId]) -> NodeId | None:
        """Whom to ask next; None where all have been asked."""
        own_word = self.server.raft.leader(shard)
        if own_word is not None and own_word not in tried:
            return own_word
        hint = self._leaders.get(shard)
        if hint is not None and hint not in tried:
            return hint
        now = trio.current_time()
        for node in self._candidates(shard):
            if node not in tried and not self._silence.is_silent(node, now):
                return node
        return None

    def _is_alone(self, shard: ShardId) -> bool:
        """Whether none of the shard's other voters answers: no leader can be had here."""
        others = [n for n in self.view.voters(shard) if n != self.peers.node]
        now = trio.current_time()
        return bool(others) and all(self._silence.is_silent(n, now) for n in others)

    def _candidates(self, shard: ShardId) -> list[NodeId]:
        """The shard's voters; then some of the others, whose layout may be newer."""
        voters = self.view.voters(shard)
        others = [node for node in self.seeds() if node not in voters]
        self.entropy.random.shuffle(others)
        if not voters:
            return others
        first = self.view.preferred_leader(shard)
        return [*sorted(voters, key=lambda node: node != first), *others[:_OTHERS_ASKED]]

    # ---- calling ----------------------------------------------------------------------

    async def _call(
        self,
        node: NodeId,
        via: NodeId | None,
        method: str,
        value: object,
        *,
        payload: Buffer = b"",
        timeout_ms: int,
    ) -> Any:
        """Call another node, through `via` where that is given; its answer's value."""
        if via is not None:
            value, method, node = RelayCall(node, method, value), RELAY, via
        began = trio.current_time()
        try:
            reply = await self.peers.call(
                node, method, value, payload=payload, timeout_ms=timeout_ms
            )
        except ObjstoreError as error:
            if timeout_ms >= _FAIR_MS:
                self._silence.note(node, error, began, trio.current_time())
            raise
        self._silence.forget(node)
        return reply.value

    def _relay_for(self, node: NodeId, shard: ShardId) -> NodeId | None:
        """Who should ask `node` for us; None: we ask it ourselves."""
        if node == self.peers.node or not self._silence:
            return None
        now = trio.current_time()
        if self._silence.may_try(node, now):
            return None
        known = [*self.view.voters(shard), *self.seeds()]
        us = {node, self.peers.node}
        others = [other for other in known if other not in us]
        others = [other for other in others if not self._silence.is_silent(other, now)]
        return self.entropy.random.choice(others) if others else None

    async def _on_relay(self, call: Call) -> Reply:
        """Serve RELAY: call for a node that cannot reach another."""
        asked = call.value
        if not isinstance(asked, RelayCall) or asked.method not in _RELAYED:
            raise InvalidRequest("nothing that is relayed")
        return await self.peers.call(
            asked.to,
            asked.method,
            asked.value,
            payload=call.payload,
            timeout_ms=max(1, time_left_ms(call.deadline)),
        )

    # ---- for the view -----------------------------------------------------------------

    async def _pull(self, query: q.ClusterChanges, timeout_ms: int) -> q.ClusterDelta:
        delta = await self._ask(CLUSTER_SHARD, query, timeout_ms)
        assert isinstance(delta, q.ClusterDelta)
        return delta

    async def _pull_any(self, query: q.ClusterChanges, timeout_ms: int) -> q.ClusterDelta:
        """From any replica, as it is."""
        nodes = [n for n in self._candidates(CLUSTER_SHARD) if n != self.peers.node]
        self.entropy.random.shuffle(nodes)
        problem = Unavailable("nobody else has a replica")
        for node in nodes:
            each_ms = max(1, timeout_ms // len(nodes))
            try:
                reply = await self.peers.call(node, CHANGES, query, timeout_ms=each_ms)
            except (Unavailable, NotFound, NoSuchMethod) as error:
                problem = Unavailable(str(error))
                continue
            assert isinstance(reply.value, q.ClusterDelta)
            return reply.value
        raise problem


def _given_up(shard: ShardId, problem: Unavailable | None, *, unknown: bool) -> Unavailable:
    reason = "no time was left" if problem is None else str(problem)
    return Unavailable(f"shard {shard} did not answer: {reason}", unknown=unknown)


def _first_error(group: BaseExceptionGroup[Exception]) -> Exception:
    """One of several shards' errors: what the asker can act on before what he cannot."""
    errors: list[Exception] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            errors.append(_first_error(error))
        else:
            errors.append(error)
    return min(errors, key=lambda error: isinstance(error, Unavailable))


def _join(query: q.Query, answers: list[Any]) -> Any:
    """Make one answer of those of several shards."""
    match query:
        case q.ListKeys():
            return listing.join_answers(query, answers)
        case q.ListUploads():
            return listing.join_uploads(query, answers)
        case q.GetUsage():
            fields = [attrs.astuple(answer) for answer in answers]
            return Usage(*[sum(column) for column in zip(*fields, strict=True)])
        case q.ListBelow():
            entries = [entry for answer in answers for entry in answer]
            entries.sort(key=lambda entry: entry.cursor)
            return tuple(entries[: query.limit])
        case q.ListReleasedSlots():
            return tuple(slot for answer in answers for slot in answer)
        case _:
            raise AssertionError(f"{type(query).__name__} has one slot")
