"""Repair workers over real chunk stores and real apply: no sockets, no Raft."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import attrs
import trio

from objstore.ids import ChunkId, FragmentId, Key, NodeId, ShardId, Slot, chunk_id
from objstore.meta import commands as c
from objstore.meta import queries as q
from objstore.meta import schema
from objstore.meta.payloads import pack_draft
from objstore.meta.values import BucketFence, ChunkRef, Chunks, Displaced
from objstore.repair.damage import DamageQueue
from objstore.repair.freeing import Freer
from objstore.repair.mend import Mender
from objstore.repair.throttle import Throttle
from objstore.units import GiB
from tests.unit.chunks.stores import Loopback, Member
from tests.unit.meta.builders import BUCKET, REF, SLOT, Shard, intent, large_draft
from tests.unit.objects_bytes.nodes import Bench, SmallRing, bench, content

SHARD = ShardId(1)
KEY = Key(b"key")
SIZE = 3 << 20  # Three blocks.


class Shards(Shard):
    """Several slots of one shard."""

    def open(
        self, versioning: str = "unversioned", config_version: int = 1, *, slot: Slot = SLOT
    ) -> None:
        fence = BucketFence(BUCKET, config_version, versioning, is_open=True)
        self.must(c.OpenBucket(slot, fence))


class ShardMeta:
    """Commands and queries of one shard, on the spot; hooks come first and may raise."""

    def __init__(self, view: RingView) -> None:
        self.shard = Shards()
        self.shard.open()
        self.view = view
        self.proposed: list[c.Command] = []
        self.before: Callable[[c.Command], Any] = lambda _: None
        self.after: Callable[[c.Command], Any] = lambda _: None
        self.asked: list[q.Query] = []
        self.before_query: Callable[[q.Query], Any] = lambda _: None

    async def propose(self, command: c.Command, *, timeout_ms: int) -> Any:
        assert timeout_ms > 0
        await trio.lowlevel.checkpoint()
        self.proposed.append(command)
        self.before(command)
        result = self.shard.must(command)
        self.after(command)
        return result

    async def query(self, query: q.Query, *, timeout_ms: int) -> Any:
        assert timeout_ms > 0
        await trio.lowlevel.checkpoint()
        self.asked.append(query)
        self.before_query(query)
        return self.shard.ask(query)

    def changes(self) -> list[c.ChangeDisplaced]:
        return [it for it in self.proposed if isinstance(it, c.ChangeDisplaced)]

    def below(self, slot: Slot = SLOT) -> list[ChunkRef]:
        return [entry.ref for entry in self.shard.ask(q.ListBelow((slot,), limit=1000))]

    def released(self) -> list[int]:
        rows = self.shard.ask(q.ListReleased(SLOT, 1 << 60, 1000))
        return [row.sequence for row in rows]


class RingView:
    """What repair asks of the cluster view."""

    def __init__(self, ring: SmallRing) -> None:
        self.ring = ring
        self.members = set(ring.nodes)

    def ring_at(self, epoch: int) -> SmallRing:
        assert epoch == self.ring.epoch
        return self.ring

    def shard_of(self, slot: Slot) -> ShardId:
        return ShardId(SHARD + slot - SLOT)

    @property
    def layout(self) -> RingView:
        return self

    def find(self, node: NodeId) -> NodeId | None:
        return node if node in self.members else None


@attrs.define
class Repairs:
    """A handful of nodes, one shard of rows, and the workers of its leader."""

    bench: Bench
    meta: ShardMeta
    view: RingView
    mender: Mender
    freer: Freer
    damage: DamageQueue
    unusable: set[NodeId]
    numbers: int = 0

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        return self.bench.ring.nodes

    @property
    def peers(self) -> Loopback:
        return self.bench.peers

    def member(self, index: int) -> Member:
        return self.bench.members[index]

    async def put(
        self,
        *,
        size: int = SIZE,
        missing: tuple[int, ...] = (),
        away: dict[int, int] | None = None,
        key: bytes = KEY,
        slot: Slot = SLOT,
    ) -> ChunkRef:
        """Write a chunk, then take copies away: `missing`, or on stand-ins (`away`)."""
        self.numbers += 1
        of = intent(self.numbers)
        self.meta.shard.must(c.BeginIntent(slot, REF, Key(key), of))
        chunk = chunk_id(of, 0)
        await self.bench.write(content(chunk, size), chunk=chunk)
        for index, place in (away or {}).items():
            await self.move(chunk, index, place)
        for index in missing:
            await self.bench.owner(index).store.delete([FragmentId(chunk, index)])
        displaced = [Displaced(index, None) for index in missing]
        displaced += [Displaced(i, self.nodes[place]) for i, place in (away or {}).items()]
        displaced.sort(key=lambda it: it.index)
        ref = ChunkRef(chunk, size, self.bench.ring.epoch, tuple(displaced))
        draft = large_draft(Chunks("replicate:3", (ref,)))
        self.meta.shard.must(
            c.PutVersion(slot, REF, Key(key), pack_draft(draft), intent=of)
        )
        return ref

    async def move(self, chunk: ChunkId, index: int, place: int) -> None:
        """Bring fragment `index` from its owner to nodes[place]."""
        fragment = FragmentId(chunk, index)
        await self._copy(fragment, self.bench.owner(index), self.member(place))
        await self.bench.owner(index).store.delete([fragment])

    async def copy_home(self, ref: ChunkRef, index: int, place: int) -> None:
        """Have fragment `index` on its owner too, beside nodes[place]."""
        fragment = FragmentId(ref.chunk, index)
        await self._copy(fragment, self.member(place), self.bench.owner(index))

    @staticmethod
    async def _copy(fragment: FragmentId, source: Member, target: Member) -> None:
        (stat,) = await source.store.stat([fragment])
        assert stat is not None
        writer = await target.store.create(stat.header)
        for block in await source.store.read(fragment, 0, stat.header.payload_size):
            await writer.append(block.data, block.crc32c)
        await writer.commit()

    def delete(self, key: bytes = KEY) -> None:
        self.meta.shard.must(c.DeleteVersion(SLOT, REF, Key(key)))

    async def holders(self, ref: ChunkRef) -> dict[int, set[int]]:
        """Which nodes, by number, have which fragment."""
        found = await self.bench.holders(ref.chunk)
        return {
            index: {self.nodes.index(node) for node in nodes}
            for index, nodes in found.items()
        }

    def is_alive(self, node: NodeId) -> bool:
        return node not in self.bench.dead

    def kill(self, index: int) -> None:
        """Gossip knows, and nobody answers."""
        self.bench.dead.add(self.nodes[index])
        self.peers.down.add(self.nodes[index])

    def revive(self, index: int) -> None:
        self.bench.dead.discard(self.nodes[index])
        self.peers.down.discard(self.nodes[index])

    async def flip(self, index: int, ref: ChunkRef, fragment: int) -> None:
        """Rot one bit of a fragment's payload on a node."""
        member = self.member(index)
        location = member.store.index.get(FragmentId(ref.chunk, fragment))
        assert location is not None
        disk = member.node.disk
        (path,) = [
            path
            for path in member.node.segments()
            if path.endswith(f"-{location.segment:08x}")
        ]
        offset = location.place + location.extent.block_offset(0) + 17
        disk.flip_bit(path, offset=offset)

    def slots(self, table: schema.Table) -> list[Slot]:
        """Slots with rows of a table."""
        return sorted(
            {
                schema.slot_of_row(key)
                for key in self.meta.shard.view.rows
                if key[2] == table
            }
        )


@asynccontextmanager
async def repairs(
    count: int = 5, *, delay_ms: int = 1000, first: int = 0
) -> AsyncIterator[Repairs]:
    """`count` nodes; nodes 0 to 2 own every chunk, the others stand in."""
    async with bench(count, first=first) as made:
        view = RingView(made.ring)
        meta = ShardMeta(view)
        unusable: set[NodeId] = set()
        here = made.members[0].client

        def is_alive(node: NodeId) -> bool:
            return node not in made.dead

        mender = Mender(
            meta=meta,  # type: ignore[arg-type]
            view=view,  # type: ignore[arg-type]
            chunks=here,
            slots_below=lambda: built.slots(schema.Table.BELOW),
            is_usable=lambda node: is_alive(node) and node not in unusable,
            is_alive=is_alive,
            throttle=Throttle(1 * GiB),
        )
        freer = Freer(
            meta=meta,  # type: ignore[arg-type]
            view=view,  # type: ignore[arg-type]
            chunks=here,
            slots_released=lambda: built.slots(schema.Table.RELEASED),
            cluster_time_ms=lambda _: meta.shard.time_ms,
            is_alive=is_alive,
            delay_ms=delay_ms,
        )
        damage = DamageQueue(meta)  # type: ignore[arg-type]
        built = Repairs(made, meta, view, mender, freer, damage, unusable)
        yield built


def shuffled(items: list[Any], seed: int) -> list[Any]:
    copy = list(items)
    Random(seed).shuffle(copy)
    return copy


__all__ = ["BUCKET", "KEY", "SHARD", "SIZE", "SLOT", "Repairs", "ShardMeta", "repairs"]
