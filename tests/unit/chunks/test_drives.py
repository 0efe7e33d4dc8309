"""Several drives: placement, fences, full drives, identities."""

from __future__ import annotations

import errno
import json
from collections import Counter

import pytest
import trio
from structlog.testing import capture_logs

from objstore.chunks.driver import DriveSpace
from objstore.chunks.fragment import DriveFenced, NoSuchFragment
from objstore.chunks.identity import ACCEPT_EMPTY, DriveRefused
from objstore.chunks.placement import ranked
from objstore.config import ChunksConfig
from objstore.errors import ConfigError, OutOfSpace
from objstore.ids import DriveId, NodeId
from objstore.testing.disk import DiskFault
from objstore.testing.host import SimulatedWorld
from objstore.units import MiB

from .stores import BLOCK, Node, content, fragment_id, get, header_of, put

TWO = ("/disk1", "/disk2")


def make(drives: tuple[str, ...] = TWO, **config: int) -> Node:
    values = {"segment_size": 4 * MiB, "reserve": 1 * MiB} | config
    return Node(SimulatedWorld(1), drives=drives, config=ChunksConfig(**values))


class SomeDrive:
    def __init__(self, name: int, free: int) -> None:
        self.id = DriveId(f"{name:016x}")
        self.free = free


def test_fragments_spread_over_drives_by_free_space() -> None:
    drives = [SomeDrive(1, 100), SomeDrive(2, 100), SomeDrive(3, 200)]
    first = Counter(ranked(fragment_id(n), drives)[0].id for n in range(4000))
    shares = [first[drive.id] / 4000 for drive in drives]
    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.03)
    assert all(len(ranked(fragment_id(n), drives)) == 3 for n in range(10))


async def test_both_drives_get_fragments_and_all_are_found() -> None:
    node = make()
    async with node.running() as store:
        for n in range(40):
            await put(store, n, content(n, 1000))
        assert all(space.fragments > 5 for space in store.space())
        for n in range(40):
            assert await get(store, n) == content(n, 1000)
        stats = await store.stat([fragment_id(n) for n in range(40)])
        assert len({stat.drive for stat in stats if stat}) == 2


@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_drive_that_fails_is_fenced_and_the_node_goes_on(operation: str) -> None:
    """F11: nothing is acknowledged by the drive afterwards, and nothing is served."""
    node = make()
    async with node.running() as store:
        for n in range(20):
            await put(store, n, content(n, 1000))
        node.disk.inject(DiskFault("/disk1/segment*", operation, count=1))
        with capture_logs() as logs:
            failed = 0
            for n in range(20, 40):
                try:
                    await put(store, n, content(n, 1000))
                except DriveFenced:
                    failed += 1
        assert failed == 1
        assert [log["event"] for log in logs] == ["chunks.drive_fenced"]
        fenced = {space.path: space.fenced for space in store.space()}
        assert fenced["/disk1"] is not None
        assert "errno 5" in fenced["/disk1"]
        assert fenced["/disk2"] is None
        served = 0
        for n in range(20):
            try:
                assert await get(store, n) == content(n, 1000)
                served += 1
            except DriveFenced:
                continue
        assert 0 < served < 20
        assert (
            sum(
                stat is not None
                for stat in await store.stat([fragment_id(n) for n in range(20)])
            )
            == served
        )
        await store.delete([fragment_id(n) for n in range(20)])
    node.disk.heal()
    async with node.running() as store:  # A start tries the drive again.
        assert [space.fenced for space in store.space()] == [None, None]
        for n in range(20):
            with pytest.raises(NoSuchFragment):
                await get(store, n)


async def test_drive_that_cannot_be_read_is_fenced() -> None:
    """F10"""
    node = make(("/disk1",))
    async with node.running() as store:
        await put(store, 1, content(1, 1000))
        node.disk.inject(DiskFault("/disk1/*", "read"))
        with pytest.raises(DriveFenced):
            await get(store, 1)
        assert node.damage == []
        with pytest.raises(DriveFenced):
            await store.create(header_of(2, 10))


async def test_all_commits_of_a_failed_sync_fail() -> None:
    """F11: a sync is never tried again."""
    node = make(("/disk1",))
    node.world.threads("a").delay_s = 0.01
    outcomes: list[str] = []

    async def one(n: int) -> None:
        try:
            await put(node.store, n, content(n, 100))
            outcomes.append("done")
        except DriveFenced:
            outcomes.append("fenced")

    async with node.running() as store:
        await put(store, 0, b"x")
        syncs = node.count("sync")
        node.disk.inject(DiskFault("/disk1/segment*", "sync"))
        async with trio.open_nursery() as nursery:
            for n in range(1, 9):
                nursery.start_soon(one, n)
        assert outcomes == ["fenced"] * 8
        assert syncs._calls == 1


async def test_full_drive_refuses_writes_at_its_reserve_and_serves_all_else() -> None:
    """F09"""
    node = make(("/disk1",))
    node.disk.capacity = 24 * MiB
    async with node.running() as store:
        written = 0
        with pytest.raises(OutOfSpace):  # noqa: PT012
            while True:
                await put(store, written, content(written, MiB), block_size=MiB)
                written += 1
        assert 10 <= written <= 23
        (space,) = store.space()
        assert space.fenced is None
        assert node.disk.capacity - node.disk.used() >= 1 * MiB
        for n in range(written):
            assert await get(store, n, MiB) == content(n, MiB)
        # Half of the reserve is there for repair.
        writer = await store.create(header_of(200, 100), into_reserve=True)
        await writer.append(bytes(100))
        await writer.commit()
        await store.delete([fragment_id(n) for n in range(written)])
        await put(store, 300, content(300, MiB), block_size=MiB)
        assert await get(store, 300, MiB) == content(300, MiB)


async def test_enospc_in_a_write_is_no_reason_to_fence() -> None:
    """F09: a copy-on-write file system may be full though the space was allocated."""
    node = make(("/disk1",))
    async with node.running() as store:
        await put(store, 0, b"x")
        node.disk.inject(DiskFault("/disk1/segment*", "write", error=errno.ENOSPC))
        with pytest.raises(OutOfSpace):
            await put(store, 1, content(1, 3 * BLOCK))
        assert store.space()[0].fenced is None


async def test_full_drive_is_passed_over_for_another() -> None:
    node = make()
    async with node.running() as store:
        await put(store, 0, b"x")
        node.disk.inject(
            DiskFault("/disk1/segment*", "write", count=None, error=errno.ENOSPC)
        )
        for n in range(1, 40):
            try:
                await put(store, n, content(n, MiB), block_size=MiB)
            except OutOfSpace:
                continue
        spaces = {space.path: space for space in store.space()}
        assert spaces["/disk2"].fragments > 15
        assert spaces["/disk1"].fenced is None


# ---- identity ------------------------------------------------------------------------


async def reason_of(node: Node, path: str = "/disk1") -> str:
    async with node.running() as store:
        reasons = {space.path: space.fenced for space in store.space()}
    assert reasons[path] is not None
    return reasons[path]


async def refusal_of(node: Node) -> str:
    with pytest.raises(ExceptionGroup) as caught:
        async with node.running():
            pass
    (error,) = caught.value.exceptions
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, ConfigError)
    return str(error)


async def test_drive_of_another_node_is_refused() -> None:
    """F29"""
    node = make(("/disk1",))
    async with node.running() as store:
        await put(store, 0, b"x")
    node.node = NodeId("b" * 16)
    assert "belongs to node aaaaaaaaaaaaaaaa" in await refusal_of(node)


async def test_emptied_drive_is_refused_until_a_person_says_that_it_is_new() -> None:
    """F27: mostly a disk that was not mounted."""
    node = make()
    async with node.running() as store:
        for n in range(20):
            await put(store, n, content(n, 100))
    folder = node.host.disks.directory("/disk1")
    for name in folder.names():
        folder.remove(name)
    folder.sync()
    assert "is the disk mounted" in await reason_of(node)
    assert node.segments() == [p for p in node.segments() if p.startswith("/disk2")]
    async with node.running() as store:  # The node went on with the other.
        await put(store, 99, b"x")
        found = [await store.stat([fragment_id(n)]) for n in range(20)]
        assert 0 < sum(stat != [None] for stat in found) < 20
    folder.open(ACCEPT_EMPTY, create=True).close()
    async with node.running() as store:
        assert all(space.fenced is None for space in store.space())
        for n in range(20):
            try:
                assert await get(store, n) == content(n, 100)
            except (DriveFenced, NoSuchFragment):
                continue
    assert not folder.exists(ACCEPT_EMPTY)
    async with node.running() as store:
        assert all(space.fenced is None for space in store.space())


async def test_drive_whose_identity_is_lost_or_damaged_is_refused() -> None:
    """F06: (g)"""
    node = make(("/disk1",))
    async with node.running() as store:
        await put(store, 0, b"x")
    path = "/disk1/drive.json"
    document = json.loads(node.disk.contents(path))
    assert document["format"] == 1
    offset = node.disk.contents(path).index(document["identity"]["drive"].encode())
    node.disk.flip_bit(path, offset=offset)
    assert "damaged" in await refusal_of(node)
    node.host.disks.directory("/disk1").remove("drive.json")
    assert "no drive.json" in await refusal_of(node)


async def test_cloned_drive_is_refused() -> None:
    """F29"""
    node = make()
    async with node.running() as store:
        await put(store, 0, b"x")
    disk2 = node.host.disks.directory("/disk2")
    disk2.remove("drive.json")
    for name in disk2.names():
        if name.startswith("segment"):
            disk2.remove(name)
    file = disk2.open("drive.json", create=True)
    file.write_at(0, node.disk.contents("/disk1/drive.json"))
    assert "was cloned" in await reason_of(node, "/disk2")


async def test_drive_in_use_by_another_process_is_refused() -> None:
    node = make(("/disk1",))
    lock = node.host.disks.directory("/disk1", create=True).lock("lock")
    assert "another daemon" in await refusal_of(node)
    lock.close()


async def test_drive_that_cannot_be_written_is_refused_at_the_start() -> None:
    node = make()
    async with node.running():
        pass
    node.disk.inject(DiskFault("/disk1/probe*", "sync"))
    assert "/disk1" in await reason_of(node)


async def test_drive_taken_out_of_the_configuration_comes_back_with_its_fragments() -> None:
    node = make()
    async with node.running() as store:
        for n in range(20):
            await put(store, n, content(n, 100))
    node.drives = ("/disk2",)
    async with node.running() as store:
        found = [await store.stat([fragment_id(n)]) for n in range(20)]
        assert 0 < sum(stat == [None] for stat in found) < 20
    node.drives = TWO
    async with node.running() as store:
        for n in range(20):
            assert await get(store, n) == content(n, 100)


def test_space_names_a_refused_drive() -> None:
    space = DriveSpace(None, "/x", 0, 0, 0, 0, "because")
    assert space.fenced == "because"
    assert issubclass(DriveRefused, ConfigError)
