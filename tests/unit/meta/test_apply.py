"""What commands do to versions: conditions, fences, intents, repetition."""

from __future__ import annotations

import attrs
import msgpack
import pytest

from objstore.ids import Key, NodeId
from objstore.limits import INTENT_LIFE_MS, REQUEST_ID_KEPT_MS
from objstore.meta import commands as c
from objstore.meta import envelope, schema
from objstore.meta import queries as q
from objstore.meta.errors import (
    BucketNotEmpty,
    IntentGone,
    NoSuchBucket,
    NoSuchKey,
    NoSuchVersion,
    PreconditionFailed,
    StaleBucket,
    StaleEpoch,
)
from objstore.meta.payloads import pack_draft
from objstore.meta.values import BucketFence, Displaced, Usage
from objstore.rpc import codec
from tests.unit.meta.builders import (
    BUCKET,
    MIB,
    REF,
    SLOT,
    Shard,
    chunks,
    draft,
    intent,
    large_draft,
    packed,
)

CREATE = c.WriteCondition(if_none_match=("*",))


@pytest.fixture
def shard() -> Shard:
    made = Shard()
    made.open()
    return made


# ---- plain puts and deletes -----------------------------------------------------------


def test_a_version_that_was_put_is_read_back_with_its_time_and_place_in_the_log(
    shard: Shard,
) -> None:
    result = shard.put(b"key", b"hello")
    version = shard.get(b"key")
    assert version.draft == draft(b"hello")
    assert version.version_id == "null"
    assert (version.time_ms, version.index, version.term) == (
        result.time_ms,
        result.index,
        result.term,
    )
    assert version.order == result.time_ms << 20
    assert result.etag == draft(b"hello").etag


def test_an_overwrite_replaces_the_version_and_counts_it_once(shard: Shard) -> None:
    shard.put(b"key", b"first")
    shard.put(b"key", b"second!")
    assert shard.get(b"key").draft == draft(b"second!")
    assert shard.usage() == Usage(objects=1, versions=1, bytes=7)


def test_a_delete_removes_the_key_and_a_second_one_is_no_error(shard: Shard) -> None:
    shard.put(b"key")
    assert shard.delete(b"key") == c.DeleteResult(None, is_delete_marker=False)
    assert shard.delete(b"key") == c.DeleteResult(None, is_delete_marker=False)
    assert shard.usage() == Usage()
    with pytest.raises(NoSuchKey):
        shard.get(b"key")


def test_keys_that_begin_one_another_and_hold_zeros_are_different(shard: Shard) -> None:
    keys = [b"a", b"a\0", b"a\0\0", b"a\0b", b"a\x01", b"a/", b"a//", b".."]
    for key in keys:
        shard.put(key, key)
    assert [shard.get(key).draft for key in keys] == [draft(key) for key in keys]


# ---- conditions -----------------------------------------------------------------------


def test_of_32_racing_creations_one_wins(shard: Shard) -> None:
    """F39."""
    results = [shard.put(b"key", bytes((n,)), condition=CREATE) for n in range(32)]
    assert isinstance(results[0], c.PutResult)
    assert all(isinstance(r, PreconditionFailed) for r in results[1:])
    assert results[1].condition == "If-None-Match"
    assert shard.get(b"key").draft == draft(b"\0")


def test_of_32_racing_swaps_of_one_etag_one_wins(shard: Shard) -> None:
    etag = shard.put(b"key", b"first").etag
    swap = c.WriteCondition(if_match=(etag,))
    results = [shard.put(b"key", bytes((n,)), condition=swap) for n in range(32)]
    assert [isinstance(r, c.PutResult) for r in results] == [True] + [False] * 31
    assert results[5].condition == "If-Match"


def test_if_match_without_a_version_says_no_such_key(shard: Shard) -> None:
    swap = c.WriteCondition(if_match=("*",))
    assert isinstance(shard.put(b"key", condition=swap), NoSuchKey)
    assert isinstance(shard.delete(b"key", condition=swap), NoSuchKey)


def test_a_conditional_delete_deletes_what_it_names(shard: Shard) -> None:
    etag = shard.put(b"key", b"first").etag
    wrong = c.WriteCondition(if_match=("0" * 32,))
    assert isinstance(shard.delete(b"key", condition=wrong), PreconditionFailed)
    right = c.WriteCondition(if_match=("1" * 32, etag))
    assert isinstance(shard.delete(b"key", condition=right), c.DeleteResult)


def test_r13_a_failed_command_changes_nothing_but_is_remembered(shard: Shard) -> None:
    """R13: a delayed first attempt must not succeed after its retry failed."""
    shard.put(b"key")
    before = dict(shard.view.rows)
    put = c.PutVersion(SLOT, REF, Key(b"key"), packed(b"new"), CREATE)
    assert isinstance(shard.do(put, b"r" * 16), PreconditionFailed)
    added = [key for key in shard.view.rows if key not in before]
    assert [key[2] for key in added] == [schema.Table.REQUEST]
    assert all(shard.view.rows[key] == value for key, value in before.items())
    shard.delete(b"key")
    again = shard.do(put, b"r" * 16)
    assert isinstance(again, PreconditionFailed)
    assert again.condition == "If-None-Match"


# ---- repetition (R13) -----------------------------------------------------------------


def test_r13_a_command_that_comes_again_applies_once_and_answers_the_same(
    shard: Shard,
) -> None:
    put = c.PutVersion(SLOT, REF, Key(b"key"), packed(b"one"), CREATE)
    first = shard.do(put, b"r" * 16)
    assert shard.do(put, b"r" * 16) == first
    shard.put(b"key", b"two")
    assert shard.do(put, b"r" * 16) == first
    assert shard.get(b"key").draft == draft(b"two")


def test_r13_a_delete_that_comes_again_does_not_delete_what_was_put_between(
    shard: Shard,
) -> None:
    shard.put(b"key", b"one")
    delete = c.DeleteVersion(SLOT, REF, Key(b"key"))
    shard.do(delete, b"r" * 16)
    shard.put(b"key", b"two")
    shard.do(delete, b"r" * 16)
    assert shard.get(b"key").draft == draft(b"two")


@pytest.mark.parametrize("into_period_ms", [0, 1, REQUEST_ID_KEPT_MS // 2, -2, -1])
def test_r13_a_request_id_is_known_for_its_whole_time(
    shard: Shard, into_period_ms: int
) -> None:
    """Wherever in a period it came."""
    shard.time_ms = 3 * REQUEST_ID_KEPT_MS + into_period_ms - 1
    put = c.PutVersion(SLOT, REF, Key(b"key"), packed(b"one"))
    first = shard.do(put, b"r" * 16)
    shard.time_ms += REQUEST_ID_KEPT_MS - 1
    assert shard.do(put, b"r" * 16) == first
    assert shard.time_ms == first.time_ms + REQUEST_ID_KEPT_MS


def test_a_request_id_is_unknown_after_two_periods(shard: Shard) -> None:
    put = c.PutVersion(SLOT, REF, Key(b"key"), packed(b"one"))
    first = shard.do(put, b"r" * 16)
    shard.time_ms += 2 * REQUEST_ID_KEPT_MS
    assert shard.do(put, b"r" * 16) != first


def test_commands_drain_what_is_due_by_themselves(shard: Shard) -> None:
    for number in range(100):
        shard.must(c.BeginIntent(SLOT, REF, Key(b"key"), intent(number)))
    shard.time_ms += INTENT_LIFE_MS + 1
    assert shard.tables()[schema.Table.INTENT] == 100
    for _ in range(24):
        shard.put(b"key")
    assert schema.Table.INTENT not in shard.tables()
    assert schema.Table.EXPIRY not in shard.tables()


# ---- fences ---------------------------------------------------------------------------


def test_commands_and_queries_of_another_config_version_are_refused(
    shard: Shard,
) -> None:
    old = c.BucketRef(BUCKET, 0)
    assert isinstance(shard.put(b"key", ref=old), StaleBucket)
    assert isinstance(shard.put(b"key", ref=c.BucketRef(99, 1)), StaleBucket)
    with pytest.raises(StaleBucket):
        shard.get(b"key", ref=old)
    with pytest.raises(StaleBucket):
        shard.ask(q.ListKeys((SLOT,), old))


def test_a_closed_bucket_refuses_every_put(shard: Shard) -> None:
    shard.must(c.CloseBucket(SLOT, BUCKET, 2))
    assert isinstance(shard.put(b"key"), StaleBucket)


def test_a_bucket_with_anything_in_it_does_not_close(shard: Shard) -> None:
    shard.put(b"key")
    assert isinstance(shard.do(c.CloseBucket(SLOT, BUCKET, 2)), BucketNotEmpty)
    assert isinstance(shard.put(b"key2"), c.PutResult)


def test_a_delayed_open_does_not_open_a_closed_or_dropped_bucket(shard: Shard) -> None:
    delayed = c.OpenBucket(SLOT, BucketFence(BUCKET, 1, "unversioned", is_open=True))
    shard.must(c.CloseBucket(SLOT, BUCKET, 2))
    shard.must(delayed)
    assert isinstance(shard.put(b"key"), StaleBucket)
    shard.must(c.DropBucket(SLOT, BUCKET))
    assert isinstance(shard.do(delayed), NoSuchBucket)
    assert isinstance(shard.put(b"key"), StaleBucket)


def test_a_delayed_close_does_not_close_what_was_opened_again(shard: Shard) -> None:
    shard.must(c.CloseBucket(SLOT, BUCKET, 2))
    shard.must(c.OpenBucket(SLOT, BucketFence(BUCKET, 2, "unversioned", is_open=True)))
    assert isinstance(shard.do(c.CloseBucket(SLOT, BUCKET, 2)), StaleBucket)
    assert isinstance(shard.put(b"key", ref=c.BucketRef(BUCKET, 2)), c.PutResult)


def test_a_slot_closed_for_one_deletion_is_closed_for_the_next_one_too(
    shard: Shard,
) -> None:
    """What was to open it again after the first one may come late."""
    shard.must(c.CloseBucket(SLOT, BUCKET, 2))
    shard.must(c.CloseBucket(SLOT, BUCKET, 3))
    shard.must(c.OpenBucket(SLOT, BucketFence(BUCKET, 2, "unversioned", is_open=True)))
    assert isinstance(shard.put(b"key", ref=c.BucketRef(BUCKET, 2)), StaleBucket)


def test_steps_of_a_deletion_may_be_repeated(shard: Shard) -> None:
    for _ in range(2):
        shard.must(c.CloseBucket(SLOT, BUCKET, 2))
    for _ in range(2):
        shard.must(c.DropBucket(SLOT, BUCKET))
    assert shard.usage() == Usage()


# ---- intents and chunks ---------------------------------------------------------------


def begin(shard: Shard, number: int) -> None:
    shard.must(c.BeginIntent(SLOT, REF, Key(b"key"), intent(number)))


def put_large(shard: Shard, number: int, **more: object) -> object:
    location = chunks(intent(number), **more)  # type: ignore[arg-type]
    command = c.PutVersion(
        SLOT, REF, Key(b"key"), pack_draft(large_draft(location)), intent=intent(number)
    )
    return shard.do(command)


def wanted(shard: Shard, number: int) -> bool:
    location = chunks(intent(number))
    ids = tuple(ref.chunk for ref in location.chunks)
    (answer,) = shard.ask(q.IsWanted(SLOT, BUCKET, Key(b"key"), ids))
    return bool(answer)


def test_a_commit_uses_its_intent_up(shard: Shard) -> None:
    begin(shard, 1)
    assert isinstance(put_large(shard, 1), c.PutResult)
    assert isinstance(put_large(shard, 1), IntentGone)


def test_a_commit_without_a_live_intent_is_refused(shard: Shard) -> None:
    assert isinstance(put_large(shard, 1), IntentGone)
    begin(shard, 1)
    shard.time_ms += INTENT_LIFE_MS + 1
    assert isinstance(put_large(shard, 1), IntentGone)


def test_spares_are_intents_as_any_other(shard: Shard) -> None:
    spares = intent(2), intent(3), intent(4)
    shard.must(c.BeginIntent(SLOT, REF, Key(b"other"), intent(1), spares=spares))
    assert all(wanted(shard, number) for number in range(1, 5))
    for number in (3, 1):
        assert isinstance(put_large(shard, number), c.PutResult)
        assert isinstance(put_large(shard, number), IntentGone)
    renewal = c.BeginIntent(SLOT, REF, Key(b"key"), intent(2), is_renewal=True)
    shard.time_ms += INTENT_LIFE_MS // 2
    shard.must(renewal)
    shard.time_ms += INTENT_LIFE_MS // 2 + 1
    shard.drain()
    assert not wanted(shard, 4)
    assert isinstance(put_large(shard, 4), IntentGone)
    assert isinstance(put_large(shard, 2), c.PutResult)
    assert schema.Table.INTENT not in shard.tables()


def test_intents_in_logs_of_before_had_no_spares() -> None:
    newer = c.BeginIntent(SLOT, REF, Key(b"key"), intent(1), is_renewal=True)
    *fields, _ = msgpack.unpackb(codec.encode(newer))
    assert codec.decode(msgpack.packb(fields)) == newer


def test_only_spares_need_a_newer_feature_level() -> None:
    command = c.BeginIntent(SLOT, REF, Key(b"key"), intent(1))
    assert envelope.level_of(command) == 1
    with_spares = attrs.evolve(command, spares=(intent(2),))
    assert envelope.level_of(with_spares) == 2 == envelope.FEATURE_LEVEL


def test_an_intent_lives_as_long_as_it_is_renewed(shard: Shard) -> None:
    renewal = c.BeginIntent(SLOT, REF, Key(b"key"), intent(1), is_renewal=True)
    begin(shard, 1)
    for _ in range(5):
        shard.time_ms += INTENT_LIFE_MS // 2
        assert shard.must(renewal) == shard.time_ms + INTENT_LIFE_MS
    assert isinstance(put_large(shard, 1), c.PutResult)


def test_an_intent_that_is_gone_cannot_be_renewed(shard: Shard) -> None:
    renewal = c.BeginIntent(SLOT, REF, Key(b"key"), intent(1), is_renewal=True)
    assert isinstance(shard.do(renewal), IntentGone)
    begin(shard, 1)
    shard.time_ms += INTENT_LIFE_MS + 1
    shard.drain()
    assert isinstance(shard.do(renewal), IntentGone)
    assert not wanted(shard, 1)


def test_chunks_are_wanted_while_an_intent_or_a_row_has_them(shard: Shard) -> None:
    """F41."""
    assert not wanted(shard, 1)
    begin(shard, 1)
    assert wanted(shard, 1)
    put_large(shard, 1)
    assert wanted(shard, 1)
    shard.delete(b"key")
    assert not wanted(shard, 1)


def test_a_dropped_intent_releases_what_was_written_under_it(shard: Shard) -> None:
    begin(shard, 1)
    (ref,) = chunks(intent(1)).chunks
    (foreign,) = chunks(intent(2)).chunks
    away = attrs.evolve(ref, displaced=(Displaced(1, NodeId("f" * 16)),))
    drop = c.DropIntent(SLOT, BUCKET, intent(1), "replicate:3", (away, foreign))
    shard.must(drop)
    shard.must(drop)
    (released,) = shard.ask(q.ListReleased(SLOT, before_ms=shard.time_ms + 1))
    assert released.chunks == (away,), "with who stood in, to be freed there too"
    assert isinstance(put_large(shard, 1), IntentGone)


def test_a_used_intent_that_is_dropped_releases_nothing(shard: Shard) -> None:
    begin(shard, 1)
    put_large(shard, 1)
    (ref,) = chunks(intent(1)).chunks
    shard.must(c.DropIntent(SLOT, BUCKET, intent(1), "replicate:3", (ref,)))
    assert shard.ask(q.ListReleased(SLOT, before_ms=shard.time_ms + 1)) == ()
    assert wanted(shard, 1)


def test_a_commit_below_the_floor_epoch_is_refused(shard: Shard) -> None:
    begin(shard, 1)
    shard.must(c.RaiseFloor(SLOT, 5))
    assert isinstance(put_large(shard, 1, epoch=4), StaleEpoch)
    assert isinstance(put_large(shard, 1, epoch=5), c.PutResult)


def test_overwritten_chunks_are_released_until_they_are_forgotten(shard: Shard) -> None:
    begin(shard, 1)
    put_large(shard, 1, count=3)
    before_ms = shard.time_ms
    shard.put(b"key")
    assert shard.ask(q.ListReleasedSlots((SLOT, 8))) == (SLOT,)
    assert shard.ask(q.ListReleased(SLOT, before_ms=before_ms)) == ()
    (released,) = shard.ask(q.ListReleased(SLOT, before_ms=shard.time_ms + 1))
    assert released.chunks == chunks(intent(1), 3).chunks
    shard.must(c.ForgetReleased(SLOT, (released.sequence,)))
    assert shard.ask(q.ListReleasedSlots((SLOT,))) == ()


# ---- below promise --------------------------------------------------------------------


def below(shard: Shard) -> list[tuple[int, int]]:
    """(rank, intent number) of each entry."""
    found = shard.ask(q.ListBelow((SLOT,)))
    return [(e.cursor[0], int.from_bytes(e.place.chunk[:12], "big")) for e in found]


def test_chunks_with_missing_fragments_are_listed_most_endangered_first(
    shard: Shard,
) -> None:
    for number, gone, away in ((1, (2,), ()), (2, (1, 2), ()), (3, (), (0,)), (4, (), ())):
        begin(shard, number)
        location = chunks(intent(number), missing=gone, away=away)
        key = Key(b"key%d" % number)
        shard.must(
            c.PutVersion(
                SLOT, REF, key, pack_draft(large_draft(location)), intent=intent(number)
            )
        )
    assert below(shard) == [(1, 2), (2, 1), (200, 3)]
    assert shard.usage().below_objects == 2
    assert shard.usage().below_bytes == 2 * MIB
    first = shard.ask(q.ListBelow((SLOT,), limit=1))
    rest = shard.ask(q.ListBelow((SLOT,), after=first[-1].cursor))
    assert [*first, *rest] == list(shard.ask(q.ListBelow((SLOT,))))


def test_a_mended_chunk_leaves_the_index_and_a_damaged_one_enters_it(
    shard: Shard,
) -> None:
    begin(shard, 1)
    put_large(shard, 1, missing=(1,))
    (entry,) = shard.ask(q.ListBelow((SLOT,)))
    node = "a" * 16
    mend = c.ChangeDisplaced(SLOT, entry.place, ((1, None, ""),))
    assert shard.must(mend) == ()
    assert below(shard) == []
    assert shard.usage().below_objects == 0
    lose = c.ChangeDisplaced(SLOT, entry.place, ((0, "", None), (2, "", node)))
    displaced = shard.must(lose)
    assert [(d.index, d.node) for d in displaced] == [(0, None), (2, node)]
    assert shard.usage().below_bytes == MIB
    version = shard.get(b"key")
    assert version.draft is not None
    assert version.draft.location.chunks[0].displaced == displaced  # type: ignore[union-attr]
    assert version.draft.headers == draft().headers


def test_a_change_that_found_something_else_is_not_applied(shard: Shard) -> None:
    begin(shard, 1)
    put_large(shard, 1, missing=(1,))
    (entry,) = shard.ask(q.ListBelow((SLOT,)))
    stale = c.ChangeDisplaced(SLOT, entry.place, ((1, "b" * 16, ""), (0, None, "")))
    assert [(d.index, d.node) for d in shard.must(stale)] == [(1, None)]


def test_a_change_about_a_deleted_version_says_so(shard: Shard) -> None:
    begin(shard, 1)
    put_large(shard, 1, missing=(1,))
    (entry,) = shard.ask(q.ListBelow((SLOT,)))
    shard.delete(b"key")
    mend = c.ChangeDisplaced(SLOT, entry.place, ((1, None, ""),))
    assert isinstance(shard.do(mend), NoSuchKey)
    assert below(shard) == []
    assert shard.usage() == Usage()


# ---- versioning -----------------------------------------------------------------------


def test_enabled_versioning_keeps_every_version_and_marks_deletes() -> None:
    """F42."""
    shard = Shard()
    shard.open("enabled")
    first = shard.put(b"key", b"one").version_id
    second = shard.put(b"key", b"two").version_id
    assert len(first) == 32 and first != second
    marker = shard.delete(b"key")
    assert marker.is_delete_marker
    assert shard.get(b"key").is_delete_marker
    assert shard.get(b"key", first).draft == draft(b"one")
    assert shard.usage() == Usage(objects=0, versions=3, bytes=6)
    shard.delete(b"key", version_id=marker.version_id)
    assert shard.get(b"key").draft == draft(b"two")
    assert shard.usage() == Usage(objects=1, versions=2, bytes=6)
    shard.delete(b"key", version_id=second)
    assert shard.get(b"key").version_id == first
    with pytest.raises(NoSuchVersion):
        shard.get(b"key", second)


def test_a_condition_takes_a_delete_marker_for_no_object() -> None:
    shard = Shard()
    shard.open("enabled")
    shard.put(b"key")
    shard.delete(b"key")
    swap = c.WriteCondition(if_match=("*",))
    assert isinstance(shard.put(b"key", condition=swap), NoSuchKey)
    assert isinstance(shard.put(b"key", condition=CREATE), c.PutResult)


def test_the_null_version_is_found_below_newer_ones_and_replaced_when_suspended() -> None:
    shard = Shard()
    shard.open()
    shard.put(b"key", b"null one")
    shard.open("enabled", 2)
    second = c.BucketRef(BUCKET, 2)
    kept = shard.put(b"key", b"kept", ref=second).version_id
    assert shard.get(b"key", "null", second).draft == draft(b"null one")
    shard.open("suspended", 3)
    third = c.BucketRef(BUCKET, 3)
    shard.put(b"key", b"null two", ref=third)
    assert shard.get(b"key", "null", third).draft == draft(b"null two")
    assert shard.usage() == Usage(objects=1, versions=2, bytes=12)
    marker = shard.delete(b"key", ref=third)
    assert (marker.version_id, marker.is_delete_marker) == ("null", True)
    assert shard.usage() == Usage(objects=0, versions=2, bytes=4)
    shard.delete(b"key", ref=third, version_id="null")
    assert shard.get(b"key", None, third).version_id == kept


def test_a_buried_null_version_can_be_deleted_by_name() -> None:
    shard = Shard()
    shard.open()
    shard.put(b"key", b"null")
    shard.open("enabled", 2)
    ref = c.BucketRef(BUCKET, 2)
    shard.put(b"key", b"kept", ref=ref)
    shard.delete(b"key", ref=ref, version_id="null")
    with pytest.raises(NoSuchVersion):
        shard.get(b"key", "null", ref)
    assert schema.Table.NULL not in shard.tables()
    assert shard.usage() == Usage(objects=1, versions=1, bytes=4)


def test_version_ids_that_are_none_name_nothing() -> None:
    shard = Shard()
    shard.open("enabled")
    shard.put(b"key")
    for name in ("", "zz", "0" * 32, "f" * 32, "-" + "1" * 31, "null"):
        with pytest.raises(NoSuchVersion):
            shard.get(b"key", name)
        result = shard.delete(b"key", version_id=name)
        assert result == c.DeleteResult(name, is_delete_marker=False)
    assert shard.usage().versions == 1
