"""Commands that this node read to check them, kept until their entries are applied.

    ProposeCall --decoded, checked--> kept --> Raft --> the same entry --> taken, applied

A leader would decode a forwarded command twice otherwise.  What was kept is found by the
very bytes object that was proposed: so it is of these bytes beyond doubt, and what is
applied is what a decoder of this program made of them, as on every replica (R12).  An
entry that came from another node or from the log is another object, and is decoded.

Nobody says that a proposal came to nothing.  What such ones leave is bounded, and goes
with all the rest once there is too much.
"""

from __future__ import annotations

from objstore.meta.commands import Command
from objstore.units import MiB

_SIZE_MAX = 2 * MiB  # Of entries: some hundreds with bodies inline.  Commands are as much.


class Proposed:
    """Commands by the entries that hold them."""

    __slots__ = ("_commands", "_size")

    def __init__(self) -> None:
        # By the address of the entry's data, which is held: so nothing else has it.
        self._commands: dict[int, tuple[bytes, Command]] = {}
        self._size = 0

    def keep(self, data: bytes, command: Command) -> None:
        """Note what `data`, an entry that is proposed now, was decoded to."""
        if self._size + len(data) > _SIZE_MAX:
            self._commands.clear()
            self._size = 0
        self._commands[id(data)] = data, command
        self._size += len(data)

    def take(self, data: bytes) -> Command | None:
        """The command of an entry that is applied; None: decode it."""
        if not self._commands:
            return None
        kept = self._commands.pop(id(data), None)
        if kept is None:
            return None
        self._size -= len(data)
        return kept[1]
