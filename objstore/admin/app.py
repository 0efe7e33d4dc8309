"""The admin API, health and metrics: everything under /-/.

    GET    /-/health/live                 200 while the process runs
    GET    /-/health/ready                200, or 503 with the reason in body and header
    GET    /-/metrics                     Prometheus text
    GET    /-/admin/v1/status             the page to look at
    GET    /-/admin/v1/nodes[/ID]         POST .../nodes/ID/leave | drain | remove
    POST   /-/admin/v1/tokens             {"expires_in_ms", "uses"} -> {"token", "join"}
    GET    /-/admin/v1/buckets[/NAME]
    GET    /-/admin/v1/keys               POST {"name"}; DELETE .../keys/ACCESS_KEY

/-/admin/ asks for `Authorization: Bearer ADMIN_TOKEN`.  HEAD is answered where GET is, any
other method with 405 and `Allow`.  Bodies are JSON objects; errors are {"message", "hint"?}
under a fitting status.  Each request ends within REQUEST_TIMEOUT_S (a leave within what
`membership` says), so that no client waits longer than it was told.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import attrs
import structlog
import trio
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from objstore import metrics
from objstore.admin.buckets import BucketReports
from objstore.admin.keys import describe_key, new_access_key
from objstore.admin.membership import Membership
from objstore.admin.settings import ADMIN_TOKEN
from objstore.admin.status import ClusterStatus
from objstore.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    ObjstoreError,
    OutOfSpace,
    RemoteProtocolError,
    Unavailable,
)
from objstore.host.clock import Clock
from objstore.host.entropy import Entropy
from objstore.http.message import Request, Response
from objstore.ids import NodeId
from objstore.limits import ACCESS_KEYS_MAX
from objstore.meta.client import MetaClient
from objstore.meta.commands import CreateAccessKey, DeleteAccessKey
from objstore.meta.view import ClusterView

log = structlog.get_logger()

__all__ = ["PREFIX", "AdminApp", "new_access_key"]

PREFIX = "/-/"
REQUEST_TIMEOUT_S = 20.0
_BODY_SIZE_MAX = 64 * 1024
_ADMIN = "admin/v1/"
_KEY_NAME_SIZE_MAX = 128
_SHOWN_PATH_MAX = 200
_STATUS: list[tuple[type[ObjstoreError], int]] = [
    (InvalidRequest, 400),
    (RemoteProtocolError, 400),  # A body that is cut short or badly framed.
    (NotFound, 404),
    (Conflict, 409),
    (OutOfSpace, 507),
    (Unavailable, 503),
]
# Answers hold what nobody else should keep: tokens, secrets, who is where.
_HEADERS = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]

Action = Callable[[Request, str], Awaitable[Response]]


@attrs.frozen
class _Resource:
    """What can be done at a path, by method; HEAD comes with GET."""

    actions: dict[str, Action]
    takes_rest: bool = False  # Whether something may follow in the path.


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
        try:
            return await self._answer(request)
        except ObjstoreError as error:
            return _translate(error)
        except Exception as error:
            log.exception("admin.request_failed", reason=str(error))
            return _error(500, "internal error", hint="the node's log has more")

    async def _answer(self, request: Request) -> Response:
        path = request.path.removeprefix(PREFIX)
        public = self._public().get(path)
        if public is not None:
            return await _act(public, request, "")
        if not path.startswith(_ADMIN):
            return _not_found(request)
        if not self._is_admin(request):
            return _unauthorized()
        what, _, rest = path.removeprefix(_ADMIN).partition("/")
        resource = self._resources().get(what)
        if resource is None or (rest and not resource.takes_rest):
            return _not_found(request)
        return await _act(resource, request, rest)

    def _is_admin(self, request: Request) -> bool:
        token = self.view.setting(ADMIN_TOKEN)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return (
            token is not None
            and scheme.lower() == "bearer"
            and hmac.compare_digest(given.strip().encode(), token)
        )

    # ---- without a token --------------------------------------------------------------

    def _public(self) -> dict[str, _Resource]:
        return {
            "health/live": _Resource({"GET": self._live}),
            "health/ready": _Resource({"GET": self._ready}),
            "metrics": _Resource({"GET": self._metrics}),
        }

    async def _live(self, request: Request, rest: str) -> Response:
        del request, rest
        return _json(200, {"status": "live"})

    async def _ready(self, request: Request, rest: str) -> Response:
        del request, rest
        reason = self.status.unready_reason()
        if reason is None:
            return _json(200, {"status": "ready"})
        body = {"status": "not ready", "reason": reason}
        return _json(
            503, body, headers=[("X-Objstore-Reason", reason), ("Retry-After", "1")]
        )

    async def _metrics(self, request: Request, rest: str) -> Response:
        del rest
        if self.metrics_token and not self._is_admin(request):
            return _unauthorized()
        self.update_metrics()
        return Response(
            200,
            [("Content-Type", CONTENT_TYPE_LATEST)],
            generate_latest(metrics.REGISTRY),
        )

    # ---- /-/admin/v1/ -----------------------------------------------------------------

    def _resources(self) -> dict[str, _Resource]:
        return {
            "status": _Resource({"GET": self._get_status}),
            "nodes": _Resource(
                {"GET": self._get_nodes, "POST": self._change_node}, takes_rest=True
            ),
            "tokens": _Resource({"POST": self._create_token}),
            "buckets": _Resource({"GET": self._get_buckets}, takes_rest=True),
            "keys": _Resource(
                {
                    "GET": self._list_keys,
                    "POST": self._create_key,
                    "DELETE": self._delete_key,
                },
                takes_rest=True,
            ),
        }

    async def _get_status(self, request: Request, rest: str) -> Response:
        del request, rest
        with _deadline():
            return _json(200, await self.status.status())

    async def _get_nodes(self, request: Request, rest: str) -> Response:
        del request
        with _deadline():
            nodes = await self.status.nodes()
        if not rest:
            return _json(200, {"nodes": nodes})
        wanted = unquote(rest)
        found = [node for node in nodes if node["id"] == wanted]
        return _json(200, found[0]) if found else _error(404, f"no node {_short(wanted)}")

    async def _change_node(self, request: Request, rest: str) -> Response:
        del request
        node, _, verb = rest.partition("/")
        if verb == "leave":
            was_told = await self.membership.leave(NodeId(unquote(node)))
            return _json(200, {"left": node, "was_told": was_told})
        if verb in {"drain", "remove"}:
            return _error(
                501, f"node {verb} is not built yet", hint="an empty node can leave"
            )
        return _error(404, f"a node can leave, not {_short(verb) or 'nothing'}")

    async def _create_token(self, request: Request, rest: str) -> Response:
        del rest
        body = await _read_json(request, {"expires_in_ms", "uses"})
        expires_in_ms, uses = body.get("expires_in_ms", 3_600_000), body.get("uses", 1)
        if type(expires_in_ms) is not int or type(uses) is not int:
            raise InvalidRequest("expires_in_ms and uses are whole numbers")
        with _deadline():
            token = await self.membership.create_token(
                expires_in_ms=expires_in_ms, uses=uses
            )
        return _json(201, {"token": str(token), "join": self.join_address})

    async def _get_buckets(self, request: Request, rest: str) -> Response:
        del request
        reports = BucketReports(self.meta)
        with _deadline():
            await self.view.refresh()
            if not rest:
                buckets = sorted(self.view.buckets(), key=lambda record: record.name)
                return _json(200, {"buckets": await reports.describe_all(buckets)})
            name = unquote(rest)
            record = self.view.bucket(name)
            if record is None:
                return _error(404, f"no bucket {_short(name)}")
            return _json(200, await reports.describe(record))

    async def _list_keys(self, request: Request, rest: str) -> Response:
        if rest:
            return _not_found(request)
        with _deadline():
            await self.view.refresh()
        keys = [describe_key(key) for key in self.view.access_keys()]
        return _json(200, {"keys": keys})

    async def _create_key(self, request: Request, rest: str) -> Response:
        if rest:
            return _not_found(request)
        body = await _read_json(request, {"name"})
        name = body.get("name")
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= _KEY_NAME_SIZE_MAX
            or not name.isprintable()
        ):
            raise InvalidRequest(
                f"name is a string of 1 to {_KEY_NAME_SIZE_MAX} printable characters"
            )
        with _deadline():
            await self.view.refresh()
            if len(tuple(self.view.access_keys())) >= ACCESS_KEYS_MAX:
                raise Conflict(
                    f"the cluster has {ACCESS_KEYS_MAX} keys, as many as it may."
                    " hint: delete some first"
                )
            key = new_access_key(self.entropy, self.clock, name=name, is_root=False)
            await self.meta.propose(CreateAccessKey(key))
        log.info("admin.key_created", access_key=key.access_key, name=name)
        return _json(201, describe_key(key) | {"secret_key": key.secret_key})

    async def _delete_key(self, request: Request, rest: str) -> Response:
        access_key = unquote(rest)
        if not access_key:
            return _not_found(request)
        with _deadline():
            await self.view.refresh()
            key = self.view.access_key(access_key)
            if key is not None and key.is_root:
                raise Conflict("the root key cannot be deleted")
            await self.meta.propose(DeleteAccessKey(access_key))
        log.info("admin.key_deleted", access_key=access_key)
        return _json(200, {"deleted": access_key})


async def _act(resource: _Resource, request: Request, rest: str) -> Response:
    """Do what the method asks for, or say which ones there are."""
    method = "GET" if request.method == "HEAD" else request.method
    action = resource.actions.get(method)
    if action is not None:
        return await action(request, rest)
    allowed = [*resource.actions, *(["HEAD"] if "GET" in resource.actions else [])]
    return _error(
        405,
        f"{_short(request.method)} is not allowed here",
        headers=[("Allow", ", ".join(sorted(allowed)))],
    )


@contextmanager
def _deadline() -> Iterator[None]:
    """REQUEST_TIMEOUT_S for what is inside; then Unavailable."""
    with trio.move_on_after(REQUEST_TIMEOUT_S) as scope:
        yield
    if scope.cancelled_caught:
        raise Unavailable("the cluster did not answer in time", unknown=True)


async def _read_json(request: Request, known: set[str]) -> dict[str, Any]:
    """The body's object; keys that are not `known` are refused, not ignored."""
    data = bytearray()
    async for piece in request.body:
        data += piece
        if len(data) > _BODY_SIZE_MAX:
            raise InvalidRequest(f"the body is larger than {_BODY_SIZE_MAX} bytes")
    try:
        body = json.loads(bytes(data) or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not JSON") from error
    if not isinstance(body, dict):
        raise InvalidRequest("the body is not a JSON object")
    unknown = sorted(set(body) - known)
    if unknown:
        raise InvalidRequest(
            f"the body has an unknown key {_short(unknown[0])!r};"
            f" known: {', '.join(sorted(known))}"
        )
    return body


def _json(
    status: int, body: object, *, headers: list[tuple[str, str]] | None = None
) -> Response:
    return Response(
        status,
        [("Content-Type", "application/json"), *_HEADERS, *(headers or [])],
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


def _short(text: str) -> str:
    """What a client sent, as it may be shown again."""
    return text if len(text) <= _SHOWN_PATH_MAX else f"{text[:_SHOWN_PATH_MAX]}..."


def _not_found(request: Request) -> Response:
    return _error(404, f"nothing is at {_short(request.path)}")


def _unauthorized() -> Response:
    return _error(
        401,
        "this needs the admin token",
        hint="Authorization: Bearer TOKEN",
        headers=[("WWW-Authenticate", 'Bearer realm="objstore"')],
    )


def _translate(error: ObjstoreError) -> Response:
    for kind, status in _STATUS:
        if isinstance(error, kind):
            message, _, hint = str(error).partition(" hint: ")
            headers = [("Retry-After", "1")] if status == 503 else []
            return _error(status, message, hint=hint, headers=headers)
    log.error("admin.request_failed", reason=str(error), exc_info=error)
    return _error(500, "internal error", hint="the node's log has more")
