"""The S3 app: the handler that turns HTTP requests into calls of operations.

    request --> who? (authenticate) --> what? (router) --> operation --> answer
                  |                        |                  |
                  '------------------------'------------------'--> S3Error --> XML

Every answer, good or bad, has a request id, which is in its log line too: one line
`s3.request_done` a request, written when the last byte of the answer is sent.  What is
raised is translated here and nowhere else; a bug becomes InternalError and is logged with
its trace.

The operations are a table, filled by `objstore.s3.operations`: one that S3 knows and the
table has not is NotImplemented by name.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from random import Random

import structlog
import trio

from objstore import metrics
from objstore.buffer import Buffer
from objstore.errors import Unavailable
from objstore.host.clock import Clock
from objstore.host.entropy import Entropy
from objstore.host.network import Address
from objstore.http.framing import Refused
from objstore.http.message import Headers, Request, Response
from objstore.log import FrequentLog, quoted
from objstore.objects.capability import Principal
from objstore.objects.requests import MD5
from objstore.objects.store import Store
from objstore.s3 import checksums
from objstore.s3.admission import Admission
from objstore.s3.authenticate import (
    Authenticator,
    CredentialLookup,
    effective_headers,
    effective_query,
)
from objstore.s3.body import S3Body, body_of
from objstore.s3.call import OperationHandler, S3Call
from objstore.s3.errors import S3Error, to_s3_error
from objstore.s3.router import Route, not_implemented, parse_query, resolve
from objstore.s3.sigv4 import Verified
from objstore.s3.slow_answer import SlowAnswers
from objstore.s3.xml import document, tag

log = structlog.get_logger()

_SERVER = ("Server", "objstore")
_XML = ("Content-Type", "application/xml")
_METHODS = {"GET", "PUT", "HEAD", "DELETE", "POST"}
_MEMBERS_KEPT = 1024  # Of log lines: a few hundred connections, in a few ways.
_UNROUTED = "Unknown"  # The operation of a request that did not come so far.
_NAMED_BY = {
    "BucketAlreadyExists": ("BucketName",),
    "BucketAlreadyOwnedByYou": ("BucketName",),
    "BucketNotEmpty": ("BucketName",),
    "NoSuchBucket": ("BucketName",),
    "NoSuchKey": ("Key",),
    "NoSuchUpload": ("UploadId",),
    "NoSuchVersion": ("Key", "VersionId"),
}
_REFUSAL_CODES = {431: "RequestHeaderSectionTooLarge", 501: "NotImplemented"}
# Operations that store their body, so that its length must be said (AWS: 411).
_NEEDS_LENGTH = {"PutObject", "UploadPart"}
# Its x-amz-checksum-* is of the object that is completed, not of the request's body.
_CHECKSUM_IS_OF_OBJECT = {"CompleteMultipartUpload"}


class S3App:
    """Answers every request that is not under /-/."""

    def __init__(
        self,
        *,
        store: Store,
        credentials: CredentialLookup,
        clock: Clock,
        entropy: Entropy,
        node: str,
        region: str = "us-east-1",
        domains: Sequence[str] = (),
        operations: Mapping[str, OperationHandler] | None = None,
    ) -> None:
        """`operations`: None for those of `objstore.s3.operations`."""
        if operations is None:
            from objstore.s3.operations.registry import OPERATIONS

            operations = OPERATIONS
        self._store = store
        self._clock = clock
        # Of request ids, which are no secrets: so the system need not be asked for each.
        # Its own, as who sees many of them can tell the next.
        self._ids = Random(entropy.token(16))  # noqa: S311 - see above.
        self._host_id = base64.b64encode(node.encode()).decode("ascii")
        self._region = region
        self.domains = tuple(domain.lower() for domain in domains)  # Of virtual hosts.
        self._authenticator = Authenticator(credentials, region, self.domains)
        self._operations = operations
        self._slow = SlowAnswers()
        self._log = FrequentLog(node, "s3.request_done")
        self._admission = Admission()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Carry the work of slow answers until cancelled."""
        await self._slow.run(task_status=task_status)

    async def __call__(self, request: Request) -> Response:
        """Answer one request; nothing but cancellation is raised."""
        exchange = self._begin(request)
        try:
            if request.method not in _METHODS:
                raise _wrong_method(request)
            query = parse_query(request.query) if request.query else {}
            found = await self._authenticator.authenticate(
                request, query, now_ms=self._clock.utc_now_ms()
            )
            operation, call = self._understand(request, query, found, exchange)
            # Not before it is known who asks: strangers take no places.
            place = self._admission.enter_now(exchange.started)
            if place is None:
                place = await self._admission.enter()
            try:
                response = await operation(call)
            finally:
                self._admission.leave(place)
        except Exception as error:
            response = exchange.error_response(error)
        except BaseException:
            exchange.done(status=499, is_whole=False)  # The client, or the node, left.
            raise
        return exchange.finish(response)

    def refuse(self, refusal: Refused, remote: Address) -> Response:
        """The answer to what never became a request: ids and an error document as ever."""
        request = Request(
            method="", target=b"", path="", query="", headers=Headers(), remote=str(remote)
        )
        exchange = self._begin(request)
        code = _REFUSAL_CODES.get(refusal.status, "BadRequest")
        error = S3Error(code, str(refusal), status=refusal.status)
        return exchange.finish(exchange.error_response(error))

    def _begin(self, request: Request) -> _Exchange:
        metrics.S3.in_flight += 1
        request_id = self._ids.getrandbits(64).to_bytes(8, "big").hex().upper()
        return _Exchange(request, request_id, self._host_id, self._slow, self._log)

    def _understand(
        self,
        request: Request,
        query: dict[str, str],
        found: tuple[Principal, Verified | None] | None,
        exchange: _Exchange,
    ) -> tuple[OperationHandler, S3Call]:
        """What a request asks for, of which it is known who sent it.

        Raises S3Error.
        """
        principal, verified = (None, None) if found is None else found
        exchange.principal = principal
        headers = request.headers
        if query and found is not None:
            query = effective_query(query, verified)
            headers = effective_headers(headers, query, verified)
        host = headers.by_name.get("host", "")
        exchange.route = route = resolve(
            request.method, host, request.path, query, headers, domains=self.domains
        )
        operation = self._operations.get(route.operation)
        if operation is None:
            if principal is None:
                raise S3Error("AccessDenied")
            raise not_implemented(route.operation)
        exchange.query = query
        exchange.body = body = _body(route.operation, request, headers, verified)
        call = S3Call(
            self._store,
            route.operation,
            route.bucket,
            route.key,
            query,
            headers,
            body,
            principal,
            self._region,
            request,
            exchange.answer_slowly,
        )
        return operation, call


def _body(
    operation: str, request: Request, headers: Headers, verified: Verified | None
) -> S3Body:
    if (
        operation in _NEEDS_LENGTH
        and "content-length" not in headers.by_name
        and request.body.size is not None
    ):
        raise S3Error("MissingContentLength")
    digests = checksums.expected_digests(headers)
    if operation in _CHECKSUM_IS_OF_OBJECT:
        digests = [digest for digest in digests if digest.algorithm == MD5]
    return body_of(request.body, headers, verified, digests=digests)


def _wrong_method(request: Request) -> S3Error:
    if request.method == "OPTIONS":
        return _preflight(request)
    return S3Error("MethodNotAllowed", details={"Method": request.method})


def _preflight(request: Request) -> S3Error:
    """A browser asks whether another site's script may call us: no bucket says so."""
    if "origin" not in request.headers:
        return S3Error(
            "BadRequest", "Insufficient information. Origin request header needed."
        )
    if "access-control-request-method" not in request.headers:
        return S3Error("BadRequest", "Invalid Access-Control-Request-Method: null")
    return S3Error("AccessForbidden")


class _Exchange:
    """One request and its answer, as its log line tells of them."""

    __slots__ = (
        "_error_code",
        "_log",
        "_sent",
        "_slow",
        "body",
        "host_id",
        "principal",
        "query",
        "request",
        "request_id",
        "route",
        "started",
    )

    def __init__(
        self,
        request: Request,
        request_id: str,
        host_id: str,
        slow: SlowAnswers,
        log: FrequentLog,
    ) -> None:
        self.request = request
        self.request_id = request_id
        self.host_id = host_id
        # What became known of it.  Not the call: it refers to this, and who refers to
        # himself is for the garbage collector to find.
        self.route: Route | None = None
        self.principal: Principal | None = None
        self.query: Mapping[str, str] = {}
        self.body: S3Body | None = None
        self._slow = slow
        self._log = log
        self._error_code = ""
        self._sent = 0
        self.started = trio.current_time()

    @property
    def operation(self) -> str:
        return _UNROUTED if self.route is None else self.route.operation

    # ---- answers ----------------------------------------------------------------------

    def finish(self, response: Response) -> Response:
        """Add what every answer has, and watch it to its end."""
        response.headers += (
            ("x-amz-request-id", self.request_id),
            ("x-amz-id-2", self.host_id),
            _SERVER,
        )
        body = response.body
        if isinstance(body, (bytes, bytearray, memoryview)):
            self._sent = 0 if self.request.method == "HEAD" else len(body)
            self.done(status=response.status, is_whole=True)
        else:
            response.body = _Watched(body, self, response.status)
        return response

    def error_response(self, error: Exception) -> Response:
        """The answer to what was raised."""
        translated = self._translate(error)
        headers = [*translated.headers]
        body = b""
        if self.request.method != "HEAD" and translated.status != 304:
            headers.append(_XML)
            body = self._document(translated)
        return Response(translated.status, headers, body)

    async def answer_slowly(self, work: Callable[[], Awaitable[Response]]) -> Response:
        """See `S3Call.slow`."""
        return await self._slow.answer(work, self.error_document)

    def error_document(self, error: Exception) -> bytes:
        """Likewise, inside an answer that has begun as a 200."""
        return self._document(self._translate(error))

    def _translate(self, error: Exception) -> S3Error:
        cause = _cause(error)
        translated = to_s3_error(cause)
        if not translated.details:
            translated.details = self._names_for(translated.code)
        if translated.code == "InternalError":
            log.error(
                "s3.request_failed",
                request_id=self.request_id,
                operation=self.operation,
                reason=str(cause),
                exc_info=error,
            )
        self._error_code = translated.code
        return translated

    def _names_for(self, code: str) -> dict[str, str]:
        """What of the request an error of this code is about, by S3's element names."""
        route, query = self.route, self.query
        known = {
            "BucketName": None if route is None else route.bucket,
            "Key": _shown_key(route),
            "UploadId": query.get("uploadId"),
            "VersionId": query.get("versionId"),
        }
        named = ((name, known[name]) for name in _NAMED_BY.get(code, ()))
        return {name: text for name, text in named if text is not None}

    def _document(self, error: S3Error) -> bytes:
        return document(
            "Error",
            tag("Code", error.code),
            tag("Message", error.message),
            *(tag(name, value) for name, value in error.details.items()),
            tag("Resource", self.request.path),
            tag("RequestId", self.request_id),
            tag("HostId", self.host_id),
            namespace=False,
        )

    # ---- the end ----------------------------------------------------------------------

    def count_sent(self, size: int) -> None:
        self._sent += size

    def done(self, *, status: int, is_whole: bool) -> None:
        """Count and log; once a request."""
        duration_s = trio.current_time() - self.started
        request, route, principal = self.request, self.route, self.principal
        received = 0 if self.body is None else self.body.received
        operation, bucket, key = _UNROUTED, None, None
        if route is not None:
            operation, bucket, key = route.operation, route.bucket, route.key
        counts = metrics.S3
        counts.in_flight -= 1
        counts.received += received
        counts.sent += self._sent
        counts.count(operation, status, duration_s)
        shown_key = "null" if key is None else quoted(key.decode("utf-8", "replace"))
        access_key = None if principal is None else principal.access_key
        tenths = round(duration_s * 10_000)  # Of a ms: a float's text costs twice as much.
        self._log.write(
            f'"request_id": "{self.request_id}", '
            f"{_members_of_operation(operation, request.method, bucket)}, "
            f'"key": {shown_key}, '
            f"{_members_of_outcome(access_key, request.remote, status, self._error_code)}, "
            f'"bytes_in": {received}, "bytes_out": {self._sent}, '
            f'"duration_ms": {tenths // 10}.{tenths % 10}, '
            f'"is_whole": {"true" if is_whole else "false"}'
        )


# Of a log line: what a client's next request mostly has again.


@lru_cache(_MEMBERS_KEPT)
def _members_of_operation(operation: str, method: str, bucket: str | None) -> str:
    shown_bucket = "null" if bucket is None else quoted(bucket)
    return (
        f'"operation": {quoted(operation)}, "method": {quoted(method)}, '
        f'"bucket": {shown_bucket}'
    )


@lru_cache(_MEMBERS_KEPT)
def _members_of_outcome(access_key: str | None, remote: str, status: int, code: str) -> str:
    shown_access_key = "null" if access_key is None else quoted(access_key)
    return (
        f'"access_key": {shown_access_key}, "remote": {quoted(remote)}, '
        f'"status": {status}, "code": {quoted(code) if code else "null"}'
    )


def _shown_key(route: Route | None) -> str | None:
    if route is None or route.key is None:
        return None
    return route.key.decode("utf-8", "replace")


def _cause(error: Exception) -> Exception:
    """What is to be answered for `error`: the one inside a group, by preference known."""
    if isinstance(error, ExceptionGroup):
        leaves = [_cause(leaf) for leaf in error.exceptions]
        known = (leaf for leaf in leaves if to_s3_error(leaf).code != "InternalError")
        return leaves[0] if len(leaves) == 1 else next(known, leaves[0])
    if isinstance(error, trio.TooSlowError):
        return Unavailable("a deadline passed", unknown=True)
    return error


class _Watched:
    """An answer's body, counted; its end is the request's."""

    def __init__(
        self, body: AsyncIterator[Buffer], exchange: _Exchange, status: int
    ) -> None:
        self._body = body
        self._exchange = exchange
        self._status = status
        self._is_whole = False
        self._is_done = False

    def __aiter__(self) -> AsyncIterator[Buffer]:
        return self

    async def __anext__(self) -> Buffer:
        try:
            piece = await anext(self._body)
        except StopAsyncIteration:
            self._is_whole = True
            raise
        self._exchange.count_sent(len(piece))
        return piece

    async def aclose(self) -> None:
        """Close what it watches; the connection does this whatever happens."""
        try:
            aclose = getattr(self._body, "aclose", None)
            if aclose is not None:
                await aclose()
        finally:
            if not self._is_done:
                self._is_done = True
                self._exchange.done(status=self._status, is_whole=self._is_whole)
