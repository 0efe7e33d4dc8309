"""What a command or query may fail with.  Each has a stable wire code (`rpc.codec`)."""

from __future__ import annotations

from objstore.errors import Conflict, InvalidRequest, NotFound, Unavailable


class NoSuchBucket(NotFound):
    """No bucket of this name (or this incarnation)."""


class NoSuchKey(NotFound):
    """The key has no current version."""


class NoSuchVersion(NotFound):
    """The key has no such version."""


class NoSuchUpload(NotFound):
    """No such upload in progress."""


class NoSuchAccessKey(NotFound):
    """No such access key."""


class BucketExists(Conflict):
    """The name is taken; `owner` says by whom."""

    def __init__(self, message: str, *, owner: str = "") -> None:
        super().__init__(message)
        self.owner = owner


class BucketNotEmpty(Conflict):
    """The bucket still holds versions, markers or uploads."""


class PreconditionFailed(Conflict):
    """A condition did not hold; `condition` names the header."""

    def __init__(self, message: str, *, condition: str = "") -> None:
        super().__init__(message)
        self.condition = condition


class StaleBucket(Conflict):
    """The command's incarnation or config version is not the slot's: refresh, retry."""


class StaleEpoch(Conflict):
    """Bytes were placed by a ring that is no longer accepted: place again."""


class IntentGone(Conflict):
    """The write took longer than its intent lived: write again."""


class InvalidPart(InvalidRequest):
    """A listed part is missing or its etag differs; `number` says which."""

    def __init__(self, message: str, *, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class InvalidPartOrder(InvalidRequest):
    """Parts are not listed in ascending order."""


class EntityTooSmall(InvalidRequest):
    """A part but the last is smaller than PART_SIZE_MIN."""

    def __init__(
        self, message: str, *, number: int = 0, size: int = 0, etag: str = ""
    ) -> None:
        super().__init__(message)
        self.number = number
        self.size = size
        self.etag = etag


class EntityTooLarge(InvalidRequest):
    """The object would exceed OBJECT_SIZE_MAX."""


class ChecksumMismatch(InvalidRequest):
    """A whole-object checksum or size at completion is not what the parts give."""


class InvalidToken(InvalidRequest):
    """A join token is unknown, expired, spent or wrong (which one is not said)."""


class AccessKeyExists(Conflict):
    """The access key is taken."""


class WrongShard(Unavailable):
    """This node's replica does not lead the shard; `leader` is a hint or "".

    The client goes to the leader; it reaches no caller of the client.
    """

    def __init__(self, message: str, *, leader: str = "") -> None:
        super().__init__(message)
        self.leader = leader
