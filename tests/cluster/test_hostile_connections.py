"""Connections that mean harm: slow, cut, silent, too many (FAULTS F34 to F37, F44).

What is asked of a node meanwhile by others must be answered; afterwards it holds no more
memory, descriptors or fragments than before.  Nothing here asserts how fast.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.cluster.raw import Raw, Wire, answers_in, head_of, read_answer, receive_all
from tests.harness import Cluster, Node, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

B = "/connections"
CONNECTIONS_MAX = 400
BODY_TIMEOUT_S = 3
SETTINGS = {
    "http.connections_max": str(CONNECTIONS_MAX),
    "http.header_timeout": "3s",
    "http.body_timeout": f"{BODY_TIMEOUT_S}s",
    "http.idle_timeout": "8s",
    "repair.free_delay": "1s",
    "repair.interval": "500ms",
}


@pytest.fixture(
    scope="module", params=["plain", pytest.param("tls", marks=pytest.mark.full)]
)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Cluster]:
    settings = SETTINGS | ({"s3.tls": "cluster"} if request.param == "tls" else {})
    folder = tmp_path_factory.mktemp(f"connections-{request.param}")
    with running_cluster(folder, settings=settings) as running:
        assert Raw.of(running).put(B).status == 200
        yield running
        log = "".join(node.log.read_text() for node in running.nodes)
        assert "Traceback" not in log
        assert '"level": "error"' not in log


@pytest.fixture
def raw(cluster: Cluster) -> Raw:
    return Raw.of(cluster)


def metric(node: Node, name: str) -> float:
    """The sum of a metric over its labels."""
    status, text = node.get("/-/metrics")
    assert status == 200
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text.decode(), re.MULTILINE)
    assert found, name
    return sum(map(float, found))


def descriptors(node: Node) -> int:
    return len(os.listdir(f"/proc/{node.pid}/fd"))


def resident_size(node: Node) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{node.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def fragments(cluster: Cluster) -> list[float]:
    return [metric(node, "objstore_chunks_drive_fragments") for node in cluster.nodes]


def assert_nothing_is_held(cluster: Cluster) -> None:
    for node in cluster.nodes:
        wait_until(
            lambda node=node: metric(node, "objstore_memory_in_flight_bytes") == 0,
            what="the memory of bodies that nobody sends to be free",
        )


@attrs.define
class Crowd:
    """Many connections to one node, of which all can be given a byte at a time."""

    raw: Raw
    _sockets: list[socket.socket] = attrs.field(factory=list)

    def add(self, count: int, first: bytes = b"") -> None:
        for _ in range(count):
            one = self.raw.connect_plain()
            one.setblocking(False)
            self._sockets.append(one)
            self._say(one, first)

    def say(self, data: bytes) -> None:
        for one in self._sockets:
            self._say(one, data)

    def _say(self, one: socket.socket, data: bytes) -> None:
        if data:
            with contextlib.suppress(OSError):  # Shown out already.
                one.send(data)

    def wait_until_closed(self, *, timeout_s: float) -> None:
        """Until the node has ended all of them."""
        selector, deadline = selectors.DefaultSelector(), time.monotonic() + timeout_s
        with selector:
            for one in self._sockets:
                selector.register(one, selectors.EVENT_READ)
            while selector.get_map():
                left = deadline - time.monotonic()
                assert left > 0, f"{len(selector.get_map())} connections are still open"
                for key, _ in selector.select(left):
                    try:
                        is_open = bool(key.fileobj.recv(65536))  # type: ignore[union-attr]
                    except BlockingIOError:
                        continue
                    except OSError:
                        is_open = False
                    if not is_open:
                        selector.unregister(key.fileobj)

    def close(self) -> None:
        for one in self._sockets:
            one.close()


@contextlib.contextmanager
def crowd(raw: Raw) -> Iterator[Crowd]:
    it = Crowd(raw)
    try:
        yield it
    finally:
        it.close()


def use(raw: Raw, name: str) -> float:
    """What an honest client does, by connections of its own; the slowest, in seconds."""
    slowest = 0.0
    for number in range(5):
        began = time.monotonic()
        body = f"{name} {number}".encode()
        assert raw.put(f"{B}/honest", body).status == 200
        assert raw.get(f"{B}/honest").body == body
        slowest = max(slowest, time.monotonic() - began)
    return slowest


# ---- F34: slow ------------------------------------------------------------------------


def test_a_thousand_slow_heads_lock_nobody_out_f34(cluster: Cluster, raw: Raw) -> None:
    """More than three times as many as the node serves at once."""
    before = descriptors(cluster.nodes[0])
    quiet = use(raw, "quiet")
    with crowd(raw) as slow:
        slow.add(500)  # These say nothing at all.
        slow.add(700, b"G")
        crowded = 0.0
        for byte in b"ET /conn":
            slow.say(bytes([byte]))
            crowded = max(crowded, use(raw, "crowded"))
            assert descriptors(cluster.nodes[0]) < before + CONNECTIONS_MAX + 50
        print(f"slowest of put and get: quiet {quiet:.2f} s, crowded {crowded:.2f} s")
        slow.wait_until_closed(timeout_s=60)
    wait_until(lambda: descriptors(cluster.nodes[0]) < before + 20, what="descriptors")


def test_idle_connections_lock_nobody_out_f34(cluster: Cluster, raw: Raw) -> None:
    """A request each, and then silence: the connection is kept, but not for ever."""
    if raw.is_tls:
        pytest.skip("the crowd speaks no TLS")
    with crowd(raw) as idle:
        for _ in range(6):
            idle.add(100, b"GET /-/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
            use(raw, "idle")
        evicted = metric(cluster.nodes[0], "objstore_http_connections_evicted_total")
        assert evicted > 0
        idle.wait_until_closed(timeout_s=60)


def test_a_body_of_a_byte_a_second_is_given_up_f34(cluster: Cluster, raw: Raw) -> None:
    streams = []
    for number in range(10):
        target = f"{B}/slow-{number}"
        size = "1000" if number % 2 else "1000000"  # In the log's entry, in chunks.
        stream = raw.connect()
        head = head_of("PUT", target, raw.signed("PUT", target) | {"content-length": size})
        stream.sendall(head + b"x" * number)
        streams.append(stream)
    open_streams, deadline = list(streams), time.monotonic() + 30 * BODY_TIMEOUT_S
    while open_streams:
        assert time.monotonic() < deadline, f"{len(open_streams)} are still being read"
        for stream in list(open_streams):
            try:
                stream.sendall(b"x")
            except OSError:
                open_streams.remove(stream)
        use(raw, "beside slow bodies")
        time.sleep(0.5)
    for stream in streams:
        assert b" 200 " not in receive_all(stream)
        stream.close()
    for number in range(10):
        assert raw.head(f"{B}/slow-{number}").status == 404
    assert_nothing_is_held(cluster)


def slow_reader(raw: Raw, target: str) -> Wire:
    """A connection on which a large answer waits to be read."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(30)
    host, _, port = raw.host.rpartition(":")
    plain.connect((host, int(port)))
    stream: Wire = raw.over(plain)
    stream.sendall(head_of("GET", target, raw.signed("GET", target)))
    return stream


def test_who_stops_reading_costs_no_memory_and_is_given_up_f34_f36(
    cluster: Cluster, raw: Raw
) -> None:
    big = bytes(range(256)) * (96 << 12)  # 96 MiB
    assert raw.put(f"{B}/big", big).status == 200
    assert raw.get(f"{B}/big").body == big
    before = [resident_size(node) for node in cluster.nodes]
    readers = [slow_reader(raw, f"{B}/big") for _ in range(16)]
    for _ in range(2 * BODY_TIMEOUT_S):
        for reader in readers:
            with contextlib.suppress(OSError):
                assert reader.recv(1)
        use(raw, "beside slow readers")
        for node, size in zip(cluster.nodes, before, strict=True):
            assert resident_size(node) < size + (128 << 20)
        time.sleep(0.5)
    wait_until(
        lambda: metric(cluster.nodes[0], "objstore_s3_requests_in_flight") == 0,
        what="the answers that nobody reads to be given up",
    )
    for reader in readers:
        assert len(receive_all(reader)) < len(big)
        reader.close()
    assert_nothing_is_held(cluster)
    assert raw.delete(f"{B}/big").status == 204


# ---- F35: cut -------------------------------------------------------------------------


@attrs.frozen
class Upload:
    """A whole PUT, and after how many bytes of it a client may vanish."""

    data: bytes
    head_size: int

    @property
    def cuts(self) -> list[int]:
        whole, body = len(self.data), len(self.data) - self.head_size
        middles = [self.head_size + body * part // 8 for part in range(1, 8)]
        return sorted({
            1, self.head_size // 2, self.head_size - 1, self.head_size, self.head_size + 1,
            *middles, whole - 3, whole - 2, whole - 1,
        })  # fmt: skip


def plain_upload(raw: Raw, target: str, size: int) -> Upload:
    fields = raw.signed("PUT", target) | {"content-length": str(size)}
    head = head_of("PUT", target, fields)
    return Upload(head + b"x" * size, len(head))


def coded_upload(raw: Raw, target: str, size: int) -> Upload:
    """In chunks with a trailer, of which not a byte may lack."""
    import base64
    import zlib

    checksum = base64.b64encode(zlib.crc32(b"x" * size).to_bytes(4, "big")).decode()
    coded = b"%x\r\n" % size + b"x" * size + b"\r\n0\r\nx-amz-checksum-crc32:"
    coded += checksum.encode() + b"\r\n\r\n"
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(size),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    signed = raw.signed(
        "PUT", target, headers, payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    )
    head = head_of("PUT", target, signed | {"content-length": str(len(coded))})
    return Upload(head + coded, len(head))


def vanish(stream: Wire, plain: socket.socket, *, by_reset: bool) -> None:
    if by_reset:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


@pytest.mark.parametrize("size", [1_000, 300_000, 3_000_000])
@pytest.mark.parametrize("coded", [False, True])
def test_an_upload_cut_anywhere_is_not_there_f35(
    cluster: Cluster, raw: Raw, size: int, coded: bool
) -> None:
    before = fragments(cluster)
    target = f"{B}/cut"
    make = coded_upload if coded else plain_upload
    for by_reset in (False, True):
        for cut in make(raw, target, size).cuts:
            plain = raw.connect_plain()
            stream = raw.over(plain)
            stream.sendall(make(raw, target, size).data[:cut])
            if cut % 2:
                time.sleep(0.02)  # Some are read before the end comes, some with it.
            vanish(stream, plain, by_reset=by_reset)
            assert raw.head(target).status == 404, cut
    listed = raw.get(f"{B}?list-type=2&prefix=cut")
    assert listed.text("KeyCount") == "0"
    assert_nothing_is_held(cluster)
    wait_until(
        lambda: max(fragments(cluster)) <= max(before),
        timeout_s=60,
        what=f"fragments of what never was to be freed: {before}",
    )


@pytest.mark.parametrize("size", [1_000, 300_000])
def test_an_upload_whose_client_leaves_before_the_answer_is_whole_or_not_at_all_f35(
    cluster: Cluster, raw: Raw, size: int
) -> None:
    seen = set()
    for round_ in range(12):
        target = f"{B}/left-{size}-{round_}"
        plain = raw.connect_plain()
        stream = raw.over(plain)
        stream.sendall(plain_upload(raw, target, size).data)
        time.sleep(0.004 * (round_ % 4))
        vanish(stream, plain, by_reset=bool(round_ % 2))
        time.sleep(0.1)
        answer = raw.get(target)
        assert answer.status in {200, 404}
        seen.add(answer.status)
        if answer.status == 200:
            assert answer.body == b"x" * size
        later = raw.get(target)
        assert later.status == 200 or answer.status == 404
    print(f"{size} bytes: {seen}")
    assert_nothing_is_held(cluster)


def test_a_part_cut_anywhere_is_no_part_f35(cluster: Cluster, raw: Raw) -> None:
    upload = raw.post(f"{B}/parts?uploads").text("UploadId")
    target = f"{B}/parts?partNumber=1&uploadId={upload}"
    for cut in plain_upload(raw, target, 300_000).cuts:
        plain = raw.connect_plain()
        stream = raw.over(plain)
        stream.sendall(plain_upload(raw, target, 300_000).data[:cut])
        vanish(stream, plain, by_reset=bool(cut % 2))
    assert raw.get(f"{B}/parts?uploadId={upload}").texts("Part") == []
    assert raw.delete(f"{B}/parts?uploadId={upload}").status == 204
    assert_nothing_is_held(cluster)


# ---- F36: half-closed -----------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1_000, 300_000, 20_000_000])
def test_who_has_said_all_still_gets_the_answer_f36(
    cluster: Cluster, raw: Raw, size: int
) -> None:
    target, body = f"{B}/half", os.urandom(size)
    fields = raw.signed("PUT", target) | {"content-length": str(size)}
    for request, expected in (
        (head_of("PUT", target, fields) + body, b""),
        (head_of("GET", target, raw.signed("GET", target)), body),
    ):
        with raw.connect() as stream:
            stream.sendall(request)
            stream.shutdown(socket.SHUT_WR)
            (answer,) = answers_in(receive_all(stream))
        assert (answer.status, answer.body) == (200, expected)


# ---- F37: abused ----------------------------------------------------------------------


def test_hundreds_of_requests_at_one_go_are_answered_in_order_f37(
    cluster: Cluster, raw: Raw
) -> None:
    count = 300
    for number in range(3):
        assert raw.put(f"{B}/piped-{number}", str(number).encode() * 100).status == 200
    targets = [f"{B}/piped-{number % 3}" for number in range(count)]
    heads = b"".join(head_of("GET", t, raw.signed("GET", t)) for t in targets)
    with raw.connect() as stream:
        stream.sendall(heads)
        stream.shutdown(socket.SHUT_WR)
        answers = answers_in(receive_all(stream))
    assert [answer.body[:1] for answer in answers] == [t[-1:].encode() for t in targets]


def test_bodies_that_nobody_reads_end_the_connection_or_are_read_over_f37(
    cluster: Cluster, raw: Raw
) -> None:
    for size, goes_on in ((1_000, True), (500_000, True), (3_000_000, False)):
        target = f"{B}/no-such-key"
        fields = raw.signed("GET", target) | {"content-length": str(size)}
        get = head_of("GET", target, raw.signed("GET", target))
        with raw.connect() as stream:
            with contextlib.suppress(OSError):
                stream.sendall(head_of("GET", target, fields) + b"x" * size + get)
                stream.shutdown(socket.SHUT_WR)
            answers = answers_in(receive_all(stream))
        assert [answer.status for answer in answers] == [404] * (2 if goes_on else 1)


def test_expectations_that_are_not_kept_f37(cluster: Cluster, raw: Raw) -> None:
    target = f"{B}/expected"
    expects = {"expect": "100-continue"}
    # A body is announced and never comes.
    fields = raw.signed("PUT", target) | expects | {"content-length": "10"}
    with raw.connect() as stream:
        stream.sendall(head_of("PUT", target, fields))
        assert stream.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        stream.settimeout(10 * BODY_TIMEOUT_S)
        assert b" 200 " not in receive_all(stream)
    # No body is announced: nothing is to be continued.
    fields = raw.signed("PUT", target) | expects | {"content-length": "0"}
    get = head_of("GET", target, raw.signed("GET", target))
    with raw.connect() as stream:
        stream.sendall(head_of("PUT", target, fields))
        assert read_answer(stream, "PUT").status == 200
        stream.sendall(get)
        assert read_answer(stream).status == 200
    # Refused, and yet the body is sent: its bytes are no request.
    fields = raw.signed("PUT", "/no-such-bucket/k") | expects
    fields |= {"content-length": str(len(get))}
    with raw.connect() as stream:
        stream.sendall(head_of("PUT", "/no-such-bucket/k", fields) + get)
        stream.shutdown(socket.SHUT_WR)
        assert [answer.status for answer in answers_in(receive_all(stream))] == [404]
    # Sent without waiting.
    fields = raw.signed("PUT", target) | expects | {"content-length": "5"}
    with raw.connect() as stream:
        stream.sendall(head_of("PUT", target, fields) + b"hello" + get)
        stream.shutdown(socket.SHUT_WR)
        statuses = [answer.status for answer in answers_in(receive_all(stream))]
    assert statuses == [200, 200]
    assert raw.get(target).body == b"hello"


# ---- F44: too many --------------------------------------------------------------------


@pytest.mark.parametrize(("crowd_size", "crowded"), [(400, 1), (2000, 3)])
@pytest.mark.full
def test_a_node_that_may_open_few_files_recovers_f44(
    tmp_path: Path, crowd_size: int, crowded: int
) -> None:
    limited = ("/bin/sh", "-c", 'ulimit -n 256 && exec "$@"', "sh")
    with running_cluster(tmp_path / "few", nodes=crowded, wrapper=limited) as cluster:
        raw = Raw.of(cluster)
        assert raw.put(B).status == 200
        limits = Path(f"/proc/{cluster.nodes[0].pid}/limits").read_text()
        assert re.search(r"Max open files +256 +256 ", limits)
        began = 0.0
        for number in range(crowded):
            with crowd(Raw.of(cluster, number)) as many:
                many.add(crowd_size, b"G")
                use(Raw.of(cluster, number), "among too many")
                assert raw.put(f"{B}/chunks", b"x" * 300_000).status == 200
                began = time.monotonic()
            use(Raw.of(cluster, number), "after too many")
            print(f"node{number + 1}: well again after {time.monotonic() - began:.2f} s")
        for node in cluster.nodes:
            assert node.is_running()
            assert node.ready() == 200
            assert descriptors(node) <= 256
        assert raw.get(f"{B}/chunks").body == b"x" * 300_000
