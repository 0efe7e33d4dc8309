"""The judges judged: a store that is right passes, one that cheats is found out.

The store is a dictionary behind a few lines of HTTP, so that it can be wrong in chosen ways.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from objstore.cli.load import Target
from tests.cluster.registers import Registers
from tests.cluster.rising import Rising
from tests.cluster.scoreboard import Scoreboard

_PAGE = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'
_ITEM = "<Contents><Key>{}</Key><ETag>{}</ETag></Contents>"


class Store:
    """Objects, and a vice: what it does wrong now and then."""

    def __init__(self, vice: str) -> None:
        self.vice = vice
        self.objects: dict[str, bytes] = {}
        self.before: dict[str, bytes] = {}  # What an object was before it is what it is.
        self.lock = threading.Lock()
        self.chance = random.Random(1)

    def errs(self, vice: str) -> bool:
        return self.vice == vice and self.chance.random() < 0.05


def etag_of(body: bytes) -> str:
    return '"' + hashlib.md5(body).hexdigest() + '"'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", etag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        store, key = self.store, self.path
        with store.lock:
            now = store.objects.get(key)
            wanted = self.headers.get("If-Match")
            fails = wanted is not None and (now is None or etag_of(now) != wanted)
            fails |= self.headers.get("If-None-Match") == "*" and now is not None
            if fails and not store.errs("swaps anyway"):
                self.answer(412)
                return
            if not store.errs("forgets"):
                if now is not None:
                    store.before[key] = now
                store.objects[key] = body
            self.answer(200, etag=etag_of(body))

    def do_DELETE(self) -> None:
        with self.store.lock:
            if not self.store.errs("resurrects"):
                self.store.objects.pop(self.path, None)
            self.answer(204)

    def do_GET(self) -> None:
        store = self.store
        with store.lock:
            query = parse_qs(urlsplit(self.path).query)
            if "prefix" in query:
                self.list(query["prefix"][0])
                return
            body = store.objects.get(self.path)
            if store.errs("reads old"):
                body = store.before.get(self.path, body)
            if body is None:
                self.answer(404)
            elif store.errs("flips a bit"):
                self.answer(200, body[:-1] + bytes([body[-1] ^ 1]), etag_of(body))
            else:
                self.answer(200, body, etag_of(body))

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for.

    def list(self, prefix: str) -> None:
        items = [
            _ITEM.format(key.rpartition("/")[2], etag_of(body))
            for key, body in sorted(self.store.objects.items())
            if key.rpartition("/")[2].startswith(prefix)
            and not self.store.errs("lists less")
        ]
        self.answer(200, _PAGE.format("".join(items)).encode())


@contextmanager
def served(vice: str) -> Iterator[Target]:
    handler = type("BoundHandler", (Handler,), {"store": Store(vice)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield Target((url, url), "key", "secret", "us-east-1", "bucket")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def board_of(vice: str) -> Scoreboard:
    board = Scoreboard()
    with served(vice) as target:
        registers = Registers(target, board, clients=4)
        with registers:
            board.wait_for_acks(400)
        registers.check()
    return board


def test_a_store_that_is_right_passes() -> None:
    board = board_of("")
    assert not (board.stale or board.wrong or board.lost or board.undecided)
    board.judge()


@pytest.mark.parametrize(
    ("vice", "verdict"),
    [
        ("forgets", "stale"),
        ("reads old", "stale"),
        pytest.param("resurrects", "stale", marks=pytest.mark.full),
        pytest.param("swaps anyway", "stale", marks=pytest.mark.full),
        pytest.param("lists less", "stale", marks=pytest.mark.full),
        ("flips a bit", "wrong"),
    ],
)
def test_a_store_that_cheats_is_found_out(vice: str, verdict: str) -> None:
    board = board_of(vice)
    assert getattr(board, verdict)
    with pytest.raises(AssertionError):
        board.judge()


def test_a_stale_read_is_caught_in_the_act() -> None:
    board = Scoreboard()
    with served("reads old") as target:
        with Rising(target, board, [0], [1], keys=2):
            board.wait_for_acks(200)
    assert board.stale
