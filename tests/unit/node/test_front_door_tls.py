"""The front door's certificate of files: followed, and never exchanged for what does not fit."""

from __future__ import annotations

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from objstore.config import S3Config
from objstore.errors import ConfigError
from objstore.host.disk import write_file_atomically
from objstore.host.network import TlsIdentity
from objstore.ids import ClusterId
from objstore.node.certificates import FrontDoorTls
from objstore.testing.host import SimulatedWorld

CONFIG = S3Config(tls="files", tls_certificate="/tls/server.pem", tls_key="/tls/server.key")


class Files:
    """Certificates, and the files that the front door follows."""

    def __init__(self) -> None:
        self.host = SimulatedWorld(1).host("a")
        self.directory = self.host.disks.directory("/tls", create=True)
        self.front = FrontDoorTls(CONFIG, self.host)

    def made(self) -> TlsIdentity:
        now_ms = self.host.clock.utc_now_ms()
        pki = self.host.pki
        authority = pki.create_authority(ClusterId("c" * 32), now_ms=now_ms, days=10)
        return pki.issue_server(authority, ("s3.test",), now_ms=now_ms, days=5)

    def write(self, certificate: bytes | None, key: bytes | None) -> None:
        for name, content in (("server.pem", certificate), ("server.key", key)):
            if content is not None:
                write_file_atomically(self.directory, name, content)

    @property
    def in_use(self) -> bytes:
        tls = self.front.server_tls()
        assert tls is not None
        return tls.identity().certificate_pem


async def test_a_replaced_pair_is_used_and_half_of_one_is_not(autojump_clock, nursery):
    files = Files()
    first, second = files.made(), files.made()
    files.write(first.certificate_pem, first.private_key_pem)
    files.front.load_files()
    assert files.in_use == first.certificate_pem
    with capture_logs() as logs:
        nursery.start_soon(files.front.run, None)
        files.write(second.certificate_pem, None)
        await trio.sleep(30)
        assert files.in_use == first.certificate_pem
        files.write(None, second.private_key_pem)
        await trio.sleep(30)
        assert files.in_use == second.certificate_pem
    nursery.cancel_scope.cancel()
    # Said once each, however often it was looked at.
    assert [line["event"] for line in logs] == [
        "node.certificate_not_loaded",
        "node.certificate_loaded",
    ]


async def test_it_does_not_begin_with_a_pair_that_does_not_fit(autojump_clock):
    files = Files()
    files.write(files.made().certificate_pem, files.made().private_key_pem)
    with pytest.raises(ConfigError, match=r"server\.key"):
        files.front.load_files()
    missing = FrontDoorTls(attrs.evolve(CONFIG, tls_key="/tls/none"), files.host)
    with pytest.raises(ConfigError, match="/tls/none"):
        missing.load_files()
