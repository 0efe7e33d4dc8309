"""Files and folders of the operating system.

    protocol          here
    read_at           pread, until the size or the end of the file
    read_now          preadv2(RWF_NOWAIT): what the page cache has
    read_past         preadv on O_DIRECT, of the pages around what is wanted
    begin_read ...    io_submit on O_DIRECT, of whole pages: see `real_aio`
    write_at          pwritev, until all is written (IOV_MAX buffers a call); whole pages on
                      O_DIRECT, of a file opened `direct`
    sync              fdatasync; fsync for a folder
    allocate          posix_fallocate, then zeros in pieces of a MiB where asked for
    punch             fallocate(PUNCH_HOLE | KEEP_SIZE); nothing where it is not supported
    open_direct       see `real_direct`
    lock              flock(LOCK_EX | LOCK_NB) on a file of its own

Why past the page cache: bytes that are written once and synced at once gain nothing from
it, and pay for a copy and for its pages; where those are new to the machine, as much as for
all else together (docs/internals/cost.md).  A file system without O_DIRECT does without.

Folders are made 0700 and files 0600: what lies here is other people's data.  Names are
checked to be single components, so no name can lead out of its folder.  Everything here
blocks, and is safe to call from any thread; two calls on one file may run at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Sequence

import attrs

from objstore.buffer import Buffer
from objstore.host import real_aio
from objstore.host.buffers import ALIGNMENT, POOL
from objstore.host.disk import Directory, Space, check_name
from objstore.host.real_aio import SECTOR_SIZE
from objstore.host.real_direct import RealDirectFile, open_direct
from objstore.host.rocks_kv import RocksStore
from objstore.units import MiB

FOLDER_MODE = 0o700
FILE_MODE = 0o600

_BUFFERS_MAX = 1024  # IOV_MAX of Linux: more buffers in one pwritev are refused.
_ZEROS = bytes(MiB)
# A file system without O_DIRECT, or a drive that wants its bytes to lie otherwise.
_NO_DIRECT = {errno.EINVAL, errno.EOPNOTSUPP}
# What the kernel says where it would have to wait, or cannot at all.
_NOT_BEGUN = {-errno.EAGAIN, *(-number for number in _NO_DIRECT)}
# Where it said so, so many times more are left to threads before it is asked again.
_PAUSE_MAX = 256
_EXT4_PRECACHE_EXTENTS = 0x6612  # EXT4_IOC_PRECACHE_EXTENTS, _IO('f', 18)
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_NOT_SUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS}


@attrs.define(eq=False)
class _Pause:
    """Whether it pays to ask for asynchronous work on a file."""

    left: int = 0  # So many times it does not.
    next: int = 1

    def is_over(self) -> bool:
        if self.left:
            self.left -= 1
            return False
        return True

    def begin(self) -> None:
        self.left = self.next
        self.next = min(2 * self.next, _PAUSE_MAX)

    def forget(self) -> None:
        self.next = 1


@attrs.define(eq=False)
class _BegunRead:
    _operation: real_aio.Operation
    _view: memoryview
    _skipped: int  # Bytes of the first page before what is wanted.
    _size: int
    _pause: _Pause

    def now(self) -> Buffer | None:
        return self._bytes(self._operation.result or 0)

    async def wait(self) -> Buffer | None:
        count = await self._operation.wait()
        if count in _NOT_BEGUN:
            self._pause.begin()
        return self._bytes(count)

    def _bytes(self, count: int) -> Buffer | None:
        if count < self._skipped + self._size:
            return None
        self._pause.forget()
        return self._view[self._skipped : self._skipped + self._size]


@attrs.define(eq=False)
class _BegunWrite:
    _operation: real_aio.Operation
    _size: int
    _pause: _Pause

    async def wait(self) -> bool:
        count = await self._operation.wait_to_end()
        if count == self._size:
            self._pause.forget()
        elif count < 0 and count not in _NOT_BEGUN:
            raise OSError(-count, os.strerror(-count))
        else:  # Or in part, up to where it would have had to wait.
            self._pause.begin()
        return count == self._size


@attrs.define(eq=False)
class RealFile:
    """An open file descriptor."""

    _descriptor: int  # -1 once closed.
    _direct: int = -1  # The same file on O_DIRECT; -1: not asked for, or not to be had.
    _pause: _Pause = attrs.field(factory=_Pause)

    def set_direct(self, descriptor: int) -> None:
        """Use `descriptor` for whole pages: the same file, opened with O_DIRECT."""
        self._direct = descriptor

    def load_map(self) -> None:
        """Have the map of the file's blocks in memory, where the file system can.

        For what is begun on the event loop: ext4 reads a part of the map that is not in
        memory there and then, whatever RWF_NOWAIT says, and a drive may hang.
        """
        with contextlib.suppress(OSError):  # Not ext4; or the read will say what it is.
            fcntl.ioctl(self._descriptor, _EXT4_PRECACHE_EXTENTS)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size or not data:
            return data
        # A signal, or Linux's limit of 2 GiB a call, may cut a read short of the end.
        pieces = [data]
        missing = size - len(data)
        while missing and (
            piece := os.pread(self._descriptor, missing, offset + size - missing)
        ):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def read_now(self, offset: int, size: int) -> Buffer | None:
        view = POOL.take(size)
        try:
            count = os.preadv(self._descriptor, (view,), offset, os.RWF_NOWAIT)
        except OSError:  # Not in memory, or no file system that can tell.
            return None
        return view if count == size else None

    def read_past(self, offset: int, size: int) -> Buffer:
        start = offset - offset % ALIGNMENT
        end = -(-(offset + size) // ALIGNMENT) * ALIGNMENT
        if self._direct < 0:
            return self.read_at(offset, size)
        view = POOL.take(end - start)
        try:
            count = os.preadv(self._direct, (view,), start)
        except OSError as error:
            if error.errno not in _NO_DIRECT:
                raise
            return self.read_at(offset, size)
        if count < offset - start + size:  # The end of the file, most likely.
            return self.read_at(offset, size)
        return view[offset - start : offset - start + size]

    def begin_read(self, offset: int, size: int) -> _BegunRead | None:
        if self._direct < 0 or not self._pause.is_over():
            return None
        start = offset - offset % ALIGNMENT
        view = POOL.take(-(-(offset + size) // ALIGNMENT) * ALIGNMENT - start)
        operation = real_aio.begin(
            real_aio.PREADV,
            self._direct,
            offset=start,
            buffers=(view,),
            flags=real_aio.RWF_NOWAIT,
        )
        if operation is None:
            return None
        return _BegunRead(operation, view, offset - start, size, self._pause)

    def begin_write(
        self, offset: int, data: Sequence[Buffer], *, sync: bool
    ) -> _BegunWrite | None:
        size = sum(map(len, data))
        if self._direct < 0 or not size or (size | offset) % ALIGNMENT:
            return None
        if not self._pause.is_over():
            return None
        if not all(map(real_aio.is_aligned, data)):
            data = (_joined(data, size),)
        operation = real_aio.begin(
            real_aio.PWRITEV,
            self._direct,
            offset=offset,
            buffers=data,
            flags=real_aio.RWF_NOWAIT | (real_aio.RWF_DSYNC if sync else 0),
        )
        return None if operation is None else _BegunWrite(operation, size, self._pause)

    def begin_sync(self) -> _BegunWrite | None:
        if self._direct < 0:
            return None
        operation = real_aio.begin(real_aio.FDSYNC, self._direct)
        return None if operation is None else _BegunWrite(operation, 0, self._pause)

    def write_at(self, offset: int, data: Buffer | Sequence[Buffer]) -> None:
        pieces: Sequence[Buffer] = (data,) if isinstance(data, Buffer) else data
        if self._direct >= 0:
            size = sum(map(len, pieces))
            if size and not (size | offset) % ALIGNMENT:
                self._write_past(offset, pieces, size)
                return
        for first in range(0, len(pieces), _BUFFERS_MAX):
            offset = self._write_all(offset, pieces[first : first + _BUFFERS_MAX])

    def sync(self) -> None:
        if self._descriptor < 0:  # Of which fdatasync says ValueError.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        os.fdatasync(self._descriptor)

    def allocate(self, size: int, *, zeros: bool = False) -> None:
        start = self.size
        if size <= start:
            return
        # First, so that a full disk is found before an hour of zeros is written.
        os.posix_fallocate(self._descriptor, 0, size)
        if zeros:
            for offset in range(start, size, len(_ZEROS)):
                piece = memoryview(_ZEROS)[: size - offset]
                self._write_all(offset, (piece,))

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def punch(self, offset: int, size: int) -> None:
        assert offset >= 0
        assert size >= 0
        if size:
            _punch_hole(self._descriptor, offset, size)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        direct, self._direct = self._direct, -1
        os.close(descriptor)
        if direct >= 0:
            os.close(direct)

    def _write_past(self, offset: int, pieces: Sequence[Buffer], size: int) -> None:
        """Write whole pages on O_DIRECT, by way of a copy where they lie badly."""
        written = -1
        if len(pieces) <= _BUFFERS_MAX and not any(len(it) % SECTOR_SIZE for it in pieces):
            written = self._try_past(offset, pieces)
        if written < 0:
            pieces = (_joined(pieces, size),)
            written = self._try_past(offset, pieces)
        if written < size:  # Not to be had, or a signal: the rest goes the usual way.
            written = max(0, written)
            rest = b"".join(pieces)[written:]
            self._write_all(offset + written, (rest,))

    def _try_past(self, offset: int, pieces: Sequence[Buffer]) -> int:
        """Bytes written; -1 where the drive cannot take them from where they lie."""
        try:
            return os.pwritev(self._direct, pieces, offset)
        except OSError as error:
            if error.errno not in _NO_DIRECT:
                raise
            return -1

    def _write_all(self, offset: int, buffers: Sequence[Buffer]) -> int:
        """Write them in a row; returns the offset behind them."""
        size = sum(memoryview(buffer).nbytes for buffer in buffers)
        written = os.pwritev(self._descriptor, buffers, offset) if size else 0
        if written < size:  # Rare enough that a copy of the rest is fine.
            rest = memoryview(b"".join(buffers))[written:]
            while rest:
                count = os.pwrite(self._descriptor, rest, offset + size - len(rest))
                if count == 0:
                    raise OSError(errno.EIO, "the file system wrote nothing")
                rest = rest[count:]
        return offset + size


def _joined(pieces: Sequence[Buffer], size: int) -> memoryview:
    """The same bytes where a drive can take them from."""
    whole = POOL.take(size)
    at = 0
    for piece in pieces:
        whole[at : at + len(piece)] = piece
        at += len(piece)
    return whole


@attrs.frozen
class RealDirectory:
    """A folder, by its absolute path."""

    path: str

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def exists(self, name: str) -> bool:
        return os.path.lexists(self._join(name))

    def open(
        self, name: str, *, create: bool = False, write: bool = True, direct: bool = False
    ) -> RealFile:
        flags = os.O_CLOEXEC | (os.O_RDWR if write or create else os.O_RDONLY)
        first = flags | (os.O_CREAT | os.O_EXCL if create else 0)
        file = RealFile(os.open(self._join(name), first, FILE_MODE))
        if direct:
            try:
                file.set_direct(os.open(self._join(name), flags | os.O_DIRECT))
            except OSError as error:
                if error.errno not in _NO_DIRECT:
                    file.close()
                    raise
            file.load_map()
        return file

    def open_direct(self, name: str) -> RealDirectFile | None:
        return open_direct(self._join(name))

    def folder(self, name: str, *, create: bool = False) -> RealDirectory:
        path = self._join(name)
        if create and not os.path.lexists(path):
            os.mkdir(path, FOLDER_MODE)
        return _existing(path)

    def rename(self, source: str, target: str) -> None:
        os.rename(self._join(source), self._join(target))

    def remove(self, name: str) -> None:
        os.unlink(self._join(name))

    def remove_folder(self, name: str) -> None:
        shutil.rmtree(self._join(name))

    def sync(self) -> None:
        _sync_folder(self.path)

    def space(self) -> Space:
        status = os.statvfs(self.path)
        return Space(
            total=status.f_blocks * status.f_frsize, free=status.f_bavail * status.f_frsize
        )

    def lock(self, name: str) -> RealFile:
        flags = os.O_CLOEXEC | os.O_RDWR | os.O_CREAT
        descriptor = os.open(self._join(name), flags, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return RealFile(descriptor)

    def _join(self, name: str) -> str:
        return os.path.join(self.path, check_name(name))


class RealDisks:
    """The machine's own file systems."""

    def directory(self, path: str, *, create: bool = False) -> RealDirectory:
        path = os.path.abspath(path)
        if create:
            _make_folders(path)
        return _existing(path)

    def key_value_store(self, directory: Directory, name: str) -> RocksStore:
        assert isinstance(directory, RealDirectory)
        created = not directory.exists(name)
        folder = directory.folder(name, create=True)
        if created:
            directory.sync()
        return RocksStore.open(folder.path)


def _existing(path: str) -> RealDirectory:
    """The folder at `path`; raises what is wrong with it."""
    os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    return RealDirectory(path)


def _make_folders(path: str) -> None:
    """Make `path` and what is missing above it, durably: nobody else syncs the parents."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_folders(parent)
    try:
        os.mkdir(path, FOLDER_MODE)
    except FileExistsError:
        # Asked in this way, as a disk that is broken should be heard of.
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", path) from None
        return
    _sync_folder(parent)


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load_fallocate() -> ctypes._NamedFuncPointer | None:
    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if function is not None:
        offset = ctypes.c_int64
        function.argtypes = (ctypes.c_int, ctypes.c_int, offset, offset)
        function.restype = ctypes.c_int
    return function


_fallocate = _load_fallocate()


def _punch_hole(descriptor: int, offset: int, size: int) -> None:
    """Give the range back; nothing happens where system or file system cannot."""
    if _fallocate is None:
        return
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if _fallocate(descriptor, mode, offset, size) == 0:
        return
    code = ctypes.get_errno()
    if code not in _NOT_SUPPORTED:
        raise OSError(code, os.strerror(code))
