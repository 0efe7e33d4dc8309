"""File descriptors: shares for clients and peers, so that storage always has its own.

    storage | clients | peers that connect | links to peers, and all else

A connection is anybody's for the asking, a file is not: a store that cannot open its next
file stops the node (crash-only).  So connections are bounded by what the process may open,
below `http.connections_max` where that is little.
"""

from __future__ import annotations

import attrs

from objstore.chunks.driver import DESCRIPTORS_MAX as OF_A_DRIVE

_METADATA_FILES = 320  # The row store's tables, its logs, the write-ahead log's segments.
_OTHERS = 32  # Standard streams, the loop, listeners, folders.


@attrs.frozen
class Shares:
    """How many connections may be open at once."""

    clients: int
    peers: int  # Accepted on the cluster port.


def share(
    descriptors_max: int, *, drives: int, connections_max: int, links_max: int
) -> Shares:
    """Divide what the process may open; the others' asked bounds are never exceeded."""
    storage = _METADATA_FILES + drives * OF_A_DRIVE + _OTHERS
    # A small limit is mostly met by small stores, which need few files: half each.
    rest = max(descriptors_max - storage, descriptors_max // 2)
    return Shares(
        clients=max(1, min(connections_max, rest // 2)),
        peers=max(1, min(links_max, rest // 4)),
    )
