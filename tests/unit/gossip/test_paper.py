"""The protocol held to sentences of its two papers.

SWIM: Das, Gupta, Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group
Membership Protocol", DSN 2002.  Lifeguard: Dadgar, Phillips, Currey, "Lifeguard: Local
Health Awareness for More Accurate Failure Detection", DSN-W 2018.
"""

from __future__ import annotations

import itertools
from collections import Counter

from objstore.gossip.core import HEALTH_MAX, Refuted
from objstore.gossip.members import State
from objstore.gossip.messages import (
    Ack,
    Alive,
    Dead,
    Nack,
    Ping,
    PingRequest,
    Suspect,
    encode_message,
)

from .cluster import (
    BOB,
    CAROL,
    DAVE,
    EVE,
    ME,
    START_COUNT,
    World,
    address_of,
    alive,
    changes,
    messages_of,
    sent,
)

ALL = (BOB, CAROL, DAVE, EVE)


def first_ping(world: World) -> tuple[object, Ping]:
    """Wait for the next probe of ours."""
    while True:
        pings = messages_of(world.wait(10), Ping)
        if pings:
            return pings[-1]


def test_each_period_one_member_is_pinged_and_an_ack_settles_it() -> None:
    """SWIM 3.1: at each period Mi selects a member and sends it a ping; waits for ack."""
    world = World(*ALL)
    target, ping = first_ping(world)
    world.say(target, Ack(ping.probe))
    effects = world.wait(400)
    assert not messages_of(effects, PingRequest)
    assert changes(effects) == []


def test_without_an_ack_in_time_k_members_are_asked_to_ping_it() -> None:
    """SWIM 3.1: if not received within the timeout, k members get ping-req(Mj)."""
    world = World(*ALL)
    target, ping = first_ping(world)
    requests = messages_of(world.wait(300), PingRequest)
    assert len(requests) == 3
    assert len({to for to, _ in requests}) == 3
    for to, request in requests:
        assert to not in {target, ME}
        assert (request.probe, request.target) == (ping.probe, target)


def test_a_member_asked_by_ping_req_pings_and_forwards_the_ack() -> None:
    """SWIM 3.1: each of these pings Mj and forwards the ack from Mj back to Mi."""
    world = World(*ALL)
    effects = world.say(BOB, PingRequest(77, CAROL, address_of(CAROL)))
    ((to, ping),) = messages_of(effects, Ping)
    assert to == CAROL
    assert messages_of(world.say(CAROL, Ack(ping.probe)), Ack) == [(BOB, Ack(77))]


def test_an_ack_by_a_relay_settles_the_probe() -> None:
    """SWIM 3.1: directly from Mj or indirectly through one of the k members."""
    world = World(*ALL)
    target, ping = first_ping(world)
    ((relay, _), *_) = messages_of(world.wait(300), PingRequest)
    world.say(relay, Ack(ping.probe))
    effects = world.wait(250)
    assert (target, State.SUSPECT) not in changes(effects)


def test_probes_go_round_all_members_before_one_is_probed_again() -> None:
    """SWIM 4.3: round robin, so that a failure is found within 2 n - 1 periods."""
    world = World(*ALL)
    targets = []
    for _ in range(12):
        target, ping = first_ping(world)
        world.say(target, Ack(ping.probe))
        targets.append(target)
    for start in range(0, 12, 4):
        assert set(targets[start : start + 4]) == set(ALL)
    orders = {tuple(targets[n : n + 4]) for n in (0, 4, 8)}
    assert len(orders) > 1  # Shuffled anew.


def test_a_new_member_is_put_into_the_round_at_random() -> None:
    """SWIM 4.3: inserted at a position chosen uniformly at random."""
    world = World(BOB, CAROL, DAVE)
    target, ping = first_ping(world)
    world.say(target, Ack(ping.probe))
    world.say(BOB, alive(EVE))
    seen = []
    for _ in range(3):
        target, ping = first_ping(world)
        world.say(target, Ack(ping.probe))
        seen.append(target)
    assert EVE in seen


def test_a_member_without_any_ack_is_suspected_and_the_suspicion_told() -> None:
    """SWIM 4.2: instead of failed it is marked as suspected, and others are told."""
    world = World(*ALL)
    target, _ = first_ping(world)
    effects = world.wait(1_100)
    assert (target, State.SUSPECT) in changes(effects)
    assert any(m.node == target for _, m in messages_of(effects, Suspect))


def test_a_suspect_that_says_nothing_is_declared_dead_after_the_timeout() -> None:
    """SWIM 4.2: if not refuted within a prespecified time it is declared faulty."""
    world = World(BOB, CAROL)
    world.say(CAROL, Suspect(BOB, 5, CAROL))
    assert (BOB, State.DEAD) not in changes(world.wait(2_990))
    assert (BOB, State.DEAD) in changes(world.wait(20))
    assert any(m.node == BOB for _, m in messages_of(world.wait(400), Dead))


def test_a_suspected_node_refutes_by_a_higher_incarnation() -> None:
    """SWIM 4.2: incarnation numbers; only Mi itself may increment its own."""
    world = World(*ALL)
    mine = world.incarnation
    effects = world.say(BOB, Suspect(ME, mine, BOB))
    assert effects == [Refuted(State.SUSPECT, mine + 1)]
    told = [m for _, m in messages_of(world.wait(400), Alive) if m.node == ME]
    assert told
    assert {m.incarnation for m in told} == {mine + 1}
    assert world.say(BOB, Suspect(ME, mine, CAROL)) == []  # Overridden already.


def test_an_alive_of_a_higher_incarnation_ends_the_suspicion() -> None:
    """SWIM 4.2: alive with a higher incarnation overrides suspect."""
    world = World(BOB, CAROL)
    world.say(CAROL, Suspect(BOB, 5, CAROL))
    world.say(CAROL, alive(BOB, 5))
    assert world.state_of(BOB) is State.SUSPECT
    world.say(CAROL, alive(BOB, 6))
    assert world.state_of(BOB) is State.ALIVE
    assert (BOB, State.DEAD) not in changes(world.wait(400))


def test_news_is_piggybacked_a_bounded_number_of_times_least_told_first() -> None:
    """SWIM 4.1: at most lambda log n times; those gossiped fewer times are preferred."""
    world = World(*ALL)
    world.wait(2_000)
    world.say(BOB, Dead(EVE, 5, BOB))
    told: Counter[object] = Counter()
    for _ in range(30):
        for _, message in sent(world.say(BOB, Ping(1))):
            if isinstance(message, Dead) and message.node == EVE:
                told["dead"] += 1
    assert 0 < told["dead"] <= 12


def test_the_first_incarnation_overrides_a_former_life() -> None:
    """A start count in the high bits: a restarted node needs no refutation."""
    assert World().incarnation == START_COUNT << 20


# Lifeguard.


def test_unanswered_probes_make_probes_slower_and_acks_faster_again() -> None:
    """Lifeguard IV-A: LHA-Probe; interval and timeout times (LHM + 1)."""
    world = World(BOB, suspicion_multiplier=1000)
    times = []
    for _ in range(HEALTH_MAX + 4):
        first_ping(world)
        times.append(world.now_ms)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == [500 * min(n, HEALTH_MAX + 1) for n in range(1, len(pauses) + 1)]
    assert world.core.health == HEALTH_MAX
    world.wait(60_000, answering=[BOB])
    assert world.core.health == 0


def test_nacks_of_all_relays_show_that_we_are_well() -> None:
    """Lifeguard IV-A: a probe with missed nacks counts against us, one with nacks not."""
    for answered, expected in ((3, 0), (2, 1)):
        world = World(*ALL)
        _, ping = first_ping(world)
        requests = messages_of(world.wait(300), PingRequest)
        for to, _ in requests[:answered]:
            world.say(to, Nack(ping.probe))
        world.wait(210)
        assert world.core.health == expected


def test_a_relay_without_an_ack_says_nack_before_the_origin_gives_up() -> None:
    """Lifeguard IV-A: nack at 80 % of the timeout."""
    world = World(*ALL)
    world.say(BOB, PingRequest(77, CAROL, address_of(CAROL)))
    nacks = messages_of(world.wait(199), Nack)
    assert nacks == []
    assert messages_of(world.wait(1), Nack) == [(BOB, Nack(77))]


def test_to_have_to_refute_counts_against_us() -> None:
    """Lifeguard IV-A: refuting a suspicion about self raises the multiplier."""
    world = World(*ALL)
    world.say(BOB, Suspect(ME, world.incarnation, BOB))
    assert world.core.health == 1


def test_confirmations_by_others_shorten_the_suspicion() -> None:
    """Lifeguard IV-B: LHA-Suspicion."""
    for accusers, expected_ms in (((), 18_000), ((DAVE,), 8_536), ((DAVE, EVE), 3_000)):
        world = World(*ALL, probe_interval_ms=500)
        world.say(CAROL, Suspect(BOB, 5, CAROL))
        began = world.now_ms
        for accuser in accusers:
            world.say(accuser, Suspect(BOB, 5, accuser))
        assert world.core._suspicions[BOB].expires_ms - began == expected_ms


def test_a_confirmation_is_told_on() -> None:
    """Lifeguard IV-B: the first K independent suspicions are re-gossiped."""
    world = World(*ALL)
    world.say(CAROL, Suspect(BOB, 5, CAROL))
    world.wait(600)
    world.say(CAROL, Suspect(BOB, 5, DAVE))
    assert any(m.accuser == DAVE for _, m in messages_of(world.wait(400), Suspect))


def test_a_suspect_is_told_with_the_ping_that_probes_it() -> None:
    """Lifeguard IV-C: the buddy system."""
    world = World(BOB)
    world.say(BOB, Suspect(BOB, 5, BOB))
    effects = world.wait(600)
    messages = [message for to, message in sent(effects) if to == BOB]
    pinged = next(n for n, m in enumerate(messages) if isinstance(m, Ping))
    assert messages[pinged + 1] == Suspect(BOB, 5, ME)
    assert len(encode_message(messages[pinged + 1])) < 40
