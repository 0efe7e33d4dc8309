"""A client's side of aws-chunked, and of signing whole requests, for tests."""

import hashlib
import hmac
import time
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from objstore.s3.sigv4 import Verified

_EMPTY = hashlib.sha256(b"").hexdigest()


def encode_unsigned(chunks: list[bytes], trailer: tuple[str, str] | None) -> bytes:
    raw = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n"
    if trailer is not None:
        raw += f"{trailer[0]}:{trailer[1]}\r\n".encode()
    return raw + b"\r\n"


def encode_signed(
    verified: Verified, chunks: list[bytes], trailer: tuple[str, str] | None
) -> bytes:
    claim, previous, raw = verified.claim, verified.claim.signature, b""

    def sign(kind: str, *lines: str) -> str:
        text = "\n".join(
            [f"AWS4-HMAC-SHA256-{kind}", claim.timestamp, claim.signer.scope, *lines]
        )
        return hmac.digest(verified.signing_key, text.encode(), "sha256").hex()

    for chunk in [*chunks, b""]:
        previous = sign("PAYLOAD", previous, _EMPTY, hashlib.sha256(chunk).hexdigest())
        raw += f"{len(chunk):x};chunk-signature={previous}\r\n".encode()
        raw += chunk + b"\r\n" if chunk else b""
    if trailer is not None:
        line = f"{trailer[0]}:{trailer[1]}"
        digest = hashlib.sha256(f"{line}\n".encode()).hexdigest()
        raw += f"{line}\r\nx-amz-trailer-signature:".encode()
        raw += sign("TRAILER", previous, digest).encode() + b"\r\n"
    return raw + b"\r\n"


class _PayloadAuth(S3SigV4Auth):
    """botocore's signer, for a given x-amz-content-sha256."""

    def __init__(self, *arguments, payload: str) -> None:
        super().__init__(*arguments)
        self._payload = payload

    def payload(self, request) -> str:
        return self._payload


def sign(
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    payload: str = "UNSIGNED-PAYLOAD",
    access_key: str = "ACCESS",
    secret: str = "secret",
    host: str = "localhost:9000",
) -> dict[str, str]:
    """All headers of a request signed now, Host among them."""
    request = AWSRequest(method=method, url=f"http://{host}{path}", headers=headers or {})
    auth = _PayloadAuth(Credentials(access_key, secret), "s3", "us-east-1", payload=payload)
    auth.add_auth(request)
    return {"host": host, **{name: str(value) for name, value in request.headers.items()}}


def presign(
    method: str, path: str, *, secret: str = "secret", host: str = "localhost:9000"
):
    """The raw target of a presigned URL."""
    request = AWSRequest(method=method, url=f"http://{host}{path}")
    S3SigV4QueryAuth(Credentials("ACCESS", secret), "s3", "us-east-1").add_auth(request)
    parts = urlsplit(request.url)
    return f"{parts.path}?{parts.query}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000
