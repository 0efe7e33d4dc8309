"""A host: the whole outside world of one node, in one value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from objstore.host.clock import Clock
from objstore.host.disk import Directory
from objstore.host.entropy import Entropy
from objstore.host.kv import KeyValueStore
from objstore.host.network import Network
from objstore.host.pki import Pki
from objstore.host.threads import Threads


class Disks(Protocol):
    """Opens folders and stores by path."""

    def directory(self, path: str, *, create: bool = False) -> Directory:
        """The folder at `path`; with `create` made, durably, with all above it.

        Raises FileNotFoundError, NotADirectoryError, PermissionError.
        """
        ...

    def key_value_store(self, directory: Directory, name: str) -> KeyValueStore:
        """Open (or make, durably) the store in sub-folder `name`.

        Raises CorruptData, BlockingIOError where another process has it open, OSError.
        """
        ...


@attrs.frozen
class Host:
    """Everything a node may touch."""

    clock: Clock
    disks: Disks
    entropy: Entropy
    network: Network
    pki: Pki
    threads: Threads
    pid: int = 0  # Of the process, to show people.
    descriptors_max: int = 65_536  # Files and sockets that may be open at once.
    # Gives free memory back to the machine; blocks for some milliseconds.
    give_back_memory: Callable[[], None] = lambda: None
