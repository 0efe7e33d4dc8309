"""What to do about a chunk that is not whole, or not at home.  Pure.

For each displaced fragment of a chunk, in this order:

    missing       -> make it again from another holder, on its owner if that one can take
                     it, else on a node that holds no other fragment of the chunk
    on a stand-in -> once its owner can take it: copy it home, then free the stand-in's

A fragment whose place has no owner in the chunk's epoch (the cluster was too small then)
goes to the newest ring's owner of that place, and stays recorded as displaced.

A node may *take* a fragment while it is alive and meant to hold data; it may *give* one
while it is merely alive: one that is being drained is as good a source as any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs

from objstore.ids import NodeId
from objstore.meta.values import ChunkRef
from objstore.ring.ring import Ring

AT_HOME = ""  # In ChangeDisplaced: the fragment is on its ring owner.

Judge = Callable[[NodeId], bool]


@attrs.frozen
class Source:
    """A node to copy from, and the fragment that it has."""

    node: NodeId
    index: int


@attrs.frozen
class Mend:
    """Make one fragment again on another node, then record it there."""

    index: int
    sources: tuple[Source, ...]  # Best first; k = 1: each has all bytes.
    target: NodeId
    found: str | None  # Where the row says it is now; None: missing.
    now: str  # Where it will be; AT_HOME where target is the owner.


def holders_of(ref: ChunkRef, owners: Sequence[NodeId | None]) -> list[NodeId | None]:
    """Which node has each fragment; None where nobody has.

    owners: `ring_at(ref.epoch).owners(ref.chunk, width)`.
    """
    holders = list(owners)
    for displaced in ref.displaced:
        holders[displaced.index] = displaced.node
    return holders


def recorded_at(ref: ChunkRef, index: int) -> str | None:
    """Where the row says that a fragment is, in the words of ChangeDisplaced."""
    for displaced in ref.displaced:
        if displaced.index == index:
            return displaced.node
    return AT_HOME


def plan_mends(
    ref: ChunkRef,
    *,
    width: int,
    ring: Ring,
    newest: Ring,
    may_take: Judge,
    may_give: Judge,
) -> list[Mend]:
    """The mends that can be done now; each leaves the others possible.

    ring: of the chunk's epoch.  newest: of the newest epoch.
    """
    owners = ring.owners(ref.chunk, width)
    holders = holders_of(ref, owners)
    taken = {node for node in holders if node is not None}
    mends: list[Mend] = []

    def plan(index: int, target: NodeId) -> None:
        sources = tuple(_sources(holders, index, may_give))
        if not sources:
            return
        now = AT_HOME if target == owners[index] else target
        mends.append(Mend(index, sources, target, holders[index], now))
        taken.add(target)

    def is_free(node: NodeId | None) -> bool:
        return node is not None and node not in taken and may_take(node)

    missing = [d.index for d in ref.displaced if d.node is None]
    # Homes first: else one fragment could be sent to the home of another.
    homeless = []
    for index in missing:
        owner = owners[index]
        if owner is not None and is_free(owner):
            plan(index, owner)
        else:
            homeless.append(index)
    for index in homeless:
        found = next(filter(is_free, _stand_ins(ref, index, width, newest)), None)
        if found is not None:
            plan(index, found)
    for displaced in ref.displaced:
        owner = owners[displaced.index]
        if displaced.node is not None and owner is not None and is_free(owner):
            plan(displaced.index, owner)
    return mends


def _sources(
    holders: Sequence[NodeId | None], index: int, may_give: Judge
) -> Iterator[Source]:
    """The holder of the fragment itself first, if there is one."""
    order = sorted(range(len(holders)), key=lambda place: place != index)
    for place in order:
        node = holders[place]
        if node is not None and may_give(node):
            yield Source(node, place)


def _stand_ins(ref: ChunkRef, index: int, width: int, newest: Ring) -> Iterator[NodeId]:
    """Where to make a missing fragment whose home cannot take it, best first."""
    owners = newest.owners(ref.chunk, width)
    mine = owners[index]
    if mine is not None:
        yield mine
    yield from newest.stand_ins(ref.chunk, width)
    yield from (node for node in owners if node is not None)
