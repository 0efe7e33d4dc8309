"""Suspicion: long while alone with it, short once others agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from objstore.gossip.suspicion import Suspicion, suspicion_min_ms
from objstore.ids import NodeId


def make(needed: int) -> Suspicion:
    return Suspicion(
        NodeId("a"), now_ms=1000, min_ms=3000, max_ms=18_000, confirmations_needed=needed
    )


@given(st.integers(0, 5), st.lists(st.sampled_from("abcdefgh")))
def test_confirmations_bring_the_end_nearer_down_to_the_least(
    needed: int, accusers: list[str]
) -> None:
    suspicion = make(needed)
    seen = {"a"}
    before = suspicion.expires_ms
    assert before == 1000 + (18_000 if needed else 3000)
    for accuser in accusers:
        is_new = accuser not in seen and len(seen) <= needed
        assert suspicion.confirm(NodeId(accuser)) == is_new
        if is_new:
            seen.add(accuser)
            assert suspicion.expires_ms < before
        before = suspicion.expires_ms
        assert before >= 4000
    if len(seen) > needed:
        assert before == 4000


def test_the_least_time_grows_with_the_logarithm_of_the_cluster() -> None:
    assert suspicion_min_ms(6, 1, 500) == 3000
    assert suspicion_min_ms(6, 10, 500) == 3000
    assert suspicion_min_ms(6, 100, 500) == 6000
    assert suspicion_min_ms(6, 1000, 500) == 9000
