"""Authentication: who sent a request, by the secret that signed it.

    request --> claim --> checks without a secret --> credential --> signature --> Principal

Keys are found through a look-up that is passed in; it may raise Unavailable where what it
knows is too old to be trusted (DESIGN 4: `auth.max_staleness`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping

import attrs

from objstore.http.message import Headers, Request
from objstore.objects.capability import Principal
from objstore.s3.errors import S3Error
from objstore.s3.sigv4 import SigningKeys, Verified, check_claim, parse_claim, verify


@attrs.frozen
class Credential:
    """An access key's secret, and whose it is."""

    secret_key: str = attrs.field(repr=False)
    principal: Principal


CredentialLookup = Callable[[str], Awaitable[Credential | None]]

_UNPRINTABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
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
    _keys: SigningKeys = attrs.field(factory=SigningKeys)

    async def authenticate(
        self, request: Request, query: Mapping[str, str], *, now_ms: int
    ) -> tuple[Principal, Verified] | None:
        """Who sent this; None: nobody says.

        Raises S3Error where somebody says and it is not so; Unavailable.
        """
        headers = request.headers
        claim = parse_claim(headers, query)
        if claim is None:
            return None
        if "x-amz-security-token" in headers or "X-Amz-Security-Token" in query:
            raise S3Error("InvalidToken")  # No sessions are given here.
        check_claim(claim, headers, region=self.region, now_ms=now_ms)
        credential = await self.credentials(claim.access_key)
        if credential is None:
            raise S3Error(
                "InvalidAccessKeyId", details={"AWSAccessKeyId": claim.access_key}
            )
        key = self._keys.get(credential.secret_key, day=claim.day, region=claim.region)
        verified = verify(
            claim,
            key,
            method=request.method,
            path=request.path,
            query=request.query,
            headers=headers,
        )
        return credential.principal, verified


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
