"""A drive folder's identity: whose it is, and the folders that must not be used.

    DRIVE/
      drive.json            {"format": 1, "crc32c": hex, "identity": {drive, node, cluster}}
      lock                  held by the running daemon
      probe                 written and synced at each start
      segment-00000001 ...

Refused, each with a sentence that says what to do: the folder of another node or cluster,
one that another daemon uses, one whose identity is damaged or gone though segments are
there, one named twice, and a folder that *was* a drive of this node and is empty now.  That
last one is mostly a disk that was not mounted: writing to it would fill the disk below and
hide the real one.  A replaced disk is accepted by a file `accept-empty` in the folder.
"""

from __future__ import annotations

import json

import attrs

from objstore.chunks.segment import number_of
from objstore.errors import ConfigError
from objstore.host.disk import Directory, File, read_file, write_file_atomically
from objstore.ids import ClusterId, DriveId, NodeId
from objstore.sums import crc32c

_FORMAT = 1
_IDENTITY = "drive.json"
_LOCK = "lock"
_PROBE = "probe"
ACCEPT_EMPTY = "accept-empty"


class DriveRefused(ConfigError):
    """A folder that must not be used as a chunk drive."""


@attrs.frozen
class DriveIdentity:
    """Whose a drive folder is."""

    drive: DriveId
    node: NodeId
    cluster: ClusterId


def lock_drive(directory: Directory) -> File:
    """Take the folder for this process.  Raises DriveRefused."""
    try:
        return directory.lock(_LOCK)
    except BlockingIOError as error:
        raise DriveRefused(
            f"{directory.path}: another daemon uses this drive folder."
            " hint: stop it first, or name another folder in node.drives"
        ) from error


def claim_drive(
    directory: Directory, *, wanted: DriveIdentity, expected: DriveId | None
) -> DriveIdentity:
    """Read whose the folder is; one that is new becomes `wanted`, durably.

    expected: the drive that this node last found at this path.
    Also proves that the drive can be written and synced.  Raises DriveRefused, OSError.
    """
    identity = read_identity(directory)
    if identity is None:
        _check_new(directory, expected)
        _write_identity(directory, wanted)
        if directory.exists(ACCEPT_EMPTY):
            directory.remove(ACCEPT_EMPTY)
        identity = wanted
    elif (identity.node, identity.cluster) != (wanted.node, wanted.cluster):
        raise DriveRefused(
            f"{directory.path}: drive {identity.drive} belongs to node {identity.node} of"
            f" cluster {identity.cluster}, this is node {wanted.node} of cluster"
            f" {wanted.cluster}. hint: name the right folder in node.drives, or, to give"
            " up what is on it, move everything out of the folder"
        )
    write_file_atomically(directory, _PROBE, b"objstore can write here\n")
    return identity


def _check_new(directory: Directory, expected: DriveId | None) -> None:
    if any(number_of(name) is not None for name in directory.names()):
        raise DriveRefused(
            f"{directory.path}: has segments but no {_IDENTITY}."
            " hint: restore drive.json from a backup, or move the segments away"
        )
    if expected is not None and not directory.exists(ACCEPT_EMPTY):
        raise DriveRefused(
            f"{directory.path}: was drive {expected} of this node and is empty now."
            " hint: is the disk mounted? If it was replaced by a new one, make a file"
            f" {ACCEPT_EMPTY} in the folder and start again: its fragments are then made"
            " again from other copies as reads miss them"
        )


def read_identity(directory: Directory) -> DriveIdentity | None:
    """Whose the folder is; None where there is no identity file.  Raises DriveRefused."""
    try:
        data = read_file(directory, _IDENTITY)
    except FileNotFoundError:
        return None
    where = f"{directory.path}/{_IDENTITY}"
    try:
        document = json.loads(data)
        version = document["format"]
        body = document["identity"]
        is_whole = document["crc32c"] == _checksum(body)
        identity = DriveIdentity(
            DriveId(body["drive"]), NodeId(body["node"]), ClusterId(body["cluster"])
        )
        is_whole = is_whole and len(bytes.fromhex(identity.drive)) == 8
    except (ValueError, KeyError, TypeError) as error:
        raise DriveRefused(f"{where}: damaged. hint: restore it from a backup") from error
    if version != _FORMAT:
        raise DriveRefused(
            f"{where}: format {version}, this build reads {_FORMAT}."
            " hint: start it with the objstore version that wrote it, or newer"
        )
    if not is_whole:
        raise DriveRefused(f"{where}: damaged. hint: restore it from a backup")
    return identity


def _write_identity(directory: Directory, identity: DriveIdentity) -> None:
    body = attrs.asdict(identity)
    document = {"format": _FORMAT, "crc32c": _checksum(body), "identity": body}
    write_file_atomically(directory, _IDENTITY, json.dumps(document, indent=2).encode())


def _checksum(body: dict[str, object]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return f"{crc32c(canonical):08x}"
