"""Bugs of Raft and of its log, found by the simulator of one group (`testing.raft`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import attrs

from objstore.ids import NodeId
from objstore.raft import recovery, wal_format
from objstore.raft.core import Core
from objstore.raft.effects import Send
from objstore.raft.hard_state import Damage, HardState
from objstore.raft.messages import AppendReply, Vote
from objstore.raft.options import Options
from objstore.raft.quorum import agreed
from objstore.raft.state_machine import Applied
from objstore.raft.wal import Wal
from objstore.testing import raft
from objstore.testing.cluster.evidence import Violation
from objstore.testing.cluster.program import Program
from objstore.testing.mutants import figures
from objstore.testing.mutants.mutant import Mutant, patched
from objstore.testing.raft import CHURN, FLICKER, Faults, RaftSim

_SEEDS_MAX = 200
_ROT = Faults(crash_probability=0.6, rot_probability=0.7, change_probability=0.0)
_WIPES = Faults(crash_probability=0.6, wipe_probability=0.5, change_probability=0.0)
_POWER = Faults(
    power_loss_probability=0.5,
    sync_ms_max=60,
    cut_probability=0.2,
    change_probability=0.0,
)
# Power that fails everywhere, while disks are slow.
_DARKNESS = attrs.evolve(_POWER, sync_ms_max=150, fate_ms=300, loss_probability=0.02)


def simulate_group(
    seed: int,
    program: Program,
    *,
    faults: Faults,
    options: Options | None = None,
    voters: int = 3,
    duration_ms: int = 15_000,
) -> list[Violation]:
    """Run one group, and heal it; what was wrong first."""
    del program  # Cores, and no nodes.

    def run() -> RaftSim:
        sim = RaftSim(
            seed, node_count=voters, voters=voters, faults=faults, options=options
        )
        sim.run(duration_ms)
        return sim

    return _judged(run)


def tell(
    seed: int, program: Program, *, story: Callable[[int], RaftSim]
) -> list[Violation]:
    """Run one group through a story, and heal it; what was wrong first."""
    del program
    return _judged(partial(story, seed))


def _judged(run: Callable[[], RaftSim]) -> list[Violation]:
    try:
        sim = run()
        sim.heal()
        acked = sim.acked
        sim.run_until(lambda: sim.is_converged() and sim.acked > acked)
    except raft.Violation as violation:
        return [Violation(violation.checker, str(violation))]
    except AssertionError as error:
        return [Violation("raft", f"an assertion failed: {error}")]
    return []


# ---- the bugs -------------------------------------------------------------------------


def _commit_alone(core: Core) -> None:
    index = core.log.stable
    if index > core.log.committed and core.log.term(index) == core.term:
        core._commit_to(index)
        core._commit_now = core.dirty = True


def _commit_by_counting(core: Core) -> None:
    reached = {node: progress.match for node, progress in core.progress.items()}
    reached[core.node] = core.log.stable
    index = agreed(core.membership, reached)
    if index > core.log.committed:
        core._commit_to(index)
        core._commit_now = core.dirty = True


def _vote_again(core: Core, sender: NodeId, message: Vote, now_ms: int) -> None:
    if not message.pre:
        core.vote = None
    _on_vote(core, sender, message, now_ms)


_on_vote = Core._HANDLERS[Vote]


@contextmanager
def _voting_twice() -> Iterator[None]:
    with patched(Core, _HANDLERS={**Core._HANDLERS, Vote: _vote_again}):
        yield


def _write_state_without_vote(state: HardState) -> bytes:
    return recovery._COMMIT.pack(state.commit)


def _confirm_at_once(core: Core) -> None:
    if core.reads.waiting and core.has_own_commit:
        core._round += 1
        core.reads.begin(core._round, core.log.committed)
        core.reads.confirm(core._round)


def _acknowledge_early(core: Core) -> None:
    if core._ack is not None:
        (to, index), core._ack = core._ack, None
        reply = AppendReply(
            core.term, True, index, 0, 0, core.log.committed, int(core.damage)
        )
        core._effects.append(Send(to, reply))


_start = Core.__attrs_post_init__


def _start_whole(core: Core) -> None:
    """A replica that was never whole takes itself for one."""
    _start(core)
    if core.damage is Damage.NEW:
        core.damage = Damage.NONE


def _restore_undamaged(
    recovered: recovery.RecoveredGroup, applied: Applied
) -> recovery.Restored:
    found = recovery.restore(recovered, applied)
    if found.hard_state.damage is Damage.NONE:
        return found
    return attrs.evolve(
        found, hard_state=attrs.evolve(found.hard_state, damage=Damage.NONE)
    )


def _read_unverified(data: bytes, head: wal_format._Head) -> bytes | None:
    start = head.offset + wal_format.RECORD_HEADER_SIZE
    return data[start : start + head.payload_size]


class _Unsynced:
    """A file whose sync does nothing."""

    def __init__(self, file: object) -> None:
        self.file = file

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def sync(self) -> None:
        """Promise what is not so."""


_roll = Wal._roll


def _roll_unsynced(wal: Wal) -> None:
    _roll(wal)
    segment = wal._segments[-1]
    segment.file = _Unsynced(segment.file)  # type: ignore[assignment]


MUTANTS = [
    Mutant(
        name="skip-log-sync",
        breaks="entries and votes are written to the log and not synced",
        checker="raft",
        scenario=partial(simulate_group, faults=_POWER),
        plant=partial(patched, Wal, _roll=_roll_unsynced),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="acknowledge-before-sync",
        breaks="a follower acknowledges entries before they are durable",
        checker="raft",
        scenario=partial(simulate_group, faults=_DARKNESS, options=CHURN),
        plant=partial(patched, Core, _acknowledge=_acknowledge_early),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="commit-before-quorum",
        breaks="a leader commits what it alone has",
        checker="raft",
        scenario=partial(simulate_group, faults=FLICKER, options=CHURN),
        plant=partial(patched, Core, _try_commit=_commit_alone),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="commit-old-term-by-counting",
        breaks="an entry of an older term is committed because a majority has it",
        checker="raft",
        scenario=partial(tell, story=figures.figure_8),
        plant=partial(patched, Core, _try_commit=_commit_by_counting),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="vote-twice",
        breaks="a vote is given although the term's vote was given to another",
        checker="raft",
        scenario=partial(simulate_group, faults=FLICKER, options=CHURN),
        plant=_voting_twice,
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="forget-vote",
        breaks="the vote is not written to the log",
        checker="raft",
        scenario=partial(tell, story=figures.forgotten_vote),
        plant=partial(patched, recovery, _write_state=_write_state_without_vote),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="read-without-read-index",
        breaks="a leader answers reads without asking whether it still leads",
        checker="registers",
        scenario=partial(tell, story=figures.deposed_leader),
        plant=partial(patched, Core, _begin_round=_confirm_at_once),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="reuse-wiped-disk",
        breaks="a node whose disk was emptied votes on under its old id",
        checker="raft",
        scenario=partial(simulate_group, faults=_WIPES, duration_ms=20_000),
        plant=partial(patched, Core, __attrs_post_init__=_start_whole),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="corruption-taken-for-torn",
        breaks="a damaged log is cut as if what is missing had never been acknowledged",
        checker="raft",
        scenario=partial(simulate_group, faults=_ROT, duration_ms=20_000),
        plant=partial(patched, raft, restore=_restore_undamaged),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="ignore-log-checksum",
        breaks="a log record's payload is taken whatever its checksum says",
        checker="raft",
        scenario=partial(simulate_group, faults=_ROT, duration_ms=20_000),
        plant=partial(patched, wal_format, _read_payload=_read_unverified),
        seeds_max=_SEEDS_MAX,
    ),
]
