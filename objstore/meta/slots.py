"""Slots: which of a bucket's few has a key, and which few a bucket gets.

    (bucket incarnation, key) --hash--> place in the bucket's span --> slot --> shard

All rows of a key lie in one slot, so one shard decides about the key.  The hash is cut
into equal ranges, one a slot of the span: a span that is doubled later halves each range.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from hashlib import blake2b
from itertools import chain
from random import Random

from objstore.ids import BucketId, Key, ShardId, Slot
from objstore.limits import BUCKET_SPAN, SHARD_COUNT, SLOT_COUNT
from objstore.ring.voters import bundle_of

_BUCKET = struct.Struct(">Q")
_HASH_SIZE = 8  # bytes


def slot_of(bucket: BucketId, key: Key, span: tuple[Slot, ...]) -> Slot:
    """The slot of `span` that has all rows of `key`."""
    digest = blake2b(_BUCKET.pack(bucket) + key, digest_size=_HASH_SIZE).digest()
    return span[int.from_bytes(digest, "big") * len(span) >> 8 * _HASH_SIZE]


def shard_at_birth(slot: Slot) -> ShardId:
    """The shard that a slot has in a new cluster; the layout says where it is now."""
    return ShardId(1 + slot * SHARD_COUNT // SLOT_COUNT)


def choose_span(
    random: Random,
    *,
    size: int = BUCKET_SPAN,
    shard_of: Callable[[Slot], ShardId] = shard_at_birth,
) -> tuple[Slot, ...]:
    """Choose `size` slots for a new bucket.

    They are on different shards as far as there are any, and these of one bundle
    (`ring.voters.bundle_of`) as far as it has them.
    """
    assert 0 < size <= SLOT_COUNT
    slots = [Slot(number) for number in random.sample(range(SLOT_COUNT), SLOT_COUNT)]
    bundle = bundle_of(shard_of(slots[0]))
    of_bundle = (slot for slot in slots if bundle_of(shard_of(slot)) == bundle)
    chosen: list[Slot] = []
    shards: set[ShardId] = set()
    for slot in chain(of_bundle, slots):
        if shard_of(slot) not in shards:
            chosen.append(slot)
            shards.add(shard_of(slot))
        if len(chosen) == size:
            return tuple(chosen)
    taken = set(chosen)
    rest = [slot for slot in slots if slot not in taken]
    return (*chosen, *rest[: size - len(chosen)])


def by_shard(
    slots: Iterable[Slot], shard_of: Callable[[Slot], ShardId]
) -> dict[ShardId, tuple[Slot, ...]]:
    """Split slots by the shard that has them, in order of first mention."""
    split: dict[ShardId, tuple[Slot, ...]] = {}
    for slot in slots:
        shard = shard_of(slot)
        split[shard] = (*split.get(shard, ()), slot)
    return split
