"""`fragments`: every fragment that metadata names is where it says, whole (I7).

One that is there and damaged may have been met by the very reads of the end: it has as long
as any other to be mended.  One that is not there has no excuse.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import trio

from objstore.chunks.fragment import CorruptFragment, NoSuchFragment
from objstore.ec.scheme import Scheme
from objstore.errors import ObjstoreError
from objstore.ids import FragmentId, NodeId
from objstore.meta import payloads, schema
from objstore.meta.schema import Table
from objstore.meta.store import ShardMachine
from objstore.meta.values import ChunkRef, Chunks
from objstore.testing.cluster.evidence import Evidence
from objstore.testing.cluster.program import RunningNode

NAME = "fragments"


async def check(
    evidence: Evidence, nodes: dict[str, RunningNode], *, mends_s: float
) -> None:
    """Read every copy of every chunk that a version or part refers to."""
    deadline = trio.current_time() + mends_s
    while True:
        problems = [problem async for problem in _problems(nodes)]
        if not any(is_mended for _, is_mended in problems):
            break  # Not before: what is mended meanwhile may lie elsewhere by now.
        if trio.current_time() >= deadline:
            break
        await trio.sleep(1.0)
    for what, _ in problems:
        evidence.accuse(NAME, what)


async def _problems(nodes: dict[str, RunningNode]) -> AsyncIterator[tuple[str, bool]]:
    """What is wrong, and whether it is something that is mended."""
    by_id = {node.raft.node: node for node in nodes.values()}
    for node in nodes.values():
        for group in node.raft.groups():
            if node.raft.is_leader(group):
                for scheme, ref in chunks_of(node.meta_store.machine(group)):
                    async for problem in _problems_of(node, by_id, scheme, ref):
                        yield problem


def chunks_of(machine: ShardMachine) -> Iterator[tuple[str, ChunkRef]]:
    """All chunks that rows of a replica refer to, with their schemes."""
    for slot in machine.slots():
        for key, value in machine.sealed_rows(slot):
            table = schema.table_of_row(key)
            if table == Table.VERSION:
                location = payloads.unpack_head(schema.unseal(key, value)).location()
            elif table == Table.PART:
                location = payloads.unpack_part(0, schema.unseal(key, value)).location
            else:
                continue
            if isinstance(location, Chunks):
                for ref in location.chunks:
                    yield location.scheme, ref


async def _problems_of(
    node: RunningNode, nodes: dict[NodeId, RunningNode], scheme: str, ref: ChunkRef
) -> AsyncIterator[tuple[str, bool]]:
    ring, width = node.view.ring_at(ref.epoch), Scheme.parse(scheme).width
    owners = list(ring.owners(ref.chunk, width))
    for displaced in ref.displaced:
        owners[displaced.index] = displaced.node
    for index, owner in enumerate(owners):
        fragment = FragmentId(ref.chunk, index)
        if owner is None:
            if len(nodes) >= width:
                yield f"{fragment} is nowhere", True
            continue  # Below promise for good.
        holder = nodes.get(owner)
        if holder is None:
            yield f"{fragment} is said to be on {owner}, which is gone", False
            continue
        try:
            blocks = await holder.chunk_store.read(fragment, 0, ref.size)
        except CorruptFragment as error:
            yield f"{fragment} on {owner}: {error}", True
        except NoSuchFragment as error:
            yield f"{fragment} on {owner}: {error}", False
        except ObjstoreError as error:
            yield f"{fragment} on {owner} cannot be read: {error}", False
        else:
            found = sum(len(block.data) for block in blocks)
            if found != ref.size:
                yield f"{fragment} on {owner}: {found} of {ref.size} bytes", False
