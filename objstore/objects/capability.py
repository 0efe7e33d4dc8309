"""Leave to do one thing: what every operation of this package asks for.

`objstore.s3.authorize` is the one place that makes capabilities (a test holds it): it
sees the effective principal, action, bucket, key, version and source of an operation.
Operations check that what they are given is for what they are asked to do.

A bucket may be made anew, or changed, between the decision and the command that rests on
it: then the command is refused (StaleBucket), and `renew` asks the maker of the capability
about the newer record.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from objstore.frozen import frozen
from objstore.ids import Key, VersionId
from objstore.meta.commands import BucketRef
from objstore.meta.values import BucketRecord


@frozen
class Principal:
    """Who asks."""

    access_key: str
    canonical_id: str
    is_root: bool
    name: str = ""


@frozen
class Capability:
    """Leave for `action` on exactly this."""

    principal: Principal
    action: str  # IAM's names: "s3:GetObject"
    bucket: BucketRecord | None  # None: the service itself (ListBuckets, CreateBucket).
    key: Key | None = None
    version_id: VersionId | None = None
    # What made this.  Not bound to the rest: few are ever renewed.
    maker: Maker | None = attrs.field(default=None, eq=False, repr=False)

    def renew(self, record: BucketRecord) -> Capability:
        """Decide again for a newer record of the same name.

        Raises what the decision raises.
        """
        assert self.maker is not None, f"{self.action} cannot be renewed"
        return self.maker(self.principal, self.action, record, self.key, self.version_id)

    def require(self, *actions: str) -> None:
        """Assert that this is leave for one of `actions`: anything else is a bug here."""
        assert self.action in actions, f"{self.action} used as {actions}"

    @property
    def record(self) -> BucketRecord:
        """The bucket that this is about."""
        assert self.bucket is not None, f"{self.action} has no bucket"
        return self.bucket

    @property
    def ref(self) -> BucketRef:
        """The bucket as a command names it."""
        return BucketRef(self.record.bucket, self.record.config_version)

    @property
    def object_key(self) -> Key:
        """The key that this is about."""
        assert self.key is not None, f"{self.action} has no key"
        return self.key


Maker = Callable[[Principal, str, BucketRecord, Key | None, VersionId | None], Capability]
