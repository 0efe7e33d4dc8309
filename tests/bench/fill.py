"""Fill a stopped one-node cluster with many small objects, for measures at that size.

    objstore dev --nodes 1 --data DIR         make a bucket "filled", then stop it
    python tests/bench/fill.py DIR --count 1000000

Each object is a PutVersion that the real `apply` turns into rows, written to the real
store in batches as large as a busy node's.  Only the log is left out: the applied index
stays where it was, as if all of it had come by one entry.  So a million takes minutes,
and what the node starts with afterwards is what clients would have left.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import attrs

from objstore.host.real_host import real_host
from objstore.host.rocks_kv import RocksStore
from objstore.ids import Key, RequestId, ShardId
from objstore.meta import apply
from objstore.meta.commands import BucketRef, PutVersion
from objstore.meta.payloads import pack_draft
from objstore.meta.rows import StagedRows
from objstore.meta.schema import Table
from objstore.meta.slots import slot_of
from objstore.meta.store import MetaStore, ShardMachine
from objstore.meta.values import BucketRecord, Draft, Inline
from objstore.meta.work import Work
from objstore.ring.layout import Layout
from objstore.ring.layout import decode as decode_layout
from objstore.rpc import codec

BUCKET = "filled"
_AT_ONCE = 500  # Commands in one batch of a shard.


def fill(folder: Path, numbers: range, size: int) -> None:
    kv = RocksStore.open(str(folder / "node1" / "data" / "meta"))
    store = MetaStore(kv, real_host().threads)
    record, layout = _bucket(store), _layout(store)
    body = bytes(range(256)) * (size // 256 + 1)
    by_shard: dict[ShardId, list[PutVersion]] = {}
    started = time.monotonic()
    for number in numbers:
        command = _put(record, number, body[:size])
        waiting = by_shard.setdefault(layout.shard_of(command.slot), [])
        waiting.append(command)
        if len(waiting) == _AT_ONCE:
            _apply(store.machine(layout.shard_of(command.slot)), waiting)
            waiting.clear()
        if number % 100_000 == 0:
            rate = (number - numbers.start) / (time.monotonic() - started)
            print(f"{number:,} objects, {rate:,.0f}/s", flush=True)
    for shard, waiting in by_shard.items():
        _apply(store.machine(shard), waiting)
    kv.close()


def _bucket(store: MetaStore) -> BucketRecord:
    row = store.view_row(bytes((Table.BUCKET,)) + BUCKET.encode())
    if row is None:
        raise SystemExit(f"the cluster has no bucket {BUCKET!r}")
    return codec.decode_as(BucketRecord, row)


def _layout(store: MetaStore) -> Layout:
    rows = [row for name, row in store.view_rows() if name[0] == Table.LAYOUT]
    return decode_layout(rows[-1])


def _put(record: BucketRecord, number: int, body: bytes) -> PutVersion:
    key = Key(b"k/%08d" % number)
    draft = Draft(
        size=len(body),
        etag=hashlib.md5(body, usedforsecurity=False).hexdigest(),
        headers=(("content-type", "application/octet-stream"),),
        user_metadata=(),
        location=Inline(body),
        owner=record.owner,
    )
    slot = slot_of(record.bucket, key, record.span)
    return PutVersion(
        slot, BucketRef(record.bucket, record.config_version), key, pack_draft(draft)
    )


def _apply(machine: ShardMachine, commands: Iterable[PutVersion]) -> None:
    progress = machine._progress
    rows, time_ms, chain = StagedRows(machine.rows), progress.time_ms, progress.chain
    for number, command in enumerate(commands):
        time_ms += 1
        request = RequestId(os.urandom(16))
        work = Work(rows, command, number, progress.term, time_ms)
        result = apply.apply(work, request, command, machine._seen)
        if apply.is_error(result):
            raise SystemExit(f"{command.key!r}: {result}")
        chain = rows.commit(chain)
    machine._write(rows, attrs.evolve(progress, time_ms=time_ms, chain=chain))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=100, help="bytes of an object")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.count)
    fill(arguments.folder, numbers, arguments.size)


if __name__ == "__main__":
    main()
