"""Checksums of a block's pieces, made where its bytes come to rest.

    bytes come --> block |  piece   |  piece   | ... |  rest  |      PIECE_SIZE each
                            CRC32C     CRC32C          CRC32C  --> that of the whole

Who receives a block makes them part by part, right behind its bytes: those are in the
processor's cache then, and to go over them once more later costs three times as much.  What
is written to a drive, sent to a node, or compared with what a sender named, is of these.
"""

from __future__ import annotations

from awscrt import checksums

from objstore.buffer import Buffer
from objstore.frozen import frozen
from objstore.limits import PIECE_SIZE


def crc32c(data: Buffer, start: int = 0) -> int:
    """CRC32C of `data`, going on from `start`; takes any buffer without copying it."""
    return checksums.crc32c(data, start)  # type: ignore[arg-type]


@frozen
class Sums:
    """CRC32C of each piece of a block, and of all of it."""

    pieces: tuple[int, ...]  # PIECE_SIZE bytes each, the last what remains.
    size: int  # Of the block, in bytes.
    crc32c: int

    @classmethod
    def of(cls, data: Buffer) -> Sums:
        """Those of bytes that are all there."""
        summing = Summing(memoryview(data))
        return summing.add(len(data)).end()

    def crc32c_of(self, start: int, end: int) -> int | None:
        """That of a part of the block; None where it begins or ends within a piece."""
        if start % PIECE_SIZE or (end % PIECE_SIZE and end != self.size):
            return None
        first, last = start // PIECE_SIZE, -(-end // PIECE_SIZE)
        return _joined(self.pieces[first:last], end - start)


class Summing:
    """The sums of a block that is arriving."""

    __slots__ = ("_block", "_crcs", "_size", "_summed")

    def __init__(self, block: memoryview) -> None:
        """`block`: where its bytes will be."""
        self._block = block
        self._crcs: list[int] = []
        self._size = 0  # Bytes that are there.
        self._summed = 0  # Of them, in whole pieces that have their sum.

    def add(self, size: int) -> Summing:
        """So many bytes more of the block are there, behind those before."""
        self._size += size
        start, block = self._summed, self._block
        while self._size - start >= PIECE_SIZE:
            end = start + PIECE_SIZE
            self._crcs.append(crc32c(block[start:end]))
            start = end
        self._summed = start
        return self

    def end(self) -> Sums:
        """All of the block is there."""
        assert self._size == len(self._block)
        if self._summed < self._size:
            self._crcs.append(crc32c(self._block[self._summed :]))
        pieces = tuple(self._crcs)
        return Sums(pieces, self._size, _joined(pieces, self._size))


@frozen
class Summed:
    """A block with its sums."""

    data: Buffer
    sums: Sums


def _joined(pieces: tuple[int, ...], size: int) -> int:
    """The CRC32C of bytes whose pieces have these, as going over them would make it."""
    if len(pieces) == 1:
        return pieces[0]
    crc = 0
    for piece in pieces:
        crc = checksums.combine_crc32c(crc, piece, min(size, PIECE_SIZE))
        size -= PIECE_SIZE
    return crc
