"""Signed S3 requests on one kept connection: for the bench's load, and for tests."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import attrs

_TIMEOUT_S = 60.0


@attrs.frozen
class Target:
    """Where requests go and who signs them."""

    urls: tuple[str, ...]
    access_key: str
    secret_key: str = attrs.field(repr=False)
    region: str
    bucket: str
    ca_file: str | None = None


class Client:
    """Signed requests on one kept connection."""

    def __init__(self, target: Target, url: str) -> None:
        self._target = target
        parts = urlsplit(url)
        self._host = parts.netloc
        host, port = parts.hostname or "", parts.port
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=target.ca_file)
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=_TIMEOUT_S, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        digest: str | None = None,
    ) -> tuple[int, bytes]:
        """(status, body); (0, why) where the connection failed.

        digest: the SHA-256 of `body`, in hex, where the caller has it.
        """
        signed = self._sign(method, path, query, body, headers or {}, digest)
        target = path + ("?" + _encode_query(query) if query else "")
        try:
            self._connection.request(method, target, body=body or None, headers=signed)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return 0, str(error).encode()

    def close(self) -> None:
        self._connection.close()

    def _sign(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: bytes,
        headers: dict[str, str],
        digest: str | None = None,
    ) -> dict[str, str]:
        """AWS Signature Version 4 of a request whose path is encoded already."""
        now = datetime.now(UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        digest = digest or hashlib.sha256(body).hexdigest()
        signed = {name.lower(): value for name, value in headers.items()}
        signed |= {"host": self._host, "x-amz-date": stamp, "x-amz-content-sha256": digest}
        names = ";".join(sorted(signed))
        canonical = "\n".join(
            [
                method,
                path,
                _encode_query(query),
                *(f"{name}:{signed[name]}" for name in sorted(signed)),
                "",
                names,
                digest,
            ]
        )
        scope = f"{day}/{self._target.region}/s3/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
        key = _signing_key(self._target.secret_key, day, self._target.region)
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._target.access_key}/{scope},"
            f"SignedHeaders={names},Signature={signature}"
        )
        return signed


def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for piece in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, piece.encode(), hashlib.sha256).digest()
    return key


def _encode_query(query: Sequence[tuple[str, str]]) -> str:
    return "&".join(
        f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(query)
    )
