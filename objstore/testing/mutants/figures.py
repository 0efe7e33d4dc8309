"""Scenarios in which a bug of Raft does harm that chance alone seldom leads to.

Each is a story told to the simulator of one group; the seed decides delays and who wins
where the story leaves it open, so that some seeds take another turn and end early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from objstore.ids import NodeId
from objstore.raft.core import Core
from objstore.raft.messages import TimeoutNow
from objstore.raft.options import Options
from objstore.testing.raft import QUIET, Node, RaftSim

_CALM = attrs.evolve(QUIET, delay_ms_max=20, sync_ms_max=5, fate_ms=10**9)
_OPTIONS = Options(
    heartbeat_ms=50,
    election_timeout_ms=250,
    append_entries_max=1,
    in_flight_messages_max=1,
    quiesce=False,
)
_WAIT_MS = 3000


def figure_8(seed: int) -> RaftSim:
    """Raft's Figure 8: an old entry reaches a majority, and is overwritten after all.

    A leader leaves an entry with one follower and dies.  One of the others is elected and
    dies before anybody has its first entry.  One of the first two leads again, and its old
    entry reaches a majority; it dies before an entry of its own term does.  Then the one
    in between, whose last entry is of a later term, may win and overwrite it.
    """
    sim = RaftSim(seed, node_count=5, voters=5, faults=_CALM, options=_OPTIONS)
    first = _leader_among(sim, sim.nodes)
    if first is None:
        return sim
    sim.run(400)
    others = [name for name in sim.nodes if name != first.node]
    friend, rest = others[0], others[1:]
    _cut(sim, [first.node, friend], rest)
    if not _until(sim, lambda: _last(sim, friend) >= first.log.committed + 2):
        return sim
    for name in (first.node, friend):
        sim.crash(sim.nodes[name], 10**8, power=True)
    between = _leader_among(sim, rest, steps_ms=1)
    if between is None:
        return sim
    _cut(sim, [between.node], [name for name in rest if name != between.node])
    sim.run(30)  # Its first entry becomes durable here, and nowhere else.
    sim.crash(sim.nodes[between.node], 10**8, power=True)
    sim.cuts.clear()
    for name in (first.node, friend):
        sim.boot(sim.nodes[name])
    again = _leader_among(sim, [first.node, friend])
    if again is None:
        return sim
    old = again.log.last_index - 1
    _until(sim, lambda: again.log.committed >= min(old, again._noop_index - 1), steps_ms=1)
    for name in (first.node, friend):
        sim.crash(sim.nodes[name], 10**8, power=True)
    sim.boot(sim.nodes[between.node])
    sim.run(_WAIT_MS)
    return sim


def forgotten_vote(seed: int) -> RaftSim:
    """A voter loses its power right after its vote, and another asks in the same term."""
    sim = RaftSim(seed, node_count=3, voters=3, faults=_CALM, options=_OPTIONS)
    first = _leader_among(sim, sim.nodes)
    if first is None:
        return sim
    sim.run(400)
    others = [name for name in sim.nodes if name != first.node]
    candidate, voter = others if seed % 2 else reversed(others)
    # The old leader hands over to one, and falls silent; the third will vote.
    sim.crash(sim.nodes[first.node], 10**8, power=False)
    sim.run(5)
    _ask_to_lead(sim, candidate)
    if not _until(sim, lambda: _leads(sim, candidate), steps_ms=1):
        return sim
    _cut(sim, [candidate], [voter])
    sim.crash(sim.nodes[voter], 10, power=True)
    sim.run(20)
    # The one that was down has not heard of that term, and begins it as well.
    sim.boot(sim.nodes[first.node])
    _cut(sim, [candidate], [first.node])
    sim.run(5)
    _ask_to_lead(sim, first.node)
    sim.run(_WAIT_MS)
    return sim


def deposed_leader(seed: int) -> RaftSim:
    """A leader is cut off and asked on, while the others elect another and write."""
    sim = RaftSim(seed, node_count=3, voters=3, faults=_CALM, options=_OPTIONS)
    first = _leader_among(sim, sim.nodes)
    if first is None:
        return sim
    sim.run(400)
    _cut(sim, [first.node], [name for name in sim.nodes if name != first.node])
    node = sim.nodes[first.node]
    end_ms = sim.now_ms + _WAIT_MS
    while sim.now_ms < end_ms:
        sim.run(5)
        if _leads(sim, first.node):
            sim.read(node)
            sim.wake(node)
    return sim


# ---- telling a story ------------------------------------------------------------------


def _until(sim: RaftSim, condition: Callable[[], bool], *, steps_ms: int = 5) -> bool:
    end_ms = sim.now_ms + _WAIT_MS
    while not condition():
        if sim.now_ms >= end_ms:
            return False
        sim.run(steps_ms)
    return True


def _core(sim: RaftSim, name: NodeId) -> Core | None:
    node: Node = sim.nodes[name]
    return node.core if node.up else None


def _last(sim: RaftSim, name: NodeId) -> int:
    core = _core(sim, name)
    return 0 if core is None else core.log.stable


def _leads(sim: RaftSim, name: NodeId) -> bool:
    core = _core(sim, name)
    return core is not None and core.is_leader


def _leader_among(
    sim: RaftSim, names: Iterable[NodeId], *, steps_ms: int = 5
) -> Core | None:
    """Wait until one of them leads."""
    known = list(names)
    if not _until(sim, lambda: any(_leads(sim, n) for n in known), steps_ms=steps_ms):
        return None
    return _core(sim, next(name for name in known if _leads(sim, name)))


def _cut(sim: RaftSim, here: Iterable[NodeId], there: Iterable[NodeId]) -> None:
    far = list(there)
    for one in here:
        for other in far:
            sim.cuts[one, other] = sim.cuts[other, one] = sim.now_ms


def _ask_to_lead(sim: RaftSim, name: NodeId) -> None:
    """Let a leader's request to take over arrive, as one may that was long on its way."""
    core = _core(sim, name)
    assert core is not None
    node = sim.nodes[name]
    core.on_message(core.leader or name, TimeoutNow(core.term), sim.clock(node))
    sim.wake(node)
