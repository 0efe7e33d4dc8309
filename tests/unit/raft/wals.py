"""A write-ahead log on a simulated disk, driven without an event loop."""

from random import Random

import attrs

from objstore.ids import NodeId
from objstore.raft.hard_state import HardState
from objstore.raft.recovery import entry_record, hard_state_record
from objstore.raft.state_machine import Entry, EntryKind
from objstore.raft.wal import Recovered, Wal
from objstore.raft.wal_format import Record
from objstore.testing.boot import Boot
from objstore.testing.disk import SimulatedDisk, SimulatedDisks
from objstore.testing.entropy import SimulatedEntropy
from objstore.testing.threads import SimulatedThreads

A = NodeId("a" * 16)
FOLDER = "/data/wal"
SEGMENT_SIZE = 32 * 1024


def entry(group: int, index: int, *, term: int = 1, size: int = 30) -> Record:
    data = bytes((group * 31 + index + term) % 251 for _ in range(size))
    return entry_record(group, Entry(index, term, EntryKind.COMMAND, data))


def state(group: int, term: int, *, vote: NodeId | None = A, floor: int = 0) -> Record:
    return hard_state_record(group, HardState(term, vote), floor=floor)


@attrs.define
class Machine:
    """A computer with one log; `start` begins it, `crash` and `kill` end it."""

    disk: SimulatedDisk = attrs.field(factory=SimulatedDisk)
    segment_size: int = SEGMENT_SIZE
    name: str = "host"
    boots: int = 0
    wal: Wal = attrs.field(init=False)

    def start(self) -> Recovered:
        self._build()
        return self.wal._open()

    async def open(self) -> Recovered:
        """As a driver does; only then is there a `wal.write`."""
        self._build()
        return await self.wal.open()

    def _build(self) -> None:
        self.boots += 1
        disks = SimulatedDisks(self.disk, Boot(f"host-{self.boots}"))
        self.wal = Wal(
            directory=disks.directory(FOLDER, create=True),
            threads=SimulatedThreads(self.disk),
            entropy=SimulatedEntropy(f"{self.name}-{self.boots}"),
            segment_size=self.segment_size,
        )

    def write(self, *records: Record) -> None:
        self.wal._write(records)

    def crash(self, seed: int) -> None:
        self.disk.crash(Random(seed))

    def segments(self) -> list[str]:
        return self.disk.paths("*/segment-*")


def indexes(recovered: Recovered, group: int) -> list[int]:
    """The readable entries of a group."""
    found = recovered.groups.get(group)
    if found is None:
        return []
    return sorted(index for index, entry in found.entries.items() if entry is not None)
