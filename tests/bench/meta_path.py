"""Count what a request costs up to Raft and back: tests/bench/meta_path.py.

As `front_door.py`, but with the real client and server of metadata, rows in the real store,
and Raft's requests (`RaftHost.begin_proposal`, `read_barrier`): its passes only answer at
once, and so do other nodes.  So it has all that one node does for a request, but for
sockets, rpc, Raft's passes and apply.  A leader, and a follower that forwards proposals
and asks before it reads; `client` is what is behind `Store` alone, and `served` what
a leader does for a proposal that another node forwards.

Instructions, which do not depend on what else the machine does; a phase is a part of the
output file:

    PYTHONHASHSEED=0 valgrind --tool=callgrind --callgrind-out-file=OUT \\
        --dump-before=getppid python tests/bench/meta_path.py 2>/dev/null
    python tests/bench/meta_path.py --read OUT
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import front_door as door
import trio
from callgrind import thousands

from objstore import log
from objstore.config import RaftConfig
from objstore.host.clock import SystemClock
from objstore.host.entropy import SystemEntropy
from objstore.host.rocks_kv import RocksStore
from objstore.http.message import Request, Response
from objstore.ids import Key, NodeId, RequestId, ShardId
from objstore.meta import commands as c
from objstore.meta import envelope
from objstore.meta.client import MetaClient
from objstore.meta.payloads import pack_draft
from objstore.meta.queries import GetVersion
from objstore.meta.server import MetaServer, ProposeCall
from objstore.meta.slots import slot_of
from objstore.meta.store import MetaStore, ShardMachine
from objstore.meta.values import BucketFence
from objstore.meta.view import ClusterView
from objstore.objects.patience import begin as begin_patience
from objstore.raft.driver import RaftHost
from objstore.raft.hard_state import HardState
from objstore.raft.log import Log
from objstore.raft.state_machine import Entry, EntryKind, Membership
from objstore.raft.wal import Wal
from objstore.ring.layout import Member, encode, found
from objstore.rpc import codec
from objstore.rpc.call import Call, Reply
from objstore.testing.host import SimulatedWorld
from objstore.units import MiB

US, OTHER, THIRD = (NodeId(letter * 16) for letter in "abc")
VOTERS = Membership((US, OTHER, THIRD))
SHARD = ShardId(1)
REF = c.BucketRef(door.RECORD.bucket, door.RECORD.config_version)
COUNT = 200
ROLES = ("leader", "follower")
OPERATIONS = ("get", "head", "put", "delete")
NAMES = [
    f"{operation} {what}"
    for operation in OPERATIONS
    for what in ("leader", "leader, client", "follower", "follower, client", "served")
    if what != "served" or operation in {"put", "delete"}
]
_RESULTS = {
    "put": c.PutResult(door.VERSION.version_id, "0" * 32, door.VERSION.time_ms, 1, 1),
    "delete": c.DeleteResult(is_delete_marker=False, version_id=None),
}


class QuickRaft(RaftHost):
    """Raft whose passes answer everything at once."""

    result: object = None

    def begin(self, role: str, machine: ShardMachine) -> None:
        self._running = True
        self._replicas.clear()
        tail = Log(offset=machine.applied().index, offset_term=1)
        replica = self._add(SHARD, machine, tail, HardState(1, US), changed=False)
        if role == "leader":
            replica.core._become_leader(self.now_ms())
        else:
            replica.core.leader = OTHER

    async def answer(self) -> None:
        while True:
            await self._wanted.wait()
            touched, self._touched = self._touched, {}
            for replica in touched.values():
                while replica.proposals:
                    proposal = replica.proposals.popleft()
                    replica.proposals_size -= len(proposal.data)
                    proposal.answer.succeed(self.result)
                if replica.next_read is not None:
                    read, replica.next_read = replica.next_read, None
                    read.succeed()


class QuickPeers:
    """Other nodes, of which each answers at once."""

    node = US
    result: object = None

    async def call(self, to: NodeId, method: str, value: object, **_: object) -> Reply:
        assert to == OTHER
        assert method
        return Reply(self.result)


class Parts:
    """The metadata parts of one node."""

    def __init__(self, folder: str) -> None:
        self.kv = RocksStore.open(folder)
        host = SimulatedWorld(0).host("a")
        clock, entropy = SystemClock(), SystemEntropy()
        store = MetaStore(self.kv, host.threads)
        layout = found(
            [Member(node, 1) for node in VOTERS.voters], partition_count=16, widths=(3,)
        )
        view = ClusterView(store, entropy.random, clock, encode(layout))
        view._buckets[door.RECORD.name] = door.RECORD
        wal = Wal(
            directory=host.disks.directory("wal", create=True),
            threads=host.threads,
            entropy=host.entropy,
            segment_size=4 * MiB,
        )
        nothing: Any = None
        self.raft = QuickRaft(
            node=US,
            wal=wal,
            machines=store.machine,
            transport=nothing,
            random=Random(0),
            clock=clock,
            config=RaftConfig(),
        )
        self.raft._clocks_ms = dict.fromkeys((OTHER, THIRD), 0.0)
        self.peers: Any = QuickPeers()
        self.server = MetaServer(self.raft, store, view, clock, entropy)
        self.client = MetaClient(self.server, view, self.peers, entropy)
        self.view = view
        self.machine = store.machine(SHARD)
        for number, command in enumerate(_filling(), 1):
            digest = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest()
            encoded = codec.encode(command)
            data = envelope.encode(RequestId(digest), door.VERSION.time_ms, encoded)
            self.machine.apply([Entry(number, 1, EntryKind.COMMAND, data)], VOTERS)

    def take_role(self, role: str, operation: str) -> None:
        self.raft.begin(role, self.machine)
        self.raft.result = self.peers.result = _RESULTS.get(operation)


def _key(number: int) -> Key:
    return Key(b"k/%08d" % number)


def _filling() -> Iterator[c.Command]:
    for slot in door.RECORD.span:
        fence = BucketFence(REF.bucket, REF.config_version, "unversioned", is_open=True)
        yield c.OpenBucket(slot, fence)
    for number in range(2 * COUNT):
        yield _put(number)


def _put(number: int) -> c.PutVersion:
    slot = slot_of(REF.bucket, _key(number), door.RECORD.span)
    draft = door.VERSION.draft
    assert draft is not None
    return c.PutVersion(slot, REF, _key(number), pack_draft(draft))


def _delete(number: int) -> c.DeleteVersion:
    slot = slot_of(REF.bucket, _key(number), door.RECORD.span)
    return c.DeleteVersion(slot, REF, _key(number))


def _get(number: int) -> GetVersion:
    return GetVersion(
        slot_of(REF.bucket, _key(number), door.RECORD.span), REF, _key(number)
    )


# ---- phases ---------------------------------------------------------------------------

Phase = tuple[str, Callable[[], Awaitable[object]]]


def phases(parts: Parts) -> Iterator[Phase]:
    """What is counted: a name, and what is done twice, the first time to warm up."""
    app = door.s3_app(parts.client, parts.view)

    def answer(request: Request) -> Awaitable[Response]:
        begin_patience(6_000)
        return app(request)

    for operation in OPERATIONS:
        method, body, status = door.REQUESTS[operation]
        requests = [
            door.signed(method, f"/bench/k/{number:08}", body) for number in range(COUNT)
        ]
        for role in ROLES:
            parts.take_role(role, operation)
            yield f"{operation} {role}", lambda: door.whole(answer, requests, COUNT, status)
            yield f"{operation} {role}, client", _client(parts, operation)
        if operation in _RESULTS:
            parts.take_role("leader", operation)
            yield f"{operation} served", _served(parts, operation)


def _client(parts: Parts, operation: str) -> Callable[[], Awaitable[object]]:
    make: Callable[[int], Any] = {"put": _put, "delete": _delete}.get(operation, _get)
    asked = [make(number) for number in range(COUNT)]
    call = parts.client.propose if operation in _RESULTS else parts.client.query

    async def run() -> None:
        for value in asked:
            await call(value, timeout_ms=6_000)

    return run


def _served(parts: Parts, operation: str) -> Callable[[], Awaitable[object]]:
    make: Callable[[int], Any] = {"put": _put, "delete": _delete}[operation]
    encoded = [memoryview(codec.encode(make(number))) for number in range(COUNT)]
    deadline = trio.current_time() + 1_000_000
    asked = ProposeCall(SHARD, RequestId(bytes(16)))
    calls = [Call(OTHER, asked, data, deadline, "meta.propose") for data in encoded]

    async def run() -> None:
        settled = 0

        def settle(result: Callable[[], Reply]) -> None:
            nonlocal settled
            assert result().value is not None
            settled += 1

        for call in calls:
            parts.server._begin_propose(call, settle)
            await trio.lowlevel.checkpoint()
        while settled < COUNT:
            await trio.lowlevel.checkpoint()

    return run


async def run(wanted: re.Pattern[str]) -> None:
    gc.disable()
    log.configure(level="info", format="json", node="0123456789abcdef")
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(folder)
        async with trio.open_nursery() as nursery:
            # As `log.hold_lines`, without its timer: how often it wakes depends on the load.
            assert log._installed.output is not None
            log._installed.output.is_holding = True
            nursery.start_soon(parts.raft.answer)
            for name, do in phases(parts):
                assert name in NAMES
                if wanted.search(name):
                    await do()
                    os.getppid()  # Tells callgrind where the phase begins, and ends.
                    await do()
                    os.getppid()
                    print(name, flush=True)
            nursery.cancel_scope.cancel()
        parts.kv.close()


def read(out: Path, names: list[str]) -> None:
    """Print what callgrind counted in each phase."""
    for place, name in enumerate(names):
        print(f"{name:28} {thousands(out, place) / COUNT:8.1f} k instructions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="phases that have this (a pattern)")
    parser.add_argument("--read", type=Path, help="show what callgrind wrote")
    options = parser.parse_args()
    wanted = re.compile(options.only)
    if options.read is None:
        trio.run(run, wanted)
    else:
        read(options.read, [name for name in NAMES if wanted.search(name)])


if __name__ == "__main__":
    main()
