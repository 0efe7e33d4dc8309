"""Signature Version 4: AWS's published examples, botocore's signer, and every refusal."""

import hashlib
import hmac
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.http.message import Headers
from objstore.s3.errors import S3Error
from objstore.s3.router import parse_query
from objstore.s3.sigv4 import (
    SKEW_MAX_MS,
    STREAMING_UNSIGNED_TRAILER,
    UNSIGNED_PAYLOAD,
    Claim,
    SigningKeys,
    canonical_request,
    check_claim,
    derive_key,
    parse_claim,
    sign,
    verify,
)
from tests.unit.s3.signer import now_ms

# The examples' key pair, "Signature Calculations for the Authorization Header".
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
NOW_MS = 1_369_353_600_000  # 2013-05-24T00:00:00Z
EMPTY = hashlib.sha256(b"").hexdigest()


def authenticate(
    method: str, url: str, headers: dict[str, str], *, now_ms: int = NOW_MS,
    secret: str = SECRET, region: str = "us-east-1",
) -> Claim | None:  # fmt: skip
    """All of it, as the app does; None where the request is anonymous."""
    path, _, query = url.partition("?")
    given_headers = Headers(headers.items())
    claim = parse_claim(given_headers, parse_query(query))
    if claim is None:
        return None
    check_claim(claim, given_headers, region=region, now_ms=now_ms)
    key = derive_key(secret, day=claim.signer.day, region=claim.signer.region)
    verify(claim, key, method=method, path=path, query=query, headers=given_headers)
    return claim


def refusal(method: str, url: str, headers: dict[str, str], **options) -> S3Error:
    with pytest.raises(S3Error) as caught:
        authenticate(method, url, headers, **options)
    return caught.value


def authorization(signed: str, signature: str, **changes: str) -> str:
    credential = changes.get(
        "credential", f"{ACCESS_KEY}/20130524/us-east-1/s3/aws4_request"
    )
    return (
        f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, "
        f"Signature={signature}"
    )


HOST = "examplebucket.s3.amazonaws.com"
GET_SIGNATURE = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
GET_SIGNED = "host;range;x-amz-content-sha256;x-amz-date"


def get_headers(**changes: str | None) -> dict[str, str]:
    headers: dict[str, str | None] = {
        "Host": HOST,
        "Range": "bytes=0-9",
        "x-amz-content-sha256": EMPTY,
        "x-amz-date": "20130524T000000Z",
        "Authorization": authorization(GET_SIGNED, GET_SIGNATURE),
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in headers.items() if value is not None}


# ---- published examples ---------------------------------------------------------------


def test_example_get_object():
    claim = authenticate("GET", "/test.txt", get_headers())
    assert claim.signer.access_key == ACCESS_KEY
    assert claim.payload == EMPTY


def test_example_put_object():
    headers = {
        "Host": HOST,
        "Date": "Fri, 24 May 2013 00:00:00 GMT",
        "x-amz-date": "20130524T000000Z",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "x-amz-content-sha256": (
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
        ),
        "Authorization": authorization(
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
    }
    # The example's client sends the dollar sign as it is: the canonical path encodes it.
    assert authenticate("PUT", "/test$file.text", headers) is not None
    assert authenticate("PUT", "/test%24file.text", headers) is not None


@pytest.mark.parametrize(
    ("url", "signature"),
    [
        ("/?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            "/?max-keys=2&prefix=J",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
        (
            "/?prefix=J&max-keys=2",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_examples_with_a_query(url, signature):
    signed = "host;x-amz-content-sha256;x-amz-date"
    headers = get_headers(Range=None, Authorization=authorization(signed, signature))
    assert authenticate("GET", url, headers) is not None


PRESIGNED = (
    "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
)


def test_example_presigned_url():
    claim = authenticate("GET", PRESIGNED, {"Host": HOST})
    assert claim.is_presigned
    assert claim.payload == UNSIGNED_PAYLOAD
    assert claim.expires_s == 86400


# ---- botocore signs, we verify --------------------------------------------------------

LETTERS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12
)
METADATA = st.text("abcXYZ 0129,;=/+%\"'()", max_size=20)


def boto_request(
    method: str,
    key: str,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes = b"body",
):
    path = quote(f"/bucket/{key}", safe="/~")
    pairs = "&".join(f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in query.items())
    url = f"http://s3.example.com:9000{path}" + (f"?{pairs}" if pairs else "")
    return AWSRequest(method=method, url=url, headers=headers, data=body)


def received(request: AWSRequest) -> tuple[str, dict[str, str]]:
    """What reaches a server: the raw target, and the headers with Host."""
    parts = urlsplit(request.url)
    url = parts.path + (f"?{parts.query}" if parts.query else "")
    headers = {name: str(value) for name, value in request.headers.items()}
    return url, {"Host": parts.netloc, **headers}


@settings(max_examples=60)
@given(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    LETTERS,
    st.dictionaries(st.sampled_from(["prefix", "marker", "a b", "ü", "acl"]), LETTERS),
    st.dictionaries(
        st.sampled_from(["x-amz-meta-a", "x-amz-meta-b", "x-amz-acl"]), METADATA
    ),
    st.text("abcABC019/+=", min_size=8, max_size=40),
)
def test_what_botocore_signs_in_headers_is_accepted(method, key, query, headers, secret):
    request = boto_request(method, key, query, headers)
    request.context["payload_signing_enabled"] = True
    S3SigV4Auth(Credentials("ACCESS", secret), "s3", "us-east-1").add_auth(request)
    url, sent = received(request)
    claim = authenticate(method, url, sent, now_ms=now_ms(), secret=secret)
    assert claim.payload == hashlib.sha256(b"body").hexdigest()
    error = refusal(method, url, sent, now_ms=now_ms(), secret=secret + "x")
    assert error.code == "SignatureDoesNotMatch"


@settings(max_examples=60)
@given(
    st.sampled_from(["GET", "PUT", "DELETE", "HEAD"]),
    LETTERS,
    st.dictionaries(st.sampled_from(["versionId", "response-content-type", "ü"]), LETTERS),
    st.integers(1, 604_800),
)
def test_what_botocore_presigns_is_accepted(method, key, query, expires_s):
    request = boto_request(method, key, query, {}, b"")
    credentials = Credentials("ACCESS", "secret")
    S3SigV4QueryAuth(credentials, "s3", "eu-west-1", expires=expires_s).add_auth(request)
    url, sent = received(request)
    claim = authenticate(
        method, url, sent, now_ms=now_ms(), secret="secret", region="eu-west-1"
    )
    assert claim.expires_s == expires_s


def test_botocores_canonical_request_is_ours():
    request = boto_request(
        "PUT", "a b/ü~(1)", {"x": "1", "a": "/ ?"}, {"x-amz-acl": "a  b"}
    )
    request.context["payload_signing_enabled"] = True
    signer = S3SigV4Auth(Credentials("ACCESS", "secret"), "s3", "us-east-1")
    signer.add_auth(request)
    url, sent = received(request)
    path, _, query = url.partition("?")
    headers = Headers(sent.items())
    claim = parse_claim(headers, parse_query(query))
    del request.headers["Authorization"]
    theirs = signer.canonical_request(request)
    ours = canonical_request(
        method="PUT", path=path, query=query, headers=headers,
        signer=claim.signer, payload=claim.payload,
    )  # fmt: skip
    assert ours == theirs


# ---- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Authorization": "AWS AKIA:abc"}, "InvalidRequest"),
        ({"Authorization": "Bearer abc"}, "InvalidArgument"),
        ({"Authorization": ""}, "InvalidArgument"),
        ({"Authorization": "AWS4-ECDSA-P256-SHA256 Credential=a"}, "NotImplemented"),
        ({"Authorization": "AWS4-HMAC-SHA256"}, "AuthorizationHeaderMalformed"),
        (
            {"Authorization": "AWS4-HMAC-SHA256 Credential=a"},
            "AuthorizationHeaderMalformed",
        ),
        (
            {"Authorization": authorization(GET_SIGNED, GET_SIGNATURE) + ", Signature=a"},
            "AuthorizationHeaderMalformed",
        ),
        ({"x_amz_content_sha256": None}, "InvalidRequest"),
        ({"x_amz_content_sha256": "abc"}, "InvalidArgument"),
        ({"x_amz_content_sha256": EMPTY.upper()}, "InvalidArgument"),
        (
            {"x_amz_content_sha256": "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"},
            "NotImplemented",
        ),
        ({"x_amz_date": None}, "AccessDenied"),  # CVE-2015-8466
        ({"x_amz_date": "20130524T000000"}, "AccessDenied"),
        ({"x_amz_date": "20131324T000000Z"}, "AccessDenied"),
        ({"x_amz_meta_new": "1"}, "AccessDenied"),
        ({"x_amz_copy_source": "/secret/object"}, "AccessDenied"),  # CVE-2026-97731
        ({"Range": "bytes=0-8"}, "SignatureDoesNotMatch"),
        ({"Host": "other"}, "SignatureDoesNotMatch"),
        ({"x_amz_content_sha256": UNSIGNED_PAYLOAD}, "SignatureDoesNotMatch"),
        # CVE-2026-41145, CVE-2025-31489: no payload mode goes without the signature.
        ({"x_amz_content_sha256": STREAMING_UNSIGNED_TRAILER}, "SignatureDoesNotMatch"),
    ],
)
def test_a_request_signed_wrongly_is_refused(changes, code):
    assert refusal("GET", "/test.txt", get_headers(**changes)).code == code


@pytest.mark.parametrize(
    ("method", "url"),
    [("PUT", "/test.txt"), ("GET", "/test.tx"), ("GET", "/test.txt?acl"), ("GET", "//test.txt"),
     ("GET", "/./test.txt"), ("GET", "/test.txt/")],
)  # fmt: skip
def test_a_signature_is_for_one_method_and_address(method, url):
    error = refusal(method, url, get_headers())
    assert error.code == "SignatureDoesNotMatch"
    assert error.details["CanonicalRequest"].startswith(method)
    assert error.details["StringToSign"].startswith("AWS4-HMAC-SHA256\n20130524T000000Z")
    assert SECRET not in str(error.details)


@pytest.mark.parametrize(
    "credential",
    ["", "a", f"{ACCESS_KEY}/20130524/us-east-1/s3", "/20130524/us-east-1/s3/aws4_request",
     f"{ACCESS_KEY}/20130525/us-east-1/s3/aws4_request",
     f"{ACCESS_KEY}/20130524/us-east-1/iam/aws4_request",
     f"{ACCESS_KEY}/20130524/us-east-1/s3/aws5_request"],
)  # fmt: skip
def test_a_wrong_scope_is_malformed(credential):
    value = authorization(GET_SIGNED, GET_SIGNATURE, credential=credential)
    error = refusal("GET", "/test.txt", get_headers(Authorization=value))
    assert error.code == "AuthorizationHeaderMalformed"


def test_a_wrong_region_is_told_the_right_one():
    error = refusal("GET", "/test.txt", get_headers(), region="eu-west-1")
    assert error.code == "AuthorizationHeaderMalformed"
    assert error.details["Region"] == "eu-west-1"


def test_host_must_be_signed():
    value = authorization("range;x-amz-content-sha256;x-amz-date", GET_SIGNATURE)
    error = refusal("GET", "/test.txt", get_headers(Authorization=value))
    assert error.code == "AccessDenied"
    assert error.details["HeadersNotSigned"] == "host"


@pytest.mark.parametrize("skew_ms", [-SKEW_MAX_MS - 1000, SKEW_MAX_MS + 1000, 10**11])
def test_a_clock_too_far_off_is_refused(skew_ms):  # F15
    error = refusal("GET", "/test.txt", get_headers(), now_ms=NOW_MS + skew_ms)
    assert error.code == "RequestTimeTooSkewed"
    assert error.details["RequestTime"] == "20130524T000000Z"


@pytest.mark.parametrize("skew_ms", [-SKEW_MAX_MS, 0, SKEW_MAX_MS])
def test_a_clock_a_little_off_is_fine(skew_ms):
    assert authenticate("GET", "/test.txt", get_headers(), now_ms=NOW_MS + skew_ms)


def test_a_request_without_a_claim_is_anonymous():
    assert authenticate("GET", "/test.txt", {"Host": HOST}) is None


def test_two_claims_are_one_too_many():  # CVE-2026-40344
    error = refusal("GET", PRESIGNED, get_headers())
    assert error.code == "InvalidArgument"
    error = refusal("GET", "/test.txt?X-Amz-Credential=a", get_headers())
    assert error.code == "InvalidArgument"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512", "AuthorizationQueryParametersError"),
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", "NotImplemented"),
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256&", "", "AuthorizationQueryParametersError"),
        ("&X-Amz-Expires=86400", "", "AuthorizationQueryParametersError"),
        ("&X-Amz-Date=20130524T000000Z", "", "AuthorizationQueryParametersError"),
        ("&X-Amz-SignedHeaders=host", "", "AuthorizationQueryParametersError"),
        ("Expires=86400", "Expires=0", "AuthorizationQueryParametersError"),
        ("Expires=86400", "Expires=-1", "AuthorizationQueryParametersError"),
        ("Expires=86400", "Expires=1e3", "AuthorizationQueryParametersError"),
        ("Expires=86400", "Expires=604801", "AuthorizationQueryParametersError"),
        ("Expires=86400", "Expires=604800", "SignatureDoesNotMatch"),
        ("us-east-1", "eu-west-1", "AuthorizationQueryParametersError"),
        ("SignedHeaders=host", "SignedHeaders=range", "AccessDenied"),
        ("SignedHeaders=host", "SignedHeaders=", "AuthorizationQueryParametersError"),
        (
            "SignedHeaders=host",
            "SignedHeaders=host;host",
            "AuthorizationQueryParametersError",
        ),
        ("/test.txt", "/other.txt", "SignatureDoesNotMatch"),
        ("&X-Amz-Date", "&versionId=1&X-Amz-Date", "SignatureDoesNotMatch"),
        ("Signature=a", "Signature=%C3%BC", "SignatureDoesNotMatch"),
    ],
)
def test_a_presigned_url_that_was_changed_is_refused(old, new, code):
    assert old in PRESIGNED
    assert refusal("GET", PRESIGNED.replace(old, new), {"Host": HOST}).code == code


def test_a_presigned_url_is_for_its_method():
    assert refusal("PUT", PRESIGNED, {"Host": HOST}).code == "SignatureDoesNotMatch"


def test_an_unsigned_header_cannot_be_added_to_a_presigned_url():  # CVE-2026-97731
    error = refusal("GET", PRESIGNED, {"Host": HOST, "x-amz-copy-source": "/secret/object"})
    assert error.code == "AccessDenied"
    assert error.details["HeadersNotSigned"] == "x-amz-copy-source"


def test_a_presigned_url_expires():
    headers = {"Host": HOST}
    assert authenticate("GET", PRESIGNED, headers, now_ms=NOW_MS + 86_400_000)
    error = refusal("GET", PRESIGNED, headers, now_ms=NOW_MS + 86_401_000)
    assert (error.code, error.message) == ("AccessDenied", "Request has expired")


def test_a_presigned_url_of_tomorrow_is_refused_today():
    error = refusal("GET", PRESIGNED, {"Host": HOST}, now_ms=NOW_MS - SKEW_MAX_MS - 1000)
    assert error.code == "AccessDenied"


def test_sigv2_in_headers_is_refused_by_name():
    error = refusal("GET", "/test.txt", {"Host": HOST, "Authorization": "AWS a:b"})
    assert (error.code, "AWS4-HMAC-SHA256" in error.message) == ("InvalidRequest", True)


def test_a_url_signed_by_both_versions_is_refused():
    error = refusal("GET", f"{PRESIGNED}&AWSAccessKeyId=a&Signature=b", {"Host": HOST})
    assert error.code == "AuthorizationQueryParametersError"


def test_without_a_body_its_hash_need_not_be_said():
    """curl 7.88 signs the hash of nothing, and sends no x-amz-content-sha256."""
    headers = Headers(get_headers(**{"x-amz-content-sha256": None}).items())
    claim = parse_claim(headers, {}, has_body=False)
    assert claim.payload == EMPTY
    with pytest.raises(S3Error, match="x-amz-content-sha256"):
        parse_claim(headers, {}, has_body=True)


def test_access_keys_may_hold_slashes():
    value = authorization(
        GET_SIGNED, GET_SIGNATURE, credential="a/b/20130524/us-east-1/s3/aws4_request"
    )
    headers = Headers(get_headers(Authorization=value).items())
    assert parse_claim(headers, {}).signer.access_key == "a/b"


def test_signing_keys_are_kept_and_bounded():
    keys = SigningKeys(size_max=3)
    for number in range(10):
        first = keys.get(f"secret{number}", day="20130524", region="us-east-1")
        assert keys.get(f"secret{number}", day="20130524", region="us-east-1") is first
    assert repr(keys) == "SigningKeys(3)"


@given(
    st.text(max_size=60),
    st.dictionaries(st.sampled_from(["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date",
        "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"]),
        st.sampled_from(["", "AWS4-HMAC-SHA256", "20130524T000000Z", "host", "1", "a/b/c/d/e"])),
)  # fmt: skip
def test_any_claim_is_read_or_refused(text, query):
    for headers in (
        {"authorization": "AWS4-HMAC-SHA256 " + text, "x-amz-date": "20130524T000000Z"},
        {"authorization": text},
        {},
    ):
        given_headers = Headers([("x-amz-content-sha256", EMPTY), *headers.items()])
        try:
            claim = parse_claim(given_headers, query)
            if claim is not None:
                check_claim(claim, given_headers, region="us-east-1", now_ms=NOW_MS)
        except S3Error:
            pass


# ---- what is accepted means what was signed -------------------------------------------


@settings(max_examples=300)
@given(
    st.booleans(),
    LETTERS,
    st.dictionaries(st.sampled_from(["prefix", "versionId", "a b"]), LETTERS, max_size=2),
    st.integers(0, 400),
    st.sampled_from(["insert", "replace", "drop", "twice"]),
    st.sampled_from(
        [*'&=?/%+ ;.aZ0~-_\\"', "%2F", "%2e", "%41", "&a=b", "//", "/../", "?x"]
    ),
)
def test_a_target_that_is_accepted_names_what_was_signed(
    is_presigned, key, query, place, how, piece
):
    """Whatever is done to a signed target: it is refused, or it means the same."""
    request = boto_request("GET", key, query, {}, b"")
    credentials = Credentials("ACCESS", "secret")
    if is_presigned:
        S3SigV4QueryAuth(credentials, "s3", "us-east-1", expires=60).add_auth(request)
    else:
        S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    url, sent = received(request)
    at = 1 + place % len(url)
    changed = {
        "insert": url[:at] + piece + url[at:],
        "replace": url[:at] + piece + url[at + 1 :],
        "drop": url[:at] + url[at + 1 :],
        "twice": url[:at] + url[at : at + 5] + url[at:],
    }[how]
    try:
        claim = authenticate("GET", changed, sent, now_ms=now_ms(), secret="secret")
    except S3Error:
        return
    if claim is None:  # Without its "?" it claims to be nobody's: there is no query left.
        assert is_presigned
        assert "?" not in changed
        return
    meant, means = (
        (unquote_to_bytes(path), parse_query(query))
        for path, _, query in (it.partition("?") for it in (url, changed))
    )
    for parameters in (meant[1], means[1]):  # Which order they come in says nothing.
        parameters.pop("X-Amz-Signature", None)
    assert means == meant


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_a_key_that_signs_again_and_again_signs_as_hmac_does(key, data):
    for _ in range(2):
        assert sign(key, data) == hmac.digest(key, data, "sha256")
