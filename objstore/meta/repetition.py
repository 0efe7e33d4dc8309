"""The memory of requests: what a command came to, by its request id, so it applies once.

    REQUEST   period u32, request id   the result, or the error

A period is REQUEST_ID_KEPT_MS of cluster time, counted from 1.  What was applied in this
period or in the last is known, so each id is for one period at least and two at most, and
whatever is older goes by range, with the first batch of a new period: no row says when
another expires, and nothing looks for what is due.

    asked for    last period, this one           unless `Seen` knows it to be new
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
from objstore.units import KiB

_ROW = struct.Struct(">HBI16s")
_REQUEST = int(Table.REQUEST)  # A plain number: every command asks.
_PERIOD = struct.Struct(">I")
# Ten requests a second, of this shard alone, leave one in ten to be looked for in vain.
_PLACES = 128 * KiB


def period_of(time_ms: int) -> int:
    """The period of a cluster time."""
    return time_ms // REQUEST_ID_KEPT_MS + 1


def period_end_ms(time_ms: int) -> int:
    """When the period of a cluster time is over."""
    return period_of(time_ms) * REQUEST_ID_KEPT_MS


class Seen:
    """When a replica saw requests last: most are new, and need not be looked for.

    A byte for each place that an id's hash may be: the last period, modulo 256, in which
    a request of that place was applied.  So a new request may seem to be an old one, which
    costs two searches of the rows, but an old one never seems new: what is found depends
    on the rows alone, whatever is in here (R12).

    It is not kept, and begins anew with the process and with other rows.  Until it has
    seen a whole period, that is for 15 to 30 minutes, all are looked for.
    """

    __slots__ = ("_certain_from", "_periods")

    def __init__(self, time_ms: int) -> None:
        """time_ms: cluster time of the last command that was not seen."""
        self._certain_from = period_of(time_ms) + 2
        self._periods = bytearray()  # Made by the first request.

    def find(
        self, rows: RowView, slot: Slot, time_ms: int, request: bytes
    ) -> tuple[bytes, bytes | None]:
        """(the row that a request of now is remembered by, what is known of it).

        To be called in the order of the log; all that is remembered was asked for here.
        """
        period = time_ms // REQUEST_ID_KEPT_MS + 1
        periods = self._periods
        if not periods:
            periods = self._periods = bytearray(_PLACES)
        place = hash(request) % _PLACES
        age = period - periods[place] & 0xFF
        periods[place] = period & 0xFF
        row_key = _ROW.pack(slot, _REQUEST, period, request)
        if age > 1 and period >= self._certain_from:
            return row_key, None
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
