"""Pages of keys, versions and uploads, against a model that sorts everything."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.ids import Key, Slot
from objstore.meta import commands as c
from objstore.meta import listing
from objstore.meta import queries as q
from objstore.meta.audit import audit_slot
from objstore.meta.slots import slot_of
from objstore.meta.values import BucketFence
from objstore.rpc import codec
from tests.unit.meta.builders import BUCKET, REF, Shard, draft, packed, upload, upload_id

SPAN = (Slot(7), Slot(9), Slot(2000))
Entry = tuple[bytes, bool]  # (name, whether it is a common prefix)

letters = st.sampled_from([b"a", b"b", b"/", b"\0", b"\xff", b"//", b"\xc3\xa4", b"z"])
keys = st.lists(letters, min_size=1, max_size=5).map(b"".join)
prefixes = st.lists(letters, max_size=3).map(b"".join)
delimiters = st.sampled_from([b"", b"/", b"//", b"a", b"\0", b"b/"])


def put_all(shard: Shard, names: set[bytes], deleted: set[bytes]) -> None:
    for slot in SPAN:
        fence = BucketFence(BUCKET, 1, "enabled" if deleted else "unversioned", True)
        shard.must(c.OpenBucket(slot, fence))
    for name in sorted(names | deleted):
        slot = slot_of(BUCKET, Key(name), SPAN)
        shard.must(c.PutVersion(slot, REF, Key(name), packed(name)))
        if name in deleted:
            shard.must(c.DeleteVersion(slot, REF, Key(name)))


def model(names: set[bytes], prefix: bytes, delimiter: bytes) -> list[Entry]:
    found: list[Entry] = []
    for name in sorted(names):
        if not name.startswith(prefix):
            continue
        rolled = listing.roll_up(name, prefix, delimiter)
        entry = (name, False) if rolled is None else (rolled, True)
        if entry not in found:
            found.append(entry)
    return found


def shape(answer: Any) -> list[Entry]:
    rows = answer.objects()
    return [(name, row is None) for name, row in zip(answer.names, rows, strict=True)]


def pages(shard: Shard, query: q.ListKeys, ask: Any) -> list[list[Entry]]:
    """All pages, each asked for behind the last entry of the one before."""
    found = []
    while True:
        answer = ask(shard, query)
        found.append(shape(answer))
        if not answer.is_truncated:
            return found
        last, is_prefix = found[-1][-1]
        query = attrs.evolve(query, after=last, is_prefix_after=is_prefix)


def ask_at_once(shard: Shard, query: q.ListKeys) -> q.ListAnswer:
    return listing.list_keys(shard.view, query)


def ask_shards(shard: Shard, query: q.ListKeys) -> q.ListAnswer:
    page = ask_split(shard, query)
    return q.ListAnswer(tuple(page.names), tuple(page.rows), page.is_truncated)


def ask_split(shard: Shard, query: q.ListKeys, limit: int | None = None) -> Any:
    """As if each slot were of another shard; limit: what is asked of each."""
    answers = [
        listing.list_keys(
            shard.view, attrs.evolve(query, slots=(slot,), limit=limit or query.limit)
        )
        for slot in query.slots
    ]
    return listing.join_answers(query, answers)


def ask_for_shares(shard: Shard, query: q.ListKeys) -> q.ListAnswer:
    """Each slot for so small a share that the page has to be asked for again."""
    if query.delimiter:
        return ask_shards(shard, query)
    page = ask_split(shard, query, limit=1)
    rest = listing.rest_of(query, page)
    if rest is None:
        return q.ListAnswer(tuple(page.names), tuple(page.rows), page.is_truncated)
    more = ask_split(shard, rest)
    assert more.reach is None
    names, rows = (*page.names, *more.names), (*page.rows, *more.rows)
    return q.ListAnswer(names, rows, more.is_truncated)


@settings(max_examples=60, deadline=None)
@given(
    st.sets(keys, max_size=12),
    st.sets(keys, max_size=6),
    prefixes,
    delimiters,
    st.integers(1, 5),
)
def test_pages_are_exact_and_together_are_what_a_sort_gives(
    names: set[bytes], deleted: set[bytes], prefix: bytes, delimiter: bytes, limit: int
) -> None:
    shard = Shard()
    put_all(shard, names - deleted, deleted)
    expected = model(names - deleted, prefix, delimiter)
    query = q.ListKeys(SPAN, REF, prefix, delimiter, limit=limit)
    for ask in (ask_at_once, ask_shards, ask_for_shares):
        found = pages(shard, query, ask)
        assert [entry for page in found for entry in page] == expected
        assert all(len(page) == limit for page in found[:-1])
        assert len(found) == 1 or found[-1]


@settings(max_examples=40, deadline=None)
@given(st.sets(keys, max_size=12), prefixes, delimiters, keys)
def test_a_page_after_a_key_begins_behind_it(
    names: set[bytes], prefix: bytes, delimiter: bytes, after: bytes
) -> None:
    shard = Shard()
    put_all(shard, names, set())
    expected = model({n for n in names if n > after}, prefix, delimiter)
    query = q.ListKeys(SPAN, REF, prefix, delimiter, after=after)
    assert shape(shard.ask(query)) == expected


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(keys, st.booleans()), max_size=14),
    prefixes,
    delimiters,
    st.integers(1, 4),
)
def test_version_pages_show_every_version_newest_first(
    writes: list[tuple[bytes, bool]], prefix: bytes, delimiter: bytes, limit: int
) -> None:
    shard = Shard()
    for slot in SPAN:
        shard.must(c.OpenBucket(slot, BucketFence(BUCKET, 1, "enabled", True)))
    history: dict[bytes, list[str]] = {}
    for name, is_delete in writes:
        slot = slot_of(BUCKET, Key(name), SPAN)
        if is_delete:
            result = shard.must(c.DeleteVersion(slot, REF, Key(name)))
        else:
            result = shard.must(c.PutVersion(slot, REF, Key(name), packed(name)))
        history.setdefault(name, []).insert(0, result.version_id)
    expected: list[tuple[bytes, str | None]] = []
    for name, is_prefix in model(set(history), prefix, delimiter):
        ids: list[str | None] = [None] if is_prefix else list(history[name])
        expected += [(name, version_id) for version_id in ids]
    found: list[tuple[bytes, str | None]] = []
    query = q.ListKeys(SPAN, REF, prefix, delimiter, versions=True, limit=limit)
    while True:
        answer = shard.ask(query)
        entries = answer.versions()
        found += [(n, None if v is None else v.version_id) for n, v in entries]
        if not answer.is_truncated:
            break
        last, value = entries[-1]
        query = attrs.evolve(
            query,
            after=last,
            is_prefix_after=value is None,
            after_version=None if value is None else value.order,
        )
    assert found == expected


def test_listed_versions_carry_no_bytes_and_no_headers() -> None:
    shard = Shard()
    shard.open()
    shard.put(b"key", b"hello")
    for versions in (False, True):
        answer = shard.ask(q.ListKeys((shard.slot,), REF, versions=versions))
        row = answer.versions()[0][1] if versions else answer.objects()[0]
        assert row is not None
        written = draft(b"hello")
        assert row[1:3] == (written.size, written.etag)
        assert b"hello" not in codec.encode(answer)


@pytest.mark.parametrize("packed", [b"", b"\xc0\xc0", b"\x01", b"\x91\x01", b"\xc1"])
def test_a_page_that_does_not_fit_its_names_is_corrupt(packed: bytes) -> None:
    with pytest.raises(codec.CorruptValue):
        q.ListAnswer((b"key",), (packed,), is_truncated=False).objects()


def rows_read(shard: Shard, query: q.ListKeys) -> int:
    """How many rows a page takes."""
    count = 0
    page = shard.view.page

    def counted(base: bytes, start: bytes, end: bytes, limit: int) -> Any:
        nonlocal count
        keys, rows = page(base, start, end, limit)
        count += len(rows)
        return keys, rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard.view, "page", counted)
        shard.ask(query)
    return count


def test_old_versions_and_delete_markers_are_not_read() -> None:
    shard = Shard()
    shard.open("enabled")
    for name in (b"a", b"b", b"c"):
        for _ in range(100):
            shard.put(name)
    shard.must(c.DeleteVersion(shard.slot, REF, Key(b"c")))
    assert rows_read(shard, q.ListKeys((shard.slot,), REF)) == 2


def test_what_is_below_a_common_prefix_is_skipped_by_seeking() -> None:
    shard = Shard()
    shard.open()
    for folder in range(3):
        for number in range(100):
            shard.put(b"%d/%d" % (folder, number))
    assert rows_read(shard, q.ListKeys((shard.slot,), REF, delimiter=b"/")) < 40


def test_a_page_of_many_keys_reads_as_many_rows_however_many_there_are() -> None:
    counts = set()
    for keys_there in (50, 500):
        shard = Shard()
        shard.open()
        for number in range(keys_there):
            shard.put(b"%04d" % number)
        counts.add(rows_read(shard, q.ListKeys((shard.slot,), REF, limit=20)))
    assert counts == {21}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=20))
def test_rows_for_lists_follow_every_change_of_the_current_version(
    steps: list[tuple[int, int]],
) -> None:
    """The audit compares them with the versions."""
    shard = Shard()
    shard.open("enabled")
    made: list[Any] = []
    for name, deed in steps:
        key = b"%d" % name
        if deed < 2:
            made.append((key, shard.put(key, b"%d" % deed).version_id))
        elif deed == 2:
            gone = shard.must(c.DeleteVersion(shard.slot, REF, Key(key)))
            made.append((key, gone.version_id))
        elif made:
            key, version = made.pop()
            shard.must(c.DeleteVersion(shard.slot, REF, Key(key), version))
        assert audit_slot(shard.view.rows.items()) == []


# ---- uploads --------------------------------------------------------------------------


def uploads_of(shard: Shard, query: q.ListUploads) -> list[tuple[bytes, str | None]]:
    found: list[tuple[bytes, str | None]] = []
    while True:
        answer = shard.ask(query)
        found += [(n, None if u is None else u.upload) for n, u in answer.entries]
        if not answer.is_truncated:
            return found
        last, value = answer.entries[-1]
        after_upload = None if value is None else value.upload
        query = attrs.evolve(query, after=last, after_upload=after_upload)


@settings(max_examples=30, deadline=None)
@given(st.lists(keys, max_size=10), prefixes, delimiters, st.integers(1, 4))
def test_upload_pages_are_by_key_then_by_age(
    names: list[bytes], prefix: bytes, delimiter: bytes, limit: int
) -> None:
    shard = Shard()
    for slot in SPAN:
        shard.must(c.OpenBucket(slot, BucketFence(BUCKET, 1, "unversioned", True)))
    history: dict[bytes, list[str]] = {}
    for number, name in enumerate(names):
        slot = slot_of(BUCKET, Key(name), SPAN)
        # Ids fall while time rises: the order is by time.
        made = upload(1000 - number, name)
        shard.must(c.CreateUpload(slot, REF, made))
        history.setdefault(name, []).append(made.upload)
    expected: list[tuple[bytes, str | None]] = []
    for name, is_prefix in model(set(history), prefix, delimiter):
        ids: list[str | None] = [None] if is_prefix else list(history[name])
        expected += [(name, upload_id) for upload_id in ids]
    query = q.ListUploads(SPAN, REF, prefix, delimiter, limit=limit)
    assert uploads_of(shard, query) == expected


def test_a_marker_upload_that_is_gone_skips_no_other() -> None:
    shard = Shard()
    shard.open()
    for number in (1, 2, 3):
        shard.must(c.CreateUpload(shard.slot, REF, upload(number)))
    shard.must(c.AbortUpload(shard.slot, REF, Key(b"big"), upload_id(1)))
    query = q.ListUploads((shard.slot,), REF, after=b"big", after_upload=upload_id(1))
    assert uploads_of(shard, query) == [(b"big", upload_id(2)), (b"big", upload_id(3))]


@given(st.integers(0, 3), st.sets(st.integers(0, 4)))
def test_versions_that_stay_are_listed_whatever_is_deleted_between_pages(
    seen: int, deleted: set[int]
) -> None:
    """I3L: above all the one that takes the place of the current version."""
    shard = Shard(slot=SPAN[0])
    shard.open("enabled")
    made = [shard.put(b"key", b"%d" % number) for number in range(4)]
    newest_first = [result.version_id for result in reversed(made)]
    query = q.ListKeys((SPAN[0],), REF, versions=True, limit=seen + 1)
    (*_, (key, last)) = shard.ask(query).versions()
    assert last is not None
    for number in deleted & set(range(4)):
        shard.must(c.DeleteVersion(SPAN[0], REF, Key(key), newest_first[number]))
    if 4 in deleted:
        shard.put(b"key", b"newer")
    rest = attrs.evolve(query, after=key, after_version=last.order, limit=1000)
    found = [version.version_id for _, version in shard.ask(rest).versions() if version]
    kept = [n for n in range(seen + 1, 4) if n not in deleted]
    assert found == [newest_first[number] for number in kept]
    everything = attrs.evolve(rest, after_version=q.FROM_NEWEST)
    whole = attrs.evolve(query, limit=1000)
    assert shard.ask(everything) == shard.ask(whole)
