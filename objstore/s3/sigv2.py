"""AWS Signature Version 2 in the query: the presigned URLs that `aws s3 presign` makes.

    /photos/puppy.jpg?AWSAccessKeyId=AKID&Expires=1175139620&Signature=BASE64

    string to sign   METHOD, Content-MD5, Content-Type, Expires, a line each
                     x-amz-NAME:VALUE    a line for each such header that arrived, sorted
                     /BUCKET/PATH?sub-resources    path as sent, values decoded
    signature        base64 of HMAC-SHA1(secret, string to sign)

Only presigned URLs: a header with it is refused by `sigv4`, for every client that signs
headers speaks Version 4.  A Version 2 signature covers less:

    the body           never; a payload that must be verified chunk by chunk is refused
    x-amz-* headers    all that arrive, so none can be added; those that stand in the
                       query are no headers here (SDKs repeat there what must be sent)
    the query          sub-resources and response-* alone; what selects a page of a list
                       is let through unsigned, as at AWS, everything else is refused:
                       or ?attributes could be added to a URL made for a GET

Pure: the time is an argument.  Secrets are compared in constant time, and never in errors.

Source: Amazon S3 API Reference, "Signing and authenticating REST requests (AWS Signature
Version 2)", "Query string request authentication alternative".
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

import attrs

from objstore.http.message import Headers
from objstore.s3.errors import S3Error
from objstore.s3.sigv4 import EXPIRES_MAX_S, SKEW_MAX_MS, UNSIGNED_PAYLOAD

_ACCESS_KEY, _EXPIRES, _SIGNATURE = "AWSAccessKeyId", "Expires", "Signature"
_OF_SIGV4 = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature")
# Not for operations to see.  The last two are botocore's copies of headers to be sent.
OWN_PARAMETERS = frozenset(
    {_ACCESS_KEY, _EXPIRES, _SIGNATURE, "content-type", "content-md5"}
)

# What the resource that is signed includes: AWS's list, and what botocore has beyond it.
_SIGNED = frozenset(
    {
        "accelerate", "acl", "analytics", "cors", "defaultObjectAcl", "delete",
        "inventory", "lifecycle", "location", "logging", "metrics", "notification",
        "object-lock", "partNumber", "policy", "replication", "requestPayment",
        "response-cache-control", "response-content-disposition",
        "response-content-encoding", "response-content-language",
        "response-content-type", "response-expires", "restore", "select", "select-type",
        "storageClass", "tagging", "torrent", "uploadId", "uploads", "versionId",
        "versioning", "versions", "website",
    }
)  # fmt: skip
_SIGNED_NAMES = frozenset(name.encode() for name in _SIGNED)
# Which entries a list shows, and how: not signed, by AWS's list either.
_OF_LISTS = frozenset(
    {
        "continuation-token", "delimiter", "encoding-type", "fetch-owner", "key-marker",
        "list-type", "marker", "max-buckets", "max-keys", "max-parts", "max-uploads",
        "part-number-marker", "prefix", "start-after", "upload-id-marker",
        "version-id-marker",
    }
)  # fmt: skip

_SECONDS = re.compile(r"[0-9]{1,12}")
_BUCKET_ALONE = re.compile(r"/[^/]+")


@attrs.frozen(kw_only=True)
class Claim:
    """What a presigned URL says of its signer; nothing of it is true before `verify`."""

    access_key: str
    expires: str  # Seconds since the epoch, as it was written: that is what is signed.
    signature: str

    @property
    def expires_ms(self) -> int:
        return int(self.expires) * 1000


# ---- reading and checking a claim -----------------------------------------------------


def is_claimed(headers: Headers, query: Mapping[str, str]) -> bool:
    """Whether the query, and nothing else, makes a claim of this version."""
    return (
        (_ACCESS_KEY in query or _SIGNATURE in query)
        and "authorization" not in headers
        and not any(name in query for name in _OF_SIGV4)
    )


def parse_claim(query: Mapping[str, str]) -> Claim:
    """The claim of a query.  Raises S3Error AccessDenied where it lacks something."""
    if not all(query.get(name) for name in (_ACCESS_KEY, _EXPIRES, _SIGNATURE)):
        raise S3Error(
            "AccessDenied",
            "Query-string authentication requires the Signature, Expires and "
            "AWSAccessKeyId parameters",
        )
    expires = query[_EXPIRES]
    if _SECONDS.fullmatch(expires) is None:
        raise S3Error(
            "AccessDenied", f"Invalid date (should be seconds since epoch): {expires[:64]}"
        )
    return Claim(
        access_key=query[_ACCESS_KEY], expires=expires, signature=query[_SIGNATURE]
    )


def check_claim(
    claim: Claim, headers: Headers, query: Mapping[str, str], *, now_ms: int
) -> None:
    """Check all of a claim that needs no secret.

    Raises S3Error AccessDenied, InvalidRequest.
    """
    if now_ms > claim.expires_ms:
        raise S3Error(
            "AccessDenied",
            "Request has expired",
            details={"Expires": _iso(claim.expires_ms), "ServerTime": _iso(now_ms)},
        )
    # Version 2 does not tell when a URL was made, so its life is bounded from now on.
    if claim.expires_ms > now_ms + EXPIRES_MAX_S * 1000 + SKEW_MAX_MS:
        raise S3Error(
            "AccessDenied",
            "Expires must be less than a week (in seconds) ahead",
            details={"X-Amz-Expires": claim.expires, "ServerTime": _iso(now_ms)},
        )
    unsigned = [name for name in query if not _may_be_sent(name)]
    if unsigned:
        raise S3Error(
            "AccessDenied",
            "There were query parameters present in the request which Signature Version "
            "2 does not sign",
            details={"ParametersNotSigned": ", ".join(unsigned)},
        )
    if headers.get("x-amz-content-sha256", UNSIGNED_PAYLOAD) != UNSIGNED_PAYLOAD:
        raise S3Error(
            "InvalidRequest",
            "x-amz-content-sha256 needs AWS4-HMAC-SHA256: Signature Version 2 covers no "
            "payload",
        )


def _may_be_sent(name: str) -> bool:
    """x-... is nothing to any operation: AWS leaves such names to clients' logs."""
    return (
        name in _SIGNED
        or name in OWN_PARAMETERS
        or name in _OF_LISTS
        or name.lower().startswith("x-")
    )


def _iso(time_ms: int) -> str:
    # 12 digits of seconds reach beyond the years that datetime knows.
    seconds = min(time_ms // 1000, 253_402_300_799)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---- the signature --------------------------------------------------------------------


def verify(
    claim: Claim,
    secret: str,
    *,
    method: str,
    bucket: str | None,
    path: str,
    query: str,
    headers: Headers,
) -> None:
    """Compare the claim's signature with the one that the secret makes.

    bucket: that of a virtual host; None where the path begins with it.
    path, query: raw, as they came.
    Raises S3Error SignatureDoesNotMatch, with what was signed as AWS gives it.
    """
    resource = path if bucket is None else f"/{bucket}{path}"
    forms = [resource]
    if _BUCKET_ALONE.fullmatch(resource):  # SDKs sign /photos/ and send /photos.
        forms.append(f"{resource}/")
    signed = [
        string_to_sign(claim, method=method, resource=form, query=query, headers=headers)
        for form in forms
    ]
    given = claim.signature.encode()
    fits = [hmac.compare_digest(_sign(secret, text), given) for text in signed]
    if not any(fits):
        raise S3Error(
            "SignatureDoesNotMatch",
            details={
                "AWSAccessKeyId": claim.access_key,
                "StringToSign": signed[0].decode("latin-1"),
                "SignatureProvided": claim.signature,
                "StringToSignBytes": signed[0].hex(" "),
            },
        )


def _sign(secret: str, text: bytes) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), text, "sha1"))


def string_to_sign(
    claim: Claim, *, method: str, resource: str, query: str, headers: Headers
) -> bytes:
    """What is signed: bytes, as header values and decoded parameters are any."""
    lines = [
        method,
        headers.get("content-md5", "").strip(),
        headers.get("content-type", "").strip(),
        claim.expires,
        *_amz_headers(headers),
        resource,
    ]
    return "\n".join(lines).encode("latin-1") + _sub_resources(query)


def _amz_headers(headers: Headers) -> list[str]:
    names = sorted(name for name in headers if name.startswith("x-amz-"))
    return [
        f"{name}:{','.join(value.strip() for value in headers.get_all(name))}"
        for name in names
    ]


def _sub_resources(query: str) -> bytes:
    """The signed parameters in order: values decoded, "=" only where it was sent.

    Names are decoded as well: what the router sees is what was signed.
    """
    found = []
    for pair in query.split("&"):
        raw_name, equals, raw_value = pair.partition("=")
        name = _decode(raw_name)
        if name in _SIGNED_NAMES:
            found.append((name, equals.encode() + _decode(raw_value)))
    found.sort()
    joined = b"&".join(name + value for name, value in found)
    return b"?" + joined if joined else b""


def _decode(raw: str) -> bytes:
    """As `router.parse_query` does."""
    return unquote_to_bytes(raw.replace("+", " "))
