"""Direct files on Linux: O_DIRECT and its asynchronous writes, without a thread.

    write    copy into an aligned buffer ; io_submit(PWRITE, RWF_DSYNC) ; sleep
    kernel   overwrites blocks that are allocated and written already, then flushes
    epoll    the eventfd is readable ; io_getevents ; the task goes on

A write with its sync costs a third of what a thread's pwrite and fdatasync do, and nothing
on the loop waits for the interpreter's lock meanwhile.  `open_direct` tries it out on
the file's first block and says None where the system cannot: the caller has its thread.

Source: as in `real_aio`, which has the calls; open(2) on O_DIRECT.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select

import trio

from objstore.buffer import Buffer
from objstore.host.disk import DIRECT_BLOCK_SIZE
from objstore.host.real_aio import (
    FLAG_RESFD,
    PWRITE,
    RWF_DSYNC,
    Event,
    Request,
    address_of,
    calls,
    syscall,
)
from objstore.units import KiB

_BUFFER_SIZE = 256 * KiB  # Kept; longer data gets a buffer of its own, for once.
_ONE = ctypes.c_long(1)


class RealDirectFile:
    """One file, one write at a time."""

    def __init__(self, path: str) -> None:
        """Raises OSError where the file system or the kernel cannot."""
        numbers = calls()
        if numbers is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, self._destroy, self._getevents, self._submit = map(ctypes.c_long, numbers)
        self._closed = False
        self._path = path
        self._descriptor = self._wake = -1
        self._context = ctypes.c_ulong(0)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._buffer = mmap.mmap(-1, _BUFFER_SIZE)  # Aligned, as pages are.
            syscall(setup, ctypes.c_long(1), ctypes.byref(self._context))
        except OSError:
            self._close_files()
            raise
        self._event = Event()
        self._event_pointer = ctypes.byref(self._event)
        self._address = address_of(self._buffer)
        self._request = Request(
            opcode=PWRITE,
            rw_flags=RWF_DSYNC,
            descriptor=self._descriptor,
            buffer=self._address,
            flags=FLAG_RESFD,
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
        if size <= _BUFFER_SIZE:
            self._buffer[:size] = data
            self._request.buffer = self._address
        else:
            buffer = mmap.mmap(-1, size)
            buffer[:] = data
            self._request.buffer = address_of(buffer)
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
            syscall(self._destroy, self._context)  # Waits for what is under way.
            self._close_files()

    def _begin(self, offset: int, size: int) -> None:
        self._request.offset = offset
        self._request.size = size
        syscall(self._submit, self._context, _ONE, self._requests)

    def _end(self, size: int) -> None:
        """Take the answer: it is there once `_wake` is readable."""
        arguments = (self._context, _ONE, _ONE, self._event_pointer, None)
        while syscall(self._getevents, *arguments) == 0:
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
