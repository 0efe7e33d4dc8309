"""Requests that mean harm, at three real nodes: what was done to others (FAULTS 3 and 4).

What unit tests hold in every detail is here once through sockets, TLS and Raft; which
row is held where is in docs/internals/hostile.md.  At the end the nodes' logs are read:
no attack may have found a bug of ours, and no secret may be in them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import attrs
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.cluster.raw import (
    UNSIGNED,
    Answer,
    Raw,
    answers_in,
    head_of,
    read_answer,
    receive_all,
)
from tests.harness import Cluster, running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SECRET = b"not for you"
OLD = "Thu, 01 Dec 1994 16:00:00 GMT"
# Ours, of one bucket; theirs, of another owner.  Keys of one length: answers compare.
MINE, THEIRS = "/mine-alone", "/their-own"
THERE, ABSENT = "there.txt", "never.txt"


@attrs.frozen
class Scene:
    """A victim and a stranger who has a key of their own, both at every node."""

    cluster: Cluster
    victims: list[Raw]
    strangers: list[Raw]
    upload: str  # Of the victim, with one part.

    @property
    def victim(self) -> Raw:
        return self.victims[0]

    @property
    def stranger(self) -> Raw:
        return self.strangers[1]


@pytest.fixture(
    scope="module", params=["plain", pytest.param("tls", marks=pytest.mark.full)]
)
def scene(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Scene]:
    settings = {"s3.tls": "cluster"} if request.param == "tls" else {}
    folder = tmp_path_factory.mktemp(f"hostile-{request.param}")
    with running_cluster(folder, settings=settings) as cluster:
        prepared = _prepared(cluster)
        yield prepared
        check_logs(prepared)


def _prepared(cluster: Cluster) -> Scene:
    made = {name: cluster.command("key", "create", "--name", name) for name in "ab"}

    def everywhere(key: dict[str, str]) -> list[Raw]:
        named = {"access_key": key["access_key"], "secret_key": key["secret_key"]}
        return [attrs.evolve(Raw.of(cluster, node), **named) for node in range(3)]

    victims, strangers = everywhere(made["a"]), everywhere(made["b"])
    for raw, bucket in ((victims[0], MINE), (strangers[0], THEIRS)):
        assert raw.put(bucket).status == 200
        assert raw.put(f"{bucket}/{THERE}", SECRET).status == 200
    upload = victims[0].post(f"{MINE}/{THERE}?uploads").text("UploadId")
    part = victims[0].put(f"{MINE}/{THERE}?uploadId={upload}&partNumber=1", SECRET)
    assert part.status == 200
    return Scene(cluster, victims, strangers, upload)


def check_logs(scene: Scene) -> None:
    """Nothing was a bug of ours, and nothing that opens a door was written down."""
    cluster = scene.cluster
    log = "".join(node.log.read_text() for node in cluster.nodes)
    assert "s3.request_done" in log
    assert all("event" in json.loads(line) for line in log.splitlines())  # No forged line.
    assert '"event": "forged"' not in log
    for trouble in ("Traceback", '"level": "error"', "_failed"):
        assert trouble not in log, [line for line in log.splitlines() if trouble in line]
    secrets = [raw.secret_key for raw in (scene.victim, scene.stranger)]
    secrets += [cluster.secret_key, str(cluster.description["admin_token"])]
    for node in cluster.nodes:
        kept = json.loads((node.data / "secrets.json").read_text())
        secrets += re.findall(r'"([^"]{24,})"', json.dumps(kept))
    assert len(secrets) > 10
    assert not [secret for secret in secrets if secret in log]
    assert not re.search(r"Signature=|AWS4-HMAC|Bearer |BEGIN [A-Z ]*PRIVATE", log)
    assert not re.search(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", log)  # Any signature.


def tell(raw: Raw, *pieces: bytes) -> list[Answer]:
    """What a node answers to these bytes and then the end of them."""
    with raw.connect() as stream:
        stream.settimeout(15)
        with suppress(OSError):  # Who is refused may find nobody listening.
            for piece in pieces:
                stream.sendall(piece)
            stream.shutdown(socket.SHUT_WR)
        return answers_in(receive_all(stream))


def refused(answer: Answer) -> bool:
    return answer.status in {400, 403} and SECRET not in answer.body


def assert_untouched(scene: Scene) -> None:
    """The victim's bucket holds what it held, and nothing else."""
    for victim in scene.victims:
        assert victim.get(f"{MINE}/{THERE}").body == SECRET
    assert scene.victim.get(f"{MINE}?list-type=2").texts("Contents/Key") == [THERE]
    listed = scene.victim.get(f"{MINE}/{THERE}?uploadId={scene.upload}")
    assert listed.texts("Part/PartNumber") == ["1"]


# ---- signatures -----------------------------------------------------------------------


def presigned(scene: Scene, raw: Raw, operation: str, key: str) -> str:
    client = scene.cluster.s3(
        0,
        aws_access_key_id=raw.access_key,
        aws_secret_access_key=raw.secret_key,
        config={"signature_version": "s3v4"},
    )
    named = {"Bucket": MINE.strip("/"), "Key": key}
    url = urlsplit(client.generate_presigned_url(operation, named))
    return f"{url.path}?{url.query}"


@pytest.mark.parametrize(
    "header",
    [
        ("x-amz-copy-source", f"{MINE}/{THERE}"),  # CVE-2026-97731
        ("x-amz-copy-source", ""),
        ("x-amz-acl", "public-read"),
        ("x-amz-grant-full-control", "id=stranger"),
        ("x-amz-meta-a", "b"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-website-redirect-location", "http://evil"),
        ("x-amz-storage-class", "GLACIER"),
        ("x-amz-security-token", "t"),
        ("x-amz-expected-bucket-owner", "x"),
        ("X-Amz-Meta-Snowball-Auto-Extract", "true"),  # CVE-2026-40344
    ],
)
def test_whoever_holds_a_url_cannot_add_a_header(
    scene: Scene, header: tuple[str, str]
) -> None:
    target = presigned(scene, scene.victim, "put_object", "url.txt")
    answer = scene.victim.send("PUT", target, b"", is_signed=False, unsigned=dict([header]))
    assert refused(answer), answer
    assert_untouched(scene)


@pytest.mark.parametrize(
    "addition",
    ["&acl", "&uploads", "&versionId=null", "&response-content-type=text/html",
     "&uploadId=x&partNumber=1", f"&x-amz-copy-source={quote(MINE)}/{THERE}",
     "&X-Amz-Expires=604800", "&X-Amz-Meta-A=b", "&x-id=GetObject", "&=", "&x"],
)  # fmt: skip
def test_whoever_holds_a_url_cannot_add_a_parameter(scene: Scene, addition: str) -> None:
    for operation, method in (("put_object", "PUT"), ("get_object", "GET")):
        target = presigned(scene, scene.victim, operation, THERE) + addition
        answer = scene.victim.send(method, target, b"", is_signed=False)
        assert refused(answer), answer
    assert_untouched(scene)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "HEAD"])
def test_a_url_to_read_is_for_nothing_else(scene: Scene, method: str) -> None:
    target = presigned(scene, scene.victim, "get_object", THERE)
    assert scene.victim.send("GET", target, is_signed=False).body == SECRET
    assert scene.victim.send(method, target, b"", is_signed=False).status == 403
    for other in (ABSENT, f"{THERE}/../{THERE}", f"%2e/{THERE}", f"/{THERE}"):
        moved = target.replace(f"{MINE}/{THERE}", f"{MINE}/{other}")
        assert scene.victim.send("GET", moved, is_signed=False).status == 403
    assert_untouched(scene)


def _claims(raw: Raw, target: str, payload: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Fabricated claims to be `raw`, by name: the target and headers of each."""
    true = raw.signed("PUT", target, payload=payload)
    authorization = true["Authorization"]
    credential = re.search("Credential=([^,]+)", authorization)
    assert credential is not None
    query = f"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={quote(credential[1], safe='')}"
    bare = {"host": raw.host, "x-amz-content-sha256": payload}
    forged = re.sub("Signature=.*", "Signature=" + "0" * 64, authorization)
    return {
        "none": (target, bare),
        "credential in the query alone": (target + query, bare),  # CVE-2026-41145
        "an empty signature": (target + query + "&X-Amz-Signature=", bare),
        "forged": (target, true | {"Authorization": forged}),  # CVE-2026-40344
        "cut": (target, true | {"Authorization": authorization[:-1]}),
        "empty": (target, true | {"Authorization": authorization[:-64]}),
        "of another scheme": (target, true | {"Authorization": f"Bearer {authorization}"}),
        "anonymous by name": (target, true | {"Authorization": ""}),
        "a token without a signature": (
            target,
            true | {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."},
        ),
        "both ways": (target + query, true),
        "of another day": (target, true | {"X-Amz-Date": "20200101T000000Z"}),
        "without a date": (  # CVE-2015-8466
            target,
            {name: value for name, value in true.items() if name != "X-Amz-Date"},
        ),
    }


@pytest.mark.parametrize(
    "payload",
    [
        UNSIGNED,
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    ],
)
def test_no_payload_mode_does_without_a_signature(scene: Scene, payload: str) -> None:
    body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
    streaming = {
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": "5",
        "x-amz-trailer": "x-amz-checksum-crc32",
        "X-Amz-Meta-Snowball-Auto-Extract": "true",
    }
    for target in (f"{MINE}/{ABSENT}", f"{MINE}/{THERE}"):
        for name, (claimed, fields) in _claims(scene.victim, target, payload).items():
            more = {} if payload == UNSIGNED else streaming
            answer = scene.victim.send(
                "PUT", claimed, body, is_signed=False, unsigned=fields | more
            )
            assert refused(answer), (name, answer)
    assert_untouched(scene)


def test_two_claims_in_one_request_are_none(scene: Scene) -> None:
    """Of two headers, two readers may take another one each."""
    true = scene.victim.signed("GET", f"{MINE}/{THERE}")
    theirs = scene.stranger.signed("GET", f"{MINE}/{THERE}")
    head = head_of("GET", f"{MINE}/{THERE}", true)
    for name in ("Authorization", "X-Amz-Date", "host", "X-Amz-Content-SHA256"):
        line = f"{name}: {theirs.get(name, 'h')}\r\n\r\n".encode()
        (answer,) = tell(scene.victim, head[:-2] + line)
        assert refused(answer), name


@pytest.mark.parametrize(
    ("coded", "decoded_size"),
    [
        (b"40000000\r\nhello", "1073741824"),  # CVE-2021-21390
        (b"5\r\nhello", "5"),
        (b"5\r\nhello\r\n", "5"),
        (b"5\r\nhello\r\n0\r\n", "5"),
        (b"5\r\nhello\r\n0\r\n\r\n", "5"),  # The announced trailer does not come.
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", "5"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-sha1:AAAAAA==\r\n\r\n", "5"),
        (b"6\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "6"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "4"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "6"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "-5"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "9" * 20),
        (b"-5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "5"),
        (b"0x5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "5"),
        (b"5 \r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "5"),
        (b"5\nhello\n0\nx-amz-checksum-crc32:NhCmhg==\n\n", "5"),
        (b"00000000000000005\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "5"),
        (b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n", "5"),
        (b"5;chunk-signature=" + b"0" * 64 + b"\r\nhello\r\n0\r\n\r\n", "5"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\nmore", "5"),
        (b"0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "5"),
        (b"", "0"),
    ],
)
def test_a_coded_body_that_lies_stores_nothing(
    scene: Scene, coded: bytes, decoded_size: str
) -> None:
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": decoded_size,
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    answer = scene.victim.send(
        "PUT", f"{MINE}/coded", coded, headers, payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    )
    assert answer.status == 400, answer
    assert scene.victim.head(f"{MINE}/coded").status == 404


# ---- other people's data --------------------------------------------------------------


def _document(root: str, *content: str) -> bytes:
    return f"<{root}>{''.join(content)}</{root}>".encode()


def _digested(body: bytes) -> dict[str, str]:
    return {"content-md5": base64.b64encode(hashlib.md5(body).digest()).decode()}


def intrusions(
    key: str, upload: str
) -> list[tuple[str, str, bytes | None, dict[str, str]]]:
    """Every way to touch a key of the victim: method, target, body, headers."""
    target, source = f"{MINE}/{key}", f"{MINE}/{key}"
    etag = f'"{hashlib.md5(SECRET).hexdigest()}"'
    part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    complete = _document("CompleteMultipartUpload", part)
    batch = _document("Delete", f"<Object><Key>{key}</Key></Object>")
    reads = [
        {}, {"range": "bytes=0-3"}, {"range": "bytes=99999-"}, {"if-match": etag},
        {"if-match": '"x"'}, {"if-none-match": etag}, {"if-none-match": "*"},
        {"if-modified-since": OLD}, {"if-unmodified-since": OLD},  # CVE-2024-36107
        {"x-amz-checksum-mode": "ENABLED"},
    ]  # fmt: skip
    conditions = [
        {}, {"if-match": etag}, {"if-none-match": etag}, {"if-modified-since": OLD},
        {"if-unmodified-since": OLD},
    ]  # fmt: skip
    copied = [
        {"x-amz-copy-source": source}
        | {f"x-amz-copy-source-{name}": value for name, value in condition.items()}
        for condition in conditions
    ]
    mine = f"{THEIRS}/copied"
    return [
        *((method, target, None, headers) for method in ("GET", "HEAD") for headers in reads),
        ("GET", f"{target}?partNumber=1", None, {}),
        ("GET", f"{target}?partNumber=2", None, {}),
        ("GET", f"{target}?versionId=null", None, {}),
        ("GET", f"{target}?versionId={'0' * 32}", None, {}),
        ("GET", f"{target}?response-content-type=a%2Fb", None, {}),
        ("GET", f"{target}?attributes", None, {"x-amz-object-attributes": "ETag"}),
        ("PUT", target, b"evil", {}),
        ("PUT", target, b"evil", {"if-none-match": "*"}),
        ("PUT", target, b"evil", {"if-match": etag}),
        ("DELETE", target, None, {}),
        ("DELETE", target, None, {"if-match": etag}),
        ("DELETE", f"{target}?versionId=null", None, {}),
        ("POST", f"{MINE}?delete", batch, _digested(batch)),
        *(("PUT", mine, b"", headers) for headers in copied),
        ("PUT", target, b"", {"x-amz-copy-source": f"{THEIRS}/{THERE}"}),
        ("PUT", target, b"", {"x-amz-copy-source": source,
                              "x-amz-metadata-directive": "REPLACE"}),
        ("POST", f"{target}?uploads", b"", {}),
        ("PUT", f"{target}?uploadId={upload}&partNumber=1", b"evil", {}),
        ("PUT", f"{target}?uploadId={upload}&partNumber=1", b"",
         {"x-amz-copy-source": f"{THEIRS}/{THERE}"}),
        ("GET", f"{target}?uploadId={upload}", None, {}),
        ("POST", f"{target}?uploadId={upload}", complete, {}),
        ("DELETE", f"{target}?uploadId={upload}", None, {}),
    ]  # fmt: skip


def shown(answer: Answer, key: str, upload: str) -> tuple[object, ...]:
    """An answer without what tells one request from another anyhow."""
    body = re.sub(rb"<(RequestId|HostId)>[^<]*", b"", answer.body)
    body = body.replace(key.encode(), b"KEY").replace(upload.encode(), b"UPLOAD")
    told = {
        name: value
        for name, value in answer.headers.items()
        if name not in {"date", "x-amz-request-id", "x-amz-id-2"}
    }
    return answer.status, body, told


def test_a_stranger_is_told_no_and_not_whether_there_is_a_key(scene: Scene) -> None:
    none = "0" * 32
    there = intrusions(THERE, scene.upload)
    absent = intrusions(ABSENT, none)
    for number, (one, other) in enumerate(zip(there, absent, strict=True)):
        raw = scene.strangers[number % 3]
        answers = [
            raw.send(m, target, body, headers) for m, target, body, headers in (one, other)
        ]
        found, missed = answers
        assert shown(found, THERE, scene.upload) == shown(missed, ABSENT, none), one
        assert found.status == 403, one
        assert SECRET not in found.body
        assert not {"etag", "last-modified", "content-range"} & found.headers.keys()
    assert_untouched(scene)


def test_nobody_is_told_less(scene: Scene) -> None:
    """Who does not say who they are is refused before anything is looked at."""
    for one, other in zip(
        intrusions(THERE, scene.upload), intrusions(ABSENT, "0" * 32), strict=True
    ):
        answers = [
            scene.victim.send(m, target, body, is_signed=False, unsigned=headers)
            for m, target, body, headers in (one, other)
        ]
        assert [answer.status for answer in answers] == [403, 403], one
        assert len(answers[0].body) - len(answers[1].body) in {0, 2}
    assert_untouched(scene)


def test_buckets_of_others_say_nothing_of_what_is_in_them(scene: Scene) -> None:
    stranger = scene.stranger
    for method, target in (
        ("GET", MINE), ("GET", f"{MINE}?list-type=2"), ("GET", f"{MINE}?versions"),
        ("GET", f"{MINE}?uploads"), ("GET", f"{MINE}?location"), ("HEAD", MINE),
        ("DELETE", MINE), ("GET", f"{MINE}?versioning"),
        ("GET", f"{MINE}?list-type=2&prefix={THERE}"),
    ):  # fmt: skip
        assert stranger.send(method, target).status == 403, (method, target)
    assert MINE.strip("/") not in stranger.get("/").texts("Buckets/Bucket/Name")
    assert stranger.put(MINE).code == "BucketAlreadyExists"
    assert_untouched(scene)


def test_an_upload_of_another_is_none_of_mine(scene: Scene) -> None:
    """Its id, under a bucket of one's own."""
    for upload in (scene.upload, "0" * 32):
        of = f"{THEIRS}/{THERE}?uploadId={upload}"
        part = "<Part><PartNumber>1</PartNumber><ETag>x</ETag></Part>"
        for answer in (
            scene.stranger.put(f"{of}&partNumber=1", b"evil"),
            scene.stranger.get(of),
            scene.stranger.post(of, _document("CompleteMultipartUpload", part)),
            scene.stranger.delete(of),
        ):
            assert (answer.status, answer.code) == (404, "NoSuchUpload")
    assert_untouched(scene)


# ---- keys that look like paths --------------------------------------------------------

PATHS = {  # What is sent after the bucket -> the key it is, byte by byte.
    f"/..{MINE}/{THERE}": f"..{MINE}/{THERE}",  # CVE-2026-54917
    f"/../..{MINE}/x": f"../..{MINE}/x",
    f"/%2e%2e{MINE}/x1": f"..{MINE}/x1",
    f"/..%2f..%2f{MINE[1:]}%2fx2": f"../../{MINE[1:]}/x2",
    "/%252e%252e/x": "%2e%2e/x",
    "/./x": "./x",
    "//x": "/x",
    f"/{MINE}/x": f"{MINE}/x",
    "/..": "..",
    "/.": ".",
    "/../": "../",
    "/a/../b": "a/../b",
    "/..\\x": "..\\x",
    "/C:\\x": "C:\\x",
    "/%00/etc/passwd": "\0/etc/passwd",
    "/x%00.txt": "x\0.txt",
    "/../../../../../../etc/passwd": "../../../../../../etc/passwd",
    "/;/x": ";/x",
    "/-/admin/v1/status": "-/admin/v1/status",
    "/%EF%BC%8E%EF%BC%8E/x": "\uff0e\uff0e/x",
    "/%0A%7B%22event%22:%22forged%22%7D%0A%1B%5B2J": '\n{"event":"forged"}\n\x1b[2J',
}


def spelled(
    raw: Raw, method: str, sent: str, key: str, body: bytes | None = None
) -> Answer:
    """A request whose target is not in the form that is signed."""
    target = f"{THEIRS}/{quote(key.encode(), safe='/~')}"
    fields = raw.signed(method, target)
    return raw.send(method, THEIRS + sent, body, is_signed=False, unsigned=fields)


def test_keys_are_never_paths(scene: Scene) -> None:
    stranger = scene.stranger
    for sent, key in PATHS.items():
        assert spelled(stranger, "PUT", sent, key, key.encode()).status == 200, sent
        assert spelled(stranger, "GET", sent, key).body == key.encode(), sent
    listed = stranger.get(f"{THEIRS}?list-type=2&encoding-type=url")
    wanted = sorted([*PATHS.values(), THERE], key=str.encode)
    assert listed.texts("Contents/Key") == [quote(key, safe="/") for key in wanted]
    # Copy sources and keys in a batch are the same keys (CVE-2026-58372).
    for sent in PATHS:
        copied = stranger.put(f"{THEIRS}/to", x_amz_copy_source=f"{THEIRS}{sent}")
        assert copied.status == 200, sent
    keys = [key for key in PATHS.values() if not {"\0", "\x1b"} & set(key)]
    batch = _document("Delete", *(f"<Object><Key>{key}</Key></Object>" for key in keys))
    answer = stranger.send("POST", f"{THEIRS}?delete", batch, _digested(batch))
    assert sorted(answer.texts("Deleted/Key")) == sorted(keys)
    for sent, key in {**PATHS, "/to": "to"}.items():
        assert spelled(stranger, "DELETE", sent, key).status == 204
    assert stranger.get(f"{THEIRS}?list-type=2").texts("Contents/Key") == [THERE]
    assert_untouched(scene)


@pytest.mark.parametrize(
    "source",
    ["", "/", "//", "x", MINE, f"{MINE}/", f"{MINE}//{THERE}", f"{THEIRS}/..{MINE}/{THERE}",
     f"{THEIRS}/%2e%2e%2f{MINE[1:]}%2f{THERE}", f"{MINE}/{THERE}?versionId=", f"%2F{MINE}",
     f"{MINE}/{THERE}?versionId=null&versionId=null", f"{MINE}/{THERE}?acl", "%zz/%",
     f"http://127.0.0.1{MINE}/{THERE}", f"arn:aws:s3:::{MINE[1:]}/{THERE}", "\xff/\xfe",
     f"{MINE}/{THERE}, {THEIRS}/{THERE}", "/-/admin/v1/status", "/" + "a" * 2000],
)  # fmt: skip
def test_a_copy_has_one_source_which_is_ones_own(scene: Scene, source: str) -> None:
    """CVE-2024-47866, CVE-2026-39360."""
    upload = scene.stranger.post(f"{THEIRS}/to?uploads").text("UploadId")
    for target in (f"{THEIRS}/to", f"{THEIRS}/to?uploadId={upload}&partNumber=1"):
        fields = scene.stranger.signed("PUT", target, {"x-amz-copy-source": source})
        answer = scene.stranger.send("PUT", target, b"", is_signed=False, unsigned=fields)
        assert answer.status in {400, 403, 404, 501}, answer
        assert SECRET not in answer.body
    assert scene.stranger.delete(f"{THEIRS}/to?uploadId={upload}").status == 204
    assert scene.stranger.head(f"{THEIRS}/to").status == 404


ADMIN_PATHS = [
    "/-/admin/v1/status", "//-/admin/v1/status", "/./-/admin/v1/status",
    "/%2d/admin/v1/status", "/x/../-/admin/v1/status", "/-/admin/v1/status/",
    "/-/admin/v1//status", "/-/health/../admin/v1/status", "/-/health/live/../../admin/v1/keys",
    "/-/%61dmin/v1/status", "/-/admin/v1/keys", "/-/admin/v1/tokens", "/-/admin/v1/nodes",
    "/-/admin/v1/buckets", "/-/metrics/../admin/v1/status", "/-//admin/v1/status",
    "/-/ADMIN/v1/status", "/-/admin/v1/status?x=/-/health/live", "/-/admin/v1/status%00",
    "/-/health/live%2f..%2f..%2fadmin%2fv1%2fstatus",
]  # fmt: skip


def test_no_path_and_no_header_leads_to_the_admin_api(scene: Scene) -> None:
    raw, token = scene.stranger, str(scene.cluster.description["admin_token"])
    tries: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {token[:-1]}"},
        {"authorization": f"Bearer {token}0"},
        {"authorization": f"Basic {base64.b64encode(token.encode()).decode()}"},
        {"authorization": token},
        {"authorization": f"Bearer {scene.cluster.secret_key}"},
        {"authorization": "Bearer \xff"},
        {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"},  # CVE-2026-21862
        {"x-original-url": "/-/admin/v1/status", "x-forwarded-host": "localhost"},
        {"cookie": f"token={token}"},
    ]
    for path in ADMIN_PATHS:
        for headers in tries:
            for method in ("GET", "POST"):
                answer = raw.send(
                    method, path, b"{}" if method == "POST" else None,
                    is_signed=False, unsigned=headers,
                )  # fmt: skip
                assert answer.status in {400, 401, 403, 404, 405}, (path, headers)
                assert token.encode() not in answer.body
        assert raw.get(path).status in {400, 401, 403, 404}, path  # Signed by a key.
        asked = f"{path}{'&' if '?' in path else '?'}token={token}&access_token={token}"
        assert raw.send("GET", asked, is_signed=False).status in {400, 401, 403, 404}
    good = {"authorization": f"Bearer {token}"}
    assert raw.send("GET", ADMIN_PATHS[0], is_signed=False, unsigned=good).status == 200


def test_headers_about_the_way_change_nothing(scene: Scene) -> None:
    """Nobody's proxy is trusted, nor is a client's word for the method."""
    told = {
        "x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "forwarded": "for=127.0.0.1",
        "x-http-method-override": "DELETE", "x-method-override": "DELETE",
        "x-original-url": f"{MINE}/{ABSENT}", "x-rewrite-url": f"{MINE}/{ABSENT}",
        "x-forwarded-host": "evil", "x-minio-source-etag": "x", "x-objstore-internal": "1",
        "referer": "http://evil", "origin": "http://evil",
    }  # fmt: skip
    denied = scene.stranger.send("GET", f"{MINE}/{THERE}", unsigned=told)
    assert denied.status == 403
    allowed = scene.victim.send("GET", f"{MINE}/{THERE}", unsigned=told)
    assert allowed.body == SECRET
    assert not [name for name in allowed.headers if name.startswith("access-control-")]
    assert_untouched(scene)


# ---- what is written into answers ------------------------------------------------------

LINE_ENDS = ["\r\nX-Evil: 1", "\rX-Evil: 1", "\nX-Evil: 1", "\r\n\r\n<x>", "\0", "\x7f",
             "\u010d\u010aX-Evil: 1", "a\u2028b", "\x1b[2J"]  # fmt: skip


def test_no_parameter_writes_a_header(scene: Scene) -> None:
    """CVE-2020-10753, CVE-2021-3524, CVE-2020-1760."""
    names = ["content-type", "content-disposition", "content-language", "expires",
             "cache-control", "content-encoding"]  # fmt: skip
    for name in names:
        for evil in LINE_ENDS:
            target = f"{MINE}/{THERE}?response-{name}=a{quote(evil, safe='')}"
            for method in ("GET", "HEAD"):
                head = head_of(method, target, scene.victim.signed(method, target))
                answers = tell(scene.victim, head)
                assert [answer.status in {200, 400} for answer in answers] == [True]
                assert "x-evil" not in answers[0].headers, target


def test_no_metadata_writes_a_header(scene: Scene) -> None:
    victim = scene.victim
    for evil in LINE_ENDS:
        # As an SDK presigns metadata: a header in the query, and signed.
        named = f"{victim.url}{MINE}/meta?x-amz-meta-a={quote(evil, safe='')}"
        request = AWSRequest("PUT", named)
        key = Credentials(victim.access_key, victim.secret_key)
        S3SigV4QueryAuth(key, "s3", victim.region, expires=60).add_auth(request)
        url = urlsplit(request.url)
        assert quote(evil, safe="") in url.query
        answer = victim.send("PUT", f"{url.path}?{url.query}", b"x", is_signed=False)
        assert answer.status in {200, 400}, answer
        assert "x-evil" not in victim.head(f"{MINE}/meta").headers
        victim.delete(f"{MINE}/meta")
    for raw_value in ("a\rX-Evil: 1", "a\nX-Evil: 1", "a\0b", "a\r\n X-Evil: 1"):
        fields = victim.signed("PUT", f"{MINE}/meta", {"x-amz-meta-a": "VALUE"})
        head_bytes = head_of("PUT", f"{MINE}/meta", fields | {"content-length": "0"})
        (refusal,) = tell(victim, head_bytes.replace(b"VALUE", raw_value.encode()))
        assert refused(refusal), raw_value
    assert victim.head(f"{MINE}/meta").status == 404


def test_errors_are_no_pages(scene: Scene) -> None:
    """What a request says is repeated as text, in XML (CVE-2020-1760)."""
    script = "<script>alert(1)</script>"
    for target in (
        f"/{quote(script)}", f"{MINE}/{quote(script)}?versionId={quote(script)}",
        f"{MINE}?list-type=2&continuation-token={quote(script)}",
        f"{MINE}?list-type=2&prefix={quote(script)}&delimiter={quote(script)}",
        f"{MINE}/x?{quote(script)}={quote(script)}",
    ):  # fmt: skip
        for is_signed in (True, False):
            answer = scene.victim.send("GET", target, is_signed=is_signed)
            assert answer.headers["content-type"] == "application/xml"
            assert b"<script" not in answer.body
            assert answer.root.find(".//script") is None
    evil_host = f'h"><script>{"x" * 50}'
    answer = scene.victim.send("GET", "/", is_signed=False, host=evil_host)
    assert answer.status in {400, 403}
    assert b"<script" not in answer.body


# ---- documents ------------------------------------------------------------------------

LAUGHS = (
    b'<!DOCTYPE l [<!ENTITY a "lol">'
    + b"".join(
        b'<!ENTITY %c "%b">' % (n, b"&%c;" % (n - 1) * 10)
        for n in range(ord("b"), ord("j"))
    )
    + b"]>"
)
EVIL_XML = {
    "an external entity": b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>%s&f;%s',
    "an entity over the net": b'<!DOCTYPE x [<!ENTITY f SYSTEM "http://127.0.0.1:PORT/">]>%s&f;%s',
    "a parameter entity": b'<!DOCTYPE x [<!ENTITY %% p SYSTEM "file:///etc/passwd"> %%p;]>%s%s',
    "an external subset": b'<!DOCTYPE x SYSTEM "http://127.0.0.1:PORT/x.dtd">%s%s',
    "a billion laughs": LAUGHS + b"%s&i;%s",
    "depth": b"%s" + b"<a>" * 200_000 + b"%s",
    "width": b"%s" + b"<a/>" * 150_000 + b"%s",
    "attributes": b"%s<a " + b" ".join(b'a%d=""' % n for n in range(2000)) + b"/>%s",
    "one long name": b"%s<" + b"a" * 500_000 + b"/>%s",
    "two roots": b"%s%s<x/>",
    "an unknown encoding": b'<?xml version="1.0" encoding="UTF-7"?>%s%s',
    "a NUL": b"%s\0%s",
    "bytes that are no text": b"%s\xff\xfe%s",
    "an include": b'%s<xi:include href="file:///etc/passwd"/>%s',
}
DOCUMENTED = {
    "CreateBucket": ("PUT", "/hostile-new", "CreateBucketConfiguration"),
    "DeleteObjects": ("POST", f"{MINE}?delete", "Delete"),
    "CompleteMultipartUpload": (
        "POST",
        f"{MINE}/{THERE}?uploadId=UPLOAD",
        "CompleteMultipartUpload",
    ),
}


@pytest.mark.parametrize("operation", DOCUMENTED)
def test_documents_that_do_harm_are_malformed(scene: Scene, operation: str) -> None:
    """CVE-2022-47950, CVE-2020-12059."""
    method, target, root = DOCUMENTED[operation]
    target = target.replace("UPLOAD", scene.upload)
    before = resident_sizes(scene.cluster)
    ends = (f"<{root}>".encode(), f"</{root}>".encode())
    bait = socket.create_server(("127.0.0.1", 0))
    port = str(bait.getsockname()[1]).encode()
    for name, evil in EVIL_XML.items():
        body = evil.replace(b"PORT", port) % ends
        answer = scene.victim.send(method, target, body, _digested(body))
        assert (answer.status, answer.code) == (400, "MalformedXML"), (operation, name)
        assert b"root:" not in answer.body
    utf16 = f'<?xml version="1.0" encoding="UTF-16"?><{root}/>'.encode("utf-16")
    for body in (utf16, b"<" * 900_000, b"", b" ", b"<" + root.encode() + b">"):
        answer = scene.victim.send(method, target, body, _digested(body))
        allowed = {200} if operation == "CreateBucket" and not body.strip() else {400}
        assert answer.status in allowed, (operation, body[:20], answer)
    huge = b"<x>" + b" " * (8 << 20) + b"</x>"
    with suppress(OSError):  # Said early, and lost where a client does not look.
        assert scene.victim.send(method, target, huge, _digested(huge)).status in {400, 413}
    for one, two in zip(before, resident_sizes(scene.cluster), strict=True):
        assert two - one < 100 << 20
    with bait:
        bait.settimeout(0.2)
        with pytest.raises(TimeoutError):
            bait.accept()  # Nobody came to ask for what a document names.
    assert_untouched(scene)


def resident_sizes(cluster: Cluster) -> list[int]:
    """Bytes of memory of each node."""
    sizes = []
    for node in cluster.nodes:
        with open(f"/proc/{node.pid}/status") as status:
            found = re.search(r"VmRSS:\s+(\d+) kB", status.read())
        assert found is not None
        sizes.append(int(found[1]) << 10)
    return sizes


# ---- forms, and lists without end ------------------------------------------------------


@pytest.mark.parametrize("bucket", [MINE, "/../mine-alone", "/-", "//mine-alone", "/"])
def test_forms_are_not_taken(scene: Scene, bucket: str) -> None:
    """CVE-2023-28434, CVE-2026-27607: uploads by a browser's form are not built."""
    form = (
        b"--b\r\nContent-Disposition: form-data; name=key\r\n\r\nformed\r\n"
        b"--b\r\nContent-Disposition: form-data; name=bucket\r\n\r\nmine-alone\r\n"
        b"--b\r\nContent-Disposition: form-data; name=policy\r\n\r\ne30=\r\n"
        b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nevil\r\n--b--\r\n"
    )
    kind = {"content-type": "multipart/form-data; boundary=b"}
    anonymous = scene.victim.send("POST", bucket, form, is_signed=False, unsigned=kind)
    assert anonymous.status in {400, 401, 403, 404, 405, 501}
    signed = scene.victim.send("POST", bucket, form, kind)
    assert signed.status in {400, 403, 404, 405, 501}
    assert_untouched(scene)


@pytest.mark.full
def test_a_list_is_never_longer_than_a_page(scene: Scene) -> None:
    victim, bucket = scene.victim, "/hostile-list"
    assert victim.put(bucket).status == 200
    with victim.connect() as stream:
        for number in range(1200):
            target = f"{bucket}/{number:04}"
            fields = victim.signed("PUT", target) | {"content-length": "0"}
            stream.sendall(head_of("PUT", target, fields))
            assert read_answer(stream).status == 200
    for query in (
        "&max-keys=2147483647",
        "",
        "&max-keys=1001",
        "&delimiter=&max-keys=9999",
    ):
        for kind in ("list-type=2", "versions=", "x-list="):
            page = victim.get(f"{bucket}?{kind}{query}")
            found = page.texts("Contents/Key") + page.texts("Version/Key")
            assert (len(found), page.text("IsTruncated")) == (1000, "true")


@pytest.mark.parametrize(
    "query",
    ["max-keys=99999999999999999999", "max-keys=-1", "max-keys=1e3", "max-keys=%D9%A3",
     "marker=" + "a" * 20_000, "prefix=" + "a" * 20_000, "delimiter=" + "a" * 20_000,
     "list-type=2&continuation-token=" + "A" * 20_000, "list-type=2&start-after=%00",
     "list-type=2&continuation-token=%00", "list-type=3", "max-keys=1&max-keys=2",
     "prefix=%FF", "versions=&key-marker=a&version-id-marker=" + "f" * 10_000],
)  # fmt: skip
def test_no_argument_of_a_list_does_harm(scene: Scene, query: str) -> None:
    assert scene.victim.get(f"{MINE}?{query}").status in {200, 400, 501}


# ---- what two readers could read differently -------------------------------------------

PUT = "PUT {b}/smuggled HTTP/1.1\r\nHost: h\r\n"
GET = "GET / HTTP/1.1\r\nHost: h\r\n"
CHUNKED = PUT + "Transfer-Encoding: chunked\r\n"
AMBIGUOUS = {
    "length and chunks": (PUT + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunks and length": (CHUNKED + "Content-Length: 4\r\n\r\n0\r\n\r\n", 400),
    "chunks in 1.0": (CHUNKED.replace("HTTP/1.1", "HTTP/1.0") + "\r\n0\r\n\r\n", 400),
    "two lengths": (PUT + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
    "two other lengths": (PUT + "Content-Length: 0\r\nContent-Length: 9\r\n\r\n", 400),
    "a list of lengths": (PUT + "Content-Length: 0, 0\r\n\r\n", 400),
    "a length with a sign": (PUT + "Content-Length: +0\r\n\r\n", 400),
    "a length in hex": (PUT + "Content-Length: 0x0\r\n\r\n", 400),
    "a length below nothing": (PUT + "Content-Length: -1\r\n\r\n", 400),
    "a length too long": (PUT + f"Content-Length: {'9' * 30}\r\n\r\n", 400),
    "a length and a blank": (PUT + "Content-Length : 0\r\n\r\n", 400),
    "no such coding": (PUT + "Transfer-Encoding: xchunked\r\n\r\n", 501),
    "two codings": (PUT + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "two fields of coding": (CHUNKED + "Transfer-Encoding: chunked\r\n\r\n", 501),
    "identity": (PUT + "Transfer-Encoding: identity\r\n\r\n", 501),
    "a folded coding": (PUT + "Transfer-Encoding:\r\n chunked\r\n\r\n", 400),
    "a folded line": (GET + "X: a\r\n b\r\n\r\n", 400),
    "bare line feeds": (GET.replace("\r\n", "\n") + "\n", 400),
    "one bare line feed": (GET + "X: a\nY: b\r\n\r\n", 400),
    "a bare return": (GET + "X: a\rY: b\r\n\r\n", 400),
    "a NUL": (GET + "X: a\0b\r\n\r\n", 400),
    "another host": ("GET http://evil/x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "no host": ("GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + "Host: h\r\n\r\n", 400),
    "an authority": ("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 400),
    "no target": ("GET  HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "HTTP/9.9": ("GET / HTTP/9.9\r\nHost: h\r\n\r\n", 505),
    "the preface of HTTP/2": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9": ("GET /\r\n\r\n", 400),
    "a miracle": (GET + "Expect: a-miracle\r\n\r\n", 417),
    "many fields": (GET + "X: y\r\n" * 200 + "\r\n", 431),
    "a long field": (GET + f"X: {'y' * 70_000}\r\n\r\n", 431),
    "a long target": (f"GET /{'a' * 70_000} HTTP/1.1\r\nHost: h\r\n\r\n", 431),
    "no name": (GET + ": y\r\n\r\n", 400),
    "no colon": (GET + "nonsense\r\n\r\n", 400),
    "a blank in the target": ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "latin-1 in the target": ("GET /\xfc HTTP/1.1\r\nHost: h\r\n\r\n", 400),
}  # fmt: skip


def _smuggled(scene: Scene) -> bytes:
    """What must not be taken for a request: it would do harm."""
    target = f"{MINE}/{THERE}"
    return head_of("DELETE", target, scene.victim.signed("DELETE", target))


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_could_be_read_in_two_ways_ends_the_connection(
    scene: Scene, name: str
) -> None:
    text, status = AMBIGUOUS[name]
    request = text.replace("{b}", MINE).encode("latin-1")
    answers = tell(scene.victim, request + _smuggled(scene))
    assert [answer.status for answer in answers] == [status]
    assert answers[0].headers["connection"] == "close"
    assert_untouched(scene)


@pytest.mark.parametrize(
    "body",
    [
        b"4 \r\nabcd\r\n0\r\n\r\n", b"0x4\r\nabcd\r\n0\r\n\r\n", b"-4\r\nabcd\r\n0\r\n\r\n",
        b"00000000000000000004\r\nabcd\r\n0\r\n\r\n", b"4\r\nabcdXX0\r\n\r\n",
        b"4\nabcd\n0\n\n", b"4\r\nabcd\r\n0\n\n", b"fffffffffffffffff\r\nabcd",
        b"ffffffffffffffff\r\nabcd", b";x\r\nabcd", b"4;" + b"x" * 70_000 + b"\r\nabcd",
        b"4\r\nabcd\r\n0\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
        b"4\r\nabcd\r\n0\r\nbad trailer\r\n\r\n",
        b"4\r\nabcd\r\n0\r\nx: a\r\n b\r\n\r\n", b"g\r\n", b"\r\n", b"4\r\nab",
        b"1\r\na\r\n" * 30_000 + b"0\r\n\r\n",
    ],
)  # fmt: skip
def test_a_chunked_body_gone_wrong_is_no_request_after_it(
    scene: Scene, body: bytes
) -> None:
    """CVE-2025-43859 among others; a PUT without a length is 411 unless it is worse."""
    target = f"{MINE}/chunked"
    fields = scene.victim.signed("PUT", target, {"x-amz-decoded-content-length": "4"})
    head = head_of("PUT", target, fields | {"transfer-encoding": "chunked"})
    answers = tell(scene.victim, head + body + _smuggled(scene))
    assert [answer.status in {400, 411, 413, 431} for answer in answers] == [True]
    assert_untouched(scene)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300,  # A TLS hello.
        b"\x16\x03\x01\xff\xff" + b"\xff" * 70_000,
        b"SSH-2.0-OpenSSH_9\r\n", b"\0" * 100_000, b"\xff" * 100_000, b"\r\n" * 50_000,
        b"EHLO x\r\n", b"*1\r\n$4\r\nPING\r\n", b"\x80\x2e\x01\0\x02", b"a" * 100_000,
        b"GET", b"", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_is_shown_out(scene: Scene, data: bytes) -> None:
    for raw in scene.victims:
        with raw.connect_plain() as stream:
            try:
                stream.sendall(data)
                stream.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # Refused before we had said all of it.
            stream.settimeout(15)
            answer = receive_all(stream)
            assert b" 200 " not in answer
            assert b"Traceback" not in answer
    assert_untouched(scene)


@pytest.mark.parametrize("size", [(5 << 30) + 1, 10**15, 10**16])
def test_a_body_too_large_is_refused_before_it_comes(scene: Scene, size: int) -> None:
    expects = {"expect": "100-continue", "content-length": str(size)}
    for target in (f"{MINE}/huge", f"{MINE}/{THERE}?uploadId={scene.upload}&partNumber=2"):
        fields = scene.victim.signed("PUT", target) | expects
        with scene.victim.connect() as stream:
            stream.sendall(head_of("PUT", target, fields))
            stream.shutdown(socket.SHUT_WR)
            data = receive_all(stream)
        assert data.startswith(b"HTTP/1.1 400 "), data  # No 100 before it.
        (answer,) = answers_in(data)
        assert answer.code == ("EntityTooLarge" if size < 10**16 else "BadRequest")
    assert_untouched(scene)


def test_a_body_is_the_one_that_was_signed(scene: Scene) -> None:
    body = b"x" * 100
    crc = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    target = f"{MINE}/crc"
    fields = scene.victim.signed(
        "PUT",
        target,
        {"x-amz-checksum-crc32": crc},
        payload=hashlib.sha256(body).hexdigest(),
    )
    other = scene.victim.send("PUT", target, b"y" * 100, is_signed=False, unsigned=fields)
    assert other.status == 400
    assert scene.victim.head(target).status == 404
