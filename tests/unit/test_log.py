"""The log: what a frequent line is, when lines are written, and what is never lost."""

import json
import math
import os
import re
from collections.abc import Iterator

import pytest
import structlog
import trio
from structlog.testing import capture_logs

from objstore import log
from objstore.log import HELD_SIZE_MAX, HOLD_S, FrequentLog, Output, configure, hold_lines

FIELDS: dict[str, str | float | bool | None] = {
    "operation": "GetObject",
    "key": 'a"b\\ü\n\x7f',
    "code": None,
    "status": 200,
    "duration_ms": 1.5,
    "is_whole": True,
    "share": "5%s",
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is written while the log is JSON, a text a write."""
    texts: list[str] = []
    saved = structlog.get_config()
    monkeypatch.setattr(log, "_output", lambda: Output(texts.append))
    monkeypatch.setattr(log, "_installed", log._Installed())
    configure(level="info", format="json", node="n1")
    yield texts
    structlog.contextvars.clear_contextvars()
    structlog.configure(**saved)


def frequent_line() -> None:
    FrequentLog("n1", "s3.request_done").write(json.dumps(FIELDS)[1:-1])


def normal(line: str) -> str:
    return re.sub(r'"timestamp": "[0-9-]{10}T[0-9:]{8}\.[0-9]{6}Z"', "TIME", line)


def test_a_frequent_line_is_what_structlog_would_write(written: list[str]) -> None:
    structlog.get_logger().info("s3.request_done", **FIELDS)
    frequent_line()
    usual, frequent = written
    assert normal(frequent) == normal(usual)
    assert "TIME" in normal(frequent)
    assert json.loads(frequent)["key"] == FIELDS["key"]


def test_a_node_and_an_event_may_hold_anything(written: list[str]) -> None:
    configure(level="info", format="json", node='50%s "n"')
    structlog.get_logger().info("a.b_%d", key=1)
    FrequentLog('50%s "n"', "a.b_%d").write('"key": 1')
    usual, frequent = written
    assert normal(frequent) == normal(usual)


def test_a_frequent_line_goes_through_structlog_where_it_is_captured(
    written: list[str],
) -> None:
    with capture_logs() as logs:
        frequent_line()
    assert logs == [{**FIELDS, "event": "s3.request_done", "log_level": "info"}]
    assert written == []


def test_a_frequent_line_is_as_important_as_info(written: list[str]) -> None:
    configure(level="warning", format="json")
    frequent_line()
    assert written == []


def test_lines_are_written_as_they_come_unless_they_are_held(written: list[str]) -> None:
    structlog.get_logger().info("node.started")
    assert len(written) == 1


async def test_held_lines_are_written_together_after_a_moment(
    written: list[str], autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(hold_lines)
        for _ in range(10):
            frequent_line()
        assert written == []
        await trio.sleep(HOLD_S * 1.5)
        assert [text.count("\n") for text in written] == [10]
        structlog.get_logger().info("node.stopping")
        nursery.cancel_scope.cancel()
    assert "node.stopping" in written[-1]


async def test_a_thread_s_line_is_written_as_soon(written: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(hold_lines)
        await trio.sleep(0.01)
        await trio.to_thread.run_sync(frequent_line)
        assert written == []
        with trio.fail_after(HOLD_S + 2):
            while not written:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_nobody_is_awake_while_no_line_waits(
    written: list[str], autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(hold_lines)
        frequent_line()
        await trio.sleep(1)
        assert len(written) == 1
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf
        frequent_line()
        await trio.sleep(1)
        assert len(written) == 2
        nursery.cancel_scope.cancel()


async def test_a_warning_writes_all_that_waits_in_order(written: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(hold_lines)
        frequent_line()
        structlog.get_logger().warning("http.requests_cut")
        (text,) = written
        assert text.index("s3.request_done") < text.index("http.requests_cut")
        nursery.cancel_scope.cancel()


async def test_no_more_than_so_much_waits(written: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(hold_lines)
        while not written:
            frequent_line()
        assert HELD_SIZE_MAX <= len(written[0]) < HELD_SIZE_MAX + 1000
        nursery.cancel_scope.cancel()


def test_a_line_that_cannot_be_written_is_lost_and_raises_nothing() -> None:
    def full(_: str) -> None:
        raise OSError(28, "No space left on device")

    output = Output(full)
    output.info("a")
    output.error("b")


def test_all_of_a_text_is_written_where_a_write_takes_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = bytearray()

    def write(descriptor: int, data: bytes) -> int:
        assert descriptor == 2
        taken.extend(data[:7])
        return len(data[:7])

    monkeypatch.setattr(os, "write", write)
    log._write_all(2, b"0123456789" * 10)
    assert taken == b"0123456789" * 10
