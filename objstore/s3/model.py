"""The operations that S3 has, out of AWS's own service model.

botocore ships the model as JSON; the file is read where the package lies, and nothing of
botocore is imported (its data is the dependency, not its code).

    Operation("UploadPart", "PUT", OBJECT, literals={}, required={"partNumber", "uploadId"})
    Operation("GetBucketAcl", "GET", BUCKET, literals={"acl": ""}, required={})
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from objstore.frozen import frozen

SERVICE = "service"
BUCKET = "bucket"
OBJECT = "object"

_MODEL = "data/s3/2006-03-01/service-2.json"
_TARGETS = {"/": SERVICE, "/{Bucket}": BUCKET, "/{Bucket}/{Key+}": OBJECT}
# The same request as another operation's: older names, and directory buckets' list.
_SHADOWED = {
    "GetBucketLifecycle",
    "PutBucketLifecycle",
    "GetBucketNotification",
    "PutBucketNotification",
    "ListDirectoryBuckets",
}
# Of other hosts than a bucket's: Object Lambda answers there.
_ELSEWHERE = {"WriteGetObjectResponse"}


@frozen
class Operation:
    """What makes a request this operation."""

    name: str
    method: str
    target: str  # SERVICE, BUCKET or OBJECT
    literals: dict[str, str]  # Query parameters of its address: {"list-type": "2"}.
    required: frozenset[str]  # Query parameters that it cannot do without.
    headers: frozenset[str]  # Headers likewise, lower-case.
    parameters: frozenset[str]  # Every query parameter it knows, required ones among them.
    status: int  # Of its success.


@cache
def operations() -> dict[str, Operation]:
    """All of them, by name; read at the first call (about 15 ms)."""
    model = json.loads(_read_model())
    shapes = model["shapes"]
    return {
        name: _operation(name, described, shapes)
        for name, described in model["operations"].items()
        if name not in _SHADOWED | _ELSEWHERE
    }


def _read_model() -> bytes:
    found = PathFinder.find_spec("botocore")
    assert found is not None, "botocore is a dependency: its service model is needed"
    assert found.origin is not None
    path = Path(found.origin).parent / _MODEL
    if path.exists():
        return path.read_bytes()
    return gzip.decompress(path.with_name(path.name + ".gz").read_bytes())


def _operation(name: str, described: dict[str, Any], shapes: dict[str, Any]) -> Operation:
    address, _, query = described["http"]["requestUri"].partition("?")
    members: dict[str, Any] = {}
    required: list[str] = []
    if "input" in described:
        shape = shapes[described["input"]["shape"]]
        members = shape["members"]
        required = shape.get("required", [])
    return Operation(
        name=name,
        method=described["http"]["method"],
        target=_TARGETS[address],
        literals=dict(parse_qsl(query, keep_blank_values=True)),
        required=_located(members, required, "querystring"),
        headers=_located(members, required, "header"),
        parameters=_located(members, list(members), "querystring"),
        status=described["http"].get("responseCode", 200),
    )


def _located(members: dict[str, Any], names: list[str], location: str) -> frozenset[str]:
    """Wire names of the members that go into this part of a request."""
    return frozenset(
        members[name]["locationName"].lower()
        if location == "header"
        else members[name]["locationName"]
        for name in names
        if members[name].get("location") == location
    )
