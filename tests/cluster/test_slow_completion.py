"""A completion that takes long: 200 and blanks first, then the result or the <Error>.

Slow by the logs' disks: a sync takes longer than the five seconds, or than the request may.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import shim
from tests.cluster.raw import Raw, head_of
from tests.harness import Cluster, running_cluster, wait_until
from tests.shim import Fault, Shim

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

BUCKET = "slow"
BLANKS = b'<?xml version="1.0" encoding="UTF-8"?>\n '
DOCUMENT = (
    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part>"
    "</CompleteMultipartUpload>"
)


@pytest.fixture(scope="module")
def slowed(tmp_path_factory: Any) -> Iterator[tuple[Cluster, Shim]]:
    folder = tmp_path_factory.mktemp("slow")
    disks = shim.build(folder)
    with running_cluster(folder / "c", environment=disks.environment) as running:
        running.s3().create_bucket(Bucket=BUCKET)
        yield running, disks


@contextmanager
def slow_logs(
    slowed: tuple[Cluster, Shim], delay_ms: int, *, count: int = 0
) -> Iterator[None]:
    """The next `count` syncs of every node's log take that long; 0: all."""
    cluster, disks = slowed
    disks.set(Fault("sync", "*/data/wal/*", delay_ms=delay_ms, count=count))
    try:
        yield
    finally:
        disks.set()
        # What waits in their queues is late still, and leaderships move meanwhile.
        for number in range(len(cluster.nodes)):
            wait_until(
                lambda n=number: is_quick(cluster, n), timeout_s=90, what="quick logs"
            )


def is_quick(cluster: Cluster, number: int) -> bool:
    """Whether a node writes, and no longer calls its log slow."""
    from botocore.exceptions import ClientError

    if cluster.nodes[number].metric("objstore_raft_wal_slow"):
        return False
    try:
        cluster.s3(number).put_object(Bucket=BUCKET, Key="quick", Body=b"")
    except ClientError:
        return False
    return True


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


def test_a_slow_completion_begins_as_a_200_with_blanks(
    slowed: tuple[Cluster, Shim],
) -> None:
    cluster, _ = slowed
    stream, request = ask(cluster, "late")
    with stream, slow_logs(slowed, 5_600, count=1):
        stream.sendall(request)
        data = read_until(stream, b"1\r\n \r\n")  # A blank.
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"x-amz-request-id: " in data
        data += read_until(stream, b"\r\n0\r\n\r\n")
    body = decoded(data)
    assert body.startswith(BLANKS)
    assert b"<CompleteMultipartUploadResult" in body
    assert body.count(b"<?xml") == 1
    got = cluster.s3(1).get_object(Bucket=BUCKET, Key="late")
    assert got["Body"].read() == b"slow and steady"


@pytest.mark.full
def test_its_failure_is_an_error_in_the_body(slowed: tuple[Cluster, Shim]) -> None:
    cluster, _ = slowed
    stream, request = ask(cluster, "never")
    with stream, slow_logs(slowed, 9_000):
        stream.sendall(request)
        data = read_until(stream, b"\r\n0\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    body = decoded(data)
    assert body.startswith(BLANKS)
    assert b"<Error><Code>ServiceUnavailable</Code>" in body


@pytest.mark.full
def test_boto3_understands_both(slowed: tuple[Cluster, Shim]) -> None:
    cluster, _ = slowed
    upload, etag = begun(cluster, "by-boto3")
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    s3 = cluster.s3()

    def complete() -> Any:
        return s3.complete_multipart_upload(
            Bucket=BUCKET, Key="by-boto3", UploadId=upload, MultipartUpload=parts
        )

    with slow_logs(slowed, 9_000), pytest.raises(s3.exceptions.ClientError) as caught:
        complete()
    assert caught.value.response["Error"]["Code"] == "ServiceUnavailable"
    with slow_logs(slowed, 5_600, count=1):
        done = complete()
    assert done["ETag"].endswith('-1"')
    got = cluster.s3(2).get_object(Bucket=BUCKET, Key="by-boto3")
    assert got["Body"].read() == b"slow and steady"
    assert complete()["ETag"] == done["ETag"]
