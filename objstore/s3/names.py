"""Names of buckets, and of the metadata that clients attach.

A bucket's name: 3 to 63 of a-z 0-9 . - ; a letter or digit at both ends, no "..", not in
the form of an IPv4 address, none of AWS's reserved prefixes and suffixes.  So `-` is no
bucket, and /-/ is ours (DESIGN 7).

Source: Amazon S3 User Guide, "Bucket naming rules".
"""

from __future__ import annotations

import re
from functools import lru_cache

from objstore.s3.errors import S3Error

_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]")
_SIZE_MAX = 63
_NAMES_KEPT = 1024  # Short ones; a node's requests are about fewer.
_IPV4 = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")
_RESERVED_PREFIXES = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_SUFFIXES = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


def is_bucket_name(name: str) -> bool:
    """Whether a bucket can have this name: what routing asks."""
    return len(name) <= _SIZE_MAX and _is_bucket_name(name)


@lru_cache(_NAMES_KEPT)
def _is_bucket_name(name: str) -> bool:
    return _BUCKET.fullmatch(name) is not None and _IPV4.fullmatch(name) is None


def check_new_bucket_name(name: str) -> None:
    """Raise S3Error InvalidBucketName where no bucket may be made of this name."""
    if (
        not is_bucket_name(name)
        or name.startswith(_RESERVED_PREFIXES)
        or name.endswith(_RESERVED_SUFFIXES)
    ):
        raise S3Error("InvalidBucketName", details={"BucketName": name})
