"""Bugs of chunks and of their repair, found by whole clusters."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

from objstore.chunks import format as chunks_format
from objstore.chunks import segment
from objstore.repair.mend import Mender
from objstore.repair.worker import WorkerState
from objstore.testing.mutants.mutant import Mutant, patched
from objstore.testing.mutants.whole import simulate_cluster

_SEEDS_MAX = 6


class _Equal:
    """A checksum that is always right."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


# The format, with checksums of pieces that are never wrong.
_TRUSTING = SimpleNamespace(**{**vars(chunks_format), "entry_of": lambda *_: _Equal()})


async def _mend_nothing(mender: Mender) -> WorkerState:
    del mender
    return WorkerState.IDLE


MUTANTS = [
    Mutant(
        name="ignore-block-checksum",
        breaks="blocks are served whatever their checksums say",
        checker="bodies",
        scenario=partial(simulate_cluster, faults=("rot_chunks",), steps=40),
        plant=partial(patched, segment, fmt=_TRUSTING),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="mend-nothing",
        breaks="what is below promise stays so",
        checker="promise",
        scenario=partial(simulate_cluster, faults=("crash", "kill")),
        plant=partial(patched, Mender, work_once=_mend_nothing),
        seeds_max=_SEEDS_MAX,
    ),
]
