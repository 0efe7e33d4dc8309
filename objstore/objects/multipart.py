"""Multipart uploads: created, filled part by part, completed into a version or aborted.

A part is stored as an object is (`intake`), and its row belongs to the upload.  The
completion is one command that carries the part list only: the version refers to the part
rows, which stay where they are.
"""

from __future__ import annotations

import attrs

from objstore.ids import UploadId
from objstore.meta.commands import (
    UNCONDITIONAL,
    AbortUpload,
    CompleteResult,
    CompleteUpload,
    CreateUpload,
    PartRef,
    PutPart,
    WriteCondition,
    asked,
)
from objstore.meta.queries import GetUpload
from objstore.meta.values import Part, Upload
from objstore.objects.capability import Capability
from objstore.objects.intake import Received, take_in
from objstore.objects.requests import Body
from objstore.objects.store import Store


@attrs.frozen(kw_only=True)
class UploadAttributes:
    """What the object will have beside its bytes."""

    headers: tuple[tuple[str, str], ...] = ()
    user_metadata: tuple[tuple[str, str], ...] = ()
    storage_class: str = "STANDARD"
    checksum_algorithm: str | None = None
    checksum_kind: str | None = None  # "FULL_OBJECT" | "COMPOSITE"


@attrs.frozen(kw_only=True)
class Completion:
    """What a client says its upload is made of."""

    parts: tuple[PartRef, ...]
    condition: WriteCondition = UNCONDITIONAL
    expected_size: int | None = None
    expected_checksum: bytes | None = None


async def create_upload(
    store: Store, capability: Capability, attributes: UploadAttributes
) -> Upload:
    """Begin an upload for the capability's key.  Raises NoSuchBucket, Unavailable.

    If cancelled, an upload that nobody knows of may stay, to be seen in ListUploads.
    """
    capability.require("s3:PutObject")
    upload = store.new_upload()

    async def attempt(newer: Capability) -> Upload:
        created: Upload = await store.propose(
            CreateUpload(
                slot=store.slot_of(newer.record, newer.object_key),
                ref=newer.ref,
                upload=_draft(newer, upload, attributes),
            )
        )
        return created

    return await store.fenced(capability, attempt)


def _draft(
    capability: Capability, upload: UploadId, attributes: UploadAttributes
) -> Upload:
    return Upload(
        upload=upload,
        key=capability.object_key,
        initiated_ms=0,  # Fixed when applied.
        owner=capability.record.owner,
        initiator=capability.principal.canonical_id,
        headers=attributes.headers,
        user_metadata=attributes.user_metadata,
        scheme=capability.record.scheme,
        storage_class=attributes.storage_class,
        checksum_algorithm=attributes.checksum_algorithm,
        checksum_kind=attributes.checksum_kind,
    )


async def get_upload(store: Store, capability: Capability, upload: UploadId) -> Upload:
    """The upload, in progress.  Raises NoSuchUpload."""
    capability.require("s3:PutObject", "s3:ListMultipartUploadParts")

    async def attempt(newer: Capability) -> Upload:
        slot = store.slot_of(newer.record, newer.object_key)
        found: Upload = await store.query(
            GetUpload(slot, newer.ref, newer.object_key, upload)
        )
        return found

    return await store.fenced(capability, attempt)


async def put_part(
    store: Store,
    capability: Capability,
    upload: Upload,
    number: int,
    body: Body,
    *,
    checksum_algorithm: str,
    source_memory: int = 0,
) -> Part:
    """Store `body` as part `number`, in the place of an earlier one.

    upload: as `get_upload` found it.
    source_memory: what `body` itself holds while it is read, of a copy.
    Raises NoSuchUpload, and as `put_object` does: then the earlier part stays.
    If cancelled, either part may be there.
    """
    capability.require("s3:PutObject")

    async def commit(newer: Capability, received: Received) -> Part:
        stored: Part = await store.propose(
            PutPart(
                slot=store.slot_of(newer.record, newer.object_key),
                ref=newer.ref,
                key=newer.object_key,
                upload=upload.upload,
                part=_part(upload, number, received),
                intent=received.intent,
            )
        )
        return stored

    return await take_in(
        store,
        capability,
        body,
        checksum_algorithm=checksum_algorithm,
        scheme=upload.scheme,
        upload=upload.upload,
        source_memory=source_memory,
        commit=commit,
    )


def _part(upload: Upload, number: int, received: Received) -> Part:
    return Part(
        number=number,
        size=received.size,
        etag=received.etag,
        time_ms=0,  # Fixed when applied.
        location=received.location,
        checksum=received.checksum if upload.checksum_algorithm else None,
    )


async def complete_upload(
    store: Store, capability: Capability, upload: UploadId, completion: Completion
) -> CompleteResult:
    """Make a version of the listed parts.  Repeated, it answers the same for a day.

    Raises NoSuchUpload, InvalidPart, InvalidPartOrder, EntityTooSmall, EntityTooLarge,
    ChecksumMismatch, PreconditionFailed, NoSuchKey, NoSuchBucket, Unavailable.
    If cancelled, it may be completed all the same.
    """
    capability.require("s3:PutObject")

    async def attempt(newer: Capability) -> CompleteResult:
        result: CompleteResult = await store.propose(
            CompleteUpload(
                slot=store.slot_of(newer.record, newer.object_key),
                ref=newer.ref,
                key=newer.object_key,
                upload=upload,
                parts=completion.parts,
                condition=asked(completion.condition),
                expected_size=completion.expected_size,
                expected_checksum=completion.expected_checksum,
                part_size_min=store.options.part_size_min,
            )
        )
        return result

    return await store.fenced(capability, attempt)


async def abort_upload(store: Store, capability: Capability, upload: UploadId) -> None:
    """Drop an upload with its parts.  Raises NoSuchUpload.

    If cancelled, it may be gone all the same.
    """
    capability.require("s3:AbortMultipartUpload")

    async def attempt(newer: Capability) -> None:
        slot = store.slot_of(newer.record, newer.object_key)
        await store.propose(AbortUpload(slot, newer.ref, newer.object_key, upload))

    await store.fenced(capability, attempt)
