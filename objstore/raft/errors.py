"""What a proposal or a read may be refused with, beside `objstore.errors`."""

from __future__ import annotations

from objstore.errors import Unavailable
from objstore.ids import NodeId
from objstore.rpc.codec import wire_error


@wire_error("raft.not_leader")
class NotLeader(Unavailable):
    """This node does not lead the group: ask `leader`, or where None, try again.

    Nothing has happened, and nothing will.
    """

    def __init__(self, leader: NodeId | None) -> None:
        where = "nobody leads it just now" if leader is None else f"{leader} leads it"
        super().__init__(f"not the group's leader: {where}", retry_after_ms=100)
        self.leader = leader
