"""Which peers did not answer lately.

    a call is not answered --> silent, for as long as that took --> one call may try it
                                 ^                                      |       | answered
                                 '------------- not answered -----------'       '--> heard

A leader that cannot be reached from here may lead on well for others: no election comes
to help, and each request would wait for it anew.  Who is known to be silent is asked
through others (`MetaClient`).  While one call tries it again, the others do not.  A peer
that fails calls at once (its process has ended) costs little to try, so it is soon tried.

Only what did not come is silence: a peer that refuses, or fails, has spoken.
"""

from __future__ import annotations

import attrs

from objstore.errors import ObjstoreError
from objstore.ids import NodeId
from objstore.rpc.call import PeerBusy, PeerFailed, PeerUnavailable, Refused

SILENT_MIN_S = 0.1
SILENT_MAX_S = 2.0
_KEPT = 1024  # Peers; who is forgotten is found out again.
_SPOKEN = (PeerBusy, PeerFailed, Refused)


@attrs.define(eq=False)
class Silence:
    """The peers that are silent; times are seconds of trio's clock."""

    _until: dict[NodeId, float] = attrs.field(factory=dict)

    def __len__(self) -> int:
        """How many peers there are that have not answered since they fell silent."""
        return len(self._until)

    def is_silent(self, node: NodeId, now: float) -> bool:
        return now < self._until.get(node, now)

    def may_try(self, node: NodeId, now: float) -> bool:
        """Whether to call a peer.  Where it was silent, only one caller is told so."""
        if self.is_silent(node, now):
            return False
        if node in self._until:
            self._until[node] = now + SILENT_MAX_S
        return True

    def note(self, node: NodeId, error: ObjstoreError, began: float, now: float) -> None:
        """A call to a peer, begun then, raised this."""
        is_silent = isinstance(error, PeerUnavailable) and error.peer == node
        if not is_silent or isinstance(error, _SPOKEN):
            self.forget(node)
            return
        if len(self._until) >= _KEPT:
            self._until.clear()
        self._until[node] = now + min(SILENT_MAX_S, max(SILENT_MIN_S, now - began))

    def forget(self, node: NodeId) -> None:
        """It has answered."""
        if self._until:
            self._until.pop(node, None)
