"""One life of a simulated host, from its start to its crash.

Everything a host hands out belongs to a boot.  When the boot is over, tasks of the dead
process may still be unwinding; what they do then must not reach disk or network.
"""

from __future__ import annotations

import errno

import attrs


@attrs.define(eq=False)
class Boot:
    host: str
    alive: bool = True

    def check(self) -> None:
        """Raise OSError where the host has crashed since."""
        if not self.alive:
            raise OSError(errno.EIO, f"host {self.host} has crashed")
