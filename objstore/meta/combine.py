"""An object's etag and checksum out of those of its parts, without its bytes.

    etag           MD5 of the parts' binary MD5s, and "-N"
    COMPOSITE      hash of the parts' binary checksums
    FULL_OBJECT    CRCs combined by the parts' sizes (only CRCs can be)

Source: Amazon S3 User Guide, "Checking object integrity", "Using part-level checksums".
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence

import google_crc32c
from awscrt import checksums

_COMBINE: dict[str, tuple[int, Callable[[int, int, int], int]]] = {
    "CRC32": (4, checksums.combine_crc32),
    "CRC32C": (4, checksums.combine_crc32c),
    "CRC64NVME": (8, checksums.combine_crc64nvme),
}
_HASH: dict[str, Callable[[bytes], bytes]] = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: int(google_crc32c.value(data)).to_bytes(4, "big"),
    "CRC64NVME": lambda data: checksums.crc64nvme(data).to_bytes(8, "big"),
    "SHA1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


def multipart_etag(etags: Sequence[str]) -> str:
    """The etag of an object whose parts have these hex MD5s."""
    joined = bytes.fromhex("".join(etags))
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"


def composite(algorithm: str, parts: Sequence[bytes]) -> bytes:
    """The checksum of the parts' checksums."""
    return _HASH[algorithm](b"".join(parts))


def is_combinable(algorithm: str) -> bool:
    return algorithm in _COMBINE


def full_object(algorithm: str, parts: Sequence[tuple[bytes, int]]) -> bytes:
    """The CRC of the whole, from (CRC, size) of each part in order.  At least one."""
    size, combine = _COMBINE[algorithm]
    crc = int.from_bytes(parts[0][0], "big")
    for value, part_size in parts[1:]:
        if part_size:
            crc = combine(crc, int.from_bytes(value, "big"), part_size)
    return crc.to_bytes(size, "big")
