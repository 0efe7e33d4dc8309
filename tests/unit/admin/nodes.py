"""Whole nodes on simulated hosts, and requests to their admin API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from objstore.config import load
from objstore.http.message import BytesBody, Headers, Request, Response
from objstore.node.daemon import run_node
from objstore.node.parts import Parts
from objstore.testing.host import SimulatedWorld


@attrs.define
class Door:
    """One node's admin API, as a client with (or without) its token sees it."""

    parts: Parts

    @property
    def token(self) -> str:
        return self.parts.secrets.admin_token

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Response:
        fields = dict(headers or {})
        given = self.token if token is None else token
        if given:
            fields.setdefault("Authorization", f"Bearer {given}")
        data = (
            raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        )
        request = Request(
            method=method,
            target=path.encode(),
            path=path.partition("?")[0],
            query=path.partition("?")[2],
            headers=Headers(fields.items()),
            body=BytesBody(data),
        )
        return await self.parts.admin(request)

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """The decoded answer of a request that succeeds."""
        response = await self.send(method, f"/-/admin/v1/{path}", body)
        assert response.status < 300, response.body
        return decoded(response)


def decoded(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    assert dict(response.headers)["Content-Type"] == "application/json"
    return json.loads(response.body)


@attrs.define
class World:
    """The nodes that run."""

    nursery: trio.Nursery
    settings: dict[str, object]
    world: SimulatedWorld = attrs.field(factory=lambda: SimulatedWorld(1))
    doors: list[Door] = attrs.field(factory=list)
    stops: list[trio.Event] = attrs.field(factory=list)
    ends: list[trio.Event] = attrs.field(factory=list)

    async def start(self, **settings: object) -> Door:
        """A node more: the first founds the cluster, others are to be told what to join."""
        name = f"n{len(self.doors) + 1}"
        host = self.world.host(name)
        address = self.world.address(name)
        config = load(
            overrides={
                "node.data": "/data",
                "chunks.reserve": "0B",
                "chunks.segment_size": "32MiB",
                "chunks.chunk_size": "2MiB",
                "raft.wal_segment_size": "4MiB",
                "s3.address": f"{address}:9000",
                "cluster.address": f"{address}:7000",
            }
            | self.settings
            | settings
        )
        stop, end = trio.Event(), trio.Event()

        async def run(*, task_status: trio.TaskStatus[Parts]) -> None:
            await run_node(config, host, stop, task_status=task_status)
            end.set()

        door = Door(await self.nursery.start(run))
        self.doors.append(door)
        self.stops.append(stop)
        self.ends.append(end)
        return door

    async def join(self, **settings: object) -> Door:
        token = await self.doors[0].call("POST", "tokens", {"uses": 1})
        return await self.start(
            **{"cluster.join": token["join"], "cluster.token": token["token"]} | settings
        )

    async def grow(self, count: int) -> None:
        """Until there are so many nodes, and metadata has the voters for them."""
        while len(self.doors) < count:
            await self.join()
        with trio.fail_after(120):
            while True:
                status = await self.doors[0].call("GET", "status")
                alive = [node for node in status["nodes"] if node["state"] == "alive"]
                if len(alive) == count and not status["metadata"]["shards_below"]:
                    return
                await trio.sleep(0.2)


@asynccontextmanager
async def world(**settings: object) -> AsyncIterator[World]:
    """A world with one node in it: `doors[0]`."""
    async with trio.open_nursery() as nursery:
        made = World(nursery, settings)
        await made.start()
        yield made
        nursery.cancel_scope.cancel()
