"""A cluster of real Raft groups and metadata servers, in one process, without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from objstore.config import RaftConfig
from objstore.errors import ObjstoreError
from objstore.ids import NodeId
from objstore.meta.client import MetaClient
from objstore.meta.commands import FoundCluster
from objstore.meta.reconcile import Reconciler
from objstore.meta.server import MetaServer
from objstore.meta.store import MetaStore
from objstore.meta.values import AccessKey
from objstore.meta.view import ClusterView
from objstore.raft.driver import RaftHost
from objstore.raft.wal import Wal
from objstore.ring.layout import Layout, Member, encode, found
from objstore.rpc import codec
from objstore.rpc.call import Beginner, Call, PeerUnavailable, Reply
from objstore.rpc.server import await_begun
from objstore.testing.host import SimulatedWorld
from objstore.units import MiB

ROOT = AccessKey("ROOT", "secret", "root", "0" * 64, is_root=True, created_ms=0)
SHARDS = 3
GRACE_MS = 20_000


def node_id(number: int) -> NodeId:
    return NodeId(f"{number:016x}")


class Wire:
    """What one node sees of the others: calls and Raft payloads, or nothing when cut."""

    def __init__(self, cluster: Cluster, node: NodeId) -> None:
        self.cluster = cluster
        self.node = node
        self.handlers: dict[str, Callable[[Call], Any]] = {}
        self.lose_answers = False  # Of proposals: each is carried out, none is told.

    def register(self, method: str, handler: Callable[[Call], Any]) -> None:
        self.handlers[method] = handler

    def register_begun(self, method: str, begin: Beginner) -> None:
        self.handlers[method] = partial(await_begun, begin)

    def reaches(self, to: NodeId) -> bool:
        cluster = self.cluster
        if {self.node, to} in cluster.cut_pairs:
            return False
        return to in cluster.nodes and not {self.node, to} & cluster.cut_off

    async def call(
        self,
        to: NodeId,
        method: str,
        value: object = None,
        *,
        payload: bytes = b"",
        timeout_ms: int,
    ) -> Reply:
        if not self.reaches(to):
            await trio.sleep(min(timeout_ms, 50) / 1000)
            raise PeerUnavailable(to, "cut off", unknown=False)
        asked = codec.decode(codec.encode(value))
        deadline = trio.current_time() + timeout_ms / 1000
        call = Call(self.node, asked, memoryview(payload), deadline, method)
        with trio.move_on_after(timeout_ms / 1000):
            try:
                reply = await self.cluster.nodes[to].wire.handlers[method](call)
            except ObjstoreError as error:
                raise codec.decode(codec.encode(error)) from error
            if self.lose_answers and method in {"meta.propose", "meta.relay"}:
                raise PeerUnavailable(to, "answer lost", unknown=True)
            return Reply(codec.decode(codec.encode(reply.value)), reply.payload)
        raise PeerUnavailable(to, "no answer in time", unknown=True)

    # Raft's transport.

    def send(self, to: NodeId, payload: bytes) -> None:
        if self.reaches(to):
            self.cluster.nodes[to].raft.on_payload(self.node, payload)


class RaftWire:
    """Raft's transport on a Wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def send(self, to: NodeId, payload: bytes) -> None:
        self.wire.send(to, payload)

    async def call(self, to: NodeId, payload: bytes) -> bytes:
        if not self.wire.reaches(to):
            raise PeerUnavailable(to, "cut off", unknown=True)
        return await self.wire.cluster.nodes[to].raft.on_call(self.wire.node, payload)


@attrs.define(eq=False, slots=False)
class Node:
    """One node's metadata parts, as node.py wires them."""

    cluster: Cluster
    node: NodeId
    first_layout: bytes | None = None

    def __attrs_post_init__(self) -> None:
        world = self.cluster.world
        self.host = world.host(self.node)
        folder = self.host.disks.directory("data", create=True)
        self.store = MetaStore(
            self.host.disks.key_value_store(folder, "meta"), self.host.threads
        )
        random = self.host.entropy.random
        self.view = ClusterView(
            self.store, random, self.host.clock, first_layout=self.first_layout
        )
        self.wire = Wire(self.cluster, self.node)
        wire: Any = self.wire
        wal = Wal(
            directory=folder.folder("wal", create=True),
            threads=self.host.threads,
            entropy=self.host.entropy,
            segment_size=4 * MiB,
        )
        self.raft = RaftHost(
            node=self.node,
            wal=wal,
            machines=self.store.machine,
            transport=RaftWire(self.wire),
            random=random,
            clock=self.host.clock,
            config=RaftConfig(),
            preferred_leader=lambda group: self.reconciler.preferred_leader(group),
            peer_alive=self.cluster.is_alive,
            flush=self.store.flush,
        )
        self.server = MetaServer(
            self.raft, self.store, self.view, self.host.clock, self.host.entropy
        )
        self.server.register(wire)
        self.client = MetaClient(self.server, self.view, wire, self.host.entropy)
        self.client.register(wire)
        self.reconciler = Reconciler(
            raft=self.raft,
            server=self.server,
            client=self.client,
            view=self.view,
            peers=wire,
            threads=self.host.threads,
            random=random,
            is_alive=self.cluster.is_alive,
            grace_ms=GRACE_MS,
        )
        self.scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.cluster.nodes[self.node] = self
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.raft.run)
                for part in (self.store, self.server, self.view, self.reconciler):
                    nursery.start_soon(part.run)
                task_status.started()
        self.cluster.nodes.pop(self.node, None)


@attrs.define(eq=False)
class Cluster:
    """The nodes that run, and who cannot be reached."""

    nursery: trio.Nursery
    world: SimulatedWorld = attrs.field(factory=lambda: SimulatedWorld(1))
    nodes: dict[NodeId, Node] = attrs.field(factory=dict)
    cut_off: set[NodeId] = attrs.field(factory=set)
    cut_pairs: list[set[NodeId]] = attrs.field(factory=list)

    def is_alive(self, node: NodeId) -> bool:
        return node in self.nodes and node not in self.cut_off

    async def start(self, number: int, first_layout: bytes | None = None) -> Node:
        node = Node(self, node_id(number), first_layout)
        await self.nursery.start(node.run)
        return node

    async def stop(self, node: Node) -> None:
        """End the node's tasks; its disk keeps what was written."""
        node.scope.cancel()
        while node.node in self.nodes:
            await trio.sleep(0.01)
        self.world.kill(node.node)

    async def restart(self, number: int) -> Node:
        self.world.restart(node_id(number))
        return await self.start(number)

    async def until(self, condition: Callable[[], bool], within_s: float = 60) -> None:
        with trio.fail_after(within_s):
            while not condition():
                await trio.sleep(0.02)


def layout_of(*numbers: int) -> Layout:
    members = [Member(node_id(number), 1) for number in numbers]
    return found(members, partition_count=16, widths=(3,), shard_count=SHARDS)


def member(number: int) -> Member:
    return Member(node_id(number), 1)


@asynccontextmanager
async def running(*numbers: int) -> AsyncIterator[Cluster]:
    """A founded cluster of these nodes, whose groups have the layout's voters."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery)
        layout = layout_of(*numbers)
        first = await cluster.start(numbers[0], encode(layout))
        for number in numbers[1:]:
            await cluster.start(number, encode(layout))
        await first.raft.found(range(SHARDS + 1))
        await first.client.propose(FoundCluster(encode(layout), (), ROOT))
        await cluster.until(lambda: has_voters(cluster))
        yield cluster
        nursery.cancel_scope.cancel()


def has_voters(cluster: Cluster) -> bool:
    """Whether each group's leader has the membership that its layout asks for."""
    for group in range(SHARDS + 1):
        statuses = [
            node.raft.status(group)
            for node in cluster.nodes.values()
            if node.raft.is_leader(group) and cluster.is_alive(node.node)
        ]
        newest = max(cluster.nodes.values(), key=lambda node: node.view.version).view
        wanted = newest.voters(group)  # type: ignore[arg-type]
        if not any(
            status is not None
            and status.membership.voters == wanted
            and not status.membership.learners
            for status in statuses
        ):
            return False
    return True
