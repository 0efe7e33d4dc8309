"""Envelope: what a log entry of a shard holds around its command.

    offset  size  type    field
    0       1     u8      format, 1
    1       2     u16be   feature level that the command needs
    3       16    bytes   request id: a command that comes again applies once (R13)
    19      8     u64be   stamp: the leader's wall clock when it proposed, milliseconds
    27      ..    bytes   the command, as `rpc.codec` encodes it

The feature level is a setting of the cluster: only once every node runs a program that
knows level N is it raised to N, and only then are commands and rows of N written.  So an
entry above this build's level means that this node was left behind, or was started with
an old program: it must stop, because it cannot apply what the others do (R12).
"""

from __future__ import annotations

import struct

from objstore.errors import CorruptData, ObjstoreError
from objstore.ids import RequestId
from objstore.limits import ENTRY_SIZE_MAX
from objstore.meta.commands import BeginIntent, Command
from objstore.rpc import codec

FEATURE_LEVEL = 2  # The highest that this build knows.
SPARES_LEVEL = 2  # Of a BeginIntent with spares.
REQUEST_ID_SIZE = 16
STAMP_MAX_MS = (1 << 43) - 1  # The year 2248: a version's order keeps room above it.
_FORMAT = 1
_HEAD = struct.Struct(">BH16sQ")


class UnknownFeature(ObjstoreError):
    """The log holds a command of a feature level that this program does not know."""

    def __init__(self, level: int) -> None:
        super().__init__(
            f"the cluster is at feature level {level}, this program knows"
            f" {FEATURE_LEVEL}: start this node with the newer objstore"
        )
        self.level = level


def level_of(command: Command) -> int:
    """The feature level that a command needs: a newer one is listed here."""
    if isinstance(command, BeginIntent) and command.spares:
        return SPARES_LEVEL
    return 1


def encode(request: RequestId, stamp_ms: int, command: bytes, *, level: int = 1) -> bytes:
    """Pack an entry; `command` is encoded already (a front door did)."""
    assert len(request) == REQUEST_ID_SIZE
    data = _HEAD.pack(_FORMAT, level, request, stamp_ms) + command
    assert len(data) <= ENTRY_SIZE_MAX
    return data


def decode(data: bytes, known: Command | None = None) -> tuple[RequestId, int, Command]:
    """(request id, stamp, command) of an entry.  Raises UnknownFeature, CorruptData.

    known: its command, where that was decoded already.
    """
    if len(data) <= _HEAD.size:
        raise CorruptData(f"a log entry of {len(data)} bytes")
    entry_format, level, request, stamp_ms = _HEAD.unpack_from(data)
    if level > FEATURE_LEVEL or entry_format != _FORMAT:
        raise UnknownFeature(level)
    command = codec.decode(data[_HEAD.size :]) if known is None else known
    return request, stamp_ms, command
