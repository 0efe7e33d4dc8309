"""When the nodes of a host's groups last spoke to each other, of whatever group.

    a leader's heartbeat of one group --payload--> its followers on that node: it lives, and
                                                   leads that group
    any payload of that node          -----------> it lives

For a while after the heartbeat of its group, any word of its node tells a follower as much
as another heartbeat would.  So a leader leaves out those of groups that have nothing else
to say, up to two of three, where their node is spoken to anyway.  A node that is gone is
missed as soon as ever; one that lives, and leads the group no more, a while later.  What a
leader hears of its followers counts in the same way.
"""

from __future__ import annotations

import attrs

from objstore.ids import NodeId

_NEVER_MS = -(10**15)


@attrs.define(eq=False)
class Contacts:
    """Shared by all cores of a host; without entries each core goes by its own messages."""

    sent_ms: dict[NodeId, int] = attrs.field(factory=dict)
    heard_ms: dict[NodeId, int] = attrs.field(factory=dict)

    def spoke_since(self, node: NodeId, since_ms: int) -> bool:
        """Whether `node` was sent something after that, or is with this pass."""
        return self.sent_ms.get(node, _NEVER_MS) > since_ms

    def extended(self, node: NodeId, heard_ms: int, for_ms: int) -> int:
        """When a group last heard `node`, if any word of it counts for so long."""
        anything_ms = self.heard_ms.get(node, _NEVER_MS)
        return max(heard_ms, min(anything_ms, heard_ms + for_ms))
