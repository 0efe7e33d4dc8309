"""Listing: pages of keys, versions and uploads, from ordered rows.

    rows of a slot --read--> entries, sorted --merge--> entries of all slots --cut--> page

Keys come from rows of LISTED: one for each current object, so nothing is skipped; versions
from rows of VERSION.  Rows are read by the batch, merged by a sort of what is sorted in
runs already, and handed on as they are: nothing is done in Python for each row that can
be done for all of them at once (`docs/internals/cost.md`).

A walk seeks over what is below a common prefix, once that is emitted.  Slots are merged
by name, so common prefixes that several slots have become one.  The page ends exactly at
`limit`; whether there is more is known, because one entry more is looked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from math import isqrt
from operator import itemgetter
from typing import Generic, TypeVar

import attrs

from objstore.frozen import frozen
from objstore.ids import Key, Slot, UploadId
from objstore.meta import payloads, schema
from objstore.meta.queries import ListAnswer, ListKeys, ListUploads, UploadsAnswer
from objstore.meta.rows import RowView
from objstore.meta.schema import Table
from objstore.meta.values import ListedRow, Upload
from objstore.rpc import codec

T = TypeVar("T")
Entry = tuple[bytes, T | None]  # (key, value) or (common prefix, None).
_Rows = list[tuple[bytes, bytes]]

_name = itemgetter(0)
_NIL = payloads.pack(None)
_SEEK_ROWS = 8  # Read at once where a common prefix may end the run.


@frozen
class Page(Generic[T]):
    """Merged entries.  reach: up to where they are all, if that is short of a full page."""

    entries: tuple[Entry[T], ...]
    is_truncated: bool
    reach: bytes | None = None


# ---- merging --------------------------------------------------------------------------


def merge(runs: Sequence[Sequence[Entry[T]]]) -> list[Entry[T]]:
    """Merge sorted runs; a common prefix in several of them comes once."""
    entries = list(chain.from_iterable(runs))
    if len(runs) > 1:
        # A sort of runs is a merge, in C; it keeps the order of one key's versions.
        entries.sort(key=_name)
        for at in range(len(entries) - 1, 0, -1):
            if entries[at][1] is None and entries[at] == entries[at - 1]:
                del entries[at]
    return entries


def join_pages(pages: Sequence[Page[T]], limit: int) -> Page[T]:
    """The one page out of those of several shards, each of at most `limit` entries.

    A shard's page that was cut holds `limit` entries (or says how far it came), so no
    entry of the joined page can lie beyond what was looked at.
    """
    found = merge([page.entries for page in pages])
    reach = min([page.reach for page in pages if page.reach is not None], default=None)
    if reach is not None:
        del found[bisect_right(found, reach, key=_name) :]
    if len(found) > limit:
        return Page(tuple(found[:limit]), is_truncated=True)
    return Page(tuple(found), any(page.is_truncated for page in pages), reach)


def share(limit: int, slot_count: int, of_slots: int) -> int:
    """How many entries of a page are in `slot_count` of `of_slots` slots, mostly.

    Keys are spread by hash, so a page has about as many of each slot; the margin is two
    and a half times the spread of that.  A page that it does not fill is filled by asking
    again: once in a few dozen pages, which costs less than more rows in every page.
    """
    if slot_count == of_slots:
        return limit
    mean = limit * slot_count // of_slots
    return min(limit, mean + 5 * isqrt(mean) // 2 + 4)


def share_of_shard(query: ListKeys, slot_count: int) -> int:
    """How many entries to ask of a shard that has `slot_count` of the query's slots.

    Common prefixes are in every slot and versions of a key in one: those get no share.
    """
    if query.delimiter or query.versions:
        return query.limit
    return share(query.limit, slot_count, len(query.slots))


def page_of(answer: ListAnswer, limit: int) -> Page[ListedRow]:
    """A shard's answer; one that was asked for its share says how far that reached."""
    is_short = answer.is_truncated and len(answer.names) < limit
    reach = answer.names[-1] if is_short else None
    return Page(answer.entries, answer.is_truncated, reach)


def rest_of(query: ListKeys, page: Page[ListedRow]) -> ListKeys | None:
    """The query for what a page of shares is short of; None where it is whole."""
    missing = query.limit - len(page.entries)
    if page.reach is None or missing == 0:
        return None
    return attrs.evolve(query, limit=missing, after=page.reach)


# ---- keys and versions ----------------------------------------------------------------


def list_keys(view: RowView, query: ListKeys) -> ListAnswer:
    """One page over the query's slots, all of which `view` has."""
    size = 1 + share(query.limit, 1, len(query.slots))
    kind = _VersionWalk if query.versions else _KeyWalk
    walks: list[_Walk] = [kind(view, slot, query, size) for slot in query.slots]
    found: list[Entry[bytes]] = []
    while walks and len(found) <= query.limit:
        for walk in walks:
            walk.read()
        walks = [walk for walk in walks if walk.entries]
        ends = [walk.entries[-1][0] for walk in walks if not walk.is_done]
        reach = min(ends, default=None)  # Up to here all walks have looked.
        found += merge([walk.take(reach) for walk in walks])
    shown = found[: query.limit]
    return ListAnswer(
        tuple([name for name, _ in shown]),
        b"".join([_NIL if row is None else row for _, row in shown]),
        is_truncated=len(found) > len(shown),
    )


class _Walk:
    """One slot's entries, in order, read by the batch."""

    TABLE: Table

    def __init__(self, view: RowView, slot: Slot, query: ListKeys, size: int) -> None:
        """size: how many rows to read at once."""
        self._view = view
        self._query = query
        self._base = schema.bucket_prefix(slot, self.TABLE, query.ref.bucket)
        begin, self._end = _range(self._base, query.prefix)
        self._begin = max(begin, self._after())
        self._size_max = size
        self._size = min(size, _SEEK_ROWS) if query.delimiter else size
        self.entries: list[Entry[bytes]] = []  # Read and not taken: names, packed Listed.
        self.is_done = self._begin >= self._end  # Nothing is left to read.

    def read(self) -> None:
        """Have some entries, unless there are none any more."""
        while not self.entries and not self.is_done:
            rows = self._view.page(self._begin, self._end, self._size)
            self.is_done = len(rows) < self._size
            if rows:
                self._begin = rows[-1][0] + b"\0"
                self.entries = self._entries(rows)
                if self._query.delimiter:
                    self._roll_up()
                self.is_done |= self._begin >= self._end

    def take(self, reach: bytes | None) -> list[Entry[bytes]]:
        """Take the entries up to a name; None: all."""
        entries = self.entries
        if reach is None or entries[-1][0] <= reach:
            self.entries = []
            return entries
        at = bisect_right(entries, reach, key=_name)
        self.entries = entries[at:]
        return entries[:at]

    def _entries(self, rows: _Rows) -> list[Entry[bytes]]:
        raise NotImplementedError

    def _after(self) -> bytes:
        """The first row that may be in the page, as far as `after` says."""
        query = self._query
        if not query.after:
            return b""
        if query.is_prefix_after:
            return schema.range_end(self._base + schema.escape(query.after))
        return self._after_key(schema.key_rows(self._base, query.after))

    def _after_key(self, prefix: bytes) -> bytes:
        """Likewise; `prefix` is what the rows of the key begin with."""
        return schema.versions_end(prefix)

    def _roll_up(self) -> None:
        """Put common prefixes for the keys under them; seek over the last, if it ends so.

        Batches grow as long as they end in no common prefix: then reading on is cheaper.
        """
        prefix, delimiter = self._query.prefix, self._query.delimiter
        entries: list[Entry[bytes]] = []
        within: bytes | None = None
        for entry in self.entries:
            if within is not None and entry[0].startswith(within):
                continue
            within = roll_up(entry[0], prefix, delimiter)
            entries.append(entry if within is None else (within, None))
        self.entries = entries
        if within is None:
            self._size = min(2 * self._size, self._size_max)
        else:
            self._size = min(self._size_max, _SEEK_ROWS)
            self._begin = schema.range_end(self._base + schema.escape(within))


class _KeyWalk(_Walk):
    """Of current objects."""

    TABLE = Table.LISTED

    def _entries(self, rows: _Rows) -> list[Entry[bytes]]:
        return list(zip(schema.keys_of_listed(rows), [row for _, row in rows], strict=True))


class _VersionWalk(_Walk):
    """Of all versions and delete markers, newest first within a key."""

    TABLE = Table.VERSION

    def _entries(self, rows: _Rows) -> list[Entry[bytes]]:
        entries: list[Entry[bytes]] = []
        for row_key, payload in rows:
            listed = payloads.listed(payloads.unpack_head(payload))
            entries.append((schema.key_of_version(row_key), payloads.pack(listed)))
        return entries

    def _after_key(self, prefix: bytes) -> bytes:
        order = self._query.after_version
        if order is None:
            return schema.versions_end(prefix)
        # Mostly the current version was seen; but an older one takes its place, and its
        # row, when that is deleted between two pages.
        payload = self._view.get(schema.current_key(prefix))
        if payload is None or payloads.unpack_head(payload).order < order:
            return prefix
        return schema.version_key(prefix, order) + b"\0"


def _range(base: bytes, prefix: bytes) -> tuple[bytes, bytes]:
    start = base + schema.escape(prefix)
    return start, schema.range_end(start)


def roll_up(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    """The common prefix that stands for `key`; None: the key stands for itself."""
    if not delimiter:
        return None
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]


# ---- uploads --------------------------------------------------------------------------


def list_uploads(view: RowView, query: ListUploads) -> UploadsAnswer:
    """One page over the query's slots, all of which `view` has."""
    each = query.limit + 1
    runs = [list(islice(_uploads_of(view, slot, query), each)) for slot in query.slots]
    found = merge(runs)
    return UploadsAnswer(tuple(found[: query.limit]), is_truncated=len(found) >= each)


def _uploads_of(view: RowView, slot: Slot, query: ListUploads) -> Iterator[Entry[Upload]]:
    bucket = query.ref.bucket
    base = schema.bucket_prefix(slot, Table.UPLOAD_BY_KEY, bucket)
    begin, end = _range(base, query.prefix)
    begin = max(begin, _after_upload(view, slot, base, query))
    while begin < end:
        for row_key, _ in view.scan(begin, end):
            key = schema.key_of_upload_by_key(row_key)
            rolled = roll_up(key, query.prefix, query.delimiter)
            if rolled is not None:
                if rolled != query.after:  # A page may end with a common prefix.
                    yield rolled, None
                begin = schema.range_end(base + schema.escape(rolled))
                break
            upload = schema.upload_of_row(row_key)
            payload = view.get(schema.upload_key(slot, bucket, upload))
            assert payload is not None, "UPLOAD_BY_KEY names an upload that is not there"
            yield key, codec.decode_as(Upload, payload)
        else:
            return


def _after_upload(view: RowView, slot: Slot, base: bytes, query: ListUploads) -> bytes:
    if not query.after:
        return b""
    of_key = schema.key_rows(base, query.after)
    if query.after_upload is None:
        return schema.versions_end(of_key)
    upload = _known_upload(view, slot, query, query.after_upload)
    if upload is None or upload.key != query.after:
        return of_key  # Gone since: better to show some again than to skip any.
    row_key = schema.upload_by_key_key(
        slot, query.ref.bucket, Key(query.after), upload.initiated_ms, upload.upload
    )
    return row_key + b"\0"


def _known_upload(
    view: RowView, slot: Slot, query: ListUploads, upload: UploadId
) -> Upload | None:
    if not schema.is_hex_16(upload):
        return None
    payload = view.get(schema.upload_key(slot, query.ref.bucket, upload))
    return None if payload is None else codec.decode_as(Upload, payload)
