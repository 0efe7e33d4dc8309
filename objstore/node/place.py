"""This node's place in the layout: its addresses kept true there, its removal noticed.

    our addresses are others than the layout says  --> the next layout has them
    our leave was begun and nobody goes on with it --> we are a member as before
    the layout in force does not have this node    --> it is out, for good: the daemon ends

A node that is started with other addresses thereby tells all others, and clients that
ask for nodes.  One that was taken out while it was away, or missed the word, finds out
when it returns; that is believed only of a view that was confirmed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
import structlog
import trio

from objstore.admin.membership import Membership
from objstore.errors import NotFound, ObjstoreError
from objstore.host.clock import next_beat_s
from objstore.ids import NodeId
from objstore.meta.view import ClusterView
from objstore.ring.layout import Layout, with_address

log = structlog.get_logger()

_INTERVAL_S = 5.0  # Between looks, where the view tells of no change.
_LEAVE_MAX_S = 300.0  # One that is carried on takes two minutes at most.


@attrs.define(eq=False)
class Place:
    """Looks after one member of the layout: this node."""

    node: NodeId
    cluster_address: str
    s3_address: str
    view: ClusterView
    membership: Membership
    on_removed: Callable[[], None]
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _leaving_since: float | None = attrs.field(default=None, init=False)

    async def run(self) -> None:
        """Look after it, until cancelled."""
        self.view.subscribe(self._on_view_changed)
        while True:
            self._changed = trio.Event()
            try:
                if self.view.is_founded:
                    await self._look()
            except ObjstoreError as error:
                log.info("node.place_not_kept", reason=str(error))
            with trio.move_on_at(next_beat_s(_INTERVAL_S)):
                await self._changed.wait()

    def _on_view_changed(self) -> None:
        self._changed.set()

    async def _look(self) -> None:
        if self.view.layout.find(self.node) is None:
            await self.view.refresh()
            if self.view.layout.find(self.node) is None:
                self.on_removed()
            return
        await self._look_at_leave()
        before = self.view.layout
        if self._moved(before) is not before:
            layout = await self.membership.change_layout(self._moved)
            log.info(
                "node.address_changed",
                epoch=layout.epoch,
                cluster=self.cluster_address,
                s3=self.s3_address,
            )

    async def _look_at_leave(self) -> None:
        """Whoever was asked for it may have died: then it would go on for ever."""
        if self.view.layout.member(self.node).state != "draining":
            self._leaving_since = None
        elif self._leaving_since is None:
            self._leaving_since = trio.current_time()
        elif trio.current_time() - self._leaving_since >= _LEAVE_MAX_S:
            await self.membership.keep(self.node)
            log.warning("node.leave_given_up", epoch=self.view.epoch)

    def _moved(self, layout: Layout) -> Layout:
        """The layout with our addresses; the same one where it has them."""
        member = layout.find(self.node)
        if member is None:
            raise NotFound(f"node {self.node} is not in the layout")
        known = (member.cluster_address, member.s3_address)
        if known == (self.cluster_address, self.s3_address):
            return layout
        moved = partial(with_address, layout, self.node)
        return moved(cluster_address=self.cluster_address, s3_address=self.s3_address)
