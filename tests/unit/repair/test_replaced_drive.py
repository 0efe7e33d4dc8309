"""A drive that was replaced: what was on it is missed by reads, and made again."""

from __future__ import annotations

import pytest

from objstore.chunks.fragment import DriveFenced, NoSuchFragment
from objstore.chunks.identity import ACCEPT_EMPTY
from objstore.testing.host import SimulatedWorld
from tests.unit.chunks.stores import Node, content, fragment_id, get, put

PATHS = ("/v/1", "/v/2")


async def test_fragments_of_a_replaced_drive_are_gone_and_not_merely_out_of_reach() -> None:
    """F26"""
    node = Node(SimulatedWorld(1), drives=PATHS)
    async with node.running() as store:
        for number in range(8):
            await put(store, number, content(number, 1000))
        lost = [
            number
            for number in range(8)
            if store.index.get(fragment_id(number)).drive == _drive(store, PATHS[0])  # type: ignore[union-attr]
        ]
    assert 0 < len(lost) < 8
    directory = node.host.disks.directory(PATHS[0])
    for name in directory.names():
        directory.remove(name)
    async with node.running() as store:  # Refused: perhaps it is not mounted.
        with pytest.raises(DriveFenced):
            await get(store, lost[0])
    directory.open(ACCEPT_EMPTY, create=True).close()
    async with node.running() as store:
        for number in range(8):
            if number in lost:
                with pytest.raises(NoSuchFragment):
                    await get(store, number)
                assert store.index.get(fragment_id(number)) is None
            else:
                assert await get(store, number) == content(number, 1000)
        await put(store, lost[0], content(lost[0], 1000))
        assert await get(store, lost[0]) == content(lost[0], 1000)


def _drive(store, path: str) -> str:
    return next(d.id for d in store.drives.values() if d.directory.path == path)
