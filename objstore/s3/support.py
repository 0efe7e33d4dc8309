"""What of S3 is built: docs/s3.md, written from the tables that the server itself uses.

A test compares the file with `render()`, so it cannot promise what is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from objstore.s3.call import OperationHandler
from objstore.s3.model import Operation, operations
from objstore.s3.operations.registry import OPERATIONS
from objstore.s3.router import TELLING_HEADERS

_HEAD = """\
# What of S3 is supported

This page is written from the server's own operation table; a test holds it to that.

- **Addresses**: path-style always; virtual-hosted (`BUCKET.DOMAIN`) for the domains of
  `s3.domains`. Keys are 1 to 1,024 bytes of UTF-8, compared byte by byte: `a`, `a/`,
  `a//b` and `..` are just keys.
- **Signatures**: Signature Version 4 in headers and in presigned URLs (1 second to 7
  days), with a clock skew of at most 15 minutes. Presigned URLs may be of Signature
  Version 2, which `aws s3 presign` and boto3 make by default; in headers it answers
  InvalidRequest, and SigV4A NotImplemented. Anonymous requests get AccessDenied.
- **Bodies**: plain, `UNSIGNED-PAYLOAD`, and aws-chunked: signed, signed with trailer,
  unsigned with trailer. A signed chunk may have up to 4 MiB.
- **Integrity**: Content-MD5; CRC32, CRC32C, CRC64NVME, SHA1 and SHA256 as headers and
  trailers.
- **What is not built** answers `501 NotImplemented` with the operation's name. A
  sub-resource, or a query parameter that S3 does not have, is never ignored; but names
  that begin with `x-` are.
- **CORS**: no bucket has a CORS configuration; a preflight gets AccessForbidden.
- **Errors of our own**: `507 InsufficientStorage` where the drives are full; `503
  ServiceUnavailable` with Retry-After where a quorum cannot be had at the moment.
"""


def render() -> str:
    """The page."""
    built = [it for it in operations().values() if it.name in OPERATIONS]
    missing = [it for it in operations().values() if it.name not in OPERATIONS]
    sections = [
        _HEAD,
        f"## Built ({len(built)})\n\n{_table(built, OPERATIONS)}",
        f"## Not built ({len(missing)})\n\n{_table(missing, {})}",
    ]
    return "\n".join(sections)


def _table(listed: Iterable[Operation], handlers: Mapping[str, OperationHandler]) -> str:
    rows = []
    for operation in sorted(listed, key=lambda it: it.name):
        handler = handlers.get(operation.name)
        where = (
            "" if handler is None else f"`{handler.__module__.removeprefix('objstore.')}`"
        )
        rows.append(f"| {operation.name} | `{_address(operation)}` | {where} |")
    return "\n".join(["| operation | request | where |", "|---|---|---|", *rows]) + "\n"


def _address(operation: Operation) -> str:
    path = {"service": "/", "bucket": "/BUCKET", "object": "/BUCKET/KEY"}[operation.target]
    parameters = [
        f"{name}={value}" if value else name for name, value in operation.literals.items()
    ]
    parameters += [f"{name}=..." for name in sorted(operation.required)]
    query = "?" + "&".join(parameters) if parameters else ""
    header = "".join(f" {name}:" for name in operation.headers & TELLING_HEADERS)
    return f"{operation.method} {path}{query}{header}"
