"""Files and folders, as plain blocking calls.

Blocking on purpose: a caller runs what may be slow through `host.threads`, so that one
writer can do a write and its sync in one hop.  A `DirectFile`, for a log, needs none.
`real_disk` implements the protocols on the operating system, `objstore.testing.disk` on
memory, where a crash keeps only what was synced (and, by seed, some of what was not).

What survives a crash: bytes written before a `sync` that returned; a name (create,
rename, remove) once its directory's `sync` returned.  An OSError from `write_at`,
`sync` or `allocate` means the file must not be trusted or synced again: the caller
fences the drive or ends the process (FAULTS 1.2); nobody retries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from objstore.buffer import Buffer

DIRECT_BLOCK_SIZE = 4096  # What a direct file is written in.


@attrs.frozen
class Space:
    """Room on the file system a folder lies on, in bytes."""

    total: int
    free: int  # What this process may still use.


class File(Protocol):
    """An open file, by offsets; there is no position.  Not closed twice."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        ...

    def read_now(self, offset: int, size: int) -> Buffer | None:
        """The same without waiting for the drive: what memory has of the file; or None.

        Cheap enough for the event loop.  Never raises: what is wrong, `read_at` will say.
        Only for what is likely there: of what is not, the system begins to read all that
        was asked for and more behind it, which nobody may want.
        """
        ...

    def read_past(self, offset: int, size: int) -> Buffer:
        """As `read_at`; of a file opened `direct`, the page cache keeps nothing of it."""
        ...

    def begin_read(self, offset: int, size: int) -> BegunRead | None:
        """Begin a `read_past` that needs no thread; None: this one needs one.

        On the event loop only, as the other two that begin.
        """
        ...

    def begin_write(
        self, offset: int, data: Sequence[Buffer], *, sync: bool
    ) -> BegunWrite | None:
        """Begin a `write_at` that needs no thread; None: this one needs one.

        sync: what is written survives a crash once it is done.  Of other writes that says
            nothing.
        """
        ...

    def begin_sync(self) -> BegunWrite | None:
        """Begin a `sync` that needs no thread; None: this one needs one."""
        ...

    def write_at(self, offset: int, data: Buffer | Sequence[Buffer]) -> None:
        """Write all of `data` (one buffer, or several in a row); extends the file."""
        ...

    def sync(self) -> None:
        """fdatasync: what was written, and the size, survive a crash."""
        ...

    def allocate(self, size: int, *, zeros: bool = False) -> None:
        """Make the file `size` bytes long with its space reserved; never shortens it.

        With `zeros` the bytes are really written, so that a later sync of an overwrite
        need not change extents (SPEED: halves the cost of fdatasync).
        """
        ...

    def truncate(self, size: int) -> None: ...

    def punch(self, offset: int, size: int) -> None:
        """Give the space of a range back; it reads as zeros.  May do nothing."""
        ...

    def close(self) -> None: ...


class BegunRead(Protocol):
    """A read that the system works on."""

    def now(self) -> Buffer | None:
        """The bytes, where they have come already: all that were asked for."""
        ...

    async def wait(self) -> Buffer | None:
        """The bytes, all that were asked for; None: they are to be read on a thread.

        None also where something is wrong: the thread will say what.  If cancelled, it
        may be waited for again, or be forgotten.
        """
        ...


class BegunWrite(Protocol):
    """A write or a sync that the system works on.  To be waited for, once."""

    async def wait(self) -> bool:
        """Whether it was done; False: it is to be done on a thread.

        Raises OSError where it failed.  Not cancelled: it waits for the end, and the next
        checkpoint will tell.
        """
        ...


class DirectFile(Protocol):
    """A file of full size, overwritten past the page cache, without a thread."""

    async def write(self, offset: int, data: Buffer) -> None:
        """Overwrite whole blocks; they are durable when this returns.

        One at a time.  Not cancelled once begun: on cancellation it waits for the end,
        then raises Cancelled, or OSError where it failed.  Large data may survive a crash
        in part.
        """
        ...

    def close(self) -> None: ...


class Directory(Protocol):
    """A folder.  Names are single path components; others raise ValueError."""

    @property
    def path(self) -> str:
        """What to show a person."""
        ...

    def names(self) -> list[str]: ...

    def exists(self, name: str) -> bool: ...

    def open(
        self, name: str, *, create: bool = False, write: bool = True, direct: bool = False
    ) -> File:
        """Open a file.  Raises FileNotFoundError; with `create`, FileExistsError.

        A file opened without `write` refuses to be written, with an OSError.
        direct: whole pages are written past the system's page cache, where that can be.
        """
        ...

    def open_direct(self, name: str) -> DirectFile | None:
        """Open a file for durable writes without a thread; None: use `open` and a thread.

        Its blocks must have been written before.
        """
        ...

    def folder(self, name: str, *, create: bool = False) -> Directory:
        """A sub-folder; with `create` made if it is missing.

        Raises FileNotFoundError, NotADirectoryError.
        """
        ...

    def rename(self, source: str, target: str) -> None:
        """Atomic; replaces `target`.  Durable after `sync`."""
        ...

    def remove(self, name: str) -> None: ...

    def remove_folder(self, name: str) -> None:
        """Remove a sub-folder with all that is in it."""
        ...

    def sync(self) -> None: ...

    def space(self) -> Space: ...

    def lock(self, name: str) -> File:
        """Take the lock file `name` for this process until it is closed or dies.

        Raises BlockingIOError if another process has it.
        """
        ...


def check_name(name: str) -> str:
    """Return `name` if it is a single path component; raises ValueError if not."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a single file name")
    return name


def write_file_atomically(directory: Directory, name: str, data: bytes) -> None:
    """Replace file `name` by `data`, durably: after a crash it is the old or the new."""
    temporary = f"{name}.new"
    if directory.exists(temporary):
        directory.remove(temporary)
    file = directory.open(temporary, create=True)
    try:
        file.write_at(0, data)
        file.sync()
    finally:
        file.close()
    directory.rename(temporary, name)
    directory.sync()


def read_file(directory: Directory, name: str) -> bytes:
    """All of a small file.  Raises FileNotFoundError."""
    file = directory.open(name, write=False)
    try:
        return file.read_at(0, file.size)
    finally:
        file.close()
