"""A data folder is one node: its identity, its secrets, its lock.

    DATA/
      lock          held by the running daemon
      node.json     who this is; every start counts up `start_count`, durably, first
      secrets.json  certificate, key, gossip secret, admin token, of the cluster (0600)
      layout        the layout at the join, until the cluster's state is pulled
      ca.key        a founder's CA key, until it is replicated with the cluster
      wal/  meta/   the Raft log and the metadata store
      chunks/       the drive folder, unless `node.drives` names others

    node.json   {"format": 1, "crc32c": "hex", "identity": {...}}  (formats/node-folder.md)

    states      founding | joining -> member -> left

Refused, each with a sentence that says what to do: a folder that another daemon runs on,
a later format, a damaged identity, a folder of another cluster, one whose log or metadata
is gone although its identity is there (an emptied disk: its votes are lost, so it must
never vote again under this id), one that left.  A *cloned* disk shows itself to peers by
gossip (`gossip.core`, IdentityConflict), and an *old copy* by a start count below what
peers remember.
"""

from __future__ import annotations

import json
from enum import StrEnum

import attrs
import google_crc32c

from objstore.errors import ConfigError
from objstore.host.disk import Directory, File, read_file, write_file_atomically
from objstore.host.host import Disks
from objstore.host.network import TlsIdentity
from objstore.ids import ClusterId, NodeId

IDENTITY_FORMAT = 1
_IDENTITY = "node.json"
_SECRETS = "secrets.json"
_LOCK = "lock"
_FIRST_LAYOUT = "layout"
_AUTHORITY_KEY = "ca.key"


class IdentityState(StrEnum):
    """Where a node is in its life."""

    FOUNDING = "founding"  # Its cluster's first node, before the first entry is applied.
    JOINING = "joining"  # Asked to be let in under this id; not answered yet.
    MEMBER = "member"
    LEFT = "left"


@attrs.frozen
class Identity:
    """Who the node of this folder is."""

    node: NodeId
    cluster: ClusterId  # "" while joining.
    state: IdentityState
    start_count: int = 0  # Daemon starts on this folder.
    has_log: bool = False  # A log was made here: one that is empty now was emptied.


@attrs.frozen
class Secrets:
    """What the node needs of its cluster before it can talk to anyone."""

    authority_pem: bytes  # The CA's certificate.
    certificate_pem: bytes
    private_key_pem: bytes = attrs.field(repr=False)
    gossip_secret: bytes = attrs.field(repr=False)
    admin_token: str = attrs.field(repr=False)
    root_access_key: str = ""
    root_secret_key: str = attrs.field(repr=False, default="")
    seeds: tuple[str, ...] = ()  # Cluster addresses to try first.

    def tls_identity(self) -> TlsIdentity:
        return TlsIdentity(self.certificate_pem, self.private_key_pem, self.authority_pem)


@attrs.define
class DataFolder:
    """An opened, locked data folder."""

    directory: Directory
    identity: Identity | None
    _lock: File

    def start(self, identity: Identity) -> Identity:
        """Count this start, durably, before anything is said under the identity."""
        self.save(attrs.evolve(identity, start_count=identity.start_count + 1))
        assert self.identity is not None
        return self.identity

    def note_log(self) -> None:
        """Remember that the node's log has been made, before anything relies on it."""
        assert self.identity is not None
        if not self.identity.has_log:
            self.save(attrs.evolve(self.identity, has_log=True))

    def save(self, identity: Identity) -> None:
        """Make `identity` that of the folder, durably."""
        body = attrs.asdict(identity)
        document = {
            "format": IDENTITY_FORMAT,
            "crc32c": _checksum(body),
            "identity": body,
        }
        data = json.dumps(document, indent=2).encode()
        write_file_atomically(self.directory, _IDENTITY, data)
        self.identity = identity

    def save_secrets(self, secrets: Secrets) -> None:
        body = attrs.asdict(
            secrets,
            value_serializer=lambda _instance, _field, value: (
                value.decode("latin-1") if isinstance(value, bytes) else value
            ),
        )
        write_file_atomically(self.directory, _SECRETS, json.dumps(body, indent=2).encode())

    def load_secrets(self) -> Secrets:
        """Raises ConfigError where they are missing or cannot be read."""
        return load_secrets(self.directory)

    def save_authority_key(self, key_pem: bytes) -> None:
        write_file_atomically(self.directory, _AUTHORITY_KEY, key_pem)

    def load_authority_key(self) -> bytes:
        return read_file(self.directory, _AUTHORITY_KEY)

    def forget_authority_key(self) -> None:
        """The cluster keeps it from now on."""
        if self.directory.exists(_AUTHORITY_KEY):
            self.directory.remove(_AUTHORITY_KEY)
            self.directory.sync()

    def save_first_layout(self, layout: bytes) -> None:
        write_file_atomically(self.directory, _FIRST_LAYOUT, layout)

    def load_first_layout(self) -> bytes | None:
        if not self.directory.exists(_FIRST_LAYOUT):
            return None
        return read_file(self.directory, _FIRST_LAYOUT)

    def close(self) -> None:
        self._lock.close()


def load_secrets(directory: Directory) -> Secrets:
    """The secrets in a node's folder (needs no lock).  Raises ConfigError."""
    try:
        body = json.loads(read_file(directory, _SECRETS))
        return Secrets(
            authority_pem=body["authority_pem"].encode("latin-1"),
            certificate_pem=body["certificate_pem"].encode("latin-1"),
            private_key_pem=body["private_key_pem"].encode("latin-1"),
            gossip_secret=body["gossip_secret"].encode("latin-1"),
            admin_token=body["admin_token"],
            root_access_key=body["root_access_key"],
            root_secret_key=body["root_secret_key"],
            seeds=tuple(body["seeds"]),
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"{directory.path}: {_SECRETS} is missing. hint: restore it from a backup, or"
            " give this node up and join a new one on an empty folder"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{directory.path}: {_SECRETS} is damaged. hint: restore it from a backup, or"
            " give this node up and join a new one on an empty folder"
        ) from error


def open_data_folder(disks: Disks, path: str) -> DataFolder:
    """Lock the folder at `path` (made if absent) and read who it is.

    Raises ConfigError, with what to do, for every folder that must not be started on.
    """
    try:
        directory = disks.directory(path, create=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be used as a data folder: {error}") from error
    try:
        lock = directory.lock(_LOCK)
    except BlockingIOError as error:
        raise ConfigError(
            f"{path}: another daemon runs on this data folder."
            " hint: stop it first, or give this one a folder of its own"
        ) from error
    try:
        return DataFolder(directory, _read_identity(directory), lock)
    except BaseException:
        lock.close()
        raise


def _read_identity(directory: Directory) -> Identity | None:
    if not directory.exists(_IDENTITY):
        # Secrets alone are what a founding left that was cut off: nobody knows them.
        strangers = sorted(set(directory.names()) & {"wal", "meta"})
        if strangers:
            raise ConfigError(
                f"{directory.path}: has {', '.join(strangers)} but no {_IDENTITY}: a node's"
                " folder whose identity was lost. hint: restore node.json from a backup, or"
                " move the folder away and join as a new node"
            )
        return None
    identity = _parse_identity(directory)
    if identity.state is IdentityState.LEFT:
        raise ConfigError(
            f"{directory.path}: node {identity.node} has left its cluster and must not"
            " return under its old id. hint: join with an empty folder"
        )
    missing = sorted({"wal", "meta"} - set(directory.names()))
    if identity.has_log and "wal" not in missing and not directory.folder("wal").names():
        missing.append("wal")
    if identity.state is IdentityState.MEMBER and missing and identity.start_count > 0:
        raise ConfigError(
            f"{directory.path}: node {identity.node} is here, but its"
            f" {' and '.join(missing)} is gone: an emptied disk must not vote under its old"
            " id."
            " hint: move the folder away and join as a new node; the cluster gives the old"
            " node's place up after repair.grace"
        )
    return identity


def read_identity(directory: Directory) -> Identity | None:
    """Who a folder says that it is, in whatever state; None where it says nothing.

    For looking at a folder; a daemon opens it by `open_data_folder`.  Raises ConfigError.
    """
    return _parse_identity(directory) if directory.exists(_IDENTITY) else None


def _parse_identity(directory: Directory) -> Identity:
    where = f"{directory.path}/{_IDENTITY}"
    try:
        document = json.loads(read_file(directory, _IDENTITY))
        version = document["format"]
        body = document["identity"]
        is_whole = document["crc32c"] == _checksum(body)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: damaged. hint: restore it from a backup") from error
    if version != IDENTITY_FORMAT:
        raise ConfigError(
            f"{where}: format {version}, this build reads {IDENTITY_FORMAT}."
            " hint: start it with the objstore version that wrote it, or newer"
        )
    if not is_whole:
        raise ConfigError(f"{where}: its checksum is wrong. hint: restore it from a backup")
    return Identity(
        NodeId(body["node"]),
        ClusterId(body["cluster"]),
        IdentityState(body["state"]),
        body["start_count"],
        body.get("has_log", False),
    )


def _checksum(body: dict[str, object]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return f"{google_crc32c.value(canonical):08x}"
