"""System calls that fail or take long, in the processes of a cluster under test.

    shim = build(tmp_path)
    with running_cluster(..., environment=shim.environment): ...
        shim.set(Fault("sync", "*/node2/data/wal/*", errno.EIO, count=1))
        shim.strikes()      what has been hit so far

The library is compiled from `shim.c` where it is used; without a compiler those tests skip.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Literal

import attrs
import pytest

_SOURCE = Path(__file__).parent / "shim.c"
_SIZE = 65_536  # As in shim.c.


@attrs.frozen
class Fault:
    operation: Literal["read", "write", "sync"]
    path: str  # A glob over absolute paths, without blanks.
    error: int = 0  # errno; 0: the call succeeds, late.
    first: int = 1  # Of the matching calls of each process, counted from `set` on.
    count: int = 0  # How many of them; 0: all.
    delay_ms: int = 0

    def line(self) -> str:
        return (
            f"{self.operation} {self.path} {self.error} {self.first} {self.count}"
            f" {self.delay_ms}\n"
        )


@attrs.frozen
class Strike:
    pid: int
    operation: str
    error: int
    path: str


@attrs.define
class Shim:
    library: Path
    control: Path
    _generation: int = 0

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "OBJSTORE_TEST_SHIM": str(self.control)}

    def set(self, *faults: Fault) -> None:
        """These faults, and no others, from now on."""
        text = "".join(fault.line() for fault in faults).encode() + b"\0"
        self._generation += 1
        with self.control.open("r+b") as file, mmap.mmap(file.fileno(), _SIZE) as memory:
            memory[8 : 8 + len(text)] = text
            memory[:8] = struct.pack("<Q", self._generation)

    def strikes(self) -> list[Strike]:
        log = self.control.with_name(self.control.name + ".log")
        if not log.exists():
            return []
        fields = [line.split(" ", 3) for line in log.read_text().splitlines()]
        return [Strike(int(pid), op, int(error), path) for pid, op, error, path in fields]


def build(folder: Path) -> Shim:
    """Compile it; the test is skipped where that cannot be done."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler is needed for faults of system calls")
    library, control = folder / "shim.so", folder / "faults"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl", "-lpthread"],
        check=True, capture_output=True,
    )  # fmt: skip
    control.write_bytes(bytes(_SIZE))
    return Shim(library, control)
