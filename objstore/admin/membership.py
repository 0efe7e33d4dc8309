"""Nodes come and go: tokens, joins, leaves.

A join, from the new node's side (`objstore.node.joining`):

    1. cluster.authority   unverified TLS: the CA's certificate; compared with the token
    2. cluster.join        TLS verified by that CA: token, node id, addresses, domains
                           -> certificate and key, gossip secret, admin token, seeds

The server spends one use of the token, puts the node into the next layout and answers.
Repeated with the same node id (after a crash between, or a lost answer) it answers anew,
changes nothing and spends nothing.

A leave, each step only after the one before:

    1. the node is alive, holds no fragment, and metadata keeps enough voters without it
    2. layout: the node is draining          no new placements; its votes move off
    3. floor raised in every slot in use     what was placed on it by an older ring, and is
                                             not committed yet, never will be
    4. it has no replica and no fragment     asked again: nothing can come any more
    5. layout without it                     its daemon marks the folder as left and stops

Where a step fails the node is made active again.  Cut off by a crash it stays draining
for a while: the same leave, asked again, goes on; else the node is active again after five
minutes (`objstore.node.place`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

import attrs
import structlog
import trio

from objstore.admin import settings
from objstore.admin.tokens import Token
from objstore.errors import Conflict, InvalidRequest, NotFound, ObjstoreError, Unavailable
from objstore.host.clock import Clock
from objstore.host.entropy import Entropy
from objstore.host.network import Address
from objstore.host.pki import Authority, Pki
from objstore.host.threads import Threads
from objstore.ids import ClusterId, Epoch, NodeId, Slot, is_node_id
from objstore.meta.client import MetaClient
from objstore.meta.commands import (
    CreateJoinToken,
    RaiseFloor,
    SetLayout,
    SpendJoinToken,
)
from objstore.meta.errors import StaleEpoch
from objstore.meta.values import JoinToken
from objstore.meta.view import ClusterView
from objstore.ring.layout import (
    Layout,
    Member,
    with_member_state,
    with_members,
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
_GONE_TIMEOUT_S = 2.0  # Shorter than silence takes to be called death.
_UNDO_TIMEOUT_S = 20.0
_FLOORS_AT_ONCE = 16
_REPORT_TIMEOUT_MS = 5_000
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
    _admitting: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _newcomers: list[Member] = attrs.field(factory=list, init=False)  # Of the next layout.

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
        log.info("admin.token_created", token=token.token_id, uses=uses)
        return token

    # ---- join, the serving side -------------------------------------------------------

    async def on_authority(self, call: Call) -> Reply:
        """Answer rpc cluster.authority (anonymous): the CA's certificate."""
        del call
        return Reply({"authority_pem": self.authority_pem, "cluster": self.cluster})

    async def on_join(self, call: Call) -> Reply:
        """Answer rpc cluster.join (anonymous): let the node that asks in."""
        newcomer = _Newcomer.parse(call.value, now_ms=self.clock.utc_now_ms())
        token, node = newcomer.token, newcomer.member.node
        await self.meta.propose(SpendJoinToken(token.token_id, token.secret_hash(), node))
        self._require_own_address(newcomer.member)
        layout = await self._admit(newcomer.member)
        log.info("admin.node_joined", peer=node, epoch=layout.epoch)
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
                    # Not others who join just now: they know nobody yet, and would make
                    # a gossip of their own.
                    if member.node != newcomer.member.node and self.is_alive(member.node)
                ],
                "layout": encode_layout(layout),
            }
        )

    async def _admit(self, newcomer: Member) -> Layout:
        """A layout with the newcomer in it; those who come meanwhile share the next one.

        If cancelled, it may have become a member.
        """
        self._newcomers.append(newcomer)
        try:
            async with self._admitting:
                if self.view.layout.find(newcomer.node) is not None:
                    return self.view.layout
                batch = tuple(self._newcomers)
                return await self.change_layout(partial(_with_newcomers, members=batch))
        finally:
            self._newcomers.remove(newcomer)

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

    def _require_own_address(self, newcomer: Member) -> None:
        """Refuse an address at which others would find somebody else, or themselves."""
        others = [m for m in self.view.layout.members if m.node != newcomer.node]
        for member in others:
            if member.cluster_address == newcomer.cluster_address and self.is_alive(
                member.node
            ):
                raise InvalidRequest(
                    f"cluster address {newcomer.cluster_address} is that of node"
                    f" {member.node}. hint: set cluster.address, and cluster.advertise to"
                    " where the other nodes reach this one"
                )
            if _is_anywhere(member.cluster_address):
                raise InvalidRequest(
                    f"node {member.node} is known as {member.cluster_address}, where"
                    " nobody else can connect. hint: found the cluster with"
                    " cluster.advertise set"
                )
        if _is_loopback(newcomer.cluster_address) and not all(
            _is_loopback(member.cluster_address) for member in others
        ):
            raise InvalidRequest(
                f"cluster address {newcomer.cluster_address} cannot be reached from other"
                " machines. hint: set cluster.advertise to an address that can"
            )

    # ---- leave ------------------------------------------------------------------------

    async def leave(self, node: NodeId) -> bool:
        """Take an empty node out; False where it could not be told any more.

        Takes up to two minutes.  Raises NotFound, Conflict (why it cannot go),
        Unavailable.  If cancelled, the node is made active again.
        """
        await self.view.refresh()
        if self.view.layout.find(node) is None:
            raise NotFound(f"no node {node} in this cluster")
        if not self.is_alive(node):
            raise Conflict(
                f"node {node} does not answer: only a live, empty node can leave."
                " hint: giving up a dead node's place (remove) is not built yet"
            )
        _require_voters(self.view.layout, node)
        try:
            # One that is on its way out already, as whoever was asked before has died, may
            # have come by something meanwhile: it stays, and gets its share again.
            await self._require_empty(node)
            draining = await self.change_layout(partial(_draining, node=node))
            await self._move_off(node, draining.epoch)
        except BaseException:
            await self._undo(node)
            raise
        await self.change_layout(partial(_without, node=node))
        log.info("admin.node_left", peer=node)
        return await self._tell(node)

    async def _move_off(self, node: NodeId, epoch: Epoch) -> None:
        """Return once nothing is on the node, and nothing can come.  Raises Conflict."""
        with trio.move_on_after(_LEAVE_TIMEOUT_S) as scope:
            await self._raise_floors(epoch)
            while (await self._report(node))["groups"]:  # noqa: ASYNC110 - a remote state.
                await trio.sleep(_LEAVE_POLL_S)
            await self._require_empty(node)
        if scope.cancelled_caught:
            raise Unavailable(
                f"node {node} still has metadata after {_LEAVE_TIMEOUT_S:.0f} s."
                " hint: is every other node alive and well? try again then"
            )

    async def _raise_floors(self, epoch: Epoch) -> None:
        """Have commits refused that were placed by a ring before `epoch`.

        In the slots of all buckets: whoever knows a bucket made later knows this layout.
        """
        await self.view.refresh()
        slots = sorted({slot for record in self.view.buckets() for slot in record.span})
        limiter = trio.CapacityLimiter(_FLOORS_AT_ONCE)

        async def raise_floor(slot: Slot) -> None:
            async with limiter:
                await self.meta.propose(RaiseFloor(slot, epoch))

        try:
            async with trio.open_nursery() as nursery:
                for slot in slots:
                    nursery.start_soon(raise_floor, slot)
        except* ObjstoreError as errors:
            raise Unavailable(f"not every shard answers: {_first(errors)}") from errors

    async def _undo(self, node: NodeId) -> None:
        """Let a node that could not leave be an active member again."""
        with trio.CancelScope(shield=True), trio.move_on_after(_UNDO_TIMEOUT_S):
            try:
                await self.keep(node)
            except ObjstoreError as error:
                log.warning("admin.leave_not_undone", peer=node, reason=str(error))

    async def keep(self, node: NodeId) -> None:
        """Make a node that is on its way out an active member again, if it is one still."""
        await self.change_layout(partial(_active, node=node))

    async def _tell(self, node: NodeId) -> bool:
        try:
            await self.peers.call(node, "node.left", timeout_ms=_REPORT_TIMEOUT_MS)
        except ObjstoreError as error:
            # It may have seen the new layout by itself, and be gone: then it says so.
            with trio.move_on_after(_GONE_TIMEOUT_S):
                while self.is_alive(node):  # noqa: ASYNC110 - a remote state.
                    await trio.sleep(_LEAVE_POLL_S)
                return True
            log.warning("admin.node_not_told", peer=node, reason=str(error))
            return False
        return True

    async def _require_empty(self, node: NodeId) -> None:
        report = await self._report(node)
        lost = [drive["path"] for drive in report["drives"] if drive["state"] != "ok"]
        if lost:
            raise Conflict(
                f"what is on drive {', '.join(lost)} of node {node} cannot be counted."
                " hint: see its reason in the status; start the node again once it is well"
            )
        if report["fragments"]:
            raise Conflict(
                f"node {node} holds {report['fragments']} fragments."
                " hint: moving data off a node (drain) is not built yet"
            )

    async def _report(self, node: NodeId) -> dict[str, Any]:
        reply = await self.peers.call(node, "node.report", timeout_ms=_REPORT_TIMEOUT_MS)
        assert isinstance(reply.value, dict)
        return reply.value

    # ---- the layout -------------------------------------------------------------------

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


# Changes of the layout.  Each looks at the layout that it changes: what was true of the
# one before, another leave may have changed meanwhile.


def _draining(layout: Layout, *, node: NodeId) -> Layout:
    _require_voters(layout, node)
    return with_member_state(layout, node, "draining")


def _active(layout: Layout, *, node: NodeId) -> Layout:
    if layout.member(node).state != "draining":
        return layout  # It died meanwhile, or somebody else let it in again.
    return with_member_state(layout, node, "active")


def _without(layout: Layout, *, node: NodeId) -> Layout:
    if layout.member(node).state != "draining":
        raise Conflict(f"node {node} is no longer on its way out. hint: try again")
    return without_member(layout, node)


def _with_newcomers(layout: Layout, *, members: tuple[Member, ...]) -> Layout:
    """The next layout with those who are not in yet; the same one where all are."""
    return with_members(layout, [m for m in members if layout.find(m.node) is None])


def _require_voters(layout: Layout, node: NodeId) -> None:
    """Raise Conflict where metadata would be left with one voter, though it has more."""
    others = [m for m in layout.members if m.votes and m.node != node]
    if not others:
        raise Conflict(f"node {node} is the cluster's only one")
    now = _most_voters(layout)
    after = _most_voters(with_member_state(layout, node, "draining"))
    if after < min(3, now):
        raise Conflict(
            f"without node {node} metadata would have {after} voter, now it has {now}:"
            " the next failure would lose it. hint: let another node join first"
        )


def _most_voters(layout: Layout) -> int:
    return max(len(voters) for voters in voters_for(layout).values())


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _is_loopback(address: str) -> bool:
    host = Address.parse(address).host
    ip = _ip(host)
    return host == "localhost" if ip is None else ip.is_loopback


def _is_anywhere(address: str) -> bool:
    """0.0.0.0 and the like: fine to listen on, nothing to connect to."""
    ip = _ip(Address.parse(address).host)
    return ip is not None and ip.is_unspecified


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    """None for a name: whoever resolves it knows."""
    try:
        return ip_address(host)
    except ValueError:
        return None


@attrs.frozen
class _Newcomer:
    """What a joining node says of itself."""

    token: Token
    member: Member

    @classmethod
    def parse(cls, value: object, *, now_ms: int) -> _Newcomer:
        """Raises InvalidRequest for anything but a well-formed request."""
        if not isinstance(value, Mapping):
            raise InvalidRequest("a join request is a map")
        node = _text(value, "node", 16)
        if not is_node_id(node):
            raise InvalidRequest("a join request names a node id of 16 hex digits")
        weight = value.get("weight")
        if type(weight) is not int or not 0 <= weight <= 1 << 40:
            raise InvalidRequest("a join request's weight is a whole number")
        member = Member(
            node=NodeId(node),
            weight=weight,
            zone=_text(value, "zone", 64),
            rack=_text(value, "rack", 64),
            host=_text(value, "host", 64),
            cluster_address=_address(value, "cluster_address"),
            s3_address=_url(value, "s3_address"),
            state="active",
            joined=now_ms,
        )
        return cls(Token.parse(_text(value, "token", 256)), member)


def _text(value: Mapping[Any, Any], key: str, size_max: int) -> str:
    text = value.get(key)
    if (
        not isinstance(text, str)
        or not 0 < len(text.encode(errors="replace")) <= size_max
        or not text.isprintable()
    ):
        raise InvalidRequest(
            f"a join request's {key} is 1 to {size_max} printable characters"
        )
    return text


def _address(value: Mapping[Any, Any], key: str) -> str:
    """An address that others can connect to: the layout keeps it."""
    text = _text(value, key, 256)
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise InvalidRequest(f"a join request's {key} is HOST:PORT") from error
    if address.port == 0 or _is_anywhere(text):
        raise InvalidRequest(
            f"a join request's {key} is {text}, where nobody can connect."
            f" hint: set {key.removesuffix('_address')}.advertise"
        )
    return text


def _url(value: Mapping[Any, Any], key: str) -> str:
    text = _text(value, key, 256)
    try:
        parts = urlsplit(text)
        is_right = parts.scheme in {"http", "https"} and bool(parts.hostname and parts.port)
    except ValueError:
        is_right = False
    if not is_right:
        raise InvalidRequest(f"a join request's {key} is http(s)://HOST:PORT")
    return text
