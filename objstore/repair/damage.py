"""Damage that reads found, on its way to the shard that owns the chunk.

A read that meets a bad checksum (or a fragment that should be there and is not) puts a
report here; a worker records it as missing by ChangeDisplaced, which makes the chunk
below promise and so the business of `repair.mend`.  Reports are hints: what is lost in a
crash is found again by the next read.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs
import structlog
import trio

from objstore.chunks.fragment import FragmentOwner
from objstore.errors import NotFound, ObjstoreError
from objstore.ids import FragmentId, NodeId
from objstore.limits import DAMAGE_REPORTS_MAX
from objstore.meta.client import MetaClient
from objstore.meta.commands import ChangeDisplaced
from objstore.meta.values import ChunkPlace
from objstore.repair.plan import AT_HOME

log = structlog.get_logger()

_PAUSE_S = 1.0
_TIMEOUT_MS = 10_000


@attrs.frozen
class DamageReport:
    """One fragment that `node` should have, and has not in good order."""

    fragment: FragmentId
    node: NodeId
    owner: FragmentOwner
    is_at_home: bool  # Whether `node` is the fragment's owner by its epoch's ring.


@attrs.define
class DamageQueue:
    """Reports waiting to be recorded; bounded, the newest are dropped when full."""

    meta: MetaClient
    _reports: OrderedDict[tuple[FragmentId, NodeId], DamageReport] = attrs.Factory(
        OrderedDict
    )
    _arrived: trio.Event = attrs.Factory(trio.Event)

    def __len__(self) -> int:
        return len(self._reports)

    def report(self, damage: DamageReport) -> None:
        """Take a report, unless it is here already.  Never waits."""
        if len(self._reports) >= DAMAGE_REPORTS_MAX:
            log.warning("repair.damage_dropped", fragment=str(damage.fragment))
            return
        self._reports.setdefault((damage.fragment, damage.node), damage)
        self._arrived.set()

    async def run(self) -> None:
        """Record reports, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            for key, damage in list(self._reports.items()):
                if await self._record(damage):
                    del self._reports[key]
            if self._reports:
                await trio.sleep(_PAUSE_S)
                self._arrived.set()

    async def _record(self, damage: DamageReport) -> bool:
        """Whether the report is done with."""
        owner = damage.owner
        found = AT_HOME if damage.is_at_home else damage.node
        command = ChangeDisplaced(
            owner.slot,
            ChunkPlace(owner.bucket, owner.key, damage.fragment.chunk, upload=owner.upload),
            ((damage.fragment.index, found, None),),
        )
        try:
            await self.meta.propose(command, timeout_ms=_TIMEOUT_MS)
        except NotFound:
            return True  # Nothing refers to the chunk any more.
        except ObjstoreError as error:
            log.warning(
                "repair.damage_not_recorded",
                fragment=str(damage.fragment),
                reason=str(error),
            )
            return False
        log.warning(
            "repair.damage_recorded", fragment=str(damage.fragment), peer=damage.node
        )
        return True
