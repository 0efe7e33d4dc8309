"""The network of the machine: non-blocking sockets under trio.

Sockets are used without trio's own wrappers: a call first tries, and only waits where the
kernel says so (SPEED: a send and a receive cost a fifth).  So that a busy peer cannot keep
the loop to itself, a stream that succeeded `_TRIES_MAX` times without waiting lets others
run.  Cancellation is noticed where it waits or yields.

TLS is in `real_tls`, over the same plain stream.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable

import attrs
import structlog
import trio

from objstore.buffer import Buffer
from objstore.host.network import (
    Address,
    ClientTls,
    Listener,
    Packets,
    ServerTls,
    Stream,
)
from objstore.host.real_pass_end import at_pass_end
from objstore.host.real_tls import TlsStream, client_context, server_context
from objstore.ids import NodeId
from objstore.limits import ACCEPT_BACKLOG
from objstore.units import KiB

log = structlog.get_logger()

ACCEPTS_PER_PASS = 16  # Enough for a herd; few enough that nobody waits for it.
ACCEPT_PAUSE_S = 0.1  # Short for a client, long for a loop that would spin.
# Names of packets' targets: more than a cluster has nodes, and asked again soon.
NAMES_MAX = 4096
NAME_LIFE_S = 30.0
NAME_DEADLINE_S = 5.0

_TRIES_MAX = 8
_THROUGH_SIZE = 256 * KiB
# Of a body that is coming: so much is waited for at once (a record between nodes is less),
# but so long, or twice; a sender that is slower is not waited for in this way for a while.
_LOW_WATER = 260 * KiB
_LOW_WATER_MIN = 32 * KiB
_LOW_WATER_WAIT_S = 0.02
_SLOW_WAITS = 32
# A larger datagram than PACKET_SIZE_MAX is not ours; cut, it fails its authentication.
_PACKET_READ_SIZE = 4 * KiB
_PACKETS_BUFFER_SIZE = 1024 * KiB  # A burst of gossip while the loop is busy.
_KEEPALIVE_S = 60  # An idle peer that is gone is noticed after two minutes.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# accept(2): errors of the one connection, already gone, and not of the listener.
_CONNECTION_GONE = {
    errno.ECONNABORTED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENONET,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EPROTO,
    errno.ETIMEDOUT,
}

_through = threading.local()


class PlainStream:
    """A TCP connection."""

    def __init__(self, connection: socket.socket, remote: Address) -> None:
        self._socket = connection
        self._remote = remote
        self._closed = False
        self._sending = False
        self._begun_size = 0  # Bytes of the next message that `try_send` has sent.
        self._eof_sent = False
        self._tries = 0
        self._is_drained = False  # The last receive got all there was.
        self._low_water = 1
        self._slow_waits = 0  # Before low water is tried again.
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S // 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)

    @property
    def remote(self) -> Address:
        return self._remote

    @property
    def peer_node(self) -> NodeId | None:
        return None

    async def handshake(self) -> None:
        """There is none."""

    async def receive_some(self, size_max: int) -> bytes:
        assert size_max > 0
        while True:
            if self._is_drained:
                await self._wait_readable(0)
            try:
                data = self._socket.recv(size_max)
            except BlockingIOError:
                self._is_drained = True
            except OSError as error:
                raise self._error() from error
            else:
                # Most often the next one would find nothing: a call and an error saved.
                self._is_drained = len(data) < size_max
                await self._let_others_run()
                return data

    async def receive_into(self, buffer: memoryview) -> int:
        assert len(buffer) > 0
        await self._let_others_run()  # Before: who is cancelled here has lost nothing.
        while True:
            if self._is_drained:
                await self._wait_readable(len(buffer))
            if (size := self._receive_now(buffer)) is not None:
                return size

    async def receive_through(
        self, write: Callable[[memoryview], object], expected: int
    ) -> int:
        """Give what comes to `write`, which copies it; 0 at the end of the stream.

        expected: so many bytes will come, if the other end does not break off.
        It lies in a buffer of the thread meanwhile, and nowhere while nothing comes.
        """
        while True:
            if self._is_drained:
                await self._wait_readable(expected)
            through = _through_buffer()
            size = self._receive_now(through)
            if size:
                write(through[:size])
            if size is not None:
                await self._let_others_run()
                return size

    async def receive_each(self, take: Callable[[bytes], bool]) -> None:
        await self.receive_each_through(lambda data: take(bytes(data)))

    async def receive_each_through(
        self, take: Callable[[memoryview], bool], size_max: int = _THROUGH_SIZE
    ) -> None:
        """As `receive_each`; what `take` is given is its own until it returns."""
        self._set_low_water(1)
        through = _through_buffer()[:size_max]
        while not self._closed:
            await trio.lowlevel.wait_readable(self._socket)
            size = self._receive_now(through)
            if size is not None and not take(through[:size]):
                return
        raise self._error()

    def _receive_now(self, buffer: memoryview) -> int | None:
        """What has come; None: nothing yet."""
        try:
            size = self._socket.recv_into(buffer)
        except BlockingIOError:
            self._is_drained = True
            return None
        except OSError as error:
            raise self._error() from error
        self._is_drained = size < len(buffer)
        return size

    async def send_all(self, data: Buffer) -> None:
        if self._eof_sent:
            raise trio.ClosedResourceError("the sending side is closed")
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            if self._begun_size:
                data = memoryview(data)[self._begun_size :]
                self._begun_size = 0
            sent = self._send(data)
            if sent < len(data):
                await self._send_rest(memoryview(data)[sent:])
            await self._let_others_run()
        finally:
            self._sending = False

    def try_send(self, data: bytes) -> bool:
        if self._begun_size or self._tries + 1 >= _TRIES_MAX:  # `send_all` lets others run.
            return False
        sent = self.send_now(data)
        if sent < len(data):
            self._begun_size = sent
            return False
        self._tries += 1
        return True

    def at_pass_end(self) -> Callable[[Callable[[], None]], None] | None:
        return at_pass_end()

    def send_now(self, data: bytes | bytearray) -> int:
        """Send what fits without waiting; how much that was.  `send_all` finds errors."""
        if self._sending or self._eof_sent:
            return 0
        try:
            return self._socket.send(data)
        except OSError:
            return 0

    async def send_eof(self) -> None:
        if self._eof_sent:
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._error() from error
        self._eof_sent = True

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _send(self, data: Buffer) -> int:
        """Send what fits, without waiting; 0 where nothing does."""
        try:
            return self._socket.send(data) if data else 0
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._error() from error

    async def _send_rest(self, rest: memoryview) -> None:
        while rest:
            self._tries = 0
            await trio.lowlevel.wait_writable(self._socket)
            rest = rest[self._send(rest) :]

    async def _wait_readable(self, expected: int) -> None:
        """Wait for something; of many bytes that will come, for a good part of them.

        Else a body costs a pass of the loop for every packet or two.  Not for long
        (`_Patience`): who sends slowly, or stops, is heard as ever.
        """
        self._is_drained = False
        self._tries = 0
        wanted = min(expected, _LOW_WATER)
        if wanted < _LOW_WATER_MIN or self._slow_waits > 0:
            self._slow_waits -= 1
            self._set_low_water(1)
            await trio.lowlevel.wait_readable(self._socket)
            return
        self._set_low_water(wanted)
        patience = _patience()
        patience.add(self)
        try:
            await trio.lowlevel.wait_readable(self._socket)
        finally:
            patience.discard(self)

    def lower_water(self) -> None:
        """Make it readable as soon as anything is there: its sender is slow."""
        self._slow_waits = _SLOW_WAITS
        self._set_low_water(1)

    def _set_low_water(self, size: int) -> None:
        """How many bytes make the socket readable."""
        if size != self._low_water:
            self._low_water = size
            with contextlib.suppress(OSError):  # Gone: the next call will say so.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    async def _let_others_run(self) -> None:
        self._tries += 1
        if self._tries >= _TRIES_MAX:
            self._tries = 0
            await trio.lowlevel.checkpoint()

    def _error(self) -> Exception:
        if self._closed:
            return trio.ClosedResourceError("the stream is closed")
        return trio.BrokenResourceError(f"the connection with {self._remote} broke")


class _Patience:
    """The streams that wait for much at once, and the end of their patience.

    One task looks after all of them, as a cancel scope for each wait would cost as much as
    some of the waits that are saved.
    """

    def __init__(self) -> None:
        self._since: dict[PlainStream, float] = {}  # In the order in which they came.
        self._has_come = trio.Event()

    def add(self, stream: PlainStream) -> None:
        self._since[stream] = trio.current_time()
        if len(self._since) == 1:
            self._has_come.set()

    def discard(self, stream: PlainStream) -> None:
        self._since.pop(stream, None)

    async def serve(self) -> None:
        """Until trio's run ends."""
        while True:
            await self._has_come.wait()
            self._has_come = trio.Event()
            while self._since:
                await trio.sleep(_LOW_WATER_WAIT_S)
                begun = trio.current_time() - _LOW_WATER_WAIT_S
                slow = [stream for stream, since in self._since.items() if since <= begun]
                for stream in slow:
                    del self._since[stream]
                    stream.lower_water()  # The kernel wakes who waits.


_patiences: trio.lowlevel.RunVar[_Patience] = trio.lowlevel.RunVar("objstore-patience")


def _patience() -> _Patience:
    try:
        return _patiences.get()
    except LookupError:
        patience = _Patience()
        _patiences.set(patience)
        trio.lowlevel.spawn_system_task(patience.serve)
        return patience


def _through_buffer() -> memoryview:
    """What `receive_through` receives into: one a thread, as nobody keeps it."""
    try:
        buffer: memoryview = _through.buffer
    except AttributeError:
        buffer = _through.buffer = memoryview(bytearray(_THROUGH_SIZE))
    return buffer


@attrs.define(eq=False)
class RealListener:
    """A listening TCP socket."""

    _socket: socket.socket
    _address: Address
    _tls: ServerTls | None
    _closed: bool = False
    _accepted: int = 0

    @property
    def address(self) -> Address:
        return self._address

    async def accept(self) -> Stream:
        connection, remote = await self._accept()
        try:
            plain = PlainStream(connection, remote)
        except OSError:  # Gone before we could set an option: its first use will say so.
            connection.close()
            return await self.accept()
        if self._tls is None:
            return plain
        tls = self._tls
        return TlsStream(
            plain,
            lambda: server_context(tls.identity(), mutual=tls.mutual),
            server_side=True,
        )

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def _accept(self) -> tuple[socket.socket, Address]:
        # Not one a pass of the loop: on a busy node a pass takes long, and a crowd of new
        # clients would wait for as many.
        self._accepted += 1
        if self._accepted % ACCEPTS_PER_PASS:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        pausing = False
        while True:
            if self._closed:
                raise trio.ClosedResourceError("the listener is closed")
            try:
                connection, name = self._socket.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    if not pausing:
                        log.warning(
                            "host.accept_paused",
                            address=str(self._address),
                            reason=error.strerror,
                        )
                    pausing = True
                    await trio.sleep(ACCEPT_PAUSE_S)
                elif error.errno in _CONNECTION_GONE:
                    await trio.lowlevel.checkpoint()
                else:
                    raise
            else:
                return connection, _address_of(name)


class RealPackets:
    """A UDP socket.

    A target given by name is looked up beside the caller's way: its first packets are
    lost, which a datagram's sender has to bear anyway.
    """

    def __init__(self, endpoint: socket.socket) -> None:
        self._socket = endpoint
        self._address = _address_of(endpoint.getsockname())
        self._closed = False
        self._names = _Names(endpoint.family)

    @property
    def address(self) -> Address:
        return self._address

    def send(self, data: bytes, to: Address) -> None:
        host = self._names.resolve(to.host)
        if host is None:
            return
        try:
            self._socket.sendto(data, (host, to.port))
        except OSError:
            # Full, unreachable, or refused by an earlier packet's answer: all of it is
            # loss, and loss is what the protocol above is made for.
            if self._closed:
                raise trio.ClosedResourceError("the endpoint is closed") from None

    async def receive(self) -> tuple[bytes, Address]:
        while True:
            if self._closed:
                raise trio.ClosedResourceError("the endpoint is closed")
            # Also a checkpoint; to look first would cost a pass of the loop for nothing,
            # as packets come one by one.
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data, name = self._socket.recvfrom(_PACKET_READ_SIZE)
            except OSError:  # An answer to an earlier packet; says nothing of this one.
                continue
            return data, _address_of(name)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class RealNetwork:
    """The machine's network."""

    async def listen(self, address: Address, *, tls: ServerTls | None = None) -> Listener:
        if tls is not None:  # A bad certificate is told now, not to the first client.
            server_context(tls.identity(), mutual=tls.mutual)
        listener = await _bound(address, socket.SOCK_STREAM)
        try:
            listener.listen(ACCEPT_BACKLOG)
            name = _address_of(listener.getsockname())
        except BaseException:
            listener.close()
            raise
        return RealListener(listener, name, tls)

    async def connect(self, address: Address, *, tls: ClientTls | None = None) -> Stream:
        plain = await _connect(address)
        if tls is None:
            return plain
        trust = tls.trust_pem if tls.identity is None else tls.identity.trust_pem
        stream = TlsStream(
            plain,
            lambda: client_context(tls.identity, trust, for_bulk=tls.for_bulk),
            server_side=False,
            expected_node=tls.server_node,
        )
        try:
            await stream.handshake()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def open_packets(self, address: Address) -> Packets:
        return RealPackets(await _bound(address, socket.SOCK_DGRAM))


@attrs.define
class _Name:
    """A host name's address, as far as known."""

    literal: str | None = None
    asked: float = -NAME_LIFE_S  # trio time


class _Names:
    """Addresses of names, looked up in the background and kept for NAME_LIFE_S.

    A look-up is a system task of at most NAME_DEADLINE_S: `send` may not wait and has no
    nursery.  An old address is used while a newer one is asked for.
    """

    def __init__(self, family: socket.AddressFamily | int) -> None:
        self._family = family
        self._known: OrderedDict[str, _Name] = OrderedDict()

    def resolve(self, host: str) -> str | None:
        try:
            return self._in_family(ipaddress.ip_address(host))
        except ValueError:
            pass
        name = self._known.get(host)
        if name is None:
            name = self._known[host] = _Name()
            if len(self._known) > NAMES_MAX:
                self._known.popitem(last=False)
        now = trio.current_time()
        if now - name.asked >= NAME_LIFE_S:
            name.asked = now
            trio.lowlevel.spawn_system_task(self._look_up, host, name)
        return name.literal

    def _in_family(
        self, literal: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> str | None:
        if self._family == socket.AF_INET6 and literal.version == 4:
            return f"::ffff:{literal}"
        if self._family == socket.AF_INET and literal.version == 6:
            return None
        return str(literal)

    async def _look_up(self, host: str, name: _Name) -> None:
        with trio.move_on_after(NAME_DEADLINE_S):
            try:
                found = await trio.socket.getaddrinfo(
                    host,
                    0,
                    family=self._family,
                    type=socket.SOCK_DGRAM,
                    flags=socket.AI_V4MAPPED,
                )
            except (OSError, UnicodeError):
                return
            name.literal = str(found[0][4][0])


async def _connect(address: Address) -> PlainStream:
    try:
        stream = await trio.open_tcp_stream(address.host, address.port)
    except UnicodeError as error:  # A host that cannot even be asked for.
        raise OSError(f"{address.host!r} is not a host name") from error
    connection = socket.socket(fileno=stream.socket.detach())
    try:
        return PlainStream(connection, address)
    except BaseException:
        connection.close()
        raise


async def _bound(address: Address, kind: socket.SocketKind) -> socket.socket:
    """A socket bound to `address`."""
    found = await trio.socket.getaddrinfo(
        address.host, address.port, type=kind, flags=socket.AI_PASSIVE
    )
    family, _, protocol, _, name = found[0]
    endpoint = socket.socket(family, kind, protocol)
    try:
        endpoint.setblocking(False)
        if kind == socket.SOCK_STREAM:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PACKETS_BUFFER_SIZE)
        endpoint.bind(name)
    except BaseException:
        endpoint.close()
        raise
    return endpoint


def _address_of(name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """The address in a socket name; an IPv4 address seen through IPv6 as IPv4."""
    return Address(name[0].removeprefix("::ffff:"), name[1])
