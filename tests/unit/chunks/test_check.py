"""The offline check of a drive folder."""

from __future__ import annotations

import pytest

from objstore.chunks.check import DriveCheck, Problem, check_drive
from objstore.chunks.format import SEGMENT_HEADER_SIZE, extent_of
from objstore.testing.host import SimulatedWorld

from .stores import BLOCK, Node, content, fragment_id, header_of, put

SIZE = 2 * BLOCK + 7
EXTENT = extent_of(header_of(1, SIZE))


async def three() -> Node:
    node = Node(SimulatedWorld(1))
    async with node.running() as store:
        for n in range(3):
            await put(store, n, content(n, SIZE))
        await store.delete([fragment_id(0)])
    return node


def check(node: Node) -> tuple[DriveCheck, list[Problem]]:
    result = DriveCheck(None)
    folder = node.host.disks.directory("/data/chunks")
    return result, list(check_drive(folder, result))


async def test_sound_drive_is_sound_and_nothing_is_written() -> None:
    node = await three()
    writes = node.count("write")
    result, problems = check(node)
    assert problems == []
    assert result.is_sound
    assert (result.segments, result.live, result.live_size, result.dead) == (
        1,
        2,
        2 * SIZE,
        1,
    )
    assert result.identity is not None
    assert result.identity.node == "a" * 16
    assert writes._calls == 0


@pytest.mark.parametrize(
    ("offset", "counts"),
    [
        (30, (1, 0)),
        (EXTENT.payload_offset + BLOCK, (1, 1)),
        (EXTENT.table_offset, (1, 1)),
        (EXTENT.table_offset + EXTENT.tail_size - 1, (1, 1)),
    ],
    ids=["header", "payload", "table", "trailer"],
)
async def test_every_damaged_part_is_found(offset: int, counts: tuple[int, int]) -> None:
    """F06"""
    node = await three()
    place = SEGMENT_HEADER_SIZE + EXTENT.size
    node.disk.flip_bit(node.segments()[0], offset=place + offset)
    result, problems = check(node)
    assert not result.is_sound
    assert (result.live, result.damaged) == counts
    assert [problem.offset for problem in problems] == [place]
    if counts[1]:
        assert problems[0].fragment == fragment_id(1)
    else:
        assert result.junk_size > 0


async def test_folder_that_is_no_drive_is_said_to_be_none() -> None:
    node = Node(SimulatedWorld(1))
    node.host.disks.directory("/data/chunks", create=True)
    _, (problem,) = check(node)
    assert "not a drive folder" in problem.reason
