"""Join tokens: what a new node needs to trust a cluster and to be let in.

    obj1.FINGERPRINT.ID.SECRET

FINGERPRINT is the SHA-256 of the cluster CA's certificate (64 hex digits): the joining
node compares it with the CA that the first connection shows, before it says the secret.
The cluster keeps only the secret's hash.
"""

from __future__ import annotations

import hashlib
import re

import attrs

from objstore.errors import InvalidRequest

_FORM = re.compile(r"obj1\.([0-9a-f]{64})\.([0-9a-f]{16})\.([0-9a-f]{32})")


@attrs.frozen
class Token:
    """A join token, taken apart."""

    fingerprint: str
    token_id: str
    secret: str = attrs.field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises InvalidRequest."""
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise InvalidRequest(
                "this is not a join token."
                ' hint: "objstore node token" on a member makes one'
            )
        return cls(*match.groups())

    def __str__(self) -> str:
        return f"obj1.{self.fingerprint}.{self.token_id}.{self.secret}"

    def secret_hash(self) -> bytes:
        return hashlib.sha256(self.secret.encode()).digest()
