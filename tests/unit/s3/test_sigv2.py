"""Presigned URLs of Signature Version 2: AWS's example, botocore's signer, and refusals."""

import time
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.http.message import BytesBody, Headers, Request
from objstore.objects.capability import Principal
from objstore.s3 import sigv2
from objstore.s3.authenticate import Authenticator, Credential, effective_query
from objstore.s3.errors import S3Error
from objstore.s3.router import parse_query

# "Query string request authentication alternative", of the RESTAuthentication chapter.
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EXPIRES_S = 1_175_139_620
EXAMPLE = (
    f"AWSAccessKeyId={ACCESS_KEY}&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D"
    f"&Expires={EXPIRES_S}"
)
HOST = "s3.example.com"
OWNER = Principal(ACCESS_KEY, "c" * 64, is_root=False, name="me")


async def look_up(access_key: str) -> Credential | None:
    return Credential(SECRET, OWNER) if access_key == ACCESS_KEY else None


async def authenticate(
    method: str, target: str, headers: dict[str, str] | None = None, *,
    now_ms: int | None = None, host: str = HOST, body: bytes = b"",
):  # fmt: skip
    """As the app does it."""
    path, _, query = target.partition("?")
    request = Request(
        method=method, target=target.encode(), path=path, query=query,
        headers=Headers({"host": host, **(headers or {})}.items()), body=BytesBody(body),
    )  # fmt: skip
    authenticator = Authenticator(look_up, "us-east-1", [HOST])
    return await authenticator.authenticate(
        request, parse_query(query), now_ms=time.time_ns() // 10**6 if now_ms is None else now_ms
    )  # fmt: skip


async def refusal(method: str, target: str, *arguments, **options) -> S3Error:
    with pytest.raises(S3Error) as caught:
        await authenticate(method, target, *arguments, **options)
    return caught.value


def presign(
    method: str, path: str, headers: dict[str, str] | None = None, *,
    expires_s: int = 3600, secret: str = SECRET, auth_path: str | None = None,
) -> str:  # fmt: skip
    """The target of a URL that botocore presigns."""
    request = AWSRequest(
        method=method,
        url=f"http://{HOST}{path}",
        headers=headers or {},
        auth_path=auth_path,
    )
    HmacV1QueryAuth(Credentials(ACCESS_KEY, secret), expires=expires_s).add_auth(request)
    parts = urlsplit(request.url)
    return f"{parts.path}?{parts.query}"


# ---- AWS's example --------------------------------------------------------------------


async def test_the_example_of_the_documentation_holds():
    found = await authenticate(
        "GET", f"/johnsmith/photos/puppy.jpg?{EXAMPLE}", now_ms=EXPIRES_S * 1000 - 1000
    )
    assert found == (OWNER, None)


async def test_the_example_holds_at_its_virtual_host():
    for host in (f"johnsmith.{HOST}", f"JohnSmith.{HOST}:9000"):
        found = await authenticate(
            "GET", f"/photos/puppy.jpg?{EXAMPLE}", now_ms=EXPIRES_S * 1000, host=host
        )
        assert found == (OWNER, None)


async def test_a_changed_example_does_not_hold():
    now_ms = EXPIRES_S * 1000
    for method, target in (
        ("HEAD", f"/johnsmith/photos/puppy.jpg?{EXAMPLE}"),
        ("GET", f"/johnsmith/photos/puppy.jpeg?{EXAMPLE}"),
        ("GET", f"/johnsmith/photos/puppy.jpg?acl&{EXAMPLE}"),
        ("GET", f"/johnsmith/photos/puppy.jpg?%61cl&{EXAMPLE}"),
        ("GET", f"/johnsmith/photos/puppy.jpg?versionId=null&{EXAMPLE}"),
        ("GET", f"/johnsmith/photos/puppy.jpg?response-content-type=text/html&{EXAMPLE}"),
        ("GET", f"/johnsmith/photos/puppy.jpg?{EXAMPLE.replace('620', '621')}"),
        ("GET", f"/johnsmith/photos/puppy.jpg?{EXAMPLE.replace('Npg', 'npg')}"),
        ("GET", f"/johnsmith/photos/puppy.jpg?{EXAMPLE.replace('Signature=', 'Signature=%C3%BC')}"),
    ):  # fmt: skip
        error = await refusal(method, target, now_ms=now_ms)
        assert error.code == "SignatureDoesNotMatch", target
        assert error.details["AWSAccessKeyId"] == ACCESS_KEY
        assert SECRET not in str(error.details)


# ---- botocore's signer ----------------------------------------------------------------


@given(
    st.text(min_size=1, max_size=30).filter(lambda key: key not in (".", "..")),
    st.sampled_from(["GET", "PUT", "DELETE", "HEAD"]),
    st.dictionaries(
        st.sampled_from(
            ["versionId", "uploadId", "partNumber", "response-content-type", "tagging",
             "response-content-disposition", "response-expires", "prefix", "list-type"]
        ),
        st.text(max_size=8),
    ),
    st.dictionaries(
        st.sampled_from(["x-amz-meta-b", "X-Amz-Meta-A", "content-type", "content-md5",
                         "x-amz-acl", "range"]),
        st.from_regex(r"[!-~]([ -~]{0,6}[!-~])?", fullmatch=True),
    ),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
async def test_what_botocore_presigns_is_verified(key, method, query, headers):
    path = f"/photos/{quote(key.encode(), safe='/~')}"
    if query:
        path += "?" + "&".join(f"{n}={quote(v, safe='~')}" for n, v in query.items())
    target = presign(method, path, headers)
    assert await authenticate(method, target, headers) == (OWNER, None)
    error = await refusal(method, target.replace("Expires=1", "Expires=2", 1), headers)
    assert error.code in {"SignatureDoesNotMatch", "AccessDenied"}


async def test_a_bucket_may_be_signed_with_a_slash_that_is_not_sent():
    """As botocore does, path-style."""
    target = presign("GET", "/photos?uploads", auth_path="/photos/")
    assert await authenticate("GET", target) == (OWNER, None)
    assert await authenticate("GET", presign("GET", "/photos")) == (OWNER, None)
    assert await authenticate("GET", presign("GET", "/")) == (OWNER, None)


async def test_headers_that_were_signed_must_be_sent_and_copies_of_them_are_no_parameters():
    headers = {"content-type": "text/plain", "x-amz-meta-color": "blue"}
    target = presign("PUT", "/photos/k", headers)
    assert "x-amz-meta-color=blue" in target
    assert await authenticate("PUT", target, headers) == (OWNER, None)
    for sent in (
        {},
        {"content-type": "text/plain"},
        headers | {"content-type": "text/html"},
    ):
        assert (await refusal("PUT", target, sent)).code == "SignatureDoesNotMatch"
    query = parse_query(target.partition("?")[2])
    assert effective_query(query, None) == {"x-amz-meta-color": "blue"}


async def test_a_header_added_to_a_presigned_url_is_refused():
    """F: CVE-2026-97731, by Version 2: all x-amz-* that arrive are part of what is signed."""
    target = presign("PUT", "/photos/k")
    error = await refusal("PUT", target, {"x-amz-copy-source": "/secret/object"})
    assert error.code == "SignatureDoesNotMatch"


async def test_what_is_not_signed_cannot_make_another_operation_of_it():
    target = presign("GET", "/photos/k")
    for added in ("attributes", "legal-hold", "retention", "%61ttributes", "unknown=1"):
        error = await refusal("GET", f"{target}&{added}")
        assert error.code == "AccessDenied", added


# ---- refusals -------------------------------------------------------------------------


async def test_a_url_lives_until_it_expires_and_for_a_week_at_most():
    now_ms = 1_800_000_000_000
    for expires_s, expected in (
        (now_ms // 1000, None),
        (now_ms // 1000 - 1, "Request has expired"),
        (now_ms // 1000 + 7 * 86_400, None),
        (now_ms // 1000 + 8 * 86_400, "Expires must be less than a week"),
        (10**12 - 1, "Expires must be less than a week"),
    ):
        target = f"/photos/k?AWSAccessKeyId={ACCESS_KEY}&Expires={expires_s}&Signature=x"
        error = await refusal("GET", target, now_ms=now_ms)
        if expected is None:
            assert error.code == "SignatureDoesNotMatch"
        else:
            assert (error.code, error.message[: len(expected)]) == (
                "AccessDenied",
                expected,
            )


@pytest.mark.parametrize(
    "query",
    [
        f"AWSAccessKeyId={ACCESS_KEY}&Signature=x",
        f"AWSAccessKeyId={ACCESS_KEY}&Expires=4000000000",
        "Signature=x&Expires=4000000000",
        f"AWSAccessKeyId={ACCESS_KEY}&Signature=x&Expires=",
        f"AWSAccessKeyId={ACCESS_KEY}&Signature=x&Expires=soon",
        f"AWSAccessKeyId={ACCESS_KEY}&Signature=x&Expires=-1",
        f"AWSAccessKeyId={ACCESS_KEY}&Signature=x&Expires=1e9",
    ],
)
async def test_half_a_claim_is_refused(query):
    assert (await refusal("GET", f"/photos/k?{query}")).code == "AccessDenied"


async def test_who_is_not_known_and_who_has_a_session_is_refused():
    target = presign("GET", "/photos/k").replace(ACCESS_KEY, "NOBODY")
    assert (await refusal("GET", target)).code == "InvalidAccessKeyId"
    target = presign("GET", "/photos/k")
    assert (await refusal("GET", f"{target}&x-amz-security-token=t")).code == "InvalidToken"
    error = await refusal("GET", target, {"x-amz-security-token": "t"})
    assert error.code == "InvalidToken"


async def test_a_payload_that_needs_version_4_is_refused():
    for payload in ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", "0" * 64):
        headers = {"x-amz-content-sha256": payload}
        error = await refusal("PUT", presign("PUT", "/photos/k", headers), headers)
        assert error.code == "InvalidRequest"
    headers = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    assert await authenticate("PUT", presign("PUT", "/photos/k", headers), headers)


async def test_two_ways_of_signing_at_once_are_refused():
    target = presign("GET", "/photos/k")
    error = await refusal("GET", target, {"authorization": "AWS4-HMAC-SHA256 x"})
    assert error.code == "InvalidArgument"
    error = await refusal("GET", f"{target}&X-Amz-Algorithm=AWS4-HMAC-SHA256")
    assert error.code == "AuthorizationQueryParametersError"


@given(st.dictionaries(st.sampled_from(["AWSAccessKeyId", "Signature", "Expires", "acl"]),
                       st.text(max_size=20)))  # fmt: skip
def test_any_query_is_read_or_refused(query):
    try:
        claim = sigv2.parse_claim(query)
        sigv2.check_claim(claim, Headers(), query, now_ms=1_800_000_000_000)
    except S3Error:
        pass
