"""The cluster view: this node's copy of the cluster shard, pulled by version.

    cluster shard --changes since v--> copy in memory --> copy on disk (for a restart)
                                            |
                        layout, rings, buckets, access keys, settings

The copy may be behind, never torn: a delta is taken whole.  `refresh` asks the shard's
leader behind a ReadIndex barrier, so afterwards the copy shows everything that was
acknowledged before the call; `run` does so every two seconds or so, at once when gossip
tells of a newer version, and falls back to any replica where no leader answers.  A node
with a replica of the shard also follows its applied rows, without a call.

What must not be believed for long without asking (credentials) looks at `confirmed_ms`,
in boot time: a machine that was suspended has slept through other nodes' changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from random import Random

import attrs
import structlog
import trio

from objstore.errors import ObjstoreError, Unavailable
from objstore.host.clock import Clock
from objstore.ids import CLUSTER_SHARD, BucketId, Epoch, NodeId, ShardId, Slot
from objstore.limits import SLOT_COUNT
from objstore.meta import cluster
from objstore.meta.queries import ClusterChanges, ClusterDelta
from objstore.meta.schema import CLUSTER_SLOT, Table
from objstore.meta.store import MetaStore, ShardMachine
from objstore.meta.values import AccessKey, BucketRecord
from objstore.ring.layout import Layout
from objstore.ring.layout import decode as decode_layout
from objstore.ring.ring import Ring
from objstore.ring.voters import preferred_leaders, voters_for
from objstore.rpc import codec

log = structlog.get_logger()

_REFRESH_INTERVAL_MAX_S = 2.0
_REFRESH_TIMEOUT_MS = 5_000
# Of a round that a request waits for, and of those between: longer than an election, and
# a cut-off node refuses its clients soon.
_CONFIRM_TIMEOUT_MS = 2_000
_PAUSE_MIN_S = 0.05  # Between two pulls that gossip asked for.
_RINGS_KEPT = 8  # Epochs that reads need at a time: a handful, while data moves.

Pull = Callable[[ClusterChanges, int], Awaitable[ClusterDelta]]


class NotFounded(Unavailable):
    """This node has not seen its cluster's state yet."""


@attrs.define(eq=False)
class ClusterView:
    """What this node knows of the cluster."""

    store: MetaStore
    random: Random
    clock: Clock
    # How old knowledge may become that nobody has confirmed: `auth.max_staleness`.
    max_staleness_ms: int = 5_000
    # What a join was answered with: used until the first pull.
    first_layout: bytes | None = None
    version: int = attrs.field(default=0, init=False)
    # When the copy was last known to show all that was acknowledged: boot time, or None:
    # never since the start.
    confirmed_ms: int | None = attrs.field(default=None, init=False)
    # Layouts are large and many, and old ones seldom asked for: they stay in the store.
    _epochs: set[int] = attrs.field(factory=set, init=False)
    _epoch: int = attrs.field(default=0, init=False)
    _rings: OrderedDict[int, Ring] = attrs.field(factory=OrderedDict, init=False)
    _shards: tuple[ShardId, ...] = attrs.field(default=(), init=False)  # By slot.
    _voters: dict[ShardId, tuple[NodeId, ...]] = attrs.field(factory=dict, init=False)
    _leaders: dict[ShardId, NodeId] = attrs.field(factory=dict, init=False)  # Preferred.
    _buckets: dict[str, BucketRecord] = attrs.field(factory=dict, init=False)
    _bucket_names: dict[BucketId, str] = attrs.field(factory=dict, init=False)
    _keys: dict[str, AccessKey] = attrs.field(factory=dict, init=False)
    _settings: dict[str, bytes] = attrs.field(factory=dict, init=False)
    _subscribers: list[Callable[[], None]] = attrs.field(factory=list, init=False)
    _unfinished: dict[Pull, list[ClusterDelta]] = attrs.field(factory=dict, init=False)
    _pull: Pull | None = attrs.field(default=None, init=False)
    _pull_any: Pull | None = attrs.field(default=None, init=False)
    _refreshing: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _rounds_begun: int = attrs.field(default=0, init=False)
    _round_problem: str | None = attrs.field(default=None, init=False)  # Of the last.
    _wanted: trio.Event = attrs.field(factory=trio.Event, init=False)
    _replica: ShardMachine | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Take up the copy that an earlier run left."""
        self.version = self.store.view_version()
        self._take_rows(self.store.view_rows())
        if self.first_layout is not None:
            self.adopt_layout(self.first_layout)

    @property
    def refresh_interval_s(self) -> float:
        """About: so short that requests need not wait for a refresh."""
        return min(_REFRESH_INTERVAL_MAX_S, self.max_staleness_ms / 2_500)

    def attach(self, pull: Pull, pull_any: Pull) -> None:
        """Say how to ask: the shard's leader, and (without a barrier) any replica."""
        self._pull, self._pull_any = pull, pull_any

    def follow(self, machine: ShardMachine) -> None:
        """Follow the applied rows of this node's replica of the cluster shard."""
        assert machine.group == CLUSTER_SHARD
        self._replica = machine
        machine.on_change = self._on_applied
        self._on_applied()

    # ---- what is known ----------------------------------------------------------------

    @property
    def is_founded(self) -> bool:
        """Whether the state of a cluster has been seen."""
        return self._epoch > 0

    @property
    def layout(self) -> Layout:
        """The layout in force.  Raises NotFounded."""
        return self.ring.layout

    @property
    def ring(self) -> Ring:
        """The ring of the layout in force.  Raises NotFounded."""
        return self.ring_at(Epoch(self._epoch))

    @property
    def epoch(self) -> Epoch:
        """The epoch in force; 0 before anything is known."""
        return Epoch(self._epoch)

    def ring_at(self, epoch: Epoch) -> Ring:
        """The ring of an epoch.  Raises NotFounded where its layout is not known here."""
        ring = self._rings.get(epoch)
        if ring is None:
            data = self.store.view_row(_layout_row(epoch))
            if data is None:
                raise NotFounded(f"this node does not know the layout of epoch {epoch}")
            ring = self._rings[epoch] = Ring(decode_layout(data))
            while len(self._rings) > _RINGS_KEPT:
                self._rings.popitem(last=False)
        else:
            self._rings.move_to_end(epoch)
        return ring

    def shard_of(self, slot: Slot) -> ShardId:
        """The shard that keeps a slot.  Raises NotFounded."""
        if slot == CLUSTER_SLOT:
            return CLUSTER_SHARD
        assert 0 <= slot < SLOT_COUNT
        if not self._shards:
            self._shards = tuple(map(self.layout.shard_of, map(Slot, range(SLOT_COUNT))))
        return self._shards[slot]

    def voters(self, shard: ShardId) -> tuple[NodeId, ...]:
        """Who should vote in a shard's group; nobody where nothing is known."""
        return self._voters.get(shard, ())

    def preferred_leader(self, shard: ShardId) -> NodeId | None:
        """Who should lead a shard while all are well (`Reconciler` knows when not)."""
        return self._leaders.get(shard)

    def bucket(self, name: str) -> BucketRecord | None:
        return self._buckets.get(name)

    def bucket_by_id(self, bucket: BucketId) -> BucketRecord | None:
        name = self._bucket_names.get(bucket)
        return None if name is None else self._buckets[name]

    def buckets(self) -> Iterable[BucketRecord]:
        """All buckets, in whatever state, in no order."""
        return tuple(self._buckets.values())

    def access_key(self, access_key: str) -> AccessKey | None:
        return self._keys.get(access_key)

    def access_keys(self) -> Iterable[AccessKey]:
        return tuple(self._keys.values())

    def setting(self, name: str) -> bytes | None:
        return self._settings.get(name)

    @property
    def feature_level(self) -> int:
        """The level up to which commands may be proposed."""
        return int(self._settings.get(cluster.FEATURE_LEVEL, b"1"))

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call back, in the event loop, whenever the copy has changed."""
        self._subscribers.append(callback)

    # ---- asking -----------------------------------------------------------------------

    def is_confirmed_within(self, max_age_ms: int) -> bool:
        """Whether the copy showed everything at some moment no longer ago than that."""
        confirmed_ms = self.confirmed_ms
        if confirmed_ms is None:
            return False
        return self.clock.boot_ms() - confirmed_ms <= max_age_ms

    async def confirm(self, max_age_ms: int) -> None:
        """Refresh unless that was done lately.  Raises Unavailable.

        A round that is under way will do, whenever it began: so a crowd on a node that is
        cut off waits for the end of one round, and no further one.
        """
        if self.is_confirmed_within(max_age_ms):
            return
        if self._refreshing.locked():
            async with self._refreshing:
                pass
            if self.is_confirmed_within(max_age_ms):
                return
            if self._round_problem is not None:
                raise Unavailable(self._round_problem)
        await self.refresh(timeout_ms=_CONFIRM_TIMEOUT_MS)

    async def refresh(self, *, timeout_ms: int = _REFRESH_TIMEOUT_MS) -> None:
        """Make the copy show everything that was acknowledged before this call.

        Callers that come while one asks share the next round.
        Raises Unavailable where the cluster shard has no quorum.
        """
        rounds_begun = self._rounds_begun
        async with self._refreshing:
            if self._rounds_begun > rounds_begun:  # One began after this call, and ended.
                if self._round_problem is not None:
                    raise Unavailable(self._round_problem)
                return
            assert self._pull is not None, "refresh before attach"
            began_ms = self.clock.boot_ms()
            self._rounds_begun += 1
            try:
                await self._pull_pages(self._pull, timeout_ms)
            except Unavailable as error:
                self._round_problem = str(error)
                raise
            except BaseException:
                # One who gave up waiting says nothing about the shard: ask again.
                self._rounds_begun -= 1
                raise
            self._round_problem = None
            self.confirmed_ms = began_ms

    async def _pull_pages(self, pull: Pull, timeout_ms: int) -> None:
        """Pull until nothing is left; pages are taken together, when all are there."""
        deadline_s = trio.current_time() + timeout_ms / 1000
        # What a round had no time for, the next one goes on from: a page stays right, as
        # what has changed since is in a later one.
        pages = self._unfinished.setdefault(pull, [])
        while not pages or pages[-1].has_more:
            left_ms = max(1, int((deadline_s - trio.current_time()) * 1000))
            page = await pull(self._next_page(pages), left_ms)
            if page.is_full:
                pages.clear()
            pages.append(page)
        del self._unfinished[pull]
        self._take(pages)

    def _next_page(self, pages: list[ClusterDelta]) -> ClusterChanges:
        if not pages:
            return ClusterChanges(self.version)
        began = pages[0].state_version if pages[0].is_full else 0
        return ClusterChanges(pages[-1].version, began)

    def on_version_heard(self, version: int) -> None:
        """Note that a peer has this version: pull soon if it is newer."""
        if version > self.version:
            self._wanted.set()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the copy fresh until cancelled."""
        task_status.started()
        while True:
            await self._refresh_somehow()
            may_pull_s = trio.current_time() + _PAUSE_MIN_S
            with trio.move_on_after(
                self.refresh_interval_s * self.random.uniform(0.8, 1.1)
            ):
                await self._wanted.wait()
                await trio.sleep_until(may_pull_s)
            self._wanted = trio.Event()

    async def _refresh_somehow(self) -> None:
        assert self._pull_any is not None, "run before attach"
        try:
            await self.refresh(timeout_ms=_CONFIRM_TIMEOUT_MS)
        except ObjstoreError as error:
            log.debug("meta.view_not_confirmed", reason=str(error))
            try:
                await self._pull_pages(self._pull_any, _CONFIRM_TIMEOUT_MS)
            except ObjstoreError as again:
                log.debug("meta.view_not_refreshed", reason=str(again))

    def _on_applied(self) -> None:
        """Follow our own replica, which has applied something."""
        assert self._replica is not None
        rows = self._replica.rows
        if cluster.version_of(rows) <= self.version:
            return
        pages: list[ClusterDelta] = []
        while not pages or pages[-1].has_more:
            pages.append(cluster.changes_since(rows, self._next_page(pages)))
        self._take(pages)

    # ---- taking -----------------------------------------------------------------------

    def adopt_layout(self, data: bytes) -> None:
        """Use a layout that a join was answered with, until the first pull."""
        if not self.is_founded:
            name = _layout_row(cluster.epoch_of(data))
            self.store.save_view(0, {name: data}, is_full=False)
            self._take_rows([(name, data)])
            self._tell()

    def _take(self, pages: list[ClusterDelta]) -> None:
        """Take a whole delta, unless a newer one came in between."""
        version = pages[-1].version
        is_full = pages[0].is_full
        if version <= self.version:
            return
        rows = {name: payload for page in pages for name, payload in page.rows}
        self.store.save_view(version, rows, is_full=is_full)
        if is_full:
            self._forget()
        self.version = version
        self._take_rows(rows.items())
        self._tell()

    def _forget(self) -> None:
        for known in (self._buckets, self._bucket_names, self._keys, self._settings):
            known.clear()
        self._epochs.clear()
        self._rings.clear()
        self._shards = ()

    def _tell(self) -> None:
        for callback in self._subscribers:
            callback()

    def _take_rows(self, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        for name, payload in rows:
            take = _TAKE.get(name[0])
            if take is not None:
                take(self, name[1:], payload)
        epoch = max(self._epochs, default=0)
        if epoch != self._epoch:
            self._epoch = epoch
            self._voters = voters_for(self.layout)
            self._leaders = preferred_leaders(self.layout)
            log.info("meta.layout_taken", epoch=epoch, version=self.version)

    def _take_layout(self, name: bytes, payload: bytes | None) -> None:
        epoch = int.from_bytes(name, "big")
        self._rings.pop(epoch, None)
        self._shards = ()
        if payload is None:
            self._epochs.discard(epoch)
        else:
            self._epochs.add(epoch)

    def _take_bucket(self, name: bytes, payload: bytes | None) -> None:
        known = self._buckets.pop(name.decode(), None)
        if known is not None:
            self._bucket_names.pop(known.bucket, None)
        if payload is not None:
            record = codec.decode_as(BucketRecord, payload)
            self._buckets[record.name] = record
            self._bucket_names[record.bucket] = record.name

    def _take_key(self, name: bytes, payload: bytes | None) -> None:
        if payload is None:
            self._keys.pop(name.decode(), None)
        else:
            self._keys[name.decode()] = codec.decode_as(AccessKey, payload)

    def _take_setting(self, name: bytes, payload: bytes | None) -> None:
        if payload is None:
            self._settings.pop(name.decode(), None)
        else:
            self._settings[name.decode()] = payload


_TAKE: dict[int, Callable[[ClusterView, bytes, bytes | None], None]] = {
    Table.LAYOUT: ClusterView._take_layout,
    Table.BUCKET: ClusterView._take_bucket,
    Table.ACCESS_KEY: ClusterView._take_key,
    Table.SETTING: ClusterView._take_setting,
}


def _layout_row(epoch: int) -> bytes:
    """The name of a layout's row."""
    return bytes((Table.LAYOUT,)) + epoch.to_bytes(8, "big")
