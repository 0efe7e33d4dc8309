"""Messages: what a handler is given and what it gives back.

    Request(method, target, path, query, headers, body ...)   --> handler
    Response(status, headers, body)                           <--

Names and values of headers are str, decoded as latin-1 (a byte a character), so nothing
is lost and nothing is guessed.  `path` and `query` are the target's bytes, still
percent-encoded and never normalised: what they mean is the handler's affair.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from functools import lru_cache
from typing import Protocol, overload

import attrs

from objstore.buffer import Buffer
from objstore.errors import RemoteProtocolError

# A client's requests of one kind have fields of the same names.
_NAMES_KEPT = 128


class TruncatedBody(RemoteProtocolError):
    """The client ended its body before the length that it had declared."""


class Headers:
    """Header fields in the order they came, found without regard to case.

    A field that came several times is one value, joined by "," (RFC 9110, 5.3; the same
    as SigV4 signs, so what is checked is what is read).  Who knows a name in lower case
    and asks for every request may look into `by_name`.
    """

    __slots__ = ("_fields", "by_name", "extensions")

    _fields: list[tuple[str, str]] | None  # None: each of `by_name` is one.
    by_name: dict[str, str]  # Lower-case name -> joined value; nobody changes it.
    # The names that begin with "x-", lower-case: those that HTTP leaves to others.
    extensions: tuple[str, ...]

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = [(name.lower(), value) for name, value in fields]
        values: dict[str, str] = {}
        for name, value in self._fields:
            values[name] = f"{values[name]},{value}" if name in values else value
        self.by_name = values
        self.extensions = _extensions_of(tuple(values))

    @classmethod
    def of(cls, values: dict[str, str]) -> Headers:
        """Of fields that came once each, by lower-case name; takes the dict over."""
        headers = cls.__new__(cls)
        headers._fields = None
        headers.by_name = values
        headers.extensions = _extensions_of(tuple(values))
        return headers

    @classmethod
    def from_wire(cls, fields: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Of raw fields, as a parser gives them."""
        return cls(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in fields
        )

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of `name` (lower-case is quickest), or `default`."""
        value = self.by_name.get(name)
        if value is None and not name.islower():
            value = self.by_name.get(name.lower())
        return default if value is None else value

    def lacks(self, names: frozenset[str]) -> bool:
        """Whether none of `names`, all lower-case, is there."""
        return names.isdisjoint(self.by_name)

    def get_all(self, name: str) -> list[str]:
        """Each value of `name`, as it came."""
        wanted = name.lower()
        return [value for name, value in self.fields() if name == wanted]

    def __getitem__(self, name: str) -> str:
        return self.by_name[name.lower()]

    def __contains__(self, name: object) -> bool:
        return name in self.by_name or (
            isinstance(name, str) and name.lower() in self.by_name
        )

    def __iter__(self) -> Iterator[str]:
        """Each name once, lower-case, in order of first appearance."""
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def items(self) -> Iterable[tuple[str, str]]:
        """(lower-case name, joined value), each name once."""
        return self.by_name.items()

    def fields(self) -> list[tuple[str, str]]:
        """(lower-case name, value) for each field that came."""
        return list(self.by_name.items()) if self._fields is None else self._fields

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.fields() == other.fields()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({', '.join(self.by_name)})"  # Values may be secrets.


@lru_cache(_NAMES_KEPT)
def _extensions_of(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name.startswith("x-"))


class Body(Protocol):
    """A request's body: read once, in order; never more than its declared length.

    Iterating raises TruncatedBody where the client ends it early, RemoteProtocolError
    where its framing is broken.
    """

    @property
    def size(self) -> int | None:
        """Bytes to come: Content-Length, 0 without a body, None where it is chunked."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class BytesBody:
    """A body that is in memory already."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.size = len(data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.data:
            yield self.data


NO_BODY = BytesBody()


@attrs.define
class Request:
    """One request."""

    method: str  # As it came: "GET"; "get" is another method.
    target: bytes  # As it came, in origin form.
    path: str  # Of the target: raw, percent-encoded, ASCII.
    query: str  # After the first "?", raw; "" without.
    headers: Headers
    body: Body = NO_BODY
    http_version: str = "1.1"
    remote: str = ""  # HOST:PORT, as logs show it.
    secure: bool = False


@attrs.define
class Response:
    """One answer.

    Content-Length, Transfer-Encoding, Connection and Date are written by the connection:
    they must not be among `headers`.
    """

    status: int
    headers: list[tuple[str, str]] = attrs.field(factory=list)
    # An iterator is closed (aclose, where it has one) whatever happens.  A memoryview is
    # sent as it is, and must not change until the next one is asked for.
    body: Buffer | AsyncIterator[Buffer] = b""
    # Exact length of an iterator's bytes (without: chunked), or of what a HEAD left out.
    content_length: int | None = None
    close: bool = False  # End the connection after this answer.
