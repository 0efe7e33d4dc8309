"""Rows: tables, the encoding of their keys, and the envelope of their values.

The node's ordered store has one key space.  Its first two bytes say whose a key is:

    0000 .. 0FFF   a slot's rows (objects)
    1000           the cluster shard's rows: a pseudo-slot of its own
    1001 .. FFFD   free
    FFFE           this node's own rows of metadata: applied state, generations, the view
    FFFF           this node's index of chunks (objstore.chunks)

    physical key   slot u16be | generation u32be | table u8 | the table's key
    logical key    slot u16be |                    table u8 | the table's key

Everything but the store speaks of logical keys.  A generation is one installed copy of a
slot; a snapshot is fed under a new one and made valid by one flip (R9).

    table             key after the table byte              value
    01 STATE                                                       floor, next numbers
    02 FENCE          bucket                                BucketFence
    03 COUNTERS       bucket                                Usage
    10 VERSION        bucket, key*, 0 u64                   Version, the current one
                      bucket, key*, ~order u64              Version, an older one
    11 NULL           bucket, key*                          order of a buried null version
    17 LISTED         bucket, key*                          Listed: of a current version
                                                            that is no delete marker
    12 UPLOAD         bucket, upload 16                     Upload
    13 UPLOAD_BY_KEY  bucket, key*, initiated u64, upload 16-
    14 PART           bucket, upload 16, number u16         Part
    15 PART_MAP       bucket, upload 16                     numbers and end offsets
    16 COMPLETION     bucket, upload 16                     the answer of a completion
    20 INTENT         intent 12                             bucket, key, expiry
    21 REQUEST        period u32, request id 16             result of an applied command
    22 EXPIRY         due u64, kind u8, id                  what is due then
    30 CHUNK          chunk 16                              where it is referred to
    31 RELEASED       sequence u64                          Released
    32 BELOW          rank u8, chunk 16                     place and ChunkRef
    40 CHANGE         (reserved: what happened, for followers; decision 0048)
    48 LOCK           (reserved: locks with fencing token, leases, allowances)
    50 SETTING        name                                  bytes
    51 LAYOUT         epoch u64                             Layout
    52 BUCKET         name                                  BucketRecord
    53 ACCESS_KEY     access key                            AccessKey
    54 JOIN_TOKEN     token id                              JoinToken
    5E CHANGED        version u64, row key                  whether it was deleted
    5F CHANGED_AT     row key                               version of its last change

    bucket            u64be, the incarnation
    key*              the key with 00 as 00 FF, ended by 00 01: sorts as keys do by bytes,
                      and a key sorts before every key that it begins
    ~order            all ones minus order: newest first; 0, the current, before all

    value             payload | format u8 | seal u32le
                      the seal makes the CRC32C of logical key and value 0, so a value under
                      the wrong key is as bad as one with a flipped bit; and rows one after
                      the other, good each, have the CRC32C 0 as well: a page is verified
                      at one go.  Another format would have another sum than 0

A payload is msgpack; `docs/internals/formats/rows.md` shows each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum

import google_crc32c

from objstore.errors import CorruptData
from objstore.ids import BucketId, ChunkId, IntentId, Key, Slot, UploadId
from objstore.limits import SLOT_COUNT

CLUSTER_SLOT = Slot(SLOT_COUNT)  # The cluster shard's pseudo-slot.
LOCAL_PREFIX = b"\xff\xfe"  # Metadata's own rows of this node.
LOCAL_END = LOCAL_PREFIX + b"\x40"  # The chunk store's index lies behind it.
ROW_FORMAT = 2


class CorruptRow(CorruptData):
    """A row's value does not fit its checksum, format or key: the process must end."""

    def __init__(self, key: bytes, reason: str) -> None:
        super().__init__(f"metadata row {key[:80].hex()}: {reason}")
        self.key = key
        self.reason = reason


class Table(IntEnum):
    """The byte that follows the slot in a logical key."""

    STATE = 0x01
    FENCE = 0x02
    COUNTERS = 0x03
    VERSION = 0x10
    NULL = 0x11
    UPLOAD = 0x12
    UPLOAD_BY_KEY = 0x13
    PART = 0x14
    PART_MAP = 0x15
    COMPLETION = 0x16
    LISTED = 0x17
    INTENT = 0x20
    REQUEST = 0x21
    EXPIRY = 0x22
    CHUNK = 0x30
    RELEASED = 0x31
    BELOW = 0x32
    CHANGE = 0x40
    LOCK = 0x48
    SETTING = 0x50
    LAYOUT = 0x51
    BUCKET = 0x52
    ACCESS_KEY = 0x53
    JOIN_TOKEN = 0x54
    CHANGED = 0x5E
    CHANGED_AT = 0x5F


# As plain numbers, for rows of every command: a member of the class costs a call.
_STATE, _FENCE, _COUNTERS = int(Table.STATE), int(Table.FENCE), int(Table.COUNTERS)
_VERSION, _EXPIRY_TABLE = int(Table.VERSION), int(Table.EXPIRY)
_INTENT, _CHUNK = int(Table.INTENT), int(Table.CHUNK)


class Expiring(IntEnum):
    """What a row of EXPIRY is about."""

    INTENT = 2  # 1 was a request's: see `repetition`.
    COMPLETION = 3
    PURGE = 4  # Parts of an upload that nothing refers to any more; due at once.
    FENCE = 5  # Of a deleted bucket.


ORDER_MAX = (1 << 64) - 1
_TABLE = struct.Struct(">HB")
_BUCKET = struct.Struct(">HBQ")
_NUMBER = struct.Struct(">HBQ")
_U64 = struct.Struct(">Q")
_U16 = struct.Struct(">H")
_EXPIRY = struct.Struct(">HBQB")
_RANK = struct.Struct(">HBB")
_U32 = struct.Struct("<I")
_SEAL = struct.Struct("<BI")
SEAL_SIZE = _SEAL.size
UPLOAD_SIZE = 16
_KEY_START = _BUCKET.size  # Where key* begins in a logical key.

_FORMAT_BYTE = bytes((ROW_FORMAT,))
_crc32c = google_crc32c.value
_pack_seal = _SEAL.pack
# What a CRC32C is xored with, so that its bytes, appended, make it 0: CRCs are linear.
_TO_ZERO = 0x9BE09BAB
assert _crc32c(_U32.pack(_crc32c(b"") ^ _TO_ZERO)) == 0
_GENERATION_SIZE = 4


# ---- values ---------------------------------------------------------------------------


def seal(key: bytes, payload: bytes) -> bytes:
    """Put a payload into its envelope.  `key` is logical."""
    return payload + seal_of(key, payload)


def seal_of(key: bytes, payload: bytes) -> bytes:
    """What stands behind a payload in its envelope."""
    return _pack_seal(ROW_FORMAT, _crc32c(key + payload + _FORMAT_BYTE) ^ _TO_ZERO)


def unseal(key: bytes, value: bytes) -> bytes:
    """Take the payload of a value out.  Raises CorruptRow."""
    if len(value) < SEAL_SIZE:
        raise CorruptRow(key, f"{len(value)} bytes are too few")
    row_format = value[-SEAL_SIZE]
    if _crc32c(key + value) != 0:
        raise CorruptRow(key, f"format {row_format}: checksum mismatch")
    if row_format != ROW_FORMAT:
        raise CorruptRow(key, f"row format {row_format} is newer than this program")
    return value[:-SEAL_SIZE]


def unseal_page(
    base: bytes, rows: Sequence[tuple[bytes, bytes]]
) -> tuple[list[bytes], list[bytes]]:
    """The rests of logical keys that begin with `base`, and the payloads under them.

    rows: physical keys and values.  As `unseal` does it one by one, at a quarter of the
    cost: lists read a thousand.  Raises CorruptRow.
    """
    rest, payload = slice(len(base) + _GENERATION_SIZE, None), slice(-SEAL_SIZE)
    rests = [key[rest] for key, _ in rows]
    values = [value for _, value in rows]
    parts = [base] * (3 * len(rows))  # base, rest, value; base, rest, value ...
    parts[1::3] = rests
    parts[2::3] = values
    if _crc32c(b"".join(parts)) != 0:
        for key, value in zip(rests, values, strict=True):
            unseal(base + key, value)  # Says which is wrong.
        raise AssertionError("rows are good one by one, and not together")
    return rests, [value[payload] for value in values]


# ---- keys -----------------------------------------------------------------------------


def escape(text: bytes) -> bytes:
    """Encode any bytes so that encodings sort as the bytes do.  Without the end."""
    # A byte is looked for as a number: bytes, by an error that is raised and caught.
    return text.replace(b"\0", b"\0\xff") if 0 in text else text


def unescape(text: bytes) -> bytes:
    return text.replace(b"\0\xff", b"\0") if 0 in text else text


_CURRENT = bytes(8)
_END = b"\0\1"
_PAST_END = b"\0\2"
_LISTED = bytes((Table.LISTED,))


def range_end(prefix: bytes) -> bytes:
    """The least key above all that begin with `prefix`, which is not all FF."""
    stripped = prefix.rstrip(b"\xff")
    assert stripped
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def slot_of_row(key: bytes) -> Slot:
    return Slot(_U16.unpack_from(key)[0])


def table_of_row(key: bytes) -> int:
    return key[2]


def bucket_of_row(key: bytes) -> BucketId:
    return BucketId(_U64.unpack_from(key, 3)[0])


def slot_prefix(slot: Slot) -> bytes:
    return _U16.pack(slot)


def table_prefix(slot: Slot, table: Table) -> bytes:
    return _TABLE.pack(slot, table)


def bucket_prefix(slot: Slot, table: Table, bucket: BucketId) -> bytes:
    return _BUCKET.pack(slot, table, bucket)


def state_key(slot: Slot) -> bytes:
    return _TABLE.pack(slot, _STATE)


def fence_key(slot: Slot, bucket: BucketId) -> bytes:
    return _BUCKET.pack(slot, _FENCE, bucket)


def counters_key(slot: Slot, bucket: BucketId) -> bytes:
    return _BUCKET.pack(slot, _COUNTERS, bucket)


def key_rows(base: bytes, key: bytes) -> bytes:
    """What all rows of a key begin with; `base` is the bucket_prefix of their table."""
    return base + escape(key) + _END


def versions_prefix(slot: Slot, bucket: BucketId, key: Key) -> bytes:
    """What all versions of a key begin with."""
    return _BUCKET.pack(slot, _VERSION, bucket) + escape(key) + _END


def versions_end(prefix: bytes) -> bytes:
    """The least key after all versions of the key that `prefix` is of."""
    return prefix[: -len(_END)] + _PAST_END


def current_key(prefix: bytes) -> bytes:
    """The row of a key's current version: found by a get, overwritten in place."""
    return prefix + _CURRENT


def version_key(prefix: bytes, order: int) -> bytes:
    """The row of a version that is no longer current."""
    assert order < ORDER_MAX
    return prefix + _U64.pack(ORDER_MAX - order)


def is_current_row(row_key: bytes) -> bool:
    return row_key.endswith(_CURRENT)


def keys_of_versions(rests: Iterable[bytes]) -> list[bytes]:
    """The object keys of rows of VERSION, without what `bucket_prefix` gives."""
    return [unescape(rest[: -8 - len(_END)]) for rest in rests]


def key_of_version(row_key: bytes) -> Key:
    """The object key of a row of VERSION."""
    return Key(unescape(row_key[_KEY_START : -8 - len(_END)]))


def null_key(slot: Slot, bucket: BucketId, key: Key) -> bytes:
    return _BUCKET.pack(slot, Table.NULL, bucket) + escape(key) + _END


def listed_key(slot: Slot, bucket: BucketId, key: Key) -> bytes:
    """The row that shows a key in lists, while its current version is an object."""
    return listed_of(versions_prefix(slot, bucket, key))


def listed_of(prefix: bytes) -> bytes:
    """Likewise, of the key that `versions_prefix` gave the prefix of."""
    return prefix[:2] + _LISTED + prefix[3:]


def keys_of_listed(rests: Sequence[bytes]) -> list[bytes]:
    """The object keys of rows of LISTED, without what `bucket_prefix` gives."""
    joined = b"".join(rests)
    keys = joined.split(_END)  # Which is in no key*.
    assert keys.pop() == b""
    assert len(keys) == len(rests)
    return [unescape(key) for key in keys] if b"\0\xff" in joined else keys


def _upload_row(slot: Slot, table: Table, bucket: BucketId, upload: UploadId) -> bytes:
    return _BUCKET.pack(slot, table, bucket) + bytes.fromhex(upload)


def upload_key(slot: Slot, bucket: BucketId, upload: UploadId) -> bytes:
    return _upload_row(slot, Table.UPLOAD, bucket, upload)


def part_map_key(slot: Slot, bucket: BucketId, upload: UploadId) -> bytes:
    return _upload_row(slot, Table.PART_MAP, bucket, upload)


def completion_key(slot: Slot, bucket: BucketId, upload: UploadId) -> bytes:
    return _upload_row(slot, Table.COMPLETION, bucket, upload)


def parts_prefix(slot: Slot, bucket: BucketId, upload: UploadId) -> bytes:
    return _upload_row(slot, Table.PART, bucket, upload)


def part_key(prefix: bytes, number: int) -> bytes:
    return prefix + _U16.pack(number)


def number_of_part(row_key: bytes) -> int:
    return int(_U16.unpack_from(row_key, len(row_key) - 2)[0])


def upload_by_key_key(
    slot: Slot, bucket: BucketId, key: Key, initiated_ms: int, upload: UploadId
) -> bytes:
    head = _BUCKET.pack(slot, Table.UPLOAD_BY_KEY, bucket) + escape(key) + _END
    return head + _U64.pack(initiated_ms) + bytes.fromhex(upload)


def key_of_upload_by_key(row_key: bytes) -> Key:
    return Key(unescape(row_key[_KEY_START : -8 - UPLOAD_SIZE - len(_END)]))


def is_hex_16(text: str) -> bool:
    """Whether `text` is 16 bytes in lower hex digits: an upload id, an MD5."""
    return len(text) == 2 * UPLOAD_SIZE and all(c in "0123456789abcdef" for c in text)


def upload_of_row(row_key: bytes) -> UploadId:
    """The upload id that a row's key ends with."""
    return UploadId(row_key[-UPLOAD_SIZE:].hex())


def intent_key(slot: Slot, intent: IntentId) -> bytes:
    return _TABLE.pack(slot, _INTENT) + intent


def expiry_key(slot: Slot, due_ms: int, kind: Expiring, name: bytes) -> bytes:
    return _EXPIRY.pack(slot, _EXPIRY_TABLE, due_ms, kind) + name


def expiry_start(slot: Slot) -> bytes:
    """What all rows of EXPIRY begin with."""
    return _TABLE.pack(slot, _EXPIRY_TABLE)


def expiry_end(slot: Slot, now_ms: int) -> bytes:
    """The least key above all rows of EXPIRY that are due at `now_ms`."""
    return _EXPIRY.pack(slot, _EXPIRY_TABLE, now_ms + 1, 0)


def expiry_of_row(row_key: bytes) -> tuple[int, Expiring, bytes]:
    """(due, kind, id) of a row of EXPIRY."""
    _slot, _table, due_ms, kind = _EXPIRY.unpack_from(row_key)
    return due_ms, Expiring(kind), row_key[_EXPIRY.size :]


def due_of_row(row_key: bytes) -> int:
    """The time of a row of EXPIRY."""
    return int(_U64.unpack_from(row_key, 3)[0])


def chunk_key(slot: Slot, chunk: ChunkId) -> bytes:
    return _TABLE.pack(slot, _CHUNK) + chunk


def released_key(slot: Slot, sequence: int) -> bytes:
    return _NUMBER.pack(slot, Table.RELEASED, sequence)


def number_of_row(row_key: bytes) -> int:
    """The sequence of a row of RELEASED."""
    return int(_U64.unpack_from(row_key, 3)[0])


def below_key(slot: Slot, rank: int, chunk: bytes) -> bytes:
    return _RANK.pack(slot, Table.BELOW, rank) + chunk


def rank_of_below(row_key: bytes) -> tuple[int, ChunkId]:
    return row_key[3], ChunkId(row_key[4:])


def cluster_key(table: Table, name: bytes) -> bytes:
    """A row of the cluster shard."""
    return _TABLE.pack(CLUSTER_SLOT, table) + name


def layout_key(epoch: int) -> bytes:
    return cluster_key(Table.LAYOUT, _U64.pack(epoch))


def changed_key(version: int, row_key: bytes) -> bytes:
    return cluster_key(Table.CHANGED, _U64.pack(version) + row_key)


def changed_of_row(row_key: bytes) -> tuple[int, bytes]:
    return int(_U64.unpack_from(row_key, 3)[0]), row_key[3 + 8 :]


def changed_at_key(row_key: bytes) -> bytes:
    return cluster_key(Table.CHANGED_AT, row_key)


# ---- physical keys --------------------------------------------------------------------


def physical(key: bytes, generation: bytes) -> bytes:
    """The physical key of a logical one; `generation` is u32be."""
    return key[:2] + generation + key[2:]


def logical(key: bytes) -> bytes:
    return key[:2] + key[6:]
