"""Records of our own behind a TLS handshake, for the bulk links between nodes.

    client                                                    server
       | <---- TLS handshake, ALPN names objstore-records/2 ----> |
       | -------- 32 random bytes, in the TLS session ----------> |
       | <------- 32 random bytes, in the TLS session ----------- |
       | ========= records, a key for each direction ===========> |
       | <======================================================= |

    offset  size  field of a record
    0       4     u32be: size of what follows, 16 to RECORD_SIZE_MAX + 16
    4       ...   AES-128-GCM of the bytes, then its tag of 16

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

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from objstore.units import KiB

ALPN = "objstore-records/2"
SHARE_SIZE = 32  # Of the random bytes of each end.
# Some ten calls of Python each, at both ends: of a body they were a tenth of all its cost
# while they held 64 KiB.
RECORD_SIZE_MAX = 256 * KiB
OVERHEAD = 20
# RFC 8446, 5.5: 2**34.5 blocks of 16 bytes a key; these are 2**34.
RECORDS_PER_KEY = 1 << 20

_HEAD = struct.Struct(">I")
_HEAD_SIZE = 4
_TAG_SIZE = 16
_IMPOSSIBLE = -1
_SMALL_SIZE = 16 * KiB  # Copied behind its head: cheaper than a view of each of its parts.
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


def _cipher_of(secret: bytes) -> AESGCM:
    # 128 bits, which TLS's own key exchange has too.  Ten rounds of AES, not fourteen: a
    # ninth of what records cost.
    return AESGCM(_expanded(secret, b"key", 16))


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

    Bound: whoever writes does so when `pending` is 0, so there is less than a record, and
    what one write brings.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._start = 0  # Of what was not taken yet.
        self._is_ended = False
        self.pending = 0  # Bytes of the next record, once all of it is here; else 0.
        self.missing = 0  # Bytes of the next record that are not here, once that is known.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._start:
            del self._bytes[: self._start]
            self._start = 0
        self._bytes += data
        self._look()

    def write_eof(self) -> None:
        self._is_ended = True

    def _look(self) -> None:
        """Is the next record here?"""
        here = len(self._bytes) - self._start
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
        """Head and rest of the next record.  The view must be released before `write`.

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
        self._rest = memoryview(b"")  # Of a record that was longer than asked for.
        self._is_ended = False
        # A record was not genuine.  What is behind it may be, but it would hide the gap.
        self._is_forged = False
        self.incoming = Incoming()
        self.outgoing = Outgoing()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Put `data` into `outgoing`, as records."""
        size = len(data)
        if not size:
            return 0
        if size <= _SMALL_SIZE:
            self._write_one(data)
            return size
        view = memoryview(data)
        count = -(-size // RECORD_SIZE_MAX)
        sealed = bytearray(size + count * OVERHEAD)
        with memoryview(sealed) as room:
            for number in range(count):
                start = number * RECORD_SIZE_MAX
                self._seal(view[start : start + RECORD_SIZE_MAX], room, start, number)
        self.outgoing.put(sealed)
        return size

    def _seal(self, piece: memoryview, room: memoryview, start: int, number: int) -> None:
        begin = start + number * OVERHEAD
        middle = begin + _HEAD_SIZE
        end = middle + len(piece) + _TAG_SIZE
        head = _HEAD.pack(end - middle)
        room[begin:middle] = head
        key = self._sending
        nonce = key.next_nonce()
        key.cipher.encrypt_into(nonce, piece, head, room[middle:end])

    def _write_one(self, data: bytes | bytearray | memoryview) -> None:
        head = _HEAD.pack(len(data) + _TAG_SIZE)
        key = self._sending
        nonce = key.next_nonce()
        self.outgoing.put(head + key.cipher.encrypt(nonce, data, head))

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
            piece, self._rest = self._rest[:size_max], self._rest[size_max:]
        else:
            head, sealed = self._next()
            size = len(sealed) - _TAG_SIZE
            if buffer is not None and 0 < size <= size_max:
                self._open_into(head, sealed, buffer[:size])
                return size
            whole = self._open(head, sealed)
            if size <= size_max and buffer is None:
                return whole
            piece, self._rest = memoryview(whole)[:size_max], memoryview(whole)[size_max:]
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
