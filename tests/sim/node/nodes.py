"""Whole nodes on simulated hosts: every part but the world outside is the real one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import trio

from objstore.config import Config, load
from objstore.host.host import Host
from objstore.node.daemon import run_node
from objstore.node.parts import Parts
from objstore.testing.host import HostCrashed, SimulatedWorld
from tests.unit.objects.composition import ALICE
from tests.unit.s3_operations.front import Front, _Introduced

DATA = "/data"


@attrs.define(eq=False)
class Nodes:
    """Nodes by the names of their hosts."""

    nursery: trio.Nursery
    world: SimulatedWorld
    parts: dict[str, Parts] = attrs.field(factory=dict)  # Of those that serve.
    tokens: dict[str, str] = attrs.field(factory=dict)
    tolerated: type[Exception] | None = None  # What may end a node that served.
    _stopping: dict[str, trio.Event] = attrs.field(factory=dict)
    _ended: dict[str, trio.Event] = attrs.field(factory=dict)

    def config(self, name: str, **more: object) -> Config:
        ip = self.world.address(name)
        joined = {}
        if name in self.tokens:
            seed, token = self.tokens[name].split()
            joined = {"cluster.join": f"{self.world.address(seed)}:7000"}
            joined |= {"cluster.token": token}
        return load(
            overrides={
                "node.data": DATA,
                "s3.address": f"{ip}:9000",
                "cluster.address": f"{ip}:7000",
                "chunks.reserve": "0B",
                "chunks.segment_size": "32MiB",
                "chunks.chunk_size": "2MiB",
                "raft.wal_segment_size": "1MiB",
            }
            | joined
            | more
        )

    async def start(self, name: str, **more: object) -> Parts:
        """Start a node; its parts, once it serves.  Raises what ended its start."""
        return await self.nursery.start(self._run, name, more)

    async def _run(self, name: str, more: dict[str, object], *, task_status: Any) -> None:
        if not self.world.is_up(name):
            self.world.restart(name) if name in self._ended else self.world.host(name)
        stopping = self._stopping[name] = trio.Event()
        ended = self._ended[name] = trio.Event()
        serving = _Serving(task_status, partial(self.parts.__setitem__, name))
        try:
            config = self.config(name, **more)

            async def program(host: Host) -> None:
                await run_node(config, host, stopping, task_status=serving)  # type: ignore[arg-type]

            await self.world.run(name, program)
        except HostCrashed:
            if not serving.is_serving:
                raise
        except BaseExceptionGroup as group:
            rest = group if self.tolerated is None else group.split(self.tolerated)[1]
            if rest is not None:
                raise rest from None
        finally:
            self.parts.pop(name, None)
            ended.set()

    async def stop(self, name: str) -> None:
        """Stop a node in order."""
        self._stopping[name].set()
        await self._ended[name].wait()

    async def crash(self, name: str) -> None:
        """Cut a host's power: what it had not synced may be lost."""
        self.world.crash(name)
        await self._ended[name].wait()

    async def admit(self, name: str, by: str) -> None:
        """Let a new node join by way of another."""
        token = await self.parts[by].membership.create_token(
            expires_in_ms=3_600_000, uses=1
        )
        self.tokens[name] = f"{by} {token}"

    def front(self, name: str) -> Front:
        """The front door of a node, as a client that is known already finds it."""
        parts = self.parts[name]
        parts.s3._authenticator = _Introduced(ALICE)  # type: ignore[assignment]
        return Front(parts.s3, parts)  # type: ignore[arg-type]


class _Serving:
    """Tells of the start once, and keeps what was started."""

    def __init__(self, task_status: Any, keep: Callable[[Parts], None]) -> None:
        self._task_status = task_status
        self._keep = keep
        self.is_serving = False

    def started(self, parts: Parts) -> None:
        self.is_serving = True
        self._keep(parts)
        self._task_status.started(parts)


async def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    """Wait on virtual time."""
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.05)


@attrs.define(eq=False)
class CutAt:
    """Cuts a host's power at the nth change of its disk; to be injected as a fault."""

    world: SimulatedWorld
    name: str
    nth: int
    seen: int = 0

    def strikes(self, path: str, operation: str) -> bool:
        del path
        if operation == "read":
            return False
        self.seen += 1
        if self.seen != self.nth:
            return False
        self.world.crash(self.name)
        return True
