"""The merge rule: news in any order, told any number of times, gives one view."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from objstore.gossip.members import State
from objstore.gossip.messages import Dead, Left, Message, Suspect

from .cluster import BOB, CAROL, DAVE, World, alive

RANK = {State.ALIVE: 0, State.SUSPECT: 1, State.DEAD: 2, State.LEFT: 3}


def news(state: State, incarnation: int) -> Message:
    match state:
        case State.ALIVE:
            return alive(CAROL, incarnation)
        case State.SUSPECT:
            return Suspect(CAROL, incarnation, DAVE)
        case State.DEAD:
            return Dead(CAROL, incarnation, DAVE)
        case State.LEFT:
            return Left(CAROL, incarnation)


def test_of_two_pieces_of_news_the_later_incarnation_wins_then_the_worse_state() -> None:
    """SWIM, 4.2: the order of preference."""
    for (s1, i1), (s2, i2) in itertools.product(itertools.product(State, [5, 6]), repeat=2):
        world = World(BOB, DAVE)
        world.say(BOB, alive(CAROL, 4))
        world.say(BOB, news(s1, i1))
        world.say(BOB, news(s2, i2))
        worse = max([(i1, RANK[s1], s1), (i2, RANK[s2], s2)])
        assert world.state_of(CAROL) is worse[2], (s1, i1, s2, i2)
        assert world.core.members[CAROL].incarnation == worse[0]


@given(
    st.lists(st.tuples(st.sampled_from(State), st.integers(4, 7)), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_order_in_which_news_comes_makes_no_difference(
    pieces: list[tuple[State, int]], random: object
) -> None:
    views = []
    for _ in range(2):
        world = World(BOB, DAVE)
        world.say(BOB, alive(CAROL, 4))
        for state, incarnation in pieces:
            world.say(BOB, news(state, incarnation))
        member = world.core.members[CAROL]
        views.append((member.state, member.incarnation))
        random.shuffle(pieces)  # type: ignore[attr-defined]
    assert views[0] == views[1]


def test_news_of_the_dead_that_nobody_knew_is_no_news() -> None:
    world = World(BOB)
    for message in (Suspect(CAROL, 9, BOB), Dead(CAROL, 9, BOB), Left(CAROL, 9)):
        assert world.say(BOB, message) == []
    assert CAROL not in world.core.members


def test_meta_has_a_version_of_its_own_and_clears_no_suspicion() -> None:
    world = World(BOB, CAROL)
    world.say(BOB, Suspect(CAROL, 5, BOB))
    world.say(BOB, alive(CAROL, 5, meta={"free": 1}, meta_version=2))
    assert world.state_of(CAROL) is State.SUSPECT
    assert world.core.members[CAROL].meta == {"free": 1}
    world.say(BOB, alive(CAROL, 5, meta={"free": 9}, meta_version=1))
    assert world.core.members[CAROL].meta == {"free": 1}
    world.say(BOB, Dead(CAROL, 5, BOB))
    world.say(BOB, alive(CAROL, 5, meta={"free": 7}, meta_version=3))
    assert world.core.members[CAROL].meta == {"free": 1}
    world.say(BOB, alive(CAROL, 6, meta={"free": 7}, meta_version=0))
    assert world.state_of(CAROL) is State.ALIVE
    assert world.core.members[CAROL].meta == {"free": 7}
