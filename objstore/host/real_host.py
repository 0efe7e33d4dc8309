"""The real host: this machine."""

from __future__ import annotations

import contextlib
import os
import resource

from objstore.host import real_memory
from objstore.host.clock import SystemClock
from objstore.host.entropy import SystemEntropy
from objstore.host.host import Host
from objstore.host.real_disk import RealDisks
from objstore.host.real_network import RealNetwork
from objstore.host.real_pki import RealPki
from objstore.host.real_threads import RealThreads

_DESCRIPTORS_WANTED = 65_536  # Every bound of ours on connections and files, many times.


def prefer_batches() -> None:
    """Ask not to interrupt others when something comes, on Linux; before threads start.

    A message wakes a node in the midst of its sender's pass, where both share a core: it
    then finds one message where there would have been two, in caches that are not its own.
    With SCHED_BATCH (sched(7)) it waits for the sender to wait, or for the end of that
    one's slice, a few milliseconds.  On a core of its own nothing changes.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # A container may forbid it.
            if os.sched_getscheduler(0) == os.SCHED_OTHER:  # Else its operator has chosen.
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


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
        descriptors_max=_raise_descriptors_max(),
        give_back_memory=real_memory.give_back,
    )


def _raise_descriptors_max() -> int:
    """Allow this process what it may allow itself; how many descriptors that is.

    The usual soft limit of 1024 is for programs that call select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_WANTED
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _DESCRIPTORS_WANTED if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
