"""History: the epochs still in force.

    floor 4   5   6   7 current      chunks were placed by any of these; writers use 7

New chunks are placed by the current epoch.  A chunk stays where its manifest's epoch says
until it is moved, so older epochs are kept until nothing needs them; the *floor* is the
oldest one kept, and a commit of an epoch below it is refused.  When an epoch may retire
(every live node knows the next, no write intent of it lives, what it placed has moved) is
decided by others: here is only the order of things.
"""

from __future__ import annotations

from functools import cached_property

import attrs

from objstore.errors import Conflict, NotFound
from objstore.ids import ChunkId, Epoch, NodeId
from objstore.ring.layout import Layout
from objstore.ring.ring import Owners, Ring

# Each is some megabytes of memory in a large cluster; changes wait for retirements.
EPOCHS_MAX = 64


@attrs.frozen
class History:
    """The layouts in force, oldest first, their epochs without a gap."""

    layouts: tuple[Layout, ...]  # At least one.

    @cached_property
    def _rings(self) -> dict[Epoch, Ring]:
        return {layout.epoch: Ring(layout) for layout in self.layouts}

    @property
    def current(self) -> Layout:
        return self.layouts[-1]

    @property
    def ring(self) -> Ring:
        """The ring that places new chunks."""
        return self._rings[self.current.epoch]

    @property
    def floor(self) -> Epoch:
        return self.layouts[0].epoch

    def ring_at(self, epoch: Epoch) -> Ring:
        """The ring of `epoch`.  Raises NotFound for one retired or not known yet."""
        ring = self._rings.get(epoch)
        if ring is None:
            raise NotFound(
                f"epoch {epoch} is not in force: {self.floor} to {self.current.epoch} are"
            )
        return ring

    def with_layout(self, layout: Layout) -> History:
        """Take the next epoch in.  Raises Conflict if it is not next, or no more fit."""
        if layout.epoch != self.current.epoch + 1:
            raise Conflict(f"epoch {layout.epoch} does not follow {self.current.epoch}")
        if len(self.layouts) >= EPOCHS_MAX:
            raise Conflict(
                f"{EPOCHS_MAX} epochs are in force: the oldest, {self.floor}, must retire "
                "before the layout changes again"
            )
        return History((*self.layouts, layout))

    def retire_below(self, floor: Epoch) -> History:
        """Drop the epochs below `floor`; the current one always stays."""
        kept = tuple(layout for layout in self.layouts if layout.epoch >= floor)
        return History(kept or self.layouts[-1:])

    def holders(self, chunk: ChunkId, width: int) -> dict[NodeId, list[tuple[Epoch, int]]]:
        """Every node where some epoch in force puts a fragment: epoch and place, new first.

        Where a search for a chunk without a manifest at hand looks.
        """
        found: dict[NodeId, list[tuple[Epoch, int]]] = {}
        for layout in reversed(self.layouts):
            owners: Owners = self._rings[layout.epoch].owners(chunk, width)
            for place, node in enumerate(owners):
                if node is not None:
                    found.setdefault(node, []).append((layout.epoch, place))
        return found
