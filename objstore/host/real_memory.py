"""What the C library keeps of this process's memory, on glibc; elsewhere nothing is done.

    bound_arenas   threads share two heaps: one each keeps apart what others could use
    give_back      free pages inside the heaps go back to the kernel

After a burst half of a node's memory was free and resident all the same: freed blocks lay
between used ones, and only the end of a heap is given back by itself.
"""

from __future__ import annotations

import ctypes
from typing import Any

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h.
_ARENAS = 2


def bound_arenas() -> None:
    """Before threads are started."""
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Blocks for some milliseconds; releases the interpreter meanwhile."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
