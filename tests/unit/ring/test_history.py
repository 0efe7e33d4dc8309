"""Epochs in force."""

from __future__ import annotations

import pytest

from objstore.errors import Conflict, NotFound
from objstore.ids import ChunkId, Epoch
from objstore.ring import layout as lay
from objstore.ring.history import EPOCHS_MAX, History
from objstore.ring.layout import found

from .clusters import member, members, node_id

CHUNK = ChunkId(b"0123456789abcdef")


def grown(count: int) -> History:
    history = History((found(members(3), partition_count=64, widths=(3,)),))
    for number in range(count):
        next_layout = lay.with_address(
            history.current, node_id(1), s3_address=f"a:{number}"
        )
        history = history.with_layout(next_layout)
    return history


def test_current_epoch_places_and_older_ones_can_be_asked() -> None:
    history = grown(2)
    assert history.ring.epoch == history.current.epoch == 3
    assert history.floor == 1
    assert [history.ring_at(Epoch(e)).epoch for e in (1, 2, 3)] == [1, 2, 3]


def test_epoch_that_is_retired_or_to_come_is_not_found() -> None:
    history = grown(3).retire_below(Epoch(3))
    assert history.floor == 3
    for epoch in (2, 5):
        with pytest.raises(NotFound):
            history.ring_at(Epoch(epoch))


def test_current_epoch_never_retires() -> None:
    assert grown(1).retire_below(Epoch(99)).current.epoch == 2


def test_epochs_follow_each_other() -> None:
    history = grown(1)
    for layout in (history.current, grown(5).current):
        with pytest.raises(Conflict):
            history.with_layout(layout)


def test_epochs_in_force_are_bounded() -> None:
    history = grown(EPOCHS_MAX - 1)
    with pytest.raises(Conflict):
        history.with_layout(lay.with_address(history.current, node_id(1), s3_address="b:1"))
    assert history.retire_below(Epoch(2)).with_layout(
        lay.with_address(history.current, node_id(1), s3_address="b:1")
    )


def test_holders_are_those_of_every_epoch_new_first() -> None:
    history = grown(0)
    for number in range(4, 9):
        history = history.with_layout(lay.with_member(history.current, member(number)))
    holders = history.holders(CHUNK, 3)
    for layout in history.layouts:
        for place, node in enumerate(history.ring_at(layout.epoch).owners(CHUNK, 3)):
            assert node is not None
            assert (layout.epoch, place) in holders[node]
    assert next(iter(holders)) == history.ring.owners(CHUNK, 3)[0]
