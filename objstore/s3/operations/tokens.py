"""Continuation tokens: where a list goes on, opaque to clients, checked on return.

    base64url( format (1) | check (8) | place )

`check` is a digest of the bucket's name and the place, so that a token made up, cut or
brought from another list is refused and not misread.  It keeps no secret: whoever may list
may start anywhere (start-after), and every page is authorised for itself.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import blake2b

_FORMAT = b"\x01"
_CHECK_SIZE = 8
_TOKEN_SIZE_MAX = 2048  # A key of KEY_SIZE_MAX, encoded, with room.


class InvalidContinuation(ValueError):
    """A token that no list of this scope gave."""


def encode_token(scope: str, place: bytes) -> str:
    """A token for `place`.  scope: the bucket's name, or what else the list is of."""
    raw = _FORMAT + _check(scope, place) + place
    return base64.urlsafe_b64encode(raw).decode("ascii")


def decode_token(scope: str, token: str) -> bytes:
    """The place of a token that `encode_token` gave for `scope`.

    Raises InvalidContinuation.
    """
    if len(token) > _TOKEN_SIZE_MAX:
        raise InvalidContinuation("too long")
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise InvalidContinuation("not base64") from error
    check, place = raw[1 : 1 + _CHECK_SIZE], raw[1 + _CHECK_SIZE :]
    if raw[:1] != _FORMAT or check != _check(scope, place):
        raise InvalidContinuation("not one of this list")
    return place


def _check(scope: str, place: bytes) -> bytes:
    name = scope.encode()
    framed = len(name).to_bytes(4, "big") + name + place
    return blake2b(framed, digest_size=_CHECK_SIZE, person=b"objstore.list").digest()
