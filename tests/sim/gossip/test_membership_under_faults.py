"""Membership on simulated networks: what dies is found, what lives is not lost for good.

A failing case replays by its seed and size: both are in the test's id.
"""

from __future__ import annotations

import itertools

import pytest

from objstore.gossip.core import Timing
from objstore.gossip.members import State

from .simulation import GossipSim, Node

SIZES = [2, 3, 5, 10, 30]


def started(seed: int, size: int, **options: object) -> GossipSim:
    """A cluster whose members all know each other."""
    sim = GossipSim(seed, size, **options)  # type: ignore[arg-type]
    sim.run_until(sim.is_converged, 20_000)
    sim.run(2_000)
    sim.forget_changes()
    return sim


def all_say(sim: GossipSim, about: Node, state: State) -> bool:
    others = [node for node in sim.running() if node is not about]
    return all(node.state_of(about) is state for node in others)


@pytest.mark.parametrize("size", [*SIZES, 100])
def test_all_know_all_soon_after_a_join_storm(size: int) -> None:
    """F45."""
    sim = GossipSim(size, size)
    sim.run_until(sim.is_converged, 5_000)
    assert sim.deaths() == 0


def test_a_storm_of_restarts_overrides_all_former_lives() -> None:
    """F45."""
    sim = started(1, 40)
    for number in range(40):
        sim.restart(number)
    sim.run_until(sim.is_converged, 10_000)
    assert sim.deaths() == 0
    assert not sim.conflicts
    boots = {node.id: node.core.me.boot_id for node in sim.nodes}
    for node in sim.nodes:
        assert {m.node: m.boot_id for m in node.core.members.values()} == boots


@pytest.mark.parametrize(
    ("size", "bound_ms"), [(2, 5_000), (3, 6_000), (5, 7_000), (10, 9_000), (30, 12_000)]
)
@pytest.mark.parametrize("seed", range(2))
def test_a_death_is_known_to_all_within_a_bound(
    seed: int, size: int, bound_ms: int
) -> None:
    sim = started(seed, size)
    victim = sim.nodes[-1]
    sim.crash(size - 1)
    sim.run_until(lambda: all_say(sim, victim, State.DEAD), bound_ms)
    sim.run(5_000)
    assert sim.deaths(range(size - 1)) == 0


def test_a_death_among_a_hundred_is_known_to_all_within_a_bound() -> None:
    sim = started(5, 100)
    victim = sim.nodes[-1]
    sim.crash(99)
    sim.run_until(lambda: all_say(sim, victim, State.DEAD), 20_000)
    assert sim.deaths(range(99)) == 0


@pytest.mark.parametrize(("size", "dead"), [(3, 2), (5, 3), (7, 4), (20, 12)])
def test_the_death_of_most_at_once_is_found(size: int, dead: int) -> None:
    """F25: survivors that are too few to confirm each other wait longer, not for ever."""
    sim = started(size, size)
    victims = range(size - dead, size)
    sim.crash(*victims)
    sim.run_until(sim.is_converged, 60_000)
    assert sim.deaths(range(size - dead)) == 0


@pytest.mark.parametrize("size", [3, 5, 10])
def test_a_restarted_node_is_back_at_once(size: int) -> None:
    """F01."""
    sim = started(2, size)
    sim.crash(size - 1)
    sim.run(30_000)
    sim.restart(size - 1)
    sim.run_until(sim.is_converged, 3_000)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("size", [3, 5, 10])
def test_light_loss_kills_nobody(seed: int, size: int) -> None:
    """F19: 5 % of packets lost."""
    sim = started(seed, size)
    sim.loss = 0.05
    sim.run(60_000)
    assert sim.deaths() == 0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("size", [3, 10])
def test_heavy_loss_and_delay_kill_nobody_for_good(seed: int, size: int) -> None:
    """F19: 30 % lost, 50 +- 50 ms on the way; streams help, so nobody dies even then."""
    sim = started(seed, size)
    sim.loss, sim.delay_ms = 0.3, (0, 100)
    sim.run(60_000)
    assert sim.deaths() == 0
    sim.loss, sim.delay_ms = 0.0, (0, 3)
    sim.run_until(sim.is_converged, 10_000)


@pytest.mark.parametrize(
    ("size", "minority"), [(3, 1), (5, 1), (5, 2), (4, 2), (12, 5), (20, 10)]
)
def test_halves_of_a_split_bury_each_other_and_rise_when_it_heals(
    size: int, minority: int
) -> None:
    """F16."""
    sim = started(size, size)
    these, those = range(minority), range(minority, size)
    sim.cut(these, those)
    sim.run(60_000)
    for a, b in itertools.product(these, those):
        assert sim.nodes[a].state_of(sim.nodes[b]) is State.DEAD
        assert sim.nodes[b].state_of(sim.nodes[a]) is State.DEAD
    sim.heal()
    sim.run_until(sim.is_converged, 30_000)


@pytest.mark.parametrize("hears", [True, False])
@pytest.mark.parametrize("size", [3, 5, 10])
def test_a_node_cut_one_way_harms_no_other_and_comes_back(size: int, hears: bool) -> None:
    """F17: it hears and cannot send, or the reverse."""
    sim = started(7, size)
    victim = range(size - 1, size)
    others = range(size - 1)
    if hears:
        sim.cut(victim, others, both=False)
    else:
        sim.cut(others, victim, both=False)
    sim.run(60_000)
    for a, b in itertools.permutations(others, 2):
        assert not any(
            change.member.node == sim.nodes[b].id and change.member.state is State.DEAD
            for change in sim.nodes[a].changes
        )
    sim.heal()
    sim.run_until(sim.is_converged, 30_000)


@pytest.mark.parametrize("one_way", [False, True])
@pytest.mark.parametrize("size", [3, 5, 10])
def test_two_nodes_that_cannot_see_each_other_stay_alive_to_all(
    size: int, one_way: bool
) -> None:
    """F18: the relays of ping-req see both."""
    sim = started(11, size)
    sim.cut([0], [1], both=not one_way)
    sim.run(60_000)
    assert sim.deaths() == 0
    sim.heal()
    sim.run_until(sim.is_converged, 10_000)


@pytest.mark.parametrize("size", [5, 6, 9])
def test_a_ring_of_cuts_kills_nobody(size: int) -> None:
    """F18: each node is cut off from the two next to it."""
    sim = started(13, size)
    for number in range(size):
        sim.cut([number], [(number + 1) % size])
    sim.run(60_000)
    deaths = sim.deaths()
    assert deaths <= 1  # Flaps a minute: at most one.
    sim.heal()
    sim.run_until(sim.is_converged, 10_000)


def test_a_bridge_between_two_halves_keeps_all_alive() -> None:
    """F18: only node 0 sees both."""
    sim = started(17, 7)
    sim.cut([1, 2, 3], [4, 5, 6])
    sim.run(60_000)
    assert sim.deaths() <= 1  # Flaps a minute: at most one.
    sim.heal()
    sim.run_until(sim.is_converged, 20_000)


@pytest.mark.parametrize("size", [3, 8])
def test_a_process_that_flaps_does_not_take_others_with_it(size: int) -> None:
    """F21: up 3 s, down 3 s."""
    sim = started(19, size)
    for _ in range(15):
        sim.crash(size - 1)
        sim.run(3_000)
        sim.restart(size - 1)
        sim.run(3_000)
    assert sim.deaths(range(size - 1)) == 0
    sim.run_until(sim.is_converged, 10_000)


@pytest.mark.parametrize("size", [3, 8])
def test_a_link_that_flaps_is_no_death(size: int) -> None:
    """F21: a node is cut off for 2 s, again and again."""
    sim = started(23, size)
    for _ in range(20):
        sim.cut([size - 1], range(size - 1))
        sim.run(2_000)
        sim.heal()
        sim.run(3_000)
    assert sim.deaths(range(size - 1)) == 0
    sim.run_until(sim.is_converged, 10_000)


def test_a_network_that_eats_datagrams_only_is_told_and_kills_nobody() -> None:
    sim = started(29, 5)
    for a, b in itertools.permutations(range(5), 2):
        sim.datagrams_cut.add((a, b))
    sim.run(60_000)
    assert sim.deaths() == 0
    assert sim.only_by_stream > 50
    sim.crash(4)
    sim.run_until(lambda: all_say(sim, sim.nodes[4], State.DEAD), 60_000)


@pytest.mark.parametrize("slow_ms", [300, 700])
def test_a_node_that_is_slow_itself_kills_no_other(slow_ms: int) -> None:
    """Lifeguard's claim: local health keeps a slow node's false alarms down."""
    sim = started(31, 8)
    sim.nodes[0].slow_ms = slow_ms
    sim.run(60_000)
    assert sim.deaths(range(1, 8)) == 0
    sim.nodes[0].slow_ms = 0
    sim.run_until(sim.is_converged, 30_000)
    sim.run(30_000)
    assert sim.nodes[0].core.health == 0


def test_a_node_that_leaves_is_not_mourned_and_may_come_again() -> None:
    sim = started(37, 6)
    leaver = sim.nodes[5]
    sim._do(leaver, leaver.core.leave(sim.now_ms))
    sim.run_until(lambda: leaver.core.is_told, 2_000)
    sim.crash(5)
    sim.run_until(lambda: all_say(sim, leaver, State.LEFT), 3_000)
    sim.run(30_000)
    assert sim.deaths() == 0
    sim.restart(5)
    sim.run_until(sim.is_converged, 5_000)


def test_what_left_and_what_died_long_ago_is_forgotten_everywhere() -> None:
    timing = Timing(forget_dead_ms=120_000, forget_left_ms=60_000)
    sim = started(41, 6, timing=timing)
    sim.crash(4)
    sim._do(sim.nodes[5], sim.nodes[5].core.leave(sim.now_ms))
    sim.run(2_000)
    sim.crash(5)
    sim.run(90_000)
    assert all(node.state_of(sim.nodes[5]) is None for node in sim.running())
    sim.run(60_000)
    assert all(len(node.core.members) == 4 for node in sim.running())


def test_news_of_oneself_reaches_all_and_disturbs_no_suspicion() -> None:
    sim = started(43, 20)
    node = sim.nodes[3]
    for version in range(10):
        sim._do(node, node.core.update_meta({"version": version}, sim.now_ms))
        sim.run(100)
    sim.run_until(
        lambda: all(n.core.members[node.id].meta == {"version": 9} for n in sim.nodes),
        3_000,
    )
    assert node.core.me.incarnation == 1 << 20


def test_halves_that_never_met_find_each_other_by_their_seeds() -> None:
    sim = GossipSim(47, 6, seed_count=2)
    sim.cut([0, 2, 4], [1, 3, 5])
    sim.run(20_000)
    assert len(sim.nodes[0].core.members) == 3
    sim.heal()
    sim.run_until(sim.is_converged, 120_000)


@pytest.mark.parametrize("seed", range(10))
def test_random_faults_leave_no_lasting_damage(seed: int) -> None:
    """F51: cuts, crashes, restarts and loss at random; then all heals and agrees."""
    sim = started(seed, 3 + seed % 5)
    random, size = sim.random, len(sim.nodes)
    for _ in range(25):
        match random.randrange(6):
            case 0:
                sim.cut([random.randrange(size)], [random.randrange(size)], both=False)
            case 1:
                sim.cut([random.randrange(size)], range(random.randrange(size)))
            case 2:
                sim.crash(random.randrange(size))
            case 3:
                sim.restart(random.randrange(size))
            case 4:
                sim.loss = random.choice([0.0, 0.1, 0.5])
            case 5:
                sim.heal()
        sim.run(random.randrange(6_000))
    sim.heal()
    sim.loss = 0.0
    for node in sim.nodes:
        if not node.is_running:
            sim.restart(node.number)
    sim.run_until(sim.is_converged, 60_000)
    sim.forget_changes()
    sim.run(30_000)
    assert sim.deaths() == 0
    assert not sim.conflicts


@pytest.mark.parametrize("seed", [37, 92, *range(8)])  # The first two found it.
def test_a_node_that_is_killed_again_and_again_never_takes_itself_for_another(
    seed: int,
) -> None:
    """F29: suspected of a life of which the accuser's hearers know nothing else."""
    sim = started(seed, 5, seed_count=5, delay_ms=(0, 30))
    sim.loss = 0.1
    for _ in range(40):
        number = sim.random.randrange(5)
        sim.crash(number)
        sim.run(sim.random.randrange(4_000))
        sim.restart(number)
        sim.run(sim.random.randrange(2_000))
    assert not sim.conflicts
    sim.loss = 0.0
    sim.run_until(sim.is_converged, 20_000)
    boots = {node.id: node.core.me.boot_id for node in sim.nodes}
    for node in sim.nodes:
        assert {m.node: m.boot_id for m in node.core.members.values()} == boots


def test_a_quiet_cluster_costs_little() -> None:
    sim = started(53, 30)
    sim.sent = sim.bytes_sent = 0
    sim.run(20_000)
    assert sim.sent / 30 / 20 < 6  # Packets a node and second, answers among them.
    assert sim.bytes_sent / 30 / 20 < 400
