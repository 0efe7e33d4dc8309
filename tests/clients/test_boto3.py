"""boto3, current and 1.35, with a node killed in the middle; minio-py; curl."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import Outage, fetch, is_tls, python_of, unique
from tests.harness import Cluster

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

BIG = bytes(range(256)) * 4096 * 20  # 20 MiB: multipart in boto3's own cut.


def test_the_current_boto3_while_a_node_dies(
    cluster: Cluster, outage: Outage, tmp_path: Path
) -> None:
    one, two = cluster.s3(0), cluster.s3(1)
    bucket = unique("boto3")
    one.create_bucket(Bucket=bucket)
    outage.begin_after(0.3)
    one.upload_fileobj(io.BytesIO(BIG), bucket, "big")
    one.put_object(Bucket=bucket, Key="small", Body=b"small", Metadata={"color": "blue"})
    outage.begin()
    got = io.BytesIO()
    two.download_fileobj(bucket, "big", got)
    assert got.getvalue() == BIG
    small = two.get_object(Bucket=bucket, Key="small")
    assert small["Body"].read() == b"small"
    assert small["Metadata"] == {"color": "blue"}
    assert small["ETag"] == f'"{hashlib.md5(b"small").hexdigest()}"'
    two.copy_object(
        Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "small"}
    )
    outage.end()
    three = cluster.s3(2)
    keys = [item["Key"] for item in three.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["big", "copy", "small"]
    with pytest.raises(three.exceptions.ClientError) as caught:
        three.put_object(Bucket=bucket, Key="small", Body=b"x", IfNoneMatch="*")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    three.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
    )
    three.delete_bucket(Bucket=bucket)


@pytest.mark.parametrize("version", [None, "s3v4"])
def test_urls_that_boto3_presigns_by_default_and_by_version_4(
    cluster: Cluster, outage: Outage, version: str | None
) -> None:
    signing = {} if version is None else {"signature_version": version}
    s3 = cluster.s3(0, config=signing)
    bucket, key = unique("presign"), "dir/a b+\xfc%2F~.txt"
    s3.create_bucket(Bucket=bucket)
    outage.begin()

    def presign(operation: str, **parameters: object) -> str:
        return str(s3.generate_presigned_url(operation, {"Bucket": bucket, **parameters}))

    url = presign("put_object", Key=key)
    assert ("AWSAccessKeyId=" in url) == (version is None)
    typed = {"content-type": "application/x-www-form-urlencoded"}  # As urllib will have it.
    url = presign("put_object", Key=key, ContentType=typed["content-type"])
    assert fetch(cluster, url, method="PUT", body=b"hello", headers=typed)[0] == 200
    assert fetch(cluster, presign("get_object", Key=key)) == (200, b"hello")
    assert fetch(cluster, presign("head_object", Key=key), method="HEAD") == (200, b"")
    url = presign("get_object", Key=key, ResponseContentType="text/x a+b")
    assert fetch(cluster, url) == (200, b"hello")
    assert fetch(cluster, url, headers={"range": "bytes=1-2"}) == (206, b"el")
    status, body = fetch(cluster, presign("list_objects_v2", Prefix="dir/"))
    assert (status, b"<KeyCount>1</KeyCount>" in body) == (200, True)
    # Metadata that was signed must be sent, and no other header can be added.
    url = presign("put_object", Key="m", Metadata={"color": "blue"}, ContentType="a/b")
    meta = {"content-type": "a/b", "x-amz-meta-color": "blue"}
    if version is None:  # Version 4 takes such headers from the query.
        without = {"content-type": "a/b"}
        assert fetch(cluster, url, method="PUT", body=b"x", headers=without)[0] == 403
    assert fetch(cluster, url, method="PUT", body=b"x", headers=meta)[0] == 200
    assert s3.head_object(Bucket=bucket, Key="m")["Metadata"] == {"color": "blue"}
    more = meta | {"x-amz-copy-source": f"/{bucket}/{key}"}
    assert fetch(cluster, url, method="PUT", body=b"", headers=more)[0] == 403
    assert fetch(cluster, presign("delete_object", Key=key), method="DELETE")[0] == 204


OLD_BOTO3 = """
import io, sys, boto3
from botocore.config import Config
url, bucket, access, secret, ca = sys.argv[1:]
assert boto3.__version__.startswith("1.35"), boto3.__version__
s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=access,
    aws_secret_access_key=secret, verify=ca or None, config=Config(s3={"addressing_style": "path"}))
s3.create_bucket(Bucket=bucket)
data = bytes(range(256)) * 40960
s3.upload_fileobj(io.BytesIO(data), bucket, "big")
got = io.BytesIO(); s3.download_fileobj(bucket, "big", got); assert got.getvalue() == data
s3.put_object(Bucket=bucket, Key="small", Body=b"x", ContentType="text/plain")
assert s3.head_object(Bucket=bucket, Key="small")["ContentType"] == "text/plain"
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 1})
assert [o["Key"] for p in pages for o in p["Contents"]] == ["big", "small"]
s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "big"}, {"Key": "small"}]})
s3.delete_bucket(Bucket=bucket)
print("done")
"""

MINIO = """
import io, sys
from minio import Minio
import urllib3
url, bucket, access, secret, ca = sys.argv[1:]
pool = urllib3.PoolManager(ca_certs=ca) if ca else None
client = Minio(url.split("//")[1], access_key=access, secret_key=secret, secure=bool(ca),
    region="us-east-1", http_client=pool)
client.make_bucket(bucket); assert client.bucket_exists(bucket)
data = bytes(range(256)) * 4096 * 12
client.put_object(bucket, "dir/big", io.BytesIO(data), len(data), part_size=5 * 1024 * 1024)
answer = client.get_object(bucket, "dir/big"); assert answer.read() == data; answer.close()
answer = client.get_object(bucket, "dir/big", offset=10, length=20); assert answer.read() == data[10:30]
client.put_object(bucket, "small", io.BytesIO(b"x"), 1, metadata={"color": "blue"})
assert client.stat_object(bucket, "small").metadata["x-amz-meta-color"] == "blue"
assert [o.object_name for o in client.list_objects(bucket, recursive=True)] == ["dir/big", "small"]
for name in ("dir/big", "small"): client.remove_object(bucket, name)
client.remove_bucket(bucket)
print("done")
"""


@pytest.mark.parametrize(("name", "script"), [("boto3-1.35", OLD_BOTO3), ("minio", MINIO)])
def test_a_library_of_its_own_while_a_node_dies_and_after(
    cluster: Cluster, outage: Outage, name: str, script: str
) -> None:
    python = python_of(name)
    ca_file = cluster.ca_file if is_tls(cluster) else ""
    outage.begin_after(0.8)
    for _ in range(2):
        done = subprocess.run(
            [python, "-c", script, cluster.nodes[1].s3, unique(name.replace(".", "-")),
             cluster.access_key, cluster.secret_key, ca_file],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.stdout.strip() == "done", done.stderr
        outage.begin()


def test_curl_signs_by_itself(cluster: Cluster, outage: Outage, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not on this machine")
    bucket = unique("curl")
    cluster.s3(0).create_bucket(Bucket=bucket)
    (tmp_path / "file").write_bytes(b"by curl")
    (tmp_path / "curl").write_text(
        f'user = "{cluster.access_key}:{cluster.secret_key}"\n'
        f'cacert = "{cluster.ca_file}"\n'
        'aws-sigv4 = "aws:amz:us-east-1:s3"\nsilent\nshow-error\nfail-with-body\n'
    )
    url = f"{cluster.nodes[1].s3}/{bucket}/file"

    def run(*arguments: str) -> bytes:
        done = subprocess.run(
            [curl, "--config", str(tmp_path / "curl"), *arguments],
            capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    digest = hashlib.sha256(b"by curl").hexdigest()
    for payload in (digest, "UNSIGNED-PAYLOAD"):
        header = f"x-amz-content-sha256: {payload}"
        run("-H", header, "-T", str(tmp_path / "file"), url)
        # What has no body needs no such header: curl before 8 does not send it.
        assert run(url) == b"by curl"
        assert b"content-length: 7" in run("--head", url).lower()
        outage.begin()
        assert b"<Key>file</Key>" in run(f"{cluster.nodes[0].s3}/{bucket}?list-type=2")
        run("-X", "DELETE", url)
    assert b"KeyCount>0<" in run(f"{cluster.nodes[0].s3}/{bucket}?list-type=2")
