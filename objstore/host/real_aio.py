"""Linux's asynchronous reads and writes of files on O_DIRECT: many at a time, no thread.

    begin    io_submit(PREADV, PWRITEV or FDSYNC, with RWF_NOWAIT) --> Operation, or None
    epoll    the eventfd is readable ; io_getevents ; whoever waits goes on

A hand-over to a thread costs more than what it is for: each time that the thread wants the
interpreter back, the event loop and it wake each other, a few times over where both have
much to do (docs/internals/cost.md, Bodies).

RWF_NOWAIT: the call itself does not wait for the drive.  Where it would have to (a queue
that is full because the drive hangs, a journal, on XFS a map of blocks that is not in
memory) the kernel says so, and the caller uses a thread.  So a drive that hangs does not
hold the loop.  On ext4 it would while a map is read: who opens a file loads its map.

Buffers are kept until the kernel is done with them, whoever has lost interest meanwhile.
One queue for each run of trio; it ends with it, once nothing is under way.

Source: io_submit(2), io_getevents(2), linux/aio_abi.h, pwritev2(2).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import ClassVar

import trio

from objstore.buffer import Buffer

OPERATIONS_MAX = 64  # Under way at once, a block each at most; more go to threads.
BUFFERS_MAX = 8  # Of one operation.
SECTOR_SIZE = 512  # A drive takes bytes from multiples of it, in memory and in the file.
# (io_setup, io_destroy, io_getevents, io_submit)
_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
FDSYNC, PREADV, PWRITEV = 3, 7, 8
PWRITE = 1
RWF_DSYNC = 0x02
RWF_NOWAIT = 0x08
FLAG_RESFD = 1


class Request(ctypes.Structure):
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


class Event(ctypes.Structure):
    """struct io_event."""

    _fields_: ClassVar = [
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    ]


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_: ClassVar = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _View(ctypes.Structure):
    """Py_buffer, which is part of Python's stable ABI: where a buffer's bytes lie.

    `from_buffer` of ctypes would say it too, but of a writable buffer only.
    """

    _fields_: ClassVar = [
        ("buffer", ctypes.c_void_p),
        ("object", ctypes.py_object),
        ("size", ctypes.c_ssize_t),
        ("item_size", ctypes.c_ssize_t),
        ("is_read_only", ctypes.c_int),
        ("dimensions", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


assert ctypes.sizeof(Request) == 64
assert ctypes.sizeof(Event) == 32

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_View), ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_View),)
_release_buffer.restype = None


def calls() -> tuple[int, int, int, int] | None:
    """The numbers of io_setup, io_destroy, io_getevents, io_submit; None: unknown here."""
    if not sys.platform.startswith("linux") or not hasattr(os, "eventfd"):
        return None
    return _NUMBERS.get(platform.machine())


def syscall(*arguments: object) -> int:
    result = int(_libc.syscall(*arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def address_of(buffer: Buffer | mmap.mmap) -> int:
    """Where its bytes lie, for as long as somebody holds it."""
    view = _View()
    _get_buffer(buffer, view, 0)
    address: int = view.buffer or 0
    _release_buffer(view)
    return address


def is_aligned(buffer: Buffer) -> bool:
    """Whether a drive can take its bytes from where they lie."""
    return not (len(buffer) | address_of(buffer)) % SECTOR_SIZE


class Operation:
    """Something that the kernel works on."""

    __slots__ = ("_waiting", "result")

    def __init__(self) -> None:
        # Bytes, or a negative errno; None: not done yet.
        self.result: int | None = None
        self._waiting: trio.lowlevel.Task | None = None

    async def wait(self) -> int:
        """The result.  If cancelled, it goes on; it may be waited for again."""
        if self.result is None:
            await self._wait(self._forget)
        assert self.result is not None
        return self.result

    async def wait_to_end(self) -> int:
        """The result.  Not cancelled."""
        if self.result is None:
            await self._wait(_refuse)
        assert self.result is not None
        return self.result

    async def _wait(self, abort: Callable[[object], trio.lowlevel.Abort]) -> None:
        assert self._waiting is None
        self._waiting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _forget(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def end(self, result: int) -> None:
        self.result = result
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None


def _refuse(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


class _Slot:
    """A place for an operation: what the kernel reads of it."""

    def __init__(self, number: int, wake: int) -> None:
        self.vectors = (_Vector * BUFFERS_MAX)()
        self.request = Request(data=number, flags=FLAG_RESFD, event_descriptor=wake)
        self.pointer = (ctypes.c_void_p * 1)(ctypes.addressof(self.request))
        self.vectors_address = ctypes.addressof(self.vectors)
        self.operation: Operation | None = None
        self.buffers: Sequence[Buffer] = ()  # Held for the kernel.


class _Queue:
    """The operations of a run of trio."""

    def __init__(self) -> None:
        """Raises OSError where the system cannot."""
        numbers = calls()
        if numbers is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, self._destroy, self._getevents, self._submit = map(ctypes.c_long, numbers)
        self._context = ctypes.c_ulong(0)
        syscall(setup, ctypes.c_long(OPERATIONS_MAX), ctypes.byref(self._context))
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._slots = [_Slot(number, self._wake) for number in range(OPERATIONS_MAX)]
        self._free = list(reversed(self._slots))
        self._events = (Event * OPERATIONS_MAX)()
        self._one, self._none = ctypes.c_long(1), ctypes.c_long(0)
        self._most = ctypes.c_long(OPERATIONS_MAX)
        self._closed = False

    def begin(
        self,
        opcode: int,
        descriptor: int,
        *,
        offset: int = 0,
        buffers: Sequence[Buffer] = (),
        flags: int = 0,
    ) -> Operation | None:
        """None: not to be had now."""
        if self._closed or not self._free or len(buffers) > BUFFERS_MAX:
            return None
        slot = self._free[-1]
        for vector, buffer in zip(slot.vectors, buffers, strict=False):
            vector.base, vector.size = address_of(buffer), len(buffer)
        request = slot.request
        request.opcode, request.descriptor = opcode, descriptor
        request.rw_flags, request.offset = flags, offset
        request.buffer, request.size = (
            (slot.vectors_address, len(buffers)) if buffers else (0, 0)
        )
        try:
            syscall(self._submit, self._context, self._one, slot.pointer)
        except OSError:
            return None
        self._free.pop()
        slot.buffers = buffers
        slot.operation = operation = Operation()
        return operation

    async def serve(self) -> None:
        """Until trio's run ends."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._wake)
                os.eventfd_read(self._wake)
                self._reap()
        finally:
            self._closed = True
            syscall(self._destroy, self._context)  # Waits for what is under way.
            os.close(self._wake)
            # What came of it is lost.  Somebody waits only where trio's run fails: a write
            # that may have failed must not be taken for done, nor keep the run from ending.
            for slot in self._slots:
                if slot.operation is not None:
                    slot.operation.end(-errno.EIO)

    def _reap(self) -> None:
        try:
            count = syscall(
                self._getevents, self._context, self._none, self._most, self._events, None
            )
        except InterruptedError:  # A signal came, and nothing else yet.
            return
        for event in self._events[:count]:
            slot = self._slots[event.data]
            operation, slot.operation, slot.buffers = slot.operation, None, ()
            self._free.append(slot)
            assert operation is not None
            operation.end(event.result)


_queue: trio.lowlevel.RunVar[_Queue | None] = trio.lowlevel.RunVar("objstore-aio")


def begin(
    opcode: int,
    descriptor: int,
    *,
    offset: int = 0,
    buffers: Sequence[Buffer] = (),
    flags: int = 0,
) -> Operation | None:
    """Have the kernel begin; None: not to be had, here or now.  On the event loop only."""
    try:
        queue = _queue.get()
    except LookupError:
        queue = _make_queue()
    if queue is None:
        return None
    return queue.begin(opcode, descriptor, offset=offset, buffers=buffers, flags=flags)


def _make_queue() -> _Queue | None:
    queue: _Queue | None = None
    try:
        queue = _Queue()
    except OSError:  # Forbidden in this container, or the system has no room for more.
        pass
    else:
        trio.lowlevel.spawn_system_task(queue.serve)
    _queue.set(queue)
    return queue
