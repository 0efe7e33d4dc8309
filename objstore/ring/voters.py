"""Voters: which nodes replicate each shard's metadata, and who should lead it.

    shard 0   n2  n5  n9      every shard has the same number of voters: the largest odd
    shard 1   n1  n5  n7      one not above VOTERS_MAX nor above the active members
    ...

The voters are in the layout, kept by the same rules as the tables of data: even over the
active members (whatever their weight: a shard is small), spread over failure domains, and
with as few moves as a change allows.  These functions only read them.

Leaders follow from the voters alone: each shard prefers one of its voters, so that every
node leads about as many shards.  Shards come in bundles, and a bucket takes its slots from
one of them: a bundle is led by as few nodes as keep all at work, so that what is written to
a bucket at the same time travels in the same messages (decision 0055).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from objstore.ids import CLUSTER_SHARD, NodeId, ShardId
from objstore.limits import BUCKET_SPAN, SHARD_COUNT
from objstore.ring.layout import Layout


def voters_for(layout: Layout) -> dict[ShardId, tuple[NodeId, ...]]:
    """The voters of all shards, each sorted."""
    width = layout.voters.width
    cells = layout.voters.indexes()
    nobody = len(layout.members)
    return {
        ShardId(shard): tuple(
            layout.members[index].node
            for index in sorted(cells[shard * width : (shard + 1) * width])
            if index != nobody
        )
        for shard in range(layout.shard_count + 1)
    }


def bundle_of(shard: ShardId) -> int:
    """The bundle of a shard of objects: every eighth of 32 is of the same.

    Neighbours mostly have the same voters, so a bundle is none of them: in a larger cluster
    many nodes vote for one bucket.
    """
    assert shard > CLUSTER_SHARD
    return (shard - 1) % (SHARD_COUNT // BUCKET_SPAN)


def preferred_leaders(layout: Layout) -> dict[ShardId, NodeId]:
    """The preferred leader of each shard.

    A bundle has as many leaders as there are sets of voters in the cluster (or more, where
    it does not divide by that): all voters of a shard work for its writes, and its leader
    only a little more than the others.  A node may lead a bundle's part more than another.
    """
    voters = voters_for(layout)
    leads: dict[NodeId, list[ShardId]] = {member.node: [] for member in layout.members}
    voting = {node for nodes in voters.values() for node in nodes}
    leaders = -(-len(voting) // layout.voters.width)
    together = max(BUCKET_SPAN // leaders, 1)
    for part in _parts(voters, together):
        _lead_together(part, voters, leads)
    while _even_out(voters, leads, together):
        pass
    return {shard: node for node, shards in leads.items() for shard in shards}


def _parts(
    voters: dict[ShardId, tuple[NodeId, ...]], together: int
) -> Iterator[list[ShardId]]:
    """The cluster shard, and each bundle in parts of `together` shards."""
    yield [CLUSTER_SHARD]
    bundles: dict[int, list[ShardId]] = {}
    for shard in voters:
        if shard != CLUSTER_SHARD:
            bundles.setdefault(bundle_of(shard), []).append(shard)
    for bundle in bundles.values():
        for begin in range(0, len(bundle), together):
            yield bundle[begin : begin + together]


def _lead_together(
    part: list[ShardId],
    voters: dict[ShardId, tuple[NodeId, ...]],
    leads: dict[NodeId, list[ShardId]],
) -> None:
    """Let the node that votes in most of `part` lead these, and so on for the rest."""
    while part:
        votes = Counter(node for shard in part for node in voters[shard])
        leader = min(votes, key=lambda node: (-votes[node], len(leads[node]), node))
        leads[leader] += [shard for shard in part if leader in voters[shard]]
        part = [shard for shard in part if leader not in voters[shard]]


def _even_out(
    voters: dict[ShardId, tuple[NodeId, ...]],
    leads: dict[NodeId, list[ShardId]],
    together: int,
) -> bool:
    """Hand one shard down a chain: its first node leads over `together` more than its last.

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
                    if len(leads[taker]) < len(leads[start]) - together:
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
