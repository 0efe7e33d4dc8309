"""Access keys: how they are made, and what of them is shown."""

from __future__ import annotations

import hashlib
from typing import Any

from objstore.host.clock import Clock
from objstore.host.entropy import Entropy
from objstore.meta.values import AccessKey

_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_LETTERS = _CAPITALS + "abcdefghijklmnopqrstuvwxyz018945"


def new_access_key(
    entropy: Entropy, clock: Clock, *, name: str, is_root: bool
) -> AccessKey:
    """A key pair in the form that S3 clients expect: 20 and 40 characters."""
    return AccessKey(
        access_key="OS" + _letters(entropy.token(18), _CAPITALS),
        secret_key=_letters(entropy.token(40), _LETTERS),
        name=name,
        canonical_id=hashlib.sha256(entropy.token(32)).hexdigest(),
        is_root=is_root,
        created_ms=clock.utc_now_ms(),
    )


def describe_key(key: AccessKey) -> dict[str, Any]:
    """What may be shown of a key: all but its secret."""
    return {
        "name": key.name,
        "access_key": key.access_key,
        "canonical_id": key.canonical_id,
        "is_root": key.is_root,
        "created_ms": key.created_ms,
    }


def _letters(random: bytes, alphabet: str) -> str:
    """One letter a byte: 5 bits of each count with 32 letters, 6 with 64."""
    assert 256 % len(alphabet) == 0
    return "".join(alphabet[byte % len(alphabet)] for byte in random)
