"""Damage that was found, on its way to the shard that owns the chunk.

A read that meets a bad checksum (or a fragment that should be there and is not) puts what
it found here, and so does this node's own store, for what it met while it compacted; a
worker records it as missing by ChangeDisplaced, which makes the chunk below promise and so
the business of `repair.mend`.  What is lost in a crash, or refused for good, is found
again by the next read.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs
import structlog
import trio

from objstore.chunks.fragment import FragmentHeader
from objstore.ec.scheme import Scheme
from objstore.errors import ObjstoreError, Unavailable
from objstore.ids import ChunkId, FragmentId, NodeId, ShardId
from objstore.limits import DAMAGE_REPORTS_MAX
from objstore.meta.client import MetaClient
from objstore.meta.commands import ChangeDisplaced
from objstore.meta.errors import NoSuchKey
from objstore.meta.values import ChunkPlace, ChunkRef
from objstore.meta.view import NotFounded
from objstore.objects.gather import FragmentDamage
from objstore.repair.plan import AT_HOME
from objstore.repair.worker import FATAL

log = structlog.get_logger()

_PAUSE_S = 1.0
# A store tells of damage at once and the read that met it at its end: by then it may be
# recorded and mended, and the new copy must not be called missing.
_KNOWN_S = 5.0
_TIMEOUT_MS = 10_000


@attrs.define
class DamageQueue:
    """Damage waiting to be recorded; bounded, the newest is dropped when full."""

    meta: MetaClient
    # With what is said of its place: the store's word of that may be wrong, a read's not.
    _found: OrderedDict[tuple[ChunkId, int, NodeId, bool], FragmentDamage] = attrs.Factory(
        OrderedDict
    )
    _arrived: trio.Event = attrs.Factory(trio.Event)
    # What was recorded lately, and when, in trio time; the oldest first.
    _recorded: OrderedDict[tuple[ChunkId, int, NodeId, bool], float] = attrs.Factory(
        OrderedDict
    )

    def __len__(self) -> int:
        return len(self._found)

    def report(self, damage: FragmentDamage) -> None:
        """Take what a read found, unless it is here already.  Never waits."""
        key = (damage.ref.chunk, damage.index, damage.node, damage.is_at_home)
        if key in self._found or self._is_recorded(key):
            return
        fragment = f"{damage.ref.chunk.hex()}.{damage.index}"
        log.warning(
            "repair.damage_found", fragment=fragment, peer=damage.node, reason=damage.reason
        )
        if damage.owner is None:
            reason = "no good fragment says whose the chunk is"
        elif len(self._found) >= DAMAGE_REPORTS_MAX:
            reason = f"{DAMAGE_REPORTS_MAX} reports are waiting"
        else:
            self._found[key] = damage
            self._arrived.set()
            return
        log.warning("repair.damage_dropped", fragment=fragment, reason=reason)

    def _is_recorded(self, key: tuple[ChunkId, int, NodeId, bool]) -> bool:
        recorded, long_ago = self._recorded, trio.current_time() - _KNOWN_S
        while recorded and next(iter(recorded.values())) < long_ago:
            recorded.popitem(last=False)
        return key in recorded

    def report_own(
        self, node: NodeId, fragment: FragmentId, header: FragmentHeader | None
    ) -> None:
        """Take what the store of `node`, this one, found.  Never waits.

        A header does not say which epoch's ring brought the fragment here: the newest one
        is asked.  Where that is wrong the row says otherwise, and nothing is recorded.
        """
        try:
            ring = self.meta.view.ring
        except NotFounded:
            ring = None
        if header is None or ring is None:
            reason = "nobody says whose the fragment is" if ring else "no ring is known yet"
            log.warning("repair.damage_dropped", fragment=str(fragment), reason=reason)
            return
        owners = ring.owners(fragment.chunk, Scheme.parse(header.scheme).width)
        self.report(
            FragmentDamage(
                ref=ChunkRef(fragment.chunk, header.payload_size, ring.epoch),
                index=fragment.index,
                node=node,
                reason="corrupt",
                is_at_home=owners[fragment.index] == node,
                owner=header.owner,
            )
        )

    async def run(self) -> None:
        """Record what comes, until cancelled.

        Reads come after the cluster's state was seen, so every slot's shard is known.
        """
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            await self._record_all()
            if self._found:
                await trio.sleep(_PAUSE_S)
                self._arrived.set()

    async def _record_all(self) -> None:
        """Go through what is here once; a shard that is silent is asked only once."""
        silent: set[ShardId] = set()
        for key, damage in list(self._found.items()):
            assert damage.owner is not None
            shard = self.meta.view.shard_of(damage.owner.slot)
            if shard in silent:
                continue
            fragment = f"{damage.ref.chunk.hex()}.{damage.index}"
            said = log.bind(fragment=fragment, peer=damage.node, shard=shard)
            try:
                if await self._record(damage):
                    self._recorded[key] = trio.current_time()
                    self._recorded.move_to_end(key)
                    said.warning("repair.damage_recorded", reason=damage.reason)
                    if len(self._recorded) > DAMAGE_REPORTS_MAX:
                        self._recorded.popitem(last=False)
            except FATAL:
                raise
            except Unavailable as error:
                silent.add(shard)
                said.warning("repair.damage_not_recorded", reason=str(error))
                continue
            except ObjstoreError as error:  # It would be refused again and again.
                said.warning("repair.damage_dropped", reason=str(error))
            del self._found[key]

    async def _record(self, damage: FragmentDamage) -> bool:
        """False where nothing refers to the chunk any more."""
        owner = damage.owner
        assert owner is not None
        found = AT_HOME if damage.is_at_home else damage.node
        place = ChunkPlace(owner.bucket, owner.key, damage.ref.chunk, upload=owner.upload)
        command = ChangeDisplaced(owner.slot, place, ((damage.index, found, None),))
        try:
            await self.meta.propose(command, timeout_ms=_TIMEOUT_MS)
        except NoSuchKey:
            return False
        return True
