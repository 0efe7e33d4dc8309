"""Bad weather between nodes: packets are lost, late, doubled and out of order (F19).

    node 1 [wet0] ---.
    node 2 [wet0] ---+--- this process: a switch of frames, with a policy
    node 3 [wet0] ---'

Run as `python -m tests.cluster.weather NAMESPACE ...`: makes a TAP device `wet0` in each
namespace and prints "ready".  Then each line of standard input is a new policy, as JSON:

    {"loss": 0.05, "delay_ms": 20, "double": 0.1}

A packet's delay is drawn from half to three halves of `delay_ms`, so they overtake each
other.  ARP is spared: what is tested is IP, TCP and UDP alike.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from contextlib import suppress

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_IPV4 = b"\x08\x00"
_FRAME_MAX = 65_536
DEVICE = "wet0"


def open_tap(namespace: str) -> int:
    """The descriptor of a new TAP device inside a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    ours = os.open("/proc/self/ns/net", os.O_RDONLY)
    theirs = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(theirs, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(
            tap, _TUNSETIFF, struct.pack("16sH", DEVICE.encode(), _TAP_WITHOUT_HEADER)
        )
    finally:
        libc.setns(ours, _CLONE_NEWNET)
        os.close(ours)
        os.close(theirs)
    return tap


class Switch:
    """Passes frames between TAP devices."""

    def __init__(self, taps: list[int]) -> None:
        self._taps = taps
        self._chance = random.Random(1)
        self._policy: dict[str, float] = {}
        self._places: dict[bytes, int] = {}  # Hardware address -> its TAP.
        self._late: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()

    def run(self) -> None:
        while True:
            due = self._late[0][0] - time.monotonic() if self._late else 1.0
            ready, _, _ = select.select([*self._taps, 0], [], [], max(0.0, min(due, 1.0)))
            if 0 in ready:
                line = sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]
                if not line:
                    return
                self._policy = json.loads(line)
            for tap in ready:
                if tap:
                    self._drain(tap)
            self._deliver()

    def _drain(self, tap: int) -> None:
        for _ in range(64):
            try:
                frame = os.read(tap, _FRAME_MAX)
            except BlockingIOError:
                return
            self._places[frame[6:12]] = tap
            target = self._places.get(frame[:6])
            targets = (
                [target] if target else [other for other in self._taps if other != tap]
            )
            for other in targets:
                self._pass(other, frame)

    def _pass(self, target: int, frame: bytes) -> None:
        policy = self._policy
        if frame[12:14] != _IPV4:
            self._queue(target, frame, 0.0)
            return
        if self._chance.random() < policy.get("loss", 0.0):
            return
        is_doubled = self._chance.random() < policy.get("double", 0.0)
        for _ in range(2 if is_doubled else 1):
            delay_s = policy.get("delay_ms", 0.0) / 1000 * self._chance.uniform(0.5, 1.5)
            self._queue(target, frame, delay_s)

    def _queue(self, target: int, frame: bytes, delay_s: float) -> None:
        entry = (time.monotonic() + delay_s, next(self._numbers), target, frame)
        heapq.heappush(self._late, entry)

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._late and self._late[0][0] <= now:
            _, _, target, frame = heapq.heappop(self._late)
            with suppress(OSError):  # Its queue is full: lost, as in any switch.
                os.write(target, frame)


def main() -> None:
    namespaces = sys.argv[1:]
    taps = [open_tap(namespace) for namespace in namespaces]
    for namespace in namespaces:
        subprocess.run(["ip", "-n", namespace, "link", "set", DEVICE, "up"], check=True)
    print("ready", flush=True)
    Switch(taps).run()


if __name__ == "__main__":
    main()
