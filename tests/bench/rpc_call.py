"""What a message between nodes costs: python tests/bench/rpc_call.py.

Nodes in one process, over real sockets and real TLS, one message after another: what is
told is the sender's part and the receiver's, the passes of the loop among them.  "puts at
once" is what 16 puts through a follower make three nodes say to each other, without Raft
and the log: a forwarded proposal, payloads to both followers, their answers, the reply;
with how many frames and sends a put makes.

CPU microseconds an operation, for a machine that does nothing else.  On one that does,
count instructions, which are the same always; a phase is then a part of the output file:

    PYTHONHASHSEED=0 valgrind --tool=callgrind --callgrind-out-file=OUT \\
        --dump-before=getppid python tests/bench/rpc_call.py --counted
    python tests/bench/rpc_call.py --read OUT
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio
from callgrind import thousands

from objstore.host.network import Address, ServerTls, TlsIdentity
from objstore.host.real_network import PlainStream, RealNetwork
from objstore.host.real_pki import RealPki
from objstore.ids import ClusterId, NodeId
from objstore.rpc.call import Call, Reply, Settle
from objstore.rpc.client import Peers
from objstore.rpc.server import RpcServer
from objstore.units import KiB, MiB

CLUSTER = ClusterId("c" * 32)
LEADER, FOLLOWER, OTHER = NODES = [NodeId(digit * 16) for digit in "123"]
TIMEOUT_MS = 30_000
WORKERS = 16
SMALL, OBJECT, CHUNK = bytes(200), bytes(4 * KiB), bytes(1 * MiB)
_NUMBER_SIZE = 8


@attrs.define(eq=False)
class Node:
    """One node: its peers and its methods."""

    node: NodeId
    peers: Peers
    server: RpcServer
    raft: Raft


class Raft:
    """Says what Raft would say: a payload a pass and peer, once its log would be written."""

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.peers: Peers
        self._settles: dict[bytes, Settle] = {}
        self._entries: list[bytes] = []  # To be appended: a number and a body.
        self._answers: list[bytes] = []
        self._wanted = trio.Event()

    def begin(self, call: Call, settle: Settle) -> None:
        number = bytes(call.payload[:_NUMBER_SIZE])
        self._settles[number] = settle
        self._entries.append(bytes(call.payload))
        self._wanted.set()

    def on_append(self, peer: NodeId, value: object, payload: memoryview) -> None:
        data = bytes(payload)
        for start in range(0, len(data), _NUMBER_SIZE + len(OBJECT)):
            self._answers.append(data[start : start + _NUMBER_SIZE])
        self._wanted.set()

    def on_answer(self, peer: NodeId, value: object, payload: memoryview) -> None:
        data = bytes(payload)
        for start in range(0, len(data), _NUMBER_SIZE):
            settle = self._settles.pop(data[start : start + _NUMBER_SIZE], None)
            if settle is not None:  # The first answer is the quorum's.
                settle(lambda: Reply(7))

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            if self._entries:
                payload = b"".join(self._entries)
                self._entries = []
                for peer in (FOLLOWER, OTHER):
                    self.peers.cast(peer, "append", payload=payload)
            if self._answers:
                await trio.lowlevel.checkpoint()  # The log is written meanwhile.
                payload = b"".join(self._answers)
                self._answers = []
                self.peers.cast(LEADER, "answer", payload=payload)


class World:
    """The nodes, and one who waits for what another was told."""

    def __init__(self, nodes: dict[NodeId, Node]) -> None:
        self.nodes = nodes
        self.peers = nodes[FOLLOWER].peers
        self._told = trio.Event()
        self._puts = 0
        server = nodes[LEADER].server
        server.register_cast("note", lambda *_: self._told.set())
        server.register_begun("begun", lambda _, settle: settle(lambda: Reply(7)))
        server.register("work", self._work)

    async def cast(self, payload: bytes) -> None:
        self._told = trio.Event()
        self.peers.cast(LEADER, "note", payload=payload)
        await self._told.wait()

    async def call(self, method: str, payload: bytes, *, bulk: bool = False) -> None:
        await self.peers.call(
            LEADER, method, 7, payload=payload, timeout_ms=TIMEOUT_MS, bulk=bulk
        )

    async def put(self) -> None:
        self._puts += 1
        payload = self._puts.to_bytes(_NUMBER_SIZE, "big") + OBJECT
        await self.peers.call(LEADER, "propose", payload=payload, timeout_ms=TIMEOUT_MS)

    @staticmethod
    async def _work(call: Call) -> Reply:
        return Reply(7)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    now_ms = time.time_ns() // 1_000_000
    pki = RealPki()
    authority = pki.create_authority(CLUSTER, now_ms=now_ms, days=1)
    addresses: dict[NodeId, Address] = {}
    nodes = {
        node: make(
            node, pki.issue(authority, CLUSTER, node, now_ms=now_ms, days=1), addresses
        )
        for node in NODES
    }
    it = World(nodes)
    async with trio.open_nursery() as nursery:
        for node in nodes.values():
            addresses[node.node] = await nursery.start(node.server.run)
            await nursery.start(node.peers.run)
            nursery.start_soon(node.raft.run)
        yield it
        nursery.cancel_scope.cancel()


def make(node: NodeId, identity: TlsIdentity, addresses: dict[NodeId, Address]) -> Node:
    network = RealNetwork()
    server = RpcServer(
        network,
        Address("127.0.0.1", 0),
        tls=ServerTls(lambda: identity, mutual=True),
        node=node,
        cluster=CLUSTER,
    )
    raft = Raft(node)
    raft.peers = Peers(
        network,
        node=node,
        cluster=CLUSTER,
        identity=lambda: identity,
        resolve=addresses.get,
    )
    server.register_begun("propose", raft.begin)
    server.register_cast("append", raft.on_append)
    server.register_cast("answer", raft.on_answer)
    return Node(node, raft.peers, server, raft)


Step = Callable[[World], Awaitable[None]]
# A phase: its name, how many run at once, what each does, and how often less it does it.
PHASES: tuple[tuple[str, int, Step, int], ...] = (
    ("cast 200 B", 1, lambda it: it.cast(SMALL), 1),
    ("cast 4 KiB", 1, lambda it: it.cast(OBJECT), 1),
    ("call, begun", 1, lambda it: it.call("begun", OBJECT), 1),
    ("call, worker", 1, lambda it: it.call("work", OBJECT), 1),
    ("chunk, 1 MiB", 1, lambda it: it.call("work", CHUNK, bulk=True), 8),
    ("put", 1, lambda it: it.put(), 1),
    ("puts at once", WORKERS, lambda it: it.put(), 1),
)


class Sends:
    """Counts what goes to the kernel."""

    def __init__(self) -> None:
        self.count = 0
        self._count_calls_of("send_now")
        self._count_calls_of("_send")

    def _count_calls_of(self, name: str) -> None:
        send: Any = getattr(PlainStream, name)

        def counted(*arguments: Any) -> Any:
            self.count += 1
            return send(*arguments)

        setattr(PlainStream, name, counted)


async def run(count: int, *, is_counted: bool) -> None:
    gc.disable()
    sends = None if is_counted else Sends()
    async with world() as it:
        for name, workers, step, less in PHASES:
            for _ in range(10):
                await step(it)  # Links are there, and what is kept is kept.
            begun = 0 if sends is None else sends.count
            steps = count // less
            spent_s = await measured(it, workers, step, steps, is_counted=is_counted)
            shown = f"{spent_s / steps * 1e6:8.1f} µs" if sends is not None else ""
            made = "" if sends is None else f"{(sends.count - begun) / steps:6.2f} sends"
            print(f"{name:14} {shown} {made}", flush=True)


async def measured(
    it: World, workers: int, step: Step, count: int, *, is_counted: bool
) -> float:
    if is_counted:
        os.getppid()  # Tells callgrind where the phase begins, and where it ends.
    began_s = time.process_time()
    if workers == 1:
        for _ in range(count):
            await step(it)
    else:
        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(repeated, it, step, count // workers)
    spent_s = time.process_time() - began_s
    if is_counted:
        os.getppid()
    return spent_s


async def repeated(it: World, step: Step, count: int) -> None:
    for _ in range(count):
        await step(it)


def read(out: Path, count: int) -> None:
    """Print what callgrind counted in each phase."""
    for place, (name, _, _, less) in enumerate(PHASES):
        print(f"{name:14} {thousands(out, place) / (count // less):8.1f} k instructions")


def main() -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=320, help="operations of a phase")
    parser.add_argument("--counted", action="store_true", help="run under callgrind")
    parser.add_argument("--read", type=Path, help="show what callgrind wrote")
    arguments = parser.parse_args()
    if arguments.read is not None:
        read(arguments.read, arguments.count)
    else:
        trio.run(lambda: run(arguments.count, is_counted=arguments.counted))


if __name__ == "__main__":
    main()
