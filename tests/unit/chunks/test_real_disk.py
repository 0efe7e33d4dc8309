"""The store once on real files, a real embedded store and real threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from objstore.chunks.fragment import NoSuchFragment
from objstore.chunks.store import ChunkStore
from objstore.chunks.worker import CompactionState, Compactor
from objstore.config import ChunksConfig
from objstore.host.real_host import real_host
from objstore.units import KiB, MiB

from .stores import CLUSTER, NODE, content, fragment_id, get, put

pytestmark = pytest.mark.slow


async def test_store_on_real_files(tmp_path: Path) -> None:
    host = real_host()
    data = host.disks.directory(str(tmp_path), create=True)
    sizes = {n: (n % 5) * 300 * KiB + n for n in range(24)}

    async def life(body) -> None:
        kv = host.disks.key_value_store(data, "meta")
        store = ChunkStore(
            host=host,
            kv=kv,
            drives=[
                host.disks.directory(str(tmp_path / name), create=True) for name in "ab"
            ],
            cluster=CLUSTER,
            node=NODE,
            config=ChunksConfig(segment_size=4 * MiB, reserve=0),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await body(store)
            nursery.cancel_scope.cancel()
        kv.close()

    async def write(store: ChunkStore) -> None:
        async with trio.open_nursery() as nursery:
            for n, size in sizes.items():
                nursery.start_soon(put, store, n, content(n, size))
        await store.delete([fragment_id(n) for n in sizes if n % 3 == 0])

    async def verify(store: ChunkStore) -> None:
        for n, size in sizes.items():
            if n % 3 == 0:
                with pytest.raises(NoSuchFragment):
                    await get(store, n)
            else:
                assert await get(store, n, 2 * MiB) == content(n, size)

    async def compact(store: ChunkStore) -> None:
        compactor = Compactor(store, copy_rate=1 << 40)
        while await compactor.work_once() is CompactionState.BUSY:
            pass
        await verify(store)

    await life(write)
    await life(verify)
    await life(compact)
    data.remove_folder("meta")
    await life(verify)
