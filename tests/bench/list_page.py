"""What a page of 1,000 keys costs, part by part: python tests/bench/list_page.py [KEYS]."""

import sys
import tempfile
import time
from collections.abc import Callable
from typing import TypeVar

from objstore.host.rocks_kv import RocksStore
from objstore.ids import BucketId, Key, Slot
from objstore.meta import listing, payloads, schema
from objstore.meta import queries as q
from objstore.meta.commands import BucketRef
from objstore.meta.schema import Table
from objstore.meta.slots import slot_of
from objstore.meta.store import KvRows
from objstore.meta.values import Listed
from objstore.rpc import codec
from objstore.s3.operations.listing import _Arguments, _contents
from objstore.units import iso_time

T = TypeVar("T")
_SPAN = (Slot(7), Slot(9), Slot(2000), Slot(2001))
_BUCKET = BucketId(3)
_LIMIT = 1000
_TIMES = 50
_GENERATION = bytes(4)
_TIME_MS = 1_790_000_000_000


def measure(what: str, do: Callable[[], T]) -> T:
    do()
    started = time.process_time()
    for _ in range(_TIMES):
        result = do()
    print(f"{what:32} {(time.process_time() - started) / _TIMES * 1e6:7.0f} µs")
    return result


def filled(folder: str, count: int) -> RocksStore:
    store = RocksStore.open(folder)
    batch = store.batch()
    traits = payloads.pack(("a" * 64, "STANDARD", "CRC64NVME", "FULL_OBJECT"))
    for number in range(count):
        key = Key(b"k/%08d" % number)
        row_key = schema.listed_key(slot_of(_BUCKET, key, _SPAN), _BUCKET, key)
        listed = Listed(iso_time(_TIME_MS + number), 4096, f"{number:032x}", traits)
        sealed = schema.seal(row_key, payloads.pack(listed))
        batch.put(schema.physical(row_key, _GENERATION), sealed)
    store.write(batch)
    store.flush()
    return store


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as folder:
        store = filled(folder, count)
        slots = [schema.slot_prefix(slot) for slot in _SPAN]
        rows = KvRows(store, {slot: slot + _GENERATION for slot in slots})
        query = q.ListKeys(_SPAN, BucketRef(_BUCKET, 1), prefix=b"k/", limit=_LIMIT)
        share = listing.share_of_shard(query, 1)
        parts = [q.ListKeys((slot,), query.ref, b"k/", limit=share) for slot in _SPAN]
        starts = [schema.bucket_prefix(slot, Table.LISTED, _BUCKET) for slot in _SPAN]
        ends = [schema.range_end(start) for start in starts]
        ranges = list(zip(starts, ends, strict=True))
        raw = [
            (a[:2] + _GENERATION + a[2:], b[:2] + _GENERATION + b[2:]) for a, b in ranges
        ]
        measure("read", lambda: [store.page(a, b, share + 1) for a, b in raw])
        measure(
            "read, verified", lambda: [rows.page(a, a, b, share + 1) for a, b in ranges]
        )
        answers = measure(
            "read, verified, walked", lambda: [listing.list_keys(rows, p) for p in parts]
        )
        packed = measure("encoded", lambda: [codec.encode(answer) for answer in answers])
        answers = measure("decoded", lambda: [codec.decode(data) for data in packed])
        page = measure("merged", lambda: listing.join_answers(query, answers))
        answer = q.ListAnswer(tuple(page.names), tuple(page.rows), page.is_truncated)
        objects = measure("rows unpacked", answer.objects)
        arguments = _Arguments("k/", "", _LIMIT, None)
        measure(
            "shown", lambda: _contents(arguments, answer.names, objects, shows_owner=False)
        )
        store.close()


if __name__ == "__main__":
    main()
