"""boto3, current and 1.35, with a node killed in the middle; minio-py; curl."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import Outage, is_tls, python_of, unique
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
def test_a_library_of_its_own_with_a_node_down(
    cluster: Cluster, outage: Outage, name: str, script: str
) -> None:
    python = python_of(name)
    outage.begin()
    ca_file = cluster.ca_file if is_tls(cluster) else ""
    done = subprocess.run(
        [python, "-c", script, cluster.nodes[1].s3, unique(name.replace(".", "-")),
         cluster.access_key, cluster.secret_key, ca_file],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr


def test_curl_signs_by_itself(cluster: Cluster, outage: Outage, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not on this machine")
    bucket = unique("curl")
    cluster.s3(0).create_bucket(Bucket=bucket)
    outage.begin()
    (tmp_path / "file").write_bytes(b"by curl")
    common = [
        curl, "--silent", "--show-error", "--fail-with-body", "--cacert", cluster.ca_file,
        "--aws-sigv4", "aws:amz:us-east-1:s3",
        "--user", f"{cluster.access_key}:{cluster.secret_key}",
    ]  # fmt: skip
    url = f"{cluster.nodes[1].s3}/{bucket}/file"
    digest = hashlib.sha256(b"by curl").hexdigest()
    put = [
        *common,
        "-H",
        f"x-amz-content-sha256: {digest}",
        "-T",
        str(tmp_path / "file"),
        url,
    ]
    done = subprocess.run(put, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    empty = hashlib.sha256(b"").hexdigest()
    get = [*common, "-H", f"x-amz-content-sha256: {empty}", url]
    done = subprocess.run(get, capture_output=True, timeout=30, check=False)
    assert done.stdout == b"by curl", done.stderr
