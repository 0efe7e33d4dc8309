"""Gossip at work: the core fed with packets, exchanges and time, its effects carried out.

Sending a packet never waits, and exchanges run in tasks of their own, so each input and
its effects are one step that nothing can come between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random

import structlog
import trio

from objstore import metrics
from objstore.buffer import Buffer
from objstore.config import GossipConfig
from objstore.errors import ObjstoreError
from objstore.gossip.core import (
    Changed,
    Core,
    Effect,
    Forgotten,
    IdentityConflict,
    OnlyByStream,
    Refuted,
    Send,
    StartExchange,
    Timing,
)
from objstore.gossip.members import Member, State
from objstore.host.network import Address, Packets
from objstore.ids import NodeId

__all__ = ["Gossip", "Member", "State"]

log = structlog.get_logger()

PushPull = Callable[[NodeId | Address, bytes], Awaitable[Buffer]]

_LEAVE_TIMEOUT_S = 2.0
_STREAM_WARNING_PAUSE_MS = 60_000

_EVENTS = {
    State.ALIVE: "gossip.node_recovered",
    State.SUSPECT: "gossip.node_suspected",
    State.DEAD: "gossip.node_dead",
    State.LEFT: "gossip.node_left",
}


class Gossip:
    """This node's membership service: who is there, and what they tell of themselves."""

    def __init__(
        self,
        *,
        node: NodeId,
        boot_id: bytes,
        start_count: int,
        secret: bytes,
        packets: Packets,
        address: Address,
        push_pull: PushPull,
        random: Random,
        config: GossipConfig | None = None,
        seeds: Sequence[Address] = (),
        meta: Mapping[str, object] | None = None,
        on_conflict: Callable[[Address], None] | None = None,
        timing: Timing | None = None,
    ) -> None:
        """Make it, inside trio; `run` serves.

        boot_id: at most 16 bytes, random per process start.
        start_count: grows with every start of the node, durably, before this.
        packets: open, on the port of `address`; `run` closes it.
        address: the advertised address of this node's cluster port.
        push_pull: brings bytes to `on_push_pull` of a member or a seed, and the answer
            back.  Raises ObjstoreError where it cannot.  It need not bound its time.
        seeds: addresses to look at while alone.
        on_conflict: called when another process lives under our id (F29), with its
            address; it must end this process.
        """
        config = config or GossipConfig()
        self._packets = packets
        self._push_pull = push_pull
        self._on_conflict = on_conflict
        self._subscribers: list[Callable[[Member], None]] = []
        self._reported: dict[str, int] = {}  # Of core.dropped, what metrics know.
        self._warned_ms: dict[NodeId, int] = {}
        self._nursery: trio.Nursery | None = None
        self._tick_scope = trio.CancelScope()
        self._told = trio.Event()  # Set when nobody waits to hear of our leaving.
        self.core = Core(
            node=node,
            boot_id=boot_id,
            start_count=start_count,
            secret=secret,
            address=address,
            seeds=seeds,
            meta=meta or {},
            random=random,
            timing=timing
            or Timing(
                probe_interval_ms=config.probe_interval_ms,
                probe_timeout_ms=config.probe_timeout_ms,
            ),
            now_ms=_now_ms(),
        )
        self._count_members()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; the packets' endpoint is closed at the end."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._receive)
                nursery.start_soon(self._tick)
                task_status.started()
        finally:
            self._nursery = None
            with trio.move_on_after(1, shield=True):
                await self._packets.aclose()

    def members(self) -> dict[NodeId, Member]:
        """Everybody, this node too, in any state."""
        return dict(self.core.members)

    def member(self, node: NodeId) -> Member | None:
        return self.core.members.get(node)

    def state_of(self, node: NodeId) -> str:
        """What is believed of `node`, for people: alive, suspect, dead, left, unknown."""
        member = self.core.members.get(node)
        return "unknown" if member is None else member.state.name.lower()

    def is_alive(self, node: NodeId) -> bool:
        """Whether `node` takes part as far as known: alive, or as yet only suspected."""
        member = self.core.members.get(node)
        return member is not None and member.is_up

    def update_meta(self, meta: Mapping[str, object]) -> None:
        """Tell others of this node: the whole map, plain values, at most 256 bytes packed.

        Raises ValueError if it is longer.
        """
        self._carry_out(self.core.update_meta(meta, _now_ms()))

    def set_seeds(self, seeds: Sequence[Address]) -> None:
        self.core.set_seeds(seeds)

    def subscribe(self, callback: Callable[[Member], None]) -> None:
        """Call back at every change of a member's state, address, boot id or meta.

        The callback runs inside a step: it must be quick and may not wait.
        """
        self._subscribers.append(callback)

    def on_push_pull(self, peer: NodeId | None, data: Buffer) -> bytes:
        """Answer what a peer's `push_pull` brought.  Raises RemoteProtocolError."""
        answer, effects = self.core.on_exchange(data, _now_ms(), peer=peer)
        self._carry_out(effects)
        return answer

    async def leave(self) -> None:
        """Say good-bye and wait until it was told often enough, or for two seconds."""
        self._told = trio.Event()
        self._carry_out(self.core.leave(_now_ms()))
        with trio.move_on_after(_LEAVE_TIMEOUT_S):
            await self._told.wait()

    async def _receive(self) -> None:
        while True:
            data, source = await self._packets.receive()
            self._carry_out(self.core.on_packet(data, source, _now_ms()))

    async def _tick(self) -> None:
        while True:
            self._carry_out(self.core.on_tick(_now_ms()))
            self._report()
            with trio.CancelScope(deadline=self._next_tick()) as self._tick_scope:
                await trio.sleep_forever()

    def _next_tick(self) -> float:
        # A millisecond later, as the clock is cut to whole ones.
        return (self.core.next_tick_ms() + 1) / 1000

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(address, data):
                    self._packets.send(data, address)
                case StartExchange():
                    if self._nursery is not None:
                        self._nursery.start_soon(self._exchange, effect)
                case Changed(member, previous):
                    self._on_changed(member, previous)
                case Forgotten(member):
                    log.info("gossip.node_forgotten", peer=member.node)
                    self._count_members()
                case IdentityConflict(address):
                    log.error("gossip.identity_conflict", peer=str(address))
                    if self._on_conflict is not None:
                        self._on_conflict(address)
                case Refuted(state, incarnation):
                    reason = f"believed {state.name.lower()}"
                    log.info(
                        "gossip.rumour_refuted", reason=reason, incarnation=incarnation
                    )
                case OnlyByStream(node):
                    self._warn_of_packets(node)
        self._tick_scope.deadline = self._next_tick()
        if self.core.is_told:
            self._told.set()

    async def _exchange(self, start: StartExchange) -> None:
        data: Buffer
        try:
            with trio.fail_after(start.timeout_ms / 1000):
                data = await self._push_pull(start.target, start.data)
        except (
            ObjstoreError,
            OSError,
            trio.TooSlowError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
        ) as problem:
            log.debug("gossip.exchange_failed", peer=str(start.target), reason=str(problem))
            self.core.on_exchange_failed(start.number)
            return
        self._carry_out(self.core.on_exchanged(start.number, data, _now_ms()))

    def _on_changed(self, member: Member, previous: Member | None) -> None:
        if previous is None or member.state is not previous.state:
            event = _EVENTS[member.state] if previous else "gossip.node_joined"
            level = log.warning if member.state is State.DEAD else log.info
            level(event, peer=member.node, address=str(member.address))
            self._count_members()
        elif member.boot_id != previous.boot_id:
            log.info("gossip.node_restarted", peer=member.node, address=str(member.address))
        for callback in self._subscribers:
            try:
                callback(member)
            except Exception:
                log.exception("gossip.subscriber_failed", peer=member.node)

    def _warn_of_packets(self, node: NodeId) -> None:
        now_ms = _now_ms()
        if now_ms - self._warned_ms.get(node, -_STREAM_WARNING_PAUSE_MS) < (
            _STREAM_WARNING_PAUSE_MS
        ):
            return
        self._warned_ms[node] = now_ms
        log.warning("gossip.packets_lost", peer=node)

    def _count_members(self) -> None:
        counts = dict.fromkeys(State, 0)
        for member in self.core.members.values():
            counts[member.state] += 1
        for state, count in counts.items():
            metrics.GOSSIP_MEMBERS.labels(state.name.lower()).set(count)

    def _report(self) -> None:
        metrics.GOSSIP_HEALTH.set(self.core.health)
        for reason, count in self.core.dropped.items():
            new = count - self._reported.get(reason, 0)
            if new:
                metrics.GOSSIP_DROPPED.labels(reason).inc(new)
                self._reported[reason] = count


def _now_ms() -> int:
    return int(trio.current_time() * 1000)
