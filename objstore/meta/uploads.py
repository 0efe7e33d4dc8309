"""Multipart uploads: begun, fed with parts, completed or aborted.

    CreateUpload --> PutPart ... --> CompleteUpload --> version with location Parts
                                 '-> AbortUpload    --> parts queued for deletion

A completion writes the part list and one version; the part rows stay where they are and
belong to the version from then on.  Parts that were not listed, and all parts of what is
aborted or deleted, are queued and drained in bounded steps (`expiry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise

import attrs

from objstore.errors import InvalidRequest
from objstore.frozen import frozen
from objstore.ids import BucketId, Key, Slot, UploadId
from objstore.limits import (
    COMPLETION_KEPT_MS,
    OBJECT_SIZE_MAX,
    PART_NUMBER_MAX,
)
from objstore.meta import (
    combine,
    fences,
    intents,
    part_map,
    payloads,
    references,
    schema,
    versions,
)
from objstore.meta.commands import (
    AbortUpload,
    CompleteResult,
    CompleteUpload,
    CreateUpload,
    PartRef,
    PutPart,
    PutResult,
)
from objstore.meta.errors import (
    ChecksumMismatch,
    EntityTooLarge,
    EntityTooSmall,
    InvalidPart,
    InvalidPartOrder,
    NoSuchUpload,
    SizeMismatch,
)
from objstore.meta.payloads import PartHead, Place
from objstore.meta.rows import RowView, first_row
from objstore.meta.values import Checksum, Draft, Part, Parts, Upload
from objstore.meta.work import Work
from objstore.rpc import codec

_DIGEST_SIZE = 16  # bytes
COMPOSITE = "COMPOSITE"
FULL_OBJECT = "FULL_OBJECT"


def load(view: RowView, slot: Slot, bucket: BucketId, key: Key, upload: UploadId) -> Upload:
    """The upload in progress.  Raises NoSuchUpload."""
    payload = None
    if schema.is_hex_16(upload):
        payload = view.get(schema.upload_key(slot, bucket, upload))
    if payload is not None:
        found = codec.decode_as(Upload, payload)
        if found.key == key:
            return found
    raise NoSuchUpload(f"no upload {upload} in progress")


def create_upload(work: Work, command: CreateUpload) -> Upload:
    ref = command.ref
    fences.require(work.rows, work.slot, ref)
    if not schema.is_hex_16(command.upload.upload):
        raise InvalidRequest("an upload id is 32 lower hex digits")
    upload = attrs.evolve(command.upload, initiated_ms=work.time_ms)
    row_key = schema.upload_key(work.slot, ref.bucket, upload.upload)
    if work.rows.get(row_key) is not None:
        raise InvalidRequest(f"upload id {upload.upload} is taken")
    work.rows.put(row_key, codec.encode(upload))
    work.rows.put(_by_key(work, ref.bucket, upload), payloads.pack(None))
    work.count(ref.bucket, uploads=1)
    return upload


def _by_key(work: Work, bucket: BucketId, upload: Upload) -> bytes:
    return schema.upload_by_key_key(
        work.slot, bucket, upload.key, upload.initiated_ms, upload.upload
    )


def _delete_upload(work: Work, bucket: BucketId, upload: Upload) -> None:
    work.rows.delete(schema.upload_key(work.slot, bucket, upload.upload))
    work.rows.delete(_by_key(work, bucket, upload))
    work.count(bucket, uploads=-1)


def put_part(work: Work, command: PutPart) -> Part:
    bucket, key = command.ref.bucket, command.key
    fences.require(work.rows, work.slot, command.ref)
    load(work.rows, work.slot, bucket, key, command.upload)
    number = command.part.number
    if not 1 <= number <= PART_NUMBER_MAX:
        raise InvalidRequest(f"part numbers are 1 to {PART_NUMBER_MAX}")
    if not schema.is_hex_16(command.part.etag):
        raise InvalidRequest("a part's etag is its MD5 in 32 lower hex digits")
    intents.use_intent(work, bucket, command.intent, command.part.location)
    prefix = schema.parts_prefix(work.slot, bucket, command.upload)
    row_key = schema.part_key(prefix, number)
    replaced = work.rows.get(row_key)
    if replaced is not None:
        location = payloads.unpack_part(number, replaced).location
        references.let_go(work, bucket, key, location)
    part = attrs.evolve(command.part, time_ms=work.time_ms)
    work.rows.put(row_key, payloads.pack_part(part))
    place = Place(bucket, key, 0, command.upload, number)
    references.hold(work, place, part.location)
    return attrs.evolve(part, location=payloads.NO_BYTES)


def abort_upload(work: Work, command: AbortUpload) -> None:
    bucket, key = command.ref.bucket, command.key
    fences.require(work.rows, work.slot, command.ref)
    upload = load(work.rows, work.slot, bucket, key, command.upload)
    _delete_upload(work, bucket, upload)
    prefix = schema.parts_prefix(work.slot, bucket, upload.upload)
    if first_row(work.rows, prefix, schema.range_end(prefix)) is not None:
        references.queue_purge(work, bucket, key, upload.upload, unlisted_only=False)


# ---- completion -----------------------------------------------------------------------


@frozen
class _Chosen:
    """The listed parts, as their rows have them."""

    heads: list[PartHead]
    size: int
    packed_map: bytes
    has_unlisted: bool


def complete_upload(work: Work, command: CompleteUpload) -> CompleteResult:
    bucket, key = command.ref.bucket, command.key
    versioning = fences.require(work.rows, work.slot, command.ref)
    prefix = schema.versions_prefix(work.slot, bucket, key)
    top = versions.current(work.rows, prefix)
    digest = _digest(command)
    if schema.is_hex_16(command.upload):
        repeated = _completed_before(work, command, top, digest)
        if repeated is not None:
            return repeated
    upload = load(work.rows, work.slot, bucket, key, command.upload)
    chosen = _choose(work, bucket, command)
    checksum = _checksum(upload, chosen)
    _check_expected(command, chosen, checksum)
    versions.check_condition(command.condition, versions.etag_of(top))
    packed = payloads.pack_draft(_draft(upload, chosen, checksum))
    put = versions.store_version(
        work, bucket, key, packed, prefix=prefix, versioning=versioning, top=top
    )
    map_key = schema.part_map_key(work.slot, bucket, upload.upload)
    work.rows.put(map_key, chosen.packed_map)
    _delete_upload(work, bucket, upload)
    if chosen.has_unlisted:
        references.queue_purge(work, bucket, key, upload.upload, unlisted_only=True)
    result = _result(put, chosen, checksum)
    _remember(work, command, digest, result)
    return result


def _digest(command: CompleteUpload) -> bytes:
    """What two completions that are the same have in common."""
    listed = [(part.number, part.etag) for part in command.parts]
    return blake2b(payloads.pack(listed), digest_size=_DIGEST_SIZE).digest()


def _completed_before(
    work: Work, command: CompleteUpload, top: versions.Found | None, digest: bytes
) -> CompleteResult | None:
    row_key = schema.completion_key(work.slot, command.ref.bucket, command.upload)
    payload = work.rows.get(row_key)
    if payload is None:
        return None
    key, known_digest, due_ms, encoded = payloads.unpack(payload)[:4]
    result = codec.decode_as(CompleteResult, encoded)
    is_current = top is not None and top[1].log_index == result.put.index
    is_same = key == command.key and known_digest == digest
    if is_same and is_current and due_ms > work.time_ms:
        return result
    raise NoSuchUpload(f"upload {command.upload} was completed")


def _remember(
    work: Work, command: CompleteUpload, digest: bytes, result: CompleteResult
) -> None:
    bucket, upload = command.ref.bucket, command.upload
    due_ms = work.time_ms + COMPLETION_KEPT_MS
    row = payloads.pack((command.key, digest, due_ms, codec.encode(result)))
    work.rows.put(schema.completion_key(work.slot, bucket, upload), row)
    name = references.purge_name(bucket, upload)
    expiry = schema.expiry_key(work.slot, due_ms, schema.Expiring.COMPLETION, name)
    work.rows.put(expiry, payloads.pack(None))


def _choose(work: Work, bucket: BucketId, command: CompleteUpload) -> _Chosen:
    """Find the listed parts in one pass over the upload's part rows."""
    listed = command.parts
    _check_order(listed)
    prefix = schema.parts_prefix(work.slot, bucket, command.upload)
    rows = work.rows.scan(prefix, schema.range_end(prefix))
    heads: list[PartHead] = []
    ends: list[tuple[int, int]] = []
    size = 0
    has_unlisted = False
    for row_key, payload in rows:
        number = schema.number_of_part(row_key)
        if len(heads) == len(listed) or number < listed[len(heads)].number:
            has_unlisted = True
            continue
        wanted = listed[len(heads)]
        head = payloads.unpack_part_head(payload)
        _check_part(wanted, number, head)
        heads.append(head)
        size += head.size
        ends.append((number, size))
    if len(heads) < len(listed):
        number = listed[len(heads)].number
        raise InvalidPart(f"part {number} was not uploaded", number=number)
    _check_sizes(command, heads, size)
    return _Chosen(heads, size, part_map.pack_map(ends), has_unlisted)


def _check_order(listed: Sequence[PartRef]) -> None:
    if not listed:
        raise InvalidPart("no part is listed")
    numbers = [part.number for part in listed]
    if any(a >= b for a, b in pairwise(numbers)):
        raise InvalidPartOrder("parts must be listed in ascending order")


def _check_part(wanted: PartRef, number: int, head: PartHead) -> None:
    if number != wanted.number:
        raise InvalidPart(f"part {wanted.number} was not uploaded", number=wanted.number)
    if head.etag != wanted.etag:
        raise InvalidPart(f"part {number} has another etag", number=number)
    checksum = None if head.checksum is None else head.checksum[1]
    if wanted.checksum is not None and wanted.checksum != checksum:
        raise InvalidPart(f"part {number} has another checksum", number=number)


def _check_sizes(command: CompleteUpload, heads: list[PartHead], size: int) -> None:
    for part, head in zip(command.parts[:-1], heads[:-1], strict=True):
        if head.size < command.part_size_min:
            raise EntityTooSmall(
                f"part {part.number} has {head.size} bytes",
                number=part.number,
                size=head.size,
                etag=head.etag,
                size_min=command.part_size_min,
            )
    if size > OBJECT_SIZE_MAX:
        raise EntityTooLarge(f"{size} bytes in all, at most {OBJECT_SIZE_MAX}")


def _checksum(upload: Upload, chosen: _Chosen) -> Checksum | None:
    """The object's checksum as its upload asked for it, where all parts have theirs."""
    algorithm = upload.checksum_algorithm
    values = [head.checksum for head in chosen.heads if head.checksum is not None]
    if algorithm is None or len(values) < len(chosen.heads):
        return None
    if any(value[0] != algorithm for value in values):
        return None
    kind = upload.checksum_kind or (FULL_OBJECT if algorithm == "CRC64NVME" else COMPOSITE)
    if kind == FULL_OBJECT and combine.is_combinable(algorithm):
        sized = [(v[1], h.size) for v, h in zip(values, chosen.heads, strict=True)]
        return Checksum(algorithm, combine.full_object(algorithm, sized), FULL_OBJECT)
    return Checksum(
        algorithm, combine.composite(algorithm, [v[1] for v in values]), COMPOSITE
    )


def _check_expected(
    command: CompleteUpload, chosen: _Chosen, checksum: Checksum | None
) -> None:
    if command.expected_size is not None and command.expected_size != chosen.size:
        raise SizeMismatch(
            f"the parts have {chosen.size} bytes, expected {command.expected_size}"
        )
    expected = command.expected_checksum
    if expected is not None and (checksum is None or checksum.value != expected):
        raise ChecksumMismatch("the parts' checksums do not give the expected one")


def _draft(upload: Upload, chosen: _Chosen, checksum: Checksum | None) -> Draft:
    return Draft(
        size=chosen.size,
        etag=combine.multipart_etag([head.etag for head in chosen.heads]),
        headers=upload.headers,
        user_metadata=upload.user_metadata,
        location=Parts(upload.upload, len(chosen.heads)),
        owner=upload.owner,
        checksum=checksum,
        storage_class=upload.storage_class,
        tags=upload.tags,
    )


def _result(put: PutResult, chosen: _Chosen, checksum: Checksum | None) -> CompleteResult:
    return CompleteResult(
        put=put,
        checksum_algorithm=None if checksum is None else checksum.algorithm,
        checksum=None if checksum is None else checksum.value,
        checksum_kind=None if checksum is None else checksum.kind,
        part_count=len(chosen.heads),
        size=chosen.size,
    )
