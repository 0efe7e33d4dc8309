"""What a crash may keep and must keep, and the faults that can be ordered."""

from __future__ import annotations

import errno
import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.host.disk import read_file, write_file_atomically
from objstore.testing.boot import Boot
from objstore.testing.disk import SECTOR_SIZE, DiskFault, SimulatedDisk, SimulatedDisks
from objstore.units import KiB, MiB

SEEDS = range(200)


class Machine:
    """A disk that can be crashed and looked at."""

    def __init__(self):
        self.disk = SimulatedDisk()
        self.boot = Boot("a")
        self.root = SimulatedDisks(self.disk, self.boot).directory("/d", create=True)

    def crash(self, seed):
        self.boot.alive = False
        self.disk.crash(Random(seed))
        self.boot = Boot("a")
        self.root = SimulatedDisks(self.disk, self.boot).directory("/d")
        return self.root

    def durable_file(self, name, content):
        write_file_atomically(self.root, name, content)
        return self.root.open(name)


def outcomes(prepare, look):
    """All that `look` finds after a crash, over many seeds."""
    found = set()
    for seed in SEEDS:
        machine = Machine()
        prepare(machine)
        found.add(look(machine.crash(seed)))
    return found


def test_what_was_synced_survives_every_crash():
    def prepare(machine):
        file = machine.root.open("a", create=True)
        file.write_at(0, b"synced" * 1000)
        file.sync()
        machine.root.sync()
        file.write_at(100_000, b"not synced")

    contents = outcomes(prepare, lambda root: read_file(root, "a")[:6000])
    assert contents == {b"synced" * 1000}


def test_a_name_not_synced_may_vanish_and_may_stay():
    """P3: fsync of the folder after a create."""

    def prepare(machine):
        file = machine.root.open("a", create=True)
        file.write_at(0, b"data")
        file.sync()

    assert outcomes(prepare, lambda root: tuple(root.names())) == {(), ("a",)}


def test_a_removal_not_synced_may_be_undone():
    def prepare(machine):
        machine.durable_file("a", b"old")
        machine.root.remove("a")

    assert outcomes(prepare, lambda root: tuple(root.names())) == {(), ("a",)}


def test_a_rename_is_atomic_and_may_be_undone():
    def prepare(machine):
        machine.durable_file("a", b"one")
        machine.durable_file("b", b"two")
        machine.root.rename("a", "b")

    def look(root):
        return tuple((name, read_file(root, name)) for name in root.names())

    before, after = (("a", b"one"), ("b", b"two")), (("b", b"one"),)
    assert outcomes(prepare, look) == {before, after}


def test_an_atomic_replacement_leaves_the_old_or_the_new():
    """F02: crash in the middle of write_file_atomically, at each of its syncs."""
    for nth in (1, 2):
        operation, path = ("sync", "*.new") if nth == 1 else ("sync", "/d")

        def prepare(machine, operation=operation, path=path):
            write_file_atomically(machine.root, "a", b"old")
            machine.disk.inject(DiskFault(path, operation))
            with pytest.raises(OSError):
                write_file_atomically(machine.root, "a", b"new")

        contents = outcomes(prepare, lambda root: read_file(root, "a"))
        assert contents == ({b"old"} if nth == 1 else {b"old", b"new"})


def test_unsynced_writes_survive_in_any_combination():
    """F05: later writes may survive earlier ones."""

    def prepare(machine):
        file = machine.durable_file("a", bytes(3 * SECTOR_SIZE))
        for sector in range(3):
            file.write_at(sector * SECTOR_SIZE, bytes((sector + 1,)) * SECTOR_SIZE)

    def look(root):
        return tuple(read_file(root, "a")[::SECTOR_SIZE])

    every = {(a, b, c) for a in (0, 1) for b in (0, 2) for c in (0, 3)}
    assert outcomes(prepare, look) == every


def test_a_torn_write_is_torn_at_sectors():
    """F05: a prefix of the sectors, or any subset of them."""

    def prepare(machine):
        file = machine.durable_file("a", b"-" * 4 * SECTOR_SIZE)
        file.write_at(100, b"x" * (3 * SECTOR_SIZE))

    found = outcomes(prepare, lambda root: read_file(root, "a"))
    bounds = [100, 512, 1024, 1536, 1636]
    for content in found:
        for start, stop in itertools.pairwise(bounds):
            assert len(set(content[start:stop])) == 1
    assert len(found) > 6


def test_a_file_may_have_grown_without_its_data():
    def prepare(machine):
        machine.durable_file("a", b"").write_at(0, b"x" * 100)

    found = outcomes(prepare, lambda root: read_file(root, "a"))
    assert found == {b"", bytes(100), b"x" * 100}


def test_the_death_of_the_process_alone_loses_nothing_of_files():
    machine = Machine()
    file = machine.root.open("a", create=True)
    file.write_at(0, b"written")
    machine.root.lock("LOCK")
    machine.boot.alive = False
    machine.disk.kill(Random(1))
    root = SimulatedDisks(machine.disk, Boot("a")).directory("/d")
    assert read_file(root, "a") == b"written"
    root.lock("LOCK").close()


def test_a_dead_process_reaches_the_disk_no_more():
    machine = Machine()
    file, root = machine.durable_file("a", b"abc"), machine.root
    machine.crash(1)
    for act in (
        lambda: file.write_at(0, b"x"),
        lambda: file.sync(),
        lambda: file.read_at(0, 1),
        lambda: root.open("b", create=True),
        lambda: root.names(),
        lambda: root.sync(),
        lambda: root.space(),
    ):
        with pytest.raises(OSError):
            act()
    assert read_file(machine.root, "a") == b"abc"


def test_one_seed_crashes_in_one_way():
    def prepare(machine):
        file = machine.durable_file("a", b"")
        for number in range(50):
            file.write_at(number * 700, bytes((number,)) * 900)

    contents = set()
    for _ in range(2):
        machine = Machine()
        prepare(machine)
        contents.add(read_file(machine.crash(7), "a"))
    assert len(contents) == 1


def test_the_nth_call_fails_and_only_it():
    """F11: EIO of fdatasync, once."""
    machine = Machine()
    file = machine.durable_file("a", b"")
    machine.disk.inject(DiskFault("*/a", "sync", nth=3))
    other = machine.durable_file("other", b"")
    results = []
    for _ in range(5):
        other.sync()
        try:
            file.sync()
        except OSError as error:
            results.append(error.errno)
        else:
            results.append(0)
    assert results == [0, 0, errno.EIO, 0, 0]


@pytest.mark.parametrize("operation", ["read", "write", "sync", "name"])
def test_faults_strike_their_operation_until_healed(operation):
    """F10, F11."""
    machine = Machine()
    file = machine.durable_file("a", b"abc")
    machine.disk.inject(DiskFault("/d*", operation, count=None, error=errno.ENXIO))
    acts = {
        "read": lambda: file.read_at(0, 1),
        "write": lambda: file.write_at(0, b"x"),
        "sync": lambda: machine.root.sync(),
        "name": lambda: machine.root.rename("a", "b"),
    }
    for name, act in acts.items():
        if name == operation:
            for _ in range(2):
                with pytest.raises(OSError) as error:
                    act()
                assert error.value.errno == errno.ENXIO
        elif name != "name":
            act()
    machine.disk.heal()
    acts[operation]()


def test_a_full_disk_refuses_what_grows_and_goes_on_when_there_is_room():
    """F09: ENOSPC, and recovery without restart."""
    machine = Machine()
    machine.disk.capacity = MiB
    ballast = machine.root.open("ballast", create=True)
    ballast.allocate(768 * KiB)
    file = machine.root.open("file", create=True)
    with pytest.raises(OSError) as error:
        file.allocate(512 * KiB)
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(OSError):
        file.write_at(0, bytes(512 * KiB))
    ballast.write_at(0, bytes(768 * KiB))  # What was preallocated can be written.
    assert machine.root.space().free == 256 * KiB
    machine.root.remove("ballast")
    file.write_at(0, bytes(512 * KiB))
    assert machine.root.space().free == 512 * KiB


def test_a_punched_hole_is_free_space():
    machine = Machine()
    file = machine.root.open("file", create=True)
    file.write_at(0, b"x" * MiB)
    used = machine.disk.used()
    file.punch(0, MiB // 2)
    assert machine.disk.used() == used - MiB // 2
    assert file.read_at(0, MiB) == bytes(MiB // 2) + b"x" * (MiB // 2)


def test_a_flipped_bit_stays_flipped_through_a_crash():
    """F06: bit rot."""
    machine = Machine()
    machine.durable_file("a", b"abc")
    machine.disk.flip_bit("/d/a", offset=1, bit=0)
    assert read_file(machine.root, "a") == b"acc"
    assert read_file(machine.crash(1), "a") == b"acc"
    assert machine.disk.paths("*/a") == ["/d/a"]


def test_a_half_removed_folder_may_be_found_after_a_crash():
    def prepare(machine):
        inner = machine.root.folder("inner", create=True)
        machine.root.sync()
        for name in ("a", "b"):
            write_file_atomically(inner, name, b"x")
        machine.root.remove_folder("inner")

    def look(root):
        if not root.exists("inner"):
            return None
        return tuple(root.folder("inner").names())

    assert outcomes(prepare, look) == {None, (), ("a",), ("b",), ("a", "b")}


CHANGES = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"), st.integers(0, 3000), st.binary(min_size=1, max_size=1500)
        ),
        st.tuples(st.just("truncate"), st.integers(0, 3000)),
        st.tuples(st.just("sync")),
    ),
    max_size=15,
)


@pytest.mark.slow
@given(CHANGES, st.integers(0, 1000))
def test_bytes_that_no_unsynced_change_touched_are_those_of_the_last_sync(changes, seed):
    machine = Machine()
    file = machine.durable_file("a", b"")
    durable, touched, cut = b"", set(), 10_000
    for change in changes:
        match change:
            case ("write", offset, data):
                file.write_at(offset, data)
                touched |= set(range(offset, offset + len(data)))
            case ("truncate", size):
                file.truncate(size)
                cut = min(cut, size)
            case ("sync",):
                file.sync()
                durable, touched, cut = file.read_at(0, 10_000), set(), 10_000
    left = read_file(machine.crash(seed), "a")
    for offset in set(range(min(len(durable), cut))) - touched:
        assert left[offset] == durable[offset]
