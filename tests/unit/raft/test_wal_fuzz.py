"""A log of arbitrary bytes: it is read, or refused, and never read wrongly (F05, F06, F32)."""

from __future__ import annotations

from contextlib import suppress
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from objstore.errors import CorruptData
from objstore.raft.recovery import restore
from objstore.raft.state_machine import Applied, Membership
from objstore.raft.wal import Recovered
from objstore.raft.wal_format import ALIGNMENT, DATA_OFFSET
from objstore.testing.boot import Boot
from objstore.testing.disk import SimulatedDisks
from tests.unit.raft.wals import FOLDER, SEGMENT_SIZE, Machine, entry, state

NOBODY = Applied(0, 0, Membership(()))
LAST = 14
# Mostly where records lie, sometimes anywhere.
OFFSETS = st.integers(0, SEGMENT_SIZE) | st.integers(DATA_OFFSET, DATA_OFFSET + 4096)
SCRIBBLES = st.lists(
    st.tuples(OFFSETS, st.binary(min_size=1, max_size=200)), min_size=1, max_size=4
)


def written() -> tuple[Machine, str]:
    """A log of two groups, and its one segment."""
    machine = Machine()
    machine.start()
    machine.write(state(1, 1), state(2, 1))
    for index in range(1, LAST + 1):
        machine.write(entry(1, index), entry(2, index, size=100))
    (segment,) = machine.segments()
    return machine, segment


def scribble(machine: Machine, path: str, changes: list[tuple[int, bytes]]) -> None:
    folder = SimulatedDisks(machine.disk, Boot("vandal")).directory(FOLDER)
    name = path.removeprefix(f"{FOLDER}/")
    file = folder.open(name, create=not folder.exists(name))
    for offset, data in changes:
        file.write_at(offset, data)
    file.sync()
    file.close()
    folder.sync()


def assert_true(recovered: Recovered) -> None:
    """What was read is what was written, and a group that lacks some does not vote."""
    for group in (1, 2):
        found = recovered.groups.get(group)
        if found is None:
            continue
        for index, read in found.entries.items():
            size = 30 if group == 1 else 100
            assert read is None or read.data == entry(group, index, size=size).payload
        with suppress(CorruptData):
            restore(found, NOBODY)


@settings(max_examples=150)
@given(SCRIBBLES, st.integers(0, 9))
@example([(DATA_OFFSET, b"OSWR" + bytes(100))], 0)
@example([(0, b"OSWL" + bytes(28)), (4096, b"OSWL" + bytes(28))], 0)
def test_a_log_that_was_scribbled_on_is_never_read_wrongly(
    changes: list[tuple[int, bytes]], seed: int
) -> None:
    machine, segment = written()
    scribble(machine, segment, changes)
    machine.crash(seed)
    try:
        recovered = machine.start()
    except CorruptData:
        return
    assert_true(recovered)
    machine.write(entry(1, LAST + 1))  # And it goes on.


@settings(max_examples=150)
@given(st.binary(max_size=600), st.integers(0, 3))
@example(b"\x15\r\x10ZA", 1)  # A header within a record that is damaged itself.
def test_records_moved_about_are_never_taken_for_others(junk: bytes, copies: int) -> None:
    """Pieces of the log itself, where they do not belong: their checksums are right."""
    machine, segment = written()
    chance = Random(junk)
    content = machine.disk.contents(segment)
    changes = []
    for _ in range(copies + 1):
        source = DATA_OFFSET + chance.randrange(4096) // ALIGNMENT * ALIGNMENT
        target = DATA_OFFSET + chance.randrange(4096) // ALIGNMENT * ALIGNMENT
        changes.append((target, content[source : source + chance.randrange(1, 500)]))
    scribble(machine, segment, [*changes, (DATA_OFFSET + 5000, junk)])
    try:
        recovered = machine.start()
    except CorruptData:
        return
    assert_true(recovered)


@settings(max_examples=100)
@given(st.binary(max_size=3000), st.booleans())
def test_a_file_of_arbitrary_bytes_is_no_segment(data: bytes, beside: bool) -> None:
    """Alone in the folder, or beside a log that is whole."""
    machine = written()[0] if beside else Machine()
    if not beside:
        SimulatedDisks(machine.disk, Boot("vandal")).directory(FOLDER, create=True)
    scribble(machine, f"{FOLDER}/segment-{7:016x}", [(0, data)])
    try:
        recovered = machine.start()
    except CorruptData:
        return
    assert_true(recovered)
