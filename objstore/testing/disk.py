"""A disk in memory that can crash, fail, fill up and rot.

    a file      what is there (reads see it); what is durable; the writes between the two
    a folder    likewise, with the names put, removed and renamed between the two

    sync        what is there becomes durable, nothing is between
    kill        the process died: all that was written to files stays; locks are free
    crash       the power failed: what is durable stays, and, by the given Random, some of
                what lies between, in any combination:
                - a write is lost, kept, or only its growth of the file is kept
                - the last kept write of a file is torn at sectors: a prefix of them, or
                  an arbitrary subset
                - a change of names is lost or kept; each is atomic, none is ordered

Crueller than a journalling file system, as the protocol promises less than one.  Faults
are injected by path and operation:

    disk.inject(DiskFault("*/wal/*", "sync", nth=3))     the third sync, and only it
    disk.inject(DiskFault("*", "read", count=None))      every read from now on
    disk.capacity = 64 * MiB                             ENOSPC beyond it
    disk.flip_bit("/data/segments/1", offset=4096)       bit rot, below any sync

Paths are absolute, of one host.  Not a line here is thread-safe: simulations have none.
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from random import Random
from typing import Literal

import attrs
import trio

from objstore.buffer import Buffer
from objstore.host.disk import (
    DIRECT_BLOCK_SIZE,
    Directory,
    Space,
    check_name,
)
from objstore.testing.boot import Boot
from objstore.testing.content import PAGE_SIZE, Content, pages_of
from objstore.testing.failure import os_error
from objstore.testing.kv import SimulatedStore, StoreState
from objstore.units import GiB, MiB

_TO_THREADS = 4  # One in so many calls is said to need a thread.
SECTOR_SIZE = 512  # What a drive writes whole or not at all.

DiskOperation = Literal["read", "write", "sync", "name"]
# `write` covers allocate, truncate and punch; `name` is making, renaming and removing.


@attrs.define(eq=False)
class DiskFault:
    """An error to come."""

    path: str  # A glob over the absolute path of the file, folder or store.
    operation: DiskOperation
    nth: int = 1  # The first call that fails, counted from the injection.
    count: int | None = 1  # How many fail; None: all from the nth on.
    error: int = errno.EIO
    _calls: int = attrs.field(default=0, init=False)

    def strikes(self, path: str, operation: DiskOperation) -> bool:
        """Whether the call at hand fails; counts it where it is one of ours."""
        if operation != self.operation or not fnmatchcase(path, self.path):
            return False
        self._calls += 1
        last = None if self.count is None else self.nth + self.count - 1
        return self._calls >= self.nth and (last is None or self._calls <= last)


# What lies between the durable and the present state.


@attrs.frozen
class _Write:
    offset: int
    data: bytes


@attrs.frozen
class _Resize:
    size: int


@attrs.frozen
class _Punch:
    offset: int
    size: int


@attrs.frozen
class _Put:
    name: str
    node: _Node


@attrs.frozen
class _Removed:
    name: str


@attrs.frozen
class _Renamed:
    source: str
    target: str


_FileChange = _Write | _Resize | _Punch
_NameChange = _Put | _Removed | _Renamed


@attrs.define(eq=False)
class _FileNode:
    """A file, whatever its names."""

    present: Content = attrs.field(factory=Content)
    durable: Content = attrs.field(factory=Content)
    changes: list[_FileChange] = attrs.field(factory=list)
    reserved: set[int] = attrs.field(factory=set)  # Pages that count as used.
    locked: bool = False

    def change(self, change: _FileChange) -> None:
        _carry_out(self.present, change)
        self.changes.append(change)

    def write_durably(self, write: _Write) -> None:
        """This write survives; what was written before it does not for that."""
        _carry_out(self.present, write)
        _carry_out(self.durable, write)

    def sync(self) -> None:
        self.durable = self.present.copy()
        self.changes.clear()

    def crash(self, random: Random) -> None:
        survivor = self.durable.copy()
        for change in _survivors(self.changes, random):
            _carry_out(survivor, change)
        self.present = survivor
        self.sync()
        self.reserved = set(pages_of(0, survivor.size))
        self.locked = False

    def kill(self, random: Random) -> None:  # noqa: ARG002
        self.locked = False


@attrs.define(eq=False)
class _FolderNode:
    """A folder, or the embedded store that lies in one."""

    present: dict[str, _Node] = attrs.field(factory=dict)
    durable: dict[str, _Node] = attrs.field(factory=dict)
    changes: list[_NameChange] = attrs.field(factory=list)
    store: StoreState | None = None

    def change(self, change: _NameChange) -> None:
        _rename(self.present, change)
        self.changes.append(change)

    def sync(self) -> None:
        self.durable = dict(self.present)
        self.changes.clear()

    def crash(self, random: Random) -> None:
        survivor = dict(self.durable)
        for change in self.changes:
            if random.random() < 0.5:
                _rename(survivor, change)
        self.present = survivor
        self.sync()
        if self.store is not None:
            self.store.crash(random)
        for _, node in sorted(survivor.items(), key=lambda item: item[0]):
            node.crash(random)

    def kill(self, random: Random) -> None:
        if self.store is not None:
            self.store.crash(random)  # Its memory is gone either way.
        for _, node in sorted(self.present.items(), key=lambda item: item[0]):
            node.kill(random)


_Node = _FileNode | _FolderNode


@attrs.define(eq=False)
class SimulatedDisk:
    """All file systems of one host."""

    capacity: int = 1024 * GiB
    sync_delay_s: float = 0.0  # A slow disk: see SimulatedThreads, which waits for it.
    busy_s: float = 0.0  # Time that calls have taken and nobody has waited for yet.
    delay_s: float = 0.0  # Of any call that is waited for; `SimulatedThreads` has it too.
    _begun: int = 0
    _root: _FolderNode = attrs.field(factory=_FolderNode)
    _faults: list[DiskFault] = attrs.field(factory=list)

    def inject(self, fault: DiskFault) -> DiskFault:
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget all injected faults."""
        self._faults.clear()

    def begins(self) -> bool:
        """Whether work may be begun without a thread: mostly, so that both are tried."""
        self._begun += 1
        return self._begun % _TO_THREADS != 0

    def crash(self, random: Random) -> None:
        """Lose the power."""
        self._root.crash(random)
        self.busy_s = 0.0

    def kill(self, random: Random) -> None:
        """Let the process die: the kernel keeps what was written, and frees the locks."""
        self._root.kill(random)
        self.busy_s = 0.0

    def paths(self, pattern: str = "*") -> list[str]:
        """The files there are, sorted."""
        found = (path for path, _ in _walk(self._root, "") if fnmatchcase(path, pattern))
        return sorted(found)

    def flip_bit(self, path: str, *, offset: int, bit: int = 0) -> None:
        """Rot: the byte at `offset` is another now, and was synced."""
        node = self._file(path)
        for content in (node.present, node.durable):
            if offset < content.size:
                byte = content.read(offset, 1)[0] ^ (1 << bit)
                content.write(offset, bytes((byte,)))

    def contents(self, path: str) -> bytes:
        """All of a file, without a fault."""
        content = self._file(path).present
        return content.read(0, content.size)

    def store(self, path: str) -> StoreState:
        """The embedded store in folder `path`, to damage its rows."""
        node = self.find(path)
        assert isinstance(node, _FolderNode)
        assert node.store is not None
        return node.store

    def used(self) -> int:
        files = (node for _, node in _walk(self._root, ""))
        return sum(len(node.reserved) for node in files) * PAGE_SIZE

    def check(self, path: str, operation: DiskOperation) -> None:
        """Raise the fault that strikes, if one does.  For the parts of this disk."""
        if operation == "sync":
            self.busy_s += self.sync_delay_s
        # All are asked, as each counts its own calls.
        for fault in [f for f in self._faults if f.strikes(path, operation)]:
            raise os_error(fault.error, path)

    def reserve(self, node: _FileNode, offset: int, end: int) -> None:
        missing = [page for page in pages_of(offset, end) if page not in node.reserved]
        if missing and self.used() + len(missing) * PAGE_SIZE > self.capacity:
            raise os_error(errno.ENOSPC)
        node.reserved.update(missing)

    def find(self, path: str) -> _Node:
        """The node at `path`.  Raises FileNotFoundError, NotADirectoryError."""
        node: _Node = self._root
        for name in _components(path):
            if not isinstance(node, _FolderNode):
                raise os_error(errno.ENOTDIR, path)
            if name not in node.present:
                raise os_error(errno.ENOENT, path)
            node = node.present[name]
        return node

    def make_folders(self, path: str) -> None:
        """Make `path` and what is missing above it, durably, as the real host does."""
        node = self._root
        for name in _components(path):
            if name not in node.present:
                node.change(_Put(name, _FolderNode()))
                node.sync()
            child = node.present[name]
            if not isinstance(child, _FolderNode):
                raise os_error(errno.ENOTDIR, path)
            node = child

    def _file(self, path: str) -> _FileNode:
        node = self.find(path)
        if not isinstance(node, _FileNode):
            raise os_error(errno.EISDIR, path)
        return node


@attrs.define(eq=False)
class SimulatedFile:
    _disk: SimulatedDisk
    _boot: Boot
    _node: _FileNode
    _path: str
    _writable: bool
    _holds_lock: bool = False
    _closed: bool = False

    @property
    def size(self) -> int:
        self._check_open()
        return self._node.present.size

    def read_at(self, offset: int, size: int) -> bytes:
        self._check_open()
        self._disk.check(self._path, "read")
        return self._node.present.read(offset, size)

    def read_now(self, offset: int, size: int) -> Buffer | None:  # noqa: ARG002
        return None  # Nothing is in memory: every read is one of the disk, with its faults.

    def read_past(self, offset: int, size: int) -> Buffer:
        return self.read_at(offset, size)

    def begin_read(self, offset: int, size: int) -> SimulatedRead | None:
        return SimulatedRead(self, offset, size) if self._disk.begins() else None

    def begin_write(
        self, offset: int, data: Sequence[Buffer], *, sync: bool
    ) -> SimulatedWrite | None:
        if not self._disk.begins():
            return None
        return SimulatedWrite(self, offset, b"".join(data), sync)

    def begin_sync(self) -> SimulatedWrite | None:
        return SimulatedWrite(self, 0, b"", True) if self._disk.begins() else None

    async def busy(self) -> None:
        """Wait for as long as the calls so far have taken."""
        busy_s, self._disk.busy_s = self._disk.busy_s, 0.0
        await trio.sleep(self._disk.delay_s + busy_s)

    def write_at(self, offset: int, data: Buffer | Sequence[Buffer]) -> None:
        one = isinstance(data, Buffer)
        written = bytes(data) if one else b"".join(data)  # type: ignore[arg-type]
        self._check_writable()
        self._disk.check(self._path, "write")
        self._disk.reserve(self._node, offset, offset + len(written))
        if written:
            self._node.change(_Write(offset, written))

    def write_durably(self, offset: int, data: bytes) -> None:
        self._check_writable()
        self._disk.check(self._path, "write")
        self._disk.reserve(self._node, offset, offset + len(data))
        self._disk.check(self._path, "sync")
        self._node.write_durably(_Write(offset, data))

    def sync(self) -> None:
        self._check_open()
        self._disk.check(self._path, "sync")
        self._node.sync()

    def allocate(self, size: int, *, zeros: bool = False) -> None:  # noqa: ARG002
        self._check_writable()
        self._disk.check(self._path, "write")
        self._disk.reserve(self._node, 0, size)
        if size > self._node.present.size:
            self._node.change(_Resize(size))

    def truncate(self, size: int) -> None:
        self._check_writable()
        self._disk.check(self._path, "write")
        self._node.change(_Resize(size))
        self._node.reserved &= set(pages_of(0, size))

    def punch(self, offset: int, size: int) -> None:
        self._check_writable()
        self._disk.check(self._path, "write")
        self._node.change(_Punch(offset, size))
        whole = range(-(-offset // PAGE_SIZE), (offset + size) // PAGE_SIZE)
        self._node.reserved -= set(whole)

    def close(self) -> None:
        assert not self._closed
        self._closed = True
        if self._holds_lock and self._boot.alive:
            self._node.locked = False

    def _check_open(self) -> None:
        self._boot.check()
        if self._closed:
            raise os_error(errno.EBADF, self._path)

    def _check_writable(self) -> None:
        self._check_open()
        if not self._writable:
            raise os_error(errno.EBADF, self._path)


@attrs.define(eq=False)
class SimulatedRead:
    """Read when it is waited for."""

    _file: SimulatedFile
    _offset: int
    _size: int
    _data: bytes | None = None

    def now(self) -> Buffer | None:
        data = self._data
        return data if data is not None and len(data) == self._size else None

    async def wait(self) -> Buffer | None:
        if self._data is None:
            await self._file.busy()
            try:
                self._data = self._file.read_at(self._offset, self._size)
            except OSError:
                return None  # The thread meets it again, if it is there to stay.
        return self.now()


@attrs.define(eq=False)
class SimulatedWrite:
    """Written, and synced, when it is waited for."""

    _file: SimulatedFile
    _offset: int
    _data: bytes  # Nothing: a sync.
    _is_durable: bool

    async def wait(self) -> bool:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            try:
                if not self._data:
                    self._file.sync()
                elif self._is_durable:
                    self._file.write_durably(self._offset, self._data)
                else:
                    self._file.write_at(self._offset, self._data)
            finally:
                await self._file.busy()
        return True


@attrs.define(eq=False)
class SimulatedDirectFile:
    """Written at once, durable once the disk's delay is over."""

    _disk: SimulatedDisk
    _file: SimulatedFile

    async def write(self, offset: int, data: Buffer) -> None:
        assert offset % DIRECT_BLOCK_SIZE == len(data) % DIRECT_BLOCK_SIZE == 0
        assert offset + len(data) <= self._file.size
        await trio.lowlevel.checkpoint()
        self._file.write_at(offset, data)
        with trio.CancelScope(shield=True):
            await trio.sleep(self._disk.sync_delay_s)
        busy_s = self._disk.busy_s
        try:
            self._file.sync()
        finally:
            self._disk.busy_s = busy_s  # It has been waited for.
        await trio.lowlevel.checkpoint_if_cancelled()

    def close(self) -> None:
        self._file.close()


@attrs.frozen(eq=False)
class SimulatedDirectory:
    path: str
    _disk: SimulatedDisk
    _boot: Boot

    def names(self) -> list[str]:
        return sorted(self._node().present)

    def exists(self, name: str) -> bool:
        return check_name(name) in self._node().present

    def open(
        self,
        name: str,
        *,
        create: bool = False,
        write: bool = True,
        direct: bool = False,  # noqa: ARG002
    ) -> SimulatedFile:
        entries = self._node().present
        path = self._join(name)
        if create:
            if name in entries:
                raise os_error(errno.EEXIST, path)
            self._change(_Put(name, _FileNode()))
        node = self._disk.find(path)
        if not isinstance(node, _FileNode):
            raise os_error(errno.EISDIR, path)
        return SimulatedFile(self._disk, self._boot, node, path, write or create)

    def open_direct(self, name: str) -> SimulatedDirectFile | None:
        return SimulatedDirectFile(self._disk, self.open(name))

    def folder(self, name: str, *, create: bool = False) -> SimulatedDirectory:
        path = self._join(name)
        if create and name not in self._node().present:
            self._change(_Put(name, _FolderNode()))
        return open_folder(self._disk, self._boot, path)

    def rename(self, source: str, target: str) -> None:
        self._existing(source)
        check_name(target)
        if source != target:
            self._change(_Renamed(source, target))

    def remove(self, name: str) -> None:
        node = self._existing(name)
        if not isinstance(node, _FileNode):
            raise os_error(errno.EISDIR, name)
        self._change(_Removed(name))

    def remove_folder(self, name: str) -> None:
        node = self._existing(name)
        path = self._join(name)
        if not isinstance(node, _FolderNode):
            raise os_error(errno.ENOTDIR, path)
        # One by one, like the real one: a crash may leave half of it.
        folder = self.folder(name)
        for child, child_node in sorted(node.present.items()):
            if isinstance(child_node, _FolderNode):
                folder.remove_folder(child)
            else:
                folder.remove(child)
        node.store = None
        self._change(_Removed(name))

    def sync(self) -> None:
        node = self._node()
        self._disk.check(self.path, "sync")
        node.sync()

    def space(self) -> Space:
        self._boot.check()
        free = max(0, self._disk.capacity - self._disk.used())
        return Space(total=self._disk.capacity, free=free)

    def lock(self, name: str) -> SimulatedFile:
        create = not self.exists(name)
        file = self.open(name, create=create)
        if file._node.locked:
            raise os_error(errno.EAGAIN, self._join(name))
        file._node.locked = True
        file._holds_lock = True
        return file

    def _node(self) -> _FolderNode:
        self._boot.check()
        node = self._disk.find(self.path)
        if not isinstance(node, _FolderNode):
            raise os_error(errno.ENOTDIR, self.path)
        return node

    def _existing(self, name: str) -> _Node:
        node = self._node().present.get(check_name(name))
        if node is None:
            path = self._join(name)
            raise os_error(errno.ENOENT, path)
        return node

    def _change(self, change: _NameChange) -> None:
        self._disk.check(self.path, "name")
        self._node().change(change)

    def _join(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{check_name(name)}"


@attrs.frozen(eq=False)
class SimulatedDisks:
    """The `Disks` of one boot."""

    _disk: SimulatedDisk
    _boot: Boot

    def directory(self, path: str, *, create: bool = False) -> SimulatedDirectory:
        self._boot.check()
        if create:
            self._disk.make_folders(path)
        return open_folder(self._disk, self._boot, path)

    def key_value_store(self, directory: Directory, name: str) -> SimulatedStore:
        assert isinstance(directory, SimulatedDirectory)
        created = not directory.exists(name)
        folder = directory.folder(name, create=True)
        if created:
            directory.sync()
        self._disk.check(folder.path, "read")
        node = folder._node()
        if node.store is None:
            node.store = StoreState()
        disk = self._disk
        return SimulatedStore.open(node.store, self._boot, folder.path, disk.check)


def open_folder(disk: SimulatedDisk, boot: Boot, path: str) -> SimulatedDirectory:
    directory = SimulatedDirectory("/" + "/".join(_components(path)), disk, boot)
    directory._node()  # Raises where there is none.
    return directory


def _survivors(changes: list[_FileChange], random: Random) -> list[_FileChange]:
    """What of the changes reached the platter."""
    kept: list[_FileChange] = []
    for change in changes:
        fate = random.choice(("lost", "kept", "kept", "grown"))
        if fate == "kept":
            kept.append(change)
        elif fate == "grown" and isinstance(change, _Write):
            kept.append(_Grow(change.offset + len(change.data)))
    writes = [i for i, change in enumerate(kept) if isinstance(change, _Write)]
    if writes:
        last = kept[writes[-1]]
        assert isinstance(last, _Write)
        kept[writes[-1] : writes[-1] + 1] = _torn(last, random)
    return kept


@attrs.frozen
class _Grow(_Resize):
    """The size was written before the data; never shortens."""


def _torn(write: _Write, random: Random) -> list[_FileChange]:
    """The sectors of a write that were on the platter when the power went."""
    end = write.offset + len(write.data)
    first = write.offset // SECTOR_SIZE
    count = -(-end // SECTOR_SIZE) - first
    if random.random() < 0.5:
        survivors = range(random.randint(0, count))
    else:
        survivors = [i for i in range(count) if random.random() < 0.5]  # type: ignore[assignment]
    pieces: list[_FileChange] = []
    for sector in survivors:
        start = max(write.offset, (first + sector) * SECTOR_SIZE)
        stop = min(end, (first + sector + 1) * SECTOR_SIZE)
        data = write.data[start - write.offset : stop - write.offset]
        pieces.append(_Write(start, data))
    return pieces


def _carry_out(content: Content, change: _FileChange) -> None:
    match change:
        case _Write(offset, data):
            content.write(offset, data)
        case _Grow(size):
            content.resize(max(size, content.size))
        case _Resize(size):
            content.resize(size)
        case _Punch(offset, size):
            content.punch(offset, size)


def _rename(names: dict[str, _Node], change: _NameChange) -> None:
    """Carry out; nothing where an earlier change was lost that it built on."""
    match change:
        case _Put(name, node):
            names[name] = node
        case _Removed(name):
            names.pop(name, None)
        case _Renamed(source, target):
            if source in names:
                names[target] = names.pop(source)


def _walk(folder: _FolderNode, path: str) -> Iterator[tuple[str, _FileNode]]:
    """All files below, with their paths."""
    for name, node in folder.present.items():
        child = f"{path}/{name}"
        if isinstance(node, _FolderNode):
            yield from _walk(node, child)
        else:
            yield child, node


def _components(path: str) -> list[str]:
    return [part for part in posixpath.normpath(path).split("/") if part not in {"", "."}]


assert MiB % PAGE_SIZE == 0
