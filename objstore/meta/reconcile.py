"""The reconciler: makes what runs agree with the layout, on every node.

    for each group here          not a voter of the layout --> ask who leads it
    for each group led here      voters of the layout --> change_membership
                                 our clock is off     --> hand the group over
                                 replicas' hashes     --> compared, reported (R12)
    on the cluster shard's       members long dead, or back --> next layout
    leader                       buckets half-way           --> their next steps
                                 all run a newer program    --> its feature level

It holds no truth of its own: a round that fails is done again by the next, here or on the
node that leads by then.  Replicas that a group no longer wants are destroyed by Raft's
driver, which also hands groups to `preferred_leader`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import structlog
import trio

from objstore import metrics
from objstore.errors import ObjstoreError
from objstore.host.threads import Threads
from objstore.ids import CLUSTER_SHARD, NodeId, ShardId
from objstore.meta import bucket_steps, cluster
from objstore.meta.client import MetaClient
from objstore.meta.commands import PutSetting, SetLayout
from objstore.meta.envelope import FEATURE_LEVEL
from objstore.meta.server import CHAINS, CLOCK_OFFSET_MAX_MS, Chain, MetaServer
from objstore.meta.upkeep import Deaths, HalfDone, Holds
from objstore.meta.values import BucketRecord
from objstore.meta.view import ClusterView
from objstore.raft.driver import GroupStatus, RaftHost
from objstore.ring.layout import Layout, Member, with_members
from objstore.ring.layout import encode as encode_layout
from objstore.rpc.client import Peers

log = structlog.get_logger()

_INTERVAL_S = 1.0
_PAUSE_S = 0.05  # Between two rounds, however much is wanted.
_CHANGES_AT_ONCE = 8  # Groups whose members change: each may send a snapshot.
_CHANGE_TIMEOUT_S = 60.0  # A learner that does not catch up is tried again after that.
_COMPARE_EVERY_S = 30.0
_KNOCK_EVERY_S = 10.0
_TIMEOUT_MS = 5_000
_STEPS_TIMEOUT_S = 20.0


class Reconciler:
    """See the module."""

    def __init__(
        self,
        *,
        raft: RaftHost,
        server: MetaServer,
        client: MetaClient,
        view: ClusterView,
        peers: Peers,
        threads: Threads,
        random: Random,
        is_alive: Callable[[NodeId], bool],
        grace_ms: int,
    ) -> None:
        """`is_alive`: the failure detector's word; `grace_ms`: `repair.grace`."""
        self.raft = raft
        self.server = server
        self.client = client
        self.view = view
        self.peers = peers
        self.threads = threads
        self.random = random
        self.is_alive = is_alive
        self._deaths = Deaths(grace_ms)
        self._half_done = HalfDone()
        self._holds = Holds()
        # Groups whose members change: the voters they are to have, and how to stop it.
        self._changing: dict[int, tuple[tuple[NodeId, ...], trio.CancelScope]] = {}
        self._handing_over: set[int] = set()
        self._resuming: set[str] = set()
        self._reported: set[tuple[NodeId, int]] = set()  # Replicas known to differ.
        self._compared_s = 0.0
        self._knocked_s = 0.0
        self._is_laying_out = False
        self._is_raising_level = False
        self._levels: dict[NodeId, int] = {}  # Of the programs of nodes that are up.
        self._wanted = trio.Event()
        view.subscribe(self._on_view_changed)

    def _on_view_changed(self) -> None:
        self._wanted.set()

    def on_member(self, node: NodeId, *, is_up: bool, level: int = 1) -> None:
        """Take the failure detector's news: groups may be waiting for a voter to be up.

        level: the highest feature level that its program knows.
        """
        if not is_up:
            self._levels.pop(node, None)
        elif self._levels.get(node) != level:
            self._levels[node] = level
            self._wanted.set()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Work until cancelled; what was begun then stays as it is."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._wanted = trio.Event()
                if self.view.is_founded:
                    self._work_once(nursery)
                with trio.move_on_after(_INTERVAL_S * self.random.uniform(0.8, 1.2)):
                    await self._wanted.wait()
                    await trio.sleep(_PAUSE_S)

    def _work_once(self, nursery: trio.Nursery) -> None:
        """Start what is to be done and is not under way yet."""
        self._stop_vain_changes()
        led = [group for group in self.raft.groups() if self.raft.is_leader(group)]
        for group in led:
            status = self.raft.status(group)
            if status is None:
                continue
            if len(self._changing) < _CHANGES_AT_ONCE and self._must_change(status):
                wanted = self.view.voters(ShardId(group))
                scope = trio.CancelScope()
                self._changing[group] = (wanted, scope)
                nursery.start_soon(self._change_voters, group, wanted, scope)
            elif (
                abs(status.clock_offset_ms) > CLOCK_OFFSET_MAX_MS
                and group not in self._handing_over
            ):
                self._handing_over.add(group)
                nursery.start_soon(self._hand_over, status)
        # Whoever leads by and by must know since when somebody has been dead.
        now_ms = int(trio.current_time() * 1000)
        self._deaths.observe(self.view.layout, self.is_alive, now_ms)
        if CLUSTER_SHARD in led:
            self._lead_cluster(nursery)
        now_s = trio.current_time()
        if now_s - self._knocked_s >= _KNOCK_EVERY_S:
            self._knocked_s = now_s
            self._knock()
        if led and now_s - self._compared_s >= _COMPARE_EVERY_S:
            self._compared_s = now_s
            nursery.start_soon(self._compare, set(led))

    # ---- groups -----------------------------------------------------------------------

    def _must_change(self, status: GroupStatus) -> bool:
        wanted = self.view.voters(ShardId(status.group))
        membership = status.membership
        is_right = membership.voters == wanted and not membership.learners
        newcomers = [node for node in wanted if node not in membership.voters]
        can = all(self.is_alive(node) for node in newcomers)
        return bool(wanted) and not is_right and can and status.group not in self._changing

    def _stop_vain_changes(self) -> None:
        """Stop waiting for voters that died, or that another layout does not want."""
        for group, (wanted, scope) in self._changing.items():
            is_wanted = wanted == self.view.voters(ShardId(group))
            status = self.raft.status(group)
            present = () if status is None else status.membership.voters
            newcomers = [node for node in wanted if node not in present]
            if not is_wanted or not all(self.is_alive(node) for node in newcomers):
                scope.cancel()

    async def _change_voters(
        self, group: int, wanted: tuple[NodeId, ...], scope: trio.CancelScope
    ) -> None:
        """Give a group the voters of the layout."""
        scope.deadline = trio.current_time() + _CHANGE_TIMEOUT_S
        try:
            with scope:
                await self.raft.change_membership(group, wanted)
            if scope.cancelled_caught:
                log.info("meta.voters_not_changed", shard=group, reason="given up")
            else:
                log.info("meta.voters_changed", shard=group, voters=wanted)
                self._wanted.set()
        except ObjstoreError as error:
            log.debug("meta.voters_not_changed", shard=group, reason=str(error))
        finally:
            self._changing.pop(group, None)

    async def _hand_over(self, status: GroupStatus) -> None:
        """Let another lead: our clock is off, and a leader stamps with its clock."""
        others = [
            node
            for node in status.membership.voters
            if node != self.raft.node and self.is_alive(node)
        ]
        try:
            if not others:
                return
            target = self.random.choice(others)
            log.warning(
                "meta.leadership_given_up",
                shard=status.group,
                peer=target,
                reason=f"own clock is {status.clock_offset_ms} ms off the voters' median",
            )
            with trio.move_on_after(_TIMEOUT_MS / 1000):
                await self.raft.transfer(status.group, target)
        except ObjstoreError as error:
            log.debug("meta.leadership_kept", shard=status.group, reason=str(error))
        finally:
            self._handing_over.discard(status.group)

    def preferred_leader(self, group: int) -> NodeId | None:
        """Whom this node should hand `group` to now; asked by Raft's driver."""
        preferred = self.view.preferred_leader(ShardId(group))
        if preferred is None or preferred == self.raft.node:
            return None
        if not self.is_alive(preferred):
            return None
        now_ms = int(trio.current_time() * 1000)
        return preferred if self._holds.may_hand_over(group, now_ms) else None

    def _knock(self) -> None:
        """Ask about replicas here that the layout does not know of.

        One whose group moved on while this node was away is told by a member that it
        knows; where none of those is left in the group, only this finds who leads it.
        """
        for group in self.raft.groups():
            voters = self.view.voters(ShardId(group))
            if self.raft.node not in voters and not self.raft.is_leader(group):
                for node in voters:
                    self.raft.knock(group, node)

    # ---- comparing replicas -----------------------------------------------------------

    async def _compare(self, led: set[int]) -> None:
        """Compare led shards' running hashes with those of their other voters."""
        own = {chain.shard: dict(chain.marks) for chain in self.server.chains()}
        nodes = {n for group in led for n in self.view.voters(ShardId(group))}
        for node in sorted(nodes - {self.raft.node}):
            if not self.is_alive(node):
                continue
            try:
                reply = await self.peers.call(node, CHAINS, timeout_ms=_TIMEOUT_MS)
            except ObjstoreError:
                continue
            chains = reply.value if isinstance(reply.value, tuple) else ()
            for chain in chains:
                if isinstance(chain, Chain) and chain.shard in led:
                    self._judge(node, chain, own.get(chain.shard, {}))

    def _judge(self, node: NodeId, chain: Chain, own: dict[int, bytes]) -> None:
        differs = [i for i, digest in chain.marks if own.get(i, digest) != digest]
        if differs and (node, chain.shard) not in self._reported:
            self._reported.add((node, chain.shard))
            metrics.META_DIVERGED.inc()
            log.error(
                "meta.replica_diverged", shard=chain.shard, peer=node, index=min(differs)
            )

    # ---- the cluster shard's leader ---------------------------------------------------

    def _lead_cluster(self, nursery: trio.Nursery) -> None:
        now_ms = int(trio.current_time() * 1000)
        changed = self._deaths.changes(self.view.layout, now_ms)
        if changed and not self._is_laying_out:
            self._is_laying_out = True
            nursery.start_soon(self._lay_out, self.view.layout, changed)
        for record in self._half_done.abandoned(self.view.buckets(), now_ms):
            if record.name not in self._resuming:
                self._resuming.add(record.name)
                nursery.start_soon(self._resume, record)
        if self._may_raise_level() and not self._is_raising_level:
            self._is_raising_level = True
            nursery.start_soon(self._raise_level)

    def _may_raise_level(self) -> bool:
        """Whether all members are here and run programs that know our feature level."""
        if self.view.feature_level >= FEATURE_LEVEL:
            return False
        others = {member.node for member in self.view.layout.members} - {self.raft.node}
        return all(self._levels.get(node, 0) >= FEATURE_LEVEL for node in others)

    async def _raise_level(self) -> None:
        """Let what only newer programs know be written from now on."""
        try:
            command = PutSetting(cluster.FEATURE_LEVEL, b"%d" % FEATURE_LEVEL)
            await self.client.propose(command, timeout_ms=_TIMEOUT_MS)
            log.info("meta.feature_level_raised", level=FEATURE_LEVEL)
        except ObjstoreError as error:
            log.debug("meta.feature_level_kept", reason=str(error))
        finally:
            self._is_raising_level = False

    async def _lay_out(self, layout: Layout, changed: list[Member]) -> None:
        """Put these members into the next layout."""
        try:
            target = await self.threads.run(with_members, layout, changed)
            command = SetLayout(encode_layout(target))
            await self.client.propose(command, timeout_ms=_TIMEOUT_MS)
            for member in changed:
                log.warning(
                    "meta.member_state_changed",
                    peer=member.node,
                    state=member.state,
                    epoch=target.epoch,
                )
        except ObjstoreError as error:
            log.debug("meta.layout_not_changed", reason=str(error))
        finally:
            self._is_laying_out = False

    async def _resume(self, record: BucketRecord) -> None:
        """Go on with a bucket's creation or deletion that nobody finishes."""
        try:
            with trio.move_on_after(_STEPS_TIMEOUT_S):
                await bucket_steps.finish(self.client.propose_each, record)
                log.info("meta.bucket_steps_resumed", bucket=record.name)
        except ObjstoreError as error:
            log.info("meta.bucket_steps_resumed", bucket=record.name, reason=str(error))
        finally:
            self._half_done.worked_on(record, int(trio.current_time() * 1000))
            self._resuming.discard(record.name)
