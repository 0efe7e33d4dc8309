"""aws-cli, as its users run it, with a node killed in the middle."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.clients.conftest import (
    Outage,
    fetch,
    program,
    read_tree,
    unique,
    write_tree,
)
from tests.harness import Cluster, wait_until

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]


def test_sync_there_and_back_while_a_node_dies(
    cluster: Cluster, outage: Outage, tmp_path: Path
) -> None:
    aws = program("aws", cluster, tmp_path)
    one, two = (
        ("--endpoint-url", cluster.nodes[0].s3),
        ("--endpoint-url", cluster.nodes[1].s3),
    )
    bucket = f"s3://{unique('sync')}"
    tree = write_tree(tmp_path / "source")
    aws("s3", "mb", bucket, *one)
    outage.begin_after(1.5)
    aws("s3", "sync", str(tmp_path / "source"), bucket, *one)
    outage.begin()
    aws("s3", "sync", bucket, str(tmp_path / "copy"), *two)
    assert read_tree(tmp_path / "copy") == tree
    assert aws("s3", "sync", str(tmp_path / "source"), bucket, *two).strip() == ""
    aws("s3", "mv", f"{bucket}/one byte", f"{bucket}/moved/one", *one)
    assert "one byte" not in aws("s3", "ls", bucket, *two)
    outage.end()
    three = ("--endpoint-url", cluster.nodes[2].s3)
    assert "moved/one" in aws("s3", "ls", "--recursive", bucket, *three)
    aws("s3", "rm", "--recursive", bucket, *three)
    aws("s3", "rb", bucket, *one)


def test_a_300_mib_file_goes_up_in_parts_and_a_cut_download_goes_on(
    cluster: Cluster, outage: Outage, tmp_path: Path
) -> None:
    aws = program("aws", cluster, tmp_path)
    one, two = (
        ("--endpoint-url", cluster.nodes[0].s3),
        ("--endpoint-url", cluster.nodes[1].s3),
    )
    name = unique("large")
    source = tmp_path / "source.bin"
    chance = random.Random(3)
    with source.open("wb") as file:
        for _ in range(300):
            file.write(chance.randbytes(1 << 20))
    aws("s3", "mb", f"s3://{name}", *one)
    outage.begin_after(3)
    aws("s3", "cp", str(source), f"s3://{name}/large.bin", *one, timeout=250)
    outage.begin()
    # A download that was cut after 200 MiB: the rest by a range.
    size, cut = source.stat().st_size, 200 << 20
    first, rest = tmp_path / "first", tmp_path / "rest"
    where = ("--bucket", name, "--key", "large.bin")
    aws("s3api", "get-object", *where, "--range", f"bytes=0-{cut - 1}", str(first), *two)
    aws(
        "s3api", "get-object", *where, "--range", f"bytes={cut}-{size - 1}", str(rest), *two
    )
    with source.open("rb") as wanted:
        for piece in (first, rest):
            with piece.open("rb") as got:
                while data := got.read(1 << 22):
                    assert wanted.read(len(data)) == data
        assert wanted.read(1) == b""
    aws("s3", "rm", f"s3://{name}/large.bin", *two)


def test_a_presigned_url_works_without_credentials(
    cluster: Cluster, outage: Outage, tmp_path: Path
) -> None:
    aws = program("aws", cluster, tmp_path)
    one = ("--endpoint-url", cluster.nodes[0].s3)
    bucket = unique("presign")
    (tmp_path / "hello.txt").write_text("hello")
    aws("s3", "mb", f"s3://{bucket}", *one)
    aws("s3", "cp", str(tmp_path / "hello.txt"), f"s3://{bucket}/hello wörld+.txt", *one)
    outage.begin()
    url = aws("s3", "presign", f"s3://{bucket}/hello wörld+.txt", *one).strip()
    assert "Signature=" in url
    assert fetch(cluster, url) == (200, b"hello")
    # Changed, it is worth nothing; nor is it once it has expired.
    assert fetch(cluster, url.replace("hello", "other"))[0] == 403
    assert fetch(cluster, url + "&acl")[0] == 403
    assert fetch(cluster, url, method="DELETE")[0] == 403
    url = aws("s3", "presign", "--expires-in", "1", f"s3://{bucket}/x", *one).strip()
    status, body = wait_until(
        lambda: (answer := fetch(cluster, url))[0] == 403 and answer, what="expiry"
    )
    assert status == 403
    assert b"Request has expired" in body
