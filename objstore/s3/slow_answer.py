"""Answers that take long: 200 and white space while the work goes on, then the document.

    work done within 5 s     its answer, as it is
    not yet                  200, <?xml ...?>, a blank each second ..., <Result> or <Error>

S3 does so for CompleteMultipartUpload and CopyObject, and clients look into the document
for an <Error>.  Only the connection stays alive by it: headers that the work would have
set are lost.

The work runs as a task of `run`, so it outlives neither the app nor its client: when the
client goes away, the work is cancelled, with an outcome it does not learn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from objstore.errors import Unavailable
from objstore.http.message import Response
from objstore.s3.xml import DECLARATION

SLOW_AFTER_S = 5.0
_BLANK_EVERY_S = 1.0
_XML = ("Content-Type", "application/xml")

Work = Callable[[], Awaitable[Response]]


class _Task:
    """Work in progress, and what came of it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._response: Response | None = None
        self._error: Exception | None = None
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    async def run(self) -> None:
        try:
            with self.scope:
                self._response = await self._work()
        except Exception as error:  # Carried to whoever waits for the result.
            self._error = error
        finally:
            self.ended.set()

    @property
    def was_cut(self) -> bool:
        """Whether it was cancelled: then nobody knows what came of it."""
        return self.ended.is_set() and self._response is None and self._error is None

    def result(self) -> Response:
        """The answer.  Raises what the work raised, Unavailable where it was cut."""
        if self._error is not None:
            raise self._error
        if self._response is None:
            raise Unavailable("the node stops: the outcome is unknown", unknown=True)
        return self._response


class SlowAnswers:
    """Runs work whose answer may be slow."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the tasks until cancelled; then they are as well."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def answer(
        self, work: Work, error_document: Callable[[Exception], bytes]
    ) -> Response:
        """What `work` answers, or the beginning of a slow answer.

        error_document: an error as it stands in the body of a 200.
        Raises what `work` raises while it is quick.  While `run` does not run, work is
        simply awaited.  If cancelled, so is the work.
        """
        if self._nursery is None:
            return await work()
        task = _Task(work)
        self._nursery.start_soon(task.run)
        try:
            with trio.move_on_after(SLOW_AFTER_S):
                await task.ended.wait()
        except trio.Cancelled:
            task.scope.cancel()
            raise
        if task.ended.is_set():
            return task.result()
        return Response(200, [_XML], _trickle(task, error_document))


async def _trickle(
    task: _Task, error_document: Callable[[Exception], bytes]
) -> AsyncIterator[bytes]:
    declaration = DECLARATION.encode()
    try:
        yield declaration
        while not task.ended.is_set():
            yield b" "
            with trio.move_on_after(_BLANK_EVERY_S):
                await task.ended.wait()
        if task.was_cut:
            task.result()  # Raises, which breaks the connection.
        yield _document(task, error_document).removeprefix(declaration)
    finally:
        task.scope.cancel()


def _document(task: _Task, error_document: Callable[[Exception], bytes]) -> bytes:
    try:
        response = task.result()
        assert isinstance(response.body, bytes)
        return response.body
    except Exception as error:
        return error_document(error)
