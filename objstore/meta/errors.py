"""What a command or query may fail with.  Each has a stable wire code (`rpc.codec`)."""

from __future__ import annotations

from objstore.errors import Conflict, InvalidRequest, NotFound, Unavailable
from objstore.limits import PART_SIZE_MIN
from objstore.rpc.codec import wire_error


@wire_error("meta.no_such_bucket")
class NoSuchBucket(NotFound):
    """No bucket of this name (or this incarnation)."""


@wire_error("meta.no_such_key")
class NoSuchKey(NotFound):
    """The key has no current version."""


@wire_error("meta.no_such_version")
class NoSuchVersion(NotFound):
    """The key has no such version."""


@wire_error("meta.no_such_upload")
class NoSuchUpload(NotFound):
    """No such upload in progress."""


@wire_error("meta.no_such_access_key")
class NoSuchAccessKey(NotFound):
    """No such access key."""


@wire_error("meta.bucket_exists")
class BucketExists(Conflict):
    """The name is taken; `owner` says by whom."""

    def __init__(self, message: str, *, owner: str = "") -> None:
        super().__init__(message)
        self.owner = owner


@wire_error("meta.too_many_buckets")
class TooManyBuckets(Conflict):
    """The cluster holds BUCKETS_MAX buckets."""


@wire_error("meta.bucket_not_empty")
class BucketNotEmpty(Conflict):
    """The bucket still holds versions, markers or uploads."""


@wire_error("meta.precondition_failed")
class PreconditionFailed(Conflict):
    """A condition did not hold; `condition` names the header."""

    def __init__(self, message: str, *, condition: str = "") -> None:
        super().__init__(message)
        self.condition = condition


@wire_error("meta.stale_bucket")
class StaleBucket(Conflict):
    """The command's incarnation or config version is not the slot's: refresh, retry."""


@wire_error("meta.stale_epoch")
class StaleEpoch(Conflict):
    """Bytes were placed by a ring that is no longer accepted: place again."""


@wire_error("meta.intent_gone")
class IntentGone(Conflict):
    """The write took longer than its intent lived: write again."""


@wire_error("meta.invalid_part")
class InvalidPart(InvalidRequest):
    """A listed part is missing or its etag differs; `number` says which."""

    def __init__(self, message: str, *, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


@wire_error("meta.invalid_part_order")
class InvalidPartOrder(InvalidRequest):
    """Parts are not listed in ascending order."""


@wire_error("meta.entity_too_small")
class EntityTooSmall(InvalidRequest):
    """A part but the last is smaller than `size_min`."""

    def __init__(
        self,
        message: str,
        *,
        number: int = 0,
        size: int = 0,
        etag: str = "",
        size_min: int = PART_SIZE_MIN,
    ) -> None:
        super().__init__(message)
        self.size_min = size_min
        self.number = number
        self.size = size
        self.etag = etag


@wire_error("meta.entity_too_large")
class EntityTooLarge(InvalidRequest):
    """The object would exceed OBJECT_SIZE_MAX."""


@wire_error("meta.checksum_mismatch")
class ChecksumMismatch(InvalidRequest):
    """A whole-object checksum or size at completion is not what the parts give."""


@wire_error("meta.size_mismatch")
class SizeMismatch(ChecksumMismatch):
    """The whole object's size at completion is not the sum of the parts'."""


@wire_error("meta.invalid_token")
class InvalidToken(InvalidRequest):
    """A join token is unknown, expired, spent or wrong (which one is not said)."""


@wire_error("meta.access_key_exists")
class AccessKeyExists(Conflict):
    """The access key is taken."""


@wire_error("meta.wrong_shard")
class WrongShard(Unavailable):
    """This node's replica does not lead the shard; `leader` is a hint or "".

    The client goes to the leader; it reaches no caller of the client.
    """

    def __init__(self, message: str, *, leader: str = "") -> None:
        super().__init__(message)
        self.leader = leader
