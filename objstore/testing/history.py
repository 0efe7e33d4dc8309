"""What clients saw: operations with their call and return times, by key.

    call ├────────────┤ returned      it took effect at one moment in between
    call ├──────────────── ...        unknown outcome: at some moment after, or never

A client is a sequence: it calls its next operation after the last returned, and after an
unknown outcome goes on under a new name.  Values are hashable; None is "no such object".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable
from enum import Enum

import attrs

Value = Hashable | None


class Kind(Enum):
    """What was done to the register of one key, as its client knows it."""

    PUT = "put"  # The value is `value` now.
    DELETE = "delete"  # The value is None now.
    GET = "get"  # `value` was read; None: it was not there.
    CAS = "cas"  # It was `expected`, and is `value` now.
    CAS_FAILED = "cas_failed"  # It was not `expected`, and stayed.


@attrs.frozen
class Operation:
    number: int  # Unique in its history.
    client: str
    key: str
    kind: Kind
    value: Value
    expected: Value  # CAS and CAS_FAILED: what If-Match named; None: If-None-Match "*".
    called: float
    returned: float  # math.inf: the outcome is unknown.

    @property
    def is_unknown(self) -> bool:
        return self.returned == math.inf

    def __str__(self) -> str:
        what = {
            Kind.PUT: f"put {self.value!r}",
            Kind.DELETE: "delete",
            Kind.GET: f"get -> {self.value!r}",
            Kind.CAS: f"cas {self.expected!r} -> {self.value!r}",
            Kind.CAS_FAILED: f"cas, found other than {self.expected!r}",
        }[self.kind]
        end = "unknown" if self.is_unknown else f"{self.returned:.6f}"
        return f"#{self.number} {self.client} {self.called:.6f}..{end} {what}"


@attrs.define
class Call:
    """An operation under way: end it by exactly one of its methods."""

    _history: History
    _client: str
    _key: str
    _kind: Kind
    _value: Value
    _expected: Value
    _called: float

    def returned(self, value: Value = None) -> None:
        """It succeeded; a GET has read `value`."""
        self._end(self._kind, value if self._kind == Kind.GET else self._value)

    def refused(self) -> None:
        """A CAS found another value (412)."""
        assert self._kind == Kind.CAS
        self._end(Kind.CAS_FAILED, self._value)

    def failed(self) -> None:
        """It certainly had no effect, and said nothing of the value."""

    def unknown(self) -> None:
        """It may have taken effect, or may yet.  A GET without answer tells nothing."""
        if self._kind != Kind.GET:
            self._end(self._kind, self._value, returned=math.inf)

    def _end(self, kind: Kind, value: Value, returned: float | None = None) -> None:
        history = self._history
        history.operations.append(
            Operation(
                number=next(history._numbers),
                client=self._client,
                key=self._key,
                kind=kind,
                value=value,
                expected=self._expected,
                called=self._called,
                returned=history._now() if returned is None else returned,
            )
        )


@attrs.define
class History:
    """Operations of all clients; `now` is one clock for all of them (trio.current_time)."""

    _now: Callable[[], float]
    operations: list[Operation] = attrs.field(factory=list)
    _numbers: itertools.count[int] = attrs.field(factory=itertools.count)

    def put(self, client: str, key: str, value: Value) -> Call:
        return self._call(client, key, Kind.PUT, value=value)

    def delete(self, client: str, key: str) -> Call:
        return self._call(client, key, Kind.DELETE)

    def get(self, client: str, key: str) -> Call:
        return self._call(client, key, Kind.GET)

    def cas(self, client: str, key: str, expected: Value, value: Value) -> Call:
        return self._call(client, key, Kind.CAS, value=value, expected=expected)

    def by_key(self) -> dict[str, list[Operation]]:
        keys: dict[str, list[Operation]] = {}
        for operation in self.operations:
            keys.setdefault(operation.key, []).append(operation)
        return keys

    def _call(
        self,
        client: str,
        key: str,
        kind: Kind,
        *,
        value: Value = None,
        expected: Value = None,
    ) -> Call:
        return Call(self, client, key, kind, value, expected, self._now())
