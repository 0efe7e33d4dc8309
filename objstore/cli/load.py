"""A load generator: several processes, each with blocking workers on sockets of their own.

Each worker does one signed request at a time and keeps its connection.  Latencies are the
client's; the cost of the servers is read from /proc by `bench`, so that a slow client
does not count as a slow server.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import multiprocessing
import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import attrs

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

_TIMEOUT_S = 60.0
CAS_WRITERS = 32


@attrs.frozen
class Target:
    """Where requests go and who signs them."""

    urls: tuple[str, ...]
    access_key: str
    secret_key: str = attrs.field(repr=False)
    region: str
    bucket: str
    ca_file: str | None = None


@attrs.frozen
class Job:
    """What one run does."""

    operation: str  # put get head delete list mixed cas
    size: int  # bytes of an object
    count: int  # operations, over all workers
    workers: int
    processes: int
    prefix: str = "k"
    keys: int = 0  # Keys that get, head, delete and mixed go over; 0: `count`.


@attrs.define
class Outcome:
    """What workers saw.  Latencies in seconds."""

    latencies: list[float] = attrs.Factory(list)
    statuses: dict[int, int] = attrs.Factory(dict)
    failed: int = 0
    elapsed: float = 0.0

    def add(self, other: Outcome) -> None:
        self.latencies += other.latencies
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        self.failed += other.failed

    def percentile(self, fraction: float) -> float:
        """Latency in seconds; 0.0 where nothing was measured."""
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


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
    ) -> tuple[int, bytes]:
        """(status, body); (0, why) where the connection failed."""
        signed = self._sign(method, path, query, body, headers or {})
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
    ) -> dict[str, str]:
        """AWS Signature Version 4 of a request whose path is encoded already."""
        now = datetime.now(UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        digest = hashlib.sha256(body).hexdigest()
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


# ---- running a job --------------------------------------------------------------------


def run(target: Target, job: Job) -> Outcome:
    """Do the job with `job.processes` processes; all begin together."""
    context = multiprocessing.get_context("spawn")
    results: Queue[Outcome] = context.Queue()
    barrier = context.Barrier(job.processes + 1)
    members = [
        context.Process(
            target=_process, args=(target, job, number, barrier, results), daemon=True
        )
        for number in range(job.processes)
    ]
    for member in members:
        member.start()
    barrier.wait()
    started = time.monotonic()
    total = Outcome()
    for _ in members:
        total.add(results.get())
    total.elapsed = time.monotonic() - started
    for member in members:
        member.join()
    return total


def _process(
    target: Target,
    job: Job,
    number: int,
    barrier: threading.Barrier,
    results: Queue[Outcome],
) -> None:
    """One process: its share of the workers, each a thread."""
    own = range(number, job.workers, job.processes)
    outcomes = [Outcome() for _ in own]
    threads = [
        threading.Thread(target=_work, args=(target, job, worker, outcome))
        for worker, outcome in zip(own, outcomes, strict=True)
    ]
    barrier.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Outcome()
    for outcome in outcomes:
        total.add(outcome)
    results.put(total)


def _work(target: Target, job: Job, worker: int, outcome: Outcome) -> None:
    """One worker: operations worker, worker + workers, ... one at a time."""
    client = Client(target, target.urls[worker % len(target.urls)])
    operate = _operation(client, target, job, random.Random(worker))
    for number in range(worker, job.count, job.workers):
        started = time.perf_counter()
        status, is_good = operate(number)
        outcome.latencies.append(time.perf_counter() - started)
        outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
        outcome.failed += not is_good
    client.close()


def _operation(
    client: Client, target: Target, job: Job, chance: random.Random
) -> Callable[[int], tuple[int, bool]]:
    """The function that does the `number`-th operation: (status, whether it was good)."""
    keys = job.keys or job.count
    body = random.Random(0).randbytes(job.size)

    def path(number: int) -> str:
        return f"/{target.bucket}/{job.prefix}/{number % keys:08d}"

    def put(number: int) -> tuple[int, bool]:
        status, _ = client.request("PUT", path(number), body=body)
        return status, status == http.client.OK

    def get(number: int) -> tuple[int, bool]:
        status, data = client.request("GET", path(number))
        return status, status == http.client.OK and data == body

    def head(number: int) -> tuple[int, bool]:
        status, _ = client.request("HEAD", path(number))
        return status, status == http.client.OK

    def delete(number: int) -> tuple[int, bool]:
        status, _ = client.request("DELETE", path(number))
        return status, status == http.client.NO_CONTENT

    def list_page(number: int) -> tuple[int, bool]:
        del number
        query = [("list-type", "2"), ("prefix", f"{job.prefix}/"), ("max-keys", "1000")]
        status, data = client.request("GET", f"/{target.bucket}", query=query)
        wanted = min(keys, 1000)
        return status, status == http.client.OK and data.count(b"<Key>") == wanted

    def mixed(number: int) -> tuple[int, bool]:
        del number  # Keys are drawn, as users' are.
        at = chance.randrange(keys)
        roll = chance.random()
        if roll < 0.15:
            return put(at)
        if roll < 0.25:
            status, _ = client.request("DELETE", f"/{target.bucket}/{job.prefix}-gone/{at}")
            return status, status == http.client.NO_CONTENT
        return head(at) if roll < 0.55 else get(at)

    def create_if_absent(number: int) -> tuple[int, bool]:
        headers = {"If-None-Match": "*"}
        where = f"/{target.bucket}/{job.prefix}-cas/{number // CAS_WRITERS:08d}"
        status, _ = client.request("PUT", where, body=body, headers=headers)
        return status, status in {http.client.OK, http.client.PRECONDITION_FAILED}

    return {
        "put": put,
        "get": get,
        "head": head,
        "delete": delete,
        "list": list_page,
        "mixed": mixed,
        "cas": create_if_absent,
    }[job.operation]
