"""What the kernel tells of the nodes' processes: CPU, memory, bytes to the disk."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_S = 0.05
_SECTOR = 512


def cpu_ms(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / _TICKS


@attrs.frozen
class Memory:
    """Resident memory of one process, in bytes."""

    total: int  # With the pages of files, which others share.
    anonymous: int  # Its own.


def memory(pid: int) -> Memory:
    return parse_memory(Path(f"/proc/{pid}/status").read_text())


def parse_memory(status: str) -> Memory:
    """Of the text of /proc/PID/status."""
    sizes = {"VmRSS": 0, "RssAnon": 0}
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in sizes:
            sizes[name] = int(value.split()[0]) * 1024
    return Memory(sizes["VmRSS"], sizes["RssAnon"])


def written(folder: str) -> int:
    """Bytes written so far to the device that holds `folder`, by anybody.

    Not the processes' write_bytes: that counts whole large folios of the page cache where
    a part was dirtied, thirty times what reaches the device.
    """
    device = Path(folder).stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(stat.read_text().split()[6]) * _SECTOR if stat.exists() else 0


class MemoryPeaks:
    """Samples memory while it is entered; then says the peaks."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peaks = [memory(pid) for pid in pids]  # Each of its own moment.
        self.peak_of_all = sum(each.total for each in self.peaks)  # Of one moment.

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._take()

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self._take()

    def _take(self) -> None:
        try:
            now = [memory(pid) for pid in self._pids]
        except OSError:  # A node died: its operations fail, and that is said.
            return
        self.peak_of_all = max(self.peak_of_all, sum(each.total for each in now))
        self.peaks = [
            Memory(max(a.total, b.total), max(a.anonymous, b.anonymous))
            for a, b in zip(self.peaks, now, strict=True)
        ]
