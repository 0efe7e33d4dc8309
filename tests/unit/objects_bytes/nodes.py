"""A ring over a handful of nodes, and chunks written and read through them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager

import attrs

from objstore.chunks.fragment import FragmentOwner
from objstore.config import ReadConfig, WriteConfig
from objstore.ec.scheme import Scheme
from objstore.ids import BucketId, ChunkId, Epoch, FragmentId, Key, NodeId, Slot
from objstore.limits import BLOCK_SIZE
from objstore.meta.values import ChunkRef
from objstore.objects.gather import FragmentDamage, Gather
from objstore.objects.scatter import Scatter
from objstore.sums import Summed, Sums
from tests.unit.chunks.stores import Member, cluster, content

CHUNK = ChunkId(b"intent......" + bytes(4))
OWNER = FragmentOwner(BucketId(1), Slot(2), Key(b"key"))
EPOCH = Epoch(7)
COPIES = Scheme.parse("replicate:3")


@attrs.frozen
class SmallRing:
    """The first `width` nodes own every chunk; the others stand in, in order."""

    nodes: tuple[NodeId, ...]
    epoch: Epoch = EPOCH

    def owners(self, chunk: ChunkId, width: int) -> tuple[NodeId | None, ...]:
        return (*self.nodes[:width], *[None] * (width - len(self.nodes)))

    def stand_ins(
        self, chunk: ChunkId, width: int, *, without: Collection[NodeId] = ()
    ) -> Iterator[NodeId]:
        yield from self.nodes[width:]


@attrs.define
class Bench:
    """members[0] is the gateway; the ring is over members[first:]."""

    members: list[Member]
    ring: SmallRing
    scatter: Scatter
    gather: Gather
    dead: set[NodeId]
    damage: list[FragmentDamage]

    @property
    def peers(self):
        return self.members[0].peers

    def member(self, node: NodeId) -> Member:
        return next(member for member in self.members if member.id == node)

    def owner(self, index: int) -> Member:
        return self.member(self.ring.nodes[index])

    async def write(
        self, data: bytes, *, scheme: Scheme | str = COPIES, chunk: ChunkId = CHUNK
    ) -> ChunkRef:
        return await self.scatter.write_chunk(
            chunk, len(data), blocks(data), ring=self.ring, scheme=scheme, owner=OWNER
        )

    async def read(
        self,
        ref: ChunkRef,
        offset: int = 0,
        size: int | None = None,
        scheme: Scheme | str = COPIES,
    ) -> bytes:
        size = ref.size - offset if size is None else size
        stream = self.gather.read_chunk(
            ref, scheme, ring=self.ring, offset=offset, size=size
        )
        return b"".join([bytes(piece) async for piece in stream])

    async def holders(
        self, chunk: ChunkId = CHUNK, width: int = 3
    ) -> dict[int, set[NodeId]]:
        """Which nodes have which fragment."""
        found: dict[int, set[NodeId]] = {}
        for index in range(width):
            fragment = FragmentId(chunk, index)
            found[index] = {
                member.id
                for member in self.members
                if (await member.store.stat([fragment]))[0] is not None
            }
        return found


async def blocks(data: bytes) -> AsyncIterator[Summed]:
    for start in range(0, len(data), BLOCK_SIZE):
        block = data[start : start + BLOCK_SIZE]
        yield Summed(block, Sums.of(block))


@asynccontextmanager
async def bench(
    count: int, *, first: int = 0, patience_ms: int = 1000, hedge_ms: int = 500
) -> AsyncIterator[Bench]:
    """`count` nodes; with `first` 1 the gateway owns nothing."""
    async with cluster(count) as members:
        dead: set[NodeId] = set()
        damage: list[FragmentDamage] = []

        def is_alive(node: NodeId) -> bool:
            return node not in dead

        here = members[0]
        scatter = Scatter(
            chunks=here.client,
            is_alive=is_alive,
            clock=here.node.host.clock,
            config=WriteConfig(straggler_timeout_ms=patience_ms),
            threads=here.node.host.threads,
        )
        gather = Gather(
            chunks=here.client,
            is_alive=is_alive,
            on_damage=damage.append,
            config=ReadConfig(hedge_after_ms=hedge_ms),
            threads=here.node.host.threads,
        )
        ring = SmallRing(tuple(member.id for member in members[first:]))
        yield Bench(members, ring, scatter, gather, dead, damage)


__all__ = ["CHUNK", "COPIES", "OWNER", "Bench", "bench", "blocks", "content"]
