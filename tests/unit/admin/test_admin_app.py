"""The admin API by requests: who may ask, what is answered, what is refused and how."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from objstore.errors import Unavailable
from objstore.http.message import Headers, Request, Response, TruncatedBody
from tests.unit.objects.capabilities import make_bucket

from .nodes import Door, decoded, world
from .test_gauges import gauges_of

PATHS = [
    ("GET", "status"),
    ("GET", "nodes"),
    ("POST", "nodes/0000000000000000/leave"),
    ("POST", "tokens"),
    ("GET", "buckets"),
    ("GET", "buckets/photos"),
    ("GET", "keys"),
    ("POST", "keys"),
    ("DELETE", "keys/OSX"),
    ("GET", "nonsense"),
]


async def test_health_needs_no_token(autojump_clock: object) -> None:
    async with world() as w:
        for path, word in (("live", "live"), ("ready", "ready")):
            response = await w.doors[0].send("GET", f"/-/health/{path}", token="")
            assert (response.status, decoded(response)) == (200, {"status": word})


async def test_a_node_that_cannot_serve_says_why_in_body_and_header(
    autojump_clock: object,
) -> None:
    async with world() as w:
        w.doors[0].parts.status.max_staleness_ms = -1
        response = await w.doors[0].send("GET", "/-/health/ready", token="")
        headers = dict(response.headers)
        assert response.status == 503
        assert decoded(response)["reason"] == headers["X-Objstore-Reason"]
        assert "quorum" in headers["X-Objstore-Reason"]
        assert headers["Retry-After"] == "1"


async def test_every_part_of_the_api_asks_for_the_token(autojump_clock: object) -> None:
    """F30"""
    async with world() as w:
        door = w.doors[0]
        right = door.token
        for wrong in ("", right[:-1], right + "0", right.upper(), "ü" * 48):
            for method, path in PATHS:
                response = await door.send(method, f"/-/admin/v1/{path}", token=wrong)
                assert response.status == 401, (method, path)
                assert "WWW-Authenticate" in dict(response.headers)
                assert right.encode() not in bytes(response.body)  # type: ignore[arg-type]
        basic = await door.send(
            "GET", "/-/admin/v1/status", headers={"Authorization": f"Basic {right}"}
        )
        assert basic.status == 401
        lower = await door.send(
            "GET", "/-/admin/v1/status", headers={"Authorization": f"bearer  {right}"}
        )
        assert lower.status == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/-/health/live", "GET, HEAD"),
        ("DELETE", "/-/metrics", "GET, HEAD"),
        ("PUT", "/-/admin/v1/status", "GET, HEAD"),
        ("GET", "/-/admin/v1/tokens", "POST"),
        ("PATCH", "/-/admin/v1/keys", "DELETE, GET, HEAD, POST"),
        ("get", "/-/admin/v1/status", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    autojump_clock: object, method: str, path: str, allowed: str
) -> None:
    async with world() as w:
        response = await w.doors[0].send(method, path)
        assert response.status == 405
        assert dict(response.headers)["Allow"] == allowed


async def test_head_is_answered_where_get_is(autojump_clock: object) -> None:
    async with world() as w:
        for path in ("/-/health/live", "/-/metrics", "/-/admin/v1/status"):
            assert (await w.doors[0].send("HEAD", path)).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/-/",
        "/-/health",
        "/-/health/live/",
        "/-/admin",
        "/-/admin/v1/",
        "/-/admin/v1/status/more",
        "/-/admin/v1/../status",
        "/-/admin/v1//status",
        "/-/admin/v2/status",
        "/-/admin/v1/keys/some",
        "/-/admin/v1/nodes/0000000000000000",
        "/-/admin/v1/buckets/none",
        "/-/admin/v1/buckets/%2e%2e%2fetc",
        "/-/admin/v1/" + "x" * 10_000,
    ],
)
async def test_what_is_not_there_is_not_found_and_not_quoted_at_length(
    autojump_clock: object, path: str
) -> None:
    async with world() as w:
        response = await w.doors[0].send("GET", path)
        assert response.status == 404
        assert len(decoded(response)["message"]) < 300


async def test_answers_are_not_kept_by_anybody_between(autojump_clock: object) -> None:
    async with world() as w:
        response = await w.doors[0].send("GET", "/-/admin/v1/keys")
        assert dict(response.headers)["Cache-Control"] == "no-store"


# ---- bodies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[1]",
        b'"x"',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"name": "x", "nmae": 1}',
        b'{"name": ' + b'"x"' * 40_000,
        b'{"name": ""}',
        b'{"name": 5}',
        b'{"name": "a\\u001b[31mb"}',
        json.dumps({"name": "n" * 129}).encode(),
        b"{}",
    ],
)
async def test_a_body_that_cannot_be_used_is_refused(
    autojump_clock: object, raw: bytes
) -> None:
    """F32"""
    async with world() as w:
        response = await w.doors[0].send("POST", "/-/admin/v1/keys", raw=raw)
        assert response.status == 400
        assert decoded(response)["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"uses": 0},
        {"uses": True},
        {"uses": 1001},
        {"uses": 1.5},
        {"uses": "1"},
        {"expires_in_ms": 999},
        {"expires_in_ms": 8 * 86_400_000},
        {"expires_in_ms": 10**30},
        {"use": 1},
    ],
)
async def test_a_token_without_bounds_is_not_made(
    autojump_clock: object, body: dict[str, Any]
) -> None:
    async with world() as w:
        response = await w.doors[0].send("POST", "/-/admin/v1/tokens", body)
        assert response.status == 400


async def test_a_body_that_is_cut_short_is_the_clients_fault(
    autojump_clock: object,
) -> None:
    class Cut:
        size = 10

        async def __aiter__(self):
            yield b"{"
            raise TruncatedBody("ended early")

    async with world() as w:
        door = w.doors[0]
        request = _request("POST", "/-/admin/v1/keys", door)
        request.body = Cut()
        assert (await door.parts.admin(request)).status == 400


def _request(method: str, path: str, door: Door) -> Any:
    return Request(
        method=method,
        target=path.encode(),
        path=path,
        query="",
        headers=Headers([("Authorization", f"Bearer {door.token}")]),
    )


# ---- keys -----------------------------------------------------------------------------


async def test_a_keys_secret_is_told_once_and_never_again(autojump_clock: object) -> None:
    async with world() as w:
        door = w.doors[0]
        with capture_logs() as logs:
            made = await door.call("POST", "keys", {"name": "alice & bob"})
            listed = await door.call("GET", "keys")
            tokens = await door.call("POST", "tokens", {})
        assert set(made) >= {"name", "access_key", "secret_key", "canonical_id"}
        assert (len(made["access_key"]), len(made["secret_key"])) == (20, 40)
        assert made["secret_key"] not in json.dumps(listed)
        assert [key["name"] for key in listed["keys"] if not key["is_root"]] == [
            "alice & bob"
        ]
        told = json.dumps(logs, default=str)
        assert made["secret_key"] not in told
        assert tokens["token"].rpartition(".")[2] not in told
        assert door.token not in told
        assert "admin.key_created" in told


async def test_a_key_is_taken_back_and_the_root_key_is_not(autojump_clock: object) -> None:
    async with world() as w:
        door = w.doors[0]
        made = await door.call("POST", "keys", {"name": "a"})
        path = f"/-/admin/v1/keys/{made['access_key']}"
        assert (await door.send("DELETE", path)).status == 200
        assert (await door.send("DELETE", path)).status == 404
        assert (await door.send("DELETE", "/-/admin/v1/keys")).status == 404
        root = door.parts.secrets.root_access_key
        response = await door.send("DELETE", f"/-/admin/v1/keys/{root}")
        assert response.status == 409
        names = [key["name"] for key in (await door.call("GET", "keys"))["keys"]]
        assert names == ["root"]


async def test_there_may_be_only_so_many_keys(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("objstore.admin.app.ACCESS_KEYS_MAX", 2)
    async with world() as w:
        await w.doors[0].call("POST", "keys", {"name": "a"})
        response = await w.doors[0].send("POST", "/-/admin/v1/keys", {"name": "b"})
        assert response.status == 409
        assert decoded(response)["hint"]


# ---- buckets --------------------------------------------------------------------------


async def test_buckets_show_their_counters_and_one_that_cannot_hides_no_other(
    autojump_clock: object,
) -> None:
    async with world() as w:
        door = w.doors[0]
        for name in ("photos", "mail"):
            await make_bucket(door.parts.store, name)
        buckets = (await door.call("GET", "buckets"))["buckets"]
        assert [bucket["name"] for bucket in buckets] == ["mail", "photos"]
        assert buckets[0]["objects"] == 0
        assert (await door.call("GET", "buckets/mail"))["redundancy"] == "replicate:3"
        real = door.parts.meta.query

        async def query(asked: Any, *, timeout_ms: int = 1000) -> Any:
            if getattr(asked, "bucket", None) == buckets[0]["incarnation"]:
                raise Unavailable("shard 7 did not answer")
            return await real(asked, timeout_ms=timeout_ms)

        door.parts.admin.meta = _With(query)
        mail, photos = (await door.call("GET", "buckets"))["buckets"]
        assert (mail["objects"], photos["objects"]) == (None, 0)
        assert "shard 7" in mail["problem"]
        assert (await door.send("GET", "/-/admin/v1/buckets/mail")).status == 503


class _With:
    def __init__(self, query: Any) -> None:
        self.query = query


# ---- failures -------------------------------------------------------------------------


async def test_a_bug_is_told_in_json_and_logged_with_its_trace(
    autojump_clock: object,
) -> None:
    async with world() as w:

        class Broken:
            async def nodes(self) -> None:
                raise ValueError("the secret of the bug")

        w.doors[0].parts.admin.status = Broken()  # type: ignore[assignment]
        with capture_logs() as logs:
            response = await w.doors[0].send("GET", "/-/admin/v1/nodes")
        assert response.status == 500
        assert "secret" not in json.dumps(decoded(response))
        assert [entry["event"] for entry in logs] == ["admin.request_failed"]


async def test_no_request_takes_longer_than_it_says(autojump_clock: object) -> None:
    class Slow:
        nodes = staticmethod(trio.sleep_forever)

    async with world() as w:
        w.doors[0].parts.admin.status = Slow()  # type: ignore[assignment]
        began = trio.current_time()
        response: Response = await w.doors[0].send("GET", "/-/admin/v1/nodes")
        assert response.status == 503
        assert trio.current_time() - began < 21


# ---- metrics --------------------------------------------------------------------------


async def test_metrics_are_open_unless_the_token_is_asked_for(
    autojump_clock: object,
) -> None:
    async with world(**{"auth.metrics_token": True}) as w:
        assert (await w.doors[0].send("GET", "/-/metrics", token="")).status == 401
        assert (await w.doors[0].send("GET", "/-/metrics")).status == 200


async def test_metrics_tell_of_process_raft_gossip_drives_and_repair(
    autojump_clock: object,
) -> None:
    async with world() as w:
        door = w.doors[0]
        door.parts.admin.update_metrics = gauges_of(door.parts).update
        response = await door.send("GET", "/-/metrics", token="")
        text = bytes(response.body).decode()  # type: ignore[arg-type]
        families = {family.name: family for family in text_string_to_metric_families(text)}
        one = {
            name: family.samples[0].value
            for name, family in families.items()
            if family.samples
        }
        assert one["process_resident_memory_bytes"] > 0
        assert one["objstore_raft_groups"] == 33
        assert one["objstore_raft_leader_groups"] == 33
        assert one["objstore_raft_term_max"] >= 1
        assert one["objstore_raft_apply_lag_entries"] == 0
        states = {
            sample.labels["state"]: sample.value
            for sample in families["objstore_gossip_members"].samples
        }
        assert states == {"alive": 1, "suspect": 0, "dead": 0, "left": 0}
        (drive,) = door.parts.chunk_store.space()
        sizes = {
            sample.labels["kind"]: sample.value
            for sample in families["objstore_chunks_drive_bytes"].samples
            if sample.labels["drive"] == drive.drive
        }
        assert sizes == {"total": drive.total, "free": drive.free, "live": 0}
        assert one["objstore_repair_queue_fragments"] == 0
