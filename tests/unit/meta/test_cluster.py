"""The cluster shard: founding, buckets, keys, tokens, layouts, changes by version."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from objstore.errors import Conflict, InvalidRequest, ObjstoreError
from objstore.ids import BucketId, NodeId, Slot
from objstore.meta import cluster
from objstore.meta import commands as c
from objstore.meta import queries as q
from objstore.meta.bucket_steps import finish
from objstore.meta.errors import (
    AccessKeyExists,
    BucketExists,
    BucketNotEmpty,
    InvalidToken,
    NoSuchAccessKey,
    NoSuchBucket,
    StaleBucket,
    StaleEpoch,
    TooManyBuckets,
)
from objstore.meta.schema import CLUSTER_SLOT, Table
from objstore.meta.slots import by_shard, choose_span, shard_at_birth, slot_of
from objstore.meta.values import (
    AccessKey,
    BucketFence,
    BucketRecord,
    BucketState,
    JoinToken,
)
from objstore.ring.layout import Member, encode, found, with_member
from objstore.ring.voters import bundle_of
from tests.unit.meta.builders import Shard, packed

NODE = NodeId("a" * 16)
LAYOUT = found([Member(NODE, 1)], partition_count=16, widths=(3,))
ROOT = AccessKey("ROOT", "secret", "root", "0" * 64, is_root=True, created_ms=0)
SPAN = (Slot(1), Slot(2))


@pytest.fixture
def shard() -> Shard:
    made = Shard(slot=CLUSTER_SLOT)
    settings = (("cluster_id", b"c" * 32),)
    made.must(c.FoundCluster(encode(LAYOUT), settings, ROOT))
    return made


def create(shard: Shard, name: str = "bucket") -> Any:
    return shard.do(c.CreateBucketRecord(name, "owner", SPAN, "replicate:3"))


def set_state(shard: Shard, record: BucketRecord, state: BucketState) -> Any:
    version = record.config_version
    return shard.do(c.SetBucketState(record.name, record.bucket, version, state))


def drop_record(shard: Shard, record: BucketRecord) -> None:
    for state in (BucketState.OPEN, BucketState.CLOSING, BucketState.DROPPING):
        record = set_state(shard, record, state)
    shard.must(c.DropBucketRecord(record.name, record.bucket))


# ---- founding, layouts, settings ------------------------------------------------------


def test_a_cluster_is_founded_once(shard: Shard) -> None:
    again = c.FoundCluster(encode(LAYOUT), (), ROOT)
    assert isinstance(shard.do(again), Conflict)
    assert cluster.newest_epoch(shard.view) == 1


def test_layouts_follow_one_another_by_epoch(shard: Shard) -> None:
    second = with_member(LAYOUT, Member(NodeId("b" * 16), 1))
    third = with_member(second, Member(NodeId("c" * 16), 1))
    assert isinstance(shard.do(c.SetLayout(encode(third))), StaleEpoch)
    shard.must(c.SetLayout(encode(second)))
    assert isinstance(shard.do(c.SetLayout(encode(second))), StaleEpoch)
    shard.must(c.SetLayout(encode(third)))
    assert isinstance(shard.do(c.SetLayout(b"no layout")), InvalidRequest)


def test_the_feature_level_only_grows(shard: Shard) -> None:
    shard.must(c.PutSetting("feature_level", b"3"))
    for value in (b"2", b"x", None):
        assert isinstance(shard.do(c.PutSetting("feature_level", value)), InvalidRequest)


# ---- buckets --------------------------------------------------------------------------


def test_a_name_is_given_to_one_bucket_only(shard: Shard) -> None:
    """F39, for buckets."""
    results = [create(shard) for _ in range(8)]
    assert isinstance(results[0], BucketRecord)
    assert results[0].state is BucketState.CREATING
    assert all(isinstance(r, BucketExists) and r.owner == "owner" for r in results[1:])


def test_a_name_used_again_is_another_incarnation(shard: Shard) -> None:
    first = create(shard)
    drop_record(shard, first)
    second = create(shard)
    assert second.bucket != first.bucket
    assert isinstance(set_state(shard, first, BucketState.OPEN), NoSuchBucket)
    shard.must(c.DropBucketRecord("bucket", first.bucket))
    assert isinstance(create(shard), BucketExists)


def test_buckets_are_counted_against_their_limit(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "BUCKETS_MAX", 2)
    one = create(shard, "one")
    create(shard, "two")
    assert isinstance(create(shard, "three"), TooManyBuckets)
    drop_record(shard, one)
    assert isinstance(create(shard, "three"), BucketRecord)


def test_a_bucket_that_is_being_dropped_cannot_be_opened_again(shard: Shard) -> None:
    record = set_state(shard, create(shard), BucketState.OPEN)
    assert set_state(shard, record, BucketState.DROPPING) == record
    record = set_state(shard, record, BucketState.CLOSING)
    assert record.config_version == 2
    assert set_state(shard, record, BucketState.CLOSING) == record
    assert set_state(shard, record, BucketState.OPEN) == record
    dropped = c.DropBucketRecord(record.name, record.bucket)
    assert isinstance(shard.do(dropped), Conflict)
    record = set_state(shard, record, BucketState.DROPPING)
    for state in (BucketState.OPEN, BucketState.CREATING, BucketState.CLOSING):
        assert set_state(shard, record, state) == record


def test_a_step_of_an_attempt_that_is_over_changes_nothing(shard: Shard) -> None:
    record = set_state(shard, create(shard), BucketState.OPEN)
    first = set_state(shard, record, BucketState.CLOSING)
    reopened = set_state(shard, first, BucketState.CREATING)
    second = set_state(
        shard, set_state(shard, reopened, BucketState.OPEN), BucketState.CLOSING
    )
    assert second.config_version == 3
    assert set_state(shard, first, BucketState.DROPPING) == second


class Both:
    """The cluster shard and one object shard, to walk bucket steps through."""

    def __init__(self, shard: Shard) -> None:
        self.cluster = shard
        self.objects = Shard()
        self.calls = 0
        self.fail_at = 0

    async def propose(self, command: c.Command) -> Any:
        self.calls += 1
        if self.calls == self.fail_at:
            raise ConnectionError
        target = self.objects if hasattr(command, "slot") else self.cluster
        return target.do(command)

    async def propose_each(self, commands: Sequence[c.Command]) -> list[Any]:
        return [await self.propose(command) for command in commands]

    def put(self, record: BucketRecord, key: bytes = b"k") -> Any:
        ref = c.BucketRef(record.bucket, record.config_version)
        slot = slot_of(record.bucket, key, record.span)  # type: ignore[arg-type]
        return self.objects.do(c.PutVersion(slot, ref, key, packed()))  # type: ignore[arg-type]

    def record(self) -> BucketRecord | None:
        return cluster._bucket(self.cluster.view, "bucket")


@pytest.mark.parametrize("fail_at", range(1, 9))
async def test_a_creation_or_deletion_cut_anywhere_is_finished_by_another(
    shard: Shard, fail_at: int
) -> None:
    both = Both(shard)
    create(shard)
    both.fail_at = fail_at
    for _ in range(2):  # Once by the one that is cut off, once by who goes on.
        record = both.record()
        assert record is not None
        try:
            await finish(both.propose_each, record)
        except ConnectionError:
            continue
        break
    record = both.record()
    assert record is not None and record.state is BucketState.OPEN
    both.calls, both.fail_at = 0, fail_at
    set_state(shard, record, BucketState.CLOSING)
    for _ in range(2):
        now = both.record()
        if now is None:
            break
        try:
            await finish(both.propose_each, now)
        except ConnectionError:
            continue
    assert both.record() is None
    assert isinstance(both.put(record), StaleBucket)


async def test_a_deletion_that_finds_something_opens_the_bucket_again(
    shard: Shard,
) -> None:
    both = Both(shard)
    create(shard)
    record = both.record()
    assert record is not None
    await finish(both.propose_each, record)
    record = both.record()
    assert record is not None
    assert isinstance(both.put(record), c.PutResult)
    closing = set_state(shard, record, BucketState.CLOSING)
    with pytest.raises(BucketNotEmpty):
        await finish(both.propose_each, closing)
    reopened = both.record()
    assert reopened is not None and reopened.state is BucketState.OPEN
    assert isinstance(both.put(reopened, b"k"), c.PutResult)
    for slot in record.span:  # What the first deletion still had on its way.
        late = c.CloseBucket(slot, record.bucket, closing.config_version)
        assert isinstance(both.objects.do(late), StaleBucket)


def test_a_bucket_whose_creation_never_came_to_a_slot_can_be_closed_there() -> None:
    shard = Shard()
    shard.must(c.CloseBucket(shard.slot, BucketId(9), 2))
    late = c.OpenBucket(shard.slot, BucketFence(BucketId(9), 1, "unversioned", True))
    shard.must(late)
    ref = c.BucketRef(BucketId(9), 1)
    assert isinstance(shard.put(b"k", ref=ref), StaleBucket)
    shard.must(c.DropBucket(shard.slot, BucketId(9)))
    assert isinstance(shard.do(late), NoSuchBucket)


# ---- keys and tokens ------------------------------------------------------------------


def test_access_keys_are_unique_and_can_be_deleted(shard: Shard) -> None:
    key = AccessKey("AK", "sk", "me", "1" * 64, is_root=False, created_ms=0)
    made = shard.must(c.CreateAccessKey(key))
    assert made.created_ms == shard.time_ms
    assert isinstance(shard.do(c.CreateAccessKey(key)), AccessKeyExists)
    shard.must(c.DeleteAccessKey("AK"))
    assert isinstance(shard.do(c.DeleteAccessKey("AK")), NoSuchAccessKey)


def spend(name: str, secret: bytes, by: str = "a") -> c.SpendJoinToken:
    return c.SpendJoinToken(name, secret * 32, NodeId(by * 16))


def test_a_token_is_spent_as_often_as_it_says_and_until_it_expires(shard: Shard) -> None:
    token = JoinToken("t", b"h" * 32, shard.time_ms + 1000, uses_left=2, created_ms=0)
    shard.must(c.CreateJoinToken(token))
    assert isinstance(shard.do(spend("t", b"x")), InvalidToken)
    assert isinstance(shard.do(spend("u", b"h")), InvalidToken)
    assert shard.do(spend("t", b"h", by="a")) is None
    assert shard.do(spend("t", b"h", by="b")) is None
    assert isinstance(shard.do(spend("t", b"h", by="c")), InvalidToken)
    shard.must(c.CreateJoinToken(token))  # Said again, late: it is not made anew.
    assert isinstance(shard.do(spend("t", b"h", by="c")), InvalidToken)
    shard.time_ms += 2000
    assert isinstance(shard.do(spend("t", b"h", by="a")), InvalidToken)
    fresh = JoinToken("v", b"h" * 32, shard.time_ms + 1000, uses_left=1, created_ms=0)
    shard.must(c.CreateJoinToken(fresh))
    assert shard.tables()[Table.JOIN_TOKEN] == 1  # The expired one went.


def test_a_node_whose_join_was_cut_off_comes_again_with_its_token(shard: Shard) -> None:
    """F47: its use is spent, and nobody else's."""
    token = JoinToken("t", b"h" * 32, shard.time_ms + 1000, uses_left=2, created_ms=0)
    shard.must(c.CreateJoinToken(token))
    for _ in range(3):
        assert shard.do(spend("t", b"h", by="a")) is None
    assert isinstance(shard.do(spend("t", b"x", by="a")), InvalidToken)
    assert shard.do(spend("t", b"h", by="b")) is None


# ---- changes by version ---------------------------------------------------------------


class Follower:
    """A view's copy, kept by deltas alone."""

    def __init__(self) -> None:
        self.version = 0
        self.rows: dict[bytes, bytes] = {}
        self.full_pulls = 0

    def pull(self, shard: Shard) -> None:
        query = q.ClusterChanges(self.version)
        rows = dict(self.rows)
        began = 0
        while True:
            delta = shard.ask(query)
            if delta.is_full:
                rows, began = {}, delta.state_version
                self.full_pulls += 1
            for name, payload in delta.rows:
                if payload is None:
                    rows.pop(name, None)
                else:
                    rows[name] = payload
            if not delta.has_more:
                break
            query = q.ClusterChanges(delta.version, began)
        self.version, self.rows = delta.version, rows


def truth(shard: Shard) -> dict[bytes, bytes]:
    kept = (Table.SETTING, Table.LAYOUT, Table.BUCKET, Table.ACCESS_KEY)
    start, end = bytes((0x10, 0x00, 0x50)), bytes((0x10, 0x00, 0x55))
    rows = shard.view.scan(start, end)
    return {key[2:]: payload for key, payload in rows if key[2] in kept}


def test_a_follower_has_what_the_shard_has(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CLUSTER_DELTA_SIZE", 300)
    monkeypatch.setattr(cluster, "CLUSTER_CHANGES_KEPT", 3)
    random = Random(1)
    often, seldom = Follower(), Follower()
    for step in range(300):
        name = f"s{random.randrange(12)}"
        value = random.choice((None, random.randbytes(20)))
        shard.must(c.PutSetting(name, value))
        if step % 3 == 0:
            often.pull(shard)
            assert often.rows == truth(shard)
        if step % 90 == 0:
            seldom.pull(shard)
            assert seldom.rows == truth(shard)
        assert often.version <= cluster.version_of(shard.view)
    assert seldom.full_pulls > 1
    assert often.full_pulls < 30
    nothing = shard.ask(q.ClusterChanges(cluster.version_of(shard.view)))
    assert (nothing.rows, nothing.is_full) == ((), False)


def test_a_follower_from_the_future_starts_afresh(shard: Shard) -> None:
    delta = shard.ask(q.ClusterChanges(1 << 40))
    assert delta.is_full and delta.rows


# ---- slots ----------------------------------------------------------------------------


def test_a_span_lies_on_different_shards_and_a_key_always_in_one_slot() -> None:
    span = choose_span(Random(1))
    assert len(span) == len({shard_at_birth(slot) for slot in span}) == 4
    assert len(by_shard(span, shard_at_birth)) == 4
    assert len({bundle_of(shard_at_birth(slot)) for slot in span}) == 1
    assert all(shard_at_birth(Slot(n)) == LAYOUT.shard_of(Slot(n)) for n in range(4096))
    counts = dict.fromkeys(span, 0)
    for number in range(4000):
        key: Any = b"key/%d" % number
        slot = slot_of(BucketId(7), key, span)
        assert slot == slot_of(BucketId(7), key, span)
        counts[slot] += 1
    assert min(counts.values()) > 850


def test_a_span_is_of_one_bundle_and_goes_on_in_others() -> None:
    for seed in range(20):
        span = choose_span(Random(seed), size=6)
        bundles = [bundle_of(shard) for shard in by_shard(span, shard_at_birth)]
        assert len(bundles) == 6
        assert len(set(bundles[:4])) == 1 and bundles[0] not in bundles[4:]


def test_errors_come_back_from_the_memory_of_requests_as_they_were(shard: Shard) -> None:
    create(shard)
    command = c.CreateBucketRecord("bucket", "other", SPAN, "replicate:3")
    first = shard.do(command, b"r" * 16)
    again = shard.do(command, b"r" * 16)
    assert isinstance(again, ObjstoreError)
    assert (type(again), again.owner) == (type(first), "owner")  # type: ignore[attr-defined]
