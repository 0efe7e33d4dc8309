"""The core beyond the papers: identity, replays, amplification, the dead, leaving."""

from __future__ import annotations

import itertools

import attrs

from objstore.gossip.core import IdentityConflict, OnlyByStream, Send, StartExchange
from objstore.gossip.members import State, first_incarnation
from objstore.gossip.messages import (
    Ack,
    Alive,
    Dead,
    Left,
    Ping,
    PingRequest,
    Suspect,
    encode_exchange,
    encode_probe,
)
from objstore.host.network import Address

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
    exchanges,
    messages_of,
)

ELSEWHERE = Address("elsewhere", 7000)


def clone(start_count: int, boot_id: bytes = b"other boot") -> Alive:
    incarnation = first_incarnation(start_count)
    return alive(ME, incarnation, boot_id=boot_id, address=ELSEWHERE)


def test_another_process_under_our_id_is_a_conflict() -> None:
    """F29: a cloned disk, started as often as we were or more."""
    for start_count in (START_COUNT, START_COUNT + 1):
        world = World(BOB)
        effects = world.say(BOB, clone(start_count))
        assert effects == [IdentityConflict(ELSEWHERE, b"other boot")]


def test_our_own_former_life_and_our_own_echo_are_none() -> None:
    """F29."""
    world = World(BOB)
    assert world.say(BOB, clone(START_COUNT - 1)) == []
    assert world.say(BOB, clone(START_COUNT, b"my boot")) == []


def test_a_conflict_is_seen_in_an_exchange_too() -> None:
    """F29: even if the others think that the clone is dead."""
    for state in (State.ALIVE, State.SUSPECT, State.DEAD):
        other = World(BOB)
        other.say(BOB, alive(CAROL, first_incarnation(START_COUNT)))
        if state is State.DEAD:
            other.say(BOB, Dead(CAROL, first_incarnation(START_COUNT), BOB))
        world = World(BOB)
        member = other.core.members[CAROL]
        member = attrs.evolve(member, node=ME, state=state, address=ELSEWHERE)
        data = encode_exchange(BOB, [member], 0)
        _, effects = world.core.on_exchange(data, world.now_ms)
        assert IdentityConflict(ELSEWHERE, member.boot_id) in effects


def test_what_a_rumour_of_our_life_made_of_our_former_one_is_no_conflict() -> None:
    """F29: a peer that knew our former process, and heard this one suspected, dead or gone.

    It says so in an exchange before it has heard anything else of this one.
    """
    life = first_incarnation(START_COUNT)
    for rumour in (Suspect(CAROL, life, BOB), Dead(CAROL, life, BOB), Left(CAROL, life)):
        other = World(BOB)
        other.say(BOB, alive(CAROL, first_incarnation(START_COUNT - 1)))
        other.say(BOB, rumour)
        member = other.core.members[CAROL]
        world = World(BOB)
        data = encode_exchange(BOB, [attrs.evolve(member, node=ME)], 0)
        _, effects = world.core.on_exchange(data, world.now_ms)
        assert not any(isinstance(effect, IdentityConflict) for effect in effects)
        assert world.incarnation == life + 1  # Refuted.
        # And its own word replaces all that.
        assert other.say(BOB, alive(CAROL, life + 1, boot_id=b"this boot"))
        assert other.core.members[CAROL].boot_id == b"this boot"


def test_a_probe_of_a_former_life_accuses_nobody() -> None:
    world = World(BOB)
    while not messages_of(world.effects, Ping):
        world.effects += world.wait(100)
    world.say(BOB, alive(BOB, first_incarnation(9)))
    world.wait(world.timing.probe_interval_ms)
    assert world.core.members[BOB].state is State.ALIVE
    world.wait(3 * world.timing.probe_interval_ms)  # Of this one: longer, as we may be ill.
    assert world.core.members[BOB].state is State.SUSPECT


def test_a_packet_seen_once_is_dropped_the_second_time() -> None:
    """F31."""
    world = World(BOB)
    data = world.packet(BOB, Ping(1))
    assert world.core.on_packet(data, address_of(BOB), world.now_ms)
    assert not world.core.on_packet(data, address_of(BOB), world.now_ms)
    assert world.core.dropped["replayed"] == 1


def test_forged_packets_get_no_answer() -> None:
    """F33."""
    world = World(BOB)
    for data in (b"", b"x" * 100, world.packet(BOB, Ping(1))[:-1]):
        assert world.core.on_packet(data, address_of(BOB), world.now_ms) == []
    assert world.core.dropped["not_authentic"] == 3


def test_a_reply_is_at_most_three_times_its_request() -> None:
    """F33."""
    world = World(BOB)
    for number in range(20):
        node = type(BOB)(f"{number + 100:016x}")
        world.say(BOB, alive(node, meta={"m": "x" * 200}))
    for _ in range(10):
        request = world.packet(BOB, Ping(1))
        (reply,) = world.core.on_packet(request, address_of(BOB), world.now_ms)
        assert isinstance(reply, Send)
        assert len(reply.data) <= 3 * len(request)


def test_a_stranger_with_the_secret_is_answered_and_asked_who_is_there() -> None:
    """A restarted seed knows nobody, and its old friends go on pinging it."""
    world = World()
    effects = world.say(DAVE, Ping(1))
    assert messages_of(effects, Ack) == [(DAVE, Ack(1))]
    assert [start.target for start in exchanges(effects)] == [address_of(DAVE)]
    assert exchanges(world.say(DAVE, Ping(2))) == []  # One is under way.


def test_relays_are_for_members_and_bounded() -> None:
    world = World(BOB, CAROL)
    assert (
        messages_of(world.say(DAVE, PingRequest(1, CAROL, address_of(CAROL))), Ping) == []
    )
    for number in range(300):
        world.say(BOB, PingRequest(number, CAROL, address_of(CAROL)))
    assert len(world.core._relays) == 256
    world.wait(6_000)
    assert len(world.core._relays) == 0


def test_a_dead_member_is_pinged_now_and_then_and_told_of_its_death() -> None:
    """F16, F18: so that it can come back."""
    world = World(BOB, CAROL)
    world.say(BOB, Dead(CAROL, 5, BOB))
    pings = messages_of(effects := world.wait(10_000, answering=[BOB]), Ping)
    assert 3 <= sum(to == CAROL for to, _ in pings) <= 8
    assert (CAROL, Dead(CAROL, 5, ME)) in messages_of(effects, Dead)
    effects = world.say(CAROL, alive(CAROL, 6))
    assert changes(effects) == [(CAROL, State.ALIVE)]
    assert [start.target for start in exchanges(effects)] == [CAROL]


def test_a_death_heard_of_in_an_exchange_is_only_a_suspicion() -> None:
    world = World(BOB, CAROL)
    other = World(BOB, CAROL)
    other.say(BOB, Dead(CAROL, 5, BOB))
    answer, effects = world.core.on_exchange(
        encode_exchange(BOB, [other.core.members[CAROL]], other.now_ms), world.now_ms
    )
    assert changes(effects) == [(CAROL, State.SUSPECT)]
    assert answer


def test_a_dead_member_unknown_here_is_learnt_unless_dead_for_long() -> None:
    for age_ms, learnt in ((1_000, True), (13 * 3_600_000, False)):
        other = World(BOB, CAROL)
        other.say(BOB, Dead(CAROL, 5, BOB))
        world = World(BOB)
        world.core.on_exchange(
            encode_exchange(BOB, [other.core.members[CAROL]], other.now_ms + age_ms),
            world.now_ms,
        )
        assert (CAROL in world.core.members) is learnt


def test_alone_the_seeds_are_asked_in_turn_with_growing_pauses() -> None:
    world = World()
    seeds = [Address(f"seed{n}", 7000) for n in range(3)]
    world.core.set_seeds([*seeds, address_of(ME)])
    asked = []
    times = []
    for _ in range(3_000):
        for start in exchanges(world.wait(20)):
            asked.append(start.target)
            times.append(world.now_ms)
            world.core.on_exchange_failed(start.number)
    assert asked[:6] == seeds * 2
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses[0] < 700
    assert all(pause < 9_700 for pause in pauses)
    assert len(asked) < 16


def test_an_answered_stream_probe_saves_a_member_whose_packets_are_lost() -> None:
    world = World(BOB)
    probe: StartExchange | None = None
    while probe is None:
        probe = next(iter(exchanges(world.wait(10))), None)
    assert probe.data == encode_probe(ME)
    assert 0 < probe.timeout_ms <= 250
    effects = world.core.on_exchanged(probe.number, encode_probe(BOB), world.now_ms)
    assert effects == [OnlyByStream(BOB)]
    assert world.core._probe is None


def test_an_exchange_under_anothers_name_is_refused() -> None:
    import pytest

    from objstore.errors import RemoteProtocolError

    world = World(BOB)
    with pytest.raises(RemoteProtocolError):
        world.core.on_exchange(encode_probe(CAROL), world.now_ms, peer=BOB)
    with pytest.raises(RemoteProtocolError):
        world.core.on_exchange(b"garbage", world.now_ms, peer=BOB)


def test_who_leaves_says_so_and_refutes_nothing_any_more() -> None:
    world = World(BOB, CAROL)
    world.core.leave(world.now_ms)
    assert not world.core.is_told
    told = messages_of(world.wait(2_000), Left)
    assert {message.node for _, message in told} == {ME}
    assert world.core.is_told
    assert world.say(BOB, Suspect(ME, world.incarnation, BOB)) == []
    assert world.state_of(ME) is State.LEFT
    assert world.core.next_tick_ms() > world.now_ms + 10**9


def test_meta_goes_out_at_most_so_often_and_only_when_it_changes() -> None:
    world = World(BOB)
    world.wait(3_000)
    versions = world.core.me.meta_version
    for number in range(10):
        world.core.update_meta({"free": number}, world.now_ms)
    assert world.core.me.meta == {"free": 0}
    world.wait(200)
    assert world.core.me.meta == {"free": 9}
    assert world.core.me.meta_version == versions + 2
    world.core.update_meta({"free": 9}, world.now_ms)
    world.wait(1_000)
    assert world.core.me.meta_version == versions + 2


def test_more_members_than_a_cluster_may_have_are_not_taken() -> None:
    """F32."""
    world = World(BOB)
    for number in range(5_000):
        world.say(BOB, alive(type(BOB)(f"{number + 100:016x}")))
    assert len(world.core.members) == 4_096
    assert world.core.dropped["too_many_members"] > 0


def test_a_restart_is_seen_by_its_boot_id() -> None:
    world = World(BOB, DAVE, EVE)
    (effect,) = world.say(DAVE, alive(BOB, 6, boot_id=b"second"))
    assert changes([effect]) == [(BOB, State.ALIVE)]
    assert world.core.members[BOB].boot_id == b"second"
