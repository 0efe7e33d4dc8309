"""Authentication: who sent a request, by the secret that signed it.

    request --> claim --> checks without a secret --> credential --> signature --> Principal

Keys are found through a look-up that is passed in; it may raise Unavailable where what it
knows is too old to be trusted (DESIGN 4: `auth.max_staleness`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs

from objstore.frozen import frozen
from objstore.http.message import Headers, Request
from objstore.objects.capability import Principal
from objstore.s3 import sigv2
from objstore.s3.errors import S3Error
from objstore.s3.router import virtual_bucket
from objstore.s3.sigv4 import SigningKeys, Verified, check_claim, parse_claim, verify


@frozen
class Credential:
    """An access key's secret, and whose it is."""

    secret_key: str = attrs.field(repr=False)
    principal: Principal


CredentialLookup = Callable[[str], Awaitable[Credential | None]]

_UNPRINTABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_SESSION = "x-amz-security-token"
# Parameters that make up the signature of a presigned URL; no headers in disguise.
_OF_SIGNATURE = {
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-signedheaders",
    "x-amz-signature",
    "x-amz-security-token",
    "x-amz-content-sha256",
}


@attrs.define
class Authenticator:
    """Verifies requests of one region."""

    credentials: CredentialLookup
    region: str
    domains: Sequence[str] = ()  # Base domains of virtual hosts, lower-case.
    _keys: SigningKeys = attrs.field(factory=SigningKeys)

    async def authenticate(
        self, request: Request, query: Mapping[str, str], *, now_ms: int
    ) -> tuple[Principal, Verified | None] | None:
        """Who sent this; None: nobody says.

        With it goes what Version 4 verified; None for a URL presigned by Version 2, whose
        signature says nothing of the body, nor of headers in the query.
        Raises S3Error where somebody says and it is not so; Unavailable.
        """
        if query and sigv2.is_claimed(request.headers, query):
            return await self._by_version_2(request, query, now_ms), None
        headers = request.headers
        claim = parse_claim(headers, query, has_body=request.body.size != 0)
        if claim is None:
            return None
        if query or _SESSION in headers.by_name:
            _refuse_session(headers, query)
        check_claim(claim, headers, region=self.region, now_ms=now_ms)
        signer = claim.signer
        credential = await self.credentials(signer.access_key)
        if credential is None:
            raise _unknown(signer.access_key)
        key = self._keys.get(credential.secret_key, signer.day, signer.region)
        verified = verify(
            claim,
            key,
            method=request.method,
            path=request.path,
            query=request.query,
            headers=headers,
        )
        return credential.principal, verified

    async def _by_version_2(
        self, request: Request, query: Mapping[str, str], now_ms: int
    ) -> Principal:
        """Who presigned this URL by Signature Version 2."""
        headers = request.headers
        claim = sigv2.parse_claim(query)
        _refuse_session(headers, query)
        sigv2.check_claim(claim, headers, query, now_ms=now_ms)
        credential = await self.credentials(claim.access_key)
        if credential is None:
            raise _unknown(claim.access_key)
        sigv2.verify(
            claim,
            credential.secret_key,
            method=request.method,
            bucket=virtual_bucket(headers.get("host", ""), self.domains),
            path=request.path,
            query=request.query,
            headers=headers,
        )
        return credential.principal


def _unknown(access_key: str) -> S3Error:
    return S3Error("InvalidAccessKeyId", details={"AWSAccessKeyId": access_key})


def _refuse_session(headers: Headers, query: Mapping[str, str]) -> None:
    """Raise S3Error InvalidToken: no sessions are given here."""
    in_query = bool(query) and any(name.lower() == _SESSION for name in query)
    if in_query or _SESSION in headers.by_name:
        raise S3Error("InvalidToken")


def effective_query(query: dict[str, str], verified: Verified | None) -> dict[str, str]:
    """The parameters that operations see: without those of a Version 2 signature.

    Those of Version 4 begin with "X-", which no operation looks at.
    """
    if verified is not None:
        return query
    own = sigv2.OWN_PARAMETERS
    return {name: value for name, value in query.items() if name not in own}


def effective_headers(
    headers: Headers, query: Mapping[str, str], verified: Verified | None
) -> Headers:
    """The headers that count: a presigned URL may carry x-amz-* ones in its query.

    SDKs put them there when they presign; the signature covers them like all the query.
    Raises S3Error InvalidArgument where one stands in both places.
    """
    if verified is None or not verified.claim.is_presigned:
        return headers
    hoisted = []
    for name, value in query.items():
        lower = name.lower()
        if not lower.startswith("x-amz-") or lower in _OF_SIGNATURE:
            continue
        if lower in headers:
            raise S3Error(
                "InvalidArgument",
                f"{lower} is given both as a header and in the query",
                details={"ArgumentName": lower},
            )
        if _UNPRINTABLE.search(value):
            raise S3Error(
                "InvalidArgument",
                f"{lower} in the query cannot be a header",
                details={"ArgumentName": lower},
            )
        # A header's bytes are what UTF-8 makes of the text.
        hoisted.append((lower, value.encode().decode("latin-1")))
    return Headers([*headers.fields(), *hoisted]) if hoisted else headers
