"""File systems of their own, to lose power, fill up and rot: loop images, and tmpfs.

    with volumes.mounted(Volume(folder / "image", folder / "data", "ext4")) as volume:
        ...
        volume.lose_power()     what was not synced is gone; everything answers EIO
        (kill who works on it)
        volume.remount()        the journal is replayed, as after a real power cut

Losing power is FS_IOC_SHUTDOWN without a flush of the journal (F03): the file system stops
at once, and its image keeps what had been synced, and a little of what had not.  It needs
root, loop devices and the mkfs of the kind; `reason_without` says what is missing.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import attrs

Kind = Literal["ext4", "xfs", "tmpfs"]

MiB = 1024 * 1024
_FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2
_CLONE_NEWNS = 0x00020000
_MAKE = {"ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"], "xfs": ["mkfs.xfs", "-q", "-f"]}


@attrs.define
class Volume:
    """One file system, mounted on a folder."""

    image: Path  # Of tmpfs: not used.
    point: Path
    kind: Kind = "ext4"
    size: int = 400 * MiB

    def make(self) -> None:
        self.point.mkdir(parents=True, exist_ok=True)
        if self.kind != "tmpfs":
            with self.image.open("wb") as file:
                file.truncate(self.size)
            _run(*_MAKE[self.kind], str(self.image))
        self.mount()
        self.point.chmod(0o700)

    def mount(self) -> None:
        if self.kind == "tmpfs":
            _run("mount", "-t", "tmpfs", "-o", f"size={self.size}", "none", str(self.point))
        else:
            _run("mount", "-o", "loop", str(self.image), str(self.point))

    def unmount(self) -> None:
        """Once nobody has a file open any more: a killed process takes a moment."""
        for _ in range(100):
            done = subprocess.run(
                ["umount", str(self.point)], capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                return
            time.sleep(0.05)
        raise OSError(done.stderr)

    def remount(self) -> None:
        self.unmount()
        self.mount()

    def lose_power(self) -> None:
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    @property
    def free(self) -> int:
        status = os.statvfs(self.point)
        return status.f_bavail * status.f_frsize

    def fill(self, *, leave: int, name: str = "ballast") -> Path:
        """Take all but `leave` bytes; returns the file to remove afterwards."""
        ballast = self.point / name
        with ballast.open("ab") as file:
            size = file.tell() + max(0, self.free - leave)
            os.posix_fallocate(file.fileno(), 0, max(1, size))
        return ballast


@contextmanager
def mounted(*volumes: Volume) -> Iterator[None]:
    """Make and mount them; at the end they are gone, whatever happened meanwhile."""
    _enter_own_namespace()
    with ExitStack() as stack:
        for volume in volumes:
            stack.callback(_take_away, volume)
            volume.make()
        yield


def _take_away(volume: Volume) -> None:
    # Not asking whether it is mounted: one without power answers nothing.
    subprocess.run(["umount", "-l", volume.point], capture_output=True, check=False)
    volume.image.unlink(missing_ok=True)


@cache
def _enter_own_namespace() -> None:
    """Mount where only this process and its children see it.

    A copy of a mount in somebody else's namespace (`ip netns exec` makes one of each) would
    keep the file system alive behind our `umount`, and without power for ever.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _run("mount", "--make-rprivate", "/")


@cache
def reason_without(kind: Kind) -> str | None:
    """Why this machine cannot have such a volume; None where it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if kind != "tmpfs" and shutil.which(_MAKE[kind][0]) is None:
        return f"{_MAKE[kind][0]} is not installed"
    with tempfile.TemporaryDirectory() as folder:
        volume = Volume(Path(folder) / "image", Path(folder) / "point", kind)
        try:
            with mounted(volume):
                return None
        except (OSError, subprocess.CalledProcessError) as error:
            return f"{kind} cannot be mounted here: {error}"


def _run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)
