"""Each known bug is found by the checker that is there for it, and only the bug is found."""

from __future__ import annotations

from contextlib import nullcontext

import attrs
import pytest

from objstore.cli.sim import run_program
from objstore.raft.core import Core
from objstore.testing.mutants import catching, consensus
from objstore.testing.mutants.catching import MUTANTS, catch
from objstore.testing.mutants.mutant import patched

pytestmark = pytest.mark.timeout(900)

# Bugs of one group cost a tenth of a second a seed, those of a cluster some seconds.
QUICK = [mutant.name for mutant in consensus.MUTANTS]
SLOW = [name for name in MUTANTS if name not in QUICK]
SHOWN = {"counters-drift", "commit-after-intent-expired", "ignore-bucket-fence"}


def test_there_are_enough_of_them_and_each_has_a_checker() -> None:
    assert len(MUTANTS) >= 12
    assert len(set(MUTANTS)) == len(MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_each_can_be_planted_in_the_program_as_it_is(name: str) -> None:
    """What it patches by name may have another name now."""
    with MUTANTS[name].plant():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_bugs_of_consensus_are_caught(name: str) -> None:
    caught = catch(name, run_program)
    assert caught.caught, caught.words


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SHOWN else pytest.mark.full) for name in SLOW],
)
def test_bugs_of_whole_nodes_are_caught(name: str) -> None:
    caught = catch(name, run_program)
    assert caught.caught, caught.words


def test_what_does_no_harm_gets_away(monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = attrs.evolve(MUTANTS["vote-twice"], plant=nullcontext, seeds_max=2)
    monkeypatch.setitem(catching.MUTANTS, "vote-twice", harmless)
    caught = catch("vote-twice", run_program)
    assert not caught.caught
    assert caught.seeds == (1, 2)
    assert "did not find" in caught.words


def test_a_build_that_fails_without_the_bug_catches_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutant = MUTANTS["vote-twice"]
    with mutant.plant():  # The build has it already.
        caught = catch("vote-twice", run_program)
    assert not caught.caught
    assert "fails as well" in caught.words


def test_a_patch_is_undone() -> None:
    before = Core._try_commit
    with patched(Core, _try_commit=None):
        assert Core._try_commit is None
    assert Core._try_commit is before
