"""What clients do, and what they take down of the answers.

    kind of key      done to it
    hot              everything, by all clients at once
    unique           one put each, then left alone: none may ever be missing

Every body is unique (`bodies`), so every answer is a claim about one write.  An answer is
`sure` to have had no effect only where the protocol says so; 503 and silence are unknown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from random import Random

import attrs
import trio

from objstore.testing.cluster.bodies import SIZE_MIN, Body, number_in
from objstore.testing.cluster.client import Answer, Client, NoAnswer
from objstore.testing.cluster.evidence import Evidence, Listed
from objstore.testing.history import Call
from objstore.units import KiB, MiB

REGISTERS = "registers"
_LIST_PAGE = 20
_LIST_PAGES_MAX = 100

# Code -> the request surely had no effect.
_HARMLESS = {
    "InsufficientStorage",
    "RequestTimeTooSkewed",
    "RequestTimeout",  # A writer's intent had expired, so its commit was refused.
    "SlowDown",
}


@attrs.frozen
class _Request:
    """What a client asks a node, or any where `node` is None."""

    method: str
    key: str  # With its bucket.
    query: Mapping[str, str] | None = attrs.field(default=None, kw_only=True)
    headers: Mapping[str, str] | None = attrs.field(default=None, kw_only=True)
    body: bytes = attrs.field(default=b"", kw_only=True)
    node: str | None = attrs.field(default=None, kw_only=True)


@attrs.define(eq=False)
class Workload:
    """Clients at work until `stop`."""

    random: Random
    evidence: Evidence
    addresses: Callable[[], list[str]]  # IPs of the nodes.
    note: Callable[[str], None]
    hot_keys: int
    pause_s: float
    stopped: bool = False
    _known_etags: dict[str, str] = attrs.field(factory=dict)  # Seen last, by key.
    _unique: int = 0
    unique_keys: list[str] = attrs.field(factory=list)

    async def make_bucket(self, client: Client) -> None:
        node = self.addresses()[0]
        answer = await client.send(node, "PUT", f"/{REGISTERS}")
        assert answer.status == 200, answer

    async def run(self, client: Client) -> None:
        """Be one client."""
        operations = [
            (18, self._put),
            (18, self._get),
            (8, self._head),
            (4, self._range),
            (8, self._delete),
            (6, self._create),
            (8, self._replace),
            (8, self._put_unique),
            (3, self._get_unique),
            (4, self._upload),
            (4, self._list),
        ]
        weights = [weight for weight, _ in operations]
        deeds: list[Callable[[Client], Awaitable[None]]] = [deed for _, deed in operations]
        while not self.stopped:
            await trio.sleep(self.random.random() * self.pause_s)
            (deed,) = self.random.choices(deeds, weights)
            await deed(client)

    # ---- single operations ------------------------------------------------------------

    async def _put(self, client: Client) -> None:
        await self._write(client, self._hot_key())

    async def _create(self, client: Client) -> None:
        key = self._hot_key()
        body = self._new_body(key)
        call = self.evidence.history.cas(client.name, key, None, body.number)
        await self.send_put(client, body, call, {"if-none-match": "*"})

    async def _replace(self, client: Client) -> None:
        key = self._hot_key()
        etag = self._known_etags.get(key)
        if etag is None:
            await self._head(client)
            return
        body = self._new_body(key)
        expected = self.evidence.etags[etag]
        call = self.evidence.history.cas(client.name, key, expected, body.number)
        await self.send_put(client, body, call, {"if-match": f'"{etag}"'})

    async def _put_unique(self, client: Client) -> None:
        self._unique += 1
        key = f"{REGISTERS}/unique/{self._unique:05d}"
        self.unique_keys.append(key)
        await self._write(client, key)

    async def _write(self, client: Client, key: str) -> None:
        body = self._new_body(key)
        call = self.evidence.history.put(client.name, key, body.number)
        await self.send_put(client, body, call, {})

    async def send_put(
        self,
        client: Client,
        body: Body,
        call: Call,
        headers: Mapping[str, str],
        *,
        node: str | None = None,
    ) -> Answer | None:
        """Send a put; its answer where it was done."""
        request = _Request("PUT", body.key, headers=headers, body=body.data, node=node)
        answer = await self._send_write(client, call, request)
        if answer is None:
            return None
        if answer.status == 200:
            call.returned()
            if answer.etag != body.etag:
                self._accuse("answers", client, f"put of {body.number}: other etag")
            self._known_etags[body.key] = body.etag
            return answer
        is_conditional = bool(headers)
        missing = answer.status == 404 and answer.text("Code") == "NoSuchKey"
        if is_conditional and (answer.status == 412 or missing):
            call.refused()
        else:
            self._unforeseen(client, call, "PUT", body.key, answer)
        return None

    async def _delete(self, client: Client) -> None:
        key = self._hot_key()
        call = self.evidence.history.delete(client.name, key)
        answer = await self._send_write(client, call, _Request("DELETE", key))
        if answer is None:
            return
        if answer.status == 204:
            call.returned()
        else:
            self._unforeseen(client, call, "DELETE", key, answer)

    async def _upload(self, client: Client) -> None:
        """Put an object by a multipart upload of one part."""
        key = self._hot_key()
        body = self._new_body(key)
        made = await self._ask(client, _Request("POST", key, query={"uploads": ""}))
        upload = made.text("UploadId") if made is not None and made.status == 200 else None
        if upload is None:
            return
        query = {"partNumber": "1", "uploadId": upload}
        put = _Request("PUT", key, query=query, body=body.data)
        part = await self._ask(client, put)
        if part is None or part.status != 200:
            return
        document = (
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
            f'<ETag>"{body.etag}"</ETag></Part></CompleteMultipartUpload>'
        ).encode()
        call = self.evidence.history.put(client.name, key, body.number)
        complete = _Request("POST", key, query={"uploadId": upload}, body=document)
        answer = await self._send_write(client, call, complete)
        if answer is None:
            return
        # A long completion begins its answer before it knows: its document counts.
        if answer.status == 200 and answer.text("ETag") is not None:
            call.returned()
            self._known_etags[key] = body.upload_etag
        elif answer.status == 200:
            call.unknown()
        else:
            self._unforeseen(client, call, "POST", key, answer)

    async def _get(self, client: Client) -> None:
        await self.read(client, self._hot_key())

    async def _get_unique(self, client: Client) -> None:
        if self.unique_keys:
            await self.read(client, self.random.choice(self.unique_keys))

    async def read(self, client: Client, key: str, *, node: str | None = None) -> bool:
        """Get a whole object; whether there was an answer."""
        call = self.evidence.history.get(client.name, key)
        answer = await self._ask(client, _Request("GET", key, node=node))
        if answer is None:
            call.unknown()
            return False
        if answer.status == 404:
            call.returned(None)
            return True
        if answer.status != 200:
            call.unknown()
            return False
        number = number_in(answer.body)
        body = self.evidence.bodies.get(number or 0)
        if body is None or body.key != key or body.data != answer.body:
            self._accuse(
                "bodies",
                client,
                f"get of {key}: {len(answer.body)} bytes that nobody sent, as of {number}",
            )
            call.unknown()
            return True
        self._known_etags[key] = answer.etag
        call.returned(body.number)
        return True

    async def _head(self, client: Client) -> None:
        key = self._hot_key()
        call = self.evidence.history.get(client.name, key)
        answer = await self._ask(client, _Request("HEAD", key))
        body = self._body_found(client, call, key, answer, status=200)
        if answer is None or body is None:
            return
        if int(answer.headers["content-length"]) != body.size:
            self._accuse("bodies", client, f"head of {key}: another size")
        self._known_etags[key] = answer.etag
        call.returned(body.number)

    async def _range(self, client: Client) -> None:
        """Get a range: whatever version its etag names, the bytes must be of that one."""
        key = self._hot_key()
        call = self.evidence.history.get(client.name, key)
        first = self.random.randrange(2 * KiB)
        last = first + self.random.randrange(1, 2 * KiB)
        headers = {"range": f"bytes={first}-{last}"}
        answer = await self._ask(client, _Request("GET", key, headers=headers))
        body = self._body_found(client, call, key, answer, status=206)
        if answer is None or body is None:
            return
        if body.data[first : last + 1] != answer.body:
            self._accuse(
                "bodies", client, f"range of {key}: other bytes than {body.number}"
            )
        call.returned(body.number)

    async def _list(self, client: Client) -> None:
        await self.list_all(client, REGISTERS)

    async def list_all(
        self, client: Client, bucket: str, *, node: str | None = None
    ) -> Listed | None:
        """List a bucket from its first page to its last."""
        called = trio.current_time()
        keys: list[str] = []
        etags: list[str] = []
        query = {"list-type": "2", "max-keys": str(_LIST_PAGE)}
        for _ in range(_LIST_PAGES_MAX):
            page = _Request("GET", bucket, query=query, node=node)
            answer = await self._ask(client, page)
            if answer is None or answer.status != 200:
                return None
            for item in answer.body.split(b"<Contents>")[1:]:
                entry = Answer(200, {}, item)
                keys.append(f"{bucket}/{entry.text('Key')}")
                etags.append((entry.text("ETag") or "").replace("&quot;", "").strip('"'))
            token = answer.text("NextContinuationToken")
            if token is None:
                break
            query["continuation-token"] = token
        listed = Listed(
            client.name, bucket, called, trio.current_time(), tuple(keys), tuple(etags)
        )
        self.evidence.lists.append(listed)
        return listed

    # ---- sending ----------------------------------------------------------------------

    async def _send_write(
        self, client: Client, call: Call, request: _Request
    ) -> Answer | None:
        """Send a write; None where the call is settled already."""
        try:
            answer = await self._send(client, request)
        except NoAnswer as error:
            call.unknown() if error.heard else call.failed()
            return None
        if answer.status in {400, 403, 500, 503, 507}:
            if answer.text("Code") in _HARMLESS:
                call.failed()
            elif answer.status == 503:
                call.unknown()
            else:
                self._unforeseen(client, call, request.method, request.key, answer)
            return None
        return answer

    async def _ask(self, client: Client, request: _Request) -> Answer | None:
        """Send what needs no history; None where there is no answer, or none to go by."""
        try:
            answer = await self._send(client, request)
        except NoAnswer:
            return None
        refused = answer.status in {400, 403, 503, 507}
        foreseen = answer.status in {200, 204, 206, 404, 405, 412, 416}
        if answer.status == 404 and answer.text("Code") == "NoSuchBucket":
            foreseen = False
        if refused and answer.status != 503 and answer.text("Code") not in _HARMLESS:
            refused = request.method == "HEAD"
        if not refused and not foreseen:
            self._accuse("answers", client, _words(request.method, request.key, answer))
        return answer if foreseen else None

    async def _send(self, client: Client, request: _Request) -> Answer:
        node = request.node
        address = self.random.choice(self.addresses()) if node is None else node
        said = f"{client.name} {request.method} {request.key} by {address}"
        try:
            answer = await client.send(
                address,
                request.method,
                f"/{request.key}",
                query=request.query,
                headers=request.headers,
                body=request.body,
            )
        except NoAnswer as error:
            self.note(f"{said}: {error.heard}")
            raise
        self.evidence.operations += 1
        self.note(f"{said}: {answer.status}")
        return answer

    # ---- judging ----------------------------------------------------------------------

    def _body_found(
        self, client: Client, call: Call, key: str, answer: Answer | None, *, status: int
    ) -> Body | None:
        """What a read answered with `status` is of; None where the call is settled so."""
        if answer is None or answer.status not in {status, 404}:
            call.unknown()
            return None
        if answer.status == 404:
            call.returned(None)
            return None
        body = self._body_of(answer.etag, key, client)
        if body is None:
            call.unknown()
        return body

    def _body_of(self, etag: str, key: str, client: Client) -> Body | None:
        number = self.evidence.etags.get(etag)
        body = None if number is None else self.evidence.bodies[number]
        if body is None or body.key != key:
            self._accuse("bodies", client, f"{key}: etag {etag} was never put there")
            return None
        return body

    def _unforeseen(
        self, client: Client, call: Call, method: str, key: str, answer: Answer
    ) -> None:
        call.unknown()
        self._accuse("answers", client, _words(method, key, answer))

    def _accuse(self, checker: str, client: Client, what: str) -> None:
        self.evidence.accuse(checker, f"{client.name}: {what}")

    def _hot_key(self) -> str:
        return f"{REGISTERS}/hot/{self.random.randrange(self.hot_keys)}"

    def _new_body(self, key: str) -> Body:
        kind = self.random.random()
        if kind < 0.5:
            size = self.random.randrange(SIZE_MIN, 1 * KiB)
        elif kind < 0.97:
            size = self.random.randrange(1 * KiB + 1, 12 * KiB)
        else:
            size = 1 * MiB + self.random.randrange(64 * KiB)  # Two chunks.
        return self.evidence.new_body(key, size)


def _words(method: str, key: str, answer: Answer) -> str:
    return f"{method} {key}: {answer.status} {answer.text('Code')} {answer.text('Message')}"
