"""Majorities against counting them out."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from objstore.ids import NodeId
from objstore.raft.quorum import Verdict, agreed, is_quorum, verdict
from objstore.raft.state_machine import Membership

NODES = [NodeId(f"{n:016x}") for n in range(7)]
voter_sets = st.lists(st.sampled_from(NODES), unique=True, min_size=1, max_size=7).map(
    lambda nodes: tuple(sorted(nodes))
)
memberships = st.builds(Membership, voter_sets, st.one_of(st.just(()), voter_sets))


def majority(voters: tuple[NodeId, ...], nodes: set[NodeId]) -> bool:
    return 2 * len(nodes & set(voters)) > len(voters)


def counts(membership: Membership, nodes: set[NodeId]) -> bool:
    both = majority(membership.voters, nodes)
    return both and (not membership.outgoing or majority(membership.outgoing, nodes))


@given(memberships, st.sets(st.sampled_from(NODES)))
def test_a_quorum_is_a_majority_of_each_set(
    membership: Membership, nodes: set[NodeId]
) -> None:
    assert is_quorum(membership, nodes) == counts(membership, nodes)


@given(memberships, st.dictionaries(st.sampled_from(NODES), st.integers(0, 9)))
def test_agreed_is_the_highest_that_a_quorum_has_reached(
    membership: Membership, reached: dict[NodeId, int]
) -> None:
    expected = max(
        n
        for n in range(10)
        if n == 0 or counts(membership, {node for node, got in reached.items() if got >= n})
    )
    assert agreed(membership, reached) == expected


@given(memberships, st.dictionaries(st.sampled_from(NODES), st.booleans()))
def test_a_verdict_is_final_once_it_is_given(
    membership: Membership, votes: dict[NodeId, bool]
) -> None:
    result = verdict(membership, votes)
    missing = [node for node in NODES if node not in votes]
    ends = set()
    for size in range(len(missing) + 1):
        for granted in combinations(missing, size):
            rest = {node: node in granted for node in missing}
            ends.add(verdict(membership, votes | rest))
    if result is Verdict.PENDING:
        assert ends == {Verdict.WON, Verdict.LOST}
    else:
        assert ends == {result}


@given(memberships)
def test_two_quorums_always_share_a_node(membership: Membership) -> None:
    everybody = sorted({*membership.voters, *membership.outgoing})
    quorums = [
        set(nodes)
        for size in range(len(everybody) + 1)
        for nodes in combinations(everybody, size)
        if is_quorum(membership, nodes)
    ]
    smallest = sorted(quorums, key=len)[:40]
    assert all(one & other for one in smallest for other in smallest)


def test_nobody_is_no_quorum() -> None:
    assert not is_quorum(Membership(()), NODES)
    assert agreed(Membership(()), dict.fromkeys(NODES, 5)) == 0
