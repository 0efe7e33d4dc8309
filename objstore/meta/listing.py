"""Listing: pages of keys, versions and uploads, from ordered rows.

    rows of a slot --walk--> entries, sorted --merge--> entries of all slots --cut--> page

A walk seeks instead of reading what cannot be in the page: over the older versions of a
key, and over everything below a common prefix once that is emitted.  Slots are merged by
name, so common prefixes that several slots have become one.  The page ends exactly at
`limit`; whether there is more is known, because one entry more is looked for.

A walk over many delete markers stops at a bound of rows.  Then the page ends there and
`scanned_to` says how far all slots were looked through; `next_page` goes on from there.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterable, Iterator, Sequence
from math import isqrt
from operator import itemgetter
from typing import Generic, TypeVar

import attrs

from objstore.ids import Key, Slot, UploadId
from objstore.limits import SCAN_ROWS_MAX
from objstore.meta import payloads, schema
from objstore.meta.queries import ListAnswer, ListKeys, ListUploads, UploadsAnswer
from objstore.meta.rows import RowView
from objstore.meta.schema import Table
from objstore.meta.values import Listed, Upload
from objstore.rpc import codec

T = TypeVar("T")
Entry = tuple[bytes, T | None]  # (key, value) or (common prefix, None).
# Entries, and in the end where to seek to; None: nothing is left.
_Steps = Generator[tuple[bytes, Listed | None], None, bytes | None]


@attrs.frozen
class Page(Generic[T]):
    """Merged entries; `scanned_to` as in ListAnswer."""

    entries: tuple[Entry[T], ...]
    is_truncated: bool
    scanned_to: bytes | None = None


# ---- merging --------------------------------------------------------------------------


def merge(streams: Iterable[Iterable[Entry[T]]]) -> Iterator[Entry[T]]:
    """Merge sorted streams; a common prefix in several of them comes once."""
    last_prefix: bytes | None = None
    for entry in heapq.merge(*streams, key=itemgetter(0)):
        if entry[1] is None:
            if entry[0] == last_prefix:
                continue
            last_prefix = entry[0]
        yield entry


def join_pages(pages: Sequence[Page[T]], limit: int) -> Page[T]:
    """The one page out of those of several shards, each of at most `limit` entries.

    A shard's page that was cut holds `limit` entries (or says how far it came), so no
    entry of the joined page can lie beyond what was looked at.
    """
    reaches = [page.scanned_to for page in pages if page.scanned_to is not None]
    reach = min(reaches, default=None)
    found: list[Entry[T]] = []
    for entry in merge([page.entries for page in pages]):
        if len(found) == limit:
            return Page(tuple(found), is_truncated=True)
        if reach is not None and entry[0] > reach:
            break
        found.append(entry)
    is_truncated = reach is not None or any(page.is_truncated for page in pages)
    return Page(tuple(found), is_truncated, reach)


def share(query: ListKeys, slot_count: int) -> int:
    """How many entries to ask of a shard that has `slot_count` of the query's slots.

    Keys are spread by hash, so a page has about as many of each slot; the margin is four
    times the spread of that.  A page that it does not fill is filled by asking again.
    Common prefixes are in every slot and versions of a key in one: those get no share.
    """
    if query.delimiter or query.versions:
        return query.limit
    mean = query.limit * slot_count // len(query.slots)
    return min(query.limit, mean + 4 * isqrt(mean) + 8)


def page_of(answer: ListAnswer, limit: int) -> Page[Listed]:
    """A shard's answer; one that was asked for its share says how far that reached."""
    reach = answer.scanned_to
    if reach is None and answer.is_truncated and len(answer.entries) < limit:
        reach = answer.entries[-1][0]
    return Page(answer.entries, answer.is_truncated, reach)


def next_page(query: ListKeys, page: ListAnswer) -> ListKeys:
    """The query for the rest of a page that stopped at its row bound.

    Where the page is full already, for one entry more: whether there is any.
    """
    assert page.scanned_to is not None
    rest = attrs.evolve(
        query,
        limit=max(1, query.limit - len(page.entries)),
        after=page.scanned_to,
        after_version=None,
        is_prefix_after=False,
    )
    last, value = page.entries[-1] if page.entries else (b"", None)
    if last and value is None and page.scanned_to.startswith(last):
        rest = attrs.evolve(rest, after=last, is_prefix_after=True)
    elif query.is_prefix_after and page.scanned_to.startswith(query.after):
        rest = attrs.evolve(rest, after=query.after, is_prefix_after=True)
    return rest


# ---- keys and versions ----------------------------------------------------------------


def list_keys(
    view: RowView, query: ListKeys, *, rows_max: int = SCAN_ROWS_MAX
) -> ListAnswer:
    """One page over the query's slots, all of which `view` has."""
    rows_each = max(1, rows_max // max(1, len(query.slots)))
    stopped: list[_KeyWalk] = []
    walks = [_KeyWalk(view, slot, query, rows_each, stopped) for slot in query.slots]
    found: list[Entry[Listed]] = []
    for entry in merge([walk.entries() for walk in walks]):
        if stopped and entry[0] > (reach := _reach(stopped)):
            return ListAnswer(tuple(found), is_truncated=True, scanned_to=reach)
        if len(found) == query.limit:
            return ListAnswer(tuple(found), is_truncated=True)
        found.append(entry)
    if stopped:
        return ListAnswer(tuple(found), is_truncated=True, scanned_to=_reach(stopped))
    return ListAnswer(tuple(found), is_truncated=False)


def _reach(stopped: list[_KeyWalk]) -> bytes:
    """Up to which key all walks have looked, some of which stopped early."""
    return min(walk.seen for walk in stopped)


class _KeyWalk:
    """One slot's entries, in order."""

    def __init__(
        self,
        view: RowView,
        slot: Slot,
        query: ListKeys,
        rows_max: int,
        stopped: list[_KeyWalk],
    ) -> None:
        """stopped: where a walk enters itself that reaches its bound of rows."""
        self._view = view
        self._query = query
        self._rows_left = rows_max
        self._base = schema.bucket_prefix(slot, Table.VERSION, query.ref.bucket)
        self.seen = b""  # The last key looked at.
        self._stopped = stopped

    def entries(self) -> Iterator[Entry[Listed]]:
        query = self._query
        begin, end = _range(self._base, query.prefix)
        begin = max(begin, self._after())
        step = self._versions if query.versions else self._keys
        while begin < end:
            position = yield from step(begin, end)
            if position is None:
                return
            begin = position

    def _after(self) -> bytes:
        """The first row that may be in the page, as far as `after` says."""
        query = self._query
        if not query.after:
            return b""
        if query.is_prefix_after:
            return schema.range_end(self._base + schema.escape(query.after))
        prefix = schema.key_rows(self._base, query.after)
        return schema.versions_end(prefix) if query.after_version is None else prefix

    def _keys(self, begin: bytes, end: bytes) -> _Steps:
        """Walk current objects until a seek pays; gives where to go on, None at the end."""
        query = self._query
        newest = b"\xff\xff\xff"  # What all rows of the last key begin with.
        for row_key, payload in self._view.scan(begin, end):
            if row_key.startswith(newest):
                return schema.versions_end(newest)
            key = schema.key_of_version(row_key)
            if self._rows_left == 0:
                self._stopped.append(self)
                return None
            self._rows_left -= 1
            newest = row_key[:-8]
            head = payloads.unpack_head(payload)
            if head.is_delete_marker:
                self.seen = key
                continue
            rolled = roll_up(key, query.prefix, query.delimiter)
            if rolled is not None:
                yield rolled, None
                self.seen = key
                return schema.range_end(self._base + schema.escape(rolled))
            yield key, payloads.listed(head)
            self.seen = key
        return None

    def _versions(self, begin: bytes, end: bytes) -> _Steps:
        query = self._query
        for row_key, payload in self._view.scan(begin, end):
            key = schema.key_of_version(row_key)
            rolled = roll_up(key, query.prefix, query.delimiter)
            if rolled is not None:
                yield rolled, None
                return schema.range_end(self._base + schema.escape(rolled))
            head = payloads.unpack_head(payload)
            seen = query.after_version
            if seen is not None and head.order >= seen and key == query.after:
                # The current version, mostly; but an older one takes its place, and its
                # row, when that is deleted between two pages.
                return schema.version_key(row_key[:-8], seen) + b"\0"
            yield key, payloads.listed(head)
        return None


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
    found: list[Entry[Upload]] = []
    for entry in merge([_uploads_of(view, slot, query) for slot in query.slots]):
        if len(found) == query.limit:
            return UploadsAnswer(tuple(found), is_truncated=True)
        found.append(entry)
    return UploadsAnswer(tuple(found), is_truncated=False)


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
