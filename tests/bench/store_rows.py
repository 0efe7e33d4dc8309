"""What rows cost the embedded store by itself: python tests/bench/store_rows.py.

Batches of three rows, as a PUT of 4 KiB makes them on a replica, under keys that come in no
order; CPU microseconds a batch with RocksDB's own threads, flushes and compactions among
them, then of a get of the large row from its tables.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from random import Random

from objstore.host.rocks_kv import RocksStore

HALF = 2048  # Of a body: one half can be compressed.
GETS = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200_000)
    count = max(GETS, parser.parse_args().count)
    with tempfile.TemporaryDirectory() as folder:
        store = RocksStore.open(folder)
        random = Random(1)
        keys = [random.randbytes(12) for _ in range(count)]
        began = time.process_time()
        for number, key in enumerate(keys):
            batch = store.batch()
            batch.put(b"body" + key, random.randbytes(HALF) + bytes(HALF))
            batch.put(b"list" + key, random.randbytes(150))
            batch.put(b"state", number.to_bytes(8, "big"))
            store.write(batch)
        store.flush()
        time.sleep(
            5
        )  # Compactions go on meanwhile; how many are left does not matter much.
        used = time.process_time() - began
        size = sum(entry.stat().st_size for entry in os.scandir(folder))
        print(f"put: {used / count * 1e6:.1f} us, {size / 1e6:.0f} MB in the end")
        for key in (random.choice(keys) for _ in range(GETS)):  # Fills the cache.
            store.get(b"body" + key)
        began = time.process_time()
        for key in (random.choice(keys) for _ in range(GETS)):
            assert store.get(b"body" + key) is not None
        print(f"get: {(time.process_time() - began) / GETS * 1e6:.1f} us")
        store.close()


if __name__ == "__main__":
    main()
