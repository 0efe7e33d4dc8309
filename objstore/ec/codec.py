"""Codecs: one block of a chunk to k + m payloads, and any k of them back to the block.

    block (size bytes)       k = 4, m = 2, fragment size = ceil(size / 4)

    [ d0 | d1 | d2 | d3 00 ] -> payloads 0..3 are d0 .. d3: the block itself, cut into
                                k pieces, the last ones filled up with zeros;
                                payloads 4, 5 are parity: Reed-Solomon over GF(2^8)

With k = 1 every payload is the block, and nothing is copied.  A payload has no header: the
record around it (`objstore.chunks`) says which fragment it is and carries its checksum, so
a codec trusts its input.  The bytes are described in
docs/internals/formats/fragment-payload.md; a stored payload must stay decodable for ever.

The arithmetic is ISA-L's, by way of pyeclib.  Coding a block of 1 MiB takes about as long
as copying it a few times: callers that code many blocks do it off the loop.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from pyeclib.ec_iface import ECDriver, ECDriverError

from objstore.buffer import Buffer
from objstore.ec.scheme import Scheme
from objstore.errors import CorruptData

# Cauchy: every k rows of the matrix can be inverted, which ISA-L's Vandermonde does not
# promise for large m.
_EC_TYPE = "isa_l_rs_cauchy"

# liberasurecode's fragment header: index, payload size, (unused), size of the block; the
# rest is the same for every fragment of a driver; then a CRC-32 of the first _CRC_OFFSET
# bytes.  It exists only in memory, between here and the library.
_HEADER_SIZE = 80
_PATCH = struct.Struct("<IIIQ")
_META_SIZE = 59
_CRC = struct.Struct("<I")
_CRC_OFFSET = 67

CODECS_KEPT = 32  # Schemes in use at once: one per bucket policy, and few of those.


class NotEnoughFragments(CorruptData):
    """Fewer than k fragments are at hand: the block cannot be computed from them."""

    def __init__(self, *, needed: int, found: int) -> None:
        super().__init__(f"{needed} fragments are needed and {found} were found")
        self.needed = needed
        self.found = found


class Codec(Protocol):
    """Codes blocks of one scheme.  Stateless, and safe to call from several threads."""

    scheme: Scheme

    def encode(self, block: Buffer) -> list[Buffer]:
        """Compute the k + m payloads of `block`, data first; they may share its memory."""
        ...

    def decode(self, fragments: Sequence[Buffer | None], size: int) -> Buffer:
        """Compute the block of `size` bytes.

        `fragments`: k + m payloads of equal size, absent ones None.
        Raises NotEnoughFragments if fewer than k are there.
        """
        ...

    def rebuild(
        self, fragments: Sequence[Buffer | None], wanted: Sequence[int], size: int
    ) -> list[Buffer]:
        """Compute the payloads numbered `wanted`, in that order, from those that are there.

        `fragments` and errors as for `decode`.
        """
        ...


def codec_for(scheme: Scheme) -> Codec:
    """The codec of `scheme`; made once and kept."""
    return _codec_for(scheme)


@lru_cache(maxsize=CODECS_KEPT)
def _codec_for(scheme: Scheme) -> Codec:
    return CopyCodec(scheme) if scheme.k == 1 else ReedSolomonCodec(scheme)


class CopyCodec:
    """Replication: every payload is the block."""

    def __init__(self, scheme: Scheme) -> None:
        assert scheme.k == 1
        self.scheme = scheme

    def encode(self, block: Buffer) -> list[Buffer]:
        return [block] * self.scheme.width

    def decode(self, fragments: Sequence[Buffer | None], size: int) -> Buffer:
        return self._any(fragments, size)

    def rebuild(
        self, fragments: Sequence[Buffer | None], wanted: Sequence[int], size: int
    ) -> list[Buffer]:
        return [self._any(fragments, size)] * len(wanted)

    def _any(self, fragments: Sequence[Buffer | None], size: int) -> Buffer:
        _check_shape(self.scheme, fragments, size)
        return next(payload for payload in fragments if payload is not None)


class ReedSolomonCodec:
    """Systematic Reed-Solomon by a Cauchy matrix over GF(2^8)."""

    def __init__(self, scheme: Scheme) -> None:
        assert scheme.k > 1
        self.scheme = scheme
        self._driver = ECDriver(k=scheme.k, m=scheme.m, ec_type=_EC_TYPE)
        sample = bytes(range(scheme.k))
        coded = self._driver.encode(sample)
        self._header = coded[0][:_HEADER_SIZE]
        for number, fragment in enumerate(coded):
            # The library's header is not ours to define; a version of it that writes
            # another one must be noticed here, not by a decode of somebody's data.
            ours = self._framed(number, fragment[_HEADER_SIZE:], len(sample))
            assert ours == fragment, "pyeclib writes an unknown fragment header"

    def encode(self, block: Buffer) -> list[Buffer]:
        scheme = self.scheme
        piece_size = scheme.fragment_size(len(block))
        if piece_size == 0:
            return [b""] * scheme.width
        coded = self._driver.encode(bytes(block))
        payloads: list[Buffer] = [memoryview(piece)[_HEADER_SIZE:] for piece in coded]
        assert len(payloads) == scheme.width
        assert len(payloads[0]) == piece_size
        return payloads

    def decode(self, fragments: Sequence[Buffer | None], size: int) -> Buffer:
        scheme = self.scheme
        _check_shape(scheme, fragments, size)
        if size == 0:
            return b""
        data = [payload for payload in fragments[: scheme.k] if payload is not None]
        if len(data) == scheme.k:
            return _joined(data, size)
        try:
            return self._driver.decode(self._framed_some(fragments, size))
        except ECDriverError as error:
            raise CorruptData(f"{scheme} fragments cannot be decoded: {error}") from error

    def rebuild(
        self, fragments: Sequence[Buffer | None], wanted: Sequence[int], size: int
    ) -> list[Buffer]:
        _check_shape(self.scheme, fragments, size)
        if size == 0:
            return [b""] * len(wanted)
        lost = sorted({number for number in wanted if fragments[number] is None})
        made: dict[int, memoryview] = {}
        if lost:
            try:
                pieces = self._driver.reconstruct(self._framed_some(fragments, size), lost)
            except ECDriverError as error:
                raise CorruptData(
                    f"{self.scheme} fragments cannot be rebuilt: {error}"
                ) from error
            made = {
                n: memoryview(p)[_HEADER_SIZE:] for n, p in zip(lost, pieces, strict=True)
            }
        return [made[n] if (there := fragments[n]) is None else there for n in wanted]

    def _framed_some(self, fragments: Sequence[Buffer | None], size: int) -> list[bytes]:
        """The first k payloads that are there, each behind the library's header."""
        there = [(n, payload) for n, payload in enumerate(fragments) if payload is not None]
        return [self._framed(n, payload, size) for n, payload in there[: self.scheme.k]]

    def _framed(self, number: int, payload: Buffer, size: int) -> bytes:
        header = bytearray(self._header)
        _PATCH.pack_into(header, 0, number, len(payload), 0, size)
        _CRC.pack_into(header, _CRC_OFFSET, zlib.crc32(header[:_META_SIZE]))
        return b"".join((header, payload))


def _check_shape(scheme: Scheme, fragments: Sequence[Buffer | None], size: int) -> None:
    assert len(fragments) == scheme.width
    payload_size = scheme.fragment_size(size)
    found = 0
    for payload in fragments:
        if payload is None:
            continue
        if len(payload) != payload_size:
            raise CorruptData(
                f"a fragment of {scheme} has {len(payload)} bytes and not {payload_size}"
            )
        found += 1
    if found < scheme.k:
        raise NotEnoughFragments(needed=scheme.k, found=found)


def _joined(data: list[Buffer], size: int) -> bytes:
    joined = b"".join(data)
    return joined if len(joined) == size else joined[:size]
