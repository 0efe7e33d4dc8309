"""What a peer may ask for: everything that a front door makes, nothing that would not apply."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from objstore.errors import InvalidRequest
from objstore.ids import BucketId, ChunkId, Epoch, Key, NodeId, Slot
from objstore.limits import ENTRY_SIZE_MAX, SLOT_COUNT
from objstore.meta import commands as c
from objstore.meta import errors as meta_errors
from objstore.meta import queries as q
from objstore.meta.bounds import check_command, check_query
from objstore.meta.values import (
    AccessKey,
    BucketFence,
    BucketState,
    ChunkPlace,
    ChunkRef,
    External,
    JoinToken,
    Parts,
)
from objstore.ring.layout import encode
from objstore.rpc import codec
from tests.unit.meta.builders import (
    BUCKET,
    REF,
    SLOT,
    chunks,
    draft,
    intent,
    large_draft,
    part,
    upload,
    upload_id,
)
from tests.unit.meta.test_cluster import LAYOUT, ROOT, SPAN

KEY = Key(b"key")
CHUNK = ChunkId(bytes(16))
PLACE = ChunkPlace(BUCKET, KEY, CHUNK, order=7)
TOKEN = JoinToken("t", b"h" * 32, 1, 1, 1)
OTHER = AccessKey("AK", "sk", "me", "1" * 64, is_root=False, created_ms=0)

COMMANDS: list[Any] = [
    c.OpenBucket(SLOT, BucketFence(BUCKET, 1, "enabled", is_open=True)),
    c.CloseBucket(SLOT, BUCKET, 2),
    c.DropBucket(SLOT, BUCKET),
    c.PutVersion(SLOT, REF, KEY, draft(b"x"), c.WriteCondition(if_match=("a", "b"))),
    c.PutVersion(SLOT, REF, KEY, large_draft(chunks(intent(1), 3)), intent=intent(1)),
    c.DeleteVersion(SLOT, REF, KEY, "null"),  # type: ignore[arg-type]
    c.BeginIntent(SLOT, REF, KEY, intent(1), is_renewal=True),
    c.DropIntent(SLOT, BUCKET, intent(1), "replicate:3", (ChunkRef(CHUNK, 1, Epoch(1)),)),
    c.CreateUpload(SLOT, REF, upload(1)),
    c.PutPart(SLOT, REF, KEY, upload_id(1), part(1), intent(1)),
    c.CompleteUpload(SLOT, REF, KEY, upload_id(1), (c.PartRef(1, "e", b"c"),)),
    c.AbortUpload(SLOT, REF, KEY, upload_id(1)),
    c.ForgetReleased(SLOT, (1, 2)),
    c.ChangeDisplaced(SLOT, PLACE, ((0, None, "a" * 16), (1, "", None))),
    c.PurgeStep(SLOT),
    c.RaiseFloor(SLOT, 3),  # type: ignore[arg-type]
    c.FoundCluster(encode(LAYOUT), (("a", b"b"),), ROOT),
    c.CreateBucketRecord("name", "owner", SPAN, "ec:4+2"),
    c.SetBucketState("name", BUCKET, 2, BucketState.DROPPING),
    c.DropBucketRecord("name", BUCKET),
    c.CreateAccessKey(OTHER),
    c.DeleteAccessKey("AK"),
    c.CreateJoinToken(TOKEN),
    c.SpendJoinToken("t", b"h", NodeId("a" * 16)),
    c.SetLayout(encode(LAYOUT)),
    c.PutSetting("name", None),
]
QUERIES: list[Any] = [
    q.GetVersion(SLOT, REF, KEY),
    q.ReadSpans(SLOT, REF, KEY, 5, 0, 9),
    q.ListKeys((SLOT,), REF, b"p", b"/", b"p/a", limit=1),
    q.GetUpload(SLOT, REF, KEY, upload_id(1)),
    q.ListUploads((SLOT,), REF),
    q.ListParts(SLOT, REF, KEY, upload_id(1)),
    q.ListVersionParts(SLOT, REF, KEY, 5),
    q.GetUsage((SLOT,), None),
    q.ListBelow((SLOT,), after=bytes(19)),
    q.ListReleased(SLOT, 5),
    q.ListReleasedSlots((SLOT,)),
    q.IsWanted(SLOT, BUCKET, KEY, (CHUNK,)),
    q.ClusterChanges(0),
]


def test_there_is_a_sample_of_everything() -> None:
    assert {type(command) for command in COMMANDS} == set(c.COMMANDS)
    assert {type(query) for query in QUERIES} == set(q.QUERIES)


@pytest.mark.parametrize("value", COMMANDS + QUERIES, ids=lambda v: type(v).__name__)
def test_what_is_asked_travels_unchanged(value: Any) -> None:
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("command", COMMANDS, ids=lambda v: type(v).__name__)
def test_what_a_front_door_makes_is_within_bounds(command: Any) -> None:
    check_command(command, encoded_size=len(codec.encode(command)))


@pytest.mark.parametrize("query", QUERIES, ids=lambda v: type(v).__name__)
def test_what_is_asked_is_within_bounds(query: Any) -> None:
    check_query(query)


PUT = COMMANDS[3]
LARGE = COMMANDS[4]
OUT_OF_BOUNDS: list[Any] = [
    attrs.evolve(PUT, slot=Slot(SLOT_COUNT)),
    attrs.evolve(PUT, slot=Slot(-1)),
    attrs.evolve(PUT, key=Key(b"")),
    attrs.evolve(PUT, key=Key(b"k" * 1025)),
    attrs.evolve(PUT, ref=c.BucketRef(BucketId(-1), 1)),
    attrs.evolve(PUT, ref=c.BucketRef(BucketId(1 << 64), 1)),
    attrs.evolve(PUT, draft=draft(b"x", size=-1)),
    attrs.evolve(PUT, draft=draft(b"x", size=1 << 62)),
    attrs.evolve(PUT, draft=draft(b"x", location=Parts(upload_id(1), 1))),
    attrs.evolve(PUT, draft=draft(b"x", location=External("tier", b""))),
    attrs.evolve(LARGE, intent=b"short"),
    attrs.evolve(LARGE, draft=large_draft(chunks(intent(1), scheme="nonsense"))),
    attrs.evolve(LARGE, draft=large_draft(chunks(intent(1), away=(256,)))),
    c.PurgeStep(Slot(SLOT_COUNT + 1)),
    c.CreateBucketRecord("name", "owner", (), "replicate:3"),
    c.CreateBucketRecord("name", "owner", (Slot(5000),), "replicate:3"),
    c.CreateBucketRecord("name", "owner", SPAN, "replicate:0"),
    c.SetLayout(b"no layout"),
    c.ForgetReleased(SLOT, (-1,)),
    c.ChangeDisplaced(SLOT, attrs.evolve(PLACE, chunk=b"short"), ()),
    c.ChangeDisplaced(SLOT, attrs.evolve(PLACE, upload="zz"), ()),
    c.ChangeDisplaced(SLOT, PLACE, ((-1, None, None),)),
]


@pytest.mark.parametrize("command", OUT_OF_BOUNDS, ids=lambda v: type(v).__name__)
def test_what_could_not_be_applied_is_refused_before_it_is_logged(command: Any) -> None:
    """F32."""
    with pytest.raises(InvalidRequest):
        check_command(command, encoded_size=100)


def test_a_command_larger_than_an_entry_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        check_command(PUT, encoded_size=ENTRY_SIZE_MAX)


@pytest.mark.parametrize(
    "query",
    [
        q.ListKeys((SLOT,), REF, limit=0),
        q.ListKeys((SLOT,), REF, limit=1001),
        q.ListKeys((SLOT,), REF, prefix=b"p" * 1025),
        q.ListKeys((Slot(4096),), REF),
        q.ListBelow((SLOT,), after=b"x"),
        q.ReadSpans(SLOT, REF, KEY, -1),
        q.ReadSpans(SLOT, REF, KEY, 1, spans_max=100_000),
        q.IsWanted(SLOT, BUCKET, KEY, (CHUNK,) * 5000),
        q.ClusterChanges(-1),
    ],
    ids=lambda v: type(v).__name__,
)
def test_queries_out_of_bounds_are_refused(query: Any) -> None:
    with pytest.raises(InvalidRequest):
        check_query(query)


def test_errors_travel_with_what_they_say() -> None:
    error = meta_errors.EntityTooSmall("small", number=3, size=9, etag="e")
    found = codec.decode(codec.encode(error))
    assert type(found) is meta_errors.EntityTooSmall
    assert (found.number, found.size, found.etag, str(found)) == (3, 9, "e", "small")
