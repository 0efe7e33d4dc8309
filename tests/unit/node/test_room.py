"""Which nodes have room for metadata, and what follows for a shard (F09)."""

from __future__ import annotations

import pytest

from objstore.ids import NodeId
from objstore.node.room import RESERVE, Room
from objstore.testing.boot import Boot
from objstore.testing.disk import SimulatedDisk, SimulatedDisks
from objstore.units import MiB

A, B, C, D, E = (NodeId(letter * 16) for letter in "abcde")


def room_of(disk: SimulatedDisk, *, dead: set[NodeId] = set()) -> Room:
    folder = SimulatedDisks(disk, Boot("host")).directory("/data", create=True)
    return Room(A, folder, lambda: None, lambda node: node not in dead)


def test_a_folder_is_full_at_its_reserve_and_brimful_at_a_quarter_of_it() -> None:
    capacity = 10 * RESERVE  # No smaller, or the reserve is a tenth of it.
    disk = SimulatedDisk(capacity=capacity)
    room = room_of(disk)
    file = room.directory.open("ballast", create=True)
    for free, full, brimful in (
        (RESERVE + MiB, False, False),
        (RESERVE - MiB, True, False),
        (RESERVE // 4 - MiB, True, True),
        (RESERVE // 4 + MiB, True, False),
        (RESERVE + MiB, True, False),  # Not to and fro with every file.
        (RESERVE * 2, False, False),
    ):
        file.truncate(0)
        file.allocate(capacity - free)
        room._look()
        assert (room.is_full, room.is_brimful) == (full, brimful), free


@pytest.mark.parametrize(
    ("voters", "full", "dead", "is_short"),
    [
        ([A, B, C], [], [], False),
        ([A, B, C], [B], [], False),  # Two are enough.
        ([A, B, C], [B, C], [], True),
        ([A, B, C], [B], [C], True),  # One full, one away: nobody could take more.
        ([A, B, C], [], [B, C], False),  # No quorum is 503, not 507.
        ([A, B, C, D, E], [B, C], [], False),
        ([A, B, C, D, E], [B, C, D], [], True),
        ([A], [A], [], True),
        ([A, B, C], [D, E], [], False),  # Others' business.
    ],
)
def test_a_shard_takes_more_while_a_quorum_has_room(
    voters: list[NodeId], full: list[NodeId], dead: list[NodeId], is_short: bool
) -> None:
    room = room_of(SimulatedDisk(), dead=set(dead))
    room._full.update(full)
    assert room.is_short_of(voters) == is_short
