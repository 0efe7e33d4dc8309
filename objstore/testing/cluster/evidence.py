"""What a simulation saw: the input of every checker, and what they find."""

from __future__ import annotations

import attrs
import trio

from objstore.testing.cluster.bodies import Body
from objstore.testing.history import History


@attrs.frozen
class Violation:
    """Something that must never be."""

    checker: str
    what: str

    def __str__(self) -> str:
        return f"{self.checker}: {self.what}"


@attrs.frozen
class Listed:
    """One list of all keys of a bucket, by as many pages as it took."""

    client: str
    bucket: str
    called: float
    returned: float
    keys: tuple[str, ...]  # "bucket/key", in the order they came.
    etags: tuple[str, ...]


@attrs.frozen
class End:
    """A node's program ended by itself."""

    node: str
    time: float
    reason: str
    is_bug: bool  # Not an error that a disk or a refusal explains.
    had_fault: bool  # Its disk had been made to fail, or was damaged.


@attrs.define(eq=False)
class Evidence:
    """All of one run."""

    history: History = attrs.field(factory=lambda: History(trio.current_time))
    bodies: dict[int, Body] = attrs.field(factory=dict)  # All that were sent, by number.
    etags: dict[str, int] = attrs.field(factory=dict)
    lists: list[Listed] = attrs.field(factory=list)
    ends: list[End] = attrs.field(factory=list)
    found: list[Violation] = attrs.field(factory=list)  # On the spot.
    operations: int = 0  # That were answered.

    def new_body(self, key: str, size: int) -> Body:
        """A body for `key` that no other write has."""
        body = Body(key, len(self.bodies) + 1, size)
        self.bodies[body.number] = body
        self.etags[body.etag] = body.number
        self.etags[body.upload_etag] = body.number
        return body

    def accuse(self, checker: str, what: str) -> None:
        self.found.append(Violation(checker, f"at {trio.current_time():.3f}: {what}"))
