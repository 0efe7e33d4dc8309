"""Calls: what a caller, a handler and a failure look like.

Values are anything `codec` knows; payloads are raw bytes beside them.  A payload that is
given may be any buffer, one that is received is always a memoryview.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from objstore.buffer import Buffer
from objstore.errors import InvalidRequest, Unavailable
from objstore.frozen import frozen
from objstore.ids import NodeId
from objstore.rpc.codec import wire_error
from objstore.sums import Sums

PROTOCOL = 1  # Named in hello: what methods and frames mean as a whole.


@frozen
class Call:
    """A call as its handler sees it."""

    peer: NodeId | None  # Who asks, by certificate.  None: a stranger (a join).
    value: Any  # As its sender gave it; checked by the handler.
    payload: memoryview
    deadline: float  # In seconds of trio's clock: the call is cancelled then.
    method: str = ""
    sums: Sums | None = None  # Of a large payload, made as it came.


@frozen
class Reply:
    """An answer.  `payload` of one that was received is a memoryview."""

    value: Any = None
    payload: Buffer = b""
    sums: Sums | None = None  # Of a large payload that was received, made as it came.


Handler = Callable[[Call], Awaitable[Reply]]
# Begins what a call asks for, without waiting, and calls `settle` once, now or later, with
# what gives the reply or raises an ObjstoreError.  It may raise one itself instead.
Settle = Callable[[Callable[[], Reply]], None]
Beginner = Callable[[Call, Settle], None]
CastHandler = Callable[[NodeId, Any, memoryview], None]


@wire_error("rpc.peer_unavailable")
class PeerUnavailable(Unavailable):
    """A node cannot be reached, or was lost while it worked on the call."""

    def __init__(self, peer: str, reason: str, *, unknown: bool) -> None:
        super().__init__(f"node {peer}: {reason}", retry_after_ms=200, unknown=unknown)
        self.peer = peer
        self.reason = reason


@wire_error("rpc.deadline_exceeded")
class DeadlineExceeded(PeerUnavailable):
    """No answer within the call's time."""


@wire_error("rpc.peer_failed")
class PeerFailed(PeerUnavailable):
    """The handler there failed by a bug; its log has the trace."""


@wire_error("rpc.busy")
class PeerBusy(PeerUnavailable):
    """Too many calls in flight there; nothing was done."""


@wire_error("rpc.refused")
class Refused(PeerUnavailable):
    """The connection was refused: another cluster, another node, another protocol."""


@wire_error("rpc.no_such_method")
class NoSuchMethod(InvalidRequest):
    """The peer has no such method, or none for strangers: an older build, perhaps."""


@wire_error("rpc.bad_request")
class BadRequest(InvalidRequest):
    """The peer could not read the call's value: an older build, perhaps."""
