"""DeleteObject and DeleteObjects: versions go; their chunks are released by the command."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial

import trio

from objstore.errors import ObjstoreError, Unavailable
from objstore.meta.commands import (
    UNCONDITIONAL,
    DeleteResult,
    DeleteVersion,
    WriteCondition,
    asked,
)
from objstore.objects.capability import Capability
from objstore.objects.parallel import outcomes
from objstore.objects.store import Store

# Of one DeleteObjects: the slots' leaders batch what arrives together, and other
# requests still get their turns.
_AT_ONCE_MAX = 64


async def delete_object(
    store: Store, capability: Capability, condition: WriteCondition = UNCONDITIONAL
) -> DeleteResult:
    """Delete the key's current version, or the one the capability names.

    Nothing there is no error, but with If-Match.
    Raises PreconditionFailed, NoSuchKey (If-Match on nothing), NoSuchBucket, Unavailable.
    If cancelled, the version may be gone all the same.
    """
    capability.require("s3:DeleteObject", "s3:DeleteObjectVersion")
    wish = asked(condition)

    def attempt(newer: Capability) -> Awaitable[DeleteResult]:
        slot, ref, key = store.place_of(newer)
        return store.propose(DeleteVersion(slot, ref, key, newer.version_id, wish))

    return await store.fenced(capability, attempt)


async def delete_objects(
    store: Store, deletions: Sequence[tuple[Capability, WriteCondition]]
) -> list[DeleteResult | ObjstoreError]:
    """Delete each by itself: a result or an error in each one's place.

    Those that others kept from their turn for too long are Unavailable: a shard that does
    not answer costs the request its patience once, and not for every key.
    """
    gives_up_at = trio.current_time() + store.options.meta_timeout_ms / 1000

    async def delete(capability: Capability, condition: WriteCondition) -> DeleteResult:
        if trio.current_time() > gives_up_at:
            raise Unavailable("the keys before this one took too long")
        return await delete_object(store, capability, condition)

    return await outcomes(
        [partial(delete, capability, condition) for capability, condition in deletions],
        at_once_max=_AT_ONCE_MAX,
    )
