"""The front door without sockets: requests as values, sent by a named principal."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from objstore.http.message import BytesBody, Headers, Request
from objstore.objects.capability import Principal
from objstore.s3.app import S3App
from tests.unit.objects.composition import ALICE, Composition, composed


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def root(self) -> ET.Element:
        root = ET.fromstring(self.body)
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root

    @property
    def code(self) -> str:
        return self.root.findtext("Code") or ""

    def texts(self, path: str) -> list[str]:
        return [element.text or "" for element in self.root.findall(path)]

    def text(self, path: str) -> str | None:
        return self.root.findtext(path)


class _Introduced:
    """An authenticator that was told who comes."""

    def __init__(self, principal: Principal | None) -> None:
        self.principal = principal

    async def authenticate(self, *_: object, **__: object) -> Any:
        return None if self.principal is None else (self.principal, None)


@attrs.define
class Front:
    """An app as one principal sees it."""

    app: S3App
    composition: Composition
    region: str = "us-east-1"

    def by(self, principal: Principal | None) -> Front:
        app = make_app(self.composition, principal, self.region)
        return Front(app, self.composition, self.region)

    async def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        path, _, query = target.partition("?")
        request = Request(
            method=method,
            target=target.encode(),
            path=path,
            query=query,
            headers=Headers(
                (
                    {"host": "127.0.0.1:9000", "content-length": str(len(body))}
                    | (headers or {})
                ).items()
            ),
            body=BytesBody(body),
        )
        response = await self.app(request)
        if isinstance(response.body, bytes | bytearray | memoryview):
            data = bytes(response.body)
        else:
            data = b"".join([bytes(piece) async for piece in response.body])
            aclose = getattr(response.body, "aclose", None)
            if aclose is not None:
                await aclose()
        if response.content_length is not None and method != "HEAD":
            assert len(data) == response.content_length
        shown = {name.lower(): value for name, value in response.headers}
        if method == "HEAD" and response.content_length is not None:
            shown["content-length"] = str(response.content_length)
        return Answer(response.status, shown, data)

    async def put(self, target: str, body: bytes = b"", **headers: str) -> Answer:
        return await self.send("PUT", target, body, _named(headers))

    async def get(self, target: str, **headers: str) -> Answer:
        return await self.send("GET", target, b"", _named(headers))

    async def head(self, target: str, **headers: str) -> Answer:
        return await self.send("HEAD", target, b"", _named(headers))

    async def delete(self, target: str, **headers: str) -> Answer:
        return await self.send("DELETE", target, b"", _named(headers))

    async def post(self, target: str, body: bytes = b"", **headers: str) -> Answer:
        return await self.send("POST", target, body, _named(headers))


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def make_app(
    composition: Composition, principal: Principal | None, region: str = "us-east-1"
) -> S3App:
    store = composition.store

    async def no_keys(_: str) -> None:
        return None

    app = S3App(
        store=store,
        credentials=no_keys,
        clock=store.host.clock,
        entropy=store.host.entropy,
        node="1" * 16,
        region=region,
    )
    app._authenticator = _Introduced(principal)  # type: ignore[assignment]
    return app


@asynccontextmanager
async def front_door(
    principal: Principal | None = ALICE,
    *,
    region: str = "us-east-1",
    bucket: str | None = "photos",
    **options: int,
) -> AsyncIterator[Front]:
    """A node's front door, and a bucket behind it."""
    async with composed(**options) as composition:
        front = Front(make_app(composition, principal, region), composition, region)
        if bucket is not None:
            body = b""
            if region != "us-east-1":
                body = (
                    b"<CreateBucketConfiguration><LocationConstraint>"
                    + region.encode()
                    + b"</LocationConstraint></CreateBucketConfiguration>"
                )
            assert (await front.put(f"/{bucket}", body)).status == 200
        yield front
