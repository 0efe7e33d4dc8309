"""Nodes come and go: tokens, joins, leaves.

A join, from the new node's side (`objstore.node.joining`):

    1. cluster.authority   unverified TLS: the CA's certificate; compared with the token
    2. cluster.join        TLS verified by that CA: token, node id, addresses, domains
                           -> certificate and key, gossip secret, admin token, seeds

The server spends one use of the token, puts the node into the next layout and answers.
Repeated with the same node id (after a crash between) it answers anew and changes nothing.

A leave: refused while the node holds fragments, is not alive, or where metadata would be
left with one voter though it has more now.  Otherwise the node becomes `draining` (no new
data, no votes), its replicas move off, and it goes from the layout; its daemon then marks
the folder as left and stops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import structlog
import trio

from objstore.admin import settings
from objstore.admin.tokens import Token
from objstore.errors import Conflict, InvalidRequest, NotFound, Unavailable
from objstore.host.clock import Clock
from objstore.host.entropy import Entropy
from objstore.host.pki import Authority, Pki
from objstore.host.threads import Threads
from objstore.ids import ClusterId, NodeId, is_node_id
from objstore.meta.client import MetaClient
from objstore.meta.commands import CreateJoinToken, SetLayout, SpendJoinToken
from objstore.meta.errors import StaleEpoch
from objstore.meta.values import JoinToken
from objstore.meta.view import ClusterView
from objstore.ring.layout import (
    Layout,
    Member,
    with_member,
    with_member_state,
    without_member,
)
from objstore.ring.layout import encode as encode_layout
from objstore.ring.voters import voters_for
from objstore.rpc.client import Peers
from objstore.rpc.server import Call, Reply

log = structlog.get_logger()

_LAYOUT_TRIES = 16
_LEAVE_TIMEOUT_S = 60.0
_LEAVE_POLL_S = 0.2
TOKEN_USES_MAX = 1000
TOKEN_LIFE_MAX_MS = 7 * 86_400_000


@attrs.define
class Membership:
    """Changes who is in the cluster."""

    meta: MetaClient
    view: ClusterView
    peers: Peers
    pki: Pki
    clock: Clock
    entropy: Entropy
    threads: Threads
    cluster: ClusterId
    authority_pem: bytes
    is_alive: Callable[[NodeId], bool]

    # ---- tokens -----------------------------------------------------------------------

    async def create_token(self, *, expires_in_ms: int, uses: int) -> Token:
        """A new join token; its secret exists only in the answer."""
        if not 1 <= uses <= TOKEN_USES_MAX:
            raise InvalidRequest(f"uses must be 1 to {TOKEN_USES_MAX}")
        if not 1000 <= expires_in_ms <= TOKEN_LIFE_MAX_MS:
            raise InvalidRequest("a token lives one second to seven days")
        token = Token(
            self.pki.fingerprint(self.authority_pem),
            self.entropy.token(8).hex(),
            self.entropy.token(16).hex(),
        )
        now_ms = self.clock.utc_now_ms()
        row = JoinToken(
            token.token_id, token.secret_hash(), now_ms + expires_in_ms, uses, now_ms
        )
        await self.meta.propose(CreateJoinToken(row))
        return token

    # ---- join, the serving side -------------------------------------------------------

    async def on_authority(self, call: Call) -> Reply:
        """Answer rpc cluster.authority (anonymous): the CA's certificate."""
        del call
        return Reply({"authority_pem": self.authority_pem, "cluster": self.cluster})

    async def on_join(self, call: Call) -> Reply:
        """Answer rpc cluster.join (anonymous): let the node that asks in."""
        newcomer = _Newcomer.parse(call.value)
        await self.meta.propose(
            SpendJoinToken(newcomer.token.token_id, newcomer.token.secret_hash())
        )
        layout = await self.change_layout(newcomer.into)
        log.info("admin.node_joined", node=newcomer.member.node, epoch=layout.epoch)
        identity = self.pki.issue(
            self.authority(),
            self.cluster,
            newcomer.member.node,
            now_ms=self.clock.utc_now_ms(),
            days=settings.CERTIFICATE_DAYS,
        )
        return Reply(
            {
                "cluster": self.cluster,
                "authority_pem": self.authority_pem,
                "certificate_pem": identity.certificate_pem,
                "private_key_pem": identity.private_key_pem,
                "gossip_secret": self._setting(settings.GOSSIP_SECRET),
                "admin_token": self._setting(settings.ADMIN_TOKEN).decode(),
                "root_key": self._root_key(),
                "seeds": [
                    member.cluster_address
                    for member in layout.members
                    if member.node != newcomer.member.node
                ],
                "layout": encode_layout(layout),
            }
        )

    def authority(self) -> Authority:
        """The CA with its private key, from the cluster's settings."""
        return Authority(self.authority_pem, self._setting(settings.AUTHORITY_KEY))

    def _setting(self, name: str) -> bytes:
        value = self.view.setting(name)
        if value is None:
            raise Unavailable(f"the cluster's setting {name} is not known here yet")
        return value

    def _root_key(self) -> list[str]:
        """The root key pair, for the new node's own credentials file."""
        for key in self.view.access_keys():
            if key.is_root:
                return [key.access_key, key.secret_key]
        return ["", ""]

    # ---- leave ------------------------------------------------------------------------

    async def leave(self, node: NodeId) -> None:
        """Take an empty node out.  Raises NotFound, Conflict (why it cannot go)."""
        await self.view.refresh()
        layout = self.view.layout
        if node not in {member.node for member in layout.members}:
            raise NotFound(f"no node {node} in this cluster")
        if not self.is_alive(node):
            raise Conflict(
                f"node {node} does not answer: only a live, empty node can leave."
                " hint: giving up a dead node's place (remove) is not built yet"
            )
        _require_voters(layout, node)
        await self._require_empty(node)
        await self.change_layout(lambda now: with_member_state(now, node, "draining"))
        try:
            with trio.fail_after(_LEAVE_TIMEOUT_S):
                while await self._report(node, "groups"):  # noqa: ASYNC110 - a remote state.
                    await trio.sleep(_LEAVE_POLL_S)
            await self._require_empty(node)
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(_LEAVE_TIMEOUT_S):
                await self.change_layout(lambda now: with_member_state(now, node, "active"))
            raise
        await self.change_layout(lambda now: without_member(now, node))
        log.info("admin.node_left", peer=node)
        await self.peers.call(node, "node.left", timeout_ms=5_000)

    async def _require_empty(self, node: NodeId) -> None:
        count = await self._report(node, "fragments")
        if count:
            raise Conflict(
                f"node {node} holds {count} fragments."
                " hint: moving data off a node (drain) is not built yet"
            )

    async def _report(self, node: NodeId, key: str) -> int:
        reply = await self.peers.call(node, "node.report", timeout_ms=5_000)
        assert isinstance(reply.value, dict)
        return int(reply.value[key])

    async def change_layout(self, change: Callable[[Layout], Layout]) -> Layout:
        """Put change(current layout) in force, again if another change came between."""
        for _ in range(_LAYOUT_TRIES):
            current = self.view.layout
            target = await self.threads.run(change, current)
            if target is current:
                return current
            try:
                await self.meta.propose(SetLayout(encode_layout(target)))
            except StaleEpoch:
                await self.view.refresh()
                continue
            await self.view.refresh()
            return target
        raise Unavailable("the layout keeps changing; try again")


def _require_voters(layout: Layout, node: NodeId) -> None:
    now = max(len(voters) for voters in voters_for(layout).values())
    if len(layout.members) == 1:
        raise Conflict(f"node {node} is the cluster's only one")
    without = with_member_state(layout, node, "draining")
    after = max(len(voters) for voters in voters_for(without).values())
    if after < min(3, now):
        raise Conflict(
            f"without node {node} metadata would have {after} voter, now it has {now}:"
            " the next failure would lose it. hint: let another node join first"
        )


@attrs.frozen
class _Newcomer:
    """What a joining node says of itself."""

    token: Token
    member: Member

    @classmethod
    def parse(cls, value: object) -> _Newcomer:
        """Raises InvalidRequest for anything but a well-formed request."""
        if not isinstance(value, Mapping):
            raise InvalidRequest("a join request is a map")
        node = _text(value, "node", 16)
        if not is_node_id(node):
            raise InvalidRequest("a join request names a node id of 16 hex digits")
        weight = value.get("weight")
        if not isinstance(weight, int) or not 0 <= weight <= 1 << 40:
            raise InvalidRequest("a join request's weight is a whole number")
        member = Member(
            node=NodeId(node),
            weight=weight,
            zone=_text(value, "zone", 64),
            rack=_text(value, "rack", 64),
            host=_text(value, "host", 64),
            cluster_address=_text(value, "cluster_address", 256),
            s3_address=_text(value, "s3_address", 256),
            state="active",
            joined=0,
        )
        return cls(Token.parse(_text(value, "token", 256)), member)

    def into(self, layout: Layout) -> Layout:
        """The next layout with this node; the same one where it is in already."""
        if any(member.node == self.member.node for member in layout.members):
            return layout
        return with_member(layout, self.member)


def _text(value: Mapping[Any, Any], key: str, size_max: int) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not 0 < len(text) <= size_max:
        raise InvalidRequest(f"a join request's {key} is 1 to {size_max} characters")
    return text
