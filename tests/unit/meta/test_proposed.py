"""Commands that were decoded to be checked: applied as they are, found by their entry."""

from __future__ import annotations

import gc

from objstore.ids import Key
from objstore.meta import commands as c
from objstore.meta import proposed
from objstore.meta.proposed import Proposed
from tests.unit.meta.builders import REF, SLOT


def command(number: int) -> c.DeleteVersion:
    return c.DeleteVersion(SLOT, REF, Key(b"%d" % number))


def test_a_command_is_taken_once_and_by_its_own_entry_only() -> None:
    kept, data = Proposed(), bytes(range(9))
    assert kept.take(data) is None
    kept.keep(data, command(1))
    assert kept.take(bytes(bytearray(data))) is None
    assert kept.take(data) == command(1)
    assert kept.take(data) is None


def test_no_other_entry_is_taken_for_one_whose_proposer_forgot_it() -> None:
    kept = Proposed()
    for number in range(100):
        kept.keep(bytes(bytearray(1000)), command(number))  # Nobody else holds it.
    gc.collect()
    assert all(kept.take(bytes(bytearray(1000))) is None for _ in range(1000))


def test_what_came_to_nothing_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(proposed, "_SIZE_MAX", 10_000)
    kept, entries = Proposed(), [bytes(bytearray(1000)) for _ in range(1000)]
    for number, data in enumerate(entries):
        kept.keep(data, command(number))
        assert kept.take(data) == command(number)
        kept.keep(data, command(number))
    left = [data for data in entries if kept.take(data) is not None]
    assert entries[-1] in left
    assert len(left) <= 10
    too_large = bytes(20_000)
    kept.keep(too_large, command(0))
    assert kept.take(too_large) == command(0)
