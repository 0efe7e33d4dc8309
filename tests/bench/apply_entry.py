"""What applying one entry costs a replica: python tests/bench/apply_entry.py.

Entries come one by one to `ShardMachine.apply`, over the real store and over one in
memory, 1.5 seconds of cluster time apart: so after the first ones the slot forgets as many
requests as it is told of, as it does in the long run.

CPU microseconds an entry, for a machine that does nothing else.  On one that does, count
instructions, which are the same always; a phase is then a part of the output file:

    PYTHONHASHSEED=0 valgrind --tool=callgrind --callgrind-out-file=OUT \\
        --dump-before=getppid python tests/bench/apply_entry.py --counted
    python tests/bench/apply_entry.py --read OUT
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from callgrind import thousands

from objstore.host.kv import KeyValueStore
from objstore.host.rocks_kv import RocksStore
from objstore.ids import BucketId, Epoch, IntentId, Key, NodeId, RequestId, Slot, chunk_id
from objstore.meta import commands as c
from objstore.meta import envelope
from objstore.meta.payloads import pack_draft
from objstore.meta.store import MetaStore, ShardMachine
from objstore.meta.values import (
    BucketFence,
    Checksum,
    ChunkRef,
    Chunks,
    Draft,
    Inline,
    Location,
)
from objstore.raft.state_machine import Entry, EntryKind, Membership
from objstore.rpc import codec
from objstore.testing.host import SimulatedWorld

SLOT = Slot(7)
REF = c.BucketRef(BucketId(3), 1)
MEMBERS = Membership((NodeId("a" * 16), NodeId("b" * 16), NodeId("c" * 16)))
BODY = bytes(range(256)) * 16
FIRST_MS = 1_790_000_000_000
STEP_MS = 1_500
FILL = 1_300  # More than the requests of two periods of 15 minutes.


def draft(location: Location, size: int = len(BODY)) -> Draft:
    """A version as a PUT of an SDK makes it."""
    return Draft(
        size=size,
        etag=hashlib.md5(BODY, usedforsecurity=False).hexdigest(),
        headers=(("content-type", "binary/octet-stream"),),
        user_metadata=(),
        location=location,
        owner="a" * 64,
        checksum=Checksum("CRC64NVME", bytes(8)),
    )


def key(number: int) -> Key:
    return Key(b"photos/2026/%08d.jpg" % number)


def intent(number: int) -> IntentId:
    return IntentId(number.to_bytes(12, "big"))


def put(number: int) -> c.PutVersion:
    return c.PutVersion(SLOT, REF, key(number), pack_draft(draft(Inline(BODY))))


def begin(number: int) -> c.BeginIntent:
    return c.BeginIntent(SLOT, REF, key(number), intent(number))


def put_chunk(number: int) -> c.PutVersion:
    ref = ChunkRef(chunk_id(intent(number), 0), 1 << 20, Epoch(1))
    made = pack_draft(draft(Chunks("replicate:3", (ref,)), 1 << 20))
    return c.PutVersion(SLOT, REF, key(number), made, intent=intent(number))


def delete(number: int) -> c.DeleteVersion:
    return c.DeleteVersion(SLOT, REF, key(number))


# A phase: its name, and its command for each number.
PHASES: tuple[tuple[str, Callable[[int], Any]], ...] = (
    ("put 4 KiB", put),
    ("overwrite", put),
    ("delete", delete),
    ("intent", begin),
    ("put a chunk", put_chunk),
    ("delete it", delete),
)


class Log:
    """Entries of a group, as its leader would have written them."""

    def __init__(self) -> None:
        self.index = 0

    def entry(self, command: Any) -> Entry:
        self.index += 1
        digest = hashlib.blake2b(self.index.to_bytes(8, "big"), digest_size=16).digest()
        stamp_ms = FIRST_MS + self.index * STEP_MS
        encoded = codec.encode(command)
        data = envelope.encode(RequestId(digest), stamp_ms, encoded)
        return Entry(self.index, 1, EntryKind.COMMAND, data)


def machines(folder: str) -> Iterator[tuple[str, ShardMachine]]:
    host = SimulatedWorld(0).host("a")
    real = RocksStore.open(folder)
    memory = host.disks.key_value_store(host.disks.directory("data", create=True), "meta")
    stores: tuple[tuple[str, KeyValueStore], ...] = (("rocksdb", real), ("memory", memory))
    for name, kv in stores:
        yield name, MetaStore(kv, host.threads).machine(1)
        kv.close()


def phases(machine: ShardMachine, count: int) -> Iterator[tuple[str, list[Entry]]]:
    """Phases, each made when the one before was applied."""
    made = Log()
    opened = c.OpenBucket(SLOT, BucketFence(REF.bucket, 1, "unversioned", is_open=True))
    first = [made.entry(opened), *(made.entry(put(1_000_000 + n)) for n in range(FILL))]
    for entry in first:
        machine.apply([entry], MEMBERS)
    for name, command in PHASES:
        yield name, [made.entry(command(number)) for number in range(count)]


def run(count: int, *, is_counted: bool) -> None:
    gc.disable()
    with tempfile.TemporaryDirectory() as folder:
        for store, machine in machines(folder):
            for name, entries in phases(machine, count):
                spent_s = apply_all(machine, entries, is_counted=is_counted)
                shown = "" if is_counted else f"{spent_s / count * 1e6:8.1f} µs"
                print(f"{store:8} {name:12} {shown}", flush=True)


def apply_all(machine: ShardMachine, entries: list[Entry], *, is_counted: bool) -> float:
    if is_counted:
        os.getppid()  # Tells callgrind where the phase begins, and where it ends.
    began_s = time.process_time()
    for entry in entries:
        machine.apply([entry], MEMBERS)
    spent_s = time.process_time() - began_s
    if is_counted:
        os.getppid()
    return spent_s


def read(out: Path, count: int) -> None:
    """Print what callgrind counted in each phase."""
    names = [(store, name) for store in ("rocksdb", "memory") for name, _ in PHASES]
    for place, (store, name) in enumerate(names):
        print(f"{store:8} {name:12} {thousands(out, place) / count:8.1f} k instructions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=160, help="entries of a phase")
    parser.add_argument("--counted", action="store_true", help="run under callgrind")
    parser.add_argument("--read", type=Path, help="show what callgrind wrote")
    arguments = parser.parse_args()
    if arguments.read is not None:
        read(arguments.read, arguments.count)
    else:
        run(arguments.count, is_counted=arguments.counted)


if __name__ == "__main__":
    main()
