"""A call: one S3 request, understood and authenticated, as an operation is given it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from objstore.http.message import Headers, Request, Response
from objstore.ids import Key
from objstore.objects.capability import Principal
from objstore.objects.store import Store
from objstore.s3.body import S3Body


@attrs.define
class S3Call:
    """What an operation works with.

    Nothing about the bucket or key may be looked up before `authorize.authorize` gave
    leave: conditions and existence are answers too (FAULTS 3, CVE-2024-36107).
    """

    store: Store
    operation: str  # "GetObject"
    bucket: str | None
    key: Key | None
    query: dict[str, str]  # Decoded; each name once.
    headers: Headers  # Those of the request, and x-amz-* of a presigned URL's query.
    body: S3Body
    principal: Principal | None  # None: anonymous.
    region: str
    request: Request
    # Run work that may take long: past 5 s the answer begins as a 200 with white space
    # and ends in the document or an <Error> (`slow_answer`).
    slow: Callable[[Callable[[], Awaitable[Response]]], Awaitable[Response]]

    @property
    def resource(self) -> str:
        """What an error's Resource says."""
        return self.request.path


OperationHandler = Callable[[S3Call], Awaitable[Response]]
