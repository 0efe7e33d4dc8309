from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LAST = b"\xff" * 8


@pytest.fixture
def store(host, root):
    store = host.disks.key_value_store(root, "store")
    yield store
    with contextlib.suppress(OSError):  # The test may have closed it.
        store.close()


def write(store, *rows, deleted=()):
    batch = store.batch()
    for key, value in rows:
        batch.put(key, value)
    for key in deleted:
        batch.delete(key)
    store.write(batch)


def rows(view, start=b"", end=LAST, **options):
    return list(view.scan(start, end, **options))


ABC = ((b"a", b"1"), (b"b", b"2"), (b"c", b"3"))


def test_a_new_store_is_empty(store):
    assert store.get(b"a") is None
    assert rows(store) == []


def test_a_batch_is_visible_once_written(store):
    batch = store.batch()
    batch.put(b"a", b"1")
    assert store.get(b"a") is None
    store.write(batch)
    assert store.get(b"a") == b"1"


def test_an_empty_value_is_not_an_absent_one(store):
    write(store, (b"a", b""))
    assert store.get(b"a") == b""
    assert rows(store) == [(b"a", b"")]


def test_later_changes_of_a_batch_win(store):
    batch = store.batch()
    batch.put(b"a", b"1")
    batch.put(b"a", b"2")
    batch.put(b"b", b"1")
    batch.delete(b"b")
    batch.delete(b"c")
    batch.put(b"c", b"3")
    store.write(batch)
    assert rows(store) == [(b"a", b"2"), (b"c", b"3")]


def test_a_range_is_deleted_without_its_end(store):
    write(store, *ABC)
    batch = store.batch()
    batch.delete_range(b"a", b"c")
    batch.put(b"b", b"again")
    store.write(batch)
    assert rows(store) == [(b"b", b"again"), (b"c", b"3")]


def test_an_empty_batch_may_be_written(store):
    store.write(store.batch())


def test_a_scan_includes_its_start_and_not_its_end(store):
    write(store, *ABC)
    assert [key for key, _ in rows(store, b"a", b"c")] == [b"a", b"b"]
    assert [key for key, _ in rows(store, b"a\0", b"c\0")] == [b"b", b"c"]
    assert rows(store, b"b", b"b") == []
    assert rows(store, b"c", b"a") == []


def test_a_page_is_the_first_rows_of_a_scan(store):
    write(store, *ABC)
    for view in (store, store.snapshot()):
        assert view.page(b"a", LAST, 2) == list(ABC[:2])
        assert view.page(b"a", LAST, 3) == view.page(b"a", LAST, 4) == list(ABC)
        assert view.page(b"a", b"c", 4) == list(ABC[:2])
        assert view.page(b"a\0", LAST, 1) == [ABC[1]]
        assert view.page(b"b", b"b", 1) == view.page(b"c", b"a", 1) == []
        assert view.page(b"d", LAST, 1) == []


def test_a_scan_in_reverse_has_the_same_bounds(store):
    write(store, *ABC)
    assert [key for key, _ in rows(store, b"a", b"c", reverse=True)] == [b"b", b"a"]
    assert [key for key, _ in rows(store, b"b", LAST, reverse=True)] == [b"c", b"b"]
    assert rows(store, b"d", LAST, reverse=True) == []


def test_keys_are_ordered_by_their_bytes(store):
    keys = [b"\0", b"\0\0", b"a", b"a\0", b"a\xff", b"b", b"\x80", b"\xfe\xff"]
    write(store, *((key, b"") for key in reversed(keys)))
    assert [key for key, _ in rows(store)] == sorted(keys)


def test_long_keys_and_large_values_are_kept(store):
    key, value = b"k" * 4000, bytes(range(256)) * 4096
    write(store, (key, value))
    assert store.get(key) == value


def test_a_scan_shows_the_state_of_its_first_step(store):
    write(store, *ABC)
    scan = store.scan(b"a", LAST)
    assert next(scan) == (b"a", b"1")
    write(store, (b"b", b"changed"), (b"bb", b"new"), deleted=[b"c"])
    assert list(scan) == [(b"b", b"2"), (b"c", b"3")]
    assert rows(store, b"b") == [(b"b", b"changed"), (b"bb", b"new")]


def test_a_snapshot_does_not_change(store):
    write(store, *ABC)
    snapshot = store.snapshot()
    write(store, (b"a", b"changed"), (b"d", b"new"), deleted=[b"b"])
    store.flush()
    batch = store.batch()
    batch.delete_range(b"", LAST)
    store.write(batch)
    assert snapshot.get(b"a") == b"1"
    assert snapshot.get(b"b") == b"2"
    assert snapshot.get(b"d") is None
    assert rows(snapshot) == list(ABC)
    assert rows(snapshot, reverse=True) == list(reversed(ABC))
    snapshot.close()
    assert rows(store) == []


def test_a_closed_snapshot_is_of_no_use(store):
    snapshot = store.snapshot()
    snapshot.close()
    with pytest.raises(OSError):
        snapshot.get(b"a")


def test_what_was_written_is_there_after_close_and_open(host, root):
    store = host.disks.key_value_store(root, "store")
    write(store, *ABC)
    store.close()
    store = host.disks.key_value_store(root, "store")
    assert rows(store) == list(ABC)
    store.close()


def test_a_store_is_open_once(host, root, store):
    with pytest.raises(BlockingIOError):
        host.disks.key_value_store(root, "store")


def test_a_closed_store_is_of_no_use(store):
    batch = store.batch()
    batch.put(b"a", b"1")
    store.close()
    for act in (lambda: store.get(b"a"), lambda: store.write(batch), store.flush):
        with pytest.raises(OSError):
            act()


def test_a_store_may_be_closed_over_an_open_snapshot(host, root, store):
    write(store, *ABC)
    snapshot = store.snapshot()
    store.close()
    again = host.disks.key_value_store(root, "store")
    assert rows(again) == list(ABC)
    again.close()
    del snapshot


def test_memory_is_given_back_by_a_flush(store):
    before = store.memory_size()
    write(store, *((b"%06d" % i, bytes(1000)) for i in range(3000)))
    full = store.memory_size()
    assert full > before + 1_000_000
    store.flush()
    assert store.memory_size() < full / 2
    assert store.get(b"002999") == bytes(1000)


KEYS = st.binary(max_size=3)
CHANGES = st.one_of(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=4)),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("range"), KEYS, KEYS).filter(lambda range_: range_[1] < range_[2]),
)


@pytest.mark.slow
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.tuples(st.lists(CHANGES, max_size=6), st.booleans()), max_size=8),
    st.tuples(KEYS, KEYS),
)
def test_a_store_behaves_as_a_sorted_dict(store, batches, bounds):
    clear = store.batch()
    clear.delete_range(b"", LAST)
    store.write(clear)
    model: dict[bytes, bytes] = {}
    for changes, flushes in batches:
        batch = store.batch()
        for change in changes:
            match change:
                case ("put", key, value):
                    batch.put(key, value)
                    model[key] = value
                case ("delete", key):
                    batch.delete(key)
                    model.pop(key, None)
                case ("range", start, end):
                    batch.delete_range(start, end)
                    for key in [key for key in model if start <= key < end]:
                        del model[key]
        store.write(batch)
        if flushes:
            store.flush()
    assert rows(store) == sorted(model.items())
    start, end = bounds
    inside = [(key, value) for key, value in sorted(model.items()) if start <= key < end]
    assert rows(store, start, end) == inside
    assert rows(store, start, end, reverse=True) == inside[::-1]
    assert all(store.get(key) == value for key, value in model.items())
