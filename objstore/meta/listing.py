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
from typing import Generic, TypeVar

import attrs

from objstore.frozen import frozen
from objstore.ids import Key, Slot, UploadId
from objstore.meta import payloads, schema
from objstore.meta.queries import ListAnswer, ListKeys, ListUploads, UploadsAnswer
from objstore.meta.rows import RowView
from objstore.meta.schema import Table
from objstore.meta.values import Upload
from objstore.rpc import codec

T = TypeVar("T")
_Run = tuple[Sequence[bytes], Sequence[T]]  # Names in order, and what is shown of each.

_NIL = payloads.pack(None)  # What is shown of a common prefix: it is no object.
_SEEK_ROWS = 8  # Read at once where a common prefix may end the run.


@frozen
class Page(Generic[T]):
    """Merged entries.  reach: up to where they are all, if that is short of a full page."""

    names: Sequence[bytes]
    rows: Sequence[T]
    is_truncated: bool
    reach: bytes | None = None


# ---- merging --------------------------------------------------------------------------


def merge(runs: Sequence[_Run[T]], *, is_rolled_up: bool) -> _Run[T]:
    """Merge sorted runs; if they are rolled up, a prefix in several of them comes once."""
    if len(runs) == 1:
        return runs[0]
    names = list(chain.from_iterable([names for names, _ in runs]))
    rows = list(chain.from_iterable([rows for _, rows in runs]))
    # A sort of runs is a merge, in C; it keeps the order of one key's versions.
    order = sorted(range(len(names)), key=names.__getitem__)
    names, rows = [names[at] for at in order], [rows[at] for at in order]
    if is_rolled_up:
        for at in range(len(names) - 1, 0, -1):
            # Nothing but a common prefix is twice the same.
            if names[at] == names[at - 1] and rows[at] == rows[at - 1]:
                del names[at], rows[at]
    return names, rows


def join_pages(pages: Sequence[Page[T]], limit: int, *, is_rolled_up: bool) -> Page[T]:
    """The one page out of those of several shards, each of at most `limit` entries.

    A shard's page that was cut holds `limit` entries (or says how far it came), so no
    entry of the joined page can lie beyond what was looked at.
    """
    runs = [(page.names, page.rows) for page in pages]
    names, rows = merge(runs, is_rolled_up=is_rolled_up)
    reach = min([page.reach for page in pages if page.reach is not None], default=None)
    count = len(names) if reach is None else bisect_right(names, reach)
    if count > limit:
        return Page(names[:limit], rows[:limit], is_truncated=True)
    is_truncated = any(page.is_truncated for page in pages)
    return Page(names[:count], rows[:count], is_truncated, reach)


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


def join_answers(query: ListKeys, answers: Sequence[ListAnswer]) -> Page[bytes]:
    """The page out of the answers of several shards.

    One that was asked for its share says how far that reached.
    """
    pages = []
    for answer in answers:
        is_short = answer.is_truncated and len(answer.names) < query.limit
        reach = answer.names[-1] if is_short else None
        pages.append(Page(answer.names, answer.rows, answer.is_truncated, reach))
    return join_pages(pages, query.limit, is_rolled_up=bool(query.delimiter))


def rest_of(query: ListKeys, page: Page[bytes]) -> ListKeys | None:
    """The query for what a page of shares is short of; None where it is whole."""
    missing = query.limit - len(page.names)
    if page.reach is None or missing == 0:
        return None
    return attrs.evolve(query, limit=missing, after=page.reach)


# ---- keys and versions ----------------------------------------------------------------


def list_keys(view: RowView, query: ListKeys) -> ListAnswer:
    """One page over the query's slots, all of which `view` has."""
    size = 1 + share(query.limit, 1, len(query.slots))
    kind = _VersionWalk if query.versions else _KeyWalk
    walks: list[_Walk] = [kind(view, slot, query, size) for slot in query.slots]
    names: list[bytes] = []
    rows: list[bytes] = []
    while len(names) <= query.limit:
        for walk in walks:
            walk.read()
        walks = [walk for walk in walks if walk.names]
        if not walks:
            break
        ends = [walk.names[-1] for walk in walks if not walk.is_done]
        reach = min(ends, default=None)  # Up to here all walks have looked.
        runs = [walk.take(reach) for walk in walks]
        more_names, more_rows = merge(runs, is_rolled_up=bool(query.delimiter))
        names += more_names
        rows += more_rows
    limit = query.limit
    return ListAnswer(
        tuple(names[:limit]), tuple(rows[:limit]), is_truncated=len(names) > limit
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
        # Read and not taken.
        self.names: list[bytes] = []
        self.rows: list[bytes] = []
        self.is_done = self._begin >= self._end  # Nothing is left to read.

    def read(self) -> None:
        """Have some entries, unless there are none any more."""
        while not self.names and not self.is_done:
            rests, rows = self._view.page(self._base, self._begin, self._end, self._size)
            self.is_done = len(rests) < self._size
            if rests:
                self._begin = self._base + rests[-1] + b"\0"
                self._show(rests, rows)
                if self._query.delimiter:
                    self._roll_up()
                self.is_done |= self._begin >= self._end

    def take(self, reach: bytes | None) -> _Run[bytes]:
        """Take the entries up to a name; None: all."""
        names, rows = self.names, self.rows
        at = len(names) if reach is None else bisect_right(names, reach)
        self.names, self.rows = names[at:], rows[at:]
        return names[:at], rows[:at]

    def _show(self, rests: list[bytes], rows: list[bytes]) -> None:
        """Set `names` and `rows`; rests: what follows `_base` in the keys."""
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
        names: list[bytes] = []
        rows: list[bytes] = []
        within: bytes | None = None
        for name, row in zip(self.names, self.rows, strict=True):
            if within is not None and name.startswith(within):
                continue
            within = roll_up(name, prefix, delimiter)
            names.append(name if within is None else within)
            rows.append(row if within is None else _NIL)
        self.names, self.rows = names, rows
        if within is None:
            self._size = min(2 * self._size, self._size_max)
        else:
            self._size = min(self._size_max, _SEEK_ROWS)
            self._begin = schema.range_end(self._base + schema.escape(within))


class _KeyWalk(_Walk):
    """Of current objects."""

    TABLE = Table.LISTED

    def _show(self, rests: list[bytes], rows: list[bytes]) -> None:
        self.names = schema.keys_of_listed(rests)
        self.rows = rows


class _VersionWalk(_Walk):
    """Of all versions and delete markers, newest first within a key."""

    TABLE = Table.VERSION

    def _show(self, rests: list[bytes], rows: list[bytes]) -> None:
        self.names = schema.keys_of_versions(rests)
        heads = map(payloads.unpack_head, rows)
        self.rows = [payloads.pack(payloads.listed_version(head)) for head in heads]

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
    runs = [
        _run_of(list(islice(_uploads_of(view, slot, query), each))) for slot in query.slots
    ]
    names, uploads = merge(runs, is_rolled_up=bool(query.delimiter))
    entries = zip(names[: query.limit], uploads[: query.limit], strict=True)
    return UploadsAnswer(tuple(entries), is_truncated=len(names) >= each)


def join_uploads(query: ListUploads, answers: Sequence[UploadsAnswer]) -> UploadsAnswer:
    """The page out of the answers of several shards."""
    pages = [Page(*_run_of(a.entries), a.is_truncated) for a in answers]
    page = join_pages(pages, query.limit, is_rolled_up=bool(query.delimiter))
    entries = zip(page.names, page.rows, strict=True)
    return UploadsAnswer(tuple(entries), page.is_truncated)


def _run_of(entries: Sequence[tuple[bytes, T]]) -> _Run[T]:
    return [name for name, _ in entries], [shown for _, shown in entries]


def _uploads_of(
    view: RowView, slot: Slot, query: ListUploads
) -> Iterator[tuple[bytes, Upload | None]]:
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
