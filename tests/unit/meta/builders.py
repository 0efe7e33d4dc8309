"""A shard in memory for these tests: rows in a dict, commands applied one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sortedcontainers import SortedDict

from objstore.errors import ObjstoreError
from objstore.ids import (
    BucketId,
    Epoch,
    IntentId,
    Key,
    RequestId,
    Slot,
    UploadId,
    chunk_id,
)
from objstore.limits import REQUEST_ID_KEPT_MS
from objstore.meta import commands as c
from objstore.meta import queries as q
from objstore.meta import reads, schema
from objstore.meta.apply import apply
from objstore.meta.payloads import pack_draft
from objstore.meta.repetition import Seen
from objstore.meta.rows import Columns, StagedRows, page_of
from objstore.meta.values import (
    BucketFence,
    Checksum,
    ChunkRef,
    Chunks,
    Displaced,
    Draft,
    Inline,
    PackedDraft,
    Part,
    Upload,
    Version,
)
from objstore.meta.work import Work

SLOT = Slot(7)
BUCKET = BucketId(3)
REF = c.BucketRef(BUCKET, 1)
MIB = 1 << 20


class MemoryRows:
    """A RowView on a sorted dict of sealed values."""

    def __init__(self) -> None:
        self.rows: Any = SortedDict()

    def get(self, key: bytes) -> bytes | None:
        value = self.rows.get(key)
        return None if value is None else schema.unseal(key, value)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in list(self.rows.irange(start, end, inclusive=(True, False))):
            yield key, schema.unseal(key, self.rows[key])

    def page(self, base: bytes, start: bytes, end: bytes, limit: int) -> Columns:
        return page_of(self, base, start, end, limit)

    def take(self, changes: dict[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value


class Shard:
    """One replica without a log: what it applies is decided by the test."""

    def __init__(self, *, slot: Slot = SLOT) -> None:
        self.view = MemoryRows()
        self.slot = slot
        self.index = 0
        self.time_ms = 1_000_000
        self.seen = Seen(-2 * REQUEST_ID_KEPT_MS)  # Certain: nothing was before.
        self.requests = 0

    def do(self, command: c.Command, request: bytes | None = None) -> Any:
        """Apply; the result, errors as values."""
        self.index += 1
        self.time_ms += 1
        if request is None:
            self.requests += 1
            request = self.requests.to_bytes(16, "big")
        staged = StagedRows(self.view)
        work = Work(staged, command, self.index, 1, self.time_ms)
        result = apply(work, RequestId(request), command, self.seen)
        staged.commit(b"")
        self.view.take(staged.changes)
        return result

    def must(self, command: c.Command) -> Any:
        """Apply; raises what fails."""
        result = self.do(command)
        if isinstance(result, ObjstoreError):
            raise result
        return result

    def ask(self, query: q.Query) -> Any:
        return reads.answer(self.view, query)

    def open(self, versioning: str = "unversioned", config_version: int = 1) -> None:
        fence = BucketFence(BUCKET, config_version, versioning, is_open=True)
        self.must(c.OpenBucket(self.slot, fence))

    def usage(self) -> Any:
        return self.ask(q.GetUsage((self.slot,), BUCKET))

    def put(self, key: bytes, data: bytes = b"x", **more: Any) -> Any:
        ref = more.pop("ref", REF)
        return self.do(c.PutVersion(self.slot, ref, Key(key), packed(data), **more))

    def get(self, key: bytes, version_id: Any = None, ref: c.BucketRef = REF) -> Version:
        return self.ask(q.GetVersion(self.slot, ref, Key(key), version_id))

    def delete(self, key: bytes, **more: Any) -> Any:
        ref = more.pop("ref", REF)
        return self.do(c.DeleteVersion(self.slot, ref, Key(key), **more))

    def drain(self) -> None:
        while self.must(c.PurgeStep(self.slot)):
            pass

    def tables(self) -> dict[int, int]:
        """How many rows each table has."""
        counts: dict[int, int] = {}
        for key in self.view.rows:
            counts[key[2]] = counts.get(key[2], 0) + 1
        return counts


def etag_of(number: int) -> str:
    return f"{number:032x}"


def draft(data: bytes = b"x", **more: Any) -> Draft:
    fields: dict[str, Any] = {
        "size": len(data),
        "etag": data.hex()[:32],
        "headers": (("content-type", "text/plain"),),
        "user_metadata": (("a", "b"),),
        "location": Inline(data),
        "owner": "owner",
    }
    return Draft(**(fields | more))


def packed(data: bytes = b"x", **more: Any) -> PackedDraft:
    return pack_draft(draft(data, **more))


def intent(number: int) -> IntentId:
    return IntentId(number.to_bytes(12, "big"))


def chunks(
    of: IntentId,
    count: int = 1,
    *,
    size: int = MIB,
    epoch: int = 1,
    missing: tuple[int, ...] = (),
    away: tuple[int, ...] = (),
    scheme: str = "replicate:3",
) -> Chunks:
    displaced = [Displaced(i, None) for i in missing] + [
        Displaced(i, "f" * 16) for i in away
    ]
    displaced.sort(key=lambda d: d.index)
    refs = tuple(
        ChunkRef(chunk_id(of, n), size, Epoch(epoch), tuple(displaced))
        for n in range(count)
    )
    return Chunks(scheme, refs)


def large_draft(location: Chunks, **more: Any) -> Draft:
    size = sum(ref.size for ref in location.chunks)
    return draft(b"large", size=size, location=location, **more)


def upload_id(number: int) -> UploadId:
    return UploadId(f"{number:032x}")


def upload(number: int = 1, key: bytes = b"big", **more: Any) -> Upload:
    fields: dict[str, Any] = {
        "upload": upload_id(number),
        "key": Key(key),
        "initiated_ms": 0,
        "owner": "owner",
        "initiator": "initiator",
        "headers": (),
        "user_metadata": (),
        "scheme": "replicate:3",
    }
    return Upload(**(fields | more))


def part(number: int, size: int = 5 * MIB, **more: Any) -> Part:
    fields: dict[str, Any] = {
        "number": number,
        "size": size,
        "etag": etag_of(number),
        "time_ms": 0,
        "location": Inline(b"p"),
    }
    return Part(**(fields | more))


def crc64(value: int) -> Checksum:
    return Checksum("CRC64NVME", value.to_bytes(8, "big"))
