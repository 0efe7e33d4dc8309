"""A store in one process: real apply and reads, real chunk stores, no sockets and no Raft.

    DirectMeta    applies commands to rows in memory, one after another
    DirectView    the cluster shard's buckets and one ring; `lags` keeps it from learning
    LoopbackPeers calls the chunk service of another node directly

What a command does is the same as behind Raft: only the log and its quorum are left out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio
from sortedcontainers import SortedDict

from objstore.chunks.client import ChunkClient
from objstore.chunks.store import ChunkStore
from objstore.config import ChunksConfig, ReadConfig, WriteConfig
from objstore.errors import Unavailable
from objstore.ids import ClusterId, Epoch, NodeId, RequestId
from objstore.meta import schema
from objstore.meta.apply import apply, is_error
from objstore.meta.commands import Command
from objstore.meta.envelope import FEATURE_LEVEL
from objstore.meta.queries import Query
from objstore.meta.reads import answer
from objstore.meta.repetition import Seen
from objstore.meta.rows import Columns, StagedRows, page_of
from objstore.meta.values import BucketRecord
from objstore.meta.view import NotFounded
from objstore.meta.work import Work
from objstore.objects.budget import Budget
from objstore.objects.capability import Principal
from objstore.objects.gather import FragmentDamage, Gather
from objstore.objects.parallel import outcomes
from objstore.objects.scatter import Scatter
from objstore.objects.store import Store, StoreOptions
from objstore.ring import layout as layouts
from objstore.ring.ring import Ring
from objstore.rpc import codec
from objstore.testing.host import SimulatedWorld
from objstore.units import GiB, KiB, MiB

ROOT = Principal("ROOTKEY", "0" * 63 + "1", is_root=True, name="root")
ALICE = Principal("ALICEKEY", "a" * 64, is_root=False, name="alice")
BOB = Principal("BOBKEY", "b" * 64, is_root=False, name="bob")

CLUSTER = ClusterId("c" * 32)
START_MS = 1_700_000_000_000


class MemoryRows:
    """Rows, sealed, in memory."""

    def __init__(self) -> None:
        self._rows: SortedDict[bytes, bytes] = SortedDict()

    def get(self, key: bytes) -> bytes | None:
        value = self._rows.get(key)
        return None if value is None else schema.unseal(key, value)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in self._rows.irange(start, end, inclusive=(True, False)):
            yield key, schema.unseal(key, self._rows[key])

    def page(self, base: bytes, start: bytes, end: bytes, limit: int) -> Columns:
        return page_of(self, base, start, end, limit)

    def change(self, changes: dict[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value


class DirectMeta:
    """Commands and queries of all shards, on the spot."""

    def __init__(self) -> None:
        self.rows = MemoryRows()
        self.index = 0
        self.time_ms = START_MS
        self.seen = Seen(0)
        self.proposed: list[Command] = []
        # Called before a command is applied; may raise, or wait.
        self.before: Callable[[Command], Any] | None = None
        self.after: Callable[[Command], Any] | None = None
        self.before_query: Callable[[Query], Any] | None = None

    async def propose(self, command: Command, *, timeout_ms: int) -> Any:
        assert timeout_ms > 0
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(timeout_ms / 1000) as limit:
            await _call(self.before, command)
        if limit.cancelled_caught:
            raise Unavailable("no answer in time")
        self.index += 1
        self.time_ms += 1
        self.proposed.append(command)
        staged = StagedRows(self.rows)
        request = RequestId(self.index.to_bytes(16, "big"))
        work = Work(staged, command, self.index, 1, self.time_ms)
        result = apply(work, request, command, self.seen)
        staged.commit(b"")
        self.rows.change(staged.changes)
        await _call(self.after, command)
        if is_error(result):
            raise result
        # What a caller on another node would get.
        return codec.decode(codec.encode(result))

    async def propose_each(
        self, commands: Sequence[Command], *, timeout_ms: int
    ) -> list[object]:
        return await outcomes(
            [partial(self.propose, c, timeout_ms=timeout_ms) for c in commands],
            at_once_max=len(commands),
        )

    async def query(self, query: Query, *, timeout_ms: int) -> Any:
        assert timeout_ms > 0
        await trio.lowlevel.checkpoint()
        await _call(self.before_query, query)
        return answer(self.rows, query)

    def names(self) -> list[str]:
        """The classes of the commands proposed so far."""
        return [type(command).__name__ for command in self.proposed]


async def _call(hook: Callable[[Any], Any] | None, asked: Command | Query) -> None:
    outcome = None if hook is None else hook(asked)
    if outcome is not None:
        await outcome


class DirectView:
    """Buckets as the rows had them at the last refresh."""

    def __init__(self, meta: DirectMeta, ring: Ring) -> None:
        self._meta = meta
        self._buckets: dict[str, BucketRecord] = {}
        self.ring = ring
        self.refreshed = 0
        self.knows_epoch = True  # Until the next refresh.
        self.feature_level = FEATURE_LEVEL

    def ring_at(self, epoch: Epoch) -> Ring:
        assert epoch == self.ring.epoch
        if not self.knows_epoch:
            raise NotFounded("this node does not know the layout")
        return self.ring

    def bucket(self, name: str) -> BucketRecord | None:
        return self._buckets.get(name)

    def buckets(self) -> list[BucketRecord]:
        return list(self._buckets.values())

    async def refresh(self, *, timeout_ms: int = 0) -> None:
        await trio.lowlevel.checkpoint()
        self.refreshed += 1
        self.knows_epoch = True
        prefix = schema.table_prefix(schema.CLUSTER_SLOT, schema.Table.BUCKET)
        rows = self._meta.rows.scan(prefix, schema.range_end(prefix))
        records = [codec.decode_as(BucketRecord, payload) for _, payload in rows]
        self._buckets = {record.name: record for record in records}


class NoPeers:
    """One node has none."""

    async def call(self, to: NodeId, method: str, *_: object, **__: object) -> Any:
        raise AssertionError(f"{method} to {to}: there is one node")


@attrs.define
class Composition:
    """A node's store, and its parts for tests to look at and to tamper with."""

    store: Store
    meta: DirectMeta
    view: DirectView
    chunks: ChunkStore
    damage: list[FragmentDamage]

    def another_view(self) -> Store:
        """The store as another node has it: the same rows, a view of its own."""
        return attrs.evolve(self.store, view=DirectView(self.meta, self.view.ring))


@asynccontextmanager
async def composed(
    *, inline_size_max: int = 16 * KiB, chunk_size: int = 2 * MiB
) -> AsyncIterator[Composition]:
    """One node that is up until the block ends."""
    node = NodeId("1" * 16)
    host = SimulatedWorld(1).host("a")
    directory = host.disks.directory("data", create=True)
    kv = host.disks.key_value_store(directory, "rows")
    chunk_store = ChunkStore(
        host=host,
        kv=kv,
        drives=[host.disks.directory("data/chunks", create=True)],
        cluster=CLUSTER,
        node=node,
        config=ChunksConfig(segment_size=64 * MiB, reserve=0),
    )
    chunks = ChunkClient(node=node, local=chunk_store, peers=NoPeers())
    damage: list[FragmentDamage] = []
    meta = DirectMeta()
    member = layouts.Member(node=node, weight=100)
    view = DirectView(meta, Ring(layouts.found([member], partition_count=64)))
    store = Store(
        meta=meta,
        view=view,
        scatter=Scatter(
            chunks=chunks,
            is_alive=lambda _: True,
            config=WriteConfig(),
            clock=host.clock,
        ),
        gather=Gather(
            chunks=chunks,
            is_alive=lambda _: True,
            on_damage=damage.append,
            config=ReadConfig(),
        ),
        chunks=chunks,
        budget=Budget(1 * GiB),
        host=host,
        options=StoreOptions(
            inline_size_max=inline_size_max, chunk_size=chunk_size, scheme="replicate:1"
        ),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(chunk_store.run)
        await nursery.start(chunks.run)
        yield Composition(store, meta, view, chunk_store, damage)
        nursery.cancel_scope.cancel()


@attrs.define
class BytesBody:
    """A body in memory, in pieces; may fail on the way."""

    data: bytes
    digests: Sequence[Any] = ()
    trailing_algorithm: str | None = None
    trailing: Sequence[Any] = ()
    piece_size: int = 64 * KiB
    fails_at: int | None = None
    error: Exception | None = None
    read: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for offset in range(0, len(self.data), self.piece_size):
            await trio.lowlevel.checkpoint()
            if self.fails_at is not None and offset >= self.fails_at:
                assert self.error is not None
                raise self.error
            piece = self.data[offset : offset + self.piece_size]
            self.read += len(piece)
            yield piece

    def trailing_digests(self) -> Sequence[Any]:
        assert self.read == len(self.data)
        return self.trailing
