"""The broadcast queue: bounded telling, least told first, latest news only."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from objstore.gossip.broadcast import BroadcastQueue, told_max
from objstore.ids import NodeId


def take(queue: BroadcastQueue, size_max: int = 1000, members: int = 10) -> list[bytes]:
    return queue.take(size_max, members=members, multiplier=4)


def test_news_goes_out_a_bounded_number_of_times() -> None:
    queue = BroadcastQueue()
    queue.put(NodeId("a"), b"news of a")
    times = 0
    while take(queue):
        times += 1
    assert times == told_max(10, 4) == 12
    assert len(queue) == 0
    assert told_max(3, 4) == 4
    assert told_max(1000, 4) == 16


def test_later_news_replaces_earlier() -> None:
    queue = BroadcastQueue()
    queue.put(NodeId("a"), b"old")
    queue.put(NodeId("a"), b"new")
    assert take(queue) == [b"new"]
    queue.drop(NodeId("a"))
    assert take(queue) == []
    assert NodeId("a") not in queue


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=40),
    st.lists(st.integers(0, 1400), min_size=1, max_size=60),
)
def test_packets_are_filled_with_what_was_told_least(
    sizes: list[int], rooms: list[int]
) -> None:
    queue = BroadcastQueue()
    for number, size in enumerate(sizes):
        queue.put(NodeId(str(number)), bytes([number]) * size)
    told: Counter[int] = Counter()
    for room in rooms:
        taken = take(queue, room)
        assert sum(map(len, taken)) <= room
        assert len({m[0] for m in taken}) == len(taken)
        for message in taken:
            told[message[0]] += 1
    assert all(count <= told_max(10, 4) for count in told.values())
    assert len(queue) == sum(told[n] < told_max(10, 4) for n in range(len(sizes)))
