"""The network: streams, listeners and packets, plain or under TLS.

This module holds the protocols; `real_network` implements them on sockets, and
`objstore.testing.network` on memory with faults.  The same contract suite
(tests/contract/test_network.py) holds both.

Cancellation: every async method here may be cancelled at any await; a stream whose
`send_all` or a receive was cancelled must be closed, as its position is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from objstore.buffer import Buffer
from objstore.ids import NodeId


@attrs.frozen(order=True)
class Address:
    """A host (name or IP literal, no brackets) and a port (0: let the system choose)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read "HOST:PORT" or "[V6]:PORT".  Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if not colon or not host or not port.isascii() or not port.isdigit():
            raise ValueError(f"{text!r} is not HOST:PORT")
        if int(port) > 65_535:
            raise ValueError(f"{text!r}: ports end at 65535")
        return cls(host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@attrs.frozen
class TlsIdentity:
    """What one end of a TLS connection shows, and whom it trusts."""

    certificate_pem: bytes = attrs.field(repr=False)  # Leaf first, then its chain.
    private_key_pem: bytes = attrs.field(repr=False)
    trust_pem: bytes = attrs.field(repr=False)  # CA certificates; b"": nobody.


@attrs.frozen
class ServerTls:
    """TLS of a listener.

    `identity` is asked at every accepted connection, so that a renewed certificate
    needs no restart.  With `mutual`, a client *may* show a certificate; one that shows a
    certificate not signed by `trust_pem` is refused at the handshake, and one that shows
    none has `peer_node` None: the caller decides what such a one may do.
    """

    identity: Callable[[], TlsIdentity]
    mutual: bool = False


@attrs.frozen
class ClientTls:
    """TLS of a connection that we open.

    identity: None to show no certificate (then `trust_pem` gives the trust).
    trust_pem: b"" accepts any server: only for the first call of a join, which then
        compares the CA's fingerprint with its token before it says anything secret.
    server_node: the node id that the server's certificate must name; None: any node
        whose certificate is signed by the trust.  Host names are never compared.
    """

    identity: TlsIdentity | None
    trust_pem: bytes = attrs.field(default=b"", repr=False)
    server_node: NodeId | None = None
    # Large bytes will go: what costs least for them is offered to the server, which for
    # small messages costs a little more.
    for_bulk: bool = False


class Stream(Protocol):
    """A byte stream in both directions.

    Errors of the connection are raised as trio.BrokenResourceError; use after close as
    trio.ClosedResourceError.  TCP_NODELAY is always set.
    """

    @property
    def remote(self) -> Address: ...

    @property
    def peer_node(self) -> NodeId | None:
        """The node named by the other end's verified certificate, after handshake."""
        ...

    async def handshake(self) -> None:
        """Do the TLS handshake, if there is one.  Raises trio.BrokenResourceError."""
        ...

    async def send_all(self, data: Buffer) -> None: ...

    def try_send(self, data: bytes) -> bool:
        """Send a small message here and now, if the whole of it goes; whether it did.

        Where it did not, some of it may have gone: the next `send_all` must begin with the
        same bytes, and sends the rest of them.  Never raises: `send_all` finds errors.
        """
        ...

    def at_pass_end(self) -> Callable[[Callable[[], None]], None] | None:
        """What takes a function to be called once, at the end of a pass of the loop.

        It may `try_send`, for what a pass has to send goes together then.  It may not
        raise, nor wake a task but by `TrioToken.run_sync_soon`.
        None: this stream has no such thing.
        """
        ...

    async def receive_some(self, size_max: int) -> bytes:
        """At least one byte, or b"" at the end of the stream.

        Under TLS an end without close_notify raises trio.BrokenResourceError.
        """
        ...

    async def receive_each(self, take: Callable[[bytes], bool]) -> None:
        """Give `take` whatever comes, when it comes, until it returns False.

        b"" is the end of the stream: the last that it is given.  It may close this stream
        or others; what it raises is raised here.
        """
        ...

    async def receive_into(self, buffer: memoryview) -> int:
        """As `receive_some`, into `buffer`: how many bytes; 0 at the end of the stream.

        For a buffer that the bytes on their way will fill: for many of them it may wait a
        moment, so that more come at once.
        """
        ...

    async def send_eof(self) -> None:
        """Say that we will send no more (a half-close; under TLS, close_notify)."""
        ...

    async def aclose(self) -> None:
        """Close at once; under TLS close_notify is tried, never waited for."""
        ...


class Listener(Protocol):
    """Accepts streams."""

    @property
    def address(self) -> Address:
        """Where it listens, with the port the system chose."""
        ...

    async def accept(self) -> Stream:
        """The next connection, before its handshake.

        When file descriptors run out it waits and tries again, without spinning.
        """
        ...

    async def aclose(self) -> None: ...


class Packets(Protocol):
    """A datagram endpoint."""

    @property
    def address(self) -> Address: ...

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram, or lose it: never waits, never raises for the network."""
        ...

    async def receive(self) -> tuple[bytes, Address]: ...

    async def aclose(self) -> None: ...


class Network(Protocol):
    """Opens the three."""

    async def listen(self, address: Address, *, tls: ServerTls | None = None) -> Listener:
        """Raises OSError, e.g. when the address is in use."""
        ...

    async def connect(self, address: Address, *, tls: ClientTls | None = None) -> Stream:
        """Connect and do the TLS handshake.

        Raises OSError where nobody answers, trio.BrokenResourceError where the handshake
        fails or the server is not `server_node`.  Callers set the deadline.  A client
        whose own certificate is refused may learn it no sooner than by its first receive.
        """
        ...

    async def open_packets(self, address: Address) -> Packets: ...
