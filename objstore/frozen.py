"""Values that are made for every request: frozen for mypy, plain while running.

`attrs.frozen` guards each value against assignment while the program runs, and pays for it
where the value is made: its own `__init__` has to go round the guard, three times as slow
(five fields: 0.75 us, not 0.23).  A request makes some sixty of them on its way through
the nodes, one part in twenty-five of what it costs.  That nobody assigns is found by
mypy, which takes `frozen` for `attrs.frozen`; what is equal and how it hashes is the same.

What is made seldom (configuration, layouts) stays with `attrs.frozen`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen
else:
    import attrs

    frozen = partial(attrs.define, unsafe_hash=True)

__all__ = ["frozen"]
