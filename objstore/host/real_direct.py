"""Direct files on Linux: O_DIRECT and its asynchronous writes, without a thread.

    write    copy into an aligned buffer ; io_submit(PWRITE, RWF_DSYNC) ; sleep
    kernel   overwrites blocks that are allocated and written already, then flushes
    epoll    the eventfd is readable ; io_getevents ; the task goes on

A write with its sync costs a third of what a thread's pwrite and fdatasync do, and nothing
on the loop waits for the interpreter's lock meanwhile.  `open_direct` tries it out on
the file's first block and says None where the system cannot: the caller has its thread.

Source: io_submit(2), io_getevents(2), open(2) on O_DIRECT, linux/aio_abi.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import select
import sys
from typing import ClassVar

import trio

from objstore.host.disk import DIRECT_BLOCK_SIZE, Buffer
from objstore.units import KiB

_BUFFER_SIZE = 256 * KiB  # Kept; longer data gets a buffer of its own, for once.
# (io_setup, io_destroy, io_getevents, io_submit)
_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
_PWRITE = 1
_RWF_DSYNC = 0x02
_FLAG_RESFD = 1


class _Request(ctypes.Structure):
    """struct iocb, little endian."""

    _fields_: ClassVar = [
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_descriptor", ctypes.c_uint32),
    ]


class _Event(ctypes.Structure):
    """struct io_event."""

    _fields_: ClassVar = [
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    ]


assert ctypes.sizeof(_Request) == 64
assert ctypes.sizeof(_Event) == 32


def _calls() -> tuple[int, int, int, int] | None:
    if not sys.platform.startswith("linux") or not hasattr(os, "eventfd"):
        return None
    return _NUMBERS.get(platform.machine())


def _syscall(*arguments: object) -> int:
    result = int(_libc.syscall(*arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _address(buffer: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class RealDirectFile:
    """One file, one write at a time."""

    def __init__(self, path: str) -> None:
        """Raises OSError where the file system or the kernel cannot."""
        calls = _calls()
        if calls is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, self._destroy, self._getevents, self._submit = map(ctypes.c_long, calls)
        self._closed = False
        self._path = path
        self._descriptor = self._wake = -1
        self._context = ctypes.c_ulong(0)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._buffer = mmap.mmap(-1, _BUFFER_SIZE)  # Aligned, as pages are.
            _syscall(setup, ctypes.c_long(1), ctypes.byref(self._context))
        except OSError:
            self._close_files()
            raise
        self._event = _Event()
        self._request = _Request(
            opcode=_PWRITE,
            rw_flags=_RWF_DSYNC,
            descriptor=self._descriptor,
            buffer=_address(self._buffer),
            flags=_FLAG_RESFD,
            event_descriptor=self._wake,
        )
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        try:
            self._try_out()
        except OSError:
            self.close()
            raise

    def _try_out(self) -> None:
        """Write the first block as it is, waiting for it."""
        block = memoryview(self._buffer)[:DIRECT_BLOCK_SIZE]
        if os.preadv(self._descriptor, [block], 0) != DIRECT_BLOCK_SIZE:
            raise OSError(errno.EINVAL, "shorter than a block", self._path)
        self._begin(0, DIRECT_BLOCK_SIZE)
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.poll()
        self._end(DIRECT_BLOCK_SIZE)

    async def write(self, offset: int, data: Buffer) -> None:
        assert offset % DIRECT_BLOCK_SIZE == 0
        assert len(data) % DIRECT_BLOCK_SIZE == 0
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        size = len(data)
        # In one submission, as each of several would flush the drive's cache.
        buffer = self._buffer if size <= _BUFFER_SIZE else mmap.mmap(-1, size)
        buffer[:size] = data
        self._request.buffer = _address(buffer)
        self._begin(offset, size)
        try:
            await trio.lowlevel.wait_readable(self._wake)
        except BaseException:  # The kernel still reads the buffer, and may yet fail.
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(self._wake)
            self._end(size)
            raise
        self._end(size)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _syscall(self._destroy, self._context)  # Waits for what is under way.
            self._close_files()

    def _begin(self, offset: int, size: int) -> None:
        self._request.offset = offset
        self._request.size = size
        _syscall(self._submit, self._context, ctypes.c_long(1), self._requests)

    def _end(self, size: int) -> None:
        """Take the answer: it is there once `_wake` is readable."""
        one = ctypes.c_long(1)
        while (
            _syscall(
                self._getevents, self._context, one, one, ctypes.byref(self._event), None
            )
            == 0
        ):
            pass
        os.eventfd_read(self._wake)
        result = int(self._event.result)
        if result < 0:
            raise OSError(-result, os.strerror(-result), self._path)
        if result != size:
            raise OSError(errno.EIO, f"{result} of {size} bytes were written", self._path)

    def _close_files(self) -> None:
        for descriptor in (self._descriptor, self._wake):
            if descriptor >= 0:
                os.close(descriptor)


def open_direct(path: str) -> RealDirectFile | None:
    """Open for direct writing; None where that is not to be had."""
    try:
        return RealDirectFile(path)
    except OSError as error:
        if error.errno in {errno.EIO, errno.ENOENT}:
            raise
        return None
