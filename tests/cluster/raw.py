"""Requests that no SDK would send: signed by botocore's signer, written as they are.

Targets go out byte for byte, headers in any number; the answer is shown as it came.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import socket
import ssl
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self
from urllib.parse import urlsplit

import attrs
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.harness import Cluster

UNSIGNED = "UNSIGNED-PAYLOAD"
TIMEOUT_S = 30.0
_UNVERIFIED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_UNVERIFIED.check_hostname = False
_UNVERIFIED.verify_mode = ssl.CERT_NONE


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]  # By lower-case name.
    body: bytes

    @property
    def root(self) -> ET.Element:
        root = ET.fromstring(self.body)
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root

    @property
    def code(self) -> str:
        """The error's code; "" where it is none."""
        return self.root.findtext("Code") or "" if self.body else ""

    def text(self, path: str) -> str:
        """The text of an element that must be there."""
        found = self.root.find(path)
        assert found is not None, (path, self.body)
        return found.text or ""

    def texts(self, path: str) -> list[str]:
        return [element.text or "" for element in self.root.findall(path)]


class TlsWire:
    """A TLS connection that can end its sending and go on listening.

    Python's own TLS sockets cannot: what comes while they say good-bye is lost.
    """

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _UNVERIFIED.wrap_bio(self._incoming, self._outgoing)
        self._until_done(self._tls.do_handshake)

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
            self._flush()

    def recv(self, size_max: int) -> bytes:
        try:
            return self._until_done(lambda: self._tls.read(size_max))
        except ssl.SSLZeroReturnError:
            return b""

    def shutdown(self, _how: int) -> None:
        with suppress(ssl.SSLWantReadError):  # Of what was not yet asked for.
            self._tls.unwrap()
        self._flush()

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Readable(self))

    def settimeout(self, seconds: float) -> None:
        self._plain.settimeout(seconds)

    def close(self) -> None:
        self._plain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _until_done(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._plain.recv(65536)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._plain.sendall(self._outgoing.read())


Wire = socket.socket | TlsWire


class _Readable(io.RawIOBase):
    def __init__(self, wire: TlsWire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._wire.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Auth(S3SigV4Auth):
    """botocore's signer, for a given x-amz-content-sha256."""

    def __init__(self, *arguments: object, payload: str) -> None:
        super().__init__(*arguments)
        self._payload = payload

    def payload(self, request: object) -> str:
        return self._payload


@attrs.frozen
class Raw:
    """One key's view of one node."""

    url: str
    access_key: str
    secret_key: str = attrs.field(repr=False)
    region: str = "us-east-1"

    @classmethod
    def of(cls, cluster: Cluster, node: int = 0) -> Raw:
        return cls(
            cluster.nodes[node].s3,
            cluster.access_key,
            cluster.secret_key,
            str(cluster.description["region"]),
        )

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def signed(
        self, method: str, target: str, headers: dict[str, str] | None = None, *,
        payload: str = UNSIGNED, host: str | None = None,
    ) -> dict[str, str]:  # fmt: skip
        """All headers of a request that is signed now."""
        host = host or self.host
        request = AWSRequest(
            method=method, url=f"http://{host}{target}", headers=headers or {}
        )
        key = Credentials(self.access_key, self.secret_key)
        _Auth(key, "s3", self.region, payload=payload).add_auth(request)
        return {
            "host": host,
            **{name: str(value) for name, value in request.headers.items()},
        }

    def send(
        self, method: str, target: str, body: bytes | None = None,
        headers: dict[str, str] | None = None, *, payload: str = UNSIGNED,
        host: str | None = None, is_signed: bool = True, unsigned: dict[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """One request.  unsigned: headers added after signing.  A body gets its length."""
        fields = {"host": host or self.host, **(headers or {})}
        if is_signed:
            fields = self.signed(method, target, headers, payload=payload, host=host)
        fields |= unsigned or {}
        if body is not None and not any(n.lower() == "content-length" for n in fields):
            fields["content-length"] = str(len(body))
        connection = http.client.HTTPConnection("unused")
        connection.sock = self.connect()  # type: ignore[assignment]
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in fields.items():
                connection.putheader(name, value)
            connection.endheaders()
            if body:
                # Who is refused early may find nobody listening to the rest.
                with suppress(OSError):
                    connection.send(body)
            return _read(connection.getresponse())
        finally:
            connection.close()

    def get(self, target: str, **headers: str) -> Answer:
        return self.send("GET", target, headers=_named(headers))

    def head(self, target: str, **headers: str) -> Answer:
        return self.send("HEAD", target, headers=_named(headers))

    def put(self, target: str, body: bytes = b"", **headers: str) -> Answer:
        return self.send("PUT", target, body, _named(headers))

    def post(self, target: str, body: bytes = b"", **headers: str) -> Answer:
        return self.send("POST", target, body, _named(headers))

    def delete(self, target: str, **headers: str) -> Answer:
        return self.send("DELETE", target, headers=_named(headers))

    def connect(self) -> Wire:
        """A connection to the node, TLS where it speaks that."""
        return self.over(self.connect_plain())

    def over(self, plain: socket.socket) -> Wire:
        return TlsWire(plain) if self.is_tls else plain

    def connect_plain(self) -> socket.socket:
        parts = urlsplit(self.url)
        return socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S)

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https:")


def head_of(method: str, target: str, headers: dict[str, str]) -> bytes:
    """A request's head, to be written by hand."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def read_answer(stream: Wire, method: str = "GET") -> Answer:
    """The next answer on a connection."""
    response = http.client.HTTPResponse(stream, method=method)
    response.begin()
    return _read(response)


class _Received(io.BytesIO):
    """What came on a connection, as http.client reads a socket."""

    def makefile(self, *_: object) -> io.BytesIO:
        return self

    def close(self) -> None:
        """Nothing: one answer's end is not the end of what came."""


def answers_in(data: bytes) -> list[Answer]:
    """All answers, one after the other, in what came on a connection."""
    received, answers = _Received(data), []
    while received.tell() < len(data):
        response = http.client.HTTPResponse(received)  # type: ignore[arg-type]
        response.begin()
        answers.append(_read(response))
    return answers


def receive_all(stream: Wire) -> bytes:
    """All until the other end is done with us, by a close or a reset."""
    data = bytearray()
    try:
        while piece := stream.recv(65536):
            data += piece
    except (ConnectionError, ssl.SSLError):
        pass
    return bytes(data)


def _read(response: http.client.HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
