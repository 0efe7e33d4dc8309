"""The one page to look at: is the data safe, what is wrong, what is done about it.

Every node can tell of itself (`LocalReport`, rpc node.report); the node that is asked
for the cluster's status collects the reports of those alive and the counters of all
shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import structlog
import trio

import objstore
from objstore.chunks.store import ChunkStore
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

log = structlog.get_logger()

_REPORT_TIMEOUT_MS = 2_000
_USAGE_TIMEOUT_MS = 3_000
ALL_SLOTS = tuple(Slot(number) for number in range(SLOT_COUNT))


@attrs.define
class NodeReporter:
    """Tells of this node."""

    node: NodeId
    pid: int
    raft: RaftHost
    chunks: ChunkStore
    repair_queued: Callable[[], int]

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
            "fragments": sum(drive.fragments for drive in drives),
            "drives": [
                {
                    "id": drive.drive,
                    "path": drive.path,
                    "total": drive.total,
                    "free": drive.free,
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
        problems = [*_node_problems(nodes), *_metadata_problems(metadata)]
        if usage_problem:
            problems.append(usage_problem)
        if len(members) == 1:
            problems.append("one node: nothing is redundant")
        roomy = [n for n in nodes if _has_room(n, self.reserve)]
        reason = self.unready_reason()
        if reason:
            problems.append(reason)
        return {
            "cluster": self.cluster,
            "region": self.region,
            "version": objstore.__version__,
            "node": self.node,
            "epoch": self.view.layout.epoch,
            "redundancy": self.redundancy,
            "writable": usage_problem is None and reason is None and bool(roomy),
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
            for group, voters, is_changing in report["led"]
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


def _node_problems(nodes: list[dict[str, Any]]) -> list[str]:
    problems = [
        f"node {node['id']} is {node['state']}"
        for node in nodes
        if node["state"] != "alive"
    ]
    for node in nodes:
        problems += [
            f"drive {drive['path']} of node {node['id']}: {drive['reason']}"
            for drive in node.get("drives", ())
            if drive["reason"]
        ]
        if node.get("damaged_groups"):
            problems.append(
                f"node {node['id']} mends the logs of shards {node['damaged_groups']}"
            )
    return problems


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
