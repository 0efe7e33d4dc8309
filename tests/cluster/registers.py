"""Registers under load: few hot keys, every operation recorded, the history checked.

Clients put, get, head, delete, compare-and-swap and list hot keys on all nodes.  Every
value names itself (`Body`), so that a read by any way (bytes, ETag, a line of a list) tells
which write it saw:

    PUT, DELETE             200, 204: done; 503, no answer: may have happened, or happen yet
    PUT with If-Match       200: it was that; 412, 404: it was not
    GET, HEAD               200: this value; 404: none
    LIST of a family        one such read of each of its keys (I3L, and more than it)

Keys come in families.  One is left for the next before any of its keys has more
operations, or more unknown outcomes, than the checker can search.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence

import attrs

from objstore.cli.load import Client, Target
from objstore.testing.history import Call, History
from objstore.testing.linearizability import Verdict, check_history
from tests.cluster.crew import Crew
from tests.cluster.scoreboard import Scoreboard

OPERATIONS_MAX = 240  # Of one key.
UNKNOWN_MAX = 5
SIZES = (40, 1_000, 16_000)
CHUNKED_SIZES = (17_000, 300_000)  # Above `meta.inline_size_max`.
_CHUNKED_SHARE = 0.06
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_MIX = ("put", "put", "put", "get", "get", "get", "head", "delete", "cas", "cas", "list")


def body_of(token: str, size: int) -> bytes:
    """The one body that tells of `token`: its name, then bytes that follow from it."""
    header = f"{token} {size}\n".encode()
    return header + random.Random(token).randbytes(max(0, size - len(header)))


def token_of(body: bytes) -> str | None:
    """Which value a body is; None where it is none of ours, or damaged."""
    token, _, size = body.partition(b"\n")[0].decode("latin-1").partition(" ")
    return token if size.isdecimal() and body_of(token, int(size)) == body else None


class Connection(Client):
    """A signed request and its whole answer, headers too."""

    def exchange(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body); (-1, ..) where nobody listens, (0, ..) if cut off."""
        signed = self._sign(method, path, query, body, headers or {})
        target = path + ("?" + "&".join(f"{k}={v}" for k, v in query) if query else "")
        try:
            self._connection.request(method, target, body=body or None, headers=signed)
            response = self._connection.getresponse()
            data = response.read()
        except ConnectionRefusedError:
            self._connection.close()
            return -1, {}, b""
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return 0, {}, b""
        return response.status, {k.lower(): v for k, v in response.getheaders()}, data


@attrs.define
class Registers(Crew):
    """Clients on hot keys until stopped; then `check`."""

    target: Target
    board: Scoreboard
    seed: int = 1
    clients: int = 6
    keys: int = 6
    nodes: Sequence[int] = ()  # Asked; none: all.
    pause_s: float = 0.0  # Between a client's operations.
    history: History = attrs.field(init=False)
    _family: int = 0
    _counts: Counter[str] = attrs.Factory(Counter)
    _unknown: Counter[str] = attrs.Factory(Counter)
    _etags: dict[str, str] = attrs.Factory(dict)  # etag -> token
    _lock: threading.Lock = attrs.Factory(threading.Lock)

    def __attrs_post_init__(self) -> None:
        self.history = History(time.monotonic)
        self.nodes = tuple(self.nodes) or tuple(range(len(self.target.urls)))

    def begin(self) -> None:
        for number in range(self.clients):
            self.start(self._work, number)

    def check(self) -> None:
        """Read every key once more, and judge all that was seen."""
        client = _Register(self, "last", random.Random(self.seed))
        for family in range(self._family + 1):
            client.family = family
            for key in self._keys_of(family):
                client.get(key)
        for finding in check_history(self.history):
            told = [f"{finding.key}: {finding.reason}", *map(str, finding.operations)]
            if finding.verdict is Verdict.VIOLATION:
                self.board.stale.append("\n  ".join(told))
            else:
                self.board.undecided.append(told[0])

    @property
    def operations(self) -> int:
        return len(self.history.operations)

    def _keys_of(self, family: int) -> list[str]:
        return [f"r{self.seed}-{family:04d}-{number}" for number in range(self.keys)]

    def _work(self, number: int) -> None:
        chance = random.Random(self.seed * 1000 + number)
        home = self.nodes[number % len(self.nodes)]
        client = _Register(self, f"c{number}", chance, home)
        while not self.is_over:
            client.step()
            if self.pause_s:
                time.sleep(self.pause_s)

    def _pick(self, chance: random.Random) -> tuple[int, str]:
        """A key of the present family, counted; the next family where that is full."""
        with self._lock:
            keys = self._keys_of(self._family)
            if any(self._is_full(key) for key in keys):
                self._family += 1
                keys = self._keys_of(self._family)
            key = chance.choice(keys)
            self._counts[key] += 1
            return self._family, key

    def _is_full(self, key: str) -> bool:
        return self._counts[key] >= OPERATIONS_MAX or self._unknown[key] >= UNKNOWN_MAX

    def _count(self, keys: Sequence[str]) -> None:
        with self._lock:
            self._counts.update(keys)

    def _note_unknown(self, key: str) -> None:
        with self._lock:
            self._unknown[key] += 1

    def _learn(self, body: bytes, token: str) -> str:
        """The etag that a body will have."""
        etag = '"' + hashlib.md5(body).hexdigest() + '"'
        self._etags[etag] = token
        return etag


@attrs.define
class _Register:
    """One client: a sequence of operations."""

    load: Registers
    name: str
    chance: random.Random
    # The node that it asks; None: any.  Who asks all in turn hangs where one hangs, and
    # then a run under faults is a run of a few requests.
    home: int | None = None
    family: int = 0
    _count: int = 0
    _seen: dict[str, tuple[str, str] | None] = attrs.Factory(dict)  # key -> token, etag
    _connections: dict[int, Connection] = attrs.Factory(dict)

    def step(self) -> None:
        what = self.chance.choice(_MIX)
        self.family, key = self.load._pick(self.chance)
        self._count += 1
        {
            "put": self.put,
            "get": self.get,
            "head": self.head,
            "delete": self.delete,
            "cas": self.cas,
            "list": self.list,
        }[what](key)

    # ---- operations -------------------------------------------------------------------

    def put(self, key: str) -> None:
        token, etag, body = self._value(key)
        call = self.load.history.put(self._client, key, token)
        status, _, _ = self._ask("PUT", key, body=body)
        if self._settle(call, key, status, done={200}):
            self._seen[key] = (token, etag)

    def delete(self, key: str) -> None:
        call = self.load.history.delete(self._client, key)
        status, _, _ = self._ask("DELETE", key)
        if self._settle(call, key, status, done={204}):
            self._seen[key] = None

    def cas(self, key: str) -> None:
        """Only if it still is what this client saw last."""
        token, etag, body = self._value(key)
        seen = self._seen.get(key)
        headers = {"If-None-Match": "*"} if seen is None else {"If-Match": seen[1]}
        expected = None if seen is None else seen[0]
        call = self.load.history.cas(self._client, key, expected, token)
        status, _, _ = self._ask("PUT", key, body=body, headers=headers)
        if status in {404, 412}:
            call.refused()
        elif self._settle(call, key, status, done={200}):
            self._seen[key] = (token, etag)

    def get(self, key: str) -> None:
        call = self.load.history.get(self._client, key)
        status, headers, body = self._ask("GET", key)
        if status != 200:
            self._settle_absent(call, key, status)
            return
        token = token_of(body)
        if token is None or not token.startswith(f"{key}/"):
            self.load.board.wrong.append(f"{key}: {len(body)} bytes {body[:60]!r}")
        else:
            call.returned(token)
            self._seen[key] = (token, headers["etag"])

    def head(self, key: str) -> None:
        call = self.load.history.get(self._client, key)
        status, headers, _ = self._ask("HEAD", key)
        if status != 200:
            self._settle_absent(call, key, status)
            return
        etag = headers["etag"]
        self._read_etag(call, key, etag)

    def list(self, key: str) -> None:
        """All of the family, as one read of each of its keys."""
        del key
        keys = self.load._keys_of(self.family)
        self.load._count(keys)
        calls = {key: self.load.history.get(self._client, key) for key in keys}
        prefix = keys[0].rpartition("-")[0] + "-"
        query = [("list-type", "2"), ("prefix", prefix)]
        status, _, body = self._ask("GET", "", query=query)
        if status != 200:
            for call in calls.values():
                call.unknown()
            return
        page = ET.fromstring(body)
        listed = [
            (
                str(item.findtext(f"{_NAMESPACE}Key")),
                str(item.findtext(f"{_NAMESPACE}ETag")),
            )
            for item in page.iter(f"{_NAMESPACE}Contents")
        ]
        names = [name for name, _ in listed]
        if names != sorted(set(names)) or not set(names) <= set(keys):
            self.load.board.wrong.append(f"list of {prefix}: {names}")
        etags = dict(listed)
        for name, call in calls.items():
            if name in etags:
                self._read_etag(call, name, etags[name])
            else:
                call.returned(None)

    # ---- parts of them ----------------------------------------------------------------

    @property
    def _client(self) -> str:
        return f"{self.name}.{self._count}"

    def _value(self, key: str) -> tuple[str, str, bytes]:
        """(token, etag, body) of a value that nobody wrote before."""
        token = f"{key}/{self.name}-{self._count}"
        is_chunked = self.chance.random() < _CHUNKED_SHARE
        body = body_of(token, self.chance.choice(CHUNKED_SIZES if is_chunked else SIZES))
        return token, self.load._learn(body, token), body

    def _ask(
        self,
        method: str,
        key: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        load = self.load
        node = self.chance.choice(load.nodes) if self.home is None else self.home
        connection = self._connections.get(node)
        if connection is None:
            connection = Connection(load.target, load.target.urls[node])
            self._connections[node] = connection
        path = f"/{load.target.bucket}" + (f"/{key}" if key else "")
        began = time.monotonic()
        answer = connection.exchange(method, path, query=query, body=body, headers=headers)
        is_write = method in {"PUT", "DELETE"}
        what = f"{method} {path} of node {node + 1}"
        load.board.note(node, what, answer[0], began, is_write=is_write)
        if answer[0] <= 0:
            time.sleep(0.02)  # A node that is down is not worth all of our time.
        return answer

    def _settle(self, call: Call, key: str, status: int, *, done: set[int]) -> bool:
        """End a write; whether it was done."""
        if status in done:
            call.returned()
            return True
        if status == -1:
            call.failed()
        else:
            call.unknown()
            self.load._note_unknown(key)
        self._seen.pop(key, None)
        return False

    def _settle_absent(self, call: Call, key: str, status: int) -> None:
        """End a read that found nothing, or no answer."""
        if status == 404:
            call.returned(None)
            self._seen[key] = None
        else:
            call.unknown()

    def _read_etag(self, call: Call, key: str, etag: str) -> None:
        token = self.load._etags.get(etag)
        if token is None or not token.startswith(f"{key}/"):
            self.load.board.wrong.append(f"{key}: etag {etag} of nothing written there")
        else:
            call.returned(token)
            self._seen[key] = (token, etag)
