"""The operations of a step, each checked: by status, and by what it brings.

An operation that is not answered as it should be is a failed one; the rates of a run with
failures say nothing.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable
from http import HTTPStatus

from objstore.cli.bench.outcome import Outcome
from objstore.cli.bench.plan import LIST_PAGE, PART_SIZE, RANGE_SIZE, Step
from objstore.cli.load import Client, Target

_OK = HTTPStatus.OK
_MISSING = HTTPStatus.NOT_FOUND
_BUSY = {HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE}
_BUSY_TRIES = 20  # Of a writer of create-if-absent, which may be asked to come again.
_BUSY_PAUSE_S = 0.02
_TOKEN = re.compile(rb"<NextContinuationToken>([^<]*)<")
_UPLOAD = re.compile(rb"<UploadId>([^<]*)<")


class Operator:
    """One worker's hands: a connection, and what it has to write."""

    def __init__(
        self, target: Target, url: str, step: Step, worker: int, outcome: Outcome
    ) -> None:
        self._client = Client(target, url)
        self._bucket = f"/{target.bucket}"
        self._step = step
        self._outcome = outcome
        self._random = random.Random(worker)
        self._body = random.Random(0).randbytes(step.size)
        self._digest = hashlib.sha256(self._body).hexdigest()
        self._token = b""  # Where the worker's list goes on.
        self._do = _OPERATIONS[step.operation]

    def operate(self, number: int) -> None:
        """Do the `number`-th operation, and note how it went."""
        started = time.perf_counter()
        status, is_good = self._do(self, number)
        self._outcome.note(status, time.perf_counter() - started, is_good=is_good)

    def close(self) -> None:
        self._client.close()

    def _path(self, number: int) -> str:
        return f"{self._bucket}/{self._step.prefix}/{number % self._step.keys:08d}"

    def put(self, number: int) -> tuple[int, bool]:
        path = self._path(number)
        status, _ = self._client.request("PUT", path, body=self._body, digest=self._digest)
        self._count(stored=status == _OK)
        return status, status == _OK

    def _count(self, *, stored: bool) -> None:
        if stored:
            self._outcome.moved += len(self._body)
            self._outcome.stored += len(self._body)

    def get(self, number: int) -> tuple[int, bool]:
        return self._get(number, may_miss=False)

    def _get(self, number: int, *, may_miss: bool) -> tuple[int, bool]:
        status, data = self._client.request("GET", self._path(number))
        if status == _MISSING and may_miss:
            return status, True
        self._outcome.moved += len(data)
        return status, status == _OK and data == self._body

    def head(self, number: int) -> tuple[int, bool]:
        status, _ = self._client.request("HEAD", self._path(number))
        return status, status == _OK

    def range(self, number: int) -> tuple[int, bool]:
        """64 KiB from the middle."""
        first = len(self._body) // 2
        wanted = self._body[first : first + RANGE_SIZE]
        headers = {"Range": f"bytes={first}-{first + len(wanted) - 1}"}
        status, data = self._client.request("GET", self._path(number), headers=headers)
        self._outcome.moved += len(data)
        return status, status == HTTPStatus.PARTIAL_CONTENT and data == wanted

    def list(self, number: int) -> tuple[int, bool]:
        """The next page; after the last, the first again."""
        del number
        query = [
            ("list-type", "2"),
            ("prefix", f"{self._step.prefix}/"),
            ("max-keys", str(LIST_PAGE)),
        ]
        if self._token:
            query.append(("continuation-token", self._token.decode()))
        status, data = self._client.request("GET", self._bucket, query=query)
        more = _TOKEN.search(data)
        self._token = more[1] if more else b""
        is_whole = b"</ListBucketResult>" in data
        listed = data.count(b"<Key>")
        is_full = listed == LIST_PAGE if more else 0 < listed <= LIST_PAGE
        return status, status == _OK and is_whole and is_full

    def mixed(self, number: int) -> tuple[int, bool]:
        """45 get, 30 head, 15 put, 10 delete of a hundred, of keys drawn at random."""
        del number
        at, roll = self._random.randrange(self._step.keys), self._random.randrange(100)
        if roll < 45:
            return self._get(at, may_miss=True)
        if roll < 75:
            status, _ = self._client.request("HEAD", self._path(at))
            return status, status in {_OK, _MISSING}
        return self.put(at) if roll < 90 else self.delete(at)

    def delete(self, number: int) -> tuple[int, bool]:
        status, _ = self._client.request("DELETE", self._path(number))
        return status, status == HTTPStatus.NO_CONTENT

    def multipart(self, number: int) -> tuple[int, bool]:
        """An object of as many parts of 8 MiB as it takes."""
        path = self._path(number)
        status, data = self._client.request("POST", path, query=[("uploads", "")])
        upload = _UPLOAD.search(data)
        if status != _OK or upload is None:
            return status, False
        upload_id = upload[1].decode()
        tags = []
        for index, start in enumerate(range(0, max(1, len(self._body)), PART_SIZE), 1):
            part = self._body[start : start + PART_SIZE]
            query = [("partNumber", str(index)), ("uploadId", upload_id)]
            status, data = self._client.request("PUT", path, query=query, body=part)
            if status != _OK:
                return status, False
            tag = hashlib.md5(part, usedforsecurity=False).hexdigest()
            tags.append(f"<Part><PartNumber>{index}</PartNumber><ETag>{tag}</ETag></Part>")
        document = f"<CompleteMultipartUpload>{''.join(tags)}</CompleteMultipartUpload>"
        query = [("uploadId", upload_id)]
        status, data = self._client.request(
            "POST", path, query=query, body=document.encode()
        )
        is_good = status == _OK and b"<Error>" not in data
        self._count(stored=is_good)
        return status, is_good

    def create_if_absent(self, number: int) -> tuple[int, bool]:
        """One writer of many of key `number`: made (200), or there already (412)."""
        for _ in range(_BUSY_TRIES):
            status, _ = self._client.request(
                "PUT",
                self._path(number),
                body=self._body,
                headers={"If-None-Match": "*"},
                digest=self._digest,
            )
            if status not in _BUSY:
                break
            time.sleep(self._random.random() * _BUSY_PAUSE_S)
        if status == _OK:
            self._outcome.winners[number] = self._outcome.winners.get(number, 0) + 1
        self._count(stored=status == _OK)
        return status, status in {_OK, HTTPStatus.PRECONDITION_FAILED}


_OPERATIONS: dict[str, Callable[[Operator, int], tuple[int, bool]]] = {
    "put": Operator.put,
    "put-1": Operator.put,
    "get": Operator.get,
    "head": Operator.head,
    "range": Operator.range,
    "list": Operator.list,
    "mixed": Operator.mixed,
    "multipart": Operator.multipart,
    "cas": Operator.create_if_absent,
    "delete": Operator.delete,
}
