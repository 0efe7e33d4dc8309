"""Records of our own behind a TLS handshake, for the bulk links between nodes.

    client                                                    server
       | <---- TLS handshake, ALPN names objstore-records/2 ----> |
       | -------- 32 random bytes, in the TLS session ----------> |
       | <------- 32 random bytes, in the TLS session ----------- |
       | ========= records, a key for each direction ===========> |
       | <======================================================= |

    offset  size  field of a record
    0       4     u32be: size of what follows, 16 to RECORD_SIZE_MAX + 16
    4       ...   AES-128-OCB (RFC 7253) of the bytes, then its tag of 16

    secret  HKDF-SHA-256 of both ends' random bytes, the client's first
    key     HKDF-Expand of the direction's secret
    nonce   number of the record in its direction, from 0, u96be
    extra   the four bytes of the size

A record of no bytes is the end of its direction; what ends without it was cut.  After
RECORDS_PER_KEY records a direction goes on with the next secret, derived of the last.

TLS says who is there and makes the secret; only its own records are left after that, as
QUIC leaves them (RFC 9001).  They hold 16 KiB each, and the standard library takes a call
and three copies for each of them: of a large body that was a sixth of all its cost
(decision 0052).  Where the other end does not name the protocol, all stays TLS.

`Records` is used in the place of an `ssl.SSLObject` between two `ssl.MemoryBIO`: the same
calls, the same errors.  It does no input or output.
"""

from __future__ import annotations

import ssl
import struct
from typing import overload

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESOCB3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from objstore.buffer import Buffer
from objstore.host.buffers import POOL
from objstore.units import KiB

ALPN = "objstore-records/2"
SHARE_SIZE = 32  # Of the random bytes of each end.
# Some ten calls of Python each, at both ends: of a body they were a tenth of all its cost
# while they held 64 KiB.
RECORD_SIZE_MAX = 256 * KiB
OVERHEAD = 20
# 2**34 blocks of 16 bytes a key.  RFC 7253, 5.1 allows 2**48.
RECORDS_PER_KEY = 1 << 20

_HEAD = struct.Struct(">I")
_HEAD_SIZE = 4
_TAG_SIZE = 16
_IMPOSSIBLE = -1
_KEY_SIZE = 16  # 128 bits, as strong as the key exchange of TLS that it comes of.
_SMALL_SIZE = 16 * KiB  # Copied behind its head: cheaper than a view of each of its parts.
_WHOLE_SIZE_MAX = RECORD_SIZE_MAX + OVERHEAD
_NOTHING = memoryview(b"")  # A view of no bytes would keep those it was cut from.
assert _HEAD_SIZE + _TAG_SIZE == OVERHEAD


class _Key:
    """The key of one direction, and the number of its next record."""

    def __init__(self, secret: bytes) -> None:
        self.cipher = _cipher_of(secret)
        self._secret = secret
        self._number = 0
        self._next_key_at = RECORDS_PER_KEY  # By number of record.

    def next_nonce(self) -> bytes:
        number = self._number
        if number >= self._next_key_at:
            self._next_key_at += RECORDS_PER_KEY
            self._secret = _expanded(self._secret, b"next secret", 32)
            self.cipher = _cipher_of(self._secret)
        self._number = number + 1
        return number.to_bytes(12, "big")


def is_supported() -> bool:
    """Whether the library has the cipher, and it does what RFC 7253, appendix A says."""
    try:
        cipher = AESOCB3(bytes(range(16)))
    except UnsupportedAlgorithm:
        return False
    nonce, eight = bytes.fromhex("bbaa99887766554433221101"), bytes(range(8))
    expected = "6820b3657b6f615a5725bda0d3b4eb3a257c9af1f8f03009"
    return cipher.encrypt(nonce, eight, eight).hex() == expected


def _cipher_of(secret: bytes) -> AESOCB3:
    return AESOCB3(_expanded(secret, b"key", _KEY_SIZE))


def _expanded(secret: bytes, purpose: bytes, size: int) -> bytes:
    info = b"objstore-records: " + purpose
    return HKDFExpand(SHA256(), length=size, info=info).derive(secret)


class Outgoing:
    """Records that wait to be sent, as `ssl.MemoryBIO` holds TLS's."""

    def __init__(self) -> None:
        self._pieces: list[bytes | bytearray] = []
        self.pending = 0  # Bytes in all.

    def put(self, piece: bytes | bytearray) -> None:
        self._pieces.append(piece)
        self.pending += len(piece)

    def read(self) -> bytes | bytearray:
        """All of it; the caller's from now on."""
        self.pending = 0
        pieces = self._pieces
        if len(pieces) == 1:
            return pieces.pop()
        self._pieces = []
        return b"".join(pieces)


class Incoming:
    """Bytes that have come, as `ssl.MemoryBIO` holds TLS's.

    Small ones are written to it; records of a large message are received where they are
    decrypted from, in a buffer that is lent from the first `room` to `settle`.

    Bound: whoever writes does so when `pending` is 0, so there is less than a record, and
    what one write brings; while a large message comes, one of the pool's buffers.
    """

    def __init__(self) -> None:
        self._bytes: bytearray | memoryview = bytearray()
        self._start = 0  # Of what was not taken yet.
        self._end = 0
        self._is_ended = False
        self.pending = 0  # Bytes of the next record, once all of it is here; else 0.
        self.missing = 0  # Bytes of the next record that are not here, once that is known.

    def write(self, data: Buffer) -> None:
        self.settle()
        assert isinstance(self._bytes, bytearray)
        if self._start:
            del self._bytes[: self._start]
            self._start = 0
        self._bytes += data
        self._end = len(self._bytes)
        self._look()

    def room(self, size: int) -> memoryview:
        """Where the next bytes go, `size` at most; then `filled` says how many came.

        size: no more than is missing of the next record, or than the largest one has.
        """
        here, start, end = self._bytes, self._start, self._end
        if type(here) is memoryview and not start:
            return here[end : end + size]
        lent = here if type(here) is memoryview else POOL.take(_WHOLE_SIZE_MAX)
        if rest := end - start:
            lent[:rest] = bytes(here[start:end])
        self._bytes, self._start, self._end = lent, 0, rest
        return lent[rest : rest + size]

    def filled(self, size: int) -> None:
        """So many bytes are in what `room` gave last."""
        self._end += size
        self._look()

    def settle(self) -> None:
        """Large records are over: the buffer that was lent for them goes back."""
        is_spent = self._bytes and self._start == self._end
        if is_spent or type(self._bytes) is memoryview:
            self._bytes = bytearray(self._bytes[self._start : self._end])
            self._start, self._end = 0, len(self._bytes)

    def write_eof(self) -> None:
        self._is_ended = True

    def _look(self) -> None:
        """Is the next record here?"""
        here = self._end - self._start
        self.pending = self.missing = 0
        if here >= _HEAD_SIZE:
            (size,) = _HEAD.unpack_from(self._bytes, self._start)
            if not _TAG_SIZE <= size <= RECORD_SIZE_MAX + _TAG_SIZE:
                self.pending = _IMPOSSIBLE  # It will never be here: who reads is told.
            elif size + _HEAD_SIZE <= here:
                self.pending = size + _HEAD_SIZE
            else:
                self.missing = size + _HEAD_SIZE - here

    def take(self) -> tuple[bytes, memoryview]:
        """Head and rest of the next record.

        The view must be released before `write`, and is of other bytes after `room`.

        Raises ssl.SSLWantReadError, ssl.SSLEOFError, and SSLError for an impossible size.
        """
        size = self.pending
        if not size:
            if self._is_ended:
                raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "cut off without an end")
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "no whole record yet")
        if size == _IMPOSSIBLE:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "a record of an impossible size")
        start = self._start
        middle, end = start + _HEAD_SIZE, start + size
        record = memoryview(self._bytes)
        self._start = end
        self._look()
        return bytes(record[start:middle]), record[middle:end]


class Records:
    """Both directions of a connection after its handshake.

    After ssl.SSLError (but SSLWantReadError) the connection is lost.
    """

    def __init__(self, *, ours: bytes, theirs: bytes, server_side: bool) -> None:
        """`ours` and `theirs`: SHARE_SIZE random bytes of each end."""
        assert len(ours) == len(theirs) == SHARE_SIZE
        both = theirs + ours if server_side else ours + theirs
        derived = HKDF(SHA256(), length=64, salt=None, info=ALPN.encode()).derive(both)
        of_client, of_server = derived[:32], derived[32:]
        self._sending = _Key(of_server if server_side else of_client)
        self._receiving = _Key(of_client if server_side else of_server)
        self._rest = _NOTHING  # Of a record that was longer than asked for.
        self._is_ended = False
        # A record was not genuine.  What is behind it may be, but it would hide the gap.
        self._is_forged = False
        self.incoming = Incoming()
        self.outgoing = Outgoing()

    def write(self, data: Buffer) -> int:
        """Put `data` into `outgoing`, as records."""
        size = len(data)
        if 0 < size <= RECORD_SIZE_MAX:
            self._write_one(data)
        else:
            view = memoryview(data)
            for start in range(0, size, RECORD_SIZE_MAX):
                self._write_one(view[start : start + RECORD_SIZE_MAX])
        return size

    def _write_one(self, data: Buffer) -> None:
        size, key = len(data), self._sending
        head = _HEAD.pack(size + _TAG_SIZE)
        nonce = key.next_nonce()
        if size <= _SMALL_SIZE:
            self.outgoing.put(head + key.cipher.encrypt(nonce, data, head))
            return
        record = bytearray(size + OVERHEAD)
        record[:_HEAD_SIZE] = head
        with memoryview(record) as whole:
            key.cipher.encrypt_into(nonce, data, head, whole[_HEAD_SIZE:])
        self.outgoing.put(record)

    def unwrap(self) -> None:
        """Put the end of our direction into `outgoing`."""
        self._write_one(b"")

    @overload
    def read(self, size_max: int) -> bytes: ...

    @overload
    def read(self, size_max: int, buffer: memoryview) -> int: ...

    def read(self, size_max: int, buffer: memoryview | None = None) -> bytes | int:
        """Bytes of one record; with `buffer` into it, and how many.

        Raises as `Incoming.take`, and ssl.SSLZeroReturnError after the end.  Then what is
        in `buffer` is nobody's.
        """
        if self._rest:
            piece, self._rest = self._rest[:size_max], self._rest[size_max:] or _NOTHING
        else:
            head, sealed = self._next()
            size = len(sealed) - _TAG_SIZE
            if buffer is not None and 0 < size <= size_max:
                self._open_into(head, sealed, buffer[:size])
                return size
            whole = self._open(head, sealed)
            if size <= size_max and buffer is None:
                return whole
            view = memoryview(whole)
            piece, self._rest = view[:size_max], view[size_max:] or _NOTHING
        if buffer is None:
            return bytes(piece)
        buffer[: len(piece)] = piece
        return len(piece)

    def _next(self) -> tuple[bytes, memoryview]:
        if self._is_ended:
            raise _end()
        if self._is_forged:
            raise _forged()
        return self.incoming.take()

    def _open(self, head: bytes, sealed: memoryview) -> bytes:
        key = self._receiving
        nonce = key.next_nonce()
        try:
            data = key.cipher.decrypt(nonce, sealed, head)
        except InvalidTag as problem:
            self._is_forged = True
            raise _forged() from problem
        finally:
            sealed.release()
        if not data:
            self._is_ended = True
            raise _end()
        return data

    def _open_into(self, head: bytes, sealed: memoryview, room: memoryview) -> None:
        """As `_open`, to where the bytes belong; not for a record of no bytes."""
        key = self._receiving
        nonce = key.next_nonce()
        try:
            key.cipher.decrypt_into(nonce, sealed, head, room)
        except InvalidTag as problem:
            self._is_forged = True
            raise _forged() from problem
        finally:
            sealed.release()


def _end() -> ssl.SSLError:
    return ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "the end")


def _forged() -> ssl.SSLError:
    return ssl.SSLError(ssl.SSL_ERROR_SSL, "a record that is not genuine")
