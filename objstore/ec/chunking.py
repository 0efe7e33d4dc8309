"""Chunking: a stream of bytes cut into blocks, and blocks counted into chunks.

    stream   |--- chunk 0: chunk_size bytes ---|--- chunk 1 ---|-- chunk 2: the rest -|
    blocks   |0  |1  |2  |3  |4  |5  |6  |rest |0  |1  | ...

A block is `block_size` bytes; only the last block of a chunk may be shorter.  A chunk is
`chunk_size` bytes; only the last chunk of a stream may be shorter.  An empty stream has no
block and no chunk.  Sans-IO: feed what came, take the blocks that are complete.
"""

from __future__ import annotations

import attrs

from objstore.buffer import Buffer


@attrs.frozen
class Block:
    """One block of a stream, ready to be coded."""

    chunk: int  # The chunk's number in the stream, from 0.
    number: int  # The block's number in its chunk, from 0.
    offset: int  # Of its first byte in the chunk, in bytes.
    data: memoryview  # Not empty; nobody writes to what it shows.


class Chunker:
    """Cuts one stream.

    A block that lies within one fed buffer shares its memory: a caller must not change a
    buffer that it has fed.  At most one block's bytes are held back.
    """

    def __init__(self, chunk_size: int, block_size: int) -> None:
        assert 0 < block_size <= chunk_size
        self.chunk_size = chunk_size
        self.block_size = block_size
        self.size = 0  # Bytes fed so far.
        self._chunk = 0
        self._offset = 0  # In the chunk, of the block that is being filled.
        self._held = bytearray()  # The bytes of it that came so far.
        self._closed = False

    def feed(self, buffer: Buffer) -> list[Block]:
        """Take `buffer` in; return the blocks that it completes, in order."""
        assert not self._closed
        view = memoryview(buffer)
        assert view.nbytes == len(view)
        self.size += len(view)
        blocks = []
        start = 0
        while start < len(view):
            wanted = self._wanted()
            piece = view[start : start + wanted - len(self._held)]
            start += len(piece)
            if len(piece) == wanted:
                blocks.append(self._block(piece))
                continue
            # Copied at once: pieces kept as views would cost far more memory than their
            # bytes when they come a few bytes at a time.
            self._held += piece
            if len(self._held) == wanted:
                blocks.append(self._block(self._take_held()))
        return blocks

    def close(self) -> list[Block]:
        """End the stream; return its last, shorter block, if there is one."""
        assert not self._closed
        self._closed = True
        return [self._block(self._take_held())] if self._held else []

    def _wanted(self) -> int:
        """The size of the block that is being filled."""
        return min(self.block_size, self.chunk_size - self._offset)

    def _take_held(self) -> memoryview:
        held, self._held = self._held, bytearray()
        return memoryview(held)

    def _block(self, data: memoryview) -> Block:
        number = self._offset // self.block_size
        block = Block(self._chunk, number, self._offset, data)
        self._offset += len(data)
        if self._offset == self.chunk_size:
            self._chunk += 1
            self._offset = 0
        return block
