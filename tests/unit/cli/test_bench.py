"""The bench: what it plans, how it counts, and that nothing wrong counts as done."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest

from objstore.cli.bench import disk, generator, processes
from objstore.cli.bench.operations import Operator
from objstore.cli.bench.outcome import Outcome
from objstore.cli.bench.plan import CAS_WRITERS, OPERATIONS, SIZES, Step, steps
from objstore.cli.load import Target
from objstore.cli.output import UNUSABLE
from objstore.units import KiB, MiB

from .conftest import run

Answer = tuple[int, bytes]
BODY_SIZE = 16


@contextmanager
def server(answer: Callable[[str, str, bytes], Answer]) -> Iterator[Target]:
    """An S3 server that answers as a test says: (method, path, body) -> (status, body)."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, data = answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        listening.block_on_close = False
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.server_address[1]}"
        yield Target((url,), "OSX", "secret", "us-east-1", "bench")
        listening.shutdown()


def step(operation: str, **changes: Any) -> Step:
    made = Step(operation, BODY_SIZE, count=1, workers=1, keys=1, prefix="run")
    return attrs.evolve(made, **changes)


def outcome_of(
    wanted: Step, answer: Callable[[str, str, bytes], Answer], times: int = 1
) -> Outcome:
    outcome = Outcome()
    with server(answer) as target:
        operator = Operator(target, target.urls[0], wanted, 0, outcome)
        for number in range(times):
            operator.operate(number)
        operator.close()
    return outcome


# ---- the plan -------------------------------------------------------------------------


def test_the_whole_plan_has_every_operation_where_it_makes_sense() -> None:
    plan = steps(run="r")
    found = {(s.operation, s.size) for s in plan}
    assert {operation for operation, _ in found} == set(OPERATIONS)
    assert ("range", 4 * KiB) not in found
    assert ("cas", 64 * MiB) not in found
    order = [OPERATIONS.index(s.operation) for s in plan if s.size == SIZES[0]]
    assert order == sorted(order)


def test_a_step_moves_no_more_than_a_run_has_time_for() -> None:
    for planned in steps(run="r"):
        assert 0 < planned.count <= 3000
        if planned.operation not in {"head", "delete", "range", "list"}:
            assert planned.count * planned.size <= 1024 * MiB


def test_what_is_read_was_put_before_or_is_put_first() -> None:
    reading = {"get", "head", "list", "delete"}
    for operations in (OPERATIONS, ["get", "delete"], ["range"]):
        plan = steps(operations, run="r")
        put = {s.prefix: s.keys for s in plan if s.operation == "put"}
        for planned in plan:
            if planned.operation in reading | {"range"}:
                is_there = put.get(planned.prefix) == planned.keys
                assert is_there != planned.is_filled_first


def test_no_step_writes_the_keys_of_another() -> None:
    plan = [s for s in steps(run="r") if s.operation not in {"get", "head", "range"}]
    prefixes = [s.prefix for s in plan if s.operation not in {"list", "delete"}]
    assert len(prefixes) == len(set(prefixes))
    (deletes,) = [s for s in plan if s.operation == "delete" and s.size == 4 * KiB]
    assert deletes.count == deletes.keys


def test_a_scale_makes_a_run_shorter_but_never_empty() -> None:
    assert all(s.count >= 1 and s.keys >= 1 for s in steps(run="r", scale=0.0001))


# ---- counting -------------------------------------------------------------------------


def test_outcomes_add_up() -> None:
    total, other = Outcome(), Outcome()
    total.note(200, 0.1, is_good=True)
    other.note(200, 0.2, is_good=True)
    other.note(503, 0.3, is_good=False)
    other.winners[7] = 1
    total.add(other)
    assert total.statuses == {200: 2, 503: 1}
    assert (total.failed, total.winners) == (1, {7: 1})
    assert [total.percentile(f) for f in (0.0, 0.5, 1.0)] == [0.1, 0.2, 0.3]
    assert Outcome().percentile(0.5) == 0.0


def test_a_key_without_a_winner_or_with_two_is_a_failure() -> None:
    outcome = Outcome(winners={0: 1, 1: 2, 3: 1})
    outcome.judge_winners(4)
    assert outcome.failed == 2


@pytest.mark.parametrize("operation", sorted(set(OPERATIONS) - {"cas"}))
def test_an_error_of_the_server_is_a_failed_operation(operation: str) -> None:
    size = 256 * KiB
    outcome = outcome_of(step(operation, size=size), lambda *_: (500, b""))
    assert (outcome.failed, outcome.statuses) == (1, {500: 1})
    assert outcome.stored == 0


def test_a_server_that_is_not_there_is_a_failed_operation() -> None:
    outcome = Outcome()
    target = Target(("http://127.0.0.1:1",), "OSX", "secret", "us-east-1", "bench")
    Operator(target, target.urls[0], step("put"), 0, outcome).operate(0)
    assert (outcome.failed, outcome.statuses) == (1, {0: 1})


def test_a_get_is_good_only_with_the_bytes_that_were_put() -> None:
    kept: dict[str, bytes] = {}

    def answer(method: str, path: str, body: bytes) -> Answer:
        if method == "PUT":
            kept[path] = body
        return 200, b"" if method == "PUT" else kept[path]

    assert outcome_of(step("put"), answer).stored == BODY_SIZE
    assert outcome_of(step("get"), answer).failed == 0
    (path,) = kept
    kept[path] = kept[path][:-1] + b"!"
    assert outcome_of(step("get"), answer).failed == 1


def test_a_range_must_be_partial_and_the_right_one() -> None:
    wanted = step("range", size=256 * KiB)
    assert outcome_of(wanted, lambda *_: (200, bytes(64 * KiB))).failed == 1
    assert outcome_of(wanted, lambda *_: (206, bytes(64 * KiB))).failed == 1


def listing(count: int, more: str = "") -> bytes:
    token = f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    keys = "<Contents><Key>k</Key></Contents>" * count
    return f"<ListBucketResult>{token}{keys}</ListBucketResult>".encode()


@pytest.mark.parametrize(
    ("page", "failed"),
    [
        (listing(1000, "next"), 0),
        (listing(7), 0),
        (listing(999, "next"), 1),
        (listing(0), 1),
        (listing(1000, "next")[:-20], 1),
    ],
    ids=["full", "last", "short", "empty", "cut"],
)
def test_a_list_must_be_whole(page: bytes, failed: int) -> None:
    assert outcome_of(step("list"), lambda *_: (200, page)).failed == failed


def test_a_list_goes_on_where_the_last_page_ended_and_then_begins_again() -> None:
    asked = []

    def answer(_method: str, path: str, _body: bytes) -> Answer:
        asked.append("continuation-token=here" in path)
        return 200, listing(3) if asked[-1] else listing(1000, "here")

    assert outcome_of(step("list"), answer, times=4).failed == 0
    assert asked == [False, True, False, True]


def test_a_completion_that_fails_late_is_a_failed_operation() -> None:
    """S3 answers 200 before it knows: the error is in the body."""

    def answer(method: str, _path: str, body: bytes) -> Answer:
        if method == "POST" and not body:
            return 200, b"<UploadId>u</UploadId>"
        return 200, b"<Error><Code>InternalError</Code></Error>" if body[
            :1
        ] == b"<" else b""

    outcome = outcome_of(step("multipart"), answer)
    assert (outcome.failed, outcome.stored) == (1, 0)


def test_a_writer_that_is_told_to_come_again_does_so() -> None:
    statuses = [503, 409, 412]
    outcome = outcome_of(step("cas"), lambda *_: (statuses.pop(0), b""))
    assert (outcome.failed, outcome.statuses, outcome.winners) == (0, {412: 1}, {})


@pytest.mark.slow
@pytest.mark.parametrize(("winners", "failed"), [(0, 2), (1, 0), (2, 2)])
def test_winners_are_counted_over_all_processes(winners: int, failed: int) -> None:
    won: dict[str, int] = {}
    lock = threading.Lock()

    def answer(_method: str, path: str, _body: bytes) -> Answer:
        with lock:
            won[path] = won.get(path, 0) + 1
            return (200 if won[path] <= winners else 412), b""

    writers = 6
    wanted = step("cas", count=2, keys=2, workers=writers)
    with server(answer) as target:
        outcome = generator.run(target, wanted, processes=2)
    assert set(won.values()) == {writers}
    assert outcome.failed == failed
    assert len(outcome.latencies) == 2 * writers
    assert CAS_WRITERS == 32


# ---- the machine ----------------------------------------------------------------------


def test_memory_is_read_from_what_the_kernel_prints() -> None:
    status = "Name:\tpython\nVmHWM:\t  900 kB\nVmRSS:\t  500 kB\nRssAnon:\t  300 kB\n"
    assert processes.parse_memory(status) == processes.Memory(500 * KiB, 300 * KiB)
    assert processes.parse_memory("Name:\tgone\n") == processes.Memory(0, 0)


def test_peaks_are_at_least_what_was_there_in_between() -> None:
    import os

    with processes.MemoryPeaks([os.getpid()]) as peaks:
        ballast = bytearray(b"x") * (32 * MiB)
        peaks._take()
        with_ballast = processes.memory(os.getpid())
        del ballast
    assert peaks.peaks[0].anonymous >= 32 * MiB
    assert peaks.peak_of_all >= with_ballast.total - 4 * MiB


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    rows = disk.measure(str(tmp_path), 64 * KiB)
    assert [row["sync_every"] for row in rows] == ["64MiB", "4MiB", "4KiB"]
    assert all(row["mb_s"] for row in rows)
    assert list(tmp_path.iterdir()) == []


# ---- the command ----------------------------------------------------------------------


def test_mistakes_are_told_before_anything_is_measured(tmp_path: Path) -> None:
    assert run("bench").exit_code == 2
    cluster = tmp_path / "cluster.json"
    assert run("bench", "--cluster", cluster).exit_code == UNUSABLE
    cluster.write_text(json.dumps({"nodes": []}))
    assert run("bench", "--cluster", cluster).exit_code == UNUSABLE
    assert run("bench", "--cluster", cluster, "--operations", "pot").exit_code == 2
    assert run("bench", "--cluster", cluster, "--sizes", "4 apples").exit_code == 2


def test_a_disk_is_measured_by_a_command(tmp_path: Path) -> None:
    result = run("bench", "disk", tmp_path, "--size", "64KiB", "--json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["rows"]) == len(disk.SYNC_SIZES)
