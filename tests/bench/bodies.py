"""Print what a body costs behind the front door: python tests/bench/bodies.py.

Three chunk stores on this machine's drive, in one process, with real links between them:
what `intake` and `get.read` do for a body, without HTTP, S3 and Raft.  CPU of the whole
process, microseconds an operation, the least of several rounds.

    python tests/bench/bodies.py                  all cases
    python tests/bench/bodies.py range --calls    Python calls an operation, by function
    valgrind --tool=callgrind python tests/bench/bodies.py range --rounds 1 --count 300
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import structlog
import trio

from objstore.chunks.client import ChunkClient
from objstore.chunks.server import ChunkServer
from objstore.chunks.store import ChunkStore
from objstore.config import ChunksConfig, ReadConfig, WriteConfig
from objstore.host.host import Host
from objstore.host.network import Address, ServerTls, TlsIdentity
from objstore.host.pki import Authority
from objstore.host.real_host import real_host
from objstore.ids import (
    BucketId,
    ClusterId,
    IntentId,
    Key,
    NodeId,
    Slot,
    VersionId,
)
from objstore.meta.values import (
    BucketRecord,
    BucketState,
    Checksum,
    Chunks,
    Draft,
    Version,
)
from objstore.objects import get
from objstore.objects.budget import Budget
from objstore.objects.capability import Capability, Principal
from objstore.objects.gather import Gather
from objstore.objects.intake import _ChunkWriter
from objstore.objects.requests import DEFAULT_CHECKSUM_ALGORITHM
from objstore.objects.scatter import Scatter
from objstore.objects.store import Store, StoreOptions
from objstore.ring import layout as layouts
from objstore.ring.ring import Ring
from objstore.rpc.client import Peers
from objstore.rpc.server import RpcServer
from objstore.units import GiB, KiB, MiB

CLUSTER = ClusterId("c" * 32)
NODES = [NodeId(digit * 16) for digit in "123"]
RECORD = BucketRecord(
    name="bench",
    bucket=BucketId(7),
    owner="a" * 64,
    created_ms=1,
    span=(Slot(0),),
    scheme="replicate:3",
    state=BucketState.OPEN,
)
ROOT = Principal("ROOTKEY", "a" * 64, is_root=True)
READER = Capability(ROOT, "s3:GetObject", RECORD, Key(b"key"))


class _Body:
    """A body that is there; receiving it is one copy."""

    digests = ()
    trailing_algorithm = None

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = memoryview(data)

    async def fill(self, buffer: memoryview) -> int:
        size = len(buffer)
        buffer[:] = self._data[:size]
        self._data = self._data[size:]
        return size

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    def trailing_digests(self) -> tuple[()]:
        return ()


class _View:
    def __init__(self, ring: Ring) -> None:
        self.ring = ring

    def ring_at(self, epoch: int) -> Ring:
        assert epoch == self.ring.epoch
        return self.ring


@attrs.define
class _World:
    store: Store  # Of the first node.
    intents: int = 0

    async def put(self, data: bytes) -> Version:
        self.intents += 1
        writer = _ChunkWriter(
            store=self.store,
            capability=READER,
            slot=Slot(0),
            intent=IntentId(self.intents.to_bytes(12, "big")),
            scheme="replicate:3",
            upload=None,
            renew_at_s=trio.current_time() + 1000,
        )
        received = await writer.write(_Body(data), DEFAULT_CHECKSUM_ALGORITHM)
        assert isinstance(received.location, Chunks)
        draft = Draft(
            size=received.size,
            etag=received.etag,
            headers=(),
            user_metadata=(),
            location=received.location,
            owner=RECORD.owner,
            checksum=Checksum("CRC64NVME", bytes(8)),
        )
        return Version(VersionId("0" * 32), 1, 1, draft, 1, 1)

    async def read(self, version: Version, offset: int, size: int) -> None:
        pieces = get.read(self.store, READER, version, offset=offset, size=size)
        come = 0
        async for piece in pieces:
            come += len(piece)
        assert come == size
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[_World]:
    host = real_host()
    now_ms = host.clock.utc_now_ms()
    authority = host.pki.create_authority(CLUSTER, now_ms=now_ms, days=2)
    addresses: dict[NodeId, Address] = {}
    members = [layouts.Member(node=node, weight=100) for node in NODES]
    ring = Ring(layouts.found(members, partition_count=64))
    async with trio.open_nursery() as nursery:
        clients = [
            await _node(nursery, host, authority, node, folder / node, addresses)
            for node in NODES
        ]
        client = clients[0]
        store = Store(
            meta=None,  # type: ignore[arg-type]
            view=_View(ring),  # type: ignore[arg-type]
            scatter=Scatter(
                chunks=client,
                is_alive=lambda _: True,
                clock=host.clock,
                config=WriteConfig(),
                threads=host.threads,
            ),
            gather=Gather(
                chunks=client,
                is_alive=lambda _: True,
                on_damage=print,
                config=ReadConfig(),
                threads=host.threads,
            ),
            chunks=client,
            budget=Budget(GiB),
            host=host,
            options=StoreOptions(),
        )
        yield _World(store)
        nursery.cancel_scope.cancel()


async def _node(
    nursery: trio.Nursery,
    host: Host,
    authority: Authority,
    node: NodeId,
    folder: Path,
    addresses: dict[NodeId, Address],
) -> ChunkClient:
    directory = host.disks.directory(str(folder), create=True)
    drive = host.disks.directory(str(folder / "chunks"), create=True)
    now_ms = host.clock.utc_now_ms()
    identity = host.pki.issue(authority, CLUSTER, node, now_ms=now_ms, days=2)

    def show() -> TlsIdentity:
        return identity

    store = ChunkStore(
        host=host,
        kv=host.disks.key_value_store(directory, "rows"),
        drives=[drive],
        cluster=CLUSTER,
        node=node,
        config=ChunksConfig(reserve=0),
    )
    server = RpcServer(
        host.network,
        Address("127.0.0.1", 0),
        tls=ServerTls(show, mutual=True),
        node=node,
        cluster=CLUSTER,
    )
    peers = Peers(
        host.network,
        node=node,
        cluster=CLUSTER,
        identity=show,
        resolve=addresses.get,
    )
    client = ChunkClient(node=node, local=store, peers=peers)
    chunk_server = ChunkServer(store=store, entropy=host.entropy)
    chunk_server.register(server)
    await nursery.start(store.run)
    addresses[node] = await nursery.start(server.run)
    for service in (peers.run, client.run, chunk_server.run):
        await nursery.start(service)
    return client


# ---- cases ----------------------------------------------------------------------------

Step = Callable[[int], Awaitable[object]]


async def _put_1(it: _World, count: int) -> Step:
    data = bytes(range(256)) * 4 * KiB
    return lambda _: it.put(data)


async def _put_64(it: _World, count: int) -> Step:
    data = bytes(range(256)) * 256 * KiB
    return lambda _: it.put(data)


async def _get_1(it: _World, count: int) -> Step:
    """A first read, each time of another object."""
    data = bytes(range(256)) * 4 * KiB
    versions = [await it.put(data) for _ in range(count)]
    return lambda number: it.read(versions[number], 0, len(data))


async def _get_1_hot(it: _World, count: int) -> Step:
    data = bytes(range(256)) * 4 * KiB
    version = await it.put(data)
    for _ in range(8):
        await it.read(version, 0, len(data))
    return lambda _: it.read(version, 0, len(data))


async def _get_64(it: _World, count: int) -> Step:
    data = bytes(range(256)) * 256 * KiB
    versions = [await it.put(data) for _ in range(count)]
    return lambda number: it.read(versions[number], 0, len(data))


async def _range(it: _World, count: int) -> Step:
    """A first read of 64 KiB, each time of another place."""
    assert count <= 4 * 1024
    data = bytes(range(256)) * 256 * KiB
    versions = [await it.put(data) for _ in range(-(-count // 512))]
    for version in versions:
        await it.read(version, 0, 64 * KiB)  # Its checksum table is known then.

    def step(number: int) -> Awaitable[object]:
        offset = number % 512 * 128 * KiB
        return it.read(versions[number // 512], offset, 64 * KiB)

    return step


async def _range_hot(it: _World, count: int) -> Step:
    data = bytes(range(256)) * 4 * KiB
    version = await it.put(data)
    for _ in range(100):
        await it.read(version, 128 * KiB, 64 * KiB)
    return lambda _: it.read(version, 128 * KiB, 64 * KiB)


CASES: dict[str, tuple[Callable[[_World, int], Awaitable[Step]], int]] = {
    "range": (_range, 200),
    "range-hot": (_range_hot, 500),
    "get-1": (_get_1, 50),
    "get-1-hot": (_get_1_hot, 100),
    "get-64": (_get_64, 2),
    "put-1": (_put_1, 40),
    "put-64": (_put_64, 2),
}


async def _measure(name: str, rounds: int, count: int, calls: bool) -> None:
    make, usual = CASES[name]
    count = count or usual
    with tempfile.TemporaryDirectory(dir=".") as folder:
        async with world(Path(folder)) as it:
            await it.put(bytes(2 * MiB))  # Links and segments are there.
            best: list[float] = []
            for _ in range(rounds):
                step = await make(it, count)
                if calls:
                    await _count_calls(step, count)
                    return
                began = time.process_time()
                for number in range(count):
                    await step(number)
                best.append((time.process_time() - began) / count * 1e6)
            print(f"{name:10} {min(best):10,.0f} us    of {count}, {rounds} rounds")


async def _count_calls(step: Step, count: int) -> None:
    counts: collections.Counter[str] = collections.Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            code = frame.f_code
            counts[
                f"{code.co_filename.rsplit('site-packages/')[-1]}:{code.co_qualname}"
            ] += 1

    sys.setprofile(note)
    for number in range(count):
        await step(number)
    sys.setprofile(None)
    print(f"{sum(counts.values()) / count:8.1f} calls of Python functions")
    for where, calls in counts.most_common(70):
        print(f"{calls / count:8.2f} {where.replace(str(Path.cwd()) + '/', '')}")


def main() -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--calls", action="store_true")
    options = parser.parse_args()
    for name in options.cases:
        trio.run(_measure, name, options.rounds, options.count, options.calls)


if __name__ == "__main__":
    main()
