"""What nodes say to each other about fragments: the values of the chunks.* calls.

    method          value            payload     answer
    chunks.put      PutFragment      the block   -             a fragment of one block
    chunks.begin    BeginFragment    -           session id    then, within the session:
    chunks.append   AppendBlock      the block   -             in any order, each block once
    chunks.commit   session id       -           -             durable on return
    chunks.abort    session id       -           -
    chunks.read     ReadFragment     -           BlockRun      the blocks, joined
    chunks.stat     fragment ids     -           FragmentStats
    chunks.delete   fragment ids     -           -
    chunks.record   one fragment id  -           FragmentRecord
    chunks.delete_record
                    FragmentRecord   -           -           if that is where it still lies

Checksums are the senders' own: a block is verified by whoever receives it.
"""

from __future__ import annotations

from objstore.chunks.fragment import FragmentHeader, FragmentStat, RecordRef
from objstore.frozen import frozen
from objstore.ids import FragmentId
from objstore.limits import BLOCK_SIZE
from objstore.rpc.codec import wire

PUT = "chunks.put"
BEGIN = "chunks.begin"
APPEND = "chunks.append"
COMMIT = "chunks.commit"
ABORT = "chunks.abort"
READ = "chunks.read"
STAT = "chunks.stat"
DELETE = "chunks.delete"
RECORD = "chunks.record"
DELETE_RECORD = "chunks.delete_record"

RUN_SIZE = BLOCK_SIZE  # What one read asks for, about.
FRAGMENTS_A_CALL_MAX = 1000  # Of stat and delete; more are several calls.


@wire("chunks.put")
@frozen
class PutFragment:
    """Write a fragment of one block (or none) and commit it."""

    header: FragmentHeader
    crc32c: int  # Of the block.
    into_reserve: bool = False


@wire("chunks.begin")
@frozen
class BeginFragment:
    """Begin to write a fragment."""

    header: FragmentHeader
    into_reserve: bool = False


@wire("chunks.append")
@frozen
class AppendBlock:
    """One block of a fragment being written."""

    session: int
    number: int
    crc32c: int


@wire("chunks.session")
@frozen
class SessionRef:
    """A write in progress, by the number that the receiver gave it."""

    session: int


@wire("chunks.read")
@frozen
class ReadFragment:
    """Read blocks from `offset` on, at least one, at most about BLOCK_SIZE, up to `end`."""

    fragment: FragmentId
    offset: int
    end: int


@wire("chunks.run")
@frozen
class BlockRun:
    """Verified pieces of a fragment, in order and without gaps, as (size, CRC32C)."""

    offset: int  # Of the first.
    pieces: tuple[tuple[int, int], ...]
    block_size: int  # Of the fragment; pieces end where blocks end.


@wire("chunks.fragments")
@frozen
class Fragments:
    """Fragments to look for, or to delete."""

    fragments: tuple[FragmentId, ...]


@wire("chunks.fragment_record")
@frozen
class FragmentRecord:
    """A fragment, and the record that it lies in."""

    fragment: FragmentId
    record: RecordRef | None  # None: it is not here.


@wire("chunks.stats")
@frozen
class FragmentStats:
    """An answer for each fragment asked for."""

    stats: tuple[FragmentStat | None, ...]
