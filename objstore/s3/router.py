"""The router: which operation a request is, on which bucket and key.

    GET  /photos/a//b?uploadId=1      ListParts    photos   b"a//b"
    PUT  /b      Host: photos.DOMAIN  PutObject    photos   b"b"

Every operation of the service model is recognised, whether it is built or not.  The
parameters that tell operations apart (`?acl`, `?uploads`, `uploadId` ...) must fit one
operation exactly: a request that has others never falls through to a simpler one.  A
parameter that no operation knows is refused as well, but for `x-...`, which AWS leaves to
clients for their logs.

Keys are bytes: percent-decoded once, never normalised.  A parameter given twice is
refused, so that nobody can check the one and use the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from urllib.parse import unquote_to_bytes

from objstore.frozen import frozen
from objstore.http.message import Headers
from objstore.ids import Key
from objstore.limits import KEY_SIZE_MAX
from objstore.s3.errors import S3Error
from objstore.s3.model import BUCKET, OBJECT, SERVICE, Operation, operations
from objstore.s3.names import is_bucket_name

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Headers that make another operation of the same method and parameters.
TELLING_HEADERS = frozenset({"x-amz-copy-source"})
_OBJECT_LAMBDA_PATH = "/WriteGetObjectResponse"


@frozen
class Route:
    """Where a request goes."""

    operation: str
    bucket: str | None
    key: Key | None


def parse_query(query: str) -> dict[str, str]:
    """Decode a raw query.  Raises S3Error InvalidURI, InvalidArgument for repetitions."""
    parameters: dict[str, str] = {}
    if not query:
        return parameters
    for pair in query.split("&"):
        if not pair:
            continue
        raw_name, _, raw_value = pair.partition("=")
        name = _decode_text(raw_name.replace("+", " "))
        if name in parameters:
            raise S3Error(
                "InvalidArgument",
                "A query parameter was given more than once.",
                details={"ArgumentName": name},
            )
        parameters[name] = _decode_text(raw_value.replace("+", " "))
    return parameters


def locate(path: str, host: str, domains: Sequence[str]) -> tuple[str | None, Key | None]:
    """The bucket and key that a raw path, asked of `host`, names.

    host: as the header has it, with its port.
    domains: base domains, lower-case; `BUCKET.DOMAIN` is virtual-hosted style.
    Raises S3Error InvalidURI, InvalidBucketName, KeyTooLongError.
    """
    assert path.startswith("/"), path
    bucket = virtual_bucket(host, domains) if domains else None
    raw_key = path[1:]
    if bucket is None:
        raw_bucket, _, raw_key = raw_key.partition("/")
        if not raw_bucket and not raw_key and path == "/":
            return None, None
        bucket = _decode_text(raw_bucket) if "%" in raw_bucket else raw_bucket
    if not is_bucket_name(bucket):
        raise S3Error("InvalidBucketName", details={"BucketName": bucket})
    return bucket, _decode_key(raw_key) if raw_key else None


def resolve(
    method: str,
    host: str,
    path: str,
    query: Mapping[str, str],
    headers: Headers,
    *,
    domains: Sequence[str] = (),
) -> Route:
    """What a request asks for.  Arguments as for `locate` and `operation_of`."""
    if path == _OBJECT_LAMBDA_PATH and method == "POST":
        return Route("WriteGetObjectResponse", None, None)
    bucket, key = locate(path, host, domains)
    target = OBJECT if key is not None else SERVICE if bucket is None else BUCKET
    return Route(operation_of(method, target, query, headers), bucket, key)


def operation_of(
    method: str, target: str, query: Mapping[str, str], headers: Headers
) -> str:
    """The name of the operation that a request is.

    target: SERVICE, BUCKET or OBJECT, as its address names one.
    Raises S3Error MethodNotAllowed, NotImplemented, InvalidArgument.
    """
    if not query and TELLING_HEADERS.isdisjoint(headers.by_name):
        return _plain_operation(method, target)
    table = _table()
    present = table.plain
    if query:
        _refuse_unknown(query, table)
        telling = table.telling.get((method, target), table.literals)
        present = telling.intersection(query)
    candidates = table.by_shape.get((method, target, present))
    if candidates is None:
        raise _no_operation(table, method, target, present)
    for operation, needed in candidates:
        if not needed or headers.by_name.keys() >= needed:
            if operation.literals:
                _check_literals(operation, query)
            return operation.name
    raise AssertionError(f"every shape has an operation without headers: {candidates}")


@cache
def _plain_operation(method: str, target: str) -> str:
    """Of a request with nothing but its method and address.  Methods are few: `S3App`."""
    table = _table()
    candidates = table.by_shape.get((method, target, table.plain))
    if candidates is None:
        raise _no_operation(table, method, target, table.plain)
    return next(operation.name for operation, needed in candidates if not needed)


def _refuse_unknown(query: Mapping[str, str], table: _Table) -> None:
    for name in query:
        if name not in table.known and not name.lower().startswith("x-"):
            raise not_implemented(f"?{name}")


def _check_literals(operation: Operation, query: Mapping[str, str]) -> None:
    for name, value in operation.literals.items():
        if value and query[name] != value:
            raise S3Error(
                "InvalidArgument",
                f"Invalid value of {name}",
                details={"ArgumentName": name, "ArgumentValue": query[name]},
            )


def _no_operation(
    table: _Table, method: str, target: str, present: frozenset[str]
) -> S3Error:
    """Why nothing fits: the method, a missing parameter, or what S3 does not have."""
    if (method, target, present) == ("POST", BUCKET, table.plain):
        return not_implemented("PostObject")
    methods = table.methods.get((target, present))
    if methods:
        return _wrong_method(method, methods)
    literals = present & table.literals
    lacking = [
        operation
        for operation in operations().values()
        if (operation.method, operation.target) == (method, target)
        and literals == operation.literals.keys()
        and present < operation.literals.keys() | operation.required
    ]
    if lacking:
        missing = ", ".join(sorted(lacking[0].required - present))
        return S3Error(
            "InvalidArgument",
            f"This operation needs the query parameter {missing}",
            details={"ArgumentName": missing},
        )
    if (method, target) not in table.telling:
        return _wrong_method(method, table.methods[target, table.plain])
    return not_implemented("?" + "&".join(sorted(present)))


def _wrong_method(method: str, allowed: list[str]) -> S3Error:
    return S3Error(
        "MethodNotAllowed",
        details={"Method": method},
        headers=[("Allow", ", ".join(sorted(set(allowed))))],
    )


def not_implemented(operation: str) -> S3Error:
    """What is answered for an operation that S3 has and we have not."""
    return S3Error(
        "NotImplemented",
        f"{operation} is not implemented",
        details={"Operation": operation},
    )


@frozen
class _Table:
    """The service model, turned for look-up."""

    plain: frozenset[str]  # Empty: the shape of GetObject, PutObject, ListObjects ...
    literals: frozenset[str]  # Parameters that name a sub-resource anywhere in S3.
    known: frozenset[str]  # Every parameter of any operation.
    # (method, target) -> parameters that tell its operations apart, or name another's.
    telling: dict[tuple[str, str], frozenset[str]]
    # Which of those are present -> operations, those that need a (telling) header first.
    by_shape: dict[tuple[str, str, frozenset[str]], list[tuple[Operation, frozenset[str]]]]
    methods: dict[tuple[str, frozenset[str]], list[str]]


@cache
def _table() -> _Table:
    described = list(operations().values())
    literals = frozenset({"uploadId"}.union(*(it.literals for it in described)))
    known = literals.union(*(it.parameters for it in described))
    telling: dict[tuple[str, str], frozenset[str]] = {}
    by_shape: dict[
        tuple[str, str, frozenset[str]], list[tuple[Operation, frozenset[str]]]
    ] = {}
    methods: dict[tuple[str, frozenset[str]], list[str]] = {}
    for it in described:
        at = (it.method, it.target)
        telling[at] = telling.get(at, literals) | it.required
        shape = it.required.union(it.literals)
        needed = it.headers & TELLING_HEADERS
        by_shape.setdefault((*at, shape), []).append((it, needed))
        methods.setdefault((it.target, shape), []).append(it.method)
    for candidates in by_shape.values():
        candidates.sort(key=lambda it: len(it[1]), reverse=True)
    return _Table(frozenset(), literals, known, telling, by_shape, methods)


# ---- addresses ------------------------------------------------------------------------


def virtual_bucket(host: str, domains: Sequence[str]) -> str | None:
    """The bucket that a Host header names (virtual-hosted style); None: the path does.

    domains: base domains, lower-case.  What it names may be no bucket's name.
    """
    if not domains:
        return None
    name = _without_port(host).lower()
    for domain in domains:
        if name.endswith("." + domain):
            return name[: -len(domain) - 1]
    return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _decode_key(raw: str) -> Key:
    key = _decode(raw) if "%" in raw else raw.encode()
    if len(key) > KEY_SIZE_MAX:
        raise S3Error(
            "KeyTooLongError",
            details={"Size": len(key), "MaxSizeAllowed": KEY_SIZE_MAX},
        )
    try:
        if not key.isascii():
            key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid_uri() from error
    return Key(key)


def _decode_text(raw: str) -> str:
    if "%" not in raw:
        return raw
    try:
        return _decode(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid_uri() from error


def _decode(raw: str) -> bytes:
    if "%" not in raw:
        return raw.encode()
    if _BROKEN_ESCAPE.search(raw):
        raise _invalid_uri()
    return unquote_to_bytes(raw)


def _invalid_uri() -> S3Error:
    return S3Error("InvalidURI")
