"""What RocksDB does when it crashes, is damaged, or cannot write."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil

import pytest
import rocksdict

from objstore.errors import CorruptData
from objstore.host import rocks_kv
from objstore.host.rocks_kv import BLOCK_SIZE, INFO_LOGS_MAX, RocksStore, _translated

LAST = b"\xff" * 8
ROWS = [(b"k%05d" % number, os.urandom(100)) for number in range(5000)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    return str(path)


@pytest.fixture
def filled(path):
    """The path of a closed store with ROWS."""
    store = RocksStore.open(path)
    write(store, ROWS)
    store.close()
    return path


def write(store, rows):
    batch = store.batch()
    for key, value in rows:
        batch.put(key, value)
    store.write(batch)


def crashed_copy(path, tmp_path):
    """What a process that dies now would leave: the files, without what is in memory."""
    copy = str(tmp_path / "copy")
    shutil.copytree(path, copy)
    return copy


def tables(path):
    return [f"{path}/{name}" for name in os.listdir(path) if name.endswith(".sst")]


def flip_bit(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes((byte ^ 1,)))


def test_a_crash_leaves_the_batches_before_the_last_flush(path, tmp_path):
    """F01: our WAL may be released below a flush, and replays what came after."""
    store = RocksStore.open(path)
    for number in range(10):
        write(store, [(b"row%d" % number, b"value"), (b"applied", b"%d" % number)])
        if number == 6:
            store.flush()
    copy = RocksStore.open(crashed_copy(path, tmp_path))
    assert copy.get(b"applied") == b"6"
    assert [key for key, _ in copy.scan(b"row", LAST)] == [b"row%d" % n for n in range(7)]
    copy.close()
    store.close()


@pytest.mark.slow
def test_a_crash_leaves_whole_batches_where_memtables_were_written_on_their_own(
    path, tmp_path
):
    store = RocksStore.open(path)
    for number in range(40):
        value = os.urandom(500_000)
        write(store, [(b"a%03d" % number, value), (b"b%03d" % number, value)])
    copy = RocksStore.open(crashed_copy(path, tmp_path))
    left = [key[1:] for key, _ in copy.scan(b"a", b"b")]
    assert left == [b"%03d" % number for number in range(len(left))]
    assert left == [key[1:] for key, _ in copy.scan(b"b", b"c")]
    copy.close()
    store.close()


def test_a_flipped_bit_is_refused_by_get_and_by_scan(filled):
    """F06: bit rot in a table's data block."""
    (table,) = tables(filled)
    flip_bit(table, os.path.getsize(table) // 2)
    store = RocksStore.open(filled)
    with pytest.raises(CorruptData):
        [store.get(key) for key, _ in ROWS]
    with pytest.raises(CorruptData):
        list(store.scan(b"", LAST))
    with pytest.raises(CorruptData):
        list(store.scan(b"", LAST, reverse=True))
    with pytest.raises(CorruptData):
        store.page(b"", LAST, len(ROWS))
    snapshot = store.snapshot()
    with pytest.raises(CorruptData):
        list(snapshot.scan(b"", LAST))
    snapshot.close()
    store.close()


@pytest.mark.parametrize("read", [0, 10])
def test_a_page_that_ended_at_a_block_the_drive_then_read_is_whole(filled, read):
    """F10: an EIO that comes once ends `items()` without a word."""

    class Hiccup:
        def __init__(self, database):
            self.database = database

        def items(self, **arguments):
            return itertools.islice(self.database.items(**arguments), read)

        def __getattr__(self, name):
            return getattr(self.database, name)

    store = RocksStore.open(filled)
    database, store._database = store._database, Hiccup(store._database)
    assert store.page(b"", LAST, 20) == ROWS[:20]
    assert store.page(b"", LAST, len(ROWS) + 1) == ROWS
    store._database = database
    store.close()


@pytest.mark.slow
def test_every_flipped_bit_of_a_table_is_refused_or_without_effect(filled):
    """F06: no wrong value is ever served, wherever the bit lies."""
    (table,) = tables(filled)
    size = os.path.getsize(table)
    for offset in range(0, size, size // 20):
        flip_bit(table, offset)
        store = None
        try:
            store = RocksStore.open(filled)
            assert list(store.scan(b"", LAST)) == ROWS
            assert store.page(b"", LAST, len(ROWS) + 1) == ROWS
        except CorruptData:
            pass
        finally:
            if store is not None:
                store._close_database()
            flip_bit(table, offset)


def test_blocks_carry_xxh3_and_those_with_crc32c_are_read(path, monkeypatch):
    options = rocks_kv._table_options()
    options.set_checksum_type(rocksdict.ChecksumType.crc32c())
    with monkeypatch.context() as before:
        before.setattr(rocks_kv, "_table_options", lambda: options)
        store = RocksStore.open(path)
    write(store, ROWS[:2500])
    store.close()
    store = RocksStore.open(path)
    write(store, ROWS[2500:])
    store.flush()
    try:
        assert [checksum_type(table) for table in sorted(tables(path))] == [1, 4]
        assert list(store.scan(b"", LAST)) == ROWS
    finally:
        store.close()


def checksum_type(table):
    """The first byte of a footer of format version 5, which is 53 bytes at a table's end."""
    with open(table, "rb") as file:
        file.seek(-53, os.SEEK_END)
        return file.read(1)[0]


def test_a_missing_table_is_refused_at_opening(filled):
    """F08: a file that went away."""
    for table in tables(filled):
        os.remove(table)
    with pytest.raises(CorruptData):
        RocksStore.open(filled)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"MANIFEST-999999\n"])
def test_a_damaged_current_file_is_refused_at_opening(filled, content):
    with open(f"{filled}/CURRENT", "wb") as file:
        file.write(content)
    with pytest.raises(CorruptData):
        RocksStore.open(filled)


def test_a_flipped_bit_in_the_manifest_never_shows_wrong_rows(filled):
    (manifest,) = [name for name in os.listdir(filled) if name.startswith("MANIFEST")]
    for offset in range(0, os.path.getsize(f"{filled}/{manifest}"), 17):
        copy = f"{filled}-{offset}"
        shutil.copytree(filled, copy)
        flip_bit(f"{copy}/{manifest}", offset)
        try:
            store = RocksStore.open(copy)
        except CorruptData:
            continue
        # A tail that is cut off reads as an older prefix: here, as nothing.
        assert list(store.scan(b"", LAST)) in ([], ROWS)
        store.close()


def test_a_store_that_another_process_has_open_is_refused(path):
    store = RocksStore.open(path)
    with pytest.raises(BlockingIOError):
        RocksStore.open(path)
    store.close()


def test_indexes_and_filters_are_read_in_parts_and_not_by_the_megabyte(path):
    """A million objects: whole ones fit no shard of the cache, so each get read them."""
    store = RocksStore.open(path)
    write(store, [(b"key%012d" % number, os.urandom(40)) for number in range(100_000)])
    store.flush()
    text = store._database.property_value("rocksdb.aggregated-table-properties")
    parts = int(re.search(r"# index partitions=(\d+)", text)[1])
    size = int(re.search(r"index block size [^=]*=(\d+)", text)[1])
    assert size / parts <= BLOCK_SIZE
    top = int(re.search(r"top-level index size=(\d+)", text)[1])
    assert top <= BLOCK_SIZE  # Pinned in the cache.
    store.close()


def test_the_own_log_of_the_store_stays_empty(path):
    store = RocksStore.open(path)
    write(store, ROWS)
    logs = [name for name in os.listdir(path) if name.endswith(".log")]
    assert sum(os.path.getsize(f"{path}/{name}") for name in logs) == 0
    store.close()


def test_info_logs_are_bounded(path):
    for _ in range(INFO_LOGS_MAX + 3):
        RocksStore.open(path).close()
    logs = [name for name in os.listdir(path) if name.startswith("LOG")]
    assert len(logs) <= INFO_LOGS_MAX + 1


def test_scans_of_one_snapshot_do_not_disturb_each_other(path):
    store = RocksStore.open(path)
    write(store, [(b"%d" % number, b"") for number in range(10)])
    snapshot = store.snapshot()
    write(store, [(b"55", b"")])
    forward = snapshot.scan(b"0", LAST)
    backward = snapshot.scan(b"0", LAST, reverse=True)
    seen = []
    for (up, _), (down, _) in zip(forward, backward, strict=True):
        assert snapshot.get(b"3") == b""
        assert snapshot.get(b"55") is None
        seen.append((up, down))
    assert seen == [(b"%d" % n, b"%d" % (9 - n)) for n in range(10)]
    snapshot.close()
    store.close()


@pytest.mark.parametrize(
    ("text", "deed", "kind", "code"),
    [
        (
            "IO error: No space left on device: While appending",
            "write",
            OSError,
            errno.ENOSPC,
        ),
        ("IO error: While fdatasync: Input/output error", "flush", OSError, errno.EIO),
        ("Corruption: block checksum mismatch", "read", CorruptData, None),
        ("IO error: No such file or directory: 1.sst", "open", CorruptData, None),
        ("IO error: No such file or directory: 1.sst", "read", OSError, errno.EIO),
        ("Shutdown in progress", "write", OSError, errno.EIO),
    ],
)
def test_every_error_of_rocksdb_gets_a_class_and_a_sentence(text, deed, kind, code):
    """F09, F10, F11: the caller ends the process on any of them."""
    error = _translated(Exception(text), deed, "/data/store")
    assert isinstance(error, kind)
    assert f"cannot {deed} the metadata store" in str(error)
    assert getattr(error, "errno", None) == code
