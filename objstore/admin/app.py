"""The admin API, health and metrics: everything under /-/.

    GET    /-/health/live                 200 while the process runs
    GET    /-/health/ready                200, or 503 with the reason in body and header
    GET    /-/metrics                     Prometheus text
    GET    /-/admin/v1/status             the page to look at
    GET    /-/admin/v1/nodes              POST .../nodes/ID/leave | drain | remove
    POST   /-/admin/v1/tokens             {"expires_in_ms", "uses"} -> {"token", "join"}
    GET    /-/admin/v1/buckets[/NAME]
    GET    /-/admin/v1/keys               POST {"name"}; DELETE .../keys/ACCESS_KEY

/-/admin/ asks for `Authorization: Bearer ADMIN_TOKEN`.  Bodies are JSON; errors are
{"message", "hint"?} under a fitting status.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import structlog
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from objstore import metrics
from objstore.admin.membership import Membership
from objstore.admin.settings import ADMIN_TOKEN
from objstore.admin.status import ClusterStatus
from objstore.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    ObjstoreError,
    OutOfSpace,
    Unavailable,
)
from objstore.host.clock import Clock
from objstore.host.entropy import Entropy
from objstore.http.message import Request, Response
from objstore.ids import NodeId
from objstore.meta.client import MetaClient
from objstore.meta.commands import CreateAccessKey, DeleteAccessKey
from objstore.meta.queries import GetUsage
from objstore.meta.values import AccessKey, BucketRecord, Usage
from objstore.meta.view import ClusterView

log = structlog.get_logger()

PREFIX = "/-/"
_BODY_SIZE_MAX = 64 * 1024
_ADMIN = "admin/v1/"
_KEY_NAME_SIZE_MAX = 128
_STATUS: list[tuple[type[ObjstoreError], int]] = [
    (InvalidRequest, 400),
    (NotFound, 404),
    (Conflict, 409),
    (OutOfSpace, 507),
    (Unavailable, 503),
]


@attrs.define
class AdminApp:
    """Answers requests whose path begins with /-/."""

    status: ClusterStatus
    membership: Membership
    meta: MetaClient
    view: ClusterView
    clock: Clock
    entropy: Entropy
    join_address: str  # Where new nodes should knock.
    metrics_token: bool
    update_metrics: Callable[[], None]

    async def __call__(self, request: Request) -> Response:
        path = request.path.removeprefix(PREFIX)
        try:
            if path == "health/live":
                return _json(200, {"status": "live"})
            if path == "health/ready":
                return self._ready()
            if path == "metrics":
                return self._metrics(request)
            if not path.startswith(_ADMIN):
                return _error(404, f"nothing is at {request.path}")
            if not self._is_admin(request):
                return _error(
                    401,
                    "this needs the admin token",
                    hint="Authorization: Bearer TOKEN",
                    headers=[("WWW-Authenticate", 'Bearer realm="objstore"')],
                )
            return await self._admin(request, path.removeprefix(_ADMIN))
        except ObjstoreError as error:
            return _translate(error)

    def _is_admin(self, request: Request) -> bool:
        token = self.view.setting(ADMIN_TOKEN)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return (
            token is not None
            and scheme.lower() == "bearer"
            and hmac.compare_digest(given.strip().encode(), token)
        )

    def _ready(self) -> Response:
        reason = self.status.unready_reason()
        if reason is None:
            return _json(200, {"status": "ready"})
        body = {"status": "not ready", "reason": reason}
        return _json(
            503, body, headers=[("X-Objstore-Reason", reason), ("Retry-After", "1")]
        )

    def _metrics(self, request: Request) -> Response:
        if self.metrics_token and not self._is_admin(request):
            return _error(401, "this needs the admin token")
        self.update_metrics()
        return Response(
            200,
            [("Content-Type", CONTENT_TYPE_LATEST)],
            generate_latest(metrics.REGISTRY),
        )

    # ---- /-/admin/v1/ -----------------------------------------------------------------

    async def _admin(self, request: Request, path: str) -> Response:
        what, _, rest = path.partition("/")
        handler = self._handlers().get((request.method, what))
        if handler is None:
            return _error(404, f"there is no {request.method} {request.path}")
        return await handler(request, rest)

    def _handlers(
        self,
    ) -> dict[tuple[str, str], Callable[[Request, str], Awaitable[Response]]]:
        return {
            ("GET", "status"): self._get_status,
            ("GET", "nodes"): self._get_nodes,
            ("POST", "nodes"): self._change_node,
            ("POST", "tokens"): self._create_token,
            ("GET", "buckets"): self._get_buckets,
            ("GET", "keys"): self._list_keys,
            ("POST", "keys"): self._create_key,
            ("DELETE", "keys"): self._delete_key,
        }

    async def _get_status(self, request: Request, rest: str) -> Response:
        del request, rest
        return _json(200, await self.status.status())

    async def _get_nodes(self, request: Request, rest: str) -> Response:
        del request
        nodes = await self.status.nodes()
        if not rest:
            return _json(200, {"nodes": nodes})
        found = [node for node in nodes if node["id"] == rest]
        return _json(200, found[0]) if found else _error(404, f"no node {rest}")

    async def _change_node(self, request: Request, rest: str) -> Response:
        del request
        node, _, verb = rest.partition("/")
        if verb == "leave":
            await self.membership.leave(NodeId(node))
            return _json(200, {"left": node})
        if verb in {"drain", "remove"}:
            return _error(
                501, f"node {verb} is not built yet", hint="an empty node can leave"
            )
        return _error(404, f"a node can leave, not {verb or 'nothing'}")

    async def _create_token(self, request: Request, rest: str) -> Response:
        del rest
        body = await _read_json(request)
        expires_in_ms = body.get("expires_in_ms", 3_600_000)
        uses = body.get("uses", 1)
        if not isinstance(expires_in_ms, int) or not isinstance(uses, int):
            raise InvalidRequest("expires_in_ms and uses are whole numbers")
        token = await self.membership.create_token(expires_in_ms=expires_in_ms, uses=uses)
        return _json(201, {"token": str(token), "join": self.join_address})

    async def _get_buckets(self, request: Request, rest: str) -> Response:
        del request
        await self.view.refresh()
        if rest:
            record = self.view.bucket(rest)
            if record is None:
                return _error(404, f"no bucket {rest}")
            return _json(200, await self._describe_bucket(record))
        described = [await self._describe_bucket(record) for record in self.view.buckets()]
        return _json(200, {"buckets": described})

    async def _describe_bucket(self, record: BucketRecord) -> dict[str, Any]:
        usage = await self.meta.query(GetUsage(slots=record.span, bucket=record.bucket))
        assert isinstance(usage, Usage)
        return {
            "name": record.name,
            "incarnation": record.bucket,
            "owner": record.owner,
            "created_ms": record.created_ms,
            "state": record.state.name.lower(),
            "versioning": record.versioning,
            "redundancy": record.scheme,
            "objects": usage.objects,
            "versions": usage.versions,
            "bytes": usage.bytes,
            "uploads": usage.uploads,
            "below_objects": usage.below_objects,
            "below_bytes": usage.below_bytes,
        }

    async def _list_keys(self, request: Request, rest: str) -> Response:
        del request, rest
        await self.view.refresh()
        keys = [_describe_key(key) for key in self.view.access_keys()]
        return _json(200, {"keys": keys})

    async def _create_key(self, request: Request, rest: str) -> Response:
        del rest
        body = await _read_json(request)
        name = body.get("name")
        if not isinstance(name, str) or not 0 < len(name) <= _KEY_NAME_SIZE_MAX:
            raise InvalidRequest(
                f"name is a string of 1 to {_KEY_NAME_SIZE_MAX} characters"
            )
        key = new_access_key(self.entropy, self.clock, name=name, is_root=False)
        await self.meta.propose(CreateAccessKey(key))
        return _json(201, _describe_key(key) | {"secret_key": key.secret_key})

    async def _delete_key(self, request: Request, rest: str) -> Response:
        del request
        await self.view.refresh()
        key = self.view.access_key(rest)
        if key is not None and key.is_root:
            raise Conflict("the root key cannot be deleted")
        await self.meta.propose(DeleteAccessKey(rest))
        return _json(200, {"deleted": rest})


def new_access_key(
    entropy: Entropy, clock: Clock, *, name: str, is_root: bool
) -> AccessKey:
    """A key pair in the form that S3 clients expect: 20 and 40 characters."""
    access_key = "OS" + _letters(entropy.token(18), 18)
    return AccessKey(
        access_key=access_key,
        secret_key=_letters(entropy.token(40), 40, lower=True),
        name=name,
        canonical_id=hashlib.sha256(entropy.token(32)).hexdigest(),
        is_root=is_root,
        created_ms=clock.utc_now_ms(),
    )


def _letters(random: bytes, count: int, *, lower: bool = False) -> str:
    """`count` letters and digits from as many random bytes: 5 bits (6) of each count."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    if lower:
        alphabet += "abcdefghijklmnopqrstuvwxyz189045"
    return "".join(alphabet[byte % len(alphabet)] for byte in random[:count])


def _describe_key(key: AccessKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "access_key": key.access_key,
        "canonical_id": key.canonical_id,
        "is_root": key.is_root,
        "created_ms": key.created_ms,
    }


async def _read_json(request: Request) -> dict[str, Any]:
    data = b""
    async for piece in request.body:
        data += piece
        if len(data) > _BODY_SIZE_MAX:
            raise InvalidRequest("the body is too large")
    try:
        body = json.loads(data or b"{}")
    except ValueError as error:
        raise InvalidRequest("the body is not JSON") from error
    if not isinstance(body, dict):
        raise InvalidRequest("the body is not a JSON object")
    return body


def _json(
    status: int, body: object, *, headers: list[tuple[str, str]] | None = None
) -> Response:
    return Response(
        status,
        [("Content-Type", "application/json"), *(headers or [])],
        json.dumps(body).encode() + b"\n",
    )


def _error(
    status: int,
    message: str,
    *,
    hint: str = "",
    headers: list[tuple[str, str]] | None = None,
) -> Response:
    body = {"message": message} | ({"hint": hint} if hint else {})
    return _json(status, body, headers=headers)


def _translate(error: ObjstoreError) -> Response:
    for kind, status in _STATUS:
        if isinstance(error, kind):
            message, _, hint = str(error).partition(" hint: ")
            return _error(status, message, hint=hint)
    log.error("admin.request_failed", reason=str(error), exc_info=error)
    return _error(500, str(error))
