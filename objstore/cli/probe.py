"""Whether the node of this container lives: what the image's HEALTHCHECK runs.

    python -m objstore.cli.probe        exit code 0 once /-/health/live answers 200

The address is that of OBJSTORE_S3_ADDRESS.  Whether it speaks TLS may stand in a file or a
flag that only the daemon was given, so both ways are tried, that of OBJSTORE_S3_TLS first.
The certificate is not verified: nothing secret is sent, and the answer is one bit.
"""

from __future__ import annotations

import http.client
import ssl
import sys

from objstore.cli.settings import read_config
from objstore.config import Config

_PATH = "/-/health/live"
_TIMEOUT_S = 2.0  # Twice that is less than the timeout of the HEALTHCHECK.


def lives(config: Config) -> bool:
    """Whether the node answers at its S3 address, with TLS or without."""
    host, _, port = config.s3.address.rpartition(":")
    if host in {"0.0.0.0", "[::]"}:  # noqa: S104 - replaced, not bound.
        host = "127.0.0.1"
    is_tls = config.s3.tls != "off"
    return any(_answers(host, int(port), is_tls=tried) for tried in (is_tls, not is_tls))


def _answers(host: str, port: int, *, is_tls: bool) -> bool:
    if is_tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=_TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", _PATH)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if lives(read_config(None)) else 1)
