from __future__ import annotations

import errno
import os

import pytest
import trio

from objstore.host.disk import read_file, write_file_atomically
from objstore.host.network import Address
from objstore.testing.clock import START_MS
from objstore.testing.disk import DiskFault
from objstore.testing.host import HostCrashed, SimulatedWorld

HOUR_MS = 3_600_000


@pytest.fixture
def world():
    return SimulatedWorld(seed=1)


async def test_a_host_is_one_value_while_it_is_up(world, autojump_clock):
    assert world.host("a") is world.host("a")
    assert world.is_up("a")
    world.kill("a")
    assert not world.is_up("a")
    assert world.restart("a") is world.host("a")


async def test_a_restarted_host_finds_its_disk(world, autojump_clock):
    root = world.host("a").disks.directory("/data", create=True)
    write_file_atomically(root, "id", b"me")
    world.crash("a")
    root = world.restart("a").disks.directory("/data")
    assert read_file(root, "id") == b"me"


async def test_hosts_have_disks_of_their_own(world, autojump_clock):
    world.host("a").disks.directory("/data", create=True)
    with pytest.raises(FileNotFoundError):
        world.host("b").disks.directory("/data")


async def test_a_restarted_host_draws_other_tokens(world, autojump_clock):
    first = world.host("a").entropy.token(16)
    world.kill("a")
    assert world.restart("a").entropy.token(16) != first
    assert world.host("b").entropy.token(16) != first


async def test_a_seed_gives_the_same_tokens():
    tokens = [SimulatedWorld(seed).host("a").entropy.token(16) for seed in (1, 1, 2)]
    assert tokens[0] == tokens[1] != tokens[2]


async def test_a_program_runs_to_its_end(world, autojump_clock):
    async def program(host):
        await trio.sleep(10)
        return host

    assert await world.run("a", program) is world.host("a")


async def test_a_crash_ends_the_program_whatever_it_does_in_dying(world, autojump_clock):
    async def program(host):
        root = host.disks.directory("/data", create=True)
        listener = await host.network.listen(Address("a", 80))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.accept)
            try:
                await trio.sleep_forever()
            finally:
                write_file_atomically(root, "last words", b"")

    async with trio.open_nursery() as nursery:

        async def run():
            with pytest.raises(HostCrashed):
                await world.run("a", program)

        nursery.start_soon(run)
        await trio.sleep(1)
        world.kill("a")
    root = world.restart("a").disks.directory("/data")
    assert root.names() == []


async def test_a_programs_own_error_is_its_callers(world, autojump_clock):
    async def program(_):
        raise OSError(errno.EIO, "a disk failed, the host did not")

    with pytest.raises(OSError):
        await world.run("a", program)
    assert world.is_up("a")


async def test_a_program_is_cancelled_with_its_caller(world, autojump_clock):
    async def program(_):
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await world.run("a", program)
    assert scope.cancelled_caught
    assert world.is_up("a")


async def test_clocks_jump_and_drift_and_time_does_not(world, autojump_clock):
    """F15."""
    clock = world.host("a").clock
    assert clock.utc_now_ms() == START_MS
    await trio.sleep(60)
    assert clock.utc_now_ms() == START_MS + 60_000
    world.clock("a").jump(HOUR_MS)
    assert clock.utc_now_ms() == START_MS + 60_000 + HOUR_MS
    world.clock("a").set_rate(2.0)
    await trio.sleep(60)
    assert clock.utc_now_ms() == START_MS + 180_000 + HOUR_MS
    world.clock("a").jump(-HOUR_MS)
    world.clock("a").set_rate(1.0)
    await trio.sleep(60)
    assert clock.utc_now_ms() == START_MS + 240_000
    assert world.host("b").clock.utc_now_ms() == START_MS + 180_000


async def test_a_slow_disk_takes_virtual_time_where_a_thread_would(world, autojump_clock):
    """F12: +2 s a sync."""
    host = world.host("a")
    file = host.disks.directory("/data", create=True).open("f", create=True)
    world.disk("a").sync_delay_s = 2.0

    def write():
        file.write_at(0, b"x")
        file.sync()

    worker = host.threads.worker("wal")
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(worker.run, write)
    assert trio.current_time() - began == pytest.approx(6.0)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(host.threads.run, write)
    assert trio.current_time() - began == pytest.approx(2.0)


async def test_a_failed_sync_is_late_as_well(world, autojump_clock):
    """F11, F12."""
    host = world.host("a")
    root = host.disks.directory("/data", create=True)
    world.disk("a").sync_delay_s = 2.0
    world.disk("a").inject(DiskFault("/data", "sync"))
    began = trio.current_time()
    with pytest.raises(OSError):
        await host.threads.run(root.sync)
    assert trio.current_time() - began == pytest.approx(2.0)


async def test_no_thread_file_or_socket_of_the_machine_is_used(
    world, monkeypatch, autojump_clock
):
    def forbidden(*_, **__):
        raise AssertionError("a simulation touched the machine")

    for name in ("open", "pwrite", "pread", "fsync", "mkdir"):
        monkeypatch.setattr(os, name, forbidden)
    monkeypatch.setattr("socket.socket", forbidden)
    monkeypatch.setattr("threading.Thread.start", forbidden)
    host = world.host("a")
    root = host.disks.directory("/data", create=True)
    write_file_atomically(root, "a", b"x")
    host.disks.key_value_store(root, "store").close()
    listener = await host.network.listen(Address("a", 80))
    await host.network.connect(Address("a", 80))
    await listener.accept()
    assert await host.threads.run(len, b"abc") == 3
