"""Routing: every operation of S3 is recognised, and none taken for another."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.http.message import Headers
from objstore.s3 import model
from objstore.s3.errors import S3Error
from objstore.s3.router import locate, parse_query, resolve, virtual_bucket

OPERATIONS = model.operations()
EVERY_LITERAL = sorted({name for it in OPERATIONS.values() for name in it.literals})


def route(method: str, path: str, query: str = "", headers=(), host: str = "h", domains=()):
    return resolve(
        method, host, path, parse_query(query), Headers(headers), domains=domains
    )


def code_of(method: str, path: str, query: str = "", headers=()) -> str:
    with pytest.raises(S3Error) as caught:
        route(method, path, query, headers)
    return caught.value.code


def routed_or_code(method: str, path: str, query: str) -> str:
    """The operation, or the code of the refusal."""
    try:
        return route(method, path, query).operation
    except S3Error as error:
        return error.code


PATHS = {model.SERVICE: "/", model.BUCKET: "/photos", model.OBJECT: "/photos/k"}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda it: it.name)
def test_every_operation_of_the_model_is_recognised(operation):
    query = [f"{name}={value}" for name, value in operation.literals.items()]
    query += [f"{name}=1" for name in sorted(operation.required)]
    headers = [(name, "x") for name in operation.headers]
    found = route(operation.method, PATHS[operation.target], "&".join(query), headers)
    assert found.operation == operation.name


@pytest.mark.parametrize("name", EVERY_LITERAL)
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE", "POST"])
@pytest.mark.parametrize("target", [model.SERVICE, model.BUCKET, model.OBJECT])
def test_no_sub_resource_falls_through_to_a_plain_operation(name, method, target):
    plain = {it.name for it in OPERATIONS.values() if not it.literals and not it.required}
    outcome = routed_or_code(method, PATHS[target], name)
    assert outcome not in plain


@pytest.mark.parametrize(
    ("method", "path", "query", "operation"),
    [
        ("GET", "/", "", "ListBuckets"),
        ("GET", "/", "max-buckets=3&prefix=a", "ListBuckets"),
        ("GET", "/photos", "", "ListObjects"),
        ("GET", "/photos/", "prefix=a&delimiter=/", "ListObjects"),
        ("GET", "/photos", "list-type=2&prefix=", "ListObjectsV2"),
        ("GET", "/photos", "uploads", "ListMultipartUploads"),
        ("GET", "/photos", "uploads=", "ListMultipartUploads"),
        ("GET", "/photos", "versions", "ListObjectVersions"),
        ("GET", "/photos", "analytics", "ListBucketAnalyticsConfigurations"),
        ("GET", "/photos", "analytics&id=1", "GetBucketAnalyticsConfiguration"),
        ("GET", "/photos/k", "", "GetObject"),
        ("GET", "/photos/k", "versionId=null&partNumber=2", "GetObject"),
        ("GET", "/photos/k", "response-content-type=a/b", "GetObject"),
        ("GET", "/photos/k", "x-id=GetObject", "GetObject"),
        ("GET", "/photos/k", "x-mine=1", "GetObject"),
        ("GET", "/photos/k", "X-Amz-Algorithm=A&X-Amz-Signature=B", "GetObject"),
        ("GET", "/photos/k", "uploadId=1", "ListParts"),
        ("PUT", "/photos/k", "uploadId=1&partNumber=2", "UploadPart"),
        ("POST", "/photos/k", "uploads", "CreateMultipartUpload"),
        ("POST", "/photos/k", "uploadId=1", "CompleteMultipartUpload"),
        ("DELETE", "/photos/k", "uploadId=1", "AbortMultipartUpload"),
        ("DELETE", "/photos/k", "versionId=1", "DeleteObject"),
        ("POST", "/photos", "delete", "DeleteObjects"),
        ("POST", "/photos/k", "select&select-type=2", "SelectObjectContent"),
        ("POST", "/WriteGetObjectResponse", "", "WriteGetObjectResponse"),
    ],
)
def test_requests_as_clients_send_them(method, path, query, operation):
    assert route(method, path, query).operation == operation


def test_a_copy_source_makes_a_copy_even_where_it_is_empty():  # CVE-2024-47866
    header = [("x-amz-copy-source", "")]
    assert route("PUT", "/photos/k", "", header).operation == "CopyObject"
    part = "partNumber=1&uploadId=2"
    assert route("PUT", "/photos/k", part, header).operation == "UploadPartCopy"


@pytest.mark.parametrize(
    ("method", "path", "query", "code"),
    [
        ("get", "/photos", "", "MethodNotAllowed"),
        ("PATCH", "/photos/k", "", "MethodNotAllowed"),
        ("TRACE", "/", "", "MethodNotAllowed"),
        ("POST", "/photos/k", "", "MethodNotAllowed"),
        ("DELETE", "/", "", "MethodNotAllowed"),
        ("HEAD", "/", "", "MethodNotAllowed"),
        ("HEAD", "/photos/k", "acl", "MethodNotAllowed"),
        ("POST", "/photos", "", "NotImplemented"),  # A form upload.
        ("GET", "/photos/k", "policy", "NotImplemented"),
        ("GET", "/photos/k", "acl&tagging", "NotImplemented"),
        ("PUT", "/photos/k", "append&position=1", "NotImplemented"),
        ("GET", "/photos/k", "Policy", "NotImplemented"),
        ("PUT", "/photos/k", "partNumber=1", "InvalidArgument"),
        ("GET", "/photos", "list-type=3", "InvalidArgument"),
        ("GET", "/photos/k", "versionId=1&versionId=2", "InvalidArgument"),
        ("GET", "/-/health", "", "InvalidBucketName"),
        ("GET", "//k", "", "InvalidBucketName"),
        ("GET", "/..", "", "InvalidBucketName"),
        ("GET", "/photos%2Fk", "", "InvalidBucketName"),
        ("GET", "/photos/%zz", "", "InvalidURI"),
        ("GET", "/photos/%", "", "InvalidURI"),
        ("GET", "/photos/%ff", "", "InvalidURI"),
        ("GET", "/photos/k", "versionId=%ff", "InvalidURI"),
        ("GET", "/photos/" + "a" * 1025, "", "KeyTooLongError"),
        ("GET", "/photos/" + "%C3%BC" * 513, "", "KeyTooLongError"),
    ],
)
def test_what_is_refused(method, path, query, code):
    assert code_of(method, path, query) == code


def test_not_implemented_names_the_operation():
    with pytest.raises(S3Error) as caught:
        route("POST", "/photos")
    assert caught.value.details["Operation"] == "PostObject"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/photos/a", b"a"),
        ("/photos/a/", b"a/"),
        ("/photos//", b"/"),
        ("/photos/a//b", b"a//b"),
        ("/photos/../photos/a", b"../photos/a"),
        ("/photos/./a", b"./a"),
        ("/photos/a%2Fb", b"a/b"),
        ("/photos/a%252Fb", b"a%2Fb"),
        ("/photos/a+b%20c", b"a+b c"),
        ("/photos/%C3%BC", "ü".encode()),
        ("/photos/a%00b", b"a\0b"),
        ("/photos/" + "a" * 1024, b"a" * 1024),
    ],
)
def test_keys_are_bytes_decoded_once_and_never_normalised(path, key):
    assert locate(path, "h", ())[1] == key


@pytest.mark.parametrize(
    ("host", "path", "place"),
    [
        ("photos.s3.example.com", "/a/b", ("photos", b"a/b")),
        ("photos.s3.example.com:9000", "/", ("photos", None)),
        ("PHOTOS.S3.Example.com", "//a", ("photos", b"/a")),
        ("my.photos.s3.example.com", "/a", ("my.photos", b"a")),
        ("s3.example.com", "/photos/a", ("photos", b"a")),
        ("s3.example.com:443", "/", (None, None)),
        ("127.0.0.1:9000", "/photos", ("photos", None)),
        ("[::1]:9000", "/photos", ("photos", None)),
        ("evils3.example.com", "/photos", ("photos", None)),
    ],
)
def test_virtual_hosts_are_of_the_configured_domains_only(host, path, place):
    assert locate(path, host, ("s3.example.com",)) == place


@pytest.mark.parametrize(
    ("host", "domains", "bucket"),
    [
        ("photos.s3.example.com:9000", ["s3.example.com"], "photos"),
        ("Photos.S3.example.com", ["other.com", "s3.example.com"], "photos"),
        ("s3.example.com", ["s3.example.com"], None),
        ("photos.s3.example.com", [], None),
        ("", ["s3.example.com"], None),
    ],
)
def test_a_host_names_a_bucket_under_a_configured_domain(host, domains, bucket):
    assert virtual_bucket(host, domains) == bucket


@given(
    st.text(min_size=1, max_size=60).filter(lambda text: text.encode("utf-8", "replace"))
)
def test_any_key_comes_through_its_encoding(text):
    key = text.encode("utf-8", "ignore")
    if key:
        assert locate("/photos/" + quote(key, safe=""), "h", ())[1] == key
        assert locate("/photos/" + quote(key), "h", ())[1] == key


@given(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "X"]),
    st.text("/abc%2F.?+-\u00fc", max_size=20),
    st.text("abc=&%2acluploadId+", max_size=30),
)
def test_any_address_is_routed_or_refused(method, path, query):
    routed_or_code(method, "/" + path.encode("ascii", "ignore").decode(), query)
