"""TLS over a plain stream, by the standard library's ssl on memory buffers.

Where a client that will send or ask for large bytes offers it, and the server is a node's,
TLS is left for `real_records` once its handshake is done: the same calls on an object of
the same kind, so that nothing but the handshake knows of it.

        send_all   -> SSLObject.write -> outgoing -> transport.send_all
        try_send   -> SSLObject.write -> outgoing -> transport.send_now
        receive    <- SSLObject.read  <- incoming <- transport.receive_through
        receive_into, of records <- read <- incoming <- transport.receive_into
        receive_each calls <- SSLObject.read <- incoming <- transport.receive_each_through

Of our own rather than trio.SSLStream for two reasons: it can half-close (close_notify and
go on reading, which HTTP needs, FAULTS F36), and it has one layer less on every read.

Trust: TLS 1.2 or newer; certificates are verified against the identity's own trust and
nothing else; host names are never compared, the node is named by the leaf's URI.  With TLS
1.3 a client finishes its handshake before the server has judged its certificate: one that
is refused learns it from what it receives first.

A stream that was cancelled while it sent has lost bytes, and breaks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import trio

from objstore.buffer import Buffer
from objstore.host.network import Address, TlsIdentity
from objstore.host.pki import node_of_uri
from objstore.host.real_pass_end import at_pass_end
from objstore.host.real_records import (
    ALPN,
    OVERHEAD,
    RECORD_SIZE_MAX,
    SHARE_SIZE,
    Incoming,
    Outgoing,
    Records,
    is_supported,
)
from objstore.ids import NodeId
from objstore.units import KiB

CONTEXTS_MAX = 16  # Our identity, the one before it, and the front door's, by their uses.
_SEND_SIZE = 256 * KiB  # What is encrypted at once, and held twice while it is sent.
_RECEIVE_SIZE = 64 * KiB
# Of messages, with what is around them.  Of a large one it is the beginning: what follows
# has a place of its own by then.
_EACH_SIZE = 64 * KiB + OVERHEAD
# Sent at once where it fits: a message between nodes.  More lets others run in between.
_SMALL_SIZE = 64 * KiB
_TLS_RECORD_SIZE_MAX = 17 * KiB  # At most, with what is around its bytes.


class Transport(Protocol):
    """The plain stream below."""

    @property
    def remote(self) -> Address: ...

    async def receive_into(self, buffer: memoryview) -> int: ...

    async def receive_through(
        self, write: Callable[[memoryview], object], expected: int
    ) -> int: ...

    async def receive_each_through(
        self, take: Callable[[memoryview], bool], size_max: int = ...
    ) -> None: ...

    async def send_all(self, data: Buffer) -> None: ...

    def send_now(self, data: bytes | bytearray) -> int: ...

    def close(self) -> None: ...


class _Turn:
    """Whose turn it is: a lock that costs a send nothing where nobody else sends."""

    def __init__(self) -> None:
        self.is_taken = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        """Return when the turn is the caller's."""
        await self._waiting.park()

    def end(self) -> None:
        """Hand it over to who has waited longest: it stays taken."""
        if self._waiting:
            self._waiting.unpark()
        else:
            self.is_taken = False

    async def __aenter__(self) -> None:
        if self.is_taken:
            await self.wait()
        self.is_taken = True

    async def __aexit__(self, *_: object) -> None:
        self.end()


class TlsStream:
    """One end of a TLS connection.  The handshake is done on first use, or by call."""

    def __init__(
        self,
        transport: Transport,
        make_context: Callable[[], ssl.SSLContext],
        *,
        server_side: bool,
        expected_node: NodeId | None = None,
    ) -> None:
        self._transport = transport
        self._make_context = make_context
        self._server_side = server_side
        self._expected_node = expected_node
        self._incoming: ssl.MemoryBIO | Incoming = ssl.MemoryBIO()
        self._outgoing: ssl.MemoryBIO | Outgoing = ssl.MemoryBIO()
        # None until the handshake is done.
        self._object: ssl.SSLObject | Records | None = None
        self._peer_node: NodeId | None = None
        self._handshaking = trio.Lock()
        self._sending = _Turn()
        # What `try_send` has encrypted and could not send.
        self._begun: bytes | bytearray = b""
        self._begun_size = 0  # So many bytes of the next message are in it.
        self._early = bytearray()  # Received before a half-close, not yet asked for.
        self._is_dry = False  # A read would find too little: feed first.
        self._broken = False
        self._eof_sent = False
        self._closed = False

    @property
    def remote(self) -> Address:
        return self._transport.remote

    @property
    def peer_node(self) -> NodeId | None:
        return self._peer_node

    async def handshake(self) -> None:
        async with self._handshaking:
            if self._object is not None:
                return
            self._check_usable()
            self._broken = True  # Until it is done: half a handshake is of no use.
            try:
                tls = await self._handshake()
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError.
                raise self._error(f"TLS handshake failed: {error}") from error
            self._peer_node = _node_of(tls.getpeercert())
            if self._expected_node not in {None, self._peer_node}:
                raise self._error(
                    f"expected node {self._expected_node}, found {self._peer_node}"
                )
            if tls.selected_alpn_protocol() == ALPN:
                await self._leave_tls(tls)
            else:
                self._object = tls
            self._broken = False

    async def receive_some(self, size_max: int) -> bytes:
        assert size_max > 0
        if self._object is None:
            await self.handshake()
        self._check_usable()
        while True:
            if self._is_dry:
                self._is_dry = False
                await self._feed()
            self._check_usable()
            if self._early:  # Also what a half-close took out of our hands while we fed.
                data = bytes(self._early[:size_max])
                del self._early[:size_max]
                return data
            try:
                return self._read(size_max)
            except ssl.SSLWantReadError:
                await self._feed()
            except ssl.SSLError as error:
                self._broken = True
                raise self._error(f"TLS failed: {error}") from error

    async def receive_each(self, take: Callable[[bytes], bool]) -> None:
        if self._object is None:
            await self.handshake()
        self._check_usable()
        if self._early and not take(await self.receive_some(len(self._early))):
            return
        if isinstance(self._incoming, Incoming):
            self._incoming.settle()
        if self._give(take):  # What was here already.
            await self._transport.receive_each_through(
                partial(self._take, take), _EACH_SIZE
            )

    async def receive_into(self, buffer: memoryview) -> int:
        if self._object is None:
            await self.handshake()
        self._check_usable()
        while True:
            if self._is_dry:
                self._is_dry = False
                if isinstance(self._incoming, Incoming):
                    await self._receive_records(self._incoming, len(buffer))
                else:  # Part of a record is here already.
                    await self._feed(len(buffer) - _TLS_RECORD_SIZE_MAX)
                self._check_usable()
            if self._early:
                data = await self.receive_some(len(buffer))
                buffer[: len(data)] = data
                return len(data)
            try:
                return self._read_into(buffer)
            except ssl.SSLWantReadError:
                self._is_dry = True
            except ssl.SSLError as error:
                self._broken = True
                raise self._error(f"TLS failed: {error}") from error

    async def send_all(self, data: Buffer) -> None:
        if self._object is None:
            await self.handshake()
        self._check_usable()
        if self._sending.is_taken:
            await self._sending.wait()
        self._sending.is_taken = True
        try:
            if self._eof_sent:  # Maybe by whose turn came before.
                raise trio.ClosedResourceError("the sending side is closed")
            if self._begun:
                data = memoryview(data)[self._begun_size :]
                ciphertext, self._begun = self._begun, b""
                await self._flush(ciphertext)
            if not data:
                return
            if len(data) <= _SMALL_SIZE:
                self._write(data)
                await self._flush(self._send_now())
                return
            rest = memoryview(data)
            while rest:
                self._write(rest[:_SEND_SIZE])
                await self._flush()
                rest = rest[_SEND_SIZE:]
        finally:
            self._sending.end()

    def try_send(self, data: bytes) -> bool:
        if (
            self._object is None
            or len(data) > _SMALL_SIZE
            or self._begun
            or self._outgoing.pending
            or self._closed
            or self._broken
            or self._eof_sent
            or self._sending.is_taken
        ):
            return False
        try:
            self._object.write(data)
        except ssl.SSLError:
            self._broken = True
            return False
        ciphertext = self._outgoing.read()
        sent = self._transport.send_now(ciphertext)
        self._begun, self._begun_size = ciphertext[sent:], len(data)
        return sent == len(ciphertext)

    def at_pass_end(self) -> Callable[[Callable[[], None]], None] | None:
        return at_pass_end()

    async def send_eof(self) -> None:
        if self._object is None:
            await self.handshake()
        self._check_usable()
        if self._eof_sent:
            return
        async with self._sending:
            assert not self._begun, "a message was begun"
            self._eof_sent = True
            self._drain()
            self._unwrap()
            await self._flush()

    async def aclose(self) -> None:
        if self._closed:
            return
        usable = self._object is not None and not self._broken and not self._eof_sent
        # Not in the middle of a record.
        is_between = not self._sending.is_taken and not self._begun
        if usable and is_between:
            self._unwrap()
        if is_between and (last_words := self._outgoing.read()):
            self._transport.send_now(last_words)
        self._closed = True
        self._transport.close()

    def _take(self, take: Callable[[bytes], bool], data: memoryview) -> bool:
        """`data` has come for who is in `receive_each`."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        if self._broken:
            self._check_usable()
        return self._give(take)

    def _give(self, take: Callable[[bytes], bool]) -> bool:
        """Give `take` all that can be decrypted; False: that was the last."""
        self._is_dry = False
        while not self._is_dry:
            try:
                data = self._read(_RECEIVE_SIZE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                self._broken = True
                raise self._error(f"TLS failed: {error}") from error
            if not take(data) or not data:
                return False
        if self._outgoing.pending and not self._sending.is_taken and not self._begun:
            # What TLS has to say of itself; what does not go, the next message takes along.
            self._begun, self._begun_size = self._send_now(), 0
        return True

    async def _handshake(self) -> ssl.SSLObject:
        assert isinstance(self._incoming, ssl.MemoryBIO)
        assert isinstance(self._outgoing, ssl.MemoryBIO)
        tls = self._make_context().wrap_bio(
            self._incoming, self._outgoing, server_side=self._server_side
        )
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._feed()
            else:
                await self._flush()
                return tls

    async def _leave_tls(self, tls: ssl.SSLObject) -> None:
        """Agree on the keys of records of our own, and go on with these."""
        ours, theirs = os.urandom(SHARE_SIZE), b""
        try:
            tls.write(ours)
            await self._flush()
            while len(theirs) < SHARE_SIZE:
                try:
                    piece = tls.read(SHARE_SIZE - len(theirs))
                except ssl.SSLWantReadError:
                    await self._feed()
                    continue
                if not piece:
                    raise self._error("closed in the midst of its handshake")
                theirs += piece
        except ssl.SSLError as error:
            raise self._error(f"TLS handshake failed: {error}") from error
        assert isinstance(self._incoming, ssl.MemoryBIO)
        if tls.pending():
            raise self._error("bytes behind what it had to say by TLS")
        records = Records(ours=ours, theirs=theirs, server_side=self._server_side)
        # TLS takes record by record: what has come behind the last one is not its own.
        records.incoming.write(self._incoming.read())
        self._object = records
        self._incoming, self._outgoing = records.incoming, records.outgoing

    def _read(self, size_max: int) -> bytes:
        """Decrypted bytes, of several records where they are there; b"" at the end."""
        assert self._object is not None
        try:
            data = self._object.read(size_max)
        except ssl.SSLZeroReturnError:
            return b""
        if not data or len(data) >= size_max:
            return data
        if not self._incoming.pending:  # A read shorter than asked for ends a record.
            self._is_dry = True
            return data
        pieces = [data]
        missing = size_max - len(data)
        while missing and self._incoming.pending:
            try:
                piece = self._object.read(missing)
            except ssl.SSLError as error:  # If it is wrong, the next call will tell.
                self._is_dry = isinstance(error, ssl.SSLWantReadError)
                break
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _read_into(self, buffer: memoryview) -> int:
        """As `_read`: how many bytes are in `buffer` now."""
        assert self._object is not None
        # With a buffer it returns a count, which its stub does not know.
        read: Callable[[int, memoryview], Any] = self._object.read
        incoming = self._incoming
        size = len(buffer)
        try:
            filled: int = read(size, buffer)
        except ssl.SSLZeroReturnError:
            return 0
        while 0 < filled < size:  # A record each.
            if not incoming.pending:  # As in `_read`.
                self._is_dry = True
                break
            try:
                more: int = read(size - filled, buffer[filled:])
            except ssl.SSLError as error:
                self._is_dry = isinstance(error, ssl.SSLWantReadError)
                break
            if not more:
                break
            filled += more
        return filled

    def _write(self, data: Buffer) -> None:
        assert self._object is not None
        try:
            self._object.write(data)
        except ssl.SSLError as error:
            self._broken = True
            raise self._error(f"TLS failed: {error}") from error

    def _drain(self) -> None:
        """Decrypt what has come: `unwrap` would throw it away."""
        assert self._object is not None
        self._is_dry = False
        try:
            while data := self._object.read(_RECEIVE_SIZE):
                self._early += data
        except ssl.SSLError:
            pass  # No more, or an error that the next receive will meet again.

    def _unwrap(self) -> None:
        """Put close_notify into `outgoing`."""
        assert self._object is not None
        # It raises always, unless the peer's own close_notify is already here.
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()

    async def _receive_records(self, incoming: Incoming, size: int) -> None:
        """Wait for a record, of which `size` bytes are wanted, where it is decrypted from.

        No more is received than there is of it: mostly it comes whole.
        """
        while not incoming.pending:
            expected = incoming.missing or min(size, RECORD_SIZE_MAX) + OVERHEAD
            received = await self._transport.receive_into(incoming.room(expected))
            if not received:
                incoming.write_eof()
                return
            incoming.filled(received)

    async def _feed(self, expected: int = 0) -> None:
        """Send what TLS has to say of itself, then wait for more of the peer's."""
        # Where a message was begun, who sends the rest of it sends this too.
        if self._outgoing.pending and not self._sending.is_taken and not self._begun:
            async with self._sending:
                await self._flush()
        if not await self._transport.receive_through(self._incoming.write, expected):
            self._incoming.write_eof()

    def _send_now(self) -> bytes | bytearray:
        """Send of `outgoing` what goes without waiting; returns the rest."""
        data = self._outgoing.read()
        return data[self._transport.send_now(data) :]

    async def _flush(self, rest: bytes | bytearray = b"") -> None:
        """Send `rest`, then all of `outgoing`, also what a receiver added meanwhile."""
        if rest:
            broken, self._broken = self._broken, True
            await self._transport.send_all(rest)
            self._broken = broken
        while self._outgoing.pending:
            broken, self._broken = self._broken, True  # If cancelled, bytes are lost.
            await self._transport.send_all(self._outgoing.read())
            self._broken = broken

    def _check_usable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream is closed")
        if self._broken and not self._sending.is_taken:
            raise self._error("the TLS connection broke before")

    def _error(self, reason: str) -> trio.BrokenResourceError:
        return trio.BrokenResourceError(f"{self._transport.remote}: {reason}")


@functools.lru_cache(maxsize=CONTEXTS_MAX)
def server_context(identity: TlsIdentity, *, mutual: bool) -> ssl.SSLContext:
    """The context of a listener.  Raises OSError or ValueError for bad PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    _load_identity(context, identity)
    if mutual:
        context.verify_mode = ssl.CERT_OPTIONAL
        _load_trust(context, identity.trust_pem)
        # A resumed session would skip the judgement of the certificate.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        _offer_records(context)
    return context


@functools.lru_cache(maxsize=CONTEXTS_MAX)
def client_context(
    identity: TlsIdentity | None, trust_pem: bytes, *, for_bulk: bool = False
) -> ssl.SSLContext:
    """The context of a connection; without identity and trust any server will do.

    for_bulk: offer to leave TLS for `real_records`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = False
    if for_bulk:
        _offer_records(context)
    if identity is not None:
        _load_identity(context, identity)
    if identity is None and not trust_pem:
        context.verify_mode = ssl.CERT_NONE
    else:
        _load_trust(context, trust_pem)
    return context


def _offer_records(context: ssl.SSLContext) -> None:
    if is_supported():
        context.set_alpn_protocols([ALPN])


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION


def _load_trust(context: ssl.SSLContext, trust_pem: bytes) -> None:
    if trust_pem:  # Without it the context trusts nobody.
        context.load_verify_locations(cadata=trust_pem.decode("ascii"))


def _load_identity(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    """Load key and chain; ssl takes them only by path, so by one that is in memory."""
    pem = identity.certificate_pem + b"\n" + identity.private_key_pem
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("objstore-identity", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:  # Made with mode 0600.
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)


def _node_of(certificate: Any) -> NodeId | None:
    """The node named by a verified certificate (getpeercert: empty if not verified)."""
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind == "URI" and (node := node_of_uri(value)) is not None:
            return node
    return None
