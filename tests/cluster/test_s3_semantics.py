"""S3 as a picky user finds it, on three real nodes: what is answered, and how it is said.

Every request goes to another node than the one before.  What unit tests hold in detail is
here once, through sockets, signatures and Raft.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
import socket
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import attrs
import pytest

from objstore.s3.model import operations
from objstore.s3.operations.registry import OPERATIONS
from tests.cluster.raw import Answer, Raw, head_of, read_answer, sha256
from tests.harness import Cluster, running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

B = "/semantics"
OLD = "Thu, 01 Dec 1994 16:00:00 GMT"
PART = b"p" * (5 << 20)
_DATE = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("semantics")
    with running_cluster(folder, settings={"s3.domains": "s3.test"}) as running:
        assert Raw.of(running).put(B).status == 200
        yield running


@attrs.define
class Nodes:
    """Each request to the next node, every answer checked for what all have."""

    raws: list[Raw]
    _turn: Iterator[int] = attrs.field(factory=itertools.count)

    def send(self, method: str, target: str, *arguments: Any, **options: Any) -> Answer:
        raw = self.raws[next(self._turn) % len(self.raws)]
        answer = raw.send(method, target, *arguments, **options)
        check_every(answer, method)
        return answer

    def get(self, target: str, **headers: str) -> Answer:
        return self.send("GET", target, headers=named(headers))

    def head(self, target: str, **headers: str) -> Answer:
        return self.send("HEAD", target, headers=named(headers))

    def put(self, target: str, body: bytes = b"", **headers: str) -> Answer:
        return self.send("PUT", target, body, named(headers))

    def post(self, target: str, body: bytes = b"", **headers: str) -> Answer:
        return self.send("POST", target, body, named(headers))

    def delete(self, target: str, **headers: str) -> Answer:
        return self.send("DELETE", target, headers=named(headers))


def named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def check_every(answer: Answer, method: str) -> None:
    """Date, Server and both ids on every answer; errors are documents that repeat them."""
    headers = answer.headers
    assert _DATE.fullmatch(headers["date"])
    assert headers["server"] == "objstore"
    assert re.fullmatch("[0-9A-F]{16}", headers["x-amz-request-id"])
    assert headers["x-amz-id-2"]
    if method == "HEAD":
        assert answer.body == b""
    elif answer.status >= 400:
        assert headers["content-type"] == "application/xml"
        assert answer.root.tag == "Error"
        assert answer.text("Message")
        assert answer.text("RequestId") == headers["x-amz-request-id"]
        assert answer.text("HostId") == headers["x-amz-id-2"]
        assert answer.root.find("Resource") is not None


@pytest.fixture
def s3(cluster: Cluster) -> Nodes:
    return Nodes([Raw.of(cluster, node) for node in range(3)])


def refused(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.code


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


# ---- buckets --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["ab", "a" * 64, "UPPER", "a_b", "1.2.3.4", "a..b", "-ab", "ab-", "xn--ab", "%C3%BCbc",
     "abc-s3alias", "abc--ol-s3", "sthree-abc", "-"],
)  # fmt: skip
def test_names_that_no_bucket_may_have(s3: Nodes, name: str) -> None:
    assert refused(s3.put(f"/{name}")) == (400, "InvalidBucketName")


def test_the_life_of_a_bucket(s3: Nodes) -> None:
    made = s3.put("/life.of-a-bucket")
    assert (made.status, made.headers["location"]) == (200, "/life.of-a-bucket")
    assert s3.put("/life.of-a-bucket").status == 200  # By its owner, in us-east-1.
    found = s3.head("/life.of-a-bucket")
    assert (found.status, found.headers["x-amz-bucket-region"]) == (200, "us-east-1")
    assert s3.get("/life.of-a-bucket?location").root.text is None
    s3.put("/life.of-a-bucket/k", b"x")
    answer = s3.delete("/life.of-a-bucket")
    assert refused(answer) == (409, "BucketNotEmpty")
    assert answer.text("BucketName") == "life.of-a-bucket"
    s3.delete("/life.of-a-bucket/k")
    assert s3.delete("/life.of-a-bucket").status == 204
    for answer in (s3.delete("/life.of-a-bucket"), s3.get("/life.of-a-bucket"),
                   s3.put("/life.of-a-bucket/k", b"x")):  # fmt: skip
        assert refused(answer) == (404, "NoSuchBucket")
        assert answer.text("BucketName") == "life.of-a-bucket"
    assert s3.head("/life.of-a-bucket").status == 404


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("", (200, "")),
        ("<CreateBucketConfiguration/>", (200, "")),
        ("<CreateBucketConfiguration", (400, "MalformedXML")),
        ("<Other/>", (400, "MalformedXML")),
        ("us-east-1", (400, "InvalidLocationConstraint")),
        ("eu-west-1", (400, "IllegalLocationConstraintException")),
    ],
)
def test_the_location_constraint(
    s3: Nodes, document: str, expected: tuple[int, str]
) -> None:
    if document and not document.startswith("<"):
        document = (
            "<CreateBucketConfiguration xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
            f"<LocationConstraint>{document}</LocationConstraint>"
            "</CreateBucketConfiguration>"
        )
    assert refused(s3.put("/located", document.encode())) == expected


def test_buckets_are_listed_in_pages(s3: Nodes) -> None:
    names = [f"paged-{n}" for n in range(3)]
    for name in names:
        s3.put(f"/{name}")
    seen, token = [], ""
    while True:
        page = s3.get(f"/?max-buckets=1&prefix=paged-{token}")
        seen += page.texts("Buckets/Bucket/Name")
        following = page.root.findtext("ContinuationToken")
        if following is None:
            break
        assert page.text("Prefix") == "paged-"
        token = f"&continuation-token={quote(following)}"
    assert seen == names
    for query in ("max-buckets=0", "max-buckets=x", "continuation-token=x"):
        assert refused(s3.get(f"/?{query}")) == (400, "InvalidArgument")


# ---- what is not there ----------------------------------------------------------------


def shaped(name: str) -> tuple[str, str]:
    """(method, target) of a request that is the operation `name` of the service model."""
    described = operations()[name]
    path = {"service": "/", "bucket": B, "object": f"{B}/k"}[described.target]
    pairs = [f"{n}={v}" if v else n for n, v in described.literals.items()]
    pairs += [f"{n}=1" for n in sorted(described.required - described.literals.keys())]
    return described.method, path + ("?" + "&".join(pairs) if pairs else "")


@pytest.mark.parametrize("name", sorted(operations().keys() - OPERATIONS.keys()))
def test_what_s3_has_and_we_have_not_is_refused_by_name(s3: Nodes, name: str) -> None:
    method, target = shaped(name)
    answer = s3.send(method, target, b"<x/>" if method in {"PUT", "POST"} else None)
    if method == "HEAD":
        assert answer.status == 501
    else:
        assert refused(answer) == (501, "NotImplemented")
        assert answer.text("Operation") == name


def test_no_sub_resource_falls_through_to_another_operation(s3: Nodes) -> None:
    s3.put(f"{B}/through", b"kept")
    literals = {name for it in operations().values() for name in it.literals} | {"unknown"}
    for name in sorted(literals):
        for method in ("PUT", "DELETE", "POST"):
            for target in (f"{B}/through?{name}", f"{B}?{name}"):
                answer = s3.send(method, target, None if method == "DELETE" else b"x")
                if (method, target) == ("POST", f"{B}/through?uploads"):
                    assert answer.status == 200
                else:
                    assert answer.status in {400, 405, 501}, (method, target)
    assert s3.get(f"{B}/through").body == b"kept"


def test_wrong_methods_are_told_which_are_right(s3: Nodes) -> None:
    for method, target in (
        ("PUT", "/"), ("DELETE", "/"), ("POST", "/"), ("POST", f"{B}/k"),
        ("PATCH", f"{B}/k"), ("TRACE", f"{B}/k"), ("get", f"{B}/k"), ("PUT", f"{B}?location"),
    ):  # fmt: skip
        answer = s3.send(method, target, b"")
        assert refused(answer) == (405, "MethodNotAllowed"), (method, target)
        assert answer.text("Method") == method
    assert s3.put(f"{B}?location").headers["allow"] == "GET"


# ---- keys and lists -------------------------------------------------------------------

KEYS = sorted(
    ["a", "a/", "a/b", "a//b", "..", ".", "../x", "./", "a/../b", "/", "//", "/lead",
     "%2F", "a%2Fb", "%", "ü/日本", "\U0001f600", "\ud7ff", "\ufffe", "\x01ctl", "tab\tx",
     "nl\nx", "cr\rx", "<&>\"'", "a b+c", "~", "*", "?q=1", "#h", "\x7f", "\\", "k" * 1024,
     "ü" * 512],
    key=str.encode,
)  # fmt: skip


@pytest.fixture(scope="module")
def keys_bucket(cluster: Cluster) -> str:
    raw = Raw.of(cluster)
    raw.put("/awkward")
    for key in KEYS:
        assert raw.put(at("/awkward", key), key.encode()).status == 200
    return "awkward"


def at(bucket: str, key: str) -> str:
    return f"{bucket}/{quote(key.encode(), safe='/~')}"


def test_every_key_is_its_own(s3: Nodes, keys_bucket: str) -> None:
    for key in KEYS:
        assert s3.get(at(f"/{keys_bucket}", key)).body == key.encode()
    listed = s3.get(f"/{keys_bucket}?list-type=2&encoding-type=url")
    assert listed.texts("Contents/Key") == [quote(k.encode(), safe="/~") for k in KEYS]


@pytest.mark.parametrize("size", [1, 2, 5, len(KEYS), 1000])
@pytest.mark.parametrize("delimiter", ["", "/", "a", "%2F"])
def test_pages_of_any_size_end_exactly_and_leave_nothing_out(
    cluster: Cluster, keys_bucket: str, size: int, delimiter: str
) -> None:
    wanted_keys, wanted_prefixes = [], []
    for key in KEYS:
        head, found, _ = key.partition(delimiter) if delimiter else (key, "", "")
        if not found:
            wanted_keys.append(key)
        elif head + found not in wanted_prefixes:
            wanted_prefixes.append(head + found)
    for operation in ("list_objects_v2", "list_objects", "list_object_versions"):
        if operation == "list_object_versions" and size < 5:
            continue
        keys: list[str] = []
        prefixes: list[str] = []
        pages = cluster.s3(1).get_paginator(operation).paginate(
            Bucket=keys_bucket, Delimiter=delimiter, PaginationConfig={"PageSize": size}
        )  # fmt: skip
        for page in pages:
            entries = page.get("Contents", page.get("Versions", []))
            common = page.get("CommonPrefixes", [])
            keys += [entry["Key"] for entry in entries]
            prefixes += [entry["Prefix"] for entry in common]
            # Full but for the last: a page never ends early, nor is there an empty one.
            if page["IsTruncated"]:
                assert len(entries) + len(common) == size
            else:
                assert len(entries) + len(common) > 0
        assert (keys, prefixes) == (wanted_keys, wanted_prefixes), operation


def test_arguments_of_lists(s3: Nodes, keys_bucket: str) -> None:
    bucket = f"/{keys_bucket}"
    none = s3.get(f"{bucket}?list-type=2&max-keys=0")
    assert (none.text("KeyCount"), none.text("IsTruncated")) == ("0", "false")
    assert s3.get(f"{bucket}?max-keys=99999&encoding-type=url").text("MaxKeys") == "1000"
    for query in (
        "max-keys=-1", "max-keys=x", "max-keys=2147483648", "encoding-type=x", "list-type=1",
        "list-type=2&continuation-token=", "list-type=2&continuation-token=x",
        "versions&version-id-marker=null", "versions&key-marker=a&version-id-marker=x",
    ):  # fmt: skip
        assert refused(s3.get(f"{bucket}?{query}")) == (400, "InvalidArgument"), query
    page = s3.get(
        f"{bucket}?list-type=2&encoding-type=url&prefix=a&delimiter=%2F&start-after=a%20"
        "&fetch-owner=true&max-keys=2"
    )
    assert (page.text("Prefix"), page.text("Delimiter")) == ("a", "/")
    assert (page.text("StartAfter"), page.text("KeyCount")) == ("a%20", "2")
    assert page.texts("Contents/Key") == ["a%20b%2Bc", "a%252Fb"]
    assert len(page.texts("Contents/Owner/ID")) == 2
    token = quote(page.text("NextContinuationToken"))
    last = s3.get(f"{bucket}?list-type=2&prefix=a&delimiter=%2F&continuation-token={token}")
    assert (last.texts("CommonPrefixes/Prefix"), last.text("IsTruncated")) == (
        ["a/"],
        "false",
    )
    # A token is of its bucket.
    s3.put("/awkward-too")
    other = s3.get(f"/awkward-too?list-type=2&continuation-token={token}")
    assert refused(other) == (400, "InvalidArgument")
    # A marker is a place, not a key that must be there.
    assert s3.get(f"{bucket}?marker=a%2F%2Fa&prefix=a%2F").texts("Contents/Key") == [
        "a//b",
        "a/b",
    ]


def test_keys_that_cannot_be(s3: Nodes) -> None:
    for key in ("k" * 1025, "%C3%BC" * 512 + "k"):
        for method in ("PUT", "GET", "DELETE"):
            answer = s3.send(method, f"{B}/{key}", b"" if method == "PUT" else None)
            assert refused(answer) == (400, "KeyTooLongError")
            assert answer.text("MaxSizeAllowed") == "1024"
    for key in ("%FF", "%C3", "a%ED%A0%80"):
        assert refused(s3.put(f"{B}/{key}")) == (400, "InvalidURI")


# ---- objects --------------------------------------------------------------------------

DATA = bytes(range(100))


@pytest.fixture(scope="module")
def read_bucket(cluster: Cluster) -> str:
    raw = Raw.of(cluster)
    raw.put("/reads")
    put = raw.put(
        "/reads/o", DATA, cache_control="max-age=1", content_encoding="gzip,aws-chunked",
        content_language="de", content_disposition="attachment; filename=x",
        expires="Thu, 01 Dec 2030 16:00:00 GMT", content_type="text/x", x_amz_meta_Foo="Bar baz",
    )  # fmt: skip
    assert put.headers["etag"] == f'"{md5(DATA)}"'
    raw.put("/reads/empty", b"")
    return "/reads"


def test_an_object_keeps_its_headers(s3: Nodes, read_bucket: str) -> None:
    for answer in (s3.get(f"{read_bucket}/o"), s3.head(f"{read_bucket}/o")):
        expected = {
            "cache-control": "max-age=1", "content-encoding": "gzip", "content-language": "de",
            "content-disposition": "attachment; filename=x", "content-type": "text/x",
            "expires": "Thu, 01 Dec 2030 16:00:00 GMT", "x-amz-meta-foo": "Bar baz",
            "etag": f'"{md5(DATA)}"', "accept-ranges": "bytes", "content-length": "100",
        }  # fmt: skip
        assert expected.items() <= answer.headers.items()
        assert _DATE.fullmatch(answer.headers["last-modified"])
        assert not any(name.startswith("x-amz-checksum") for name in answer.headers)
    assert s3.head(f"{read_bucket}/empty").headers["content-type"] == "binary/octet-stream"


@pytest.mark.parametrize(
    ("value", "status", "span"),
    [
        ("bytes=0-9", 206, (0, 9)), ("bytes=10-", 206, (10, 99)), ("bytes=-10", 206, (90, 99)),
        ("bytes=99-", 206, (99, 99)), ("bytes=-1000", 206, (0, 99)),
        ("bytes=50-99999999999999999999999", 206, (50, 99)), ("Bytes=0-1", 206, (0, 1)),
        ("bytes=100-", 416, None), ("bytes=-0", 416, None), ("bytes=200-300", 416, None),
        ("bytes=50-10", 200, None), ("bytes=0-1,3-4", 200, None), ("bytes=x-y", 200, None),
        ("items=0-1", 200, None), ("bytes=", 200, None),
    ],
)  # fmt: skip
def test_ranges(
    s3: Nodes, read_bucket: str, value: str, status: int, span: tuple[int, int] | None
) -> None:
    get, head = (
        s3.send(m, f"{read_bucket}/o", headers={"range": value}) for m in ("GET", "HEAD")
    )
    assert (get.status, head.status) == (status, status)
    if status == 416:
        assert get.code == "InvalidRange"
        assert get.text("ActualObjectSize") == "100"
        assert (
            get.headers["content-range"] == head.headers["content-range"] == "bytes */100"
        )
        return
    first, last = span or (0, 99)
    assert get.body == DATA[first : last + 1]
    for answer in (get, head):
        assert answer.headers["content-length"] == str(last + 1 - first)
        shown = None if span is None else f"bytes {first}-{last}/100"
        assert answer.headers.get("content-range") == shown
        assert answer.headers["etag"] == f'"{md5(DATA)}"'


def test_no_range_of_an_empty_object_can_be_satisfied(s3: Nodes, read_bucket: str) -> None:
    for value in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        answer = s3.get(f"{read_bucket}/empty", range=value)
        assert refused(answer) == (416, "InvalidRange")
        assert answer.headers["content-range"] == "bytes */0"


def test_part_numbers_of_an_object_that_has_no_parts(s3: Nodes, read_bucket: str) -> None:
    whole = s3.get(f"{read_bucket}/o?partNumber=1")
    assert (whole.status, whole.headers["content-range"]) == (206, "bytes 0-99/100")
    assert "x-amz-mp-parts-count" not in whole.headers
    assert s3.get(f"{read_bucket}/empty?partNumber=1").status == 200
    beyond = s3.get(f"{read_bucket}/o?partNumber=2")
    assert refused(beyond) == (416, "InvalidPartNumber")
    assert beyond.text("ActualPartCount") == "1"
    for number in ("0", "x", "10001", "-1", ""):
        answer = s3.get(f"{read_bucket}/o?partNumber={number}")
        assert refused(answer) == (400, "InvalidArgument")
    both = s3.get(f"{read_bucket}/o?partNumber=1", range="bytes=0-1")
    assert refused(both) == (400, "InvalidRequest")


def test_response_overrides_on_get_and_head_and_for_nobody_unsigned(
    s3: Nodes, read_bucket: str
) -> None:
    wanted = {
        "cache-control": "no", "content-disposition": 'attachment; filename="ü x"',
        "content-encoding": "br", "content-language": "fr", "content-type": "a/b+c",
        "expires": "soon",
    }  # fmt: skip
    query = "&".join(f"response-{n}={quote(v, safe='')}" for n, v in wanted.items())
    for method in ("GET", "HEAD"):
        answer = s3.send(method, f"{read_bucket}/o?{query}")
        shown = {name: answer.headers[name] for name in wanted}
        assert shown == wanted
    anonymous = s3.send("GET", f"{read_bucket}/o?{query}", is_signed=False)
    assert refused(anonymous) == (403, "AccessDenied")


def test_conditions_of_reads_in_their_order_of_precedence(
    s3: Nodes, read_bucket: str
) -> None:
    etag, modified = f'"{md5(DATA)}"', s3.head(f"{read_bucket}/o").headers["last-modified"]
    for headers, status in (
        ({"if-match": etag}, 200),
        ({"if-match": md5(DATA)}, 200),
        ({"if-match": f'"x", {etag}'}, 200),
        ({"if-match": "*"}, 200),
        ({"if-match": '"x"'}, 412),
        ({"if-match": f"W/{etag}"}, 412),
        ({"if-none-match": etag}, 304),
        ({"if-none-match": f"W/{etag}"}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"x"'}, 200),
        ({"if-modified-since": modified}, 304),
        ({"if-modified-since": OLD}, 200),
        ({"if-modified-since": "nonsense"}, 200),
        ({"if-unmodified-since": modified}, 200),
        ({"if-unmodified-since": OLD}, 412),
        ({"if-match": etag, "if-unmodified-since": OLD}, 200),
        ({"if-none-match": '"x"', "if-modified-since": modified}, 200),
        ({"if-none-match": etag, "if-modified-since": OLD}, 304),
        ({"if-match": etag, "if-none-match": etag}, 304),
        ({"range": "bytes=0-1", "if-range": etag}, 206),
        ({"range": "bytes=0-1", "if-range": '"x"'}, 200),
        ({"range": "bytes=0-1", "if-none-match": etag}, 304),
    ):
        for method in ("GET", "HEAD"):
            answer = s3.send(method, f"{read_bucket}/o", headers=headers)
            assert answer.status == status, (method, headers)
            if status == 304:
                assert answer.body == b""
                assert answer.headers["etag"] == etag
                assert answer.headers["last-modified"] == modified
                assert "content-length" not in answer.headers
            if status == 412 and method == "GET":
                assert answer.code == "PreconditionFailed"
                assert answer.text("Condition").lower() in headers


def test_what_is_missing_is_named(s3: Nodes) -> None:
    answer = s3.get(f"{B}/a%20b%2F")
    assert refused(answer) == (404, "NoSuchKey")
    assert answer.text("Key") == "a b/"
    assert answer.text("Resource") == f"{B}/a%20b%2F"
    assert s3.head(f"{B}/absent").status == 404
    assert s3.delete(f"{B}/absent").status == 204
    answer = s3.get("/no-such-bucket/k")
    assert refused(answer) == (404, "NoSuchBucket")
    assert answer.text("BucketName") == "no-such-bucket"
    answer = s3.get(f"{B}/k?versionId={'0' * 32}")
    assert refused(answer) == (404, "NoSuchVersion")
    assert answer.text("VersionId") == "0" * 32
    for version in ("", "x", "NULL"):
        assert refused(s3.get(f"{B}/k?versionId={version}")) == (400, "InvalidArgument")


# ---- integrity ------------------------------------------------------------------------


def test_digests_in_headers(s3: Nodes) -> None:
    body = b"123456789"
    crc = b64(zlib.crc32(body).to_bytes(4, "big"))
    right = s3.put(f"{B}/sum", body, x_amz_checksum_crc32=crc)
    assert right.headers["x-amz-checksum-crc32"] == crc
    assert right.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    shown = s3.get(f"{B}/sum", x_amz_checksum_mode="ENABLED")
    assert shown.headers["x-amz-checksum-crc32"] == crc
    assert "x-amz-checksum-crc32" not in s3.get(f"{B}/sum").headers
    assert "x-amz-checksum-crc32" not in s3.get(
        f"{B}/sum", x_amz_checksum_mode="ENABLED", range="bytes=0-1"
    ).headers  # fmt: skip
    assert (
        s3.put(f"{B}/sum", body, content_md5=b64(hashlib.md5(body).digest())).status == 200
    )
    wrong = {
        ("BadDigest", ("content-md5", b64(b"m" * 16))),
        ("InvalidDigest", ("content-md5", "abc")),
        ("InvalidDigest", ("content-md5", b64(b"short"))),
        ("BadDigest", ("x-amz-checksum-crc32", b64(b"abcd"))),
        ("BadDigest", ("x-amz-checksum-crc32c", b64(b"abcd"))),
        ("BadDigest", ("x-amz-checksum-crc64nvme", b64(b"abcdefgh"))),
        ("BadDigest", ("x-amz-checksum-sha1", b64(b"s" * 20))),
        ("BadDigest", ("x-amz-checksum-sha256", b64(b"s" * 32))),
        ("InvalidRequest", ("x-amz-checksum-sha256", b64(b"short"))),
        ("InvalidRequest", ("x-amz-checksum-crc32", "not base64")),
        ("InvalidRequest", ("x-amz-sdk-checksum-algorithm", "MD4")),
        ("NotImplemented", ("x-amz-checksum-xxhash64", "abc")),
    }
    for code, (name, value) in sorted(wrong):
        answer = s3.send("PUT", f"{B}/never", body, {name: value})
        assert answer.code == code, (name, value)
    answer = s3.send("PUT", f"{B}/never", body, payload=sha256(b"other"))
    assert refused(answer) == (400, "XAmzContentSHA256Mismatch")
    assert answer.text("S3ComputedContentSHA256") == sha256(body)
    two = {"x-amz-checksum-crc32": crc, "x-amz-checksum-sha1": b64(b"s" * 20)}
    assert refused(s3.send("PUT", f"{B}/never", body, two)) == (400, "InvalidRequest")
    assert s3.send("PUT", f"{B}/never", body, payload="nonsense").code == "InvalidArgument"
    assert s3.head(f"{B}/never").status == 404


def _can_be(algorithm: str, kind: str) -> bool:
    """Whether parts' checksums of this algorithm can be made into one of this kind."""
    if kind == "COMPOSITE":
        return algorithm != "CRC64NVME"
    return algorithm.startswith("CRC")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_in_trailers_and_of_parts(cluster: Cluster, algorithm: str) -> None:
    """boto3 sends a stream's checksum as a trailer."""
    s3 = cluster.s3(2)
    name, bucket = f"Checksum{algorithm}", B[1:]
    body = io.BytesIO(b"z" * 100_000)
    put = s3.put_object(
        Bucket=bucket, Key="trailer", Body=body, ChecksumAlgorithm=algorithm
    )
    got = s3.get_object(Bucket=bucket, Key="trailer", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"z" * 100_000
    assert got[name] == put[name]
    for kind in ("COMPOSITE", "FULL_OBJECT"):
        whole = {"Bucket": bucket, "Key": f"{algorithm}-{kind}"}
        asked = {"ChecksumAlgorithm": algorithm, "ChecksumType": kind}
        if not _can_be(algorithm, kind):
            with pytest.raises(s3.exceptions.ClientError, match="InvalidRequest"):
                s3.create_multipart_upload(**whole, **asked)
            continue
        created = s3.create_multipart_upload(**whole, **asked)
        of = {**whole, "UploadId": created["UploadId"]}
        parts = []
        for number, data in ((2, b"end"), (1, PART)):
            part = s3.upload_part(
                **of, PartNumber=number, Body=data, ChecksumAlgorithm=algorithm
            )
            parts.append({"PartNumber": number, "ETag": part["ETag"], name: part[name]})
        parts.reverse()
        changed = [parts[0] | {name: parts[1][name]}, parts[1]]
        with pytest.raises(s3.exceptions.ClientError, match="InvalidPart"):
            s3.complete_multipart_upload(**of, MultipartUpload={"Parts": changed})
        done = s3.complete_multipart_upload(**of, MultipartUpload={"Parts": parts})
        assert done["ChecksumType"] == kind
        assert done[name].endswith("-2") == (kind == "COMPOSITE")
        shown = s3.head_object(**whole, ChecksumMode="ENABLED")
        assert (shown[name], shown["ChecksumType"]) == (done[name], kind)
        shown = s3.get_object_attributes(
            **whole, ObjectAttributes=["Checksum", "ObjectParts", "ObjectSize", "ETag"]
        )
        assert shown["ObjectSize"] == len(PART) + 3
        assert [part[name] for part in shown["ObjectParts"]["Parts"]] == [
            part[name] for part in parts
        ]


def test_bodies_that_are_not_what_they_should_be_leave_nothing(s3: Nodes) -> None:
    raw = s3.raws[0]
    assert refused(s3.send("PUT", f"{B}/never", None)) == (411, "MissingContentLength")
    too_long = s3.send(
        "PUT", f"{B}/never", None, unsigned={"content-length": str(5 * 2**30 + 1)}
    )
    assert refused(too_long) == (400, "EntityTooLarge")
    assert too_long.text("MaxSizeAllowed") == str(5 * 2**30)
    short = raw.signed("PUT", f"{B}/never") | {"content-length": "10"}
    with raw.connect() as stream:
        stream.sendall(head_of("PUT", f"{B}/never", short) + b"five.")
        stream.shutdown(socket.SHUT_WR)
        answer = read_answer(stream)
    check_every(answer, "PUT")
    assert refused(answer) == (400, "IncompleteBody")
    chunked = raw.signed("PUT", f"{B}/never") | {"transfer-encoding": "chunked"}
    with raw.connect() as stream:
        stream.sendall(head_of("PUT", f"{B}/never", chunked) + b"5\r\nhello\r\n0\r\n\r\n")
        assert refused(read_answer(stream)) == (411, "MissingContentLength")
    document = b"<x>" + b"y" * (1 << 20)
    assert refused(s3.put("/never-made", document)) == (400, "MaxMessageLengthExceeded")
    assert s3.head(f"{B}/never").status == 404


def test_headers_that_ask_for_what_is_not_done_are_refused(s3: Nodes) -> None:
    for name, value, expected in (
        ("x-amz-server-side-encryption", "AES256", (501, "NotImplemented")),
        ("x-amz-tagging", "a=b", (501, "NotImplemented")),
        ("x-amz-object-lock-mode", "GOVERNANCE", (501, "NotImplemented")),
        ("x-amz-website-redirect-location", "/x", (501, "NotImplemented")),
        ("x-amz-acl", "public-read", (400, "AccessControlListNotSupported")),
        ("x-amz-acl", "nonsense", (400, "InvalidArgument")),
        ("x-amz-grant-read", "id=x", (400, "AccessControlListNotSupported")),
        ("x-amz-storage-class", "GLACIER", (400, "InvalidStorageClass")),
        ("x-amz-expected-bucket-owner", "123456789012", (403, "AccessDenied")),
        ("x-amz-meta-big", "a" * 2048, (400, "MetadataTooLarge")),
        ("if-none-match", '"x"', (501, "NotImplemented")),
        ("if-modified-since", OLD, (501, "NotImplemented")),
    ):
        assert refused(s3.send("PUT", f"{B}/never", b"x", {name: value})) == expected, name
    assert s3.head(f"{B}/never").status == 404
    for name, value in (("x-amz-acl", "private"), ("x-amz-storage-class", "STANDARD"),
                        ("x-amz-meta-big", "a" * 2045)):  # fmt: skip
        assert s3.send("PUT", f"{B}/allowed", b"x", {name: value}).status == 200, name


# ---- conditional writes and deletes ---------------------------------------------------


def test_conditions_of_writes(s3: Nodes) -> None:
    target = f"{B}/cas"
    assert refused(s3.put(target, b"1", if_match='"x"')) == (404, "NoSuchKey")
    assert refused(s3.put(target, b"1", if_match="*")) == (404, "NoSuchKey")
    assert s3.put(target, b"1", if_none_match="*").status == 200
    assert refused(s3.put(target, b"2", if_none_match="*")) == (412, "PreconditionFailed")
    assert refused(s3.put(target, b"2", if_match='"x"')) == (412, "PreconditionFailed")
    assert s3.put(target, b"2", if_match=f'"{md5(b"1")}"').status == 200
    assert s3.put(target, b"3", if_match=md5(b"2")).status == 200
    copied = s3.put(f"{B}/cas2", x_amz_copy_source=target, if_none_match="*")
    assert copied.status == 200
    copied = s3.put(f"{B}/cas2", x_amz_copy_source=target, if_none_match="*")
    assert refused(copied) == (412, "PreconditionFailed")
    assert refused(s3.delete(target, if_match='"x"')) == (412, "PreconditionFailed")
    assert s3.get(target).body == b"3"
    assert s3.delete(target, if_match=f'"{md5(b"3")}"').status == 204
    assert refused(s3.delete(target, if_match="*")) == (404, "NoSuchKey")


def delete_objects(s3: Nodes, document: str, **headers: str) -> Answer:
    body = document.encode()
    digest = {"content_md5": b64(hashlib.md5(body).digest())} | headers
    return s3.post(f"{B}?delete", body, **digest)


def test_delete_objects_decides_each_key_for_itself(s3: Nodes) -> None:
    for key in ("d1", "d2", "d3", "%20d%0A"):
        s3.put(f"{B}/{key}", b"x")
    answer = delete_objects(
        s3,
        "<Delete xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
        "<Object><Key>d1</Key></Object><Object><Key>absent</Key></Object>"
        '<Object><Key>d2</Key><ETag>"x"</ETag></Object>'
        f"<Object><Key>d3</Key><ETag>{md5(b'x')}</ETag></Object>"
        "<Object><Key>d3</Key><VersionId>x</VersionId></Object>"
        "<Object><Key></Key></Object><Object><Key> d&#10;</Key></Object>"
        f"<Object><Key>{'k' * 1025}</Key></Object></Delete>",
    )
    assert answer.status == 200
    assert answer.texts("Deleted/Key") == ["d1", "absent", "d3", " d\n"]
    assert answer.texts("Error/Code") == [
        "PreconditionFailed", "InvalidArgument", "UserKeyMustBeSpecified", "KeyTooLongError",
    ]  # fmt: skip
    assert s3.head(f"{B}/d2").status == 200
    assert s3.head(f"{B}/d1").status == s3.head(f"{B}/d3").status == 404
    quiet = delete_objects(
        s3, "<Delete><Quiet>true</Quiet><Object><Key>d2</Key></Object></Delete>"
    )
    assert len(quiet.root) == 0


def test_delete_objects_that_cannot_be_read(s3: Nodes) -> None:
    one = "<Object><Key>x</Key></Object>"
    for document in (
        "", "<Delete>", "<Delete></Delete>", "<Other/>", f"<Delete>{one}<Else/></Delete>",
        f"<Delete>{one * 1001}</Delete>",
        f"<!DOCTYPE x [<!ENTITY a 'b'>]><Delete>{one}</Delete>",
        "<Delete>" + "<Object>" * 20 + "</Object>" * 20 + "</Delete>",
    ):  # fmt: skip
        assert refused(delete_objects(s3, document)) == (400, "MalformedXML"), document[:60]
    document = f"<Delete>{one}</Delete>"
    assert delete_objects(s3, document, content_md5=b64(b"m" * 16)).code == "BadDigest"
    assert refused(s3.post(f"{B}?delete", document.encode())) == (400, "InvalidRequest")


# ---- copies ---------------------------------------------------------------------------


def test_copies_and_their_directives(s3: Nodes) -> None:
    source = f"{B}/from%2B%C3%BC"
    s3.put(source, b"0123456789", content_type="text/s", x_amz_meta_a="1")
    for named in (source, source[1:], quote(unquote(source[1:]), safe="")):
        copied = s3.put(f"{B}/to", x_amz_copy_source=named, x_amz_meta_b="ignored")
        assert copied.text("ETag") == f'"{md5(b"0123456789")}"'
    head = s3.head(f"{B}/to").headers
    assert (head["content-type"], head["x-amz-meta-a"]) == ("text/s", "1")
    assert "x-amz-meta-b" not in head
    s3.put(f"{B}/to", x_amz_copy_source=source, x_amz_metadata_directive="REPLACE",
           x_amz_meta_b="2", content_type="x/y")  # fmt: skip
    head = s3.head(f"{B}/to").headers
    assert (head["content-type"], head["x-amz-meta-b"]) == ("x/y", "2")
    assert "x-amz-meta-a" not in head
    itself = s3.put(source, x_amz_copy_source=source)
    assert refused(itself) == (400, "InvalidRequest")
    itself = s3.put(source, x_amz_copy_source=source, x_amz_metadata_directive="REPLACE")
    assert itself.status == 200
    assert s3.get(source).body == b"0123456789"
    bad = s3.put(f"{B}/to", x_amz_copy_source=source, x_amz_metadata_directive="x")
    assert refused(bad) == (400, "InvalidArgument")
    for named in ("", "/", B, f"{source}?x=1", f"{source}?versionId=x"):
        bad = s3.put(f"{B}/to", x_amz_copy_source=named)
        assert refused(bad) == (400, "InvalidArgument"), named
    absent = s3.put(f"{B}/to", x_amz_copy_source=f"{B}/../other/k")
    assert refused(absent) == (404, "NoSuchKey")  # Keys are never paths.
    assert absent.text("Key") == "../other/k"
    absent = s3.put(f"{B}/to", x_amz_copy_source="/no-such-bucket/k")
    assert absent.text("BucketName") == "no-such-bucket"


def test_conditions_on_a_copys_source(s3: Nodes) -> None:
    source = f"{B}/conditional"
    s3.put(source, b"x")
    etag, other = f'"{md5(b"x")}"', '"y"'
    for headers, status in (
        ({"if-match": etag}, 200), ({"if-match": other}, 412),
        ({"if-none-match": etag}, 412), ({"if-none-match": other}, 200),
        ({"if-modified-since": OLD}, 200), ({"if-unmodified-since": OLD}, 412),
        ({"if-match": etag, "if-unmodified-since": OLD}, 200),
        ({"if-none-match": etag, "if-modified-since": OLD}, 412),
    ):  # fmt: skip
        sent = {f"x-amz-copy-source-{name}": value for name, value in headers.items()}
        sent["x-amz-copy-source"] = source
        assert s3.send("PUT", f"{B}/copied", b"", sent).status == status, headers


# ---- multipart ------------------------------------------------------------------------


def begin(s3: Nodes, key: str, **headers: str) -> str:
    return s3.post(f"{B}/{key}?uploads", **headers).text("UploadId")


def complete(
    s3: Nodes, key: str, upload: str, parts: list[tuple[int, str]], **headers: str
) -> Answer:
    listed = "".join(
        f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in parts
    )
    document = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
    return s3.post(f"{B}/{key}?uploadId={upload}", document.encode(), **headers)


def test_the_life_of_a_multipart_upload(s3: Nodes) -> None:
    key, small, last = "parts", md5(b"tiny"), md5(b"last")
    upload = begin(s3, key, content_type="a/b", x_amz_meta_m="1")
    of = f"{B}/{key}?uploadId={upload}"
    assert s3.put(f"{of}&partNumber=7", b"last").headers["etag"] == f'"{last}"'
    assert s3.put(f"{of}&partNumber=2", b"tiny").headers["etag"] == f'"{small}"'
    for parts, code in (
        ([(2, small), (7, last)], "EntityTooSmall"),
        ([(7, last), (2, small)], "InvalidPartOrder"),
        ([(2, small), (2, small)], "InvalidPartOrder"),
        ([(2, last), (7, last)], "InvalidPart"),
        ([(2, small), (3, last)], "InvalidPart"),
        ([(0, small)], "InvalidArgument"),
        ([], "MalformedXML"),
    ):
        assert refused(complete(s3, key, upload, parts)) == (400, code), parts
    assert refused(s3.post(of, b"<Complete")) == (400, "MalformedXML")
    for number in ("0", "10001", "x", ""):
        answer = s3.put(f"{of}&partNumber={number}", b"x")
        assert refused(answer) == (400, "InvalidArgument")
    assert refused(s3.put(f"{B}/{key}?partNumber=1", b"x")) == (400, "InvalidArgument")
    assert s3.head(f"{B}/{key}").status == 404
    # A part that is sent again takes the place of the first.
    large = md5(PART)
    assert s3.put(f"{of}&partNumber=2", PART).headers["etag"] == f'"{large}"'
    page = s3.get(f"{of}&max-parts=1")
    assert (page.texts("Part/PartNumber"), page.text("NextPartNumberMarker")) == (
        ["2"],
        "2",
    )
    assert page.text("IsTruncated") == "true"
    page = s3.get(f"{of}&part-number-marker=2")
    assert (page.texts("Part/Size"), page.text("IsTruncated")) == (["4"], "false")
    listed = s3.get(f"{B}?uploads&prefix={key}")
    assert listed.texts("Upload/UploadId") == [upload]

    parts = [(2, f'"{large}"'), (7, last)]
    wrong = complete(s3, key, upload, parts, x_amz_mp_object_size="1")
    assert refused(wrong) == (400, "InvalidRequest")
    etag = f'"{md5(bytes.fromhex(large) + bytes.fromhex(last))}-2"'
    done = complete(s3, key, upload, parts, if_none_match="*")
    assert (done.status, done.text("ETag"), done.text("Key")) == (200, etag, key)
    assert done.text("Location").endswith(f"{B}/{key}")
    assert complete(s3, key, upload, parts).text("ETag") == etag  # Repeated.
    for answer in (
        complete(s3, key, upload, [(7, last)]), s3.put(f"{of}&partNumber=1", b"x"),
        s3.get(of), s3.delete(of),
    ):  # fmt: skip
        assert refused(answer) == (404, "NoSuchUpload")
        assert answer.text("UploadId") == upload

    head = s3.head(f"{B}/{key}").headers
    assert (head["etag"], head["content-type"], head["x-amz-meta-m"]) == (etag, "a/b", "1")
    # Parts keep their numbers; how many there are is no number.
    second = s3.get(f"{B}/{key}?partNumber=7")
    assert (second.status, second.body) == (206, b"last")
    assert second.headers["x-amz-mp-parts-count"] == "2"
    size = len(PART) + 4
    assert second.headers["content-range"] == f"bytes {len(PART)}-{size - 1}/{size}"
    assert s3.get(f"{B}/{key}", range="bytes=-6").body == b"pplast"
    assert refused(s3.get(f"{B}/{key}?partNumber=3")) == (416, "InvalidPartNumber")
    s3.put(f"{B}/{key}", b"overwritten")
    assert refused(complete(s3, key, upload, parts)) == (404, "NoSuchUpload")


def test_uploads_are_listed_in_pages_by_key_and_age(s3: Nodes) -> None:
    s3.put("/uploads")
    begun = []
    for key in ("a", "a", "a/1", "a/2", "b c+", "b c+"):
        upload = s3.post(at("/uploads", key) + "?uploads").text("UploadId")
        begun.append((quote(key, safe="/"), upload))

    def listed(query: str, size: int) -> tuple[list[tuple[str, str]], list[str]]:
        found: list[tuple[str, str]] = []
        prefixes: list[str] = []
        place = ""
        while True:
            page = s3.get(
                f"/uploads?uploads&encoding-type=url&max-uploads={size}{query}{place}"
            )
            ids = page.texts("Upload/UploadId")
            found += zip(page.texts("Upload/Key"), ids, strict=True)
            prefixes += page.texts("CommonPrefixes/Prefix")
            if page.text("IsTruncated") == "false":
                return found, prefixes
            assert len(ids) + len(page.texts("CommonPrefixes")) == size
            # Markers are shown encoded, as everything is that was asked for so.
            marker = unquote(page.text("NextKeyMarker"))
            place = f"&key-marker={quote(marker, safe='')}"
            place += f"&upload-id-marker={page.text('NextUploadIdMarker')}"

    for size in (1, 2, 4, 6, 1000):
        assert listed("", size) == (begun, [])
        assert listed("&prefix=a%2F", size) == (begun[2:4], [])
        assert listed("&delimiter=%2F", size) == (begun[:2] + begun[4:], ["a/"])
    assert s3.get("/uploads?uploads&max-uploads=0").texts("Upload") == []
    assert refused(s3.delete("/uploads")) == (409, "BucketNotEmpty")


def test_uploads_that_are_none(s3: Nodes) -> None:
    upload = begin(s3, "gone")
    of = f"{B}/gone?uploadId={upload}"
    assert s3.delete(of).status == 204
    for answer in (
        s3.delete(of), s3.get(of), s3.put(f"{of}&partNumber=1", b"x"),
        complete(s3, "gone", upload, [(1, md5(b"x"))]),
        complete(s3, "gone", "nonsense", [(1, md5(b"x"))]),
        s3.put(f"{B}/gone?partNumber=1&uploadId={'0' * 32}", b"x"),
        s3.put(f"{B}/another?partNumber=1&uploadId={upload}", b"x"),
    ):  # fmt: skip
        assert refused(answer) == (404, "NoSuchUpload")


def test_parts_that_are_copied(s3: Nodes) -> None:
    size = len(PART) + 4
    s3.put(f"{B}/whole", PART + b"tail")
    upload = begin(s3, "pieced")

    def copy(
        number: int, span: str | None, source: str = f"{B}/whole", **more: str
    ) -> Answer:
        headers = {"x_amz_copy_source": source} | more
        if span is not None:
            headers["x_amz_copy_source_range"] = span
        return s3.put(f"{B}/pieced?partNumber={number}&uploadId={upload}", **headers)

    parts = []
    for number, span in (
        (2, f"bytes={len(PART)}-{size - 1}"),
        (1, f"bytes=0-{len(PART) - 1}"),
    ):
        parts.insert(0, (number, copy(number, span).text("ETag")))
    for span in (f"bytes=0-{size}", f"bytes={size}-{size}", "bytes=0-", "bytes=-5", "bytes=5-1",
                 "0-1", "bytes=0-1,3-4", "bytes=x-y"):  # fmt: skip
        assert refused(copy(3, span)) == (400, "InvalidArgument"), span
    assert refused(copy(3, None, f"{B}/absent")) == (404, "NoSuchKey")
    conditional = copy(3, None, x_amz_copy_source_if_match='"x"')
    assert refused(conditional) == (412, "PreconditionFailed")
    assert complete(s3, "pieced", upload, parts).status == 200
    assert s3.get(f"{B}/pieced").body == PART + b"tail"


# ---- who ------------------------------------------------------------------------------


def test_a_key_of_its_own_sees_and_touches_only_what_it_made(
    cluster: Cluster, s3: Nodes
) -> None:
    made = cluster.command("key", "create", "--name", "picky")
    mine = Nodes(
        [
            attrs.evolve(raw, access_key=made["access_key"], secret_key=made["secret_key"])
            for raw in s3.raws
        ]
    )
    s3.put(f"{B}/secret", b"root's")
    for answer in (
        mine.get(f"{B}/secret"), mine.get(f"{B}/absent"), mine.get(B), mine.put(f"{B}/k", b"x"),
        mine.get(f"{B}/secret", if_none_match=md5(b"root's")), mine.delete(f"{B}/secret"),
        mine.get(f"{B}?uploads"), mine.delete(B), mine.post(f"{B}/k?uploads"),
    ):  # fmt: skip
        assert refused(answer) == (403, "AccessDenied")
    assert mine.head(f"{B}/secret").status == mine.head(f"{B}/absent").status == 403
    assert refused(mine.put(B)) == (409, "BucketAlreadyExists")
    assert mine.put("/picky-own").status == 200
    copied = mine.put("/picky-own/k", x_amz_copy_source=f"{B}/secret")
    assert refused(copied) == (403, "AccessDenied")
    assert mine.get("/").texts("Buckets/Bucket/Name") == ["picky-own"]
    assert mine.get("/").text("Owner/ID") == made["canonical_id"]
    assert "picky-own" in s3.get("/").texts("Buckets/Bucket/Name")
    assert mine.put("/picky-own/k", b"mine").status == 200
    assert s3.get("/picky-own/k").body == b"mine"  # The root key sees all.
    listed = mine.get("/picky-own?list-type=2&fetch-owner=true")
    assert listed.texts("Contents/Owner/ID") == [made["canonical_id"]]


def test_who_is_not_who_they_say(s3: Nodes) -> None:
    raw = s3.raws[0]
    for changed, expected in (
        (attrs.evolve(raw, secret_key="wrong"), (403, "SignatureDoesNotMatch")),
        (attrs.evolve(raw, access_key="NOBODY"), (403, "InvalidAccessKeyId")),
        (attrs.evolve(raw, region="eu-west-1"), (400, "AuthorizationHeaderMalformed")),
    ):
        answer = changed.get(f"{B}/k")
        check_every(answer, "GET")
        assert refused(answer) == expected
        assert raw.secret_key not in answer.body.decode()
    for target in ("/", B, f"{B}/k", "/no-such-bucket", f"{B}?policy"):
        anonymous = s3.send("GET", target, is_signed=False)
        assert refused(anonymous) == (403, "AccessDenied"), target
    added = s3.send("PUT", f"{B}/k", b"", unsigned={"x-amz-copy-source": f"{B}/secret"})
    assert refused(added) == (403, "AccessDenied")
    assert added.text("HeadersNotSigned") == "x-amz-copy-source"
    header2 = s3.send(
        "GET", f"{B}/k", is_signed=False, unsigned={"authorization": "AWS a:b", "date": OLD}
    )
    assert refused(header2) == (400, "InvalidRequest")


# ---- addresses and connections --------------------------------------------------------


def test_virtual_hosts(s3: Nodes) -> None:
    host = "virtual.s3.test:9000"
    assert s3.send("PUT", "/", b"", host=host).headers["location"] == "/virtual"
    assert s3.send("PUT", "/-/a//b", b"v", host=host).status == 200
    assert s3.send("GET", "/-/a//b", host=host).body == b"v"
    assert s3.get("/virtual/-/a//b").body == b"v"
    listed = s3.send("GET", "/?list-type=2", host=host)
    assert (listed.text("Name"), listed.texts("Contents/Key")) == ("virtual", ["-/a//b"])
    assert refused(s3.send("GET", "/virtual/-/a//b", host=host)) == (404, "NoSuchKey")
    assert refused(s3.send("GET", "/", host="absent.s3.test")) == (404, "NoSuchBucket")
    assert s3.send("GET", "/", host="s3.test").root.tag == "ListAllMyBucketsResult"
    bad = s3.send("GET", "/", host="no_name.s3.test")
    assert refused(bad) == (400, "InvalidBucketName")


def test_expect_100_continue(s3: Nodes) -> None:
    raw = s3.raws[1]
    with raw.connect() as stream:
        headers = raw.signed("PUT", f"{B}/expected", {"expect": "100-continue"})
        stream.sendall(head_of("PUT", f"{B}/expected", headers | {"content-length": "5"}))
        assert stream.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        stream.sendall(b"hello")
        assert read_answer(stream).status == 200
        # And the connection goes on.
        stream.sendall(head_of("GET", f"{B}/expected", raw.signed("GET", f"{B}/expected")))
        assert read_answer(stream).body == b"hello"
    # Who is refused is told at once, without a 100.
    for target, secret, code in (
        ("/no-such-bucket/k", raw.secret_key, "NoSuchBucket"),
        (f"{B}/k", "wrong", "SignatureDoesNotMatch"),
    ):
        with raw.connect() as stream:
            other = attrs.evolve(raw, secret_key=secret)
            headers = other.signed("PUT", target, {"expect": "100-continue"})
            stream.sendall(head_of("PUT", target, headers | {"content-length": "5"}))
            answer = read_answer(stream)
            check_every(answer, "PUT")
            assert (answer.code, answer.headers["connection"]) == (code, "close")
            assert stream.recv(1) == b""


def test_many_requests_on_one_connection_in_one_go(s3: Nodes) -> None:
    raw = s3.raws[0]
    raw.put(f"{B}/piped", b"piped")
    heads = {
        method: head_of(method, f"{B}/piped", raw.signed(method, f"{B}/piped"))
        for method in ("GET", "HEAD")
    }
    order = ["GET", "HEAD", "GET", "GET", "HEAD", "GET"]
    with raw.connect() as stream:
        stream.sendall(b"".join(heads[method] for method in order))
        stream.shutdown(socket.SHUT_WR)
        data = b""
        while piece := stream.recv(65536):
            data += piece
    assert data.count(b"HTTP/1.1 200 OK\r\n") == len(order)
    assert data.count(b"\r\n\r\npiped") == order.count("GET")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", 417),
        (
            b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            400,
        ),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_answered_with_ids_too(
    s3: Nodes, request_bytes: bytes, status: int
) -> None:
    with s3.raws[2].connect() as stream:
        stream.sendall(request_bytes)
        answer = read_answer(stream)
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    check_every(answer, "GET")
