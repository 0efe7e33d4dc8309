"""Fixed seeds of the whole-cluster simulator; a long run is `make sim`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import trio

from objstore.cli.sim import run_program
from objstore.testing.cluster.faults import FAULTS
from objstore.testing.cluster.simulation import Plan, Report, simulate

FULL = pytest.mark.full
pytestmark = pytest.mark.timeout(900)  # A busy machine is no failure.


def run(plan: Plan) -> Report:
    report = simulate(plan, run_program)
    assert report.violations == (), "\n".join(map(str, report.violations))
    return report


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [*range(1, 7), *(pytest.param(s, marks=FULL) for s in (*range(7, 40), 82))]
)
def test_three_nodes_under_all_faults_keep_every_promise(seed: int) -> None:
    report = run(Plan(seed=seed))
    assert report.operations > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, *(pytest.param(s, marks=FULL) for s in range(3, 9))])
def test_nodes_of_other_sizes_join_and_leave_beside_other_faults(seed: int) -> None:
    faults = ("join", "join", "leave", "leave", "crash", "kill", "cut", "slow", "full")
    report = run(Plan(seed=seed, steps=100, faults=faults))
    assert report.strikes["join"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", [pytest.param(name, marks=FULL) for name in FAULTS])
def test_each_fault_alone_and_often(fault: str) -> None:
    run(Plan(seed=7, steps=120, faults=(fault,)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=FULL) for s in range(2, 8))])
def test_where_any_disk_rots_nothing_is_wrong(seed: int) -> None:
    run(
        Plan(
            seed=seed,
            steps=60,
            bounded=False,
            faults=("rot_log", "rot_chunks", "crash", "cut"),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=FULL), 5])
def test_other_numbers_of_nodes(nodes: int) -> None:
    faults = tuple(
        name
        for name in FAULTS
        if nodes > 2 or name not in {"rot_log", "rot_chunks", "disk"}
    )
    run(Plan(seed=3, nodes=nodes, steps=30, faults=faults))


def sim(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "objstore", "sim", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_one_seed_gives_one_trace_in_every_process() -> None:
    """Whatever the hashes of strings are there."""
    script = (
        "from objstore.cli.sim import run_program;"
        "from objstore.testing.cluster.simulation import Plan, simulate;"
        "print(simulate(Plan(seed=11, steps=20), run_program).trace_hash)"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout.splitlines()[-1]
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1
    done = sim("--seed", "11", "--steps", "20", "--json")
    shown = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert shown.pop("operations") > 0
    assert shown == {
        "seed": 11,
        "steps": 20,
        "trace_hash": traces.pop(),
        "violations": [],
    }


@pytest.mark.slow
def test_another_seed_gives_another_trace() -> None:
    plan = Plan(seed=1, steps=4, faults=())
    other = Plan(seed=2, steps=4, faults=())
    assert run(plan).trace_hash != run(other).trace_hash


def test_an_unknown_fault_is_refused_with_those_there_are() -> None:
    done = sim("--faults", "earthquake")
    assert done.returncode == 2
    assert "earthquake" in done.stderr
    assert "blackout" in done.stderr


def test_the_simulation_is_not_run_inside_trio() -> None:
    async def inside() -> None:
        with pytest.raises(RuntimeError):
            simulate(Plan(seed=1), run_program)

    trio.run(inside)
