from __future__ import annotations

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objstore.host.buffers import POOL
from objstore.host.disk import read_file, write_file_atomically
from objstore.units import KiB, MiB


@pytest.fixture
def file(root):
    file = root.open("file", create=True)
    yield file
    file.close()


def test_a_new_file_is_empty(file):
    assert file.size == 0
    assert file.read_at(0, 100) == b""


def test_what_is_written_is_read_at_its_offset(file):
    file.write_at(3, b"abc")
    file.write_at(4, bytearray(b"B"))
    file.write_at(6, memoryview(b"def"))
    assert file.read_at(0, 100) == b"\0\0\0aBcdef"
    assert file.read_at(4, 2) == b"Bc"
    assert file.size == 9


def test_several_buffers_are_written_in_a_row(file):
    file.write_at(1, [b"ab", bytearray(b"cd"), b"", memoryview(b"ef")])
    assert file.read_at(0, 10) == b"\0abcdef"


def test_more_buffers_than_one_system_call_takes_are_written(file):
    buffers = [bytes((i % 251,)) * 3 for i in range(3000)]
    file.write_at(5, buffers)
    assert file.read_at(5, 9000) == b"".join(buffers)


def test_writing_nothing_changes_nothing(file):
    file.write_at(10, b"")
    file.write_at(10, [])
    assert file.size == 0


def test_a_read_is_short_only_at_the_end(file):
    file.write_at(0, b"x" * 100_000)
    assert len(file.read_at(99_990, 100)) == 10
    assert file.read_at(100_000, 1) == b""
    assert file.read_at(200_000, 1) == b""


@pytest.mark.parametrize("size", [4096, 64 * KiB, 300 * KiB + 5])
def test_a_direct_file_keeps_the_same_bytes_as_any(root, size):
    """Whole pages go past the page cache, the rest does not, and nobody can tell."""
    file = root.open("direct", create=True, direct=True)
    file.allocate(2 * MiB)
    data = bytes(range(1, 251)) * (size // 250 + 1)
    data = data[:size]
    file.write_at(4096, data)
    file.write_at(MiB, [data[:100], memoryview(data)[100:], bytes(-size % 4096)])
    file.sync()
    for read in (file.read_at, file.read_past):
        assert read(4096, size) == data
        assert read(MiB, size) == data
        assert read(4096 + 7, 100) == data[7:107]
        assert read(2 * MiB - 10, 100) == bytes(10)
    file.write_at(4096 + 3, b"abc")
    assert file.read_past(4096, 10) == data[:3] + b"abc" + data[6:10]
    file.close()


def test_what_can_be_read_now_is_what_is_there(file):
    file.write_at(0, b"x" * 10_000)
    found = file.read_now(10, 100)
    assert found is None or found == b"x" * 100
    assert file.read_now(9_999, 100) is None


@pytest.mark.parametrize("size", [4096, 64 * KiB, MiB])
async def test_what_is_begun_without_a_thread_is_the_same_as_on_one(root, size):
    """None and False are always allowed: then a thread is to do it."""
    file = root.open("begun", create=True, direct=True)
    file.allocate(4 * MiB)
    data = bytes(range(1, 251)) * (size // 250 + 1)
    data = data[:size]
    aligned = POOL.take(size)
    aligned[:] = data
    for number, pieces in enumerate([[aligned.toreadonly()], [data[:700], data[700:]]]):
        offset = 4096 + number * MiB
        for sync in (False, True):
            begun = file.begin_write(offset, pieces, sync=sync)
            if begun is None or not await begun.wait():
                file.write_at(offset, pieces)
        syncing = file.begin_sync()
        assert syncing is None or await syncing.wait() in {True, False}
        assert file.read_at(offset, size) == data
        for start, end in ((0, size), (7, 1007), (size - 5, size)):
            reading = file.begin_read(offset + start, end - start)
            found = None if reading is None else await reading.wait()
            assert found is None or found == data[start:end]
            if reading is not None and found is not None:
                assert reading.now() == found
                assert await reading.wait() == found
    file.close()


async def test_a_begun_read_may_be_forgotten(root):
    file = root.open("forgotten", create=True, direct=True)
    file.write_at(0, bytes(MiB))
    file.sync()
    for _ in range(300):  # More than are under way at once.
        reading = file.begin_read(0, MiB)
        if reading is not None:
            with trio.move_on_after(0):
                await reading.wait()
    reading = file.begin_read(0, 4096)
    found = None if reading is None else await reading.wait()
    assert found is None or found == bytes(4096)
    file.close()


async def test_a_begun_read_behind_the_end_is_left_to_a_thread(root):
    file = root.open("short", create=True, direct=True)
    file.write_at(0, b"x" * 4096)
    reading = file.begin_read(0, 8192)
    assert reading is None or await reading.wait() is None
    file.close()


async def test_a_begun_write_is_waited_for_when_it_is_cancelled(root):
    file = root.open("cancelled", create=True, direct=True)
    file.allocate(MiB)
    for number in range(8):
        offset = number * 4096
        begun = file.begin_write(offset, [b"x" * 4096], sync=True)
        if begun is None:
            continue
        with trio.CancelScope() as scope:
            scope.cancel()
            is_done = await begun.wait()
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert not is_done or file.read_at(offset, 4096) == b"x" * 4096
    file.close()


def test_truncate_cuts_and_lengthens_with_zeros(file):
    file.write_at(0, b"abcdef")
    file.truncate(2)
    file.truncate(4)
    assert file.read_at(0, 10) == b"ab\0\0"


@pytest.mark.parametrize("zeros", [False, True])
def test_allocate_lengthens_with_zeros_and_keeps_what_is_there(file, zeros):
    file.write_at(0, b"abc")
    file.allocate(2 * MiB + 5, zeros=zeros)
    assert file.size == 2 * MiB + 5
    assert file.read_at(0, 4) == b"abc\0"
    assert file.read_at(2 * MiB, 10) == bytes(5)


def test_allocate_never_shortens(file):
    file.write_at(0, b"abcdef")
    file.allocate(2)
    file.allocate(3, zeros=True)
    assert file.read_at(0, 10) == b"abcdef"


def test_a_punched_range_reads_as_zeros_and_the_size_stays(file):
    data = bytes(range(1, 251)) * 1000
    file.write_at(0, data)
    file.punch(1000, 100_000)
    found = file.read_at(0, len(data))
    # "May do nothing": then it is all there.
    assert found in (data, data[:1000] + bytes(100_000) + data[101_000:])
    file.punch(0, 0)
    assert file.size == len(data)


def test_a_file_opened_for_reading_refuses_writes(root, file):
    file.write_at(0, b"abc")
    reader = root.open("file", write=False)
    assert reader.read_at(0, 3) == b"abc"
    with pytest.raises(OSError):
        reader.write_at(0, b"x")
    reader.close()


def test_two_handles_see_one_file(root, file):
    other = root.open("file")
    other.write_at(0, b"other")
    assert file.read_at(0, 5) == b"other"
    other.close()


def test_a_closed_file_is_of_no_use(root):
    file = root.open("gone", create=True)
    file.close()
    with pytest.raises(OSError):
        file.read_at(0, 1)
    with pytest.raises(OSError):
        file.write_at(0, b"x")
    with pytest.raises(OSError):
        file.sync()


def test_names_are_sorted_and_of_files_and_folders(root):
    for name in ("b", "a", "ü"):
        root.open(name, create=True).close()
    root.folder("c", create=True)
    assert root.names() == ["a", "b", "c", "ü"]
    assert root.exists("a")
    assert root.exists("c")
    assert not root.exists("d")


def test_creating_what_exists_is_refused(root, file):
    with pytest.raises(FileExistsError):
        root.open("file", create=True)


def test_opening_what_is_missing_is_refused(root):
    with pytest.raises(FileNotFoundError):
        root.open("missing")
    with pytest.raises(FileNotFoundError):
        root.folder("missing")
    with pytest.raises(FileNotFoundError):
        root.remove("missing")
    with pytest.raises(FileNotFoundError):
        root.remove_folder("missing")
    with pytest.raises(FileNotFoundError):
        root.rename("missing", "other")


def test_a_file_is_not_a_folder(host, root, file):
    with pytest.raises(NotADirectoryError):
        root.folder("file")
    with pytest.raises(NotADirectoryError):
        root.folder("file", create=True)
    with pytest.raises(NotADirectoryError):
        host.disks.directory(f"{root.path}/file")
    with pytest.raises(NotADirectoryError):
        host.disks.directory(f"{root.path}/file/below", create=True)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b", "../a"])
def test_names_are_single_components(root, name):
    for act in (
        root.exists,
        root.open,
        root.folder,
        root.remove,
        root.remove_folder,
        root.lock,
        lambda name: root.open(name, create=True),
        lambda name: root.rename(name, "target"),
    ):
        with pytest.raises(ValueError):
            act(name)
    root.open("source", create=True).close()
    with pytest.raises(ValueError):
        root.rename("source", name)


def test_rename_replaces_its_target(root):
    write_file_atomically(root, "a", b"one")
    write_file_atomically(root, "b", b"two")
    root.rename("a", "b")
    assert root.names() == ["b"]
    assert read_file(root, "b") == b"one"


def test_an_open_file_outlives_its_name(root):
    file = root.open("a", create=True)
    file.write_at(0, b"abc")
    root.remove("a")
    assert root.names() == []
    assert file.read_at(0, 3) == b"abc"
    file.close()


def test_folders_nest_and_are_removed_with_all_that_is_in_them(root):
    inner = root.folder("a", create=True).folder("b", create=True)
    inner.open("c", create=True).close()
    assert root.folder("a").folder("b").names() == ["c"]
    assert root.folder("a", create=True).names() == ["b"]
    root.remove_folder("a")
    assert root.names() == []


def test_a_folder_is_opened_by_its_path(host, root):
    root.folder("a", create=True).open("file", create=True).close()
    assert host.disks.directory(f"{root.path}/a").names() == ["file"]
    assert host.disks.directory(f"{root.path}/x/y/z", create=True).names() == []
    assert root.folder("x").folder("y").names() == ["z"]
    with pytest.raises(FileNotFoundError):
        host.disks.directory(f"{root.path}/missing")


def test_syncs_return(root, file):
    file.write_at(0, b"abc")
    file.sync()
    root.sync()


def test_a_lock_has_one_holder(root):
    lock = root.lock("LOCK")
    with pytest.raises(BlockingIOError):
        root.lock("LOCK")
    lock.close()
    root.lock("LOCK").close()


def test_a_lock_file_keeps_its_content(root):
    lock = root.lock("LOCK")
    lock.write_at(0, b"pid")
    lock.close()
    assert read_file(root, "LOCK") == b"pid"


def test_space_is_reported(root):
    space = root.space()
    assert 0 < space.free <= space.total


def test_a_file_is_replaced_atomically(root):
    write_file_atomically(root, "a", b"old")
    root.open("a.new", create=True).close()  # Left by a crash.
    write_file_atomically(root, "a", b"new")
    assert read_file(root, "a") == b"new"
    assert root.names() == ["a"]


OFFSETS = st.integers(0, 40 * KiB)
CHANGES = st.one_of(
    st.tuples(st.just("write"), OFFSETS, st.binary(max_size=20 * KiB)),
    st.tuples(st.just("truncate"), OFFSETS),
    st.tuples(st.just("allocate"), OFFSETS),
    st.tuples(st.just("sync")),
)


@pytest.mark.slow
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGES, max_size=12))
def test_a_file_behaves_as_an_array_of_bytes(root, changes):
    model = bytearray()
    if root.exists("array"):
        root.remove("array")
    file = root.open("array", create=True)
    for change in changes:
        match change:
            case ("write", offset, data):
                file.write_at(offset, data)
                if data:
                    model.extend(bytes(max(0, offset - len(model))))
                    model[offset : offset + len(data)] = data
            case ("truncate", size):
                file.truncate(size)
                model[:] = model[:size] + bytes(max(0, size - len(model)))
            case ("allocate", size):
                file.allocate(size)
                model.extend(bytes(max(0, size - len(model))))
            case ("sync",):
                file.sync()
        assert file.size == len(model)
    assert file.read_at(0, len(model) + 1) == bytes(model)
    file.close()


@pytest.fixture
def log(root):
    """A file whose blocks are written, as two openers see it: (direct, plain)."""
    file = root.open("log", create=True)
    file.allocate(MiB, zeros=True)
    file.sync()
    direct = root.open_direct("log")
    if direct is None:
        file.close()
        pytest.skip("this file system has no direct files")
    yield direct, file
    direct.close()
    file.close()


async def test_a_direct_write_is_there_for_every_reader(log):
    direct, file = log
    blocks = bytes(range(256)) * 32
    await direct.write(8192, blocks)
    assert file.read_at(8192, 8192) == blocks
    file.write_at(8192, b"x" * 5)  # Through the page cache.
    file.sync()
    await direct.write(12288, blocks[:4096])
    await direct.write(0, bytearray(4096))
    assert file.read_at(8192, 8192) == b"x" * 5 + blocks[5:4096] + blocks[:4096]


async def test_a_long_direct_write_is_written_whole(log):
    direct, file = log
    data = bytes(range(256)) * (600 * 4)
    await direct.write(4096, memoryview(data))
    assert file.read_at(4096, len(data)) == data


async def test_a_cancelled_direct_write_has_ended(log):
    direct, file = log
    with trio.CancelScope() as scope:
        scope.cancel()
        await direct.write(4096, b"a" * 4096)
    await direct.write(8192, b"b" * 4096)  # Nothing is under way any more.
    assert file.read_at(8192, 4096) == b"b" * 4096
