"""Damage that reads found, on its way to the shard that owns the chunk.

A read that meets a bad checksum (or a fragment that should be there and is not) puts what
it found here; a worker records it as missing by ChangeDisplaced, which makes the chunk
below promise and so the business of `repair.mend`.  What is lost in a crash is found
again by the next read.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs
import structlog
import trio

from objstore.errors import NotFound, ObjstoreError
from objstore.ids import ChunkId, NodeId
from objstore.limits import DAMAGE_REPORTS_MAX
from objstore.meta.client import MetaClient
from objstore.meta.commands import ChangeDisplaced
from objstore.meta.values import ChunkPlace
from objstore.objects.gather import FragmentDamage
from objstore.repair.plan import AT_HOME

log = structlog.get_logger()

_PAUSE_S = 1.0
_TIMEOUT_MS = 10_000


@attrs.define
class DamageQueue:
    """Damage waiting to be recorded; bounded, the newest is dropped when full."""

    meta: MetaClient
    _found: OrderedDict[tuple[ChunkId, int, NodeId], FragmentDamage] = attrs.Factory(
        OrderedDict
    )
    _arrived: trio.Event = attrs.Factory(trio.Event)

    def __len__(self) -> int:
        return len(self._found)

    def report(self, damage: FragmentDamage) -> None:
        """Take what a read found, unless it is here already.  Never waits."""
        fragment = f"{damage.ref.chunk.hex()}.{damage.index}"
        log.warning(
            "repair.damage_found", fragment=fragment, peer=damage.node, reason=damage.reason
        )
        if damage.owner is None or len(self._found) >= DAMAGE_REPORTS_MAX:
            log.warning("repair.damage_dropped", fragment=fragment)
            return
        self._found.setdefault((damage.ref.chunk, damage.index, damage.node), damage)
        self._arrived.set()

    async def run(self) -> None:
        """Record what comes, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            for key, damage in list(self._found.items()):
                if await self._record(damage):
                    del self._found[key]
            if self._found:
                await trio.sleep(_PAUSE_S)
                self._arrived.set()

    async def _record(self, damage: FragmentDamage) -> bool:
        """Whether this is done with."""
        owner = damage.owner
        assert owner is not None
        chunk = damage.ref.chunk
        found = AT_HOME if damage.is_at_home else damage.node
        command = ChangeDisplaced(
            owner.slot,
            ChunkPlace(owner.bucket, owner.key, chunk, upload=owner.upload),
            ((damage.index, found, None),),
        )
        fragment = f"{chunk.hex()}.{damage.index}"
        try:
            await self.meta.propose(command, timeout_ms=_TIMEOUT_MS)
        except NotFound:
            return True  # Nothing refers to the chunk any more.
        except ObjstoreError as error:
            log.warning("repair.damage_not_recorded", fragment=fragment, reason=str(error))
            return False
        log.warning("repair.damage_recorded", fragment=fragment, peer=damage.node)
        return True
