"""A completion that takes long: 200 and blanks first, then the result or the <Error>.

Slow by two nodes of three that are frozen (SIGSTOP): no quorum, so nothing commits until
they go on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.raw import Raw, head_of
from tests.harness import Cluster, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

BUCKET = "slow"
BLANKS = b'<?xml version="1.0" encoding="UTF-8"?>\n  '
DOCUMENT = (
    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part>"
    "</CompleteMultipartUpload>"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("slow")) as running:
        running.s3().create_bucket(Bucket=BUCKET)
        yield running


@contextmanager
def frozen(cluster: Cluster) -> Iterator[threading.Event]:
    """Nodes 2 and 3 stand still until the event is set, or the block ends."""
    thawed = threading.Event()

    def thaw() -> None:
        thawed.wait()
        for node in cluster.nodes[1:]:
            os.kill(node.pid, signal.SIGCONT)

    thread = threading.Thread(target=thaw)
    for node in cluster.nodes[1:]:
        os.kill(node.pid, signal.SIGSTOP)
    thread.start()
    try:
        yield thawed
    finally:
        thawed.set()
        thread.join()
        for node in cluster.nodes:
            node.wait_ready(timeout_s=60)


def begun(cluster: Cluster, key: str) -> tuple[str, str]:
    """(upload id, etag) of an upload whose one part is there."""
    s3 = cluster.s3()
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    part = s3.upload_part(
        Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"slow and steady"
    )
    return upload, part["ETag"]


def ask(cluster: Cluster, key: str) -> Any:
    """A connection on which the completion was asked for."""
    upload, etag = begun(cluster, key)
    raw = Raw.of(cluster)
    target, body = f"/{BUCKET}/{key}?uploadId={upload}", DOCUMENT.format(etag).encode()
    headers = raw.signed("POST", target) | {"content-length": str(len(body))}
    stream = raw.connect()
    stream.settimeout(60)
    return stream, head_of("POST", target, headers) + body


def read_until(stream: Any, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = stream.recv(65536)
        assert piece, data
        data += piece
    return data


def decoded(chunked: bytes) -> bytes:
    """The body of a chunked answer, its head cut off."""
    rest, whole = chunked.partition(b"\r\n\r\n")[2], b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return whole
        whole, rest = whole + rest[: int(size, 16)], rest[int(size, 16) + 2 :]


def test_a_slow_completion_begins_as_a_200_with_blanks(cluster: Cluster) -> None:
    stream, request = ask(cluster, "late")
    with stream, frozen(cluster) as thawed:
        stream.sendall(request)
        data = read_until(stream, b"\r\n \r\n1\r\n \r\n")  # The second blank.
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"x-amz-request-id: " in data
        thawed.set()
        data += read_until(stream, b"\r\n0\r\n\r\n")
    body = decoded(data)
    assert body.startswith(BLANKS)
    assert b"<CompleteMultipartUploadResult" in body
    assert body.count(b"<?xml") == 1
    got = cluster.s3(1).get_object(Bucket=BUCKET, Key="late")
    assert got["Body"].read() == b"slow and steady"


def test_its_failure_is_an_error_in_the_body(cluster: Cluster) -> None:
    stream, request = ask(cluster, "never")
    with stream, frozen(cluster):
        stream.sendall(request)
        data = read_until(stream, b"\r\n0\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    body = decoded(data)
    assert body.startswith(BLANKS)
    assert b"<Error><Code>ServiceUnavailable</Code>" in body


@pytest.mark.full
def test_boto3_understands_both(cluster: Cluster) -> None:
    upload, etag = begun(cluster, "by-boto3")
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    s3 = cluster.s3()

    def complete() -> Any:
        return s3.complete_multipart_upload(
            Bucket=BUCKET, Key="by-boto3", UploadId=upload, MultipartUpload=parts
        )

    with frozen(cluster), pytest.raises(s3.exceptions.ClientError) as caught:
        complete()
    assert caught.value.response["Error"]["Code"] == "ServiceUnavailable"
    with frozen(cluster) as thawed:
        timer = threading.Timer(7, thawed.set)  # Past 5 s the answer has begun.
        timer.start()
        done = complete()
        timer.join()
    assert done["ETag"].endswith('-1"')
    got = wait_until(lambda: cluster.s3(2).get_object(Bucket=BUCKET, Key="by-boto3"))
    assert got["Body"].read() == b"slow and steady"
    assert complete()["ETag"] == done["ETag"]
