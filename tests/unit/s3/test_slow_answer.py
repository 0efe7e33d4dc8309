"""Answers that take long: white space first, and the truth at the end."""

import pytest
import trio

from objstore.errors import Unavailable
from objstore.http.message import Response
from objstore.s3.errors import S3Error
from objstore.s3.slow_answer import SlowAnswers
from objstore.s3.xml import document, parse_xml

DOCUMENT = document("Result", "<ETag>x</ETag>")


def work(seconds: float, outcome=DOCUMENT, ended: list | None = None):
    async def run() -> Response:
        try:
            await trio.sleep(seconds)
        finally:
            if ended is not None:
                ended.append(trio.current_time())
        if isinstance(outcome, Exception):
            raise outcome
        return Response(200, [("x-amz-version-id", "1")], outcome)

    return run


def error_document(error: Exception) -> bytes:
    assert isinstance(error, S3Error)
    return document("Error", f"<Code>{error.code}</Code>", namespace=False)


async def test_a_quick_answer_is_as_it_is(nursery, autojump_clock):
    slow = SlowAnswers()
    await nursery.start(slow.run)
    response = await slow.answer(work(4), error_document)
    assert response.headers == [("x-amz-version-id", "1")]
    with pytest.raises(S3Error):
        await slow.answer(work(4, S3Error("InvalidPart")), error_document)


@pytest.mark.parametrize(
    ("outcome", "root"), [(DOCUMENT, "Result"), (S3Error("InvalidPart"), "Error")]
)
async def test_a_slow_answer_begins_and_goes_on_until_there_is_an_outcome(
    nursery, autojump_clock, outcome, root
):
    slow = SlowAnswers()
    await nursery.start(slow.run)
    response = await slow.answer(work(8.5, outcome), error_document)
    assert trio.current_time() == pytest.approx(5)
    assert (response.status, response.content_length) == (200, None)
    pieces = [piece async for piece in response.body]
    assert trio.current_time() == pytest.approx(8.5)
    assert pieces[0].startswith(b"<?xml")
    assert pieces[1:-1] == [b" "] * 4
    whole = b"".join(pieces)
    assert whole.count(b"<?xml") == 1
    assert parse_xml(whole).name == root


async def test_a_client_that_leaves_ends_the_work(nursery, autojump_clock):
    slow, ended = SlowAnswers(), []
    await nursery.start(slow.run)
    response = await slow.answer(work(1000, ended=ended), error_document)
    async for _ in response.body:
        break
    await response.body.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [pytest.approx(5)]


async def test_a_cancelled_request_ends_the_work(nursery, autojump_clock):
    slow, ended = SlowAnswers(), []
    await nursery.start(slow.run)
    with trio.move_on_after(2):
        await slow.answer(work(1000, ended=ended), error_document)
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [pytest.approx(2)]


async def test_a_stop_never_makes_an_answer_whole(autojump_clock):
    slow = SlowAnswers()
    async with trio.open_nursery() as nursery:
        await nursery.start(slow.run)
        response = await slow.answer(work(1000), error_document)
        nursery.cancel_scope.cancel()
    with pytest.raises(Unavailable):
        async for _ in response.body:
            pass


async def test_without_its_service_work_is_simply_awaited(autojump_clock):
    response = await SlowAnswers().answer(work(20), error_document)
    assert response.body == DOCUMENT
