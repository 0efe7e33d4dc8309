"""The certificates in use: this node's among its peers, and the front door's.

Both are asked for at every connection, so that a renewed one needs no restart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

import attrs
import structlog
import trio

from objstore.admin.settings import CERTIFICATE_DAYS
from objstore.config import S3Config
from objstore.errors import ConfigError, ObjstoreError
from objstore.host.disk import read_file
from objstore.host.host import Host
from objstore.host.network import ServerTls, TlsIdentity
from objstore.host.pki import Authority
from objstore.node.identity import DataFolder, Identity

log = structlog.get_logger()

_DAY_MS = 86_400_000
_LIFE_MS = CERTIFICATE_DAYS * _DAY_MS
_CHECK_S = 300.0
_REISSUE_S = 3600.0  # The front door's, of the cluster's CA.
_RELOAD_S = 2.0


@attrs.define
class NodeCertificate:
    """This node's certificate among its peers; renewed when a third of its life is left."""

    folder: DataFolder
    identity: Identity
    host: Host
    current: TlsIdentity

    @classmethod
    def load(cls, folder: DataFolder, identity: Identity, host: Host) -> NodeCertificate:
        return cls(folder, identity, host, folder.load_secrets().tls_identity())

    def get(self) -> TlsIdentity:
        return self.current

    async def run(self, authority: Callable[[], Authority]) -> None:
        """Renew when due, until cancelled.  authority: the cluster's CA, or it raises."""
        while True:
            try:
                self._renew_if_due(authority)
            except ObjstoreError as error:
                log.warning("node.certificate_not_renewed", reason=str(error))
            await trio.sleep(_CHECK_S)

    def _renew_if_due(self, authority: Callable[[], Authority]) -> None:
        now_ms = self.host.clock.utc_now_ms()
        left_ms = self.host.pki.expires_ms(self.current.certificate_pem) - now_ms
        # One that has more left than a whole life was made while our clock was ahead: the
        # others take it for not valid yet.
        if _LIFE_MS // 3 < left_ms <= _LIFE_MS + _DAY_MS:
            return
        renewed = self.host.pki.issue(
            authority(),
            self.identity.cluster,
            self.identity.node,
            now_ms=now_ms,
            days=CERTIFICATE_DAYS,
        )
        secrets = attrs.evolve(
            self.folder.load_secrets(),
            certificate_pem=renewed.certificate_pem,
            private_key_pem=renewed.private_key_pem,
        )
        self.folder.save_secrets(secrets)
        self.current = renewed
        log.info("node.certificate_renewed")


@attrs.define
class FrontDoorTls:
    """The front door's certificate: of files read again, or of the cluster's CA."""

    config: S3Config
    host: Host
    _current: TlsIdentity | None = None
    _refused: TlsIdentity | None = None  # What the files held last that was of no use.

    def server_tls(self) -> ServerTls | None:
        """TLS of the listener; None where it is off.  `load` comes first."""
        return None if self.config.tls == "off" else ServerTls(identity=self._get)

    def _get(self) -> TlsIdentity:
        assert self._current is not None
        return self._current

    def load_files(self) -> None:
        """Read the files of tls=files.  Raises ConfigError."""
        self._current = self._checked(self._read_files())

    def issue(self, authority: Authority) -> None:
        """Make a certificate of the cluster's CA, for tls=cluster."""
        self._current = self.host.pki.issue_server(
            authority,
            self.config.tls_names,
            now_ms=self.host.clock.utc_now_ms(),
            days=CERTIFICATE_DAYS,
        )

    async def run(self, authority: Callable[[], Authority]) -> None:
        """Follow the files, or renew, until cancelled.

        Files that cannot be used are told of once, and what was in use stays: between the
        writing of one file and of the other they do not fit.
        """
        while True:
            await trio.sleep(_RELOAD_S if self.config.tls == "files" else _REISSUE_S)
            try:
                if self.config.tls == "files":
                    self._reload()
                elif self.config.tls == "cluster":
                    self.issue(authority())
            except ObjstoreError as error:
                log.warning("node.certificate_not_loaded", reason=str(error))

    def _reload(self) -> None:
        found = self._read_files()
        if found in {self._current, self._refused}:
            return
        self._refused = found
        self._current = self._checked(found)
        self._refused = None
        log.info("node.certificate_loaded")

    def _read_files(self) -> TlsIdentity:
        return TlsIdentity(
            self._read(self.config.tls_certificate), self._read(self.config.tls_key), b""
        )

    def _checked(self, identity: TlsIdentity) -> TlsIdentity:
        try:
            self.host.pki.check_identity(identity)
        except ValueError as error:
            files = f"{self.config.tls_certificate}, {self.config.tls_key}"
            raise ConfigError(f"{files}: {error}") from error
        return identity

    def _read(self, path: str) -> bytes:
        pure = PurePosixPath(path)
        try:
            return read_file(self.host.disks.directory(str(pure.parent)), pure.name)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
