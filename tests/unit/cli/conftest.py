"""The command line in this process, and an admin API that answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from objstore.cli.main import main


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OBJSTORE_CONFIG", "OBJSTORE_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: object) -> Result:
    """Run a command; a bug is raised, not hidden in an exit code."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@attrs.define
class Api:
    """Answers all requests alike, and remembers them."""

    address: str = ""
    status: int = 200
    answer: object = attrs.Factory(dict)
    asked: list[tuple[str, str, Any, str]] = attrs.Factory(list)


@pytest.fixture
def api() -> Iterator[Api]:
    told = Api()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(data) if data else None
            token = self.headers.get("Authorization", "")
            told.asked.append((self.command, self.path, body, token))
            content = (
                told.answer
                if isinstance(told.answer, bytes)
                else json.dumps(told.answer).encode()
            )
            self.send_response(told.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - names of http.server.

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def config(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's file on another machine than the node: the token comes by environment."""
    monkeypatch.setenv("OBJSTORE_ADMIN_TOKEN", "the-token")
    path = tmp_path / "node.toml"
    path.write_text(
        f'[node]\ndata = "{tmp_path / "elsewhere"}"\n[s3]\naddress = "{api.address}"\n'
    )
    return path
