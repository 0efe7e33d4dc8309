from __future__ import annotations

import errno
from random import Random

import pytest

from objstore.errors import CorruptData
from objstore.testing.boot import Boot
from objstore.testing.disk import DiskFault, SimulatedDisk, SimulatedDisks

LAST = b"\xff"


class Machine:
    def __init__(self):
        self.disk = SimulatedDisk()
        self.boot = Boot("a")
        self.open()

    def open(self):
        disks = SimulatedDisks(self.disk, self.boot)
        self.root = disks.directory("/d", create=True)
        self.store = disks.key_value_store(self.root, "store")
        return self.store

    def write(self, *rows):
        batch = self.store.batch()
        for key, value in rows:
            batch.put(key, value)
        self.store.write(batch)

    def crash(self, seed):
        self.boot.alive = False
        self.disk.crash(Random(seed))
        self.boot = Boot("a")
        return self.open()


def test_a_crash_keeps_what_was_flushed_and_a_prefix_of_the_rest():
    found = set()
    for seed in range(100):
        machine = Machine()
        for number in range(6):
            machine.write((b"row%d" % number, b""), (b"applied", b"%d" % number))
            if number == 2:
                machine.store.flush()
        store = machine.crash(seed)
        applied = int(store.get(b"applied"))
        rows = [key for key, _ in store.scan(b"row", LAST)]
        assert rows == [b"row%d" % number for number in range(applied + 1)]
        found.add(applied)
    assert found == {2, 3, 4, 5}


def test_the_death_of_the_process_alone_loses_what_was_in_memory():
    found = set()
    for seed in range(50):
        machine = Machine()
        machine.write((b"a", b""))
        machine.boot.alive = False
        machine.disk.kill(Random(seed))
        machine.boot = Boot("a")
        found.add(machine.open().get(b"a"))
    assert found == {None, b""}


def test_a_new_store_survives_without_a_sync_of_its_parent():
    for seed in range(20):
        machine = Machine()
        machine.store.flush()
        machine.crash(seed)
        assert machine.root.names() == ["store"]


def test_a_dead_process_writes_no_more():
    machine = Machine()
    old = machine.store
    machine.crash(1)
    batch = old.batch()
    batch.put(b"a", b"")
    with pytest.raises(OSError):
        old.write(batch)
    with pytest.raises(OSError):
        old.flush()
    assert machine.store.get(b"a") is None


@pytest.mark.parametrize(
    ("operation", "act"),
    [
        ("write", lambda machine: machine.write((b"a", b""))),
        ("sync", lambda machine: machine.store.flush()),
        ("read", lambda machine: machine.store.get(b"a")),
    ],
)
def test_its_folder_can_be_made_to_fail(operation, act):
    """F09, F10, F11."""
    machine = Machine()
    machine.disk.inject(DiskFault("*/store", operation, error=errno.ENOSPC))
    with pytest.raises(OSError) as error:
        act(machine)
    assert error.value.errno == errno.ENOSPC


def test_a_damaged_row_is_refused_by_get_and_scan_until_it_is_written_again():
    """F06: a block whose checksum is wrong."""
    machine = Machine()
    machine.write((b"a", b"1"), (b"b", b"2"))
    machine.disk.store("/d/store").damage(b"b")
    assert machine.store.get(b"a") == b"1"
    with pytest.raises(CorruptData):
        machine.store.get(b"b")
    with pytest.raises(CorruptData):
        list(machine.store.scan(b"", LAST))
    machine.write((b"b", b"3"))
    assert list(machine.store.scan(b"", LAST)) == [(b"a", b"1"), (b"b", b"3")]


def test_readers_that_are_dropped_cost_no_more():
    machine = Machine()
    machine.write((b"a", b"1"))
    scan, snapshot = machine.store.scan(b"", LAST), machine.store.snapshot()
    next(scan)
    state = machine.disk.store("/d/store")
    assert len(state.readers) == 2
    del scan, snapshot
    assert len(state.readers) == 0
