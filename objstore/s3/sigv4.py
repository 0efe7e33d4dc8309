"""AWS Signature Version 4: whether a request is from whom it says, and meant for us now.

    parse_claim(request)        what the request claims: key, scope, time, signature
    check_claim(claim, ...)     the scope is ours, the time is now, the headers are signed
    verify(claim, secret, ...)  the signature is the one that the secret makes

Two places to sign in: the Authorization header, or the query (a presigned URL, which may
be of Version 2 as well: `sigv2`).  The signature of the request is always verified,
whatever x-amz-content-sha256 says: that header only tells how the body is covered
(FAULTS 3: CVE-2026-41145, CVE-2025-31489).

    x-amz-content-sha256                            the body is
    none (in a request without a body)              empty
    64 hex digits                                   compared with it
    UNSIGNED-PAYLOAD                                not covered
    STREAMING-AWS4-HMAC-SHA256-PAYLOAD[-TRAILER]    signed chunk by chunk (`streaming`)
    STREAMING-UNSIGNED-PAYLOAD-TRAILER              in chunks, checked by the trailer

Every x-amz-* header that comes must be signed, or it could be added by whoever holds a
presigned URL (CVE-2026-97731).

Pure: the time is an argument.  Secrets are compared in constant time, and never in errors.

Source: AWS "Signature Version 4 signing process"; Amazon S3 API Reference,
"Authenticating requests".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from calendar import timegm
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NoReturn, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

import attrs

from objstore.frozen import frozen
from objstore.http.dates import parse_http_date
from objstore.http.message import Headers
from objstore.s3.errors import S3Error

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
OF_EVERY_REQUEST = frozenset({"x-amz-date", "x-amz-content-sha256"})  # Headers.
_COMMON_PAYLOADS = {EMPTY_SHA256, UNSIGNED_PAYLOAD}
STREAMING = {STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER}

SKEW_MAX_MS = 15 * 60_000
EXPIRES_MAX_S = 7 * 24 * 3600
_SERVICE = "s3"
_TERMINATOR = "aws4_request"
_SIGV4A = "AWS4-ECDSA-P256-SHA256"
_KEYS_MAX = 1024  # Signing keys kept: one a secret and day in practice.
_SIGNERS_MAX = 1024  # Likewise of signers, in a few forms each.
_SIGNER_SIZE_MAX = 512  # Of its text; longer ones are read anew each time.

_HEX64 = re.compile(r"[0-9a-f]{64}")
_TIMESTAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_EXPIRES = re.compile(r"[0-9]{1,10}")
_HEADER_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+(?:;[!#$%&'*+.^_`|~0-9a-z-]+)*")
# A path that is already in canonical form: unreserved bytes and upper-case escapes.
_CANONICAL = re.compile(r"[A-Za-z0-9\-._~/]*(?:%[0-9A-F]{2}[A-Za-z0-9\-._~/]*)*")
_BLANKS = re.compile(r"[ \t]+")


class _Sha256(Protocol):
    """A state of hashlib's."""

    def copy(self) -> _Sha256: ...

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


@attrs.frozen(kw_only=True)
class Signer:
    """Who signs, for where and when, and which headers: alike in many requests."""

    access_key: str
    day: str  # YYYYMMDD
    region: str
    service: str
    terminator: str
    signed_headers: tuple[str, ...]
    signed: frozenset[str] = attrs.field(init=False)  # The same.
    # The lines that are signed of them: every second piece is a value's place.
    header_lines: tuple[str, ...] = attrs.field(init=False)
    scope: str = attrs.field(init=False)

    @signed.default
    def _signed(self) -> frozenset[str]:
        return frozenset(self.signed_headers)

    @header_lines.default
    def _header_lines(self) -> tuple[str, ...]:
        pieces = [piece for name in self.signed_headers for piece in (f"\n{name}:", "")]
        return (*pieces, f"\n\n{';'.join(self.signed_headers)}\n")

    @scope.default
    def _scope(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/{self.terminator}"


@frozen
class Claim:
    """What a request says of its signer; nothing of it is true before `verify`."""

    signer: Signer
    signature: str
    timestamp: str  # YYYYMMDDTHHMMSSZ
    time_ms: int
    payload: str  # x-amz-content-sha256, or what stands for it.
    is_presigned: bool
    expires_s: int = 0  # Of a presigned URL.


@frozen
class Verified:
    """A claim that holds, and what signs the chunks of its body."""

    claim: Claim
    signing_key: bytes = attrs.field(repr=False)


# ---- reading a claim ------------------------------------------------------------------


def parse_claim(
    headers: Headers, query: Mapping[str, str], *, has_body: bool = True
) -> Claim | None:
    """The request's claim; None where it makes none: it is anonymous.

    headers: the request's own, without what a presigned URL adds.
    has_body: whether a body may come; without, its hash need not be said.
    Raises S3Error for a claim that cannot be read or is of a kind not spoken here.
    """
    authorization = headers.by_name.get("authorization")
    in_query = bool(query) and any(name in query for name in _CLAIM_PARAMETERS)
    if authorization is not None:
        if in_query:
            raise S3Error(
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query "
                "parameter, Signature query string parameter or the Authorization header "
                "should be specified",
                details={"ArgumentName": "Authorization"},
            )
        return _claim_of_header(authorization, headers, has_body=has_body)
    if in_query:
        return _claim_of_query(query, headers)
    return None


_CLAIM_PARAMETERS = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Signature",
    "AWSAccessKeyId",
    "Signature",
)


def _sigv2() -> S3Error:
    return S3Error(
        "InvalidRequest",
        "The authorization mechanism you have provided is not supported. Please use "
        f"{ALGORITHM}.",
    )


def _sigv4a() -> S3Error:
    return S3Error(
        "NotImplemented",
        f"{_SIGV4A} (Signature Version 4A) is not implemented. Please use {ALGORITHM}.",
    )


def _claim_of_header(authorization: str, headers: Headers, *, has_body: bool) -> Claim:
    start, _, signature = authorization.rpartition("Signature=")
    signer = None
    # So it is one field, and the last: nothing in it could be read in another way.
    # (As bytes, of which that is a look into a table for each.)
    if len(start) <= _SIGNER_SIZE_MAX and signature.encode("ascii", "replace").isalnum():
        signer = _signer_before_signature(start)
    fields = {} if signer is not None else _authorization_fields(authorization)
    timestamp, time_ms = _time_of_headers(headers)
    payload = headers.by_name.get("x-amz-content-sha256")
    if payload is None:
        if has_body:
            raise S3Error(
                "InvalidRequest",
                "Missing required header for this request: x-amz-content-sha256",
            )
        payload = EMPTY_SHA256  # curl before 8 signs so, and sends no such header.
    if signer is None:
        signature = fields["Signature"]
        signer = _signer(fields["Credential"], fields["SignedHeaders"], _malformed)
    if payload not in _COMMON_PAYLOADS:
        _check_payload(payload)
    return Claim(signer, signature, timestamp, time_ms, payload, is_presigned=False)


@lru_cache(_SIGNERS_MAX)
def _signer_before_signature(start: str) -> Signer | None:
    """The signer in a header that goes on with the signature's digits; None: none."""
    try:
        fields = _authorization_fields(start + "Signature=0")
        return _signer(fields["Credential"], fields["SignedHeaders"], _malformed)
    except S3Error:
        return None


def _authorization_fields(authorization: str) -> dict[str, str]:
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme == "AWS":
        raise _sigv2()
    if scheme == _SIGV4A:
        raise _sigv4a()
    if scheme != ALGORITHM:
        raise S3Error(
            "InvalidArgument",
            "Unsupported Authorization Type",
            details={"ArgumentName": "Authorization"},
        )
    fields: dict[str, str] = {}
    for item in rest.split(","):
        name, equals, value = item.strip().partition("=")
        if not equals or name in fields:
            raise _malformed("the authorization header cannot be read")
        fields[name] = value.strip()
    if fields.keys() != {"Credential", "SignedHeaders", "Signature"}:
        raise _malformed("it must have Credential, SignedHeaders and Signature")
    return fields


def _claim_of_query(query: Mapping[str, str], headers: Headers) -> Claim:
    algorithm = query.get("X-Amz-Algorithm")
    if "AWSAccessKeyId" in query or "Signature" in query:
        raise _bad_query("a URL has one signature, of Version 4 or 2")
    if algorithm == _SIGV4A:
        raise _sigv4a()
    if algorithm != ALGORITHM:
        raise _bad_query(f'X-Amz-Algorithm only supports "{ALGORITHM}"')
    missing = [name for name in _PRESIGN_REQUIRED if name not in query]
    if missing:
        raise _bad_query(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, "
            "X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and "
            "X-Amz-Expires parameters."
        )
    time_ms = _parse_timestamp(query["X-Amz-Date"])
    if time_ms is None:
        raise _bad_query(
            "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\""
        )
    expires = query["X-Amz-Expires"]
    if _EXPIRES.fullmatch(expires) is None:
        raise _bad_query("X-Amz-Expires should be a number")
    if int(expires) > EXPIRES_MAX_S:
        raise _bad_query("X-Amz-Expires must be less than a week (in seconds)")
    if int(expires) < 1:
        raise _bad_query("X-Amz-Expires must be at least a second")
    payload = _presigned_payload(query, headers)
    credential, signed_headers = query["X-Amz-Credential"], query["X-Amz-SignedHeaders"]
    signer = _signer(credential, signed_headers, _bad_query)
    _check_payload(payload)
    return Claim(
        signer=signer,
        signature=query["X-Amz-Signature"],
        timestamp=query["X-Amz-Date"],
        time_ms=time_ms,
        payload=payload,
        is_presigned=True,
        expires_s=int(expires),
    )


_PRESIGN_REQUIRED = (
    "X-Amz-Credential",
    "X-Amz-Signature",
    "X-Amz-Date",
    "X-Amz-SignedHeaders",
    "X-Amz-Expires",
)


def _presigned_payload(query: Mapping[str, str], headers: Headers) -> str:
    of_query = query.get("X-Amz-Content-Sha256")
    of_header = headers.get("x-amz-content-sha256")
    if of_query is not None and of_header is not None and of_query != of_header:
        raise S3Error(
            "InvalidArgument",
            "x-amz-content-sha256 is given twice, and differently",
            details={"ArgumentName": "x-amz-content-sha256"},
        )
    return of_query or of_header or UNSIGNED_PAYLOAD


def _signer(
    credential: str, signed_headers: str, refuse: Callable[[str], S3Error]
) -> Signer:
    # An access key may itself hold slashes, as MinIO's may: the scope is what follows.
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or not parts[0]:
        raise refuse(
            "the Credential is mal-formed; expecting "
            '"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request"'
        )
    if _HEADER_NAMES.fullmatch(signed_headers) is None:
        raise refuse("the SignedHeaders cannot be read")
    names = tuple(signed_headers.split(";"))
    if len(set(names)) != len(names):
        raise refuse("a header stands twice in SignedHeaders")
    return Signer(
        access_key=parts[0],
        day=parts[1],
        region=parts[2],
        service=parts[3],
        terminator=parts[4],
        signed_headers=names,
    )


def _check_payload(payload: str) -> None:
    if payload.startswith("STREAMING-AWS4-ECDSA"):
        raise _sigv4a()
    if (
        payload != UNSIGNED_PAYLOAD
        and payload not in STREAMING
        and _HEX64.fullmatch(payload) is None
    ):
        raise S3Error(
            "InvalidArgument",
            f"x-amz-content-sha256 must be {UNSIGNED_PAYLOAD}, "
            f"{', '.join(sorted(STREAMING))}, or a valid sha256 value.",
            details={
                "ArgumentName": "x-amz-content-sha256",
                "ArgumentValue": payload[:128],
            },
        )


def _time_of_headers(headers: Headers) -> tuple[str, int]:
    """The signing time: x-amz-date, else Date.  Raises S3Error AccessDenied."""
    amz_date = headers.by_name.get("x-amz-date")
    if amz_date is not None:
        time_ms = _parse_timestamp(amz_date)
        if time_ms is not None:
            return amz_date, time_ms
    else:
        date = headers.get("date", "")
        time_ms = _parse_timestamp(date)
        if time_ms is not None:
            return date, time_ms
        time_ms = parse_http_date(date)
        if time_ms is not None:
            moment = datetime.fromtimestamp(time_ms // 1000, UTC)
            return moment.strftime("%Y%m%dT%H%M%SZ"), time_ms
    raise S3Error(
        "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header"
    )


@lru_cache(maxsize=64)  # The requests of one second have one.
def _parse_timestamp(text: str) -> int | None:
    if _TIMESTAMP.fullmatch(text) is None:
        return None
    try:
        moment = datetime(
            int(text[:4]),
            int(text[4:6]),
            int(text[6:8]),
            int(text[9:11]),
            int(text[11:13]),
            int(text[13:15]),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return timegm(moment.utctimetuple()) * 1000


def _malformed(why: str) -> S3Error:
    return S3Error(
        "AuthorizationHeaderMalformed", f"The authorization header is malformed; {why}"
    )


def _bad_query(why: str) -> S3Error:
    return S3Error("AuthorizationQueryParametersError", why)


# ---- checking a claim -----------------------------------------------------------------


def check_claim(claim: Claim, headers: Headers, *, region: str, now_ms: int) -> None:
    """Check all of a claim that needs no secret.

    headers: the request's own.
    Raises S3Error AuthorizationHeaderMalformed (or ...QueryParametersError),
    RequestTimeTooSkewed, AccessDenied, InvalidToken.
    """
    signer = claim.signer
    if (
        signer.region != region
        or signer.day != claim.timestamp[:8]
        or signer.service != _SERVICE
        or signer.terminator != _TERMINATOR
    ):
        _refuse_scope(claim, region)
    if claim.is_presigned or abs(now_ms - claim.time_ms) > SKEW_MAX_MS:
        _judge_time(claim, now_ms)
    _check_signed_headers(claim, headers)


def _refuse_scope(claim: Claim, region: str) -> NoReturn:
    refuse = _bad_query if claim.is_presigned else _malformed
    signer = claim.signer
    if signer.day != claim.timestamp[:8]:
        raise refuse(
            f'Invalid credential date "{signer.day}". This date is not the same as '
            f'X-Amz-Date: "{claim.timestamp[:8]}".'
        )
    if signer.service != _SERVICE:
        raise refuse(
            f'incorrect service "{signer.service}". This endpoint belongs to "s3".'
        )
    if signer.terminator != _TERMINATOR:
        raise refuse(
            f'incorrect terminal "{signer.terminator}". This endpoint uses "{_TERMINATOR}".'
        )
    error = refuse(f"the region '{signer.region}' is wrong; expecting '{region}'")
    error.details["Region"] = region
    raise error


def _judge_time(claim: Claim, now_ms: int) -> None:
    """Refuse a time that is not now, or a presigned URL's that is not yet or no more."""
    if not claim.is_presigned:
        raise S3Error(
            "RequestTimeTooSkewed",
            details={
                "RequestTime": claim.timestamp,
                "ServerTime": _iso(now_ms),
                "MaxAllowedSkewMilliseconds": SKEW_MAX_MS,
            },
        )
    if claim.time_ms > now_ms + SKEW_MAX_MS:
        raise S3Error(
            "AccessDenied",
            "Request is not valid yet",
            details={"X-Amz-Date": claim.timestamp, "ServerTime": _iso(now_ms)},
        )
    expires_ms = claim.time_ms + claim.expires_s * 1000
    if now_ms > expires_ms:
        raise S3Error(
            "AccessDenied",
            "Request has expired",
            details={
                "X-Amz-Expires": claim.expires_s,
                "Expires": _iso(expires_ms),
                "ServerTime": _iso(now_ms),
            },
        )


def _check_signed_headers(claim: Claim, headers: Headers) -> None:
    signed = claim.signer.signed
    if "host" in signed and signed.issuperset(headers.extensions):
        return
    unsigned = [
        name
        for name in headers.extensions
        if name not in signed and name.startswith("x-amz-")
    ]
    if "host" not in signed:
        unsigned.append("host")
    if unsigned:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            details={"HeadersNotSigned": ", ".join(unsigned)},
        )


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---- the signature --------------------------------------------------------------------


class SigningKeys:
    """Signing keys by (secret, day, region): four HMACs saved on each request."""

    def __init__(self, size_max: int = _KEYS_MAX) -> None:
        self._size_max = size_max
        self._keys: dict[tuple[str, str, str], bytes] = {}

    def get(self, secret: str, day: str, region: str) -> bytes:
        name = (secret, day, region)
        key = self._keys.get(name)
        if key is None:
            key = derive_key(secret, day=day, region=region)
            while len(self._keys) >= self._size_max:
                del self._keys[next(iter(self._keys))]
            self._keys[name] = key
        return key

    def __repr__(self) -> str:
        return f"SigningKeys({len(self._keys)})"


def derive_key(secret: str, *, day: str, region: str, service: str = _SERVICE) -> bytes:
    """The key of one secret, day, region and service."""
    key = _hmac(b"AWS4" + secret.encode(), day)
    for part in (region, service, _TERMINATOR):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode("latin-1"), "sha256")


def sign(signing_key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256, for a key that signs again and again.

    RFC 2104 over OpenSSL's SHA-256, from the states behind the padded key: `hmac.digest`
    looks its algorithm up and pads the key each time, which takes longer than the rest.
    """
    inner, outer = _padded(signing_key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(data)
    outer.update(inner.digest())
    return outer.digest()


@lru_cache(_KEYS_MAX)
def _padded(key: bytes) -> tuple[_Sha256, _Sha256]:
    assert len(key) == hashlib.sha256().digest_size, "a signing key is an HMAC itself"
    padded = key.ljust(hashlib.sha256().block_size, b"\0")
    return (
        hashlib.sha256(bytes(byte ^ 0x36 for byte in padded)),
        hashlib.sha256(bytes(byte ^ 0x5C for byte in padded)),
    )


def verify(
    claim: Claim,
    signing_key: bytes,
    *,
    method: str,
    path: str,
    query: str,
    headers: Headers,
) -> Verified:
    """Compare the claim's signature with the one that the key makes.

    path, query: raw, as they came.  headers: the request's own.
    Raises S3Error SignatureDoesNotMatch, with what was signed as AWS gives it.
    """
    canonical = canonical_request(
        method=method,
        path=path,
        query=query,
        headers=headers,
        signer=claim.signer,
        payload=claim.payload,
    )
    to_sign = string_to_sign(claim.timestamp, claim.signer.scope, canonical)
    signature = sign(signing_key, to_sign.encode("latin-1")).hex()
    claimed = claim.signature if claim.signature.isascii() else ""
    if not hmac.compare_digest(signature, claimed):
        raise S3Error(
            "SignatureDoesNotMatch",
            details={
                "AWSAccessKeyId": claim.signer.access_key,
                "StringToSign": to_sign,
                "SignatureProvided": claim.signature,
                "StringToSignBytes": _hex_bytes(to_sign),
                "CanonicalRequest": canonical,
                "CanonicalRequestBytes": _hex_bytes(canonical),
            },
        )
    return Verified(claim, signing_key)


def canonical_request(
    *,
    method: str,
    path: str,
    query: str,
    headers: Headers,
    signer: Signer,
    payload: str,
) -> str:
    """The text that is signed, a character a byte (latin-1)."""
    by_name = headers.by_name
    values = [by_name.get(name, "") for name in signer.signed_headers]
    joined = "".join(values)
    if " " in joined or "\t" in joined:
        values = [_canonical_value(value) for value in values]
    lines = [*signer.header_lines]
    lines[1::2] = values
    if query:
        query = _canonical_query(query)
    return f"{method}\n{_canonical_path(path)}\n{query}{''.join(lines)}{payload}"


def string_to_sign(timestamp: str, scope: str, canonical: str) -> str:
    digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    return f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}"


def _canonical_path(path: str) -> str:
    """The path, encoded once: S3 neither normalises nor encodes it twice."""
    if _CANONICAL.fullmatch(path):
        return path
    return quote_from_bytes(unquote_to_bytes(path), safe="/~")


def _canonical_query(query: str) -> str:
    """Every parameter but the signature, encoded anew, in order."""
    pairs = []
    for pair in query.split("&"):
        if pair:
            raw_name, _, value = pair.partition("=")
            name = _encode(raw_name)
            if name != "X-Amz-Signature":
                pairs.append((name, _encode(value)))
    pairs.sort()
    return "&".join(f"{name}={value}" for name, value in pairs)


def _encode(raw: str) -> str:
    if "+" not in raw and "/" not in raw and _CANONICAL.fullmatch(raw):
        return raw
    return quote_from_bytes(unquote_to_bytes(raw.replace("+", " ")), safe="~")


def _canonical_value(value: str) -> str:
    value = value.strip(" \t")
    return _BLANKS.sub(" ", value) if "  " in value or "\t" in value else value


def _hex_bytes(text: str) -> str:
    return text.encode("latin-1", "replace").hex(" ")
