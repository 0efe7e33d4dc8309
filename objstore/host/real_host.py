"""The real host: this machine."""

from __future__ import annotations

import os

from objstore.host.clock import SystemClock
from objstore.host.entropy import SystemEntropy
from objstore.host.host import Host
from objstore.host.real_disk import RealDisks
from objstore.host.real_network import RealNetwork
from objstore.host.real_pki import RealPki
from objstore.host.real_threads import RealThreads


def real_host() -> Host:
    """The host of a daemon that serves."""
    return Host(
        clock=SystemClock(),
        disks=RealDisks(),
        entropy=SystemEntropy(),
        network=RealNetwork(),
        pki=RealPki(),
        threads=RealThreads(),
        pid=os.getpid(),
    )
