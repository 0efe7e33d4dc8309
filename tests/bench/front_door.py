"""Print what the front door costs a request, by piece: python tests/bench/front_door.py.

Signed requests, as a client sends them, go through Connection, S3App and the operations;
below them stands a metadata plane that answers at once.  What is left is the front door's
own: no sockets, no Raft, no peers.  CPU microseconds a request, the best of several rounds.
The log goes to stderr as a node's does: send it to a file, or to /dev/null.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import trio

from objstore import log
from objstore.host.clock import SystemClock
from objstore.host.entropy import SystemEntropy
from objstore.host.network import Address
from objstore.http.connection import Connection, Timeouts
from objstore.http.framing import take_head
from objstore.http.message import Request, Response
from objstore.ids import BucketId, Slot, VersionId
from objstore.meta.commands import DeleteResult, DeleteVersion, PutResult
from objstore.meta.values import (
    BucketRecord,
    BucketState,
    Checksum,
    Draft,
    Inline,
    Version,
)
from objstore.objects.budget import Budget
from objstore.objects.capability import Principal
from objstore.objects.patience import begin as begin_patience
from objstore.objects.store import Store
from objstore.s3.app import S3App
from objstore.s3.authenticate import Authenticator, Credential
from objstore.s3.router import parse_query, resolve
from objstore.units import MiB

Handler = Callable[[Request], Awaitable[Response]]

ACCESS, SECRET = "OSTHXK3F7Q2M5W8Z", "V0xFd2Vpd2VqZmxrd2VqZmxrandlZg"
BODY = bytes(range(256)) * 16
# Signed beforehand: more than what is kept of any of them (`http.head`).
_REQUESTS = 1000
EMPTY = hashlib.sha256(b"").hexdigest()
OWNER = "a" * 64
RECORD = BucketRecord(
    name="bench",
    bucket=BucketId(7),
    owner=OWNER,
    created_ms=1,
    span=tuple(Slot(number) for number in range(8)),
    scheme="replicate:3",
    state=BucketState.OPEN,
)
VERSION = Version(
    version_id=VersionId("0" * 32),
    order=1,
    time_ms=1_700_000_000_000,
    draft=Draft(
        size=len(BODY),
        etag=hashlib.md5(BODY, usedforsecurity=False).hexdigest(),
        headers=(),
        user_metadata=(),
        location=Inline(BODY),
        owner=OWNER,
        checksum=Checksum("CRC64NVME", bytes(8)),
    ),
    index=1,
    term=1,
)


class _Meta:
    """A metadata plane that has every key."""

    async def propose(self, command: Any, *, timeout_ms: int) -> Any:
        assert timeout_ms
        if isinstance(command, DeleteVersion):
            return DeleteResult(is_delete_marker=False, version_id=None)
        draft = command.draft
        return PutResult(VERSION.version_id, draft.etag, VERSION.time_ms, 1, 1)

    async def query(self, query: Any, *, timeout_ms: int) -> Version:
        assert query is not None
        assert timeout_ms
        return VERSION


class _View:
    def bucket(self, name: str) -> BucketRecord | None:
        return RECORD if name == RECORD.name else None

    async def refresh(self, *, timeout_ms: int = 0) -> None:
        """Nothing changes."""


class _Host:
    def __init__(self) -> None:
        self.clock, self.entropy, self.threads = SystemClock(), SystemEntropy(), None


class _Stream:
    """A client that sends so many requests, each once its turn comes, and reads the answers."""

    remote = Address("127.0.0.1", 40_000)
    peer_node = None

    def __init__(self, requests: Sequence[bytes], count: int) -> None:
        self._requests, self._left = itertools.cycle(requests), count
        self.answer = b""
        self.sends = 0

    async def handshake(self) -> None:
        """There is none."""

    async def receive_some(self, size_max: int) -> bytes:
        assert size_max
        if not self._left:
            return b""
        self._left -= 1
        return next(self._requests)

    def try_send(self, data: bytes) -> bool:
        self.sends += 1
        self.answer = data
        return True

    async def send_all(self, data: bytes) -> None:
        raise NotImplementedError

    async def send_eof(self) -> None:
        """Nobody waits for it."""

    async def aclose(self) -> None:
        """Nothing is open."""


def signed(method: str, path: str, body: bytes = b"", *, is_sdk: bool = False) -> bytes:
    """A request as Go's client sends it; is_sdk: with the headers that boto3 adds."""
    now = datetime.now(UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest() if body else EMPTY
    fields = {"host": "127.0.0.1:9000", "user-agent": "Go-http-client/1.1"}
    if body:
        fields["content-length"] = str(len(body))
    if is_sdk:
        fields |= {
            "user-agent": "Boto3/1.42.2 md/Botocore#1.42.2 ua/2.1 os/linux#6.1 "
            "md/arch#x86_64 lang/python#3.11.9 md/pyimpl#CPython m/b,Z cfg/retry-mode#legacy",
            "amz-sdk-invocation-id": "7d1b4f9e-6c5f-4c51-9e4f-3c7f4b0e6b7e",
            "amz-sdk-request": "attempt=1",
            "x-amz-checksum-mode": "ENABLED",
        }
    fields |= {"x-amz-content-sha256": digest, "x-amz-date": stamp}
    names = sorted(n for n in fields if n == "host" or n.startswith("x-amz-"))
    lines = [method, path, "", *(f"{n}:{fields[n]}" for n in names), ""]
    canonical = "\n".join([*lines, ";".join(names), digest])
    scope = f"{day}/us-east-1/s3/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{SECRET}".encode()
    for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"):
        key = hmac.digest(key, part.encode(), "sha256")
    fields["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={ACCESS}/{scope}, "
        f"SignedHeaders={';'.join(names)}, Signature={key.hex()}"
    )
    fields["accept-encoding"] = "gzip"
    head = "".join(f"{name.title()}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


PRINCIPAL = Principal(ACCESS, OWNER, is_root=True, name="root")


async def _credential(access_key: str) -> Credential | None:
    return Credential(SECRET, PRINCIPAL) if access_key == ACCESS else None


def front_door() -> Handler:
    """What a node hands to its HTTP server (`node.parts`), but for the admin API."""
    app = s3_app()

    def answer(request: Request) -> Awaitable[Response]:
        begin_patience(6_000)
        return app(request)

    return answer


def s3_app(meta: Any = None, view: Any = None) -> S3App:
    """meta, view: behind its store; None: a plane that answers at once."""
    host: Any = _Host()
    store = Store(
        meta=meta or _Meta(),
        view=view or _View(),
        scatter=None,  # type: ignore[arg-type]
        gather=None,  # type: ignore[arg-type]
        chunks=None,  # type: ignore[arg-type]
        budget=Budget(64 * MiB),
        host=host,
    )
    return S3App(
        store=store,
        credentials=_credential,
        clock=host.clock,
        entropy=host.entropy,
        node="0123456789abcdef",
    )


async def whole(
    handler: Handler, requests: Sequence[bytes], count: int, status: int
) -> float:
    """CPU seconds of so many requests through a connection."""
    stream = _Stream(requests, count)
    connection = Connection(
        stream,
        handler,
        timeouts=Timeouts(head_s=30, idle_s=60, body_s=60),
        date=lambda: "Sun, 06 Nov 1994 08:49:37 GMT",
        secure=False,
    )
    began = time.process_time()
    await connection.run()
    taken = time.process_time() - began
    assert bytes(stream.answer).startswith(b"HTTP/1.1 %d " % status), stream.answer[:500]
    assert stream.sends == count, (stream.sends, count)
    return taken


async def _pieces(request: bytes, count: int) -> dict[str, float]:
    """CPU seconds of steps that can be had alone."""
    times: dict[str, float] = {}
    head_only = request[: request.index(b"\r\n\r\n") + 4]
    head = None
    began = time.process_time()
    for _ in range(count):
        head = take_head(bytearray(head_only))
    times["parse"] = time.process_time() - began
    assert head is not None
    path = head.target.decode()
    parsed = Request(
        method=head.method, target=head.target, path=path, query="", headers=head.headers
    )
    authenticator = Authenticator(_credential, "us-east-1")
    now_ms = time.time_ns() // 1_000_000
    began = time.process_time()
    for _ in range(count):
        await authenticator.authenticate(parsed, {}, now_ms=now_ms)
    times["sign"] = time.process_time() - began
    began = time.process_time()
    for _ in range(count):
        resolve(head.method, "127.0.0.1:9000", path, parse_query(""), head.headers)
    times["route"] = time.process_time() - began
    return times


REQUESTS = {
    "get": ("GET", b"", 200),
    "head": ("HEAD", b"", 200),
    "put": ("PUT", BODY, 200),
    "delete": ("DELETE", b"", 204),
}


async def _nothing(request: Request) -> Response:
    assert request.method
    return Response(200, [("Content-Type", "text/plain")], BODY)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=2000, help="requests a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sdk", action="store_true", help="with boto3's headers")
    parser.add_argument("operations", nargs="*", default=list(REQUESTS))
    options = parser.parse_args()
    log.configure(level="info", format="json", node="0123456789abcdef")
    async with trio.open_nursery() as nursery:
        await nursery.start(log.hold_lines)
        await _measure(options)
        nursery.cancel_scope.cancel()


async def _measure(options: argparse.Namespace) -> None:
    app = front_door()
    for operation in options.operations:
        method, body, status = REQUESTS[operation]
        requests = [
            signed(method, f"/bench/k/{number:08}", body, is_sdk=options.sdk)
            for number in range(_REQUESTS)
        ]
        best: dict[str, float] = {}
        for _ in range(options.rounds):
            found = await _pieces(requests[0], options.n)
            found["http alone"] = await whole(_nothing, requests, options.n, 200)
            found["all"] = await whole(app, requests, options.n, status)
            for name, taken in found.items():
                best[name] = min(best.get(name, taken), taken)
        shown = {name: round(s / options.n * 1e6, 1) for name, s in best.items()}
        print(json.dumps({"op": operation, "us": shown}), flush=True)


if __name__ == "__main__":
    trio.run(main)
