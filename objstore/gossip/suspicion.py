"""When suspicion becomes death: Lifeguard's dynamic suspicion timeout.

    timeout = max - (max - min) * log(C + 1) / log(K + 1), at least min

C is how many others have confirmed, K how many confirmations bring it down to `min`.  A
node that hears of no confirmation is perhaps itself the one that is cut off or slow: it
waits the longest before it declares anybody dead.

(Dadgar, Phillips, Currey 2018, "Lifeguard: Local Health Awareness for More Accurate
Failure Detection", IV-B)
"""

from __future__ import annotations

import math

from objstore.ids import NodeId


class Suspicion:
    """One suspected member."""

    def __init__(
        self,
        accuser: NodeId,
        *,
        now_ms: int,
        min_ms: int,
        max_ms: int,
        confirmations_needed: int,
    ) -> None:
        assert min_ms <= max_ms
        self._began_ms = now_ms
        self._min_ms = min_ms
        self._max_ms = max_ms if confirmations_needed > 0 else min_ms
        self._needed = confirmations_needed
        self._accusers = {accuser}

    @property
    def expires_ms(self) -> int:
        """When the member is dead unless it refutes."""
        if self._needed <= 0:
            return self._began_ms + self._min_ms
        confirmations = len(self._accusers) - 1
        done = math.log(confirmations + 1) / math.log(self._needed + 1)
        timeout_ms = self._max_ms - (self._max_ms - self._min_ms) * done
        return self._began_ms + max(self._min_ms, round(timeout_ms))

    def confirm(self, accuser: NodeId) -> bool:
        """Count an accuser; False if it was one before, or enough have confirmed."""
        if accuser in self._accusers or len(self._accusers) > self._needed:
            return False
        self._accusers.add(accuser)
        return True


def suspicion_min_ms(multiplier: int, members: int, probe_interval_ms: int) -> int:
    """Grows with log N, as news needs so many rounds to reach everybody (SWIM, 4.2)."""
    scale = max(1.0, math.log10(max(1, members)))
    return round(multiplier * scale * probe_interval_ms)
