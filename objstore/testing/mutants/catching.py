"""Runs seeds with a bug until its checker finds it, and the same seeds without the bug."""

from __future__ import annotations

import attrs

from objstore.testing.cluster.program import Program
from objstore.testing.mutants import consensus, metadata, storage, told
from objstore.testing.mutants.mutant import Mutant

# The dearest first, so that several processes end together.
MUTANTS: dict[str, Mutant] = {
    mutant.name: mutant
    for mutant in (
        *storage.MUTANTS,
        *metadata.MUTANTS,
        *told.MUTANTS,
        *consensus.MUTANTS,
    )
}


@attrs.frozen
class Catch:
    """What came of one mutant."""

    name: str
    caught: bool  # By its checker, and the build without it passes the same seeds.
    seeds: tuple[int, ...]  # That were run; the last one caught it.
    words: str


def catch(name: str, program: Program) -> Catch:
    """Hunt one mutant.  Not to be called inside trio."""
    mutant = MUTANTS[name]
    found = ""
    seeds: list[int] = []
    while not found and len(seeds) < mutant.seeds_max:
        seeds.append(len(seeds) + 1)
        with mutant.plant():
            violations = list(mutant.scenario(seeds[-1], program))
        found = next((str(v) for v in violations if v.checker == mutant.checker), "")
    for seed in seeds:
        for violation in mutant.scenario(seed, program):
            words = f"without it, seed {seed} fails as well: {violation}"
            return Catch(name, False, tuple(seeds), words)
    if not found:
        words = f"{mutant.checker} did not find that {mutant.breaks}"
        return Catch(name, False, tuple(seeds), words)
    return Catch(name, True, tuple(seeds), found)
