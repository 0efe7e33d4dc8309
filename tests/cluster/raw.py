"""Requests that no SDK would send: signed by botocore's signer, written as they are.

Targets go out byte for byte, headers in any number; the answer is shown as it came.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import xml.etree.ElementTree as ET
from urllib.parse import urlsplit

import attrs
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.harness import Cluster

UNSIGNED = "UNSIGNED-PAYLOAD"
TIMEOUT_S = 30.0


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
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=TIMEOUT_S
        )
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in fields.items():
                connection.putheader(name, value)
            connection.endheaders()
            if body:
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

    def connect(self) -> socket.socket:
        parts = urlsplit(self.url)
        return socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S)


def head_of(method: str, target: str, headers: dict[str, str]) -> bytes:
    """A request's head, to be written by hand."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def read_answer(stream: socket.socket, method: str = "GET") -> Answer:
    """The next answer on a connection."""
    response = http.client.HTTPResponse(stream, method=method)
    response.begin()
    return _read(response)


def _read(response: http.client.HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
