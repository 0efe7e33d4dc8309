"""Voters: which nodes replicate each shard's metadata, and who should lead it.

    shard 0   n2  n5  n9      every shard has the same number of voters: the largest odd
    shard 1   n1  n5  n7      one not above VOTERS_MAX nor above the active members
    ...

The voters are in the layout, kept by the same rules as the tables of data: even over the
active members (whatever their weight: a shard is small), spread over failure domains, and
with as few moves as a change allows.  These functions only read them.

Leaders follow from the voters alone: each shard prefers one of its voters, so that every
node leads about as many shards.
"""

from __future__ import annotations

from functools import lru_cache

from objstore.ids import NodeId, ShardId
from objstore.ring.layout import Layout

_LAYOUTS_KEPT = 4  # The current epoch, the one before, and a proposal or two.


def voters_for(
    layout: Layout, shard_count: int | None = None
) -> dict[ShardId, tuple[NodeId, ...]]:
    """The voters of shards 0 .. shard_count (default: of all), each sorted."""
    asked = layout.shard_count if shard_count is None else shard_count
    assert 0 <= asked <= layout.shard_count
    width = layout.voters.width
    cells = layout.voters.indexes()
    nobody = len(layout.members)
    return {
        ShardId(shard): tuple(
            layout.members[index].node
            for index in sorted(cells[shard * width : (shard + 1) * width])
            if index != nobody
        )
        for shard in range(asked + 1)
    }


def preferred_leader(layout: Layout, shard: ShardId) -> NodeId:
    """The voter that should lead `shard` while all are well."""
    return preferred_leaders(layout)[shard]


@lru_cache(maxsize=_LAYOUTS_KEPT)
def preferred_leaders(layout: Layout) -> dict[ShardId, NodeId]:
    """The preferred leader of each shard: as even over the nodes as the voters allow."""
    voters = voters_for(layout)
    leads: dict[NodeId, list[ShardId]] = {member.node: [] for member in layout.members}
    for shard, nodes in voters.items():
        leads[min(nodes, key=lambda node: (len(leads[node]), node))].append(shard)
    while _even_out(voters, leads):
        pass
    return {shard: node for node, shards in leads.items() for shard in shards}


def _even_out(
    voters: dict[ShardId, tuple[NodeId, ...]], leads: dict[NodeId, list[ShardId]]
) -> bool:
    """Hand one shard down a chain from a node that leads two more than its last.

    Breadth first, so that the chain is the shortest; False if there is none.
    """
    for start in sorted(leads, key=lambda node: -len(leads[node])):
        came: dict[NodeId, tuple[NodeId, ShardId]] = {}
        queue = [start]
        for giver in queue:
            for shard in leads[giver]:
                for taker in voters[shard]:
                    if taker == start or taker in came:
                        continue
                    came[taker] = (giver, shard)
                    queue.append(taker)
                    if len(leads[taker]) <= len(leads[start]) - 2:
                        _hand_down(came, leads, start, taker)
                        return True
    return False


def _hand_down(
    came: dict[NodeId, tuple[NodeId, ShardId]],
    leads: dict[NodeId, list[ShardId]],
    start: NodeId,
    taker: NodeId,
) -> None:
    while taker != start:
        giver, shard = came[taker]
        leads[giver].remove(shard)
        leads[taker].append(shard)
        taker = giver
