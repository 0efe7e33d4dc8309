"""Multipart uploads: parts, completion, its repetition, what is released."""

from __future__ import annotations

import hashlib
import time
import zlib
from typing import Any

import attrs
import pytest

from objstore.ids import Key
from objstore.limits import COMPLETION_KEPT_MS, ENTRY_SIZE_MAX
from objstore.meta import combine, schema
from objstore.meta import commands as c
from objstore.meta import queries as q
from objstore.meta.errors import (
    BucketNotEmpty,
    ChecksumMismatch,
    EntityTooSmall,
    InvalidPart,
    InvalidPartOrder,
    NoSuchKey,
    NoSuchUpload,
    PreconditionFailed,
)
from objstore.meta.values import Checksum, Parts, Usage
from objstore.rpc import codec
from tests.unit.meta.builders import (
    BUCKET,
    MIB,
    REF,
    SLOT,
    Shard,
    chunks,
    etag_of,
    intent,
    part,
    upload,
    upload_id,
)

KEY = Key(b"big")


@pytest.fixture
def shard() -> Shard:
    made = Shard()
    made.open()
    return made


def begin(shard: Shard, number: int = 1, **more: Any) -> None:
    shard.must(c.CreateUpload(SLOT, REF, upload(number, **more)))


def put_part(shard: Shard, number: int, *, of: int = 1, **more: Any) -> Any:
    return shard.do(c.PutPart(SLOT, REF, KEY, upload_id(of), part(number, **more)))


def put_chunk_part(shard: Shard, number: int, of_intent: int, **more: Any) -> None:
    shard.must(c.BeginIntent(SLOT, REF, KEY, intent(of_intent)))
    location = chunks(intent(of_intent), size=5 * MIB, **more)
    piece = part(number, location=location)
    shard.must(c.PutPart(SLOT, REF, KEY, upload_id(1), piece, intent(of_intent)))


def completion(numbers: list[int], *, of: int = 1, **more: Any) -> c.CompleteUpload:
    refs = tuple(c.PartRef(n, etag_of(n)) for n in numbers)
    return c.CompleteUpload(SLOT, REF, KEY, upload_id(of), refs, **more)


def test_a_completion_makes_a_version_of_the_listed_parts(shard: Shard) -> None:
    begin(shard, headers=(("content-type", "x/y"),))
    for number in (3, 1, 7):
        assert put_part(shard, number, size=5 * MIB + number).number == number
    result = shard.must(completion([1, 3, 7]))
    joined = b"".join(bytes.fromhex(etag_of(n)) for n in (1, 3, 7))
    assert result.put.etag == f"{hashlib.md5(joined).hexdigest()}-3"
    assert (result.part_count, result.size) == (3, 15 * MIB + 11)
    version = shard.get(KEY)
    assert version.draft is not None
    assert version.draft.location == Parts(upload_id(1), 3)
    assert version.draft.headers == (("content-type", "x/y"),)
    assert shard.usage() == Usage(objects=1, versions=1, bytes=15 * MIB + 11)


def test_an_upload_keeps_its_bucket_from_closing(shard: Shard) -> None:
    begin(shard)
    assert isinstance(shard.do(c.CloseBucket(SLOT, BUCKET, 2)), BucketNotEmpty)
    shard.must(c.AbortUpload(SLOT, REF, KEY, upload_id(1)))
    shard.must(c.CloseBucket(SLOT, BUCKET, 2))


def test_spans_say_which_part_has_which_byte(shard: Shard) -> None:
    begin(shard)
    sizes = {1: 5 * MIB, 2: 6 * MIB, 4: 3}
    for number, size in sizes.items():
        put_part(shard, number, size=size)
    order = shard.must(completion([1, 2, 4])).put.time_ms << 20

    def spans(offset: int, size: int, **more: Any) -> list[tuple[int, int]]:
        query = q.ReadSpans(SLOT, REF, KEY, order, offset, size, **more)
        return [(span.offset, span.size) for span in shard.ask(query)]

    first, second, third = (0, 5 * MIB), (5 * MIB, 6 * MIB), (11 * MIB, 3)
    assert spans(0, 11 * MIB + 3) == [first, second, third]
    assert spans(5 * MIB - 1, 1) == [first]
    assert spans(5 * MIB - 1, 2) == [first, second]
    assert spans(5 * MIB, 1) == [second]
    assert spans(0, 11 * MIB + 3, spans_max=2) == [first, second]
    assert spans(11 * MIB + 3, 5) == []
    assert spans(0, 0, part_number=4) == [third]
    with pytest.raises(NoSuchKey):
        spans(0, 0, part_number=3)
    listed = shard.ask(q.ListVersionParts(SLOT, REF, KEY, order, after=1))
    assert [piece.number for piece in listed.parts] == [2, 4]
    shard.delete(KEY)
    with pytest.raises(NoSuchKey):
        spans(0, 1)


def test_parts_are_listed_in_pages(shard: Shard) -> None:
    begin(shard)
    for number in (5, 1, 3):
        put_part(shard, number)
    page = shard.ask(q.ListParts(SLOT, REF, KEY, upload_id(1), limit=2))
    assert ([p.number for p in page.parts], page.is_truncated) == ([1, 3], True)
    page = shard.ask(q.ListParts(SLOT, REF, KEY, upload_id(1), after=3, limit=2))
    assert ([p.number for p in page.parts], page.is_truncated) == ([5], False)


def test_what_is_wrong_with_a_completion_is_said(shard: Shard) -> None:
    begin(shard)
    put_part(shard, 1)
    put_part(shard, 2, size=3)
    put_part(shard, 3)
    assert shard.do(completion([1, 4])).number == 4
    assert isinstance(shard.do(completion([])), InvalidPart)
    assert isinstance(shard.do(completion([3, 1])), InvalidPartOrder)
    assert isinstance(shard.do(completion([1, 1])), InvalidPartOrder)
    small = shard.do(completion([1, 2, 3]))
    assert isinstance(small, EntityTooSmall)
    assert (small.number, small.size) == (2, 3)
    wrong = c.CompleteUpload(SLOT, REF, KEY, upload_id(1), (c.PartRef(1, etag_of(9)),))
    assert isinstance(shard.do(wrong), InvalidPart)
    assert isinstance(shard.do(completion([1], of=2)), NoSuchUpload)
    mismatch = shard.do(completion([1, 2], expected_size=4))
    assert isinstance(mismatch, ChecksumMismatch)
    assert isinstance(shard.do(completion([1, 2])), c.CompleteResult)


def test_a_conditional_completion_is_decided_in_the_command(shard: Shard) -> None:
    shard.put(KEY)
    begin(shard)
    put_part(shard, 1)
    create = c.WriteCondition(if_none_match=("*",))
    assert isinstance(shard.do(completion([1], condition=create)), PreconditionFailed)
    shard.delete(KEY)
    assert isinstance(shard.do(completion([1], condition=create)), c.CompleteResult)
    assert isinstance(shard.do(completion([1], condition=create)), c.CompleteResult)


# ---- repetition -----------------------------------------------------------------------


def test_the_same_completion_again_gives_the_same_answer(shard: Shard) -> None:
    """F40."""
    begin(shard)
    put_part(shard, 1)
    put_part(shard, 2)
    first = shard.must(completion([1]))
    assert shard.must(completion([1])) == first
    assert isinstance(shard.do(completion([1, 2])), NoSuchUpload)
    assert isinstance(put_part(shard, 1), NoSuchUpload)
    assert isinstance(shard.do(c.AbortUpload(SLOT, REF, KEY, upload_id(1))), NoSuchUpload)


def test_it_does_so_until_the_key_is_overwritten(shard: Shard) -> None:
    begin(shard)
    put_part(shard, 1)
    shard.must(completion([1]))
    shard.put(KEY)
    assert isinstance(shard.do(completion([1])), NoSuchUpload)


def test_it_does_so_for_a_day(shard: Shard) -> None:
    begin(shard)
    put_part(shard, 1)
    shard.must(completion([1]))
    shard.time_ms += COMPLETION_KEPT_MS - 10
    assert isinstance(shard.do(completion([1])), c.CompleteResult)
    shard.time_ms += 20
    assert isinstance(shard.do(completion([1])), NoSuchUpload)
    shard.drain()
    assert schema.Table.COMPLETION not in shard.tables()
    assert isinstance(shard.do(completion([1])), NoSuchUpload)


# ---- what is released -----------------------------------------------------------------


def released(shard: Shard) -> list[int]:
    """Intent numbers of all released chunks."""
    rows = shard.ask(q.ListReleased(SLOT, before_ms=shard.time_ms + 1))
    return sorted(int.from_bytes(r.chunk[:12], "big") for row in rows for r in row.chunks)


def test_a_replaced_part_releases_its_chunks_at_once(shard: Shard) -> None:
    begin(shard)
    put_chunk_part(shard, 1, of_intent=1, missing=(0,))
    put_chunk_part(shard, 1, of_intent=2)
    assert released(shard) == [1]
    assert shard.usage() == Usage(uploads=1)


def test_parts_that_were_not_listed_are_released_step_by_step(shard: Shard) -> None:
    begin(shard)
    for number in range(1, 6):
        put_chunk_part(shard, number, of_intent=number)
    shard.must(completion([2, 4]))
    shard.drain()
    assert released(shard) == [1, 3, 5]
    assert [p.number for p in version_parts(shard)] == [2, 4]
    shard.delete(KEY)
    shard.drain()
    assert released(shard) == [1, 2, 3, 4, 5]
    left = shard.tables()
    for table in (schema.Table.PART, schema.Table.PART_MAP, schema.Table.CHUNK):
        assert table not in left


def version_parts(shard: Shard) -> Any:
    order = shard.get(KEY).order
    return shard.ask(q.ListVersionParts(SLOT, REF, KEY, order)).parts


def test_an_aborted_upload_releases_everything(shard: Shard) -> None:
    begin(shard)
    for number in range(1, 4):
        put_chunk_part(shard, number, of_intent=number, missing=(1,))
    assert shard.usage() == Usage(uploads=1, below_objects=3, below_bytes=15 * MIB)
    shard.must(c.AbortUpload(SLOT, REF, KEY, upload_id(1)))
    shard.drain()
    assert released(shard) == [1, 2, 3]
    assert shard.usage() == Usage()


def test_a_bucket_may_be_dropped_before_its_parts_are_drained(shard: Shard) -> None:
    begin(shard)
    put_chunk_part(shard, 1, of_intent=1, missing=(1,))
    shard.must(c.AbortUpload(SLOT, REF, KEY, upload_id(1)))
    shard.must(c.CloseBucket(SLOT, BUCKET, 2))
    shard.must(c.DropBucket(SLOT, BUCKET))
    shard.drain()
    assert released(shard) == [1]


def test_a_chunk_of_a_part_is_mended_where_it_is(shard: Shard) -> None:
    begin(shard)
    put_chunk_part(shard, 2, of_intent=1, missing=(1,))
    shard.must(completion([2]))
    (entry,) = shard.ask(q.ListBelow((SLOT,)))
    assert (entry.place.upload, entry.place.part_number) == (upload_id(1), 2)
    assert shard.must(c.ChangeDisplaced(SLOT, entry.place, ((1, None, ""),))) == ()
    assert shard.usage() == Usage(objects=1, versions=1, bytes=5 * MIB)
    assert shard.ask(q.ListBelow((SLOT,))) == ()


def test_parts_may_be_as_small_as_the_node_that_was_asked_allows(shard: Shard) -> None:
    begin(shard)
    for number in (1, 2):
        put_part(shard, number, size=10)
    small = shard.do(completion([1, 2], part_size_min=11))
    assert isinstance(small, EntityTooSmall)
    assert (small.number, small.size, small.size_min) == (1, 10, 11)
    assert shard.must(completion([1, 2], part_size_min=10)).size == 20


@pytest.mark.slow
def test_ten_thousand_parts_are_completed_and_drained_in_bounded_steps(
    shard: Shard,
) -> None:
    begin(shard, checksum_algorithm="CRC64NVME", checksum_kind="FULL_OBJECT")
    for number in range(1, 10_001):
        value = Checksum("CRC64NVME", number.to_bytes(8, "big"))
        put_part(shard, number, checksum=value)
    command = completion(list(range(1, 10_001)))
    # As large as it gets: each part named with the longest of checksums.
    checked = tuple(attrs.evolve(part, checksum=bytes(32)) for part in command.parts)
    assert (
        len(codec.encode(attrs.evolve(command, parts=checked))) < ENTRY_SIZE_MAX * 9 // 10
    )
    began = time.process_time()
    result = shard.must(command)
    print(f"completion of 10,000 parts: {time.process_time() - began:.3f} s of CPU")
    assert result.part_count == 10_000
    shard.delete(KEY)
    steps = 0
    while shard.must(c.PurgeStep(SLOT)):
        steps += 1
    assert steps < 400
    assert schema.Table.PART not in shard.tables()


# ---- checksums ------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_composite_checksums_are_the_hash_of_the_parts_checksums(algorithm: str) -> None:
    values = [b"a" * 4, b"b" * 4]
    expected = {
        "CRC32": zlib.crc32(b"aaaabbbb").to_bytes(4, "big"),
        "SHA1": hashlib.sha1(b"aaaabbbb").digest(),
        "SHA256": hashlib.sha256(b"aaaabbbb").digest(),
    }
    found = combine.composite(algorithm, values)
    assert found == expected.get(algorithm, found)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_full_object_checksums_are_those_of_the_joined_bytes(algorithm: str) -> None:
    pieces = [b"hello ", b"", b"wide", b" world"]
    parts = [(combine.composite(algorithm, [piece]), len(piece)) for piece in pieces]
    whole = combine.composite(algorithm, [b"".join(pieces)])
    assert combine.full_object(algorithm, parts) == whole


def test_a_completion_carries_the_full_objects_checksum(shard: Shard) -> None:
    begin(shard, checksum_algorithm="CRC32", checksum_kind="FULL_OBJECT")
    pieces = {1: b"x" * (5 * MIB), 2: b"y" * 10}
    for number, data in pieces.items():
        value = Checksum("CRC32", zlib.crc32(data).to_bytes(4, "big"))
        put_part(shard, number, size=len(data), checksum=value)
    whole = zlib.crc32(b"".join(pieces.values())).to_bytes(4, "big")
    wrong = shard.do(completion([1, 2], expected_checksum=b"1234"))
    assert isinstance(wrong, ChecksumMismatch)
    result = shard.must(completion([1, 2], expected_checksum=whole))
    assert (result.checksum, result.checksum_kind) == (whole, "FULL_OBJECT")
    assert shard.get(KEY).draft.checksum == Checksum("CRC32", whole)  # type: ignore[union-attr]
