"""A network in memory, on trio's (virtual) time, between named hosts.

    fabric ─── links, one a direction and pair of hosts: latency, loss, cuts ...
       │
       ├─ host "a" (10.0.0.1)   listeners, packet endpoints, streams of its present boot
       └─ host "b" (10.0.0.2)

A connection is two pipes.  A pipe keeps what was sent with the time at which it is due;
the reader waits for that time, so there is no task and no queue besides.

    fault                        a stream                          a packet
    latency, jitter              arrives later, in order           arrives later, any order
    bytes_per_s                  later by its size                 likewise
    loss                         is sent again, so late by 0.2 s   is lost
    duplicate, reorder           not seen                          twice; up to 50 ms late
    cut (black hole), one way    waits until healed; connects      is lost
                                 time out
    cut (reset), both ways       breaks at once; connects are      is lost
                                 refused
    kill of a host's process     ends or is reset, as a kernel     nobody listens
                                 would do it
    power loss of a host         silence; a reset once it is up    is lost
                                 and hears of it; keep-alive
                                 breaks it after two minutes

Host names, their addresses, and "localhost" can be connected to.  TLS is in `testing.tls`.
"""

from __future__ import annotations

import errno
import heapq
import math
from collections import deque
from collections.abc import Callable, Container
from random import Random
from typing import Literal

import attrs
import trio

from objstore.buffer import Buffer
from objstore.host.clock import Clock
from objstore.host.network import (
    Address,
    ClientTls,
    Listener,
    Packets,
    ServerTls,
    Stream,
)
from objstore.ids import NodeId
from objstore.limits import ACCEPT_BACKLOG
from objstore.testing.boot import Boot
from objstore.testing.failure import os_error
from objstore.testing.tls import SimulatedTlsStream, check_server
from objstore.units import KiB

WINDOW_SIZE = 256 * KiB  # In flight or unread in one direction of one connection.
SEGMENT_SIZE = 64 * KiB
RECEIVE_SIZE = 64 * KiB  # Of `receive_each`, as the real host's.
PACKETS_WAITING_MAX = 1024  # More are lost, as with a socket's buffer.
PACKET_READ_SIZE = 4 * KiB  # As the real host's.
RETRANSMIT_S = 0.2
REORDER_S = 0.05
CONNECT_TIMEOUT_S = 127.0  # Linux: six retries of a SYN.
KEEPALIVE_S = 120.0

_ANY = {"", "0.0.0.0", "::"}  # noqa: S104
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_FIRST_PORT = 32_768

Cut = Literal["black_hole", "reset"]


@attrs.define
class Link:
    """What happens to what one host sends to another.  Change it at any time."""

    latency_s: float = 0.000_5
    jitter_s: float = 0.000_5
    bytes_per_s: float = math.inf
    loss: float = 0.0  # Probabilities, 0 to 1.
    duplicate: float = 0.0
    reorder: float = 0.0
    cut: Cut | None = None


@attrs.define(eq=False)
class _Machine:
    """One host as the network sees it."""

    name: str
    ip: str
    boot: Boot | None = None  # None: no process.
    powered: bool = True
    next_port: int = _FIRST_PORT
    listeners: dict[int, SimulatedListener] = attrs.field(factory=dict)
    endpoints: dict[int, SimulatedPackets] = attrs.field(factory=dict)
    # A dict for its order: what happens to all streams happens in the order they began.
    streams: dict[PlainStream, None] = attrs.field(factory=dict)

    def free_port(self, taken: Container[int]) -> int:
        while True:
            self.next_port = self.next_port % 65_535 + 1
            if self.next_port >= _FIRST_PORT and self.next_port not in taken:
                return self.next_port


@attrs.define(eq=False)
class Fabric:
    """The cables."""

    random: Random
    split_probability: float = 0.1  # How often a receive gives only a part.
    default: Link = attrs.field(factory=Link)
    on_sent: Callable[[str, str, bytes], None] | None = None  # Told of all that is sent.
    _machines: dict[str, _Machine] = attrs.field(factory=dict)
    _links: dict[tuple[str, str], Link] = attrs.field(factory=dict)
    _loopback: Link = attrs.field(factory=lambda: Link(0.000_05, 0.0))

    def link(self, source: str, target: str) -> Link:
        """The link from one host to another, to be changed."""
        if source == target:
            return self._loopback
        if (source, target) not in self._links:
            self._links[source, target] = attrs.evolve(self.default)
        return self._links[source, target]

    def cut(
        self,
        source: str,
        target: str,
        *,
        mode: Cut = "black_hole",
        one_way: bool = False,
    ) -> None:
        """Cut the link; a reset cuts both ways, as it has to be heard to be one."""
        assert source != target
        pairs = [(source, target)]
        if mode == "reset" or not one_way:
            pairs.append((target, source))
        for pair in pairs:
            self.link(*pair).cut = mode
        if mode == "reset":
            self._reset_streams(source, target)
        self.changed()

    def heal(self, source: str, target: str, *, one_way: bool = False) -> None:
        self.link(source, target).cut = None
        if not one_way:
            self.link(target, source).cut = None
        self.changed()

    def heal_all(self) -> None:
        """Undo every cut; latencies and losses stay."""
        for link in self._links.values():
            link.cut = None
        self.changed()

    def changed(self) -> None:
        """Let everybody who waits look again."""
        for machine in self._machines.values():
            for stream in machine.streams:
                stream.wake()

    def add(self, name: str) -> None:
        """Add a host, down as yet."""
        assert name not in self._machines
        assert len(self._machines) < 255 * 255
        high, low = divmod(len(self._machines), 255)
        self._machines[name] = _Machine(name, f"10.0.{high}.{low + 1}")

    def start(self, boot: Boot) -> None:
        machine = self._machines[boot.host]
        machine.boot = boot
        machine.powered = True
        self.changed()

    def stop(self, host: str, *, power: bool) -> None:
        """End the process of a host, or take its power."""
        machine = self._machines[host]
        machine.boot = None
        machine.powered = not power
        for listener in list(machine.listeners.values()):
            listener.die(quietly=power)
        machine.endpoints.clear()
        if not power:
            for stream in list(machine.streams):
                stream.close_by_kernel()
        machine.streams.clear()
        self.changed()

    def machine(self, name: str) -> _Machine:
        return self._machines[name]

    def resolve(self, host: str, asker: str) -> _Machine | None:
        if host in _LOCAL:
            return self._machines[asker]
        for machine in self._machines.values():
            if host in {machine.name, machine.ip}:
                return machine
        return None

    def delay_s(self, link: Link, size: int) -> float:
        return (
            link.latency_s + link.jitter_s * self.random.random() + size / link.bytes_per_s
        )

    def is_open(self, source: str, target: str) -> bool:
        """Whether what is sent now will arrive."""
        return self.link(source, target).cut is None and self.machine(target).powered

    def round_trip_s(self, one: str, other: str) -> float:
        return self.link(one, other).latency_s + self.link(other, one).latency_s

    def _reset_streams(self, one: str, other: str) -> None:
        now = trio.current_time()
        for name, peer in ((one, other), (other, one)):
            for stream in self._machines[name].streams:
                if stream.peer_host == peer:
                    stream.reset_at(now)


@attrs.define(eq=False)
class _Pipe:
    """One direction of a connection."""

    fabric: Fabric
    source: str
    target: str
    segments: deque[tuple[float, bytes]] = attrs.field(factory=deque)  # Due, data.
    unread: int = 0  # Bytes in `segments`.
    ends: bool = False  # An end follows the last segment.
    last_due: float = 0.0

    def put(self, data: bytes) -> None:
        if self.fabric.on_sent is not None:
            self.fabric.on_sent(self.source, self.target, data)
        self.last_due = max(self.last_due, self._due(len(data)))
        self.segments.append((self.last_due, data))
        self.unread += len(data)

    def end(self) -> None:
        if not self.ends:
            self.ends = True
            self.last_due = max(self.last_due, self._due(0))

    def take(self, size_max: int) -> bytes | None:
        """What is due, b"" at the end, or None: not yet."""
        now = trio.current_time()
        if not self.fabric.is_open(self.source, self.target):
            return None
        pieces: list[bytes] = []
        missing = size_max
        while missing and self.segments and self.segments[0][0] <= now:
            due, data = self.segments.popleft()
            if len(data) > missing:
                self.segments.appendleft((due, data[missing:]))
                data = data[:missing]
            pieces.append(data)
            missing -= len(data)
        self.unread -= size_max - missing
        if not pieces:
            return b"" if self.ends and not self.segments and self.last_due <= now else None
        return b"".join(pieces)

    def next_due(self) -> float:
        """When `take` may have something new, if nobody does anything."""
        if not self.fabric.is_open(self.source, self.target):
            return math.inf
        if self.segments:
            return self.segments[0][0]
        return self.last_due if self.ends else math.inf

    def _due(self, size: int) -> float:
        link = self.fabric.link(self.source, self.target)
        due = trio.current_time() + self.fabric.delay_s(link, size)
        while link.loss and self.fabric.random.random() < min(link.loss, 0.9):
            due += RETRANSMIT_S
        return due


class PlainStream:
    """One end of a connection."""

    def __init__(
        self, fabric: Fabric, boot: Boot, outgoing: _Pipe, incoming: _Pipe, remote: Address
    ) -> None:
        self._fabric = fabric
        self._boot = boot
        self._outgoing = outgoing
        self._incoming = incoming
        self._remote = remote
        self.peer: PlainStream | None = None  # The other end; None until paired.
        self._changed = trio.Event()
        self._reset_at = math.inf
        self._silent_since = math.inf  # When the peer was first out of reach.
        self._closed = False
        self._eof_sent = False
        self._sending = False
        fabric.machine(boot.host).streams[self] = None

    @property
    def remote(self) -> Address:
        return self._remote

    @property
    def peer_node(self) -> NodeId | None:
        return None

    @property
    def peer_host(self) -> str:
        return self._outgoing.target

    async def handshake(self) -> None:
        """There is none."""

    def at_pass_end(self) -> None:
        return None

    async def receive_some(self, size_max: int) -> bytes:
        assert size_max > 0
        await trio.lowlevel.checkpoint()
        random = self._fabric.random
        if size_max > 1 and random.random() < self._fabric.split_probability:
            size_max = random.randint(1, size_max)
        while True:
            self._check()
            data = self._incoming.take(size_max)
            if data is not None:
                assert self.peer is not None
                self.peer.wake()  # There is room again.
                return data
            await self._wait(self._incoming.next_due())

    async def receive_each(self, take: Callable[[bytes], bool]) -> None:
        while take(await self.receive_some(RECEIVE_SIZE)):
            pass

    async def receive_into(self, buffer: memoryview) -> int:
        data = await self.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def send_all(self, data: Buffer) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            rest = memoryview(bytes(data))  # The caller may reuse its buffer.
            while True:
                self._check()
                if self._eof_sent:
                    raise trio.ClosedResourceError("the sending side is closed")
                rest = rest[self.send_part(rest) :]
                if not rest:
                    return
                await self._wait(math.inf)
        finally:
            self._sending = False

    def send_part(self, data: bytes | memoryview) -> int:
        """Send what the window has room for; returns how many bytes that was."""
        sent = 0
        room = WINDOW_SIZE - self._outgoing.unread
        while sent < min(len(data), room):
            piece = bytes(data[sent : sent + min(SEGMENT_SIZE, room - sent)])
            self._outgoing.put(piece)
            sent += len(piece)
        assert self.peer is not None
        if sent:  # Else two senders with full windows would wake each other for ever.
            self.peer.wake()
        self._hear_of_death()
        return sent

    def try_send(self, data: bytes) -> bool:
        """Send all of it or nothing, as far as the window has room."""
        if (
            not self._boot.alive
            or self._closed
            or self._eof_sent
            or self._sending
            or trio.current_time() >= self._reset_at
            or self._outgoing.unread + len(data) > WINDOW_SIZE
        ):
            return False
        self.send_part(data)
        return True

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        self._send_eof()

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        if self._boot.alive:
            self.close_by_kernel()
            self._fabric.machine(self._boot.host).streams.pop(self, None)
        self._closed = True
        self.wake()

    def close_by_kernel(self) -> None:
        """Say goodbye: an end, or a reset where the peer's bytes were never read."""
        assert self.peer is not None
        if self._incoming.unread:
            self.peer.reset_at(trio.current_time() + self._one_way_s())
        else:
            self._send_eof()
        self._closed = True
        self.wake()

    def reset_at(self, time: float) -> None:
        """Let this end break at `time`, unless it does so before."""
        if time < self._reset_at:
            self._reset_at = time
            self.wake()

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _send_eof(self) -> None:
        if not self._eof_sent:
            self._eof_sent = True
            self._outgoing.end()
            assert self.peer is not None
            self.peer.wake()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream is closed")
        self._hear_of_death()
        if not self._boot.alive or trio.current_time() >= self._reset_at:
            raise trio.BrokenResourceError(f"the connection with {self._remote} broke")

    def _hear_of_death(self) -> None:
        """Be reset where we have sent to an end that is no more, and a kernel says so."""
        assert self.peer is not None
        if not self._outgoing.unread or not self._peer_is_gone():
            return
        here, there = self._boot.host, self.peer_host
        if self._fabric.is_open(here, there) and self._fabric.is_open(there, here):
            round_trip_s = self._fabric.round_trip_s(here, there)
            self.reset_at(trio.current_time() + round_trip_s)

    def _peer_is_gone(self) -> bool:
        assert self.peer is not None
        return self.peer._closed or not self.peer._boot.alive

    def _is_silent(self) -> bool:
        """Whether a keep-alive probe would stay without a good answer."""
        assert self.peer is not None
        here, there = self._boot.host, self.peer_host
        forth, back = self._fabric.is_open(here, there), self._fabric.is_open(there, here)
        forgotten = not self.peer._boot.alive and not self._incoming.ends
        return not forth or not back or forgotten

    def _one_way_s(self) -> float:
        return self._fabric.link(self._boot.host, self.peer_host).latency_s

    async def _wait(self, due: float) -> None:
        """Wait until `due`, a change, the reset, or the keep-alive's verdict."""
        now = trio.current_time()
        if not self._is_silent():
            self._silent_since = math.inf
        elif self._silent_since > now:
            self._silent_since = now
        verdict_at = self._silent_since + KEEPALIVE_S
        if now >= verdict_at:
            self.reset_at(now)
            return
        with trio.move_on_at(min(due, self._reset_at, verdict_at)):
            await self._changed.wait()


class SimulatedListener:
    def __init__(
        self,
        fabric: Fabric,
        boot: Boot,
        address: Address,
        tls: ServerTls | None,
        clock: Clock,
    ) -> None:
        self._fabric = fabric
        self._boot = boot
        self._address = address
        self._tls = tls
        self._clock = clock
        self._waiting: deque[PlainStream] = deque()
        self._changed = trio.Event()
        self._closed = False

    @property
    def address(self) -> Address:
        return self._address

    async def accept(self) -> Stream:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._closed or not self._boot.alive:
                raise trio.ClosedResourceError("the listener is closed")
            await self._changed.wait()
        plain = self._waiting.popleft()
        if self._tls is None:
            return plain
        return SimulatedTlsStream.server(plain, self._tls, self._clock)

    async def aclose(self) -> None:
        if self._boot.alive:
            self.die(quietly=False)

    def hears(self, host: str) -> bool:
        """Whether it listens on the address that a peer has asked for."""
        bound = self._address.host
        return bound in _ANY or (bound in _LOCAL) == (host in _LOCAL)

    def arrive(self, stream: PlainStream) -> None:
        self._waiting.append(stream)
        self._wake()

    def is_full(self) -> bool:
        return len(self._waiting) >= ACCEPT_BACKLOG

    def die(self, *, quietly: bool) -> None:
        """Close; those who wait in the queue are reset, or hear nothing."""
        if self._closed:
            return
        self._closed = True
        self._fabric.machine(self._boot.host).listeners.pop(self._address.port, None)
        while self._waiting and not quietly:
            stream = self._waiting.popleft()
            assert stream.peer is not None
            stream.peer.reset_at(trio.current_time() + stream._one_way_s())
            stream.close()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class SimulatedPackets:
    def __init__(self, fabric: Fabric, boot: Boot, address: Address) -> None:
        self._fabric = fabric
        self._boot = boot
        self._address = address
        # Due, a number that makes equal times ordered, data, sender.
        self._waiting: list[tuple[float, int, bytes, Address]] = []
        self._arrived = 0
        self._changed = trio.Event()
        self._closed = False

    @property
    def address(self) -> Address:
        return self._address

    def send(self, data: bytes, to: Address) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the endpoint is closed")
        here = self._boot.host
        machine = self._fabric.resolve(to.host, here)
        if machine is None or not self._boot.alive or len(data) > 65_507:
            return
        if self._fabric.on_sent is not None:
            self._fabric.on_sent(here, machine.name, data)
        link, random = self._fabric.link(here, machine.name), self._fabric.random
        if not self._fabric.is_open(here, machine.name) or random.random() < link.loss:
            return
        endpoint = machine.endpoints.get(to.port)
        if endpoint is None:
            return
        local = machine.name == here
        host = "127.0.0.1" if local else self._fabric.machine(here).ip
        sender = Address(host, self._address.port)
        copies = 2 if random.random() < link.duplicate else 1
        for _ in range(copies):
            delay_s = self._fabric.delay_s(link, len(data))
            if random.random() < link.reorder:
                delay_s += random.random() * REORDER_S
            endpoint._arrive(trio.current_time() + delay_s, data, sender)

    async def receive(self) -> tuple[bytes, Address]:
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed or not self._boot.alive:
                raise trio.ClosedResourceError("the endpoint is closed")
            due = self._waiting[0][0] if self._waiting else math.inf
            if due <= trio.current_time():
                _, _, data, sender = heapq.heappop(self._waiting)
                return data[:PACKET_READ_SIZE], sender
            with trio.move_on_at(due):
                await self._changed.wait()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._wake()
            if self._boot.alive:
                machine = self._fabric.machine(self._boot.host)
                machine.endpoints.pop(self._address.port, None)

    def _arrive(self, due: float, data: bytes, sender: Address) -> None:
        if len(self._waiting) < PACKETS_WAITING_MAX:
            self._arrived += 1
            heapq.heappush(self._waiting, (due, self._arrived, bytes(data), sender))
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@attrs.frozen(eq=False)
class SimulatedNetwork:
    """The `Network` of one boot."""

    _fabric: Fabric
    _boot: Boot
    _clock: Clock

    async def listen(self, address: Address, *, tls: ServerTls | None = None) -> Listener:
        await trio.lowlevel.checkpoint()
        if tls is not None:
            check_server(tls)
        machine = self._machine()
        bound = self._bound(address, machine.listeners)
        listener = SimulatedListener(self._fabric, self._boot, bound, tls, self._clock)
        machine.listeners[bound.port] = listener
        return listener

    async def connect(self, address: Address, *, tls: ClientTls | None = None) -> Stream:
        plain = await self._connect(address)
        if tls is None:
            return plain
        stream = SimulatedTlsStream.client(plain, tls, self._clock)
        try:
            await stream.handshake()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def open_packets(self, address: Address) -> Packets:
        await trio.lowlevel.checkpoint()
        machine = self._machine()
        bound = self._bound(address, machine.endpoints)
        endpoint = SimulatedPackets(self._fabric, self._boot, bound)
        machine.endpoints[bound.port] = endpoint
        return endpoint

    async def _connect(self, address: Address) -> PlainStream:
        await trio.lowlevel.checkpoint()
        self._boot.check()
        here = self._boot.host
        target = self._fabric.resolve(address.host, here)
        if target is None:
            raise OSError(errno.ENOENT, f"no host is called {address.host!r}")
        await self._wait_for_path(target)
        self._boot.check()
        listener = target.listeners.get(address.port)
        if listener is None or not listener.hears(address.host) or listener.is_full():
            raise os_error(errno.ECONNREFUSED, str(address))
        return self._pair(target, listener, address)

    async def _wait_for_path(self, target: _Machine) -> None:
        """Exchange SYNs: a round trip, with retries while the way is cut."""
        here, there = self._boot.host, target.name
        deadline = trio.current_time() + CONNECT_TIMEOUT_S
        retry_s = 1.0
        while True:
            await trio.sleep(self._fabric.round_trip_s(here, there))
            if self._fabric.link(here, there).cut == "reset":
                raise os_error(errno.ECONNREFUSED, there)
            if self._fabric.is_open(here, there) and self._fabric.is_open(there, here):
                return
            if trio.current_time() + retry_s > deadline:
                await trio.sleep_until(deadline)
                raise os_error(errno.ETIMEDOUT, there)
            await trio.sleep(retry_s)
            retry_s *= 2

    def _pair(
        self, target: _Machine, listener: SimulatedListener, address: Address
    ) -> PlainStream:
        fabric, here, there = self._fabric, self._boot.host, target.name
        assert target.boot is not None
        forth, back = _Pipe(fabric, here, there), _Pipe(fabric, there, here)
        machine = self._machine()
        host = "127.0.0.1" if address.host in _LOCAL else machine.ip
        origin = Address(host, machine.free_port(()))
        near = PlainStream(fabric, self._boot, forth, back, address)
        far = PlainStream(fabric, target.boot, back, forth, origin)
        near.peer, far.peer = far, near
        listener.arrive(far)
        return near

    def _machine(self) -> _Machine:
        self._boot.check()
        return self._fabric.machine(self._boot.host)

    def _bound(self, address: Address, taken: Container[int]) -> Address:
        """The address to bind.  Raises OSError where it is in use or not ours."""
        machine = self._machine()
        if address.host not in _ANY | _LOCAL | {machine.name, machine.ip}:
            raise os_error(errno.EADDRNOTAVAIL)
        if address.port in taken:
            raise os_error(errno.EADDRINUSE, str(address))
        port = address.port or machine.free_port(taken)
        return Address(address.host, port)
