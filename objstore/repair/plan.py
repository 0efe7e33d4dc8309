"""What to do about a chunk that is not whole, or not at home.  Pure.

For each displaced fragment of a chunk:

    missing       -> make it again from another holder, on its owner if that one lives,
                     else on a live node that holds no other fragment of the chunk
    on a stand-in -> once the owner lives again: copy it home, then free the stand-in's

A fragment whose place has no owner in the chunk's epoch (the cluster was too small then)
goes to the newest ring's owner of that place, and stays recorded as displaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from objstore.ids import NodeId
from objstore.meta.values import ChunkRef
from objstore.ring.ring import Ring

AT_HOME = ""  # In ChangeDisplaced: the fragment is on its ring owner.


@attrs.frozen
class Mend:
    """Make one fragment again on another node, then record it there."""

    index: int
    sources: tuple[NodeId, ...]  # Holders of the other fragments (k = 1: of the bytes).
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


def plan_mends(
    ref: ChunkRef,
    *,
    width: int,
    ring: Ring,
    newest: Ring,
    is_usable: Callable[[NodeId], bool],
) -> list[Mend]:
    """The mends that can be done now.

    ring: of the chunk's epoch.  newest: of the newest epoch.
    is_usable: alive, and may hold data.
    """
    owners = ring.owners(ref.chunk, width)
    holders = holders_of(ref, owners)
    mends: list[Mend] = []
    for displaced in ref.displaced:
        owner = owners[displaced.index]
        sources = _sources(holders, displaced.index, is_usable)
        taken = {node for node in holders if node is not None}
        taken |= {mend.target for mend in mends}
        if displaced.node is not None:
            if owner is None or not is_usable(owner) or owner in taken:
                continue
            if is_usable(displaced.node):
                sources = (displaced.node, *sources)
            target: NodeId | None = owner
        else:
            target = _target(
                ref,
                displaced.index,
                owner,
                width=width,
                newest=newest,
                is_usable=is_usable,
                taken=taken,
            )
        if target is None or not sources:
            continue
        now = AT_HOME if target == owner else target
        mends.append(Mend(displaced.index, sources, target, displaced.node, now))
    return mends


def _sources(
    holders: Sequence[NodeId | None], index: int, is_usable: Callable[[NodeId], bool]
) -> tuple[NodeId, ...]:
    return tuple(
        node
        for place, node in enumerate(holders)
        if node is not None and place != index and is_usable(node)
    )


def _target(
    ref: ChunkRef,
    index: int,
    owner: NodeId | None,
    *,
    width: int,
    newest: Ring,
    is_usable: Callable[[NodeId], bool],
    taken: set[NodeId],
) -> NodeId | None:
    """Where to make a missing fragment: its owner, else the newest ring's, else any."""
    if owner is not None and is_usable(owner) and owner not in taken:
        return owner
    candidates = [
        newest.owners(ref.chunk, width)[index],
        *newest.stand_ins(ref.chunk, width),
    ]
    candidates += newest.owners(ref.chunk, width)
    for node in candidates:
        if node is not None and node not in taken and is_usable(node):
            return node
    return None
