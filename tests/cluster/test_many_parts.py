"""An upload of as many parts as there may be: 10,000, by real clients' requests."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.raw import Raw, head_of, read_answer
from tests.harness import Cluster, running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(900)]

PARTS = 10_000
CLIENTS = 6


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[Cluster]:
    settings = {"s3.part_size_min": "1B"}
    with running_cluster(tmp_path_factory.mktemp("parts"), settings=settings) as running:
        running.s3().create_bucket(Bucket="parts")
        yield running


def body_of(number: int) -> bytes:
    return b"part %d," % number


def upload_some(raw: Raw, upload: str, numbers: range, failures: list[str]) -> None:
    """Parts one after the other on one connection."""
    with raw.connect() as stream:
        for number in numbers:
            target = f"/parts/many?partNumber={number}&uploadId={upload}"
            body = body_of(number)
            fields = raw.signed("PUT", target) | {"content-length": str(len(body))}
            stream.sendall(head_of("PUT", target, fields) + body)
            answer = read_answer(stream, "PUT")
            if answer.headers.get("etag") != f'"{hashlib.md5(body).hexdigest()}"':
                failures.append(f"part {number}: {answer}")
                return


def test_ten_thousand_parts_are_completed_at_once(cluster: Cluster) -> None:
    raws = [Raw.of(cluster, node) for node in range(3)]
    upload = raws[0].post("/parts/many?uploads").text("UploadId")
    failures: list[str] = []
    threads = [
        threading.Thread(
            target=upload_some,
            args=(raws[n % 3], upload, range(n + 1, PARTS + 1, CLIENTS), failures),
        )
        for n in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures

    listed = "".join(
        f"<Part><PartNumber>{n}</PartNumber>"
        f"<ETag>&quot;{hashlib.md5(body_of(n)).hexdigest()}&quot;</ETag></Part>"
        for n in range(1, PARTS + 1)
    )
    document = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
    began = time.monotonic()
    done = raws[1].post(f"/parts/many?uploadId={upload}", document)
    took = time.monotonic() - began
    print(f"completion of {PARTS} parts: {took:.2f} s")
    digests = b"".join(hashlib.md5(body_of(n)).digest() for n in range(1, PARTS + 1))
    etag = f'"{hashlib.md5(digests).hexdigest()}-{PARTS}"'
    assert (done.status, done.text("ETag")) == (200, etag)
    # Two seconds on a machine of its own; past five it would begin with blanks.
    assert not done.body.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n  ')

    whole = b"".join(body_of(n) for n in range(1, PARTS + 1))
    for raw in raws:
        assert raw.get("/parts/many").body == whole
        assert raw.get("/parts/many?partNumber=9999").body == body_of(9999)
    assert raws[2].post(f"/parts/many?uploadId={upload}", document).text("ETag") == etag
    assert raws[0].delete("/parts/many").status == 204
