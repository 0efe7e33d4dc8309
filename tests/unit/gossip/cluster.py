"""One core and forged peers: what tests of the protocol's steps are made with."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

from objstore.gossip.core import Changed, Core, Effect, Send, StartExchange, Timing
from objstore.gossip.members import State, first_incarnation
from objstore.gossip.messages import (
    Ack,
    Alive,
    Message,
    Packet,
    Ping,
    Sealer,
    encode_message,
    pack_meta,
    sequence_of,
)
from objstore.host.network import Address
from objstore.ids import NodeId

SECRET = b"sixteen bytes or more"
ME, BOB, CAROL, DAVE, EVE = (NodeId(f"{n:016x}") for n in range(1, 6))
START_COUNT = 3


def address_of(node: NodeId) -> Address:
    return Address(f"host{int(node, 16)}", 7000)


def alive(node: NodeId, incarnation: int = 5, **options: Any) -> Alive:
    meta = pack_meta(options.pop("meta", {}))
    values: dict[str, Any] = {
        "meta_version": 0,
        "address": address_of(node),
        "boot_id": node.encode()[-4:],
        **options,
    }
    return Alive(node, incarnation, meta=meta, **values)


class World:
    """The core of ME; everybody else is a forger who knows the secret."""

    def __init__(self, *others: NodeId, **timing: int) -> None:
        self.now_ms = 10_000
        self.timing = Timing(**timing)
        self.core = Core(
            node=ME,
            boot_id=b"my boot",
            start_count=START_COUNT,
            secret=SECRET,
            address=address_of(ME),
            seeds=(),
            meta={"s3": "here"},
            random=Random(1),
            timing=self.timing,
            now_ms=self.now_ms,
        )
        self._sequence = 0
        self.effects: list[Effect] = []
        for node in others:
            self.say(others[0], alive(node))
        self.effects.clear()

    @property
    def incarnation(self) -> int:
        return self.core.me.incarnation

    def packet(self, sender: NodeId, *messages: Message, to: NodeId = ME) -> bytes:
        self._sequence += 1
        sealer = Sealer(SECRET, sender)
        sequence = sequence_of(1, self._sequence)
        return sealer.seal(to, sequence, [encode_message(m) for m in messages])

    def say(self, sender: NodeId, *messages: Message) -> list[Effect]:
        data = self.packet(sender, *messages)
        effects = self.core.on_packet(data, address_of(sender), self.now_ms)
        self.effects += effects
        return effects

    def wait(self, duration_ms: int, *, answering: Iterable[NodeId] = ()) -> list[Effect]:
        """Let time go by, tick by tick; pings to `answering` are acked."""
        end_ms = self.now_ms + duration_ms
        effects: list[Effect] = []
        while self.core.next_tick_ms() <= end_ms:
            self.now_ms = max(self.now_ms, self.core.next_tick_ms())
            step = self.core.on_tick(self.now_ms)
            effects += step
            for to, ping in messages_of(step, Ping):
                if to in answering:
                    effects += self.say(to, Ack(ping.probe))
        self.now_ms = end_ms
        self.effects += effects
        return effects

    def state_of(self, node: NodeId) -> State:
        return self.core.members[node].state


def sent(effects: list[Effect]) -> list[tuple[NodeId, Message]]:
    """Each message of each packet, and to whom."""
    found = []
    for effect in effects:
        if isinstance(effect, Send):
            packet = opened(effect)
            found += [(packet.recipient, message) for message in packet.messages]
    return found


def opened(send: Send) -> Packet:
    number = int(send.address.host.removeprefix("host"))
    packet = Sealer(SECRET, NodeId(f"{number:016x}")).open(send.data)
    assert packet is not None
    return packet


def messages_of(effects: list[Effect], kind: type[Any]) -> list[tuple[NodeId, Any]]:
    return [(to, message) for to, message in sent(effects) if isinstance(message, kind)]


def exchanges(effects: list[Effect]) -> list[StartExchange]:
    return [effect for effect in effects if isinstance(effect, StartExchange)]


def changes(effects: list[Effect]) -> list[tuple[NodeId, State]]:
    return [
        (effect.member.node, effect.member.state)
        for effect in effects
        if isinstance(effect, Changed)
    ]


assert first_incarnation(1) == 1 << 20
