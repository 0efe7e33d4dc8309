"""The app: requests in, operations called, errors in S3's words."""

import hashlib

import pytest
import trio
from botocore.auth import HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from structlog.testing import capture_logs

from objstore.errors import Unavailable
from objstore.http.message import BytesBody, Headers, Request, Response
from objstore.http.server import HttpServer
from objstore.objects.capability import Principal
from objstore.s3 import sigv4
from objstore.s3.app import S3App
from objstore.s3.authenticate import Credential
from objstore.s3.call import S3Call
from objstore.s3.errors import S3Error
from objstore.s3.xml import parse_xml
from tests.unit.http.wire import ADDRESS, Client, MemoryNetwork
from tests.unit.s3.signer import encode_signed, encode_unsigned, now_ms, presign, sign
from tests.unit.s3.test_streaming import crc32

OWNER = Principal("ACCESS", "c" * 64, is_root=False, name="me")


class Clock:
    def __init__(self) -> None:
        self.ahead_ms = 0

    def utc_now_ms(self) -> int:
        return now_ms() + self.ahead_ms


class Entropy:
    def __init__(self) -> None:
        self.count = 0

    def token(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size, "big")


async def credentials(access_key: str) -> Credential | None:
    if access_key == "STALE":
        raise Unavailable("keys are not confirmed", retry_after_ms=1000)
    return Credential("secret", OWNER) if access_key == "ACCESS" else None


async def echo(call: S3Call) -> Response:
    body = b"".join([piece async for piece in call.body])
    return Response(200, [("X-Key", (call.key or b"").decode("latin-1"))], body)


async def fail(call: S3Call) -> Response:
    raise ValueError("secret details")


def make_app(**operations) -> S3App:
    return S3App(
        store=None, credentials=credentials, clock=Clock(), entropy=Entropy(), node="n1",
        domains=["s3.example.com"],
        operations={"PutObject": echo, "GetObject": echo, "HeadObject": echo, **operations},
    )  # fmt: skip


def make_request(method: str, target: str, headers=None, body: bytes = b"") -> Request:
    path, _, query = target.partition("?")
    fields = list((headers or {}).items())
    if body or method == "PUT":
        fields.append(("content-length", str(len(body))))
    return Request(
        method=method, target=target.encode(), path=path, query=query,
        headers=Headers(fields), body=BytesBody(body),
    )  # fmt: skip


async def ask(
    app: S3App, method: str, target: str, body: bytes = b"", **signing
) -> Response:
    headers = sign(method, target, signing.pop("headers", None), **signing)
    return await app(make_request(method, target, headers, body))


def error_of(response: Response) -> dict[str, str]:
    root = parse_xml(response.body)
    assert root.name == "Error"
    return {child.name: child.text for child in root}


def header(response: Response, name: str) -> str | None:
    return {n.lower(): v for n, v in response.headers}.get(name)


async def test_a_signed_request_reaches_its_operation():
    seen = []

    async def get(call: S3Call) -> Response:
        seen.append(call)
        return Response(200, [], b"hello")

    response = await ask(make_app(GetObject=get), "GET", "/photos/a%20b//c?versionId=null")
    (call,) = seen
    assert (call.operation, call.bucket, call.key) == ("GetObject", "photos", b"a b//c")
    assert (call.query, call.principal, call.region) == (
        {"versionId": "null"}, OWNER, "us-east-1",
    )  # fmt: skip
    assert response.body == b"hello"


async def test_every_answer_has_its_ids_and_server():
    app = make_app(GetObject=fail)
    for path in ("/photos/k", "/", "/-/x"):
        with capture_logs():
            response = await ask(app, "GET", path)
        assert len(header(response, "x-amz-request-id")) == 16
        assert header(response, "x-amz-id-2")
        assert header(response, "server") == "objstore"
        assert error_of(response)["RequestId"] == header(response, "x-amz-request-id")


async def test_one_canonical_line_is_logged_a_request():
    with capture_logs() as logs:
        await ask(make_app(), "PUT", "/photos/k", b"hello")
        await ask(make_app(), "DELETE", "/photos/k")
    done = [line for line in logs if line["event"] == "s3.request_done"]
    assert [(line["operation"], line["status"]) for line in done] == [
        ("PutObject", 200),
        ("DeleteObject", 501),
    ]
    assert (done[0]["bucket"], done[0]["key"], done[0]["bytes_in"]) == ("photos", "k", 5)
    assert done[0]["access_key"] == "ACCESS"
    assert done[1]["code"] == "NotImplemented"
    assert "secret" not in str(logs)


async def test_what_is_not_built_is_not_implemented_by_name():
    response = await ask(make_app(), "GET", "/photos?policy")
    assert response.status == 501
    error = error_of(response)
    assert error["Code"] == "NotImplemented"
    assert error["Operation"] == "GetBucketPolicy"
    assert error["Resource"] == "/photos"


async def test_anonymous_callers_learn_nothing_of_what_is_built():
    for target in ("/photos?policy", "/photos?acl"):
        response = await make_app()(make_request("GET", target, {"host": "h"}))
        assert error_of(response)["Code"] == "AccessDenied"


async def test_an_anonymous_call_has_no_principal():
    seen = []

    async def get(call: S3Call) -> Response:
        seen.append(call.principal)
        raise S3Error("AccessDenied")

    response = await make_app(GetObject=get)(
        make_request("GET", "/photos/k", {"host": "h"})
    )
    assert (seen, response.status) == ([None], 403)


@pytest.mark.parametrize(
    ("signing", "code", "status"),
    [
        ({"access_key": "NOBODY"}, "InvalidAccessKeyId", 403),
        ({"secret": "wrong"}, "SignatureDoesNotMatch", 403),
        ({"access_key": "STALE"}, "ServiceUnavailable", 503),
        ({"headers": {"x-amz-security-token": "t"}}, "InvalidToken", 400),
    ],
)
async def test_who_cannot_be_authenticated_is_refused(signing, code, status):
    response = await ask(make_app(), "GET", "/photos/k", **signing)
    assert (error_of(response)["Code"], response.status) == (code, status)


async def test_an_error_to_head_has_no_body():
    response = await ask(make_app(), "HEAD", "/photos/k", secret="wrong")
    assert (response.status, response.body) == (403, b"")


async def test_a_bug_is_an_internal_error_with_its_trace_in_the_log():
    with capture_logs() as logs:
        response = await ask(make_app(GetObject=fail), "GET", "/photos/k")
    assert error_of(response)["Code"] == "InternalError"
    assert b"secret" not in response.body
    (line,) = [line for line in logs if line["event"] == "s3.request_failed"]
    assert line["log_level"] == "error"
    assert isinstance(line["exc_info"], ValueError)


async def test_an_error_inside_a_nursery_is_the_error_itself():
    async def put(call: S3Call) -> Response:
        async with trio.open_nursery():
            raise S3Error("NoSuchBucket")

    response = await ask(make_app(GetObject=put), "GET", "/photos/k")
    assert error_of(response)["Code"] == "NoSuchBucket"


async def test_a_deadline_that_passed_is_503(autojump_clock):
    async def get(call: S3Call) -> Response:
        with trio.fail_after(1):
            await trio.sleep_forever()
        raise AssertionError

    response = await ask(make_app(GetObject=get), "GET", "/photos/k")
    assert (response.status, header(response, "retry-after")) == (503, "1")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (
            {"origin": "http://evil", "access-control-request-method": "PUT"},
            "AccessForbidden",
        ),
        ({"origin": "http://evil"}, "BadRequest"),
        ({}, "BadRequest"),
    ],
)
async def test_a_preflight_is_forbidden_without_cors(headers, code):
    response = await make_app()(make_request("OPTIONS", "/photos/k", headers))
    assert error_of(response)["Code"] == code
    assert not any(
        name.lower().startswith("access-control") for name, _ in response.headers
    )


async def test_a_put_without_a_length_is_refused():
    request = make_request("PUT", "/photos/k", sign("PUT", "/photos/k"))
    request.headers = Headers(sign("PUT", "/photos/k").items())
    response = await make_app()(request)
    assert (error_of(response)["Code"], response.status) == ("MissingContentLength", 411)


async def test_a_bad_digest_header_is_refused_before_the_operation():
    response = await ask(make_app(), "PUT", "/photos/k", b"x", headers={"Content-MD5": "x"})
    assert error_of(response)["Code"] == "InvalidDigest"


async def test_the_checksum_of_a_completion_is_not_of_its_document():
    digests = []

    async def complete(call: S3Call) -> Response:
        digests.extend(call.body.digests)
        return Response(200)

    app = make_app(CompleteMultipartUpload=complete)
    headers = {"x-amz-checksum-crc32": "NhCmhg=="}
    await ask(app, "POST", "/photos/k?uploadId=1", b"<x/>", headers=headers)
    assert digests == []


async def test_a_virtual_host_names_the_bucket():
    response = await ask(make_app(), "GET", "/a/b", host="photos.s3.example.com")
    assert header(response, "x-key") == "a/b"


async def test_a_presigned_url_works_without_headers():
    target = presign("PUT", "/photos/k")
    request = make_request("PUT", target, {"host": "localhost:9000"}, b"hello")
    assert (await make_app()(request)).body == b"hello"


async def test_a_url_presigned_by_version_2_works_and_its_parameters_are_not_shown():
    seen = []

    async def get(call: S3Call) -> Response:
        seen.append(call)
        return Response(200)

    url = AWSRequest(
        method="GET", url="http://localhost:9000/photos/k?response-expires=x&x-amz-acl=y"
    )
    HmacV1QueryAuth(Credentials("ACCESS", "secret")).add_auth(url)
    target = url.url.removeprefix("http://localhost:9000")
    for name in ("GetObject", "HeadObject"):
        app = make_app(GetObject=get)
        method = "GET" if name == "GetObject" else "HEAD"
        response = await app(make_request(method, target, {"host": "localhost:9000"}))
        assert response.status == (200 if method == "GET" else 403)
    (call,) = seen
    assert call.query == {"response-expires": "x", "x-amz-acl": "y"}
    assert "x-amz-acl" not in call.headers  # One in the query is none, by Version 2.
    assert call.principal == OWNER


@pytest.mark.parametrize(
    ("code", "target", "names"),
    [
        ("NoSuchKey", "/photos/a%20b", {"Key": "a b"}),
        ("NoSuchBucket", "/photos/k", {"BucketName": "photos"}),
        ("NoSuchUpload", "/photos/k?uploadId=u1", {"UploadId": "u1"}),
        ("NoSuchVersion", "/photos/k?versionId=v1", {"Key": "k", "VersionId": "v1"}),
    ],
)
async def test_an_error_names_what_is_missing(code, target, names):
    async def get(call: S3Call) -> Response:
        raise S3Error(code)

    app = make_app(GetObject=get, ListParts=get)
    error = error_of(await ask(app, "GET", target))
    assert names.items() <= error.items()


async def test_headers_in_a_presigned_query_count_as_headers():
    seen = []

    async def put(call: S3Call) -> Response:
        seen.append(call.headers)
        return Response(200)

    target = presign("PUT", "/photos/k?x-amz-meta-colour=r%C3%B6t")
    request = make_request("PUT", target, {"host": "localhost:9000"})
    await make_app(PutObject=put)(request)
    assert seen[0]["x-amz-meta-colour"].encode("latin-1").decode() == "röt"
    assert "x-amz-signature" not in seen[0]


async def test_a_header_in_the_query_of_a_header_signed_request_is_none():
    seen = []

    async def put(call: S3Call) -> Response:
        seen.append(call.headers)
        return Response(200)

    await ask(make_app(PutObject=put), "PUT", "/photos/k?x-amz-meta-a=1")
    assert "x-amz-meta-a" not in seen[0]


async def test_a_presigned_query_cannot_smuggle_a_line_end():  # CVE-2020-10753
    target = presign("PUT", "/photos/k?x-amz-meta-a=1%0D%0AEvil:%20yes")
    request = make_request("PUT", target, {"host": "localhost:9000"})
    assert error_of(await make_app()(request))["Code"] == "InvalidArgument"


async def test_a_chunked_upload_with_a_trailer_is_decoded():
    raw = encode_unsigned([b"hel", b"lo"], ("x-amz-checksum-crc32", crc32(b"hello")))
    headers = {
        "x-amz-decoded-content-length": "5",
        "x-amz-trailer": "x-amz-checksum-crc32",
        "content-encoding": "aws-chunked",
    }
    response = await ask(
        make_app(), "PUT", "/photos/k", raw, headers=headers,
        payload=sigv4.STREAMING_UNSIGNED_TRAILER,
    )  # fmt: skip
    assert response.body == b"hello"


@pytest.mark.parametrize("payload", sorted(sigv4.STREAMING))
async def test_no_payload_mode_does_without_the_requests_signature(payload):
    # CVE-2026-41145, CVE-2026-40344, CVE-2025-31489
    headers = {"x-amz-decoded-content-length": "5", "x-amz-trailer": "x-amz-checksum-crc32"}
    for signing in ({"secret": "wrong"}, {"access_key": "NOBODY"}):
        response = await ask(
            make_app(), "PUT", "/photos/k", b"0\r\n\r\n",
            headers=headers, payload=payload, **signing,
        )  # fmt: skip
        assert response.status == 403


async def test_signed_chunks_are_verified_from_the_requests_own_signature():
    headers = sign(
        "PUT", "/photos/k", {"x-amz-decoded-content-length": "5"},
        payload=sigv4.STREAMING_SIGNED,
    )  # fmt: skip
    claim = sigv4.parse_claim(Headers(headers.items()), {})
    key = sigv4.derive_key("secret", day=claim.signer.day, region="us-east-1")
    verified = sigv4.Verified(claim=claim, signing_key=key)
    raw = encode_signed(verified, [b"hel", b"lo"], None)
    response = await make_app()(make_request("PUT", "/photos/k", headers, raw))
    assert response.body == b"hello"
    forged = make_request("PUT", "/photos/k", headers, raw.replace(b"hel", b"HEL"))
    assert error_of(await make_app()(forged))["Code"] == "SignatureDoesNotMatch"


async def test_a_clock_far_off_is_said_so():  # F15
    app = make_app()
    app._clock.ahead_ms = 3_600_000
    response = await ask(app, "GET", "/photos/k")
    assert error_of(response)["Code"] == "RequestTimeTooSkewed"


# ---- over HTTP ------------------------------------------------------------------------


async def serve(app: S3App, nursery) -> Client:
    network = MemoryNetwork()
    server = HttpServer(network, ADDRESS, app, clock=Clock(), refuse=app.refuse)
    await nursery.start(server.run)
    return Client(*network.listener.connect())


def raw_request(
    method: str, target: str, headers: dict[str, str], body: bytes = b""
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_a_streamed_answer_is_logged_when_its_last_byte_is_sent(nursery):
    sent = []

    async def get(call: S3Call) -> Response:
        async def body():
            yield b"abc"
            sent.append([line["event"] for line in logs])
            yield memoryview(b"def")

        return Response(200, [], body(), content_length=6)

    with capture_logs() as logs:
        client = await serve(make_app(GetObject=get), nursery)
        await client.send(raw_request("GET", "/photos/k", sign("GET", "/photos/k")))
        assert (await client.answer()).body == b"abcdef"
        await trio.testing.wait_all_tasks_blocked()
    (line,) = [line for line in logs if line["event"] == "s3.request_done"]
    assert (line["bytes_out"], line["is_whole"]) == (6, True)
    assert "s3.request_done" not in sent[0]


async def test_a_put_cut_short_is_an_incomplete_body(nursery):  # F35
    client = await serve(make_app(), nursery)
    raw = raw_request("PUT", "/photos/k", sign("PUT", "/photos/k"), b"hello")
    await client.send(raw[:-1])
    await client.half_close()
    answer = await client.answer("PUT")
    assert (answer.status, b"<Code>IncompleteBody</Code>" in answer.body) == (400, True)


async def test_a_refused_put_needs_not_send_its_body(nursery):
    client = await serve(make_app(), nursery)
    headers = sign("PUT", "/photos/k", secret="wrong") | {"Expect": "100-continue"}
    await client.send(raw_request("PUT", "/photos/k", headers, b"x" * 1000)[:-1000])
    answer = await client.answer("PUT")
    assert (answer.status, client.informational) == (403, [])
    assert answer.headers["connection"] == "close"


async def test_a_lower_case_method_is_not_allowed(nursery):
    client = await serve(make_app(), nursery)
    await client.send(raw_request("get", "/photos/k", sign("get", "/photos/k")))
    answer = await client.answer()
    assert (answer.status, b"MethodNotAllowed" in answer.body) == (405, True)


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"NONSENSE\r\n\r\n", 400, "BadRequest"),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505, "BadRequest"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", 417, "BadRequest"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "NotImplemented"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 40_000, 431, "RequestHeaderSectionTooLarge"),
    ],
)  # fmt: skip
async def test_what_is_no_request_is_answered_like_one(nursery, raw, status, code):
    client = await serve(make_app(), nursery)
    with capture_logs() as logs:
        await client.send(raw)
        answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    root = parse_xml(answer.body)
    assert (root.name, root.value("Code")) == ("Error", code)
    assert root.value("RequestId") == answer.headers["x-amz-request-id"]
    assert {"x-amz-id-2", "server", "date"} <= answer.headers.keys()
    (line,) = [line for line in logs if line["event"] == "s3.request_done"]
    assert (line["request_id"], line["status"]) == (root.value("RequestId"), status)


async def test_a_signature_covers_the_host_that_an_absolute_target_names(nursery):
    client = await serve(make_app(), nursery)
    headers = sign("GET", "/photos/k")
    await client.send(raw_request("GET", "http://localhost:9000/photos/k", headers))
    assert (await client.answer()).status == 200
    await client.send(raw_request("GET", "http://evil/photos/k", headers))
    assert (await client.answer()).status == 400


async def test_the_digest_of_an_empty_payload_is_known():
    response = await ask(
        make_app(), "GET", "/photos/k", payload=hashlib.sha256(b"").hexdigest()
    )
    assert response.status == 200
