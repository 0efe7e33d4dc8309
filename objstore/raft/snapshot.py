"""A snapshot on its way from a leader to a follower: the calls, and the receiving end.

    sender                                 receiver
    Begin(applied) ----------------------> wanted, and a place is free: begin an install
    Piece(0, ...) -----------------------> feed
    Piece(1, ...) -----------------------> feed            (sent again: known by its number)
    Commit(count, crc) ------------------> all there: note it in the WAL, put it in place

    byte 0 of a call and of its answer     version, 1
    rest of a call                         msgpack [type, group, transfer, field ...]
    rest of an answer                      msgpack [status, number]

A receiver keeps one transfer per group; a new Begin ends the one before. Whatever goes
wrong ends the transfer, and the leader begins again when it next hears of the follower.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import attrs
from google_crc32c import extend as crc32c_extend

from objstore.errors import RemoteProtocolError
from objstore.frozen import frozen
from objstore.ids import NodeId
from objstore.limits import SNAPSHOT_PIECE_SIZE
from objstore.raft.messages import decode_membership, encode_membership, pack, unpack
from objstore.raft.state_machine import Applied, Install

VERSION = 1
_U64_MAX = 2**64 - 1


class Status(IntEnum):
    OK = 0  # number: the piece expected next.
    NOT_WANTED = 1  # The receiver has as much, or serves a newer term.
    BUSY = 2  # It receives enough already.
    BROKEN = 3  # The transfer is not known (any more): begin again.


@frozen
class Begin:
    group: int
    transfer: int  # Random; tells this attempt from others.
    term: int  # The sender leads in it.
    applied: Applied


@frozen
class Piece:
    group: int
    transfer: int
    number: int  # From 0.
    data: bytes


@frozen
class Commit:
    group: int
    transfer: int
    count: int  # Pieces sent.
    crc: int  # CRC32C of all pieces in a row.


@frozen
class Reply:
    status: Status
    number: int = 0


Call = Begin | Piece | Commit

_HEAD = bytes((VERSION,))


def encode_call(call: Call) -> bytes:
    match call:
        case Begin(group, transfer, term, applied):
            membership = encode_membership(applied.membership)
            row = (0, group, transfer, term, applied.index, applied.term, membership)
            return _HEAD + pack(row)
        case Piece(group, transfer, number, data):
            return _HEAD + pack((1, group, transfer, number, data))
        case Commit(group, transfer, count, crc):
            return _HEAD + pack((2, group, transfer, count, crc))


def decode_call(data: bytes) -> Call:
    """Read a call.  Raises RemoteProtocolError."""
    match _row(data):
        case [0, int(), int(), int(), int(), int(), bytes()] as row if _numbers(row[1:6]):
            _, group, transfer, term, index, at_term, membership = row
            applied = Applied(index, at_term, decode_membership(membership))
            return Begin(group, transfer, term, applied)
        case [1, int(), int(), int(), bytes()] as row if _numbers(row[1:4]):
            _, group, transfer, number, piece = row
            if len(piece) > SNAPSHOT_PIECE_SIZE:
                raise RemoteProtocolError("a snapshot's piece is too large")
            return Piece(group, transfer, number, piece)
        case [2, int(), int(), int(), int()] as row if _numbers(row[1:5]):
            _, group, transfer, count, crc = row
            return Commit(group, transfer, count, crc)
        case _:
            raise RemoteProtocolError("no snapshot call")


def encode_reply(answer: Reply) -> bytes:
    return _HEAD + pack((int(answer.status), answer.number))


def decode_reply(data: bytes) -> Reply:
    """Read an answer.  Raises RemoteProtocolError."""
    match _row(data):
        case [int() as status, int() as number] if status in set(Status) and number >= 0:
            return Reply(Status(status), number)
        case _:
            raise RemoteProtocolError("no answer to a snapshot call")


def _row(data: bytes) -> Any:
    if not data or data[0] != VERSION:
        raise RemoteProtocolError(f"snapshot call of unknown version {data[:1].hex()}")
    return unpack(data[1:])


def _numbers(row: Sequence[Any]) -> bool:
    in_range = all(type(number) is int and 0 <= number <= _U64_MAX for number in row)
    return in_range and bool(row[0] < 2**32)


@attrs.define
class Receiver:
    """One transfer at the receiving end."""

    sender: NodeId
    begin: Begin
    install: Install
    heard_ms: int
    expected: int = 0
    crc: int = 0

    def feed(self, piece: Piece) -> Reply:
        """Take the next piece; one that came before is only acknowledged."""
        if piece.transfer != self.begin.transfer or piece.number > self.expected:
            return Reply(Status.BROKEN)
        if piece.number == self.expected:
            self.install.feed(piece.data)
            self.crc = crc32c_extend(self.crc, piece.data)
            self.expected += 1
        return Reply(Status.OK, self.expected)

    def is_complete(self, commit: Commit) -> bool:
        return (commit.transfer, commit.count, commit.crc) == (
            self.begin.transfer,
            self.expected,
            self.crc,
        )
