"""PutObject: a body becomes the current version of a key.

The bytes are safe first (`intake`), then one PutVersion makes them visible; the condition
is decided inside that command.  A large body with a condition is looked at beforehand too:
so that gigabytes are not sent for a 412 that is certain already.
"""

from __future__ import annotations

from functools import partial

from objstore.frozen import frozen
from objstore.meta.commands import PutResult, PutVersion, WriteCondition, asked
from objstore.meta.errors import NoSuchKey
from objstore.meta.payloads import pack_draft
from objstore.meta.queries import GetVersion
from objstore.meta.values import Checksum, Draft, Version
from objstore.meta.versions import check_condition
from objstore.objects.capability import Capability
from objstore.objects.intake import Received, take_in
from objstore.objects.requests import Body, ObjectAttributes
from objstore.objects.store import Store


@frozen
class Stored:
    """What a write answers."""

    result: PutResult
    size: int
    checksum: Checksum


async def put_object(
    store: Store,
    capability: Capability,
    body: Body,
    attributes: ObjectAttributes,
    *,
    source_memory: int = 0,
) -> Stored:
    """Store `body` under the capability's key.

    source_memory: what `body` itself holds while it is read, of a copy.
    Raises DigestMismatch, PreconditionFailed, NoSuchKey (If-Match on nothing),
    NoSuchBucket, Unavailable (`unknown` where it may have happened), OutOfSpace, and what
    iterating the body raises: then nothing is visible.
    If cancelled, the version may or may not be visible; bytes that are not are given up.
    """
    capability.require("s3:PutObject")
    if body.size > store.options.inline_size_max:
        await check_early(store, capability, attributes.condition)

    async def commit(newer: Capability, received: Received) -> Stored:
        slot, ref, key = store.place_of(newer)
        draft = pack_draft(_draft(newer, attributes, received))
        result = await store.propose(
            PutVersion(slot, ref, key, draft, asked(attributes.condition), received.intent)
        )
        return Stored(result, received.size, received.checksum)

    return await take_in(
        store,
        capability,
        body,
        checksum_algorithm=attributes.checksum_algorithm,
        source_memory=source_memory,
        commit=commit,
    )


def _draft(
    capability: Capability, attributes: ObjectAttributes, received: Received
) -> Draft:
    # By place: a call with so many names compares them all.
    return Draft(
        received.size,
        received.etag,
        attributes.headers,
        attributes.user_metadata,
        received.location,
        capability.record.owner,
        received.checksum,
        attributes.storage_class,
    )


async def check_early(
    store: Store, capability: Capability, condition: WriteCondition
) -> None:
    """Fail before the body is read where `condition` cannot hold now.

    Only to save the sender's time: what decides is the command.
    """
    if condition.if_match or condition.if_none_match:
        etag = await store.fenced(capability, partial(_current_etag, store))
        check_condition(condition, etag)


async def _current_etag(store: Store, capability: Capability) -> str | None:
    slot = store.slot_of(capability.record, capability.object_key)
    try:
        version: Version = await store.query(
            GetVersion(slot, capability.ref, capability.object_key)
        )
    except NoSuchKey:
        return None
    return None if version.draft is None else version.draft.etag
