"""Leave to do one thing: what every operation of this package asks for.

`objstore.s3.authorize` is the one place that makes capabilities (a test holds it): it
sees the effective principal, action, bucket, key, version and source of an operation.
Operations check that what they are given is for what they are asked to do.
"""

from __future__ import annotations

import attrs

from objstore.ids import Key, VersionId
from objstore.meta.values import BucketRecord


@attrs.frozen
class Principal:
    """Who asks."""

    access_key: str
    canonical_id: str
    is_root: bool
    name: str = ""


@attrs.frozen
class Capability:
    """Leave for `action` on exactly this."""

    principal: Principal
    action: str  # IAM's names: "s3:GetObject"
    bucket: BucketRecord | None  # None: the service itself (ListBuckets, CreateBucket).
    key: Key | None = None
    version_id: VersionId | None = None
