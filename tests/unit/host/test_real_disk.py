from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys

import pytest
import trio

from objstore.host import real_aio, real_disk
from objstore.host.buffers import POOL
from objstore.host.real_disk import RealDisks
from objstore.units import KiB, MiB


@pytest.fixture
def root(tmp_path):
    return RealDisks().directory(str(tmp_path / "a" / "b"), create=True)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_only_the_owner_may_look_inside(root, tmp_path):
    before = os.umask(0)
    try:
        root.open("file", create=True).close()
        root.lock("LOCK").close()
        inner = root.folder("inner", create=True)
    finally:
        os.umask(before)
    assert mode(f"{root.path}/file") == mode(f"{root.path}/LOCK") == 0o600
    assert mode(inner.path) == mode(root.path) == mode(tmp_path / "a") == 0o700


def test_files_are_not_inherited_by_child_processes(root):
    for file in (root.open("file", create=True), root.lock("LOCK")):
        flags = fcntl.fcntl(file._descriptor, fcntl.F_GETFD)
        assert flags & fcntl.FD_CLOEXEC
        file.close()


def test_allocated_space_is_reserved_and_zeros_are_really_written(root):
    plain, zeroed = root.open("plain", create=True), root.open("zeroed", create=True)
    plain.allocate(3 * MiB)
    zeroed.allocate(3 * MiB + 1, zeros=True)
    zeroed.sync()
    assert os.stat(f"{root.path}/plain").st_blocks * 512 >= 3 * MiB
    assert os.stat(f"{root.path}/zeroed").st_blocks * 512 >= 3 * MiB
    plain.close()
    zeroed.close()


def test_a_punched_range_gives_its_space_back(root):
    file = root.open("file", create=True)
    file.write_at(0, b"x" * 4 * MiB)
    file.sync()
    before = os.stat(f"{root.path}/file").st_blocks
    file.punch(MiB, 2 * MiB)
    after = os.stat(f"{root.path}/file").st_blocks
    if after == before:
        pytest.skip("this file system cannot punch holes")
    assert before - after >= 2 * MiB // 512 - 64
    file.close()


def test_where_holes_cannot_be_punched_nothing_happens(root, monkeypatch):
    file = root.open("file", create=True)
    file.write_at(0, b"abc")
    monkeypatch.setattr(real_disk, "_fallocate", None)
    file.punch(0, 3)
    assert file.read_at(0, 3) == b"abc"
    file.close()


def test_a_failed_punch_is_an_error(root):
    file = root.open("file", create=True)
    reader = root.open("file", write=False)
    with pytest.raises(OSError) as error:
        reader.punch(0, 10)
    assert error.value.errno == errno.EBADF
    reader.close()
    file.close()


def test_short_writes_are_completed(root, monkeypatch):
    """F05: the kernel may take less than it was given."""
    file = root.open("file", create=True)
    pwritev, pwrite = os.pwritev, os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda fd, b, at: pwritev(fd, [bytes(b[0])[:1]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:2], at))
    file.write_at(7, [b"abc", b"defg"])
    monkeypatch.undo()
    assert file.read_at(7, 100) == b"abcdefg"
    file.close()


def test_short_reads_are_completed(root, monkeypatch):
    file = root.open("file", create=True)
    file.write_at(0, b"abcdefg")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: pread(fd, min(size, 2), at))
    assert file.read_at(1, 5) == b"bcdef"
    assert file.read_at(1, 50) == b"bcdefg"
    monkeypatch.undo()
    file.close()


def test_a_failing_sync_is_heard_of(root, monkeypatch):
    """F11: EIO of fdatasync."""
    file = root.open("file", create=True)

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError) as error:
        file.sync()
    assert error.value.errno == errno.EIO
    monkeypatch.undo()
    file.close()


@pytest.mark.slow
def test_a_lock_is_held_against_other_processes_and_freed_by_their_death(root):
    """F29: a second daemon on one folder."""
    program = (
        "import sys; from objstore.host.real_disk import RealDisks\n"
        f"lock = RealDisks().directory({root.path!r}).lock('LOCK')\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(BlockingIOError):
        root.lock("LOCK")
    child.kill()
    child.communicate()
    root.lock("LOCK").close()


def test_a_folder_on_a_broken_disk_is_not_called_something_else(tmp_path, monkeypatch):
    """Found by power loss: the start said "Not a directory" of a disk that gave EIO."""
    ask = os.stat

    def stat_without_power(path, **options):
        if path == str(tmp_path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return ask(path, **options)

    monkeypatch.setattr(os, "stat", stat_without_power)
    with pytest.raises(OSError, match="Input/output error"):
        RealDisks().directory(str(tmp_path), create=True)


def test_direct_files_that_are_not_to_be_had_leave_nothing_open(root, monkeypatch):
    """F44: at the limit of descriptors, each attempt would take one for good."""

    def no_more(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    file = root.open("log", create=True)
    file.write_at(0, b"short")
    before = os.listdir("/proc/self/fd")
    assert root.open_direct("log") is None
    assert file.read_at(0, 10) == b"short"
    file.allocate(8192, zeros=True)
    monkeypatch.setattr(os, "eventfd", no_more)
    assert root.open_direct("log") is None
    assert len(os.listdir("/proc/self/fd")) == len(before)
    file.close()


@pytest.fixture
def direct(root):
    file = root.open("direct", create=True, direct=True)
    file.allocate(MiB)
    yield file
    file.close()


async def test_kernel_that_would_have_to_wait_is_not_asked_for_a_while(direct, monkeypatch):
    """And for a longer one each time that it says so again."""
    asked = []

    def begin(opcode, descriptor, **_):
        asked.append(opcode)
        operation = real_aio.Operation()
        operation.end(-errno.EAGAIN)
        return operation

    monkeypatch.setattr(real_aio, "begin", begin)
    answers = []
    for _ in range(12):
        reading = direct.begin_read(0, 4096)
        answers.append(reading is not None)
        assert reading is None or await reading.wait() is None
    pauses = [True, False, True, False, False, True, False, False, False, False]
    assert answers == [*pauses, True, False]
    assert len(asked) == 4


async def test_write_that_failed_is_an_error_and_not_left_to_a_thread(direct, monkeypatch):
    """A second try might succeed, and what the first one left behind nobody knows."""

    def begin(opcode, descriptor, **_):
        operation = real_aio.Operation()
        operation.end(-errno.EIO)
        return operation

    monkeypatch.setattr(real_aio, "begin", begin)
    for begun in (
        direct.begin_write(0, [bytes(4096)], sync=False),
        direct.begin_write(0, [bytes(4096)], sync=True),
        direct.begin_sync(),
    ):
        with pytest.raises(OSError):
            await begun.wait()
    assert await direct.begin_read(0, 4096).wait() is None


async def test_write_that_was_done_in_part_is_left_to_a_thread(direct, monkeypatch):
    def begin(opcode, descriptor, **_):
        operation = real_aio.Operation()
        operation.end(4096)
        return operation

    monkeypatch.setattr(real_aio, "begin", begin)
    assert not await direct.begin_write(0, [bytes(8192)], sync=True).wait()


async def test_system_without_asynchronous_calls_has_threads(direct, monkeypatch):
    monkeypatch.setattr(real_aio, "calls", lambda: None)
    assert direct.begin_read(0, 4096) is None
    assert direct.begin_write(0, [bytes(4096)], sync=True) is None
    assert direct.begin_sync() is None


async def test_buffers_are_held_for_the_kernel_whoever_forgets_the_read(direct):
    """It writes into them, so nobody else may have them before it is done."""
    reading = direct.begin_read(0, 512 * KiB)
    if reading is None:
        pytest.skip("no asynchronous reads here")
    lent = POOL.lent_count
    operation = reading._operation
    del reading
    assert POOL.lent_count == lent
    await operation.wait()
    assert POOL.lent_count == lent - 1


def test_a_run_that_fails_ends_though_a_write_is_under_way(root):
    """What came of the write is not known any more: it must not be taken for done."""
    file = root.open("f", create=True, direct=True)
    file.allocate(MiB, zeros=True)
    ends = []

    async def fail():
        raise RuntimeError("a bug elsewhere")

    async def write():
        begun = [file.begin_write(0, (bytes(MiB),), sync=True) for _ in range(4)]
        trio.lowlevel.spawn_system_task(fail)
        for write in begun:
            try:
                ends.append(write is None or await write.wait())
            except OSError as error:
                ends.append(error.errno)

    with pytest.raises(trio.TrioInternalError):
        trio.run(write)
    assert set(ends) <= {True, False, errno.EIO}
    file.close()


async def test_a_wake_up_without_anything_done_is_survived(direct, monkeypatch):
    """A signal that comes between the eventfd and the answers: EINTR."""
    direct.write_at(0, bytes(MiB))
    reading = direct.begin_read(0, MiB)
    if reading is None:
        pytest.skip("no asynchronous reads here")
    syscall, calls = real_aio.syscall, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            os.eventfd_write(real_aio._queue.get()._wake, 1)
            raise InterruptedError(errno.EINTR, "a signal")
        return syscall(*arguments)

    monkeypatch.setattr(real_aio, "syscall", interrupted)
    assert await reading.wait() in (None, bytes(MiB))
    assert len(calls) > 1
