"""An S3 client of a simulated cluster: signed HTTP/1.1 over the simulated network.

It shares nothing with the front door but h11, and the functions that spell out what a
signature is made of.  It never retries: what a request came to is for the history to
know, so an answer that did not come says whether the request may have been heard.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

import attrs
import h11
import trio

from objstore.host.host import Host
from objstore.host.network import Address, Stream
from objstore.http.message import Headers
from objstore.s3 import sigv4
from objstore.units import KiB

ACCESS_KEY = "SIMULATIONROOTKEY"
SECRET_KEY = "simulation-secret-of-the-root-key"  # noqa: S105 - nothing real opens to it.
REGION = "us-east-1"
PORT = 9000
TIMEOUT_S = 60.0  # Of a request, as the SDKs': what has no answer then is unknown.
_READ_SIZE = 64 * KiB


class NoAnswer(Exception):
    """The connection failed, or nothing came in time.

    `heard` is False where not a byte of the request can have arrived.
    """

    def __init__(self, reason: str, *, heard: bool) -> None:
        super().__init__(reason)
        self.heard = heard


@attrs.frozen
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]  # Lower-case names.
    body: bytes

    @property
    def etag(self) -> str:
        return self.headers.get("etag", "").strip('"')

    def text(self, tag: str) -> str | None:
        """The text of the first element `tag` of an XML document."""
        _, opened, rest = self.body.partition(f"<{tag}>".encode())
        return rest.partition(b"<")[0].decode() if opened else None


@attrs.define(eq=False)
class _Connection:
    stream: Stream
    http: h11.Connection


@attrs.define(eq=False)
class Client:
    """One client: at most one request at a time, one connection kept to each node."""

    name: str
    host: Host
    _connections: dict[str, _Connection] = attrs.field(factory=dict)

    async def send(
        self,
        node: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Send one request to the node at an IP address.  Raises NoAnswer."""
        text = "&".join(f"{k}={quote(v, safe='-_.~')}" for k, v in (query or {}).items())
        fields = {"host": f"{node}:{PORT}", "content-length": str(len(body))}
        fields |= dict(headers or {})
        self._sign(fields, method, path, text, body)
        target = f"{path}?{text}" if text else path
        request = h11.Request(method=method, target=target, headers=list(fields.items()))
        try:
            with trio.fail_after(TIMEOUT_S):
                return await self._exchange(node, request, body)
        except trio.TooSlowError:
            await self._drop(node)
            raise NoAnswer("nothing came in time", heard=True) from None
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            await self._drop(node)
            raise NoAnswer(str(error), heard=True) from error

    async def close(self) -> None:
        for node in list(self._connections):
            await self._drop(node)

    async def _exchange(self, node: str, request: h11.Request, body: bytes) -> Answer:
        connection = self._connections.get(node)
        if connection is None:
            try:
                stream = await self.host.network.connect(Address(node, PORT))
            except (OSError, trio.BrokenResourceError) as error:
                raise NoAnswer(str(error), heard=False) from error
            connection = _Connection(stream, h11.Connection(our_role=h11.CLIENT))
            self._connections[node] = connection
        http = connection.http
        data = http.send(request) or b""
        if body:
            data += http.send(h11.Data(data=body)) or b""
        data += http.send(h11.EndOfMessage()) or b""
        # What was answered before it broke can still be read.
        with contextlib.suppress(trio.BrokenResourceError):
            await connection.stream.send_all(data)
        answer = await self._receive(connection)
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
        else:
            await self._drop(node)
        return answer

    async def _receive(self, connection: _Connection) -> Answer:
        head: h11.Response | None = None
        pieces: list[bytes] = []
        while True:
            event = connection.http.next_event()
            if event is h11.NEED_DATA:
                data = await connection.stream.receive_some(_READ_SIZE)
                connection.http.receive_data(data)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                fields = {n.decode().lower(): v.decode("latin-1") for n, v in head.headers}
                return Answer(head.status_code, fields, b"".join(pieces))
            elif isinstance(event, h11.ConnectionClosed):
                raise h11.RemoteProtocolError("it was closed before an answer")

    async def _drop(self, node: str) -> None:
        connection = self._connections.pop(node, None)
        if connection is not None:
            with trio.CancelScope(shield=True):
                await connection.stream.aclose()

    def _sign(
        self, fields: dict[str, str], method: str, path: str, query: str, body: bytes
    ) -> None:
        """Add AWS Signature Version 4 to the header fields, over all of them."""
        now = datetime.fromtimestamp(self.host.clock.utc_now_ms() // 1000, UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        payload = hashlib.sha256(body).hexdigest()
        fields |= {"x-amz-date": stamp, "x-amz-content-sha256": payload}
        signer = sigv4.Signer(
            access_key=ACCESS_KEY,
            day=day,
            region=REGION,
            service="s3",
            terminator="aws4_request",
            signed_headers=tuple(sorted(fields)),
        )
        canonical = sigv4.canonical_request(
            method=method,
            path=path,
            query=query,
            headers=Headers(fields.items()),
            signer=signer,
            payload=payload,
        )
        text = sigv4.string_to_sign(stamp, signer.scope, canonical)
        key = sigv4.derive_key(SECRET_KEY, day=day, region=REGION)
        signature = hmac.new(key, text.encode("latin-1"), hashlib.sha256).hexdigest()
        fields["authorization"] = (
            f"{sigv4.ALGORITHM} Credential={ACCESS_KEY}/{signer.scope},"
            f" SignedHeaders={';'.join(signer.signed_headers)}, Signature={signature}"
        )
