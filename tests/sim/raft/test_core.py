"""Seeded runs of one group under faults; more of them with OBJSTORE_SIM_SEEDS=N."""

import os

import attrs
import pytest

from objstore.raft.options import Options
from objstore.testing.raft import CHURN, FLICKER, QUIET, Faults, RaftSim

SEEDS = int(os.environ.get("OBJSTORE_SIM_SEEDS", "4"))
FIRST = int(os.environ.get("OBJSTORE_SIM_FIRST", "1"))
seeds = pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))


def run(sim: RaftSim, duration_ms: int) -> None:
    sim.run(duration_ms)
    sim.heal()
    acked = sim.acked
    sim.run_until(lambda: sim.is_converged() and sim.acked > acked)


@seeds
def test_network_faults_and_crashes_lose_nothing(seed: int) -> None:
    sim = RaftSim(seed)
    run(sim, 15_000)
    assert sim.reads_done > 0


@seeds
def test_changing_members_all_the_time_loses_nothing(seed: int) -> None:
    run(RaftSim(seed, faults=Faults(change_probability=0.8, crash_probability=0.1)), 15_000)


@seeds
def test_a_group_that_begins_alone_grows_and_shrinks(seed: int) -> None:
    faults = Faults(change_probability=0.7, crash_probability=0.05, cut_probability=0.1)
    run(RaftSim(seed, voters=1, faults=faults), 15_000)


@seeds
def test_rotten_logs_lose_nothing_and_are_mended(seed: int) -> None:
    faults = Faults(crash_probability=0.6, rot_probability=0.7, change_probability=0.0)
    run(RaftSim(seed, node_count=3, faults=faults), 20_000)


@seeds
def test_an_emptied_disk_under_an_old_id_does_not_vote_until_mended(seed: int) -> None:
    """F27."""
    faults = Faults(crash_probability=0.6, wipe_probability=0.5, change_probability=0.0)
    run(RaftSim(seed, node_count=3, faults=faults), 20_000)


@seeds
def test_power_loss_of_all_nodes_at_once_loses_nothing(seed: int) -> None:
    faults = Faults(
        power_loss_probability=0.5,
        sync_ms_max=60,
        cut_probability=0.2,
        change_probability=0.0,
    )
    run(RaftSim(seed, node_count=3, faults=faults), 20_000)


@seeds
def test_flapping_nodes_do_not_end_a_healthy_group(seed: int) -> None:
    faults = Faults(cut_probability=0.9, cut_ms_max=1500, crash_probability=0.0)
    run(RaftSim(seed, faults=faults), 15_000)


@seeds
def test_processes_that_stop_and_go_on_serve_nothing_stale(seed: int) -> None:
    """F14, R4, R7."""
    faults = Faults(pause_probability=0.7, crash_probability=0.05, cut_probability=0.1)
    run(RaftSim(seed, node_count=3, faults=faults), 20_000)


@seeds
def test_a_group_in_company_is_as_safe_and_lives_as_well(seed: int) -> None:
    """Where other groups of its nodes speak for it, and theirs are lost or late as well."""
    faults = Faults(pause_probability=0.2, pause_ms_max=1500)
    run(RaftSim(seed, faults=faults, has_company=True), 20_000)


@seeds
def test_leaders_in_company_that_last_a_moment_agree_with_those_before(seed: int) -> None:
    run(RaftSim(seed, faults=FLICKER, options=CHURN, has_company=True), 15_000)


@seeds
def test_clocks_that_run_fast_and_slow_cost_only_time(seed: int) -> None:
    """F15."""
    faults = Faults(clock_rates=(0.6, 1.0, 1.7), pause_probability=0.1)
    run(RaftSim(seed, faults=faults), 15_000)


@seeds
def test_changes_of_members_given_up_half_way_block_no_later_one(seed: int) -> None:
    """R2; learners are left over, joint memberships end by themselves."""
    faults = Faults(
        change_probability=0.9,
        abandon_probability=0.7,
        crash_probability=0.15,
        pause_probability=0.1,
        cut_probability=0.2,
    )
    run(RaftSim(seed, voters=1 + 2 * (seed % 2), faults=faults), 15_000)


@seeds
def test_a_log_that_goes_on_while_states_are_rarely_flushed_forgets_nothing(
    seed: int,
) -> None:
    """What is let go of the log is needed by who restarts from an old state (R2, F01)."""
    faults = Faults(
        change_probability=0.3,
        crash_probability=0.4,
        down_ms_max=1000,
        flush_probability=0.002,
        cut_probability=0.1,
    )
    options = Options(kept_entries=20, append_entries_max=8, quiesce_after_ms=600)
    run(RaftSim(seed, voters=1, faults=faults, options=options), 15_000)


@seeds
def test_leaders_that_last_a_moment_agree_with_those_before(seed: int) -> None:
    """R1, R10, F24: short terms, slow links, one entry at a time."""
    run(RaftSim(seed, voters=5, faults=FLICKER, options=CHURN), 15_000)


@seeds
def test_promises_outlive_the_power_that_fails_when_they_are_given(seed: int) -> None:
    """R5, R6: slow disks, contended elections, power lost right after votes."""
    faults = Faults(
        fate_ms=200,
        betrayal_probability=0.6,
        leader_crash_probability=0.6,
        crash_probability=0.0,
        down_ms_max=300,
        delay_ms_max=150,
        sync_ms_max=150,
        loss_probability=0.25,
        cut_probability=0.05,
        change_probability=0.0,
        transfer_probability=0.2,
        kill_probability=0.2,
    )
    run(RaftSim(seed, node_count=3, faults=faults, options=CHURN), 15_000)


@seeds
def test_members_change_under_leaders_that_last_a_moment(seed: int) -> None:
    """R2, R11."""
    faults = Faults(
        fate_ms=200,
        change_probability=0.5,
        abandon_probability=0.2,
        leader_crash_probability=0.3,
        crash_probability=0.1,
        down_ms_max=600,
        cut_probability=0.1,
        cut_ms_max=600,
        delay_ms_max=60,
        transfer_probability=0.1,
        flush_probability=0.01,
    )
    run(RaftSim(seed, faults=faults, options=CHURN), 10_000)


@seeds
def test_late_answers_prove_nothing_to_who_was_stopped(seed: int) -> None:
    """F14, R4: answers come later than it takes to elect another."""
    faults = Faults(
        fate_ms=200,
        pause_probability=0.6,
        pause_ms_max=1200,
        delay_ms_max=100,
        crash_probability=0.0,
        cut_probability=0.1,
        cut_ms_max=600,
        change_probability=0.0,
    )
    run(RaftSim(seed, node_count=3, faults=faults, options=CHURN), 10_000)


def test_one_seed_gives_one_run() -> None:
    traces = []
    for _ in range(2):
        sim = RaftSim(99)
        sim.run(5_000)
        traces.append((sim.steps, sim.acked, sim.reads_done, sorted(sim.entries.items())))
    assert traces[0] == traces[1]


@pytest.mark.parametrize("has_company", [False, True])
def test_a_quiet_network_elects_once(has_company: bool) -> None:
    faults = attrs.evolve(QUIET, sync_ms_max=5)
    sim = RaftSim(5, faults=faults, has_company=has_company)
    sim.run(30_000)
    assert len(sim.leaders) == 1
    assert sim.acked > 100


@pytest.mark.parametrize("quiesce", [True, False])
def test_an_idle_group_falls_silent(quiesce: bool) -> None:
    sim = RaftSim(3, faults=QUIET, options=Options(quiesce=quiesce))
    sim.run(3_000)
    sim.events = [event for event in sim.events if event[2] != sim.client]
    sim.run(5_000)
    sent = 0
    send = sim.send

    def count(*args: object) -> None:
        nonlocal sent
        sent += 1
        send(*args)

    sim.send = count
    sim.run(10_000)
    assert (sent == 0) == quiesce
