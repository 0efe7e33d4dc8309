"""The memory of requests: what a command came to, by its request id, so it applies once.

    REQUEST   period u32, request id   the result, or the error

A period is REQUEST_ID_KEPT_MS of cluster time, counted from 1.  What was applied in this
period or in the last is known, so each id is for one period at least and two at most, and
whatever is older goes by range, with the first batch of a new period: no row says when
another expires, and nothing looks for what is due.

    asked for    last period, this one           every command
    dropped      all before the last             once a period, by the store

What is dropped follows from cluster time alone, as after any batch it is what lies before
the period of its last command: replicas that batch otherwise have the same rows (R12).
"""

from __future__ import annotations

import struct

from objstore.ids import Slot
from objstore.limits import REQUEST_ID_KEPT_MS
from objstore.meta.rows import RowView
from objstore.meta.schema import Table, table_prefix

_ROW = struct.Struct(">HBI16s")
_REQUEST = int(Table.REQUEST)  # A plain number: every command asks.
_PERIOD = struct.Struct(">I")


def period_of(time_ms: int) -> int:
    """The period of a cluster time."""
    return time_ms // REQUEST_ID_KEPT_MS + 1


def is_new_period(before_ms: int, time_ms: int) -> bool:
    return before_ms // REQUEST_ID_KEPT_MS != time_ms // REQUEST_ID_KEPT_MS


def find(
    rows: RowView, slot: Slot, time_ms: int, request: bytes
) -> tuple[bytes, bytes | None]:
    """(the row that a request of now is remembered by, what is known of it)."""
    period = period_of(time_ms)
    row_key = _ROW.pack(slot, _REQUEST, period, request)
    known = rows.get(row_key)
    if known is None:
        known = rows.get(_ROW.pack(slot, _REQUEST, period - 1, request))
    return row_key, known


def forgotten(slot: Slot, before_ms: int, time_ms: int) -> tuple[bytes, bytes]:
    """The rows that are there since `before_ms` and not asked for at `time_ms`.

    (first, end), from the first that can be there: a search from the table's start would
    walk through all that was dropped and that the store has not cleared away.
    """
    table = table_prefix(slot, Table.REQUEST)
    first, end = period_of(before_ms) - 1, period_of(time_ms) - 1
    return table + _PERIOD.pack(first), table + _PERIOD.pack(end)
