"""The scenario of bugs that whole clusters find."""

from __future__ import annotations

from objstore.testing.cluster.evidence import Violation
from objstore.testing.cluster.program import Program
from objstore.testing.cluster.simulation import Plan, simulate


def simulate_cluster(
    seed: int,
    program: Program,
    *,
    faults: tuple[str, ...] = (),
    steps: int = 24,
) -> tuple[Violation, ...]:
    """Run a cluster for a few seconds, with a fault in every other step."""
    plan = Plan(
        seed=seed,
        steps=steps,
        faults=faults,
        fault_probability=0.5,
        hot_keys=6,
        pause_s=0.3,
    )
    return simulate(plan, program).violations
