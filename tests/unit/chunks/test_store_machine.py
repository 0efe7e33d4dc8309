"""The store against a dict, through stops, kills, power loss and a lost index.

A program of random steps runs on a simulated host (F01, F03, F05).  After each start:

- what was committed and not deleted since is there, byte for byte;
- what was deleted is gone (but where the index was lost, too, an older record of a fragment
  that had been written twice may come back: garbage, never anything else);
- of what was under way at the crash, all or nothing is there.
"""

from __future__ import annotations

from random import Random

import attrs
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objstore.chunks.check import DriveCheck, check_drive
from objstore.chunks.fragment import CorruptFragment, NoSuchFragment
from objstore.chunks.store import ChunkStore
from objstore.chunks.worker import CompactionState, Compactor
from objstore.config import ChunksConfig
from objstore.errors import ObjstoreError
from objstore.testing.host import SimulatedWorld
from objstore.units import KiB, MiB

from .stores import Node, blocks_of, content, fragment_id, get, header_of, put

NAMES = st.integers(0, 5)
SIZES = st.sampled_from([1, 100, 8 * KiB, 20 * KiB, 100 * KiB, 300 * KiB, 1500 * KiB])


@attrs.frozen
class Put:
    name: int
    size: int


@attrs.frozen
class Abort:
    name: int
    size: int
    blocks: int


@attrs.frozen
class Delete:
    name: int


@attrs.frozen
class Get:
    name: int


@attrs.frozen
class Compact:
    pass


@attrs.frozen
class Flush:
    pass


@attrs.frozen
class Wait:
    pass


@attrs.frozen
class Restart:
    how: str
    under_way: tuple[Put | Delete, ...]
    after_ms: int


CHANGES = st.builds(Put, NAMES, SIZES) | st.builds(Delete, NAMES)
STEPS = st.one_of(
    st.builds(Put, NAMES, SIZES),
    st.builds(Put, NAMES, SIZES),
    st.builds(Abort, NAMES, SIZES, st.integers(0, 3)),
    st.builds(Delete, NAMES),
    st.builds(Get, NAMES),
    st.just(Compact()),
    st.just(Flush()),
    st.just(Wait()),
    st.builds(
        Restart,
        st.sampled_from(["stop", "kill", "crash", "crash", "lose index"]),
        st.lists(CHANGES, max_size=4, unique_by=lambda step: step.name).map(tuple),
        st.integers(0, 60),
    ),
)

GONE = None


class Program:
    def __init__(self, seed: int) -> None:
        self.world = SimulatedWorld(seed)
        self.world.threads("a").delay_s = 0.003
        config = ChunksConfig(segment_size=4 * MiB, reserve=0)
        self.node = Node(self.world, config=config)
        self.random = Random(seed)
        self.now: dict[int, set[bytes | None]] = {}  # What may be found.
        self.ever: dict[int, set[bytes]] = {}
        self.version = 0

    async def run(self, steps: list[object]) -> None:
        left = list(steps)
        while left:
            restart = None
            try:
                async with self.node.running() as store:
                    await self.verify(store)
                    restart = await self.run_until_restart(store, left)
                    if restart is not None and restart.how in {"kill", "crash"}:
                        await self.go_down(store, restart)
            except* OSError:
                if self.world.is_up("a"):  # Else it is how a dying process ends.
                    raise
            if not self.world.is_up("a"):
                self.world.restart("a")
            elif restart is not None and restart.how == "lose index":
                self.node.lose_index()
                for name, found in self.now.items():
                    if GONE in found:
                        found |= self.ever.get(name, set())
        async with self.node.running() as store:
            await self.verify(store)
        self.check_offline()

    async def run_until_restart(
        self, store: ChunkStore, left: list[object]
    ) -> Restart | None:
        while left:
            step = left.pop(0)
            if isinstance(step, Restart):
                return step
            await self.carry_out(store, step)
        return None

    async def carry_out(self, store: ChunkStore, step: object) -> None:
        match step:
            case Put(name, size):
                data = self.new_content(name, size)
                await put(store, name, data)
                self.now[name] = {data}
            case Abort(name, size, blocks):
                data = content("aborted", size)
                writer = await store.create(header_of(name, size))
                for block in blocks_of(data)[:blocks]:
                    await writer.append(block)
                await writer.abort()
            case Delete(name):
                await store.delete([fragment_id(name)])
                self.now[name] = {GONE}
            case Get(name):
                await self.look(store, name)
            case Compact():
                compactor = Compactor(store, copy_rate=1 << 40)
                while await compactor.work_once() is CompactionState.BUSY:
                    pass
            case Flush():
                self.node.kv.flush()
            case Wait():
                await trio.sleep(6)  # The store marks what was replaced.

    def new_content(self, name: int, size: int) -> bytes:
        self.version += 1
        data = content(self.version, size)
        self.ever.setdefault(name, set()).add(data)
        return data

    async def go_down(self, store: ChunkStore, restart: Restart) -> None:
        """Begin some changes, and cut the power in their midst."""
        async with trio.open_nursery() as nursery:
            for step in restart.under_way:
                if isinstance(step, Put):
                    data: bytes | None = self.new_content(step.name, step.size)
                else:
                    data = GONE
                self.now.setdefault(step.name, {GONE}).add(data)
                nursery.start_soon(self.change, store, step, data)
            await trio.sleep(restart.after_ms / 1000)
            if restart.how == "kill":
                self.world.kill("a")
            else:
                self.world.crash("a")
            nursery.cancel_scope.cancel()

    async def change(
        self, store: ChunkStore, step: Put | Delete, data: bytes | None
    ) -> None:
        try:
            if data is None:
                await store.delete([fragment_id(step.name)])
            else:
                await put(store, step.name, data)
        except (ObjstoreError, OSError):
            return
        if self.world.is_up("a"):
            self.now[step.name] = {data}

    async def verify(self, store: ChunkStore) -> None:
        for name in sorted(self.now):
            await self.look(store, name)
        walked = {stat.header.fragment for stat in await store.walk(None, 100)}
        there = {fragment_id(n) for n, found in self.now.items() if GONE not in found}
        maybe = {fragment_id(n) for n, found in self.now.items() if found != {GONE}}
        assert there <= walked <= maybe
        (space,) = store.space()
        assert space.fragments == len(list(store.index.after(None)))
        assert space.fenced is None

    async def look(self, store: ChunkStore, name: int) -> None:
        """What is read is one of what may be there, and from then on it is that."""
        allowed = self.now.setdefault(name, {GONE})
        try:
            data: bytes | None = await get(store, name, 2 * MiB)
        except NoSuchFragment:
            data = GONE
        except CorruptFragment:
            # A commit that nobody was told of may be torn; it is not served.
            assert len(allowed) > 1
            await store.delete([fragment_id(name)])
            data = GONE
            allowed.add(GONE)
        assert data in allowed, f"fragment {name}: {data and len(data)} bytes, unexpected"
        self.now[name] = {data}

    def check_offline(self) -> None:
        """The offline check sees what the store served."""
        result = DriveCheck(None)
        list(check_drive(self.node.host.disks.directory("/data/chunks"), result))
        live = sum(found != {GONE} for found in self.now.values())
        assert result.live >= live


@given(st.lists(STEPS, max_size=25), st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_store_keeps_what_it_acknowledged(steps: list[object], seed: int) -> None:
    """F01, F03, F05"""
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(Program(seed).run, steps, clock=clock)
