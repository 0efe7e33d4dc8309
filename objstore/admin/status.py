"""The one page to look at: is the data safe, what is wrong, what is done about it.

Every node can tell of itself (`LocalReport`, rpc node.report); the node that is asked
for the cluster's status collects the reports of those alive and the counters of all
shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import structlog
import trio

import objstore
from objstore.chunks.store import ChunkStore
from objstore.ec.scheme import Scheme
from objstore.errors import ObjstoreError
from objstore.ids import ClusterId, NodeId, Slot
from objstore.limits import SLOT_COUNT
from objstore.meta.client import MetaClient
from objstore.meta.queries import GetUsage
from objstore.meta.values import Usage
from objstore.meta.view import ClusterView
from objstore.raft.driver import RaftHost
from objstore.raft.effects import Role
from objstore.ring.layout import Member
from objstore.ring.voters import voters_for
from objstore.rpc.client import Peers
from objstore.rpc.server import Call, Reply
from objstore.units import human_size

log = structlog.get_logger()

_REPORT_TIMEOUT_MS = 2_000
_USAGE_TIMEOUT_MS = 3_000
CLOCK_OFFSET_MAX_MS = 500  # Beyond it a node hands its leaderships over (meta.reconcile).
ALL_SLOTS = tuple(Slot(number) for number in range(SLOT_COUNT))


@attrs.define
class NodeReporter:
    """Tells of this node."""

    node: NodeId
    pid: int
    raft: RaftHost
    chunks: ChunkStore
    repair_queued: Callable[[], int]
    is_full: Callable[[], bool]  # The data folder is at its reserve.

    async def on_report(self, call: Call) -> Reply:
        """Answer rpc node.report."""
        del call
        return Reply(self.report())

    def report(self) -> dict[str, Any]:
        """What only this node knows, as plain values."""
        groups = self.raft.groups()
        statuses = [status for group in groups if (status := self.raft.status(group))]
        led = [status for status in statuses if status.role is Role.LEADER]
        drives = self.chunks.space()
        offsets_ms = [status.clock_offset_ms for status in statuses]
        return {
            "version": objstore.__version__,
            "pid": self.pid,
            "groups": len(groups),
            "leads": len(led),
            "led": [
                [s.group, list(s.membership.voters), bool(s.membership.outgoing)]
                for s in led
            ],
            "damaged_groups": [s.group for s in statuses if s.damaged],
            "log_full": self.raft.wal.is_full,
            "log_slow": self.raft.is_slow,
            "folder_full": self.is_full(),
            # Own wall clock minus the median of the others'; the farthest of all groups.
            "clock_offset_ms": max(offsets_ms, key=abs, default=0),
            "fragments": sum(drive.fragments for drive in drives),
            "drives": [
                {
                    "id": drive.drive,
                    "path": drive.path,
                    "total": drive.total,
                    "free": drive.free,
                    "fragments": drive.fragments,
                    "damaged_segments": drive.damaged_segments,
                    "state": "ok" if drive.fenced is None else "fenced",
                    "reason": drive.fenced,
                }
                for drive in drives
            ],
            "repair_queued": self.repair_queued(),
        }


@attrs.define
class ClusterStatus:
    """Collects the whole cluster's."""

    node: NodeId
    cluster: ClusterId
    region: str
    view: ClusterView
    meta: MetaClient
    peers: Peers
    state_of: Callable[[NodeId], str]  # As gossip has it: alive, suspect, dead, left.
    reporter: NodeReporter
    reserve: int  # chunks.reserve, bytes.
    max_staleness_ms: int
    redundancy: str

    def unready_reason(self) -> str | None:
        """Why this node cannot serve clients now; None where it can."""
        if not self.view.is_founded:
            return "this node has not seen its cluster's state yet"
        if not self.view.is_confirmed_within(self.max_staleness_ms):
            return "no quorum of the cluster shard answers this node"
        drives = self.reporter.chunks.space()
        if drives and all(drive.fenced is not None for drive in drives):
            return "every drive of this node is fenced after an error"
        return None

    async def nodes(self) -> list[dict[str, Any]]:
        """Every member of the layout, with what it reports if it is alive."""
        members = self.view.layout.members
        reports = await self._reports([m.node for m in members])
        return [self._describe(m, reports.get(m.node)) for m in members]

    def _describe(self, member: Member, report: dict[str, Any] | None) -> dict[str, Any]:
        state = "alive" if member.node == self.node else self.state_of(member.node)
        described: dict[str, Any] = {
            "id": member.node,
            "state": state if report is not None or state != "alive" else "suspect",
            "layout_state": member.state,
            "s3": member.s3_address,
            "cluster": member.cluster_address,
            "zone": member.zone,
            "rack": member.rack,
            "host": member.host,
            "weight": member.weight,
            "is_self": member.node == self.node,
        }
        if report is not None:
            described |= {key: report[key] for key in report if key != "led"}
        return described

    async def _reports(self, nodes: Sequence[NodeId]) -> dict[NodeId, dict[str, Any]]:
        reports: dict[NodeId, dict[str, Any]] = {}

        async def ask(node: NodeId) -> None:
            if node == self.node:
                reports[node] = self.reporter.report()
                return
            if self.state_of(node) not in {"alive", "suspect"}:
                return
            try:
                reply = await self.peers.call(
                    node, "node.report", timeout_ms=_REPORT_TIMEOUT_MS
                )
            except ObjstoreError as error:
                log.debug("admin.report_missed", peer=node, reason=str(error))
                return
            assert isinstance(reply.value, dict)
            reports[node] = reply.value

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(ask, node)
        return reports

    async def status(self) -> dict[str, Any]:
        """All of it, as JSON values; a part that nobody can tell is a problem named."""
        members = self.view.layout.members
        reports = await self._reports([m.node for m in members])
        nodes = [self._describe(m, reports.get(m.node)) for m in members]
        usage, usage_problem = await self._usage()
        metadata = self._metadata(reports)
        space_problems = [
            *self._space_problems(nodes),
            *self._metadata_space_problems(reports),
        ]
        problems = [
            *_node_problems(nodes, self.reserve),
            *_metadata_problems(metadata),
            *space_problems,
        ]
        if usage_problem:
            problems.append(usage_problem)
        if len(members) == 1:
            problems.append("one node: nothing is redundant")
        reason = self.unready_reason()
        if reason:
            problems.append(f"node {self.node}: {reason}")
        return {
            "cluster": self.cluster,
            "region": self.region,
            "version": objstore.__version__,
            "node": self.node,
            "epoch": self.view.layout.epoch,
            "redundancy": self.redundancy,
            "writable": (usage_problem is None and reason is None and not space_problems),
            "below_promise": {"objects": usage.below_objects, "bytes": usage.below_bytes},
            "usage": {
                "objects": usage.objects,
                "versions": usage.versions,
                "bytes": usage.bytes,
                "uploads": usage.uploads,
            },
            "metadata": metadata,
            "repair": {"queued": sum(n.get("repair_queued", 0) for n in nodes)},
            "problems": problems,
            "nodes": nodes,
        }

    def _space_problems(self, nodes: list[dict[str, Any]]) -> list[str]:
        """Why new data cannot be placed: too few nodes have room for a write quorum."""
        scheme = Scheme.parse(self.redundancy)
        holders = sum(member.holds_data for member in self.view.layout.members)
        needed = scheme.write_quorum(min(scheme.width, holders))
        roomy = sum(
            node["layout_state"] == "active" and _has_room(node, self.reserve)
            for node in nodes
        )
        if roomy >= needed:
            return []
        return [f"{roomy} nodes can take new data, {self.redundancy} needs {needed}"]

    def _metadata_space_problems(self, reports: dict[NodeId, dict[str, Any]]) -> list[str]:
        """Shards that take nothing new, for want of a quorum with room (node.room)."""
        short = 0
        for voters in voters_for(self.view.layout).values():
            known = [reports[node] for node in voters if node in reports]
            full = [report for report in known if report.get("folder_full")]
            short += bool(full) and len(known) - len(full) <= len(voters) // 2
        if not short:
            return []
        return [f"{short} metadata shards take nothing new: data folders are full"]

    async def _usage(self) -> tuple[Usage, str | None]:
        try:
            usage = await self.meta.query(
                GetUsage(slots=ALL_SLOTS), timeout_ms=_USAGE_TIMEOUT_MS
            )
        except ObjstoreError as error:
            return Usage(), f"some metadata shard does not answer: {error}"
        assert isinstance(usage, Usage)
        return usage, None

    def _metadata(self, reports: dict[NodeId, dict[str, Any]]) -> dict[str, Any]:
        wanted = voters_for(self.view.layout)
        led = {
            group: (voters, is_changing)
            for report in reports.values()
            for group, voters, is_changing in report.get("led", ())
        }
        below = [
            shard
            for shard, voters in wanted.items()
            if shard not in led
            or led[shard][1]
            or set(led[shard][0]) != set(voters)
            or not reports.keys() >= set(voters)
        ]
        return {
            "shards": len(wanted),
            "voters": max((len(voters) for voters in wanted.values()), default=0),
            "shards_below": len(below),
            "leaderless": len([shard for shard in wanted if shard not in led]),
        }


def _has_room(node: dict[str, Any], reserve: int) -> bool:
    return any(d["free"] > reserve for d in node.get("drives", ()) if d["state"] == "ok")


def _node_problems(nodes: list[dict[str, Any]], reserve: int) -> list[str]:
    problems = [
        f"node {node['id']} is {node['state']}"
        for node in nodes
        if node["state"] != "alive"
    ]
    for node in nodes:
        name = f"node {node['id']}"
        if node["layout_state"] == "draining":
            problems.append(f"{name} is on its way out")
        elif node["layout_state"] == "dead":
            problems.append(
                f"{name} was dead for long: others vote in its place; what lies on it has"
                " a copy less"
            )
        problems += _drive_problems(name, node.get("drives", ()), reserve)
        if node.get("damaged_groups"):
            problems.append(f"{name} mends the logs of shards {node['damaged_groups']}")
        if node.get("log_full"):
            problems.append(f"{name} has no room for its log: metadata cannot be written")
        if node.get("folder_full"):
            problems.append(
                f"{name}: its data folder is at its reserve: it takes no new metadata"
            )
        if node.get("log_slow"):
            problems.append(
                f"{name}: the disk of its log takes seconds a sync: others lead"
            )
        offset_ms = node.get("clock_offset_ms", 0)
        if abs(offset_ms) > CLOCK_OFFSET_MAX_MS:
            problems.append(f"{name}: its clock is {offset_ms} ms off the others'")
    return problems


def _drive_problems(
    name: str, drives: Sequence[dict[str, Any]], reserve: int
) -> Iterator[str]:
    for drive in drives:
        if drive["reason"]:
            yield f"{name}, drive {drive['path']}: {drive['reason']}"
        elif drive["free"] <= reserve:
            yield (
                f"{name}, drive {drive['path']}: {human_size(drive['free'])} are free, its"
                f" reserve is {human_size(reserve)}: it takes no new data"
            )
        if drive.get("damaged_segments"):
            yield (
                f"{name}, drive {drive['path']}: {drive['damaged_segments']} damaged"
                " segments, kept as they are"
            )


def _metadata_problems(metadata: dict[str, Any]) -> list[str]:
    problems = []
    if metadata["leaderless"]:
        problems.append(f"{metadata['leaderless']} metadata shards have no known leader")
    if metadata["shards_below"]:
        problems.append(
            f"{metadata['shards_below']} metadata shards have fewer than"
            f" {metadata['voters']} voters, or are changing them"
        )
    return problems
