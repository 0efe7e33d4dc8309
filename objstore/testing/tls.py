"""Simulated TLS: the rules of trust and of ending, without the cryptography.

Records go through the plain stream:

    offset  size  field
    0       4     magic, b"STLS"
    4       1     kind: 1 client hello, 2 server hello, 3 client certificate,
                  4 data, 5 close_notify, 6 alert
    5       4     uint32be, payload size
    9       -     payload: certificate PEM, data, or the alert's reason

The handshake has the order of TLS 1.3: the client judges the server first, and has
finished before the server judges it; a client that is refused learns it when it receives.
What is no record (a plain HTTP request, garbage) fails the handshake.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

import attrs
import trio

from objstore.buffer import Buffer
from objstore.host.clock import Clock
from objstore.host.network import Address, ClientTls, ServerTls, TlsIdentity
from objstore.ids import NodeId
from objstore.testing.pki import BadCertificate, Certificate, check_identity, verify
from objstore.units import KiB

_HEADER = struct.Struct(">4sBI")
_MAGIC = b"STLS"
_RECORD_SIZE_MAX = 16 * KiB
_RECEIVE_SIZE = 64 * KiB


class _Kind(IntEnum):
    CLIENT_HELLO = 1
    SERVER_HELLO = 2  # Payload: b"?" where a certificate is asked for, and its own.
    CLIENT_CERTIFICATE = 3
    DATA = 4
    CLOSE_NOTIFY = 5
    ALERT = 6


class Transport(Protocol):
    """The plain stream below."""

    @property
    def remote(self) -> Address: ...

    async def receive_some(self, size_max: int) -> bytes: ...

    async def send_all(self, data: Buffer) -> None: ...

    def try_send(self, data: bytes) -> bool: ...

    def close(self) -> None: ...


@attrs.frozen
class _Record:
    kind: _Kind
    payload: bytes


class SimulatedTlsStream:
    """One end.  Made by `client` or `server`; the handshake is done on first use."""

    def __init__(
        self, transport: Transport, clock: Clock, tls: ClientTls | ServerTls
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._tls = tls
        self._peer_node: NodeId | None = None
        self._handshaking = trio.Lock()
        self._sending = trio.Lock()
        self._buffer = bytearray()  # Received, not a whole record yet.
        self._data = bytearray()  # Of a record, not asked for yet.
        self._ready = False
        self._broken = False
        self._eof_sent = False
        self._eof_received = False
        self._closed = False

    @classmethod
    def client(
        cls, transport: Transport, tls: ClientTls, clock: Clock
    ) -> SimulatedTlsStream:
        return cls(transport, clock, tls)

    @classmethod
    def server(
        cls, transport: Transport, tls: ServerTls, clock: Clock
    ) -> SimulatedTlsStream:
        return cls(transport, clock, tls)

    @property
    def remote(self) -> Address:
        return self._transport.remote

    @property
    def peer_node(self) -> NodeId | None:
        return self._peer_node

    async def handshake(self) -> None:
        async with self._handshaking:
            if self._ready:
                return
            self._check_usable()
            self._broken = True  # Until it is done.
            try:
                if isinstance(self._tls, ClientTls):
                    await self._greet_server(self._tls)
                else:
                    await self._greet_client(self._tls)
            except BadCertificate as error:
                self._transport.try_send(_encode(_Kind.ALERT, str(error).encode()))
                raise self._error(f"TLS handshake failed: {error}") from error
            self._ready = True
            self._broken = False

    def at_pass_end(self) -> None:
        return None

    async def receive_some(self, size_max: int) -> bytes:
        assert size_max > 0
        if not self._ready:
            await self.handshake()
        while not self._data:
            self._check_usable()
            if self._eof_received:
                return b""
            record = await self._receive_record()
            if record.kind == _Kind.DATA:
                self._data += record.payload
            elif record.kind == _Kind.CLOSE_NOTIFY:
                self._eof_received = True
            else:
                self._broken = True
                raise self._error(f"TLS failed: {record.payload!r}")
        data = bytes(self._data[:size_max])
        del self._data[:size_max]
        return data

    async def receive_each(self, take: Callable[[bytes], bool]) -> None:
        while take(await self.receive_some(_RECEIVE_SIZE)):
            pass

    async def receive_into(self, buffer: memoryview) -> int:
        data = await self.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def send_all(self, data: Buffer) -> None:
        if not self._ready:
            await self.handshake()
        self._check_usable()
        if self._eof_sent:
            raise trio.ClosedResourceError("the sending side is closed")
        async with self._sending:
            rest = bytes(data)
            while rest:
                await self._send(_Kind.DATA, rest[:_RECORD_SIZE_MAX])
                rest = rest[_RECORD_SIZE_MAX:]

    def try_send(self, data: bytes) -> bool:
        if (
            not self._ready
            or not 0 < len(data) <= _RECORD_SIZE_MAX
            or self._closed
            or self._broken
            or self._eof_sent
            or self._sending.locked()
        ):
            return False
        return self._transport.try_send(_encode(_Kind.DATA, data))

    async def send_eof(self) -> None:
        if not self._ready:
            await self.handshake()
        self._check_usable()
        if not self._eof_sent:
            async with self._sending:
                self._eof_sent = True
                await self._send(_Kind.CLOSE_NOTIFY, b"")

    async def aclose(self) -> None:
        if self._closed:
            return
        usable = self._ready and not self._broken and not self._eof_sent
        if usable and not self._sending.locked():
            self._transport.try_send(_encode(_Kind.CLOSE_NOTIFY, b""))
        self._closed = True
        self._transport.close()

    async def _greet_server(self, tls: ClientTls) -> None:
        identity = tls.identity
        if identity is not None:
            check_identity(identity)
        await self._send(_Kind.CLIENT_HELLO, b"")
        hello = await self._expect(_Kind.SERVER_HELLO)
        trust_pem = tls.trust_pem if identity is None else identity.trust_pem
        if identity is not None or trust_pem:
            self._peer_node = self._judge(hello[1:], trust_pem, as_server=True).node
        if tls.server_node not in {None, self._peer_node}:
            raise BadCertificate(
                f"expected node {tls.server_node}, found {self._peer_node}"
            )
        if hello[:1] == b"?":
            shown = b"" if identity is None else identity.certificate_pem
            await self._send(_Kind.CLIENT_CERTIFICATE, shown)

    async def _greet_client(self, tls: ServerTls) -> None:
        await self._expect(_Kind.CLIENT_HELLO)
        identity = tls.identity()
        check_identity(identity)
        asking = b"?" if tls.mutual else b"-"
        await self._send(_Kind.SERVER_HELLO, asking + identity.certificate_pem)
        if tls.mutual and (shown := await self._expect(_Kind.CLIENT_CERTIFICATE)):
            leaf = self._judge(shown, identity.trust_pem, as_server=False)
            self._peer_node = leaf.node

    def _judge(self, pem: bytes, trust_pem: bytes, *, as_server: bool) -> Certificate:
        now_ms = self._clock.utc_now_ms()
        return verify(pem, trust_pem, now_ms=now_ms, as_server=as_server)

    async def _expect(self, kind: _Kind) -> bytes:
        record = await self._receive_record()
        if record.kind != kind:
            reason = record.payload.decode(errors="replace")
            raise self._error(f"TLS handshake failed: {record.kind.name} {reason}")
        return record.payload

    async def _send(self, kind: _Kind, payload: bytes) -> None:
        broken, self._broken = self._broken, True  # If cancelled, bytes are lost.
        await self._transport.send_all(_encode(kind, payload))
        self._broken = broken

    async def _receive_record(self) -> _Record:
        while True:
            try:
                record = _take_record(self._buffer)
            except ValueError as error:
                self._broken = True
                raise self._error(f"TLS failed: {error}") from error
            if record is not None:
                return record
            data = await self._transport.receive_some(_RECEIVE_SIZE)
            if not data:
                self._broken = True
                raise self._error("TLS failed: it ended without close_notify")
            self._buffer += data

    def _check_usable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream is closed")
        if self._broken and not self._sending.locked():
            raise self._error("the TLS connection broke before")

    def _error(self, reason: str) -> trio.BrokenResourceError:
        return trio.BrokenResourceError(f"{self._transport.remote}: {reason}")


def check_server(tls: ServerTls) -> None:
    """Raise OSError where the identity is of no use, as the real host does."""
    _check(tls.identity)


def _check(identity: Callable[[], TlsIdentity]) -> None:
    try:
        check_identity(identity())
    except BadCertificate as error:
        raise OSError(errno.EINVAL, str(error)) from error


def _encode(kind: _Kind, payload: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, kind, len(payload)) + payload


def _take_record(buffer: bytearray) -> _Record | None:
    """The first record of `buffer`, taken out, or None: not whole.  Raises ValueError."""
    if not _MAGIC.startswith(bytes(buffer[: len(_MAGIC)])):
        raise ValueError("this is not TLS")
    if len(buffer) < _HEADER.size:
        return None
    _, kind, size = _HEADER.unpack_from(buffer)
    if size > _RECORD_SIZE_MAX:
        raise ValueError("the record is too long")
    if len(buffer) < _HEADER.size + size:
        return None
    payload = bytes(buffer[_HEADER.size : _HEADER.size + size])
    del buffer[: _HEADER.size + size]
    return _Record(_Kind(kind), payload)
