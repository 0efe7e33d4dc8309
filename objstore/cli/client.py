"""The admin API, as the commands call it."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from objstore.cli.output import FAILED, NOT_BUILT, UNREACHABLE, UNUSABLE, Failure
from objstore.cli.settings import read_config
from objstore.config import Config
from objstore.errors import ConfigError
from objstore.host.real_host import real_host
from objstore.node.identity import load_secrets

_TIMEOUT_S = 30.0  # Longer than the admin API takes for any request but a leave.
_PEM_END = "-----END CERTIFICATE-----"


@attrs.frozen
class AdminClient:
    """Calls one node's admin API."""

    url: str  # http://HOST:PORT or https://HOST:PORT
    token: str = attrs.field(repr=False)
    trust_pem: str | None = attrs.field(default=None, repr=False)
    # Whether `trust_pem` is the node's own certificate: whatever name it bears is right.
    is_pinned: bool = False

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> Any:
        """The decoded answer.  Raises Failure: unreachable, or what the node said.

        path: below /-/admin/v1/, quoted.
        """
        status, answer = self.request(
            method, f"/-/admin/v1/{path}", body, timeout_s=timeout_s
        )
        if status < http.client.BAD_REQUEST:
            return answer
        error = answer if isinstance(answer, dict) else {}
        code = NOT_BUILT if status == http.client.NOT_IMPLEMENTED else FAILED
        if status == http.client.SERVICE_UNAVAILABLE:
            code = UNREACHABLE
        raise Failure(
            str(error.get("message", f"{self.url} answered {status}")),
            hint=str(error.get("hint", "")),
            code=code,
        )

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> tuple[int, Any]:
        """Status and decoded body of any request under /-/.  Raises Failure."""
        parts = urlsplit(self.url)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        data = None if body is None else json.dumps(body).encode()
        try:
            connection = self._connection(parts.hostname or "", parts.port, timeout_s)
        except (ssl.SSLError, ValueError) as error:
            raise Failure(
                f"the certificate to trust cannot be read: {error}", code=UNUSABLE
            ) from error
        try:
            connection.request(method, path, body=data, headers=headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failure(
                f"no answer from {self.url}: {error}",
                hint="is the node running? name another node's file with --config",
                code=UNREACHABLE,
            ) from error
        finally:
            connection.close()
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, content.decode(errors="replace")

    def _connection(
        self, host: str, port: int | None, timeout_s: float
    ) -> http.client.HTTPConnection:
        if not self.url.startswith("https:"):
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        context = ssl.create_default_context(cadata=self.trust_pem)
        if self.is_pinned:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def client_for(config_path: str) -> AdminClient:
    """The client of the node whose configuration file this is.

    On that machine the admin token is read from the node's folder; elsewhere from
    OBJSTORE_ADMIN_TOKEN.  Raises Failure.
    """
    config = read_config(config_path)
    token = os.environ.get("OBJSTORE_ADMIN_TOKEN", "")
    trust_pem = None
    try:
        secrets = load_secrets(real_host().disks.directory(config.node.data))
        token = token or secrets.admin_token
        trust_pem = secrets.authority_pem.decode()
    except (ConfigError, OSError) as error:
        if not token:
            sentence = str(error).partition(" hint: ")[0]
            raise Failure(
                f"no admin token: {sentence}",
                hint="run this on the node's machine, or set OBJSTORE_ADMIN_TOKEN",
                code=UNUSABLE,
            ) from error
    return admin_client(config, token, trust_pem)


def admin_client(config: Config, token: str, authority_pem: str | None) -> AdminClient:
    """The client of a node on this machine, which trusts the certificate it has.

    Raises Failure where s3.tls=files and the file cannot be read.
    """
    if config.s3.tls != "files":
        return AdminClient(s3_url(config), token, authority_pem)
    leaf_pem = _leaf_of(config.s3.tls_certificate)
    return AdminClient(s3_url(config), token, leaf_pem, is_pinned=True)


def _leaf_of(path: str) -> str:
    """The first certificate of a PEM file: the one that the server shows as its own.

    Names are not compared then, so nothing above the leaf may be trusted: whoever else
    got a certificate there would be believed too.
    """
    try:
        text = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            f"s3.tls_certificate cannot be read: {error}",
            hint="name the PEM file of the certificate chain",
            code=UNUSABLE,
        ) from error
    leaf, end, _ = text.partition(_PEM_END)
    return leaf + end


def s3_url(config: Config) -> str:
    """Where this machine reaches the node of `config`."""
    host, _, port = (config.s3.advertise or config.s3.address).rpartition(":")
    if host in {"0.0.0.0", "[::]"}:  # noqa: S104 - replaced, not bound.
        host = "127.0.0.1"
    scheme = "http" if config.s3.tls == "off" else "https"
    return f"{scheme}://{host}:{port}"
