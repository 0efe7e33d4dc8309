"""The embedded ordered store on RocksDB, by rocksdict.

How the promises of `host.kv` are kept:

    a prefix of batches      RocksDB's own log is off, there is one column family, and
    survives a crash         memtables reach the disk in the order they were filled; a
                             batch lies in one memtable, so it is never seen half
    flushed batches survive  flush() writes the memtable as a table file, syncs it, its
                             folder and the manifest that names it
    damage is refused        every block read is checked (checksums, paranoid checks); a
                             scan asks for the iterator's status when it ends, because an
                             iterator that meets a bad block merely ends
    bounded memory           memtables, block cache (with indexes and filters inside) and
                             open files are capped.  Measured: 1 MiB resident on opening,
                             22 MiB with a full cache, 34 MiB with full memtables too

What it leaves to others: a CRC in each value (a bug or a bit flipped in memory before the
block's checksum was made is not seen here), and noticing that the store went *back*: a
manifest cut at its end opens as an older prefix, so whoever releases its own log below
`flush` must compare what the store says with where that log begins.

Four traps of rocksdict 0.3.29, found by experiment and held by tests.
Options that are not given for the column family too are ignored where a store is there
already: it has those it was made with, and a block cache of RocksDB's default size.
`set_iterate_lower_bound` sets the *upper* bound, so a scan seeks to its start and knows its
lower end by itself.  `items()` ends without an error at a corrupt block, so scans use
`iter()` and ask its `status()`, and a page that `items()` left short is scanned from
where it ended.  Iterators of its `Snapshot` show the *present* rows, so a
snapshot here is one iterator of the database, made at that moment, which keeps showing it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator

import attrs
import rocksdict

from objstore.errors import CorruptData
from objstore.host.kv import Batch
from objstore.units import KiB, MiB

# Two of these at most: one filling while the other is written out.
MEMTABLE_SIZE = 16 * MiB
MEMTABLES_MAX = 2
MEMTABLE_BLOOM_RATIO = 0.02  # Of a memtable's size: 320 KiB beside each.
# Hot rows, and every index and filter block; what misses it is a pread from page cache.
BLOCK_CACHE_SIZE = 16 * MiB
# A table file is 32 MiB, so this covers some 8 GiB of metadata before files are reopened.
OPEN_FILES_MAX = 256
TABLE_FILE_SIZE = 32 * MiB
BLOCK_SIZE = 8 * KiB  # Rows of 300 bytes compress well in it; a get reads one.
BLOOM_BITS = 10  # One false positive in a hundred gets of an absent key.
BACKGROUND_JOBS = 2
INFO_LOG_SIZE = 1 * MiB
INFO_LOGS_MAX = 3
MANIFEST_SIZE = 4 * MiB
_WRAPPER_FILE = "rocksdict-config.json"  # Rewritten by rocksdict at every opening.


@attrs.define(eq=False)
class RocksSnapshot:
    """The state of one moment.  Pins what it sees, memtables too, until closed."""

    _cursor: rocksdict.RdictIter | None  # One for all; whoever moved it last knows where.
    _path: str
    _mover: object = None

    def get(self, key: bytes) -> bytes | None:
        cursor = self._move(None, key)
        found = cursor.valid() and cursor.key() == key
        value: bytes | None = cursor.value() if found else None
        self._check(cursor)
        return value

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        if start >= end:
            return
        me = object()
        cursor = self._move(me, end if reverse else start, reverse=reverse)
        while cursor.valid():
            key: bytes = cursor.key()
            if key < start or (key >= end and not reverse):
                return
            if key < end:
                yield key, cursor.value()
                if self._mover is not me:  # Another scan or get went elsewhere with it.
                    cursor = self._move(me, key, reverse=reverse)
            if reverse:
                cursor.prev()
            else:
                cursor.next()
        self._check(cursor)

    def page(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return list(itertools.islice(self.scan(start, end), limit))

    def close(self) -> None:
        self._cursor = None

    def _move(
        self, mover: object, key: bytes, *, reverse: bool = False
    ) -> rocksdict.RdictIter:
        """Put the cursor on the first key from `key` on (`reverse`: the last up to it)."""
        if self._cursor is None:
            raise OSError(errno.EBADF, "the snapshot is closed", self._path)
        self._mover = mover
        if reverse:
            self._cursor.seek_for_prev(key)
        else:
            self._cursor.seek(key)
        return self._cursor

    def _check(self, cursor: rocksdict.RdictIter) -> None:
        """Was it the end of the rows, or a block that could not be read?"""
        try:
            cursor.status()
        except Exception as error:
            raise _translated(error, "read", self._path) from error


@attrs.define(eq=False)
class RocksStore:
    """The store in one folder, which it locks."""

    _database: rocksdict.Rdict
    _path: str
    _snapshots: weakref.WeakSet[RocksSnapshot] = attrs.field(factory=weakref.WeakSet)

    @classmethod
    def open(cls, path: str) -> RocksStore:
        """Open the store in folder `path`, or make it.

        Raises CorruptData, BlockingIOError where another process has it, OSError.
        """
        try:
            database = _open_database(path)
        except Exception as error:
            raise _translated(error, "open", path) from error
        return cls(database, path)

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._database.get(key)
        except Exception as error:
            raise _translated(error, "read", self._path) from error
        return value

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        # Not the snapshot's loop with a bound to it: this one is hot (SPEED).
        if start >= end:
            return
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(end)
        try:
            cursor = self._database.iter(options)
            if reverse:
                cursor.seek_for_prev(end)
            else:
                cursor.seek(start)
            step = cursor.prev if reverse else cursor.next
            while cursor.valid():
                key: bytes = cursor.key()
                if reverse and key < start:
                    return
                yield key, cursor.value()
                step()
            cursor.status()  # The end of the rows, or a block that could not be read?
        except Exception as error:
            raise _translated(error, "scan", self._path) from error

    def page(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        if start >= end:
            return []
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(end)
        try:
            found = self._database.items(from_key=start, read_opt=options)
            rows: list[tuple[bytes, bytes]] = list(itertools.islice(found, limit))  # type: ignore[arg-type]
        except Exception as error:
            raise _translated(error, "scan", self._path) from error
        if len(rows) < limit:
            # The end of the rows, or a block that could not be read?  A scan can tell; and
            # where the drive reads it this time, what comes after is there.
            rest = self.scan(rows[-1][0] + b"\0" if rows else start, end)
            rows += itertools.islice(rest, limit - len(rows))
        return rows

    def batch(self) -> Batch:
        # The library's own, as it is: without a call of ours around each row.
        return rocksdict.WriteBatch(True)

    def write(self, batch: Batch) -> None:
        assert isinstance(batch, rocksdict.WriteBatch)
        try:
            self._database.write(batch)
        except Exception as error:
            raise _translated(error, "write", self._path) from error

    def snapshot(self) -> RocksSnapshot:
        try:
            snapshot = RocksSnapshot(self._database.iter(), self._path)
        except Exception as error:
            raise _translated(error, "read", self._path) from error
        self._snapshots.add(snapshot)
        return snapshot

    def flush(self) -> None:
        try:
            self._database.flush(wait=True)
        except Exception as error:
            raise _translated(error, "flush", self._path) from error

    def memory_size(self) -> int:
        try:
            size = self._database.property_int_value("rocksdb.cur-size-all-mem-tables")
        except Exception as error:
            raise _translated(error, "measure", self._path) from error
        assert size is not None
        return size

    def close(self) -> None:
        # A live snapshot would keep the database, and its lock, open behind our back.
        for snapshot in list(self._snapshots):
            snapshot.close()
        try:
            self._database.flush(wait=True)
        except Exception as error:
            raise _translated(error, "flush", self._path) from error
        finally:
            self._close_database()

    def _close_database(self) -> None:
        try:
            self._database.close()
        except Exception as error:
            raise _translated(error, "close", self._path) from error


@attrs.define(eq=False)
class RocksReader:
    """The store of a stopped node, opened in a way that changes nothing in its folder.

    A database that is opened, even for reading, has files written beside it (rocksdict's
    own, RocksDB's info log).  So it is opened in a temporary folder of links.
    """

    _store: RocksStore
    _path: str  # What to show a person.
    _links: tempfile.TemporaryDirectory[str]

    @classmethod
    def open(cls, path: str) -> RocksReader:
        """Open the store in folder `path`, which nobody may have open for writing.

        Raises CorruptData, FileNotFoundError where there is none, OSError.
        """
        links = tempfile.TemporaryDirectory(prefix="objstore-check-")
        try:
            _link_files(path, links.name)
            with _naming(links.name, path):
                return cls(RocksStore(_open_to_read(links.name), path), path, links)
        except BaseException:
            links.cleanup()
            raise

    def get(self, key: bytes) -> bytes | None:
        with _naming(self._links.name, self._path):
            return self._store.get(key)

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        with _naming(self._links.name, self._path):
            yield from self._store.scan(start, end, reverse=reverse)

    def page(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return list(itertools.islice(self.scan(start, end), limit))

    def close(self) -> None:
        self._store._close_database()
        self._links.cleanup()


def _link_files(path: str, target: str) -> None:
    for name in sorted(os.listdir(path)):
        source = os.path.join(path, name)
        if name == _WRAPPER_FILE:
            shutil.copyfile(source, os.path.join(target, name))
        elif name != "LOCK" and os.path.isfile(source):
            os.symlink(os.path.abspath(source), os.path.join(target, name))
    if not os.path.lexists(os.path.join(target, "CURRENT")):
        raise FileNotFoundError(errno.ENOENT, "no metadata store is here", path)


@contextlib.contextmanager
def _naming(links: str, path: str) -> Iterator[None]:
    """Have errors name the files themselves and not the links to them."""
    try:
        yield
    except (CorruptData, OSError) as error:
        texts = [str(text).replace(links, path) for text in error.args[1:2] or error.args]
        if isinstance(error, OSError):
            raise OSError(error.errno, *texts, path) from error
        raise CorruptData(*texts) from error


def _open_to_read(path: str) -> rocksdict.Rdict:
    options = _options(
        rocksdict.DBCompressionType.none()
    )  # Blocks say how they are packed.
    options.create_if_missing(False)
    try:
        database = _opened(path, options, rocksdict.AccessType.read_only())
    except Exception as error:
        raise _translated(error, "open", path) from error
    read = rocksdict.ReadOptions()
    read.set_verify_checksums(True)
    database.set_read_options(read)
    return database


def _open_database(path: str) -> rocksdict.Rdict:
    compression = rocksdict.DBCompressionType.lz4()
    access = rocksdict.AccessType.read_write()
    try:
        database = _opened(path, _options(compression), access)
    except Exception as error:
        if "not linked" not in str(error):
            raise
        none = rocksdict.DBCompressionType.none()
        database = _opened(path, _options(none), access)
    write = rocksdict.WriteOptions()
    # An attribute, whatever the package's type stub says.
    write.disable_wal = True  # type: ignore[method-assign,assignment]
    database.set_write_options(write)
    read = rocksdict.ReadOptions()
    read.set_verify_checksums(True)
    database.set_read_options(read)
    return database


def _opened(
    path: str, options: rocksdict.Options, access: rocksdict.AccessType
) -> rocksdict.Rdict:
    return rocksdict.Rdict(path, options, {"default": options}, access)


def _options(compression: rocksdict.DBCompressionType) -> rocksdict.Options:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
    options.set_is_fd_close_on_exec(True)
    options.set_compression_type(compression)
    options.set_block_based_table_factory(_table_options())
    options.set_write_buffer_size(MEMTABLE_SIZE)
    options.set_max_write_buffer_number(MEMTABLES_MAX)
    # Every command asks for rows that are not there: no search of the memtable for those.
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO)
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_max_background_jobs(BACKGROUND_JOBS)
    options.set_target_file_size_base(TABLE_FILE_SIZE)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_bytes_per_sync(MiB)  # No burst of dirty pages in front of the WAL's sync.
    options.set_max_log_file_size(INFO_LOG_SIZE)
    options.set_keep_log_file_num(INFO_LOGS_MAX)
    options.set_max_manifest_file_size(MANIFEST_SIZE)
    options.set_manifest_preallocation_size(64 * KiB)
    # Statistics of its own would be kept in memory and dumped to the info log.
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def _table_options() -> rocksdict.BlockBasedOptions:
    table = rocksdict.BlockBasedOptions()
    table.set_block_size(BLOCK_SIZE)
    table.set_block_cache(rocksdict.Cache(BLOCK_CACHE_SIZE))
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_bloom_filter(BLOOM_BITS, False)
    # In parts with an index of their own: a table of small rows has a megabyte of each,
    # more than a shard of the cache takes, and every get would read and verify them all.
    table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(BLOCK_SIZE)
    table.set_pin_top_level_index_and_filter(True)
    table.set_format_version(5)
    # Not CRC32C: the wheel makes it without the processor's help, which was a fifth of all
    # that puts cost the store.  Each file says which its blocks carry.
    table.set_checksum_type(rocksdict.ChecksumType.xxh3())
    return table


def _translated(error: Exception, deed: str, path: str) -> Exception:
    """What to raise for an error of rocksdict, which has one class and a text."""
    if isinstance(error, OSError | CorruptData):
        return error
    text = str(error)
    if isinstance(error, rocksdict.DbClosedError):
        return OSError(errno.EBADF, "the metadata store is closed", path)
    if "No space left on device" in text:
        code = errno.ENOSPC
    elif "lock hold by current process" in text or "While lock file" in text:
        return BlockingIOError(
            errno.EAGAIN, f"another process has the metadata store open: {text}", path
        )
    elif text.startswith("Corruption") or (deed == "open" and _is_damage(text)):
        return CorruptData(f"cannot {deed} the metadata store at {path}: {text}")
    else:
        code = errno.EIO
    return OSError(code, f"cannot {deed} the metadata store: {text}", path)


def _is_damage(text: str) -> bool:
    """Whether an error at opening speaks of the files' content and not of the system."""
    return (
        os.strerror(errno.ENOENT) in text
        or text.startswith("Invalid argument")
        or "is not supported" in text
    )
