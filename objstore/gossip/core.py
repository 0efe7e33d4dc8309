"""The membership protocol: SWIM with Lifeguard, as a state machine.

Packets, exchanges and time go in; effects come out, to be carried out in order:

    probe period      ping ---- timeout ----> ping-req by k, and a probe over a stream
                        | ack                    | ack: fine        | none by the end
                        v                        v                  v
                      fine                                       SUSPECT
    suspicion         alive with a later incarnation: ALIVE     timeout: DEAD
    dissemination     news rides on every packet; beside probes, on packets of its own
                      while there is any
    exchange          whole state with a random member now and then, with a seed when alone

Differences from the paper, each for a reason:
- a probe over a stream runs beside ping-req: a network that eats datagrams only is the
  operator's trouble, and no reason to declare nodes dead (OnlyByStream says it);
- DEAD is not for ever: dead members are pinged now and then, with the news of their
  death, and come back by a later incarnation (F16, F18);
- DEAD learnt by an exchange is only a suspicion here: its subject may refute.

Local health (Lifeguard) is 0 when well and grows to HEALTH_MAX; probe interval and timeout
are (health + 1) times as long.

This module opens nothing, waits for nothing and knows no clock: `now_ms` is monotonic.
(Das, Gupta, Motivala 2002, "SWIM"; Dadgar, Phillips, Currey 2018, "Lifeguard")
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from random import Random

import attrs

from objstore.buffer import Buffer
from objstore.errors import RemoteProtocolError
from objstore.gossip import messages
from objstore.gossip.broadcast import BroadcastQueue
from objstore.gossip.members import (
    MEMBERS_MAX,
    UNKNOWN_BOOT,
    Member,
    State,
    first_incarnation,
    is_news_of_meta,
    overrides,
    rumoured,
    start_count_of,
)
from objstore.gossip.messages import (
    OVERHEAD,
    Ack,
    Alive,
    Dead,
    Left,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
    RemoteState,
    ReplayWindow,
    Sealer,
    Suspect,
    alive_of,
    encode_message,
    sequence_of,
)
from objstore.gossip.suspicion import Suspicion, suspicion_min_ms
from objstore.host.network import Address
from objstore.ids import NodeId
from objstore.limits import PACKET_SIZE_MAX

HEALTH_MAX = 8  # Lifeguard's S.
REPLY_FACTOR = 3  # A reply is at most so many times its request (F33).
_RELAYS_MAX = 256  # Probes made for others at one time.
_EXCHANGES_MAX = 8  # Under way at one time.
EXCHANGE_TIMEOUT_MS = 5_000
_NEVER_MS = 2**53


@attrs.frozen(kw_only=True)
class Timing:
    """The protocol's numbers."""

    probe_interval_ms: int = 500
    probe_timeout_ms: int = 250
    relays: int = 3  # The paper's k of ping-req.
    nack_percent: int = 80  # Of the timeout: a nack must still be in time.
    # 3 s in a cluster of up to ten, then with log10 N.
    suspicion_multiplier: int = 6
    suspicion_max_factor: int = 6  # Lifeguard's beta.
    confirmations: int = 2  # Lifeguard's K.
    gossip_interval_ms: int = 200
    gossip_fanout: int = 3
    retransmit_multiplier: int = 4  # The paper's lambda.
    exchange_interval_ms: int = 15_000
    revive_interval_ms: int = 2_000  # A dead member is pinged so often.
    seed_pause_min_ms: int = 500  # While alone; doubled up to:
    seed_pause_max_ms: int = 8_000
    meta_interval_ms: int = 200  # News about ourselves goes out at most so often.
    forget_dead_ms: int = 24 * 3_600_000
    forget_left_ms: int = 10 * 60_000

    def __attrs_post_init__(self) -> None:
        assert 0 < self.probe_timeout_ms < self.probe_interval_ms


@attrs.frozen
class Send:
    """Send a packet."""

    address: Address
    data: bytes


@attrs.frozen
class StartExchange:
    """Exchange `data` over a stream; answer by on_exchanged or on_exchange_failed."""

    number: int
    target: NodeId | Address  # A member, or a seed.
    data: bytes
    timeout_ms: int  # Later answers are of no use: say that it failed.


@attrs.frozen
class Changed:
    """A member is new, or what is known of it has changed."""

    member: Member
    previous: Member | None


@attrs.frozen
class Forgotten:
    """A member that was dead or had left for long is no longer remembered."""

    member: Member


@attrs.frozen
class IdentityConflict:
    """Another process lives under our node id (F29)."""

    address: Address
    boot_id: bytes


@attrs.frozen
class Refuted:
    """Somebody believed us dead or suspect."""

    state: State
    incarnation: int


@attrs.frozen
class OnlyByStream:
    """A member answers over streams, while our packets to it or its answers are lost."""

    node: NodeId


Effect = (
    Send | StartExchange | Changed | Forgotten | IdentityConflict | Refuted | OnlyByStream
)


@attrs.define
class _Probe:
    """Our probe of this period."""

    target: NodeId
    start_count: int  # Of the target, as we knew it.
    number: int
    timeout_at_ms: int
    ends_at_ms: int
    is_indirect: bool = False
    relays: tuple[NodeId, ...] = ()
    nacks: set[NodeId] = attrs.Factory(set)


@attrs.define
class _Relay:
    """A probe made for somebody else."""

    origin: NodeId
    origin_number: int
    nack_at_ms: int
    ends_at_ms: int
    is_nacked: bool = False


class Core:
    """One node's side of the protocol."""

    def __init__(
        self,
        *,
        node: NodeId,
        boot_id: bytes,
        start_count: int,
        secret: bytes,
        address: Address,
        seeds: Sequence[Address],
        meta: Mapping[str, object],
        random: Random,
        timing: Timing,
        now_ms: int,
    ) -> None:
        self.node = node
        self.health = 0
        self.dropped: Counter[str] = Counter()  # Packets, by reason.
        self._start_count = start_count
        self._sealer = Sealer(secret, node)
        self._seeds = tuple(seed for seed in seeds if seed != address)
        self._random = random
        self._timing = timing
        self._counter = 0
        self._members: dict[NodeId, Member] = {}
        packed = messages.pack_meta(meta)
        self._members[node] = Member(
            node=node,
            address=address,
            meta=messages.unpack_meta(packed),
            incarnation=first_incarnation(start_count),
            state=State.ALIVE,
            boot_id=boot_id,
            since_ms=now_ms,
            packed_meta=packed,
        )
        self._up_count = 1  # Members that are up, ourselves among them.
        self._windows: OrderedDict[NodeId, ReplayWindow] = OrderedDict()
        self._queue = BroadcastQueue()
        self._suspicions: dict[NodeId, Suspicion] = {}
        self._ring: list[NodeId] = []  # The order of probes; begun anew when done.
        self._ring_at = 0
        self._probe: _Probe | None = None
        self._relays: dict[int, _Relay] = {}
        self._good_relays: dict[NodeId, NodeId] = {}  # By target: who got through last.
        self._next_number = random.getrandbits(31)
        self._exchanges: dict[int, NodeId | Address] = {}
        self._stream_probes: dict[int, int] = {}  # Exchange to the probe it is for.
        self._seed_failures = 0
        self._is_leaving = False
        self._next_meta_ms = now_ms
        self._new_meta: bytes | None = None
        self._next_probe_ms = now_ms + random.randrange(timing.probe_interval_ms)
        self._next_gossip_ms = now_ms
        self._next_exchange_ms = now_ms + self._jittered(timing.exchange_interval_ms)
        self._next_revive_ms = now_ms + self._jittered(timing.revive_interval_ms)
        self._next_seed_ms = now_ms
        self._next_forget_ms = now_ms + timing.forget_left_ms // 4
        self._queue.put(node, encode_message(alive_of(self.me)))

    # What is known.

    @property
    def me(self) -> Member:
        return self._members[self.node]

    @property
    def members(self) -> Mapping[NodeId, Member]:
        """Everybody, ourselves too; to be read, not kept."""
        return self._members

    @property
    def is_told(self) -> bool:
        """Whether there is no news left to tell: a node that leaves may go."""
        return self.node not in self._queue or self._up_count == 1

    @property
    def _is_anybody_down(self) -> bool:
        return len(self._members) > self._up_count

    # Inputs.

    def update_meta(self, meta: Mapping[str, object], now_ms: int) -> list[Effect]:
        """Tell others something new of ourselves.  Raises ValueError if it is too long."""
        packed = messages.pack_meta(meta)
        self._new_meta = packed if packed != self.me.packed_meta else None
        return self._flush_meta(now_ms)

    def set_seeds(self, seeds: Sequence[Address]) -> None:
        """Where to look for others when alone."""
        self._seeds = tuple(seed for seed in seeds if seed != self.me.address)

    def leave(self, now_ms: int) -> list[Effect]:
        """Say good-bye: others will not look for us.  Nothing is refuted from now on."""
        if self._is_leaving:
            return []
        self._is_leaving = True
        self._members[self.node] = attrs.evolve(self.me, state=State.LEFT, since_ms=now_ms)
        self._queue.put(self.node, encode_message(Left(self.node, self.me.incarnation)))
        self._next_gossip_ms = now_ms
        return []

    def on_packet(self, data: bytes, source: Address, now_ms: int) -> list[Effect]:
        """Take a packet.  What is not authentic, not for us or not new is dropped."""
        try:
            packet = self._sealer.open(data)
        except RemoteProtocolError:
            self.dropped["malformed"] += 1
            return []
        if packet is None:
            self.dropped["not_authentic"] += 1
            return []
        if not self._window_of(packet.sender).accept(packet.sequence):
            self.dropped["replayed"] += 1
            return []
        effects: list[Effect] = []
        for message in packet.messages:
            effects += self._on_message(packet, message, source, len(data), now_ms)
        if packet.sender not in self._members:
            # It knows us from a former life, or from others: ask it who is there.
            effects += self._start_exchange(now_ms, source)
        return effects

    def on_tick(self, now_ms: int) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        if not self._is_leaving:
            effects += self._tick_probe(now_ms)
            effects += self._tick_suspicions(now_ms)
            effects += self._flush_meta(now_ms)
            effects += self._tick_revive(now_ms)
            effects += self._tick_exchange(now_ms)
            effects += self._tick_forget(now_ms)
        effects += self._tick_relays(now_ms)
        effects += self._tick_gossip(now_ms)
        return effects

    def next_tick_ms(self) -> int:
        """When on_tick has something to do next; any input may change that."""
        times = [relay.ends_at_ms for relay in self._relays.values()]
        times += [r.nack_at_ms for r in self._relays.values() if not r.is_nacked]
        if len(self._queue) and self._up_count > 1:
            times.append(self._next_gossip_ms)
        if not self._is_leaving:
            times += [self._next_probe_ms, self._next_forget_ms]
            if self._is_anybody_down:
                times.append(self._next_revive_ms)
            times += [suspicion.expires_ms for suspicion in self._suspicions.values()]
            times.append(self._next_seed_ms if self._is_alone else self._next_exchange_ms)
            if self._probe is not None:
                probe = self._probe
                times.append(probe.ends_at_ms if probe.is_indirect else probe.timeout_at_ms)
            if self._new_meta is not None:
                times.append(self._next_meta_ms)
        return min(times, default=_NEVER_MS)

    # Exchanges over streams.

    def on_exchange(
        self, data: Buffer, now_ms: int, *, peer: NodeId | None = None
    ) -> tuple[bytes, list[Effect]]:
        """Answer an exchange that `peer` began.  Raises RemoteProtocolError."""
        exchange = messages.decode_exchange(data)
        if peer is not None and exchange.sender != peer:
            raise RemoteProtocolError(f"{peer} speaks as {exchange.sender}")
        if exchange.is_probe:
            return messages.encode_probe(self.node), []
        effects = self._merge(exchange.sender, exchange.states, now_ms)
        return self._encode_state(now_ms), effects

    def on_exchanged(self, number: int, data: Buffer, now_ms: int) -> list[Effect]:
        """Take the answer to an exchange that StartExchange began."""
        target = self._exchanges.pop(number, None)
        probe_number = self._stream_probes.pop(number, None)
        try:
            exchange = messages.decode_exchange(data)
        except RemoteProtocolError:
            self.dropped["malformed"] += 1
            return []
        if exchange.is_probe:
            return self._on_stream_ack(probe_number, exchange.sender)
        if target is None:
            return []
        if exchange.sender != self.node:
            self._seed_failures = 0
        return self._merge(exchange.sender, exchange.states, now_ms)

    def on_exchange_failed(self, number: int) -> None:
        """An exchange could not be made; the next attempt is in due time."""
        self._exchanges.pop(number, None)
        self._stream_probes.pop(number, None)

    # Messages.

    def _on_message(
        self, packet: Packet, message: Message, source: Address, size: int, now_ms: int
    ) -> list[Effect]:
        match message:
            case Ping(probe):
                reply_max = min(PACKET_SIZE_MAX, REPLY_FACTOR * size)
                return [self._packet(packet.sender, source, [Ack(probe)], reply_max)]
            case Ack(probe):
                return self._on_ack(packet.sender, probe)
            case Nack(probe):
                if self._probe is not None and self._probe.number == probe:
                    self._probe.nacks.add(packet.sender)
                return []
            case PingRequest():
                return self._on_ping_request(packet.sender, message, now_ms)
            case Alive():
                return self._on_alive(message, now_ms)
            case Suspect():
                return self._on_suspect(message, now_ms)
            case Dead():
                return self._on_dead(message, now_ms)
            case Left():
                return self._on_left(message, now_ms)

    def _on_ack(self, sender: NodeId, number: int) -> list[Effect]:
        if self._probe is not None and self._probe.number == number:
            target, self._probe = self._probe.target, None
            if sender != target:
                self._good_relays[target] = sender
            else:
                self._good_relays.pop(target, None)
            self._change_health(-1)
            return []
        relay = self._relays.pop(number, None)
        origin = self._members.get(relay.origin) if relay is not None else None
        if relay is None or origin is None:
            return []  # Too late.
        return [self._packet(origin.node, origin.address, [Ack(relay.origin_number)])]

    def _on_stream_ack(self, number: int | None, sender: NodeId) -> list[Effect]:
        probe = self._probe
        if probe is None or probe.number != number or probe.target != sender:
            return []
        self._probe = None
        return [OnlyByStream(sender)]

    def _on_ping_request(
        self, sender: NodeId, request: PingRequest, now_ms: int
    ) -> list[Effect]:
        if len(self._relays) >= _RELAYS_MAX or sender not in self._members:
            self.dropped["relay_refused"] += 1
            return []
        target = self._members.get(request.target)
        address = request.address if target is None else target.address
        number = self._take_number()
        timing = self._timing
        wait_ms = timing.probe_timeout_ms * timing.nack_percent // 100
        self._relays[number] = _Relay(
            origin=sender,
            origin_number=request.probe,
            nack_at_ms=now_ms + wait_ms,
            ends_at_ms=now_ms + timing.probe_interval_ms * (HEALTH_MAX + 1),
        )
        return [self._packet(request.target, address, [Ping(number)])]

    # News.

    def _on_alive(self, alive: Alive, now_ms: int) -> list[Effect]:
        if alive.node == self.node:
            return self._on_alive_self(alive)
        member = self._members.get(alive.node)
        if member is None:
            if len(self._members) >= MEMBERS_MAX:
                self.dropped["too_many_members"] += 1
                return []
            return self._set_alive(alive, None, now_ms)
        if alive.incarnation > member.incarnation:
            return self._set_alive(alive, member, now_ms)
        if is_news_of_meta(member, alive.incarnation, alive.meta_version):
            news = attrs.evolve(
                member,
                meta=messages.unpack_meta(alive.meta),
                meta_version=alive.meta_version,
                packed_meta=alive.meta,
            )
            return self._set(news, alive)
        return []

    def _set_alive(
        self, alive: Alive, previous: Member | None, now_ms: int
    ) -> list[Effect]:
        since_ms = now_ms
        if previous is not None and previous.state is State.ALIVE:
            since_ms = previous.since_ms
        member = Member(
            node=alive.node,
            address=alive.address,
            meta=messages.unpack_meta(alive.meta),
            incarnation=alive.incarnation,
            state=State.ALIVE,
            boot_id=alive.boot_id,
            since_ms=since_ms,
            meta_version=alive.meta_version,
            packed_meta=alive.meta,
        )
        effects = self._set(member, alive)
        if previous is not None and previous.state is State.DEAD:
            # It lived on the other side of a split, perhaps with others.
            effects += self._start_exchange(now_ms, member.node)
        return effects

    def _on_alive_self(self, alive: Alive) -> list[Effect]:
        if not self._names_another_process(alive):
            return []
        if start_count_of(alive.incarnation) >= self._start_count:
            return [IdentityConflict(alive.address, alive.boot_id)]
        return []  # Our former life; ours is the later incarnation.

    def _names_another_process(self, alive: Alive) -> bool:
        """Of what is said of ourselves: else an echo, or what a rumour of us has left."""
        return alive.boot_id not in {self.me.boot_id, UNKNOWN_BOOT}

    def _on_suspect(self, suspect: Suspect, now_ms: int) -> list[Effect]:
        if suspect.node == self.node:
            return self._refute(State.SUSPECT, suspect.incarnation)
        member = self._members.get(suspect.node)
        if member is None:
            return []
        if member.state is State.SUSPECT and suspect.incarnation == member.incarnation:
            if self._suspicions[member.node].confirm(suspect.accuser):
                self._queue.put(member.node, encode_message(suspect))
            return []
        if not overrides(member, State.SUSPECT, suspect.incarnation):
            return []
        return self._set_suspect(member, suspect, now_ms)

    def _set_suspect(self, member: Member, suspect: Suspect, now_ms: int) -> list[Effect]:
        timing = self._timing
        others = self._up_count - 2  # Who could confirm, beside us and it.
        min_ms = suspicion_min_ms(
            timing.suspicion_multiplier, self._up_count, timing.probe_interval_ms
        )
        self._suspicions[member.node] = Suspicion(
            suspect.accuser,
            now_ms=now_ms,
            min_ms=min_ms,
            max_ms=min_ms * timing.suspicion_max_factor,
            confirmations_needed=(
                timing.confirmations if others >= timing.confirmations else 0
            ),
        )
        suspected = rumoured(member, State.SUSPECT, suspect.incarnation, now_ms)
        return self._set(suspected, suspect)

    def _on_dead(self, dead: Dead, now_ms: int) -> list[Effect]:
        if dead.node == self.node:
            return self._refute(State.DEAD, dead.incarnation)
        member = self._members.get(dead.node)
        if member is None or not overrides(member, State.DEAD, dead.incarnation):
            return []
        return self._set(rumoured(member, State.DEAD, dead.incarnation, now_ms), dead)

    def _on_left(self, left: Left, now_ms: int) -> list[Effect]:
        if left.node == self.node:
            return self._refute(State.LEFT, left.incarnation)
        member = self._members.get(left.node)
        if member is None or not overrides(member, State.LEFT, left.incarnation):
            return []
        return self._set(rumoured(member, State.LEFT, left.incarnation, now_ms), left)

    def _refute(self, state: State, incarnation: int) -> list[Effect]:
        """Somebody says that we are suspect, dead or gone: we are not."""
        me = self.me
        if self._is_leaving or incarnation < me.incarnation:
            return []
        self._members[self.node] = me = attrs.evolve(me, incarnation=incarnation + 1)
        self._change_health(1)
        self._queue.put(self.node, encode_message(alive_of(me)))
        return [Refuted(state, me.incarnation)]

    def _set(self, member: Member, news: Message) -> list[Effect]:
        """Put `member` in place of what was known, and tell the others."""
        previous = self._members.get(member.node)
        if not member.is_up and not self._is_anybody_down:
            pause_ms = self._jittered(self._timing.revive_interval_ms)
            self._next_revive_ms = member.since_ms + pause_ms
        self._members[member.node] = member
        was_up = previous is not None and previous.is_up
        self._up_count += member.is_up - was_up
        if member.state is not State.SUSPECT:
            self._suspicions.pop(member.node, None)
        if member.is_up and not was_up:
            # At a random place of the round under way, so that all do not probe it first.
            place = self._random.randint(self._ring_at, len(self._ring))
            self._ring.insert(place, member.node)
        if (
            not member.is_up
            and self._probe is not None
            and self._probe.target == member.node
        ):
            self._probe = None
        self._queue.put(member.node, encode_message(news))
        return [Changed(member, previous)]

    def _merge(
        self, sender: NodeId, states: Iterable[RemoteState], now_ms: int
    ) -> list[Effect]:
        """Take over what a peer knows."""
        effects: list[Effect] = []
        for remote in states:
            effects += self._merge_one(sender, remote, now_ms)
        return effects

    def _merge_one(self, sender: NodeId, remote: RemoteState, now_ms: int) -> list[Effect]:
        alive = remote.alive
        known = alive.node == self.node or alive.node in self._members
        match remote.state:
            case State.ALIVE:
                return self._on_alive(alive, now_ms)
            case State.SUSPECT:
                effects = self._on_alive(alive, now_ms)
                suspect = Suspect(alive.node, alive.incarnation, sender)
                return effects + self._on_suspect(suspect, now_ms)
            case State.DEAD if known:
                if alive.node == self.node and self._names_another_process(alive):
                    return self._on_alive_self(alive)
                # It may be alive and only have been out of their reach: let it refute.
                return self._on_suspect(
                    Suspect(alive.node, alive.incarnation, sender), now_ms
                )
            case State.LEFT if known:
                return self._on_left(Left(alive.node, alive.incarnation), now_ms)
            case State.DEAD:
                return self._learn_dead(remote, now_ms)
        return []

    def _learn_dead(self, remote: RemoteState, now_ms: int) -> list[Effect]:
        """A dead member that we never met: remembered, so that it can be looked for.

        Not if it has been dead for long, or it would be handed round for ever.
        """
        alive = remote.alive
        if (
            remote.age_ms > self._timing.forget_dead_ms // 2
            or len(self._members) >= MEMBERS_MAX
        ):
            return []
        member = Member(
            node=alive.node,
            address=alive.address,
            meta=messages.unpack_meta(alive.meta),
            incarnation=alive.incarnation,
            state=State.DEAD,
            boot_id=alive.boot_id,
            since_ms=now_ms - remote.age_ms,
            meta_version=alive.meta_version,
            packed_meta=alive.meta,
        )
        self._members[member.node] = member
        return [Changed(member, None)]

    # Ticks.

    def _tick_probe(self, now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        probe = self._probe
        if probe is not None and not probe.is_indirect and now_ms >= probe.timeout_at_ms:
            effects += self._probe_indirectly(probe, now_ms)
        if probe is not None and now_ms >= probe.ends_at_ms:
            self._probe = None
            effects += self._on_probe_failed(probe, now_ms)
        if self._probe is None and now_ms >= self._next_probe_ms:
            effects += self._start_probe(now_ms)
        return effects

    def _start_probe(self, now_ms: int) -> list[Effect]:
        timing = self._timing
        interval_ms = timing.probe_interval_ms * (self.health + 1)
        self._next_probe_ms = now_ms + interval_ms
        target = self._next_target()
        if target is None:
            return []
        number = self._take_number()
        self._probe = _Probe(
            target=target.node,
            start_count=start_count_of(target.incarnation),
            number=number,
            timeout_at_ms=now_ms + timing.probe_timeout_ms * (self.health + 1),
            ends_at_ms=now_ms + interval_ms,
        )
        return [self._packet(target.node, target.address, [Ping(number)])]

    def _next_target(self) -> Member | None:
        """Round robin over members that are up, in an order shuffled anew each round."""
        for _ in range(2):
            while self._ring_at < len(self._ring):
                member = self._members.get(self._ring[self._ring_at])
                self._ring_at += 1
                if member is not None and member.is_up:
                    return member
            self._ring = [node for node in self._members if node != self.node]
            self._ring = [node for node in self._ring if self._members[node].is_up]
            self._random.shuffle(self._ring)
            self._ring_at = 0
        return None

    def _probe_indirectly(self, probe: _Probe, now_ms: int) -> list[Effect]:
        probe.is_indirect = True
        target = self._members[probe.target]
        relays = self._relays_to(probe.target)
        probe.relays = tuple(relay.node for relay in relays)
        request = PingRequest(probe.number, target.node, target.address)
        effects: list[Effect] = [
            self._packet(relay.node, relay.address, [request]) for relay in relays
        ]
        if len(self._exchanges) < _EXCHANGES_MAX:
            number = self._take_number()
            self._exchanges[number] = target.node
            self._stream_probes[number] = probe.number
            data = messages.encode_probe(self.node)
            time_ms = max(1, probe.ends_at_ms - now_ms)
            effects.append(StartExchange(number, target.node, data, time_ms))
        return effects

    def _relays_to(self, target: NodeId) -> list[Member]:
        """K members at random, the one that reached `target` last time among them.

        Where the network is cut in part, few can reach both ends (F18).
        """
        relays = self._some_members(self._timing.relays, without=target)
        good = self._members.get(self._good_relays.get(target, target))
        if good is not None and good.node != target and good.is_up and good not in relays:
            relays[-1:] = [good]
        return relays

    def _on_probe_failed(self, probe: _Probe, now_ms: int) -> list[Effect]:
        # Relays that answered with a nack show that we are well, and the target is not.
        if not probe.relays or not probe.nacks.issuperset(probe.relays):
            self._change_health(1)
        member = self._members.get(probe.target)
        if member is None or not member.is_up:
            return []
        if start_count_of(member.incarnation) != probe.start_count:
            return []  # It has been started again since: that was its former life.
        return self._on_suspect(Suspect(member.node, member.incarnation, self.node), now_ms)

    def _tick_relays(self, now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for number, relay in list(self._relays.items()):
            if not relay.is_nacked and now_ms >= relay.nack_at_ms:
                relay.is_nacked = True
                origin = self._members.get(relay.origin)
                if origin is not None:
                    nack = Nack(relay.origin_number)
                    effects.append(self._packet(origin.node, origin.address, [nack]))
            if now_ms >= relay.ends_at_ms:
                del self._relays[number]
        return effects

    def _tick_suspicions(self, now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for node, suspicion in list(self._suspicions.items()):
            if now_ms >= suspicion.expires_ms:
                member = self._members[node]
                effects += self._on_dead(Dead(node, member.incarnation, self.node), now_ms)
        return effects

    def _tick_gossip(self, now_ms: int) -> list[Effect]:
        if now_ms < self._next_gossip_ms or not len(self._queue):
            return []
        self._next_gossip_ms = now_ms + self._timing.gossip_interval_ms
        effects: list[Effect] = []
        for member in self._some_members(self._timing.gossip_fanout):
            if not len(self._queue):
                break
            effects.append(self._packet(member.node, member.address, []))
        return effects

    def _tick_revive(self, now_ms: int) -> list[Effect]:
        """Ping one of the dead, telling it so: if it lives it will refute."""
        if now_ms < self._next_revive_ms:
            return []
        self._next_revive_ms = now_ms + self._jittered(self._timing.revive_interval_ms)
        dead = [m for m in self._members.values() if m.state is State.DEAD]
        if not dead:
            return []
        member = self._random.choice(dead)
        return [
            self._packet(
                member.node,
                member.address,
                [Ping(self._take_number()), alive_of(self.me)],
            )
        ]

    def _tick_exchange(self, now_ms: int) -> list[Effect]:
        timing = self._timing
        if self._is_alone:
            if now_ms < self._next_seed_ms:
                return []
            pause_ms = timing.seed_pause_min_ms << min(self._seed_failures, 10)
            pause_ms = min(timing.seed_pause_max_ms, pause_ms)
            self._next_seed_ms = now_ms + self._jittered(pause_ms)
            if not self._seeds:
                return []
            # In turn, as chance might ask the same dead seed again and again.
            seed = self._seeds[self._seed_failures % len(self._seeds)]
            self._seed_failures += 1
            return self._start_exchange(now_ms, seed)
        if now_ms < self._next_exchange_ms:
            return []
        self._next_exchange_ms = now_ms + self._jittered(timing.exchange_interval_ms)
        known = {m.address for m in self._members.values() if m.is_up}
        strange = [seed for seed in self._seeds if seed not in known]
        if strange and self._random.random() < 0.5:
            # Another half of the cluster may be there, that never heard of this one.
            return self._start_exchange(now_ms, self._random.choice(strange))
        return self._start_exchange(now_ms, *(m.node for m in self._some_members(1)))

    def _tick_forget(self, now_ms: int) -> list[Effect]:
        if now_ms < self._next_forget_ms:
            return []
        self._next_forget_ms = now_ms + self._timing.forget_left_ms // 4
        old = [m for m in self._members.values() if self._is_forgettable(m, now_ms)]
        for member in old:
            del self._members[member.node]
            self._windows.pop(member.node, None)
            self._good_relays.pop(member.node, None)
            self._queue.drop(member.node)
        return [Forgotten(member) for member in old]

    def _is_forgettable(self, member: Member, now_ms: int) -> bool:
        if member.is_up or member.node == self.node:
            return False
        is_dead = member.state is State.DEAD
        life_ms = self._timing.forget_dead_ms if is_dead else self._timing.forget_left_ms
        return now_ms - member.since_ms >= life_ms

    def _flush_meta(self, now_ms: int) -> list[Effect]:
        if self._new_meta is None or now_ms < self._next_meta_ms or self._is_leaving:
            return []
        self._next_meta_ms = now_ms + self._timing.meta_interval_ms
        previous = self.me
        me = attrs.evolve(
            previous,
            meta=messages.unpack_meta(self._new_meta),
            packed_meta=self._new_meta,
            meta_version=previous.meta_version + 1,
        )
        self._new_meta = None
        self._members[self.node] = me
        self._queue.put(self.node, encode_message(alive_of(me)))
        return [Changed(me, previous)]

    # Parts.

    @property
    def _is_alone(self) -> bool:
        return self._up_count == 1

    def _packet(
        self,
        to: NodeId,
        address: Address,
        first: Sequence[Message],
        size_max: int = PACKET_SIZE_MAX,
    ) -> Send:
        """A packet with `first`, what its recipient must hear of itself, and news."""
        parts = [encode_message(message) for message in first]
        size = OVERHEAD + sum(map(len, parts))
        verdict = self._verdict_on(to)
        if verdict is not None and size + len(verdict) <= size_max:
            parts.append(verdict)
            size += len(verdict)
        parts += self._queue.take(
            size_max - size,
            members=self._up_count,
            multiplier=self._timing.retransmit_multiplier,
        )
        self._counter += 1
        sequence = sequence_of(self._start_count, self._counter)
        return Send(address, self._sealer.seal(to, sequence, parts))

    def _verdict_on(self, node: NodeId) -> bytes | None:
        """Lifeguard's buddy system: who is suspected hears it first, and may refute."""
        member = self._members.get(node)
        if member is None or member.state is State.ALIVE:
            return None
        if member.state is State.SUSPECT:
            return encode_message(Suspect(node, member.incarnation, self.node))
        return encode_message(Dead(node, member.incarnation, self.node))

    def _some_members(self, count: int, without: NodeId | None = None) -> list[Member]:
        """At most `count` others that are up, at random."""
        others = [
            member
            for member in self._members.values()
            if member.is_up and member.node not in {self.node, without}
        ]
        return self._random.sample(others, min(count, len(others)))

    def _start_exchange(self, now_ms: int, *targets: NodeId | Address) -> list[Effect]:
        effects: list[Effect] = []
        for target in targets:
            if len(self._exchanges) >= _EXCHANGES_MAX or target in self._exchanges.values():
                continue
            number = self._take_number()
            self._exchanges[number] = target
            data = self._encode_state(now_ms)
            effects.append(StartExchange(number, target, data, EXCHANGE_TIMEOUT_MS))
        return effects

    def _encode_state(self, now_ms: int) -> bytes:
        return messages.encode_exchange(self.node, self._members.values(), now_ms)

    def _window_of(self, sender: NodeId) -> ReplayWindow:
        window = self._windows.get(sender)
        if window is None:
            while len(self._windows) >= MEMBERS_MAX:
                self._windows.popitem(last=False)
            window = self._windows[sender] = ReplayWindow()
        return window

    def _change_health(self, by: int) -> None:
        self.health = min(HEALTH_MAX, max(0, self.health + by))

    def _take_number(self) -> int:
        self._next_number = (self._next_number + 1) & 0x7FFFFFFF
        return self._next_number

    def _jittered(self, interval_ms: int) -> int:
        return round(interval_ms * self._random.uniform(0.8, 1.2))
