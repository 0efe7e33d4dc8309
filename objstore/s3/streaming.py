"""The aws-chunked coding: a body in chunks, each signed, or with a checksum at the end.

    signed             20000;chunk-signature=HEX CRLF data CRLF ...
                       0;chunk-signature=HEX CRLF CRLF
    signed, trailer    ... 0;chunk-signature=HEX CRLF x-amz-checksum-crc32:BASE64 CRLF
                       x-amz-trailer-signature:HEX CRLF CRLF
    unsigned, trailer  20000 CRLF data CRLF ...
                       0 CRLF x-amz-checksum-crc32:BASE64 CRLF CRLF

Sans-IO: feed bytes as they come, take decoded pieces.  How the bytes are split makes no
difference.  Each signature covers its chunk and the signature before it, the first one
that of the request; so chunks can be neither changed nor moved, dropped or added.

A signed chunk is held until its signature is found right: not one byte of another's
making is passed on.  So its size is bounded (`limits.AWS_CHUNK_SIZE_MAX`; a greater one is
refused); unsigned chunks pass through as they come.  Many chunks must be worth their
parsing (S3 wants 8 KiB of all but the last; we refuse floods of tiny ones only).  A last
chunk is required, and the decoded length must be the one declared (FAULTS 3:
CVE-2021-21390).

Source: Amazon S3 API Reference, "Transferring payload in multiple chunks".
"""

from __future__ import annotations

import hashlib
import hmac
import re

import attrs

from objstore.limits import (
    AWS_CHUNK_SIZE_MAX,
    CHUNK_SIZE_MEAN_MIN,
    CHUNKS_OF_ANY_SIZE_MAX,
    HTTP_TRAILERS_SIZE_MAX,
    PUT_SIZE_MAX,
)
from objstore.s3.checksums import decode_checksum, header_of
from objstore.s3.errors import S3Error
from objstore.s3.sigv4 import (
    EMPTY_SHA256,
    STREAMING_SIGNED,
    STREAMING_UNSIGNED_TRAILER,
    Verified,
    sign,
)

_LINE_MAX = 256  # A size and a signature need 110.
_SIGNED_LINE = re.compile(rb"([0-9A-Fa-f]{1,16});chunk-signature=([0-9a-f]{64})")
_UNSIGNED_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})")
_TRAILER_LINE = re.compile(rb"([A-Za-z0-9-]{1,64}):[ \t]*([\x20-\x7e]{1,256}?)[ \t]*")
_TRAILER_SIGNATURE = "x-amz-trailer-signature"


@attrs.define
class ChunkSigner:
    """The chain of signatures of one body."""

    signing_key: bytes = attrs.field(repr=False)
    timestamp: str
    scope: str
    previous: str  # Hex; of the request at first.

    @classmethod
    def of(cls, verified: Verified) -> ChunkSigner:
        claim = verified.claim
        return cls(
            verified.signing_key, claim.timestamp, claim.signer.scope, claim.signature
        )

    def check_chunk(self, sha256: str, signature: str) -> None:
        """Check the next chunk's signature.  Raises S3Error SignatureDoesNotMatch."""
        self._check(
            f"AWS4-HMAC-SHA256-PAYLOAD\n{self.timestamp}\n{self.scope}\n"
            f"{self.previous}\n{EMPTY_SHA256}\n{sha256}",
            signature,
        )

    def check_trailer(self, sha256: str, signature: str) -> None:
        """Check the trailer's signature.  Raises S3Error SignatureDoesNotMatch."""
        self._check(
            f"AWS4-HMAC-SHA256-TRAILER\n{self.timestamp}\n{self.scope}\n"
            f"{self.previous}\n{sha256}",
            signature,
        )

    def _check(self, to_sign: str, signature: str) -> None:
        right = sign(self.signing_key, to_sign.encode()).hex()
        if not hmac.compare_digest(right, signature):
            raise S3Error(
                "SignatureDoesNotMatch",
                "The chunk signature we calculated does not match the one you provided.",
            )
        self.previous = signature


class ChunkDecoder:
    """One body's decoder.

    signer: None for unsigned chunks.
    decoded_size: what the client declared (x-amz-decoded-content-length).
    trailing_algorithm: of the checksum that the trailer must carry; None: no trailer.
    """

    def __init__(
        self,
        *,
        decoded_size: int,
        signer: ChunkSigner | None,
        trailing_algorithm: str | None,
    ) -> None:
        self._signer = signer
        self._size = decoded_size
        self._missing = decoded_size  # Bytes of chunks not yet begun.
        self._chunk_count = 0
        self._trailing_algorithm = trailing_algorithm
        self._buffer = bytearray()
        self._state = self._read_size_line
        # The chunk at hand.
        self._left = 0
        self._signature = ""
        self._hash = hashlib.sha256()
        self._held = bytearray()  # Its bytes, until its signature is verified.
        self._ready: list[bytes] = []  # Pieces that may be taken next, in order.
        self._trailers: dict[str, str] = {}
        self._trailers_size = 0
        self.is_done = False
        self.trailing_checksum: bytes | None = None  # Once done.

    def feed(self, data: bytes) -> None:
        """Add bytes of the coded body, in order."""
        self._buffer += data

    def take(self) -> bytes | None:
        """All that can be decoded by now; None: feed more, or it `is_done`.

        Raises S3Error IncompleteBody, SignatureDoesNotMatch, InvalidChunkSizeError,
        MalformedTrailerError; there is no going on then.
        """
        while not self.is_done and self._state():
            pass
        pieces, self._ready = self._ready, []
        # Joined: a piece costs its readers more than its bytes, however short it is.
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)) if pieces else None

    def finish(self) -> None:
        """The coded body has ended.  Raises S3Error IncompleteBody unless it is whole."""
        if not self.is_done:
            raise _incomplete("the last chunk is missing")
        if self._buffer:
            raise _incomplete("there are bytes after the last chunk")

    # ---- states: each returns whether it got on ---------------------------------------

    def _read_size_line(self) -> bool:
        line = self._take_line(_LINE_MAX)
        if line is None:
            return False
        form = _UNSIGNED_LINE if self._signer is None else _SIGNED_LINE
        match = form.fullmatch(line)
        if match is None:
            raise _incomplete("a chunk's head cannot be read")
        size = int(match[1], 16)
        self._signature = match[2].decode("ascii") if self._signer else ""
        self._check_size(size)
        self._left = size
        self._missing -= size
        self._check_mean_size(size)
        if self._signer is not None:
            self._hash = hashlib.sha256()
        if size:
            self._state = self._read_data
        else:
            self._end_data()
            self._state = self._read_trailer
        return True

    def _check_size(self, size: int) -> None:
        if size > self._missing:
            raise _incomplete("there are more bytes than x-amz-decoded-content-length")
        if size == 0 and self._missing:
            raise _incomplete("there are fewer bytes than x-amz-decoded-content-length")
        if self._signer is not None and size > AWS_CHUNK_SIZE_MAX:
            raise S3Error(
                "InvalidChunkSizeError",
                f"A signed chunk may have at most {AWS_CHUNK_SIZE_MAX} bytes.",
                details={"ChunkSize": size},
            )

    def _check_mean_size(self, size: int) -> None:
        self._chunk_count += 1
        begun = self._size - self._missing
        if (
            self._chunk_count > CHUNKS_OF_ANY_SIZE_MAX
            and begun < CHUNK_SIZE_MEAN_MIN * self._chunk_count
        ):
            raise S3Error(
                "InvalidChunkSizeError",
                "Only the last chunk is allowed to have a size less than 8192 bytes",
                details={"ChunkSize": size},
            )

    def _read_data(self) -> bool:
        size = min(self._left, len(self._buffer))
        if not size:
            return False
        piece = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._left -= size
        if self._signer is None:
            self._ready.append(piece)
        else:
            self._hash.update(piece)
            self._held += piece
        if not self._left:
            self._state = self._read_data_end
        return True

    def _read_data_end(self) -> bool:
        end = bytes(self._buffer[:2])
        if not b"\r\n".startswith(end):
            raise _incomplete("a chunk does not end where its size says")
        if len(end) < 2:
            return False
        del self._buffer[:2]
        self._end_data()
        self._state = self._read_size_line
        return True

    def _end_data(self) -> None:
        if self._signer is not None:
            self._signer.check_chunk(self._hash.hexdigest(), self._signature)
            if self._held:
                self._ready.append(bytes(self._held))
                self._held.clear()

    def _read_trailer(self) -> bool:
        line = self._take_line(HTTP_TRAILERS_SIZE_MAX)
        if line is None:
            return False
        self._trailers_size += len(line) + 2
        if self._trailers_size > HTTP_TRAILERS_SIZE_MAX:
            raise _bad_trailer("it is too long")
        if not line:
            self._end_trailers()
            self.is_done = True
            return True
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise _bad_trailer("a line of it cannot be read")
        name = match[1].decode("ascii").lower()
        if name in self._trailers:
            raise _bad_trailer(f"{name} stands twice")
        self._trailers[name] = match[2].decode("ascii")
        return True

    def _end_trailers(self) -> None:
        """Check that the trailer is the one announced, and signed if it must be."""
        signature = self._trailers.pop(_TRAILER_SIGNATURE, None)
        algorithm = self._trailing_algorithm
        expected = set() if algorithm is None else {header_of(algorithm)}
        if self._trailers.keys() != expected:
            raise _bad_trailer("it is not what x-amz-trailer announced")
        if (signature is not None) != (self._signer is not None and bool(expected)):
            raise _bad_trailer("its signature is missing, or there is nothing to sign")
        if self._signer is not None and signature is not None:
            text = "".join(f"{name}:{value}\n" for name, value in self._trailers.items())
            digest = hashlib.sha256(text.encode()).hexdigest()
            self._signer.check_trailer(digest, signature)
        if algorithm is not None:
            try:
                self.trailing_checksum = decode_checksum(
                    algorithm, self._trailers[header_of(algorithm)]
                )
            except S3Error as error:
                raise S3Error(
                    "InvalidRequest",
                    f"Value for {header_of(algorithm)} trailing header is invalid.",
                ) from error

    def _take_line(self, size_max: int) -> bytes | None:
        end = self._buffer.find(b"\n", 0, size_max + 2)
        if end < 0:
            if len(self._buffer) >= size_max + 2:
                raise _incomplete("a line is too long")
            return None
        line = bytes(self._buffer[:end])
        if not line.endswith(b"\r"):
            raise _incomplete("a line does not end with CRLF")
        del self._buffer[: end + 1]
        return line[:-1]


def decoder_for(
    payload: str, *, decoded_size: int, verified: Verified, trailing_algorithm: str | None
) -> ChunkDecoder:
    """The decoder of a body whose x-amz-content-sha256 is `payload`, a STREAMING one.

    Raises S3Error EntityTooLarge, InvalidRequest.
    """
    if decoded_size > PUT_SIZE_MAX:
        raise S3Error("EntityTooLarge", details={"ProposedSize": decoded_size})
    if (payload == STREAMING_SIGNED) != (trailing_algorithm is None):
        raise S3Error(
            "InvalidRequest",
            "x-amz-trailer must be given with a payload that has a trailer, and only then",
        )
    is_signed = payload != STREAMING_UNSIGNED_TRAILER
    return ChunkDecoder(
        decoded_size=decoded_size,
        signer=ChunkSigner.of(verified) if is_signed else None,
        trailing_algorithm=trailing_algorithm,
    )


def _incomplete(why: str) -> S3Error:
    return S3Error("IncompleteBody", f"The aws-chunked body is broken: {why}")


def _bad_trailer(why: str) -> S3Error:
    return S3Error("MalformedTrailerError", f"The trailer is malformed: {why}")
