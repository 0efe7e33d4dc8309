"""All parts of one node, wired.

Each is built from the bottom up and given just what it needs; `run` starts them in the
same order and stops them in the reverse one.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

import attrs
import structlog
import trio

from objstore.admin import settings
from objstore.admin.app import PREFIX, AdminApp
from objstore.admin.gauges import Gauges
from objstore.admin.membership import Membership
from objstore.admin.status import ClusterStatus, NodeReporter
from objstore.chunks.client import ChunkClient
from objstore.chunks.server import ChunkServer
from objstore.chunks.store import ChunkStore
from objstore.chunks.worker import Compactor
from objstore.config import Config
from objstore.errors import ConfigError, Conflict, ObjstoreError, Unavailable
from objstore.gossip.driver import Gossip, Member, State
from objstore.host.host import Host
from objstore.host.network import Address, ClientTls, ServerTls
from objstore.host.pki import Authority
from objstore.http.message import Request, Response
from objstore.http.server import HttpServer
from objstore.ids import CLUSTER_SHARD, NodeId, Slot
from objstore.limits import SHARD_COUNT
from objstore.meta.client import MetaClient
from objstore.meta.envelope import FEATURE_LEVEL
from objstore.meta.reconcile import Reconciler
from objstore.meta.server import MetaServer
from objstore.meta.store import MetaStore
from objstore.meta.values import AccessKey
from objstore.meta.view import ClusterView
from objstore.node.certificates import FrontDoorTls, NodeCertificate
from objstore.node.descriptors import Shares, share
from objstore.node.identity import DataFolder, Identity, IdentityState
from objstore.node.joining import drive_paths, founding_command, member_of, weight_of
from objstore.node.place import Place
from objstore.node.room import Room
from objstore.node.stopping import either, unless
from objstore.objects.budget import Budget
from objstore.objects.capability import Principal
from objstore.objects.gather import Gather
from objstore.objects.patience import begin as begin_patience
from objstore.objects.patience import waiting
from objstore.objects.scatter import Scatter
from objstore.objects.store import Store, StoreOptions
from objstore.raft.driver import RaftHost
from objstore.raft.wal import Wal
from objstore.repair.damage import DamageQueue
from objstore.repair.freeing import Freer
from objstore.repair.mend import Mender
from objstore.repair.throttle import Throttle
from objstore.repair.worker import run_worker
from objstore.rpc.client import Peers, call_address
from objstore.rpc.config import RpcConfig
from objstore.rpc.server import Call, Reply, RpcServer
from objstore.s3.app import S3App
from objstore.s3.authenticate import Credential
from objstore.s3.router import virtual_bucket

log = structlog.get_logger()

_STOP_STEP_S = 1.5  # After the draining: 15 s in all, by default.
_GIVE_BACK_INTERVAL_S = 20.0
_CREDENTIALS_KEPT = 1024  # More than most clusters have access keys.
_FOUND_TIMEOUT_S = 20.0
_STATE_TIMEOUT_S = 60.0


class _RaftTransport:
    """Raft's messages over rpc."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def send(self, to: NodeId, payload: bytes) -> None:
        self._peers.cast(to, "raft.messages", payload=payload)

    async def call(self, to: NodeId, payload: bytes) -> bytes:
        reply = await self._peers.call(
            to, "raft.call", payload=payload, timeout_ms=30_000, bulk=True
        )
        return bytes(reply.payload)


class Parts:
    """One node, built but not started."""

    def __init__(
        self, config: Config, host: Host, folder: DataFolder, identity: Identity
    ) -> None:
        self.config = config
        self.host = host
        self.folder = folder
        self.identity = identity
        self.left = trio.Event()  # Set when this node has left its cluster.
        self._news = trio.Event()  # Set when there is something to gossip about.
        self._slow_peers: set[NodeId] = set()  # Whose log's disk is, as they say.
        # Of access keys that were asked for, with what they were made of.
        self._credentials: dict[str, tuple[AccessKey, Credential]] = {}
        self.secrets = folder.load_secrets()
        self.boot_id = host.entropy.token(8)
        self.shares = self._share_descriptors()
        self._build_rpc()
        self._build_meta()
        self._build_chunks()
        self._build_objects()
        self._build_admin()
        self._build_front_door()

    # ---- building ---------------------------------------------------------------------

    def _share_descriptors(self) -> Shares:
        asked = self.config.http.connections_max
        shares = share(
            self.host.descriptors_max,
            drives=len(drive_paths(self.config)),
            connections_max=asked,
            links_max=RpcConfig().links_max,
        )
        if shares.clients < asked:
            log.warning(
                "node.connections_limited",
                asked=asked,
                connections=shares.clients,
                descriptors=self.host.descriptors_max,
            )
        return shares

    def _build_rpc(self) -> None:
        node, cluster = self.identity.node, self.identity.cluster
        peers = self.shares.peers
        self.certificate = NodeCertificate.load(self.folder, self.identity, self.host)
        self.server = RpcServer(
            self.host.network,
            Address.parse(self.config.cluster.address),
            tls=ServerTls(identity=self.certificate.get, mutual=True),
            node=node,
            cluster=cluster,
            config=RpcConfig(
                links_max=peers,
                strangers_max=max(1, min(RpcConfig().strangers_max, peers // 2)),
            ),
            boot_id=self.boot_id,
        )
        self.peers = Peers(
            self.host.network,
            node=node,
            cluster=cluster,
            identity=self.certificate.get,
            resolve=self._address_of,
            boot_id=self.boot_id,
            random=self.host.entropy.random,
        )
        self.peers.local = self.server

    def _address_of(self, node: NodeId) -> Address | None:
        """Where a peer's cluster port is: what it says by gossip, else the layout."""
        member = self.gossip.member(node) if self.gossip is not None else None
        if member is not None:
            return member.address
        if not self.view.is_founded:
            return None
        found = self.view.layout.find(node)
        return None if found is None else Address.parse(found.cluster_address)

    def _build_meta(self) -> None:
        node, config, host = self.identity.node, self.config, self.host
        self.gossip: Gossip | None = None  # Made inside `run`, with its open socket.
        self.kv = host.disks.key_value_store(self.folder.directory, "meta")
        self.meta_store = MetaStore(self.kv, host.threads, config.meta)
        self.view = ClusterView(
            self.meta_store,
            host.entropy.random,
            host.clock,
            max_staleness_ms=config.auth.max_staleness_ms,
        )
        wal = Wal(
            directory=self.folder.directory.folder("wal"),
            threads=host.threads,
            entropy=host.entropy,
            segment_size=config.raft.wal_segment_size,
        )
        self.room = Room(node, self.folder.directory, self._spread_news, self._is_alive)
        self.raft = RaftHost(
            node=node,
            wal=wal,
            machines=self.meta_store.machine,
            transport=_RaftTransport(self.peers),
            random=host.entropy.random,
            clock=host.clock,
            config=config.raft,
            preferred_leader=self._preferred_leader,
            peer_alive=self._is_alive,
            peer_unfit=self._is_unfit,
            room=self.room,
            on_pace=self._spread_news,
            flush=self.meta_store.flush,
        )
        self.meta_server = MetaServer(
            self.raft,
            self.meta_store,
            self.view,
            host.clock,
            host.entropy,
            self.room.is_short_of,
        )
        self.meta = MetaClient(
            self.meta_server, self.view, self.peers, host.entropy, self._member_nodes
        )
        self.server.register_cast("raft.messages", self._on_raft_messages)
        self.server.register("raft.call", self._on_raft_call)
        self.meta_server.register(self.server)
        self.meta.register(self.server)

    def _on_raft_messages(self, peer: NodeId, value: object, payload: memoryview) -> None:
        del value
        self.raft.on_payload(peer, bytes(payload))

    async def _on_raft_call(self, call: Call) -> Reply:
        assert call.peer is not None
        return Reply(payload=await self.raft.on_call(call.peer, bytes(call.payload)))

    def _member_nodes(self) -> tuple[NodeId, ...]:
        """Who may be asked while no layout is known: those that gossip has heard of."""
        return () if self.gossip is None else tuple(self.gossip.members())

    def _preferred_leader(self, group: int) -> NodeId | None:
        return self.reconciler.preferred_leader(group)  # Made later than Raft.

    def _is_alive(self, node: NodeId) -> bool:
        if node == self.identity.node:
            return True
        return self.gossip is not None and self.gossip.is_alive(node)

    def _is_unfit(self, node: NodeId) -> bool:
        """Whether a peer's disk is no good for leading."""
        return node in self._slow_peers or self.room.is_full_at([node])

    def _build_chunks(self) -> None:
        directories = [
            self.host.disks.directory(path, create=True)
            for path in drive_paths(self.config)
        ]
        self.chunk_store = ChunkStore(
            host=self.host,
            kv=self.kv,
            drives=directories,
            cluster=self.identity.cluster,
            node=self.identity.node,
            config=self.config.chunks,
        )
        self.chunk_server = ChunkServer(store=self.chunk_store, entropy=self.host.entropy)
        self.chunk_server.register(self.server)
        self.compactor = Compactor(self.chunk_store)
        self.chunks = ChunkClient(
            node=self.identity.node, local=self.chunk_store, peers=self.peers
        )

    def _build_objects(self) -> None:
        config, host = self.config, self.host
        self.damage = DamageQueue(self.meta)
        self.chunk_store.on_damage = partial(self.damage.report_own, self.identity.node)
        self.store = Store(
            meta=self.meta,
            view=self.view,
            scatter=Scatter(
                chunks=self.chunks,
                is_alive=self._is_alive,
                clock=host.clock,
                config=config.write,
                threads=host.threads,
            ),
            gather=Gather(
                chunks=self.chunks,
                is_alive=self._is_alive,
                on_damage=self.damage.report,
                config=config.read,
                threads=host.threads,
            ),
            chunks=self.chunks,
            budget=Budget(config.memory.in_flight),
            host=host,
            options=StoreOptions(
                inline_size_max=config.meta.inline_size_max,
                chunk_size=config.chunks.chunk_size,
                scheme=config.chunks.redundancy,
                meta_timeout_ms=config.http.request_timeout_ms,
                part_size_min=config.s3.part_size_min,
            ),
        )
        self.mender = Mender(
            meta=self.meta,
            view=self.view,
            chunks=self.chunks,
            slots_below=self.meta_server.slots_below,
            is_usable=self._is_usable,
            is_alive=self._is_alive,
            throttle=Throttle(config.repair.rate),
        )
        self.freer = Freer(
            meta=self.meta,
            view=self.view,
            chunks=self.chunks,
            slots_released=self.meta_server.slots_released,
            cluster_time_ms=self._cluster_time_ms,
            is_alive=self._is_alive,
            delay_ms=config.repair.free_delay_ms,
        )
        self.reconciler = Reconciler(
            raft=self.raft,
            server=self.meta_server,
            client=self.meta,
            view=self.view,
            peers=self.peers,
            threads=host.threads,
            random=host.entropy.random,
            is_alive=self._is_alive,
            grace_ms=config.repair.grace_ms,
        )

    def _cluster_time_ms(self, slot: Slot) -> int:
        """Of the newest command that this node has applied to the slot's shard."""
        return self.meta_store.machine(self.view.shard_of(slot)).time_ms

    def _is_usable(self, node: NodeId) -> bool:
        """Whether a node may be given fragments now."""
        if not self._is_alive(node) or not self.view.is_founded:
            return False
        member = self.view.layout.find(node)
        return member is not None and member.holds_data

    def _build_admin(self) -> None:
        config, host, node = self.config, self.host, self.identity.node
        self.reporter = NodeReporter(
            node=node,
            pid=host.pid,
            raft=self.raft,
            chunks=self.chunk_store,
            repair_queued=lambda: self.mender.queued + len(self.damage),
            is_full=lambda: self.room.is_full,
        )
        self.membership = Membership(
            meta=self.meta,
            view=self.view,
            peers=self.peers,
            pki=host.pki,
            clock=host.clock,
            entropy=host.entropy,
            threads=host.threads,
            cluster=self.identity.cluster,
            authority_pem=self.secrets.authority_pem,
            is_alive=self._is_alive,
        )
        member = member_of(node, config, weight=0)
        self.place = Place(
            node=node,
            cluster_address=member.cluster_address,
            s3_address=member.s3_address,
            view=self.view,
            membership=self.membership,
            on_removed=self._note_removed,
        )
        self.status = ClusterStatus(
            node=node,
            cluster=self.identity.cluster,
            region=config.s3.region,
            view=self.view,
            meta=self.meta,
            peers=self.peers,
            state_of=self._state_of,
            reporter=self.reporter,
            reserve=config.chunks.reserve,
            max_staleness_ms=config.auth.max_staleness_ms,
            redundancy=config.chunks.redundancy,
        )
        gauges = Gauges(
            raft=self.raft,
            chunks=self.chunk_store,
            member_states=self._member_states,
            repair_queued=self.reporter.repair_queued,
            memory_held=lambda: self.store.budget.held,
        )
        self.admin = AdminApp(
            status=self.status,
            membership=self.membership,
            meta=self.meta,
            view=self.view,
            clock=host.clock,
            entropy=host.entropy,
            join_address=config.cluster.advertise or config.cluster.address,
            metrics_token=config.auth.metrics_token,
            update_metrics=gauges.update,
        )
        self.server.register(
            "cluster.authority", self.membership.on_authority, anonymous=True
        )
        self.server.register("cluster.join", self.membership.on_join, anonymous=True)
        self.server.register("node.report", self.reporter.on_report)
        self.server.register("node.left", self._on_left)
        self.server.register("gossip.push_pull", self._on_push_pull)

    def _member_states(self) -> list[State]:
        return (
            [] if self.gossip is None else [m.state for m in self.gossip.members().values()]
        )

    def _state_of(self, node: NodeId) -> str:
        member = None if self.gossip is None else self.gossip.member(node)
        return "unknown" if member is None else member.state.name.lower()

    async def _on_left(self, call: Call) -> Reply:
        """Answer rpc node.left: this node is out of the layout, for good."""
        await self.view.refresh()
        if self.view.layout.find(self.identity.node) is not None:
            raise Conflict("this node is a member")
        del call
        self._note_removed()
        return Reply()

    def _note_removed(self) -> None:
        """End this node, for good: its cluster has no place for it any more."""
        self._save_state(IdentityState.LEFT)
        log.info("node.left_cluster")
        self.left.set()

    def _save_state(self, state: IdentityState) -> None:
        assert self.folder.identity is not None
        self.identity = attrs.evolve(self.folder.identity, state=state)
        self.folder.save(self.identity)

    def _build_front_door(self) -> None:
        config, host = self.config, self.host
        self.s3 = S3App(
            store=self.store,
            credentials=self._credential,
            clock=host.clock,
            entropy=host.entropy,
            node=self.identity.node,
            region=config.s3.region,
            domains=config.s3.domains,
        )
        self.front_door_tls = FrontDoorTls(config.s3, host)
        self.http = HttpServer(
            host.network,
            Address.parse(config.s3.address),
            self._answer,
            clock=host.clock,
            tls=self.front_door_tls.server_tls(),
            config=attrs.evolve(config.http, connections_max=self.shares.clients),
            refuse=self.s3.refuse,
        )

    def _answer(self, request: Request) -> Awaitable[Response]:
        """One port for people and programs: /-/ is never a bucket.

        At a bucket's virtual host it is the beginning of a key.
        """
        if request.path.startswith(PREFIX):
            host = request.headers.get("host", "")
            if not virtual_bucket(host, self.s3.domains):
                return self.admin(request)
        begin_patience(self.config.http.request_timeout_ms)
        return self.s3(request)

    async def _credential(self, access_key: str) -> Credential | None:
        """An access key's secret, from a view confirmed within auth.max_staleness."""
        max_age_ms = self.config.auth.max_staleness_ms
        if not self.view.is_confirmed_within(max_age_ms):
            with waiting(max_age_ms):
                await self.view.confirm(max_age_ms)
        key = self.view.access_key(access_key)
        if key is None:
            await self.store.refresh_view()
            key = self.view.access_key(access_key)
        if key is None:
            return None
        known = self._credentials.get(access_key)
        if known is None or known[0] is not key:  # It is another, or was changed.
            if len(self._credentials) >= _CREDENTIALS_KEPT:
                self._credentials.clear()
            principal = Principal(key.access_key, key.canonical_id, key.is_root, key.name)
            known = key, Credential(key.secret_key, principal)
            self._credentials[access_key] = known
        return known[1]

    # ---- running ----------------------------------------------------------------------

    async def run(
        self,
        stopping: trio.Event,
        *,
        task_status: trio.TaskStatus[Parts] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stopping` is set or the node has left; started() when it serves.

        A part that raises ends all others, and this.  If cancelled, nobody is told: to
        the others the node has died.
        """
        async with trio.open_nursery() as nursery:
            if await unless(stopping, partial(self._start, nursery)):
                task_status.started(self)
                await either(stopping, self.left)
                await self._stop()
            nursery.cancel_scope.cancel()

    async def _start(self, nursery: trio.Nursery) -> bool:
        # Before peers can ask for fragments: the store is recovering until then.
        await nursery.start(self.chunk_store.run)
        await self._start_cluster_side(nursery)
        await self._start_stores(nursery)
        await self._start_front_door(nursery)
        return True

    async def _start_cluster_side(self, nursery: trio.Nursery) -> None:
        await nursery.start(self.server.run)
        await nursery.start(self.peers.run)
        await self._start_gossip(nursery)
        # Before the log may take entries that it has no room for.
        nursery.start_soon(self.room.run)
        await nursery.start(self.raft.run)
        self.folder.note_log()
        if self.identity.state is IdentityState.FOUNDING:
            await self._found()
        else:
            self.folder.forget_authority_key()  # A founding may have been cut before that.
            layout = self.folder.load_first_layout()
            if layout is not None:
                self.view.adopt_layout(layout)
        for service in (self.meta_server.run, self.view.run, self.meta_store.run):
            await nursery.start(service)
        nursery.start_soon(self._tell_gossip)
        nursery.start_soon(self._give_back_memory)

    async def _give_back_memory(self) -> None:
        """From time to time, or a burst's memory stays with this process for ever."""
        while True:
            await trio.sleep(_GIVE_BACK_INTERVAL_S)
            await self.host.threads.run(self.host.give_back_memory)

    async def _start_gossip(self, nursery: trio.Nursery) -> None:
        address = Address.parse(self.config.cluster.address)
        advertised = Address.parse(
            self.config.cluster.advertise or self.config.cluster.address
        )
        self.gossip = Gossip(
            node=self.identity.node,
            boot_id=self.boot_id,
            start_count=self.identity.start_count,
            secret=self.secrets.gossip_secret,
            packets=await self.host.network.open_packets(address),
            address=advertised,
            push_pull=self._push_pull,
            random=self.host.entropy.random,
            config=self.config.gossip,
            seeds=self._seeds(),
            meta=self._gossip_meta(),
            on_conflict=self._on_identity_conflict,
        )
        self.gossip.subscribe(self._on_member)
        await nursery.start(self.gossip.run)

    def _seeds(self) -> list[Address]:
        """Where to look for others: the layout's members, the join's answer."""
        texts = list(self.secrets.seeds)
        if self.view.is_founded:
            texts += [member.cluster_address for member in self.view.layout.members]
        own = self.config.cluster.advertise or self.config.cluster.address
        return [Address.parse(text) for text in dict.fromkeys(texts) if text != own]

    async def _push_pull(self, to: NodeId | Address, data: bytes) -> bytes:
        if isinstance(to, Address):
            tls = ClientTls(self.certificate.get(), self.secrets.authority_pem)
            reply = await call_address(
                self.host.network,
                to,
                tls,
                "gossip.push_pull",
                None,
                payload=data,
                timeout_ms=5_000,
                cluster=self.identity.cluster,
                node=self.identity.node,
            )
        else:
            reply = await self.peers.call(
                to, "gossip.push_pull", payload=data, timeout_ms=5_000
            )
        return bytes(reply.payload)

    async def _on_push_pull(self, call: Call) -> Reply:
        if self.gossip is None:
            raise Unavailable("this node is starting")
        return Reply(payload=self.gossip.on_push_pull(call.peer, call.payload))

    def _on_member(self, member: Member) -> None:
        level = member.meta.get("level")
        self.reconciler.on_member(
            member.node, is_up=member.is_up, level=level if isinstance(level, int) else 1
        )
        if member.state is not State.ALIVE:
            self.raft.on_peer_silent(member.node)
        if member.is_up:
            self.peers.forget_pause(member.node)
        elif member.state is State.LEFT:
            self.peers.disconnect(member.node, "it has left")
        self.room.heard(
            member.node, is_full=member.is_up and member.meta.get("full") is True
        )
        is_slow = member.is_up and member.meta.get("slow") is True
        (self._slow_peers.add if is_slow else self._slow_peers.discard)(member.node)
        version = member.meta.get("version")
        if isinstance(version, int):
            self.view.on_version_heard(version)

    def _on_identity_conflict(self, other: Address) -> None:
        raise ConfigError(
            f"another process at {other} runs under this node's id: one of them is on a"
            " cloned or restored disk. hint: stop both, keep the newer folder, and join"
            " the other as a new node on an empty folder"
        )

    def _gossip_meta(self) -> dict[str, object]:
        return {
            "version": self.view.version,
            "full": self.room.is_full,
            "slow": self.raft.is_slow,
            "level": FEATURE_LEVEL,
        }

    async def _tell_gossip(self) -> None:
        """Spread what others should know of us, at once; look for the cluster's members."""
        assert self.gossip is not None
        self.view.subscribe(self._spread_news)
        while True:
            self._news = trio.Event()
            self.gossip.update_meta(self._gossip_meta())
            self.gossip.set_seeds(self._seeds())
            await self._news.wait()

    def _spread_news(self) -> None:
        self._news.set()

    async def _found(self) -> None:
        """Make this node's replicas of all shards, and the cluster's first entry."""
        groups = [int(CLUSTER_SHARD), *range(1, SHARD_COUNT + 1)]
        await self.raft.found(groups)
        weight = weight_of(self.config, self.host)
        command = founding_command(self.folder, self.config, self.host, weight=weight)
        with trio.fail_after(_FOUND_TIMEOUT_S):
            try:
                await self.meta.propose(command)
            except Conflict:
                log.info("node.founded_already")
        await self.meta_store.flush()
        self._save_state(IdentityState.MEMBER)
        self.folder.forget_authority_key()
        log.info("node.cluster_founded", cluster=self.identity.cluster)

    async def _start_stores(self, nursery: trio.Nursery) -> None:
        for service in (self.chunk_server.run, self.chunks.run, self.compactor.run):
            await nursery.start(service)
        nursery.start_soon(self.damage.run)
        for worker in (self.mender, self.freer):
            nursery.start_soon(
                partial(
                    run_worker,
                    worker,
                    interval_ms=self.config.repair.interval_ms,
                    random=self.host.entropy.random,
                )
            )
        await nursery.start(self.reconciler.run)
        nursery.start_soon(self.place.run)
        nursery.start_soon(self.certificate.run, self._authority)

    async def _start_front_door(self, nursery: trio.Nursery) -> None:
        tls = self.config.s3.tls
        if tls == "files":
            self.front_door_tls.load_files()
        elif tls == "cluster":
            with trio.fail_after(_STATE_TIMEOUT_S):
                # The first pull of the cluster's state.
                while self.view.setting(settings.AUTHORITY_KEY) is None:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            self.front_door_tls.issue(self._authority())
        if tls != "off":
            nursery.start_soon(self.front_door_tls.run, self._authority)
        await nursery.start(self.s3.run)
        address = await nursery.start(self.http.run)
        log.info("node.serving", address=str(address))

    def _authority(self) -> Authority:
        return self.membership.authority()

    async def _stop(self) -> None:
        """Leave in order: no request is cut off that could still be answered."""
        log.info("node.stopping")
        await self.http.drain()  # By `http.drain_timeout`.
        for step in (self._hand_over_leadership, self._say_goodbye, self.meta_store.flush):
            # One that hangs (a peer, a disk) does not take the others' time.
            with trio.move_on_after(_STOP_STEP_S):
                await step()

    async def _say_goodbye(self) -> None:
        assert self.gossip is not None
        await self.gossip.leave()

    async def _hand_over_leadership(self) -> None:
        """Let other voters lead what this node leads, so nobody waits for an election."""
        async with trio.open_nursery() as nursery:
            for group in self.raft.groups():
                status = self.raft.status(group)
                if status is None or not self.raft.is_leader(group):
                    continue
                others = [n for n in status.membership.voters if self._is_alive(n)]
                others = [n for n in others if n != self.identity.node]
                if others:
                    nursery.start_soon(self._transfer, group, others[group % len(others)])

    async def _transfer(self, group: int, to: NodeId) -> None:
        try:
            await self.raft.transfer(group, to)
        except ObjstoreError as error:
            log.info("node.leadership_kept", shard=group, reason=str(error))

    def close(self) -> None:
        """Close what was opened when the parts were built."""
        self.kv.close()
