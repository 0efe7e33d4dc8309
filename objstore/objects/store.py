"""The store: what every operation works with, and how it follows a bucket that moves on.

    objects/put.py, get.py, ...  --->  Store  --->  meta    (commands, queries)
                                        |  ---->  view    (buckets, rings: may lag)
                                        '------>  scatter, gather   (bytes)

The view may be behind.  So a name is looked up again in a refreshed view before
NoSuchBucket is said (`find_bucket`), and a command that a slot refuses as StaleBucket is
made again with the newer record (`fenced`): the slot's fence is what decides, never the
view.  While a bucket is being deleted, its closed slots refuse and the open ones serve;
who meets a closed one waits a little for the outcome.

Every call to the metadata plane carries what is left of the request's patience, which is
for all its calls together, and never more than `meta_timeout_ms`; where no client waits,
what is left of the calling task's effective deadline (`objects.patience`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import attrs
import trio

from objstore.chunks.client import ChunkClient
from objstore.errors import Unavailable
from objstore.host.host import Host
from objstore.ids import Epoch, IntentId, Key, Slot, UploadId
from objstore.limits import PART_SIZE_MIN
from objstore.meta import slots
from objstore.meta.commands import BeginIntent, BucketRef, Command
from objstore.meta.envelope import SPARES_LEVEL
from objstore.meta.errors import NoSuchBucket, StaleBucket
from objstore.meta.queries import Query
from objstore.meta.values import BucketRecord, BucketState
from objstore.meta.view import NotFounded
from objstore.objects.budget import Budget
from objstore.objects.capability import Capability
from objstore.objects.gather import Gather
from objstore.objects.intents import BegunIntent, SpareIntents
from objstore.objects.patience import waiting
from objstore.objects.scatter import Placement, Scatter
from objstore.units import KiB, MiB

T = TypeVar("T")

# How long an operation waits for a bucket that is half deleted or whose change has not
# reached the slot yet: several elections, and still within a client's patience.
_FENCE_WAIT_S = 5.0
_REFRESH_TIMEOUT_MS = 5_000  # Of one round; others may wait for the same one.
_FENCE_PAUSE_MIN_S = 0.01
_FENCE_PAUSE_MAX_S = 0.25
_INTENT_ID_SIZE = 12
_UPLOAD_ID_SIZE = 16


class Metadata(Protocol):
    """What is needed of `meta.client.MetaClient`."""

    def propose(self, command: Command, *, timeout_ms: int) -> Awaitable[Any]: ...

    async def propose_each(
        self, commands: Sequence[Command], *, timeout_ms: int
    ) -> list[object]: ...

    def query(self, query: Query, *, timeout_ms: int) -> Awaitable[Any]: ...


class View(Protocol):
    """What is needed of `meta.view.ClusterView`."""

    @property
    def ring(self) -> Placement:
        """Where new chunks go."""
        ...

    def ring_at(self, epoch: Epoch) -> Placement:
        """Where chunks of `epoch` are.  Raises NotFounded where that is not known yet."""
        ...

    def bucket(self, name: str) -> BucketRecord | None: ...

    def buckets(self) -> Iterable[BucketRecord]: ...

    @property
    def feature_level(self) -> int:
        """The level up to which commands may be proposed."""
        ...

    async def refresh(self, *, timeout_ms: int) -> None:
        """Learn every change that was committed before this call."""
        ...


class BucketReplaced(NoSuchBucket):
    """The bucket that an operation began in is gone, though another has its name now."""


@attrs.frozen(kw_only=True)
class StoreOptions:
    """What an operator may choose."""

    inline_size_max: int = 16 * KiB  # Objects and parts up to this ride in the log.
    chunk_size: int = 64 * MiB  # Larger ones are cut into chunks of this.
    scheme: str = "replicate:3"  # How new buckets keep data.
    meta_timeout_ms: int = 10_000  # For one command or query, retries among it.
    part_size_min: int = PART_SIZE_MIN  # Of all parts of an upload but the last.


@attrs.define(kw_only=True)
class Store:
    """All that the operations of this package need of the node."""

    meta: Metadata
    view: View
    scatter: Scatter
    gather: Gather
    chunks: ChunkClient
    budget: Budget  # Of bytes of bodies in flight.
    host: Host
    options: StoreOptions = StoreOptions()
    spares: SpareIntents = attrs.field(factory=SpareIntents, init=False)

    # ---- metadata ---------------------------------------------------------------------

    async def propose(self, command: Command, *, limit_ms: int | None = None) -> Any:
        """Propose within the request's patience.  Raises `meta.errors`, Unavailable.

        limit_ms: of this call; None: `meta_timeout_ms`.
        If cancelled, the command may be applied all the same.
        """
        with waiting(limit_ms or self.options.meta_timeout_ms) as timeout_ms:
            return await self.meta.propose(command, timeout_ms=timeout_ms)

    async def propose_each(self, commands: Sequence[Command]) -> list[object]:
        """Propose all at once; a result or an error in each one's place."""
        with waiting(self.options.meta_timeout_ms) as timeout_ms:
            return await self.meta.propose_each(commands, timeout_ms=timeout_ms)

    async def query(self, query: Query) -> Any:
        """Ask within the request's patience.  Raises `meta.errors`, Unavailable."""
        with waiting(self.options.meta_timeout_ms) as timeout_ms:
            return await self.meta.query(query, timeout_ms=timeout_ms)

    async def refresh_view(self) -> None:
        """Learn what the cluster shard has committed.  Raises Unavailable."""
        with waiting(_REFRESH_TIMEOUT_MS) as timeout_ms:
            await self.view.refresh(timeout_ms=timeout_ms)

    # ---- buckets ----------------------------------------------------------------------

    async def find_bucket(self, name: str) -> BucketRecord:
        """The bucket of this name.  Raises NoSuchBucket, after asking a fresh view."""
        return self.known_bucket(name) or await self.find_bucket_now(name)

    def known_bucket(self, name: str) -> BucketRecord | None:
        """The bucket of this name, where the view knows it: nearly always."""
        record = self.view.bucket(name)
        if record is None or record.state is BucketState.OPEN or is_there(record):
            return record
        return None

    async def find_bucket_now(self, name: str) -> BucketRecord:
        """The bucket as it is now, not as it was a moment ago.  Raises NoSuchBucket."""
        await self.refresh_view()
        record = self.view.bucket(name)
        if record is None or not is_there(record):
            raise NoSuchBucket(f"there is no bucket {name!r}")
        return record

    async def fenced(
        self, capability: Capability, attempt: Callable[[Capability], Awaitable[T]]
    ) -> T:
        """Run `attempt`, again with the bucket's newer record where its fence refuses.

        attempt: makes its commands from the capability it is given; it must be safe to
        run again after StaleBucket.
        Raises NoSuchBucket where the bucket is gone, Unavailable where its state does
        not settle, and what `attempt` and `Capability.renew` raise.
        """
        gives_up_at = None
        pause_s = 0.0
        while True:
            try:
                return await attempt(capability)
            except BucketReplaced:
                raise
            except (StaleBucket, NoSuchBucket) as error:
                now = trio.current_time()
                gives_up_at = gives_up_at or now + _FENCE_WAIT_S
                if now + pause_s > gives_up_at:
                    raise Unavailable(
                        f"bucket {capability.record.name!r} is being changed"
                    ) from error
            await trio.sleep(pause_s)
            newer = await self._renewed(capability)
            is_new = newer.ref != capability.ref
            pause_s = 0.0 if is_new else _next_pause(pause_s)
            capability = newer

    async def _renewed(self, capability: Capability) -> Capability:
        record = await self.find_bucket_now(capability.record.name)
        return capability.renew(record)

    # ---- places -----------------------------------------------------------------------

    def place_of(self, capability: Capability) -> tuple[Slot, BucketRef, Key]:
        """What commands and queries about one key begin with."""
        record, key = capability.bucket, capability.key
        assert record is not None, f"{capability.action} has no bucket"
        assert key is not None, f"{capability.action} has no key"
        slot = slots.slot_of(record.bucket, key, record.span)
        return slot, BucketRef(record.bucket, record.config_version), key

    async def ring_of(self, epoch: Epoch) -> Placement:
        """Where chunks of `epoch` are.  Raises Unavailable.

        A version may be newer than this node's view: its writer knew an epoch that the
        view has yet to learn of.
        """
        try:
            return self.view.ring_at(epoch)
        except NotFounded:
            await self.refresh_view()
            return self.view.ring_at(epoch)

    # ---- ids --------------------------------------------------------------------------

    def slot_of(self, record: BucketRecord, key: Key) -> Slot:
        """The slot of the bucket's span that has all rows of `key`."""
        return slots.slot_of(record.bucket, key, record.span)

    async def begin_intent(self, slot: Slot, ref: BucketRef, key: Key) -> BegunIntent:
        """An intent for one write, which was begun ahead or is now.

        Raises what `propose` does, StaleBucket among it.
        """
        now_s = trio.current_time()
        place = (ref, slot)
        spare = self.spares.take(place, now_s)
        if spare is not None:
            return spare
        count = 0
        if self.view.feature_level >= SPARES_LEVEL:
            count = self.spares.order(place, now_s)
        intent, *more = (self._new_intent() for _ in range(1 + count))
        begun: list[BegunIntent] = []
        try:
            await self.propose(BeginIntent(slot, ref, key, intent, spares=tuple(more)))
            begun = [BegunIntent(spare, now_s) for spare in more]
        finally:
            self.spares.deliver(place, count, begun)
        return BegunIntent(intent, now_s)

    def _new_intent(self) -> IntentId:
        return IntentId(self.host.entropy.token(_INTENT_ID_SIZE))

    def new_upload(self) -> UploadId:
        return UploadId(self.host.entropy.token(_UPLOAD_ID_SIZE).hex())


def is_there(record: BucketRecord) -> bool:
    """Whether a bucket with this record exists for clients.

    One that is opened for the first time does not yet, one that is being dropped no more.
    One that was closed and is opened again (its config version tells) never went away.
    """
    state = record.state
    if state is BucketState.OPEN:
        return True
    if state is BucketState.CREATING:
        return record.config_version > 1
    return state is not BucketState.DROPPING


def _next_pause(pause_s: float) -> float:
    return min(max(_FENCE_PAUSE_MIN_S, 2 * pause_s), _FENCE_PAUSE_MAX_S)
