"""The image's HEALTHCHECK: it finds the node whether that speaks TLS or not."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from objstore.host.real_pki import RealPki
from objstore.ids import ClusterId

ROOT = Path(__file__).parents[3]


class Handler(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/-/health/live" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def tls_context(folder: Path) -> ssl.SSLContext:
    pki = RealPki()
    authority = pki.create_authority(ClusterId("ab" * 16), now_ms=0, days=1)
    identity = pki.issue_server(authority, ("somewhere.example",), now_ms=0, days=1)
    (folder / "pem").write_bytes(identity.certificate_pem + identity.private_key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem")
    return context


@pytest.fixture(params=["plain", "tls"])
def port(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # The wrong way.
    if request.param == "tls":
        context = tls_context(tmp_path)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def probe(port: int, tls: str) -> int:
    """Run what the Dockerfile says, in the image's environment but for the port."""
    (command,) = re.findall(r'CMD (\["python".*\])', (ROOT / "Dockerfile").read_text())
    settings = {"OBJSTORE_S3_ADDRESS": f"0.0.0.0:{port}", "OBJSTORE_S3_TLS": tls}
    done = subprocess.run(
        [sys.executable, *json.loads(command)[1:]],
        env=os.environ | settings,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    return done.returncode


@pytest.mark.slow
@pytest.mark.parametrize("tls", ["off", "cluster"])
def test_a_node_that_answers_lives(port: int, tls: str) -> None:
    assert probe(port, tls) == 0


@pytest.mark.slow
def test_one_that_answers_something_else_or_nothing_does_not(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "status", 503)
    assert probe(port, "off") == 1
    assert probe(1, "off") == 1
