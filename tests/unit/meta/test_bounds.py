"""What a peer may ask for: everything that a front door makes, nothing that would not apply."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.errors import InvalidRequest
from objstore.ids import BucketId, ChunkId, Epoch, IntentId, Key, NodeId, Slot
from objstore.limits import ENTRY_SIZE_MAX, SLOT_COUNT
from objstore.meta import commands as c
from objstore.meta import errors as meta_errors
from objstore.meta import payloads
from objstore.meta import queries as q
from objstore.meta.audit import audit_slot
from objstore.meta.bounds import check_command, check_query
from objstore.meta.payloads import pack_draft
from objstore.meta.values import (
    AccessKey,
    BucketFence,
    BucketState,
    ChunkPlace,
    ChunkRef,
    External,
    JoinToken,
    PackedDraft,
    Parts,
)
from objstore.ring.layout import encode
from objstore.rpc import codec
from tests.unit.meta.builders import (
    BUCKET,
    REF,
    SLOT,
    Shard,
    chunks,
    intent,
    large_draft,
    packed,
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
    c.PutVersion(SLOT, REF, KEY, packed(b"x"), c.WriteCondition(if_match=("a", "b"))),
    c.PutVersion(
        SLOT, REF, KEY, pack_draft(large_draft(chunks(intent(1), 3))), intent=intent(1)
    ),
    c.DeleteVersion(SLOT, REF, KEY, "null"),  # type: ignore[arg-type]
    c.BeginIntent(SLOT, REF, KEY, intent(1), is_renewal=True),
    c.BeginIntent(SLOT, REF, KEY, intent(1), spares=tuple(map(intent, range(2, 9)))),
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
    attrs.evolve(PUT, draft=packed(b"x", size=-1)),
    attrs.evolve(PUT, draft=packed(b"x", size=1 << 62)),
    attrs.evolve(PUT, draft=packed(b"x", location=Parts(upload_id(1), 1))),
    attrs.evolve(PUT, draft=packed(b"x", location=External("tier", b""))),
    attrs.evolve(LARGE, intent=b"short"),
    attrs.evolve(
        LARGE, draft=pack_draft(large_draft(chunks(intent(1), scheme="nonsense")))
    ),
    attrs.evolve(LARGE, draft=pack_draft(large_draft(chunks(intent(1), away=(256,))))),
    c.BeginIntent(SLOT, REF, KEY, intent(1), spares=tuple(map(intent, range(2, 10)))),
    c.BeginIntent(SLOT, REF, KEY, intent(1), spares=(IntentId(b"short"),)),
    c.BeginIntent(SLOT, REF, KEY, intent(1), spares=(intent(1),)),
    c.BeginIntent(SLOT, REF, KEY, intent(1), spares=(intent(2), intent(2))),
    c.BeginIntent(SLOT, REF, KEY, intent(1), is_renewal=True, spares=(intent(2),)),
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


PACKED = PUT.draft
PACK = payloads.pack
TRAITS = ("owner", "STANDARD", "CRC32", "FULL_OBJECT")


def _with_chunk(*chunk: object) -> bytes:
    return PACK((2, "replicate:3", (chunk,)))


MALFORMED: list[Any] = [
    attrs.evolve(PACKED, traits=b""),
    attrs.evolve(PACKED, traits=b"\xc1"),
    attrs.evolve(PACKED, traits=PACKED.traits + b"\0"),
    attrs.evolve(PACKED, traits=PACK(7)),
    attrs.evolve(PACKED, traits=PACK(TRAITS[:3])),
    attrs.evolve(PACKED, traits=PACK((b"owner", *TRAITS[1:])), checksum=b"c"),
    attrs.evolve(PACKED, traits=PACK((*TRAITS[:3], None)), checksum=b"c"),
    attrs.evolve(PACKED, traits=PACK(TRAITS), checksum=None),
    attrs.evolve(PACKED, traits=PACK(TRAITS), checksum=b""),
    attrs.evolve(PACKED, traits=PACK(TRAITS), checksum=b"c" * 65),
    attrs.evolve(PACKED, checksum=b"c"),
    attrs.evolve(PACKED, about=b""),
    attrs.evolve(PACKED, about=PACK(((), ()))),
    attrs.evolve(PACKED, about=PACK((None, (), ()))),
    attrs.evolve(PACKED, about=PACK(((("a",),), (), ()))),
    attrs.evolve(PACKED, about=PACK(((("a", 1),), (), ()))),
    attrs.evolve(PACKED, about=PACK("abc")),
    attrs.evolve(PACKED, location=b""),
    attrs.evolve(PACKED, location=PACK((9, b""))),
    attrs.evolve(PACKED, location=PACK((1,))),
    attrs.evolve(PACKED, location=PACK((1, "text"))),
    attrs.evolve(PACKED, location=PACK((1, b"x"))[:-1]),
    attrs.evolve(PACKED, location=PACK((2, b"replicate:3", ()))),
    attrs.evolve(PACKED, location=PACK((2, "replicate:3", 5))),
    attrs.evolve(PACKED, location=_with_chunk(CHUNK, 1, 1)),
    attrs.evolve(PACKED, location=_with_chunk("c" * 16, 1, 1, ())),
    attrs.evolve(PACKED, location=_with_chunk(CHUNK[1:], 1, 1, ())),
    attrs.evolve(PACKED, location=_with_chunk(CHUNK, None, 1, ())),
    attrs.evolve(PACKED, location=_with_chunk(CHUNK, 1, 1 << 63, ())),
    attrs.evolve(PACKED, location=_with_chunk(CHUNK, 1, 1, ((1,),))),
    attrs.evolve(PACKED, location=_with_chunk(CHUNK, 1, 1, ((1, b"node"),))),
    attrs.evolve(PACKED, location=_with_chunk(CHUNK, 1, 1, ((256, None),))),
]


@pytest.mark.parametrize("made", MALFORMED)
def test_a_draft_that_cannot_be_unpacked_is_refused_before_it_is_logged(made: Any) -> None:
    """Replicas do not look at it any more, and readers trust it."""
    with pytest.raises(InvalidRequest):
        check_command(attrs.evolve(PUT, draft=made), encoded_size=100)


@given(
    st.sampled_from(["traits", "about", "location"]),
    st.sampled_from([packed(b"data"), pack_draft(large_draft(chunks(intent(1), 2)))]),
    st.integers(0, 10_000),
    st.integers(0, 255),
)
def test_a_draft_with_any_byte_changed_is_refused_or_can_be_kept_and_read(
    name: str, made: PackedDraft, place: int, byte: int
) -> None:
    part = bytearray(getattr(made, name))
    part[place % len(part)] = byte
    changed = attrs.evolve(made, **{name: bytes(part)})
    shard = Shard()
    shard.open()
    shard.must(c.BeginIntent(SLOT, REF, KEY, intent(1)))
    command = c.PutVersion(SLOT, REF, KEY, changed, intent=intent(1))
    try:
        check_command(command, encoded_size=100)
    except InvalidRequest:
        return
    if isinstance(shard.do(command), c.PutResult):
        assert codec.decode(codec.encode(shard.get(KEY))) == shard.get(KEY)
        shard.must(c.DeleteVersion(SLOT, REF, KEY))
    assert audit_slot(shard.view.rows.items()) == []


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
