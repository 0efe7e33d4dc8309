"""Gauges show what the parts say at the moment of the scrape."""

from __future__ import annotations

from objstore import metrics
from objstore.admin.gauges import Gauges
from objstore.gossip.members import State
from objstore.node.parts import Parts

from .nodes import world


def gauges_of(parts: Parts) -> Gauges:
    """As the composition root makes them."""
    assert parts.gossip is not None
    members = parts.gossip.members
    return Gauges(
        raft=parts.raft,
        chunks=parts.chunk_store,
        member_states=lambda: [member.state for member in members().values()],
        repair_queued=parts.reporter.repair_queued,
        memory_held=lambda: parts.store.budget.held,
    )


def value(metric: object, *labels: str) -> float:
    child = metric.labels(*labels) if labels else metric  # type: ignore[attr-defined]
    return float(child._value.get())


async def test_a_fenced_drive_and_a_full_log_are_seen(autojump_clock: object) -> None:
    async with world() as w:
        parts = w.doors[0].parts
        gauges = gauges_of(parts)
        gauges.update()
        (drive,) = parts.chunk_store.drives.values()
        assert value(metrics.DRIVE_FENCED, drive.id) == 0
        assert value(metrics.RAFT_WAL_FULL) == 0
        drive.fence("test")
        parts.raft.wal.is_full = True
        gauges.update()
        assert value(metrics.DRIVE_FENCED, drive.id) == 1
        assert value(metrics.RAFT_WAL_FULL) == 1


async def test_members_are_counted_by_state(autojump_clock: object) -> None:
    async with world() as w:
        gauges = gauges_of(w.doors[0].parts)
        states = [State.ALIVE, State.ALIVE, State.DEAD]
        Gauges(gauges.raft, gauges.chunks, lambda: states, lambda: 7, lambda: 4096).update()
        counted = {s: value(metrics.GOSSIP_MEMBERS, s.name.lower()) for s in State}
        assert counted == {State.ALIVE: 2, State.SUSPECT: 0, State.DEAD: 1, State.LEFT: 0}
        assert value(metrics.REPAIR_QUEUE) == 7
        assert value(metrics.MEMORY_IN_FLIGHT) == 4096
