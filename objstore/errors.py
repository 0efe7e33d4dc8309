"""The errors that callers can act on.

    ObjstoreError                              what can the caller do?
      InvalidRequest   (the asker's fault)     change the request
      NotFound                                 nothing
      Conflict         (precondition, CAS)     read again, decide again
      Unavailable      (quorum, no leader)     retry after retry_after_ms
      OutOfSpace                               free or add space
      CorruptData      (checksum, format)      read another copy; repair this one
      ProtocolError                            a bug here / a bug or an enemy there
      ConfigError                              edit the named file, key

A package's own errors derive from these and stand beside the code that raises them.
"""

from __future__ import annotations


class ObjstoreError(Exception):
    """The root of every error that objstore raises on purpose."""


class InvalidRequest(ObjstoreError):
    """The asker must change the request."""


class NotFound(ObjstoreError):
    """What was asked for does not exist."""


class Conflict(ObjstoreError):
    """A condition did not hold: read again, decide again."""


class Unavailable(ObjstoreError):
    """No quorum, no leader, or too busy: the same request may succeed later.

    `unknown` is True where the request may have taken effect all the same.
    """

    def __init__(
        self, message: str, *, retry_after_ms: int = 1000, unknown: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        self.unknown = unknown


class OutOfSpace(ObjstoreError):
    """A drive or store has reached its reserve: free or add space."""


class CorruptData(ObjstoreError):
    """Bytes do not match their checksum or format: use another copy."""


class ProtocolError(ObjstoreError):
    """A rule of a protocol was broken."""


class LocalProtocolError(ProtocolError):
    """We broke it: a bug here."""


class RemoteProtocolError(ProtocolError):
    """The other end broke it: a bug or an enemy there."""


class ConfigError(ObjstoreError):
    """A configuration cannot be used; the message names file, key and remedy."""
