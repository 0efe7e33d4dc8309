"""`fragments`: every fragment that metadata names is where it says, whole (I7)."""

from __future__ import annotations

from collections.abc import Iterator

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


async def check(evidence: Evidence, nodes: dict[str, RunningNode]) -> None:
    """Read every copy of every chunk that a version or part refers to."""
    by_id = {node.raft.node: node for node in nodes.values()}
    for node in nodes.values():
        for group in node.raft.groups():
            if node.raft.is_leader(group):
                for scheme, ref in chunks_of(node.meta_store.machine(group)):
                    await _check_chunk(evidence, node, by_id, scheme, ref)


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


async def _check_chunk(
    evidence: Evidence,
    node: RunningNode,
    nodes: dict[NodeId, RunningNode],
    scheme: str,
    ref: ChunkRef,
) -> None:
    ring, width = node.view.ring_at(ref.epoch), Scheme.parse(scheme).width
    owners = list(ring.owners(ref.chunk, width))
    for displaced in ref.displaced:
        owners[displaced.index] = displaced.node
    for index, owner in enumerate(owners):
        if owner is None:
            continue  # Below promise, which is for `promise` to judge.
        fragment = FragmentId(ref.chunk, index)
        holder = nodes.get(owner)
        if holder is None:
            evidence.accuse(NAME, f"{fragment} is said to be on {owner}, which is gone")
            continue
        try:
            blocks = await holder.chunk_store.read(fragment, 0, ref.size)
        except (NoSuchFragment, CorruptFragment) as error:
            evidence.accuse(NAME, f"{fragment} on {owner}: {error}")
        except ObjstoreError as error:
            evidence.accuse(NAME, f"{fragment} on {owner} cannot be read: {error}")
        else:
            found = sum(len(block.data) for block in blocks)
            if found != ref.size:
                what = f"{fragment} on {owner}: {found} of {ref.size} bytes"
                evidence.accuse(NAME, what)
