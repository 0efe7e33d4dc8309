"""What `objstore dev` prints to paste: six clients against this very cluster.

Each snippet stands alone: it needs its program and nothing of the others', and leaves no
variable behind that another client would trip over (rclone ends at an AWS_CA_BUNDLE).
"""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import urlsplit

_HOME_REGION = "us-east-1"  # Buckets made there must not name it.

_TEXT = """
# aws-cli
export AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret_key}
export AWS_DEFAULT_REGION={region}
echo hello > hello.txt
aws {aws_ca}--endpoint-url {url} s3 mb s3://photos
aws {aws_ca}--endpoint-url {url} s3 cp hello.txt s3://photos/
aws {aws_ca}--endpoint-url {other} s3 ls s3://photos/

# boto3
python3 - <<'EOF'
import boto3
s3 = boto3.client("s3", endpoint_url="{url}", region_name="{region}"{boto_ca},
                  aws_access_key_id="{access_key}", aws_secret_access_key="{secret_key}")
print([bucket["Name"] for bucket in s3.list_buckets()["Buckets"]])
EOF

# rclone
export RCLONE_CONFIG_OBJSTORE_TYPE=s3 RCLONE_CONFIG_OBJSTORE_PROVIDER=Other
export RCLONE_CONFIG_OBJSTORE_ENDPOINT={url} RCLONE_CONFIG_OBJSTORE_REGION={region}
export RCLONE_CONFIG_OBJSTORE_LOCATION_CONSTRAINT={location}
export RCLONE_CONFIG_OBJSTORE_ACCESS_KEY_ID={access_key}
export RCLONE_CONFIG_OBJSTORE_SECRET_ACCESS_KEY={secret_key}
echo hello > hello.txt
rclone {rclone_ca}copy hello.txt objstore:rclone
rclone {rclone_ca}ls objstore:rclone

# restic
export RESTIC_REPOSITORY=s3:{url}/backups RESTIC_PASSWORD=choose-one
export AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret_key}
export AWS_DEFAULT_REGION={region}
echo hello > hello.txt
restic {restic_ca}init
restic {restic_ca}backup hello.txt

# s3cmd
s3() {{ s3cmd --host={host} --host-bucket={host} {s3cmd_tls} --region={region} \\
  --access_key={access_key} --secret_key={secret_key} "$@"; }}
echo hello > hello.txt
s3 mb s3://s3cmd
s3 put hello.txt s3://s3cmd
s3 ls s3://s3cmd

# curl
s3() {{ curl --fail-with-body {curl_ca}--aws-sigv4 aws:amz:{region}:s3 \\
  --user {access_key}:{secret_key} "$@"; }}
echo hello > hello.txt
s3 -X PUT {curl_location}{url}/curl
s3 -H "x-amz-content-sha256: UNSIGNED-PAYLOAD" -T hello.txt {url}/curl/hello.txt
s3 {url}/curl/hello.txt
"""
# curl before 8 signs no body's hash by itself, so one must be named.
_CURL_LOCATION = (
    '-H "x-amz-content-sha256: UNSIGNED-PAYLOAD" --data "<CreateBucketConfiguration>'
    '<LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>" '
)


def snippets(description: dict[str, Any]) -> str:
    """Lines to paste into a shell, for the cluster `description` (DIR/cluster.json)."""
    nodes, region = description["nodes"], description["region"]
    url = nodes[0]["s3"]
    is_tls = url.startswith("https:")
    is_home = region == _HOME_REGION
    ca_file = description["ca_file"]
    quoted = shlex.quote(ca_file)
    return _TEXT.format(
        access_key=description["access_key"],
        secret_key=description["secret_key"],
        region=region,
        location="" if is_home else region,
        url=url,
        other=nodes[-1]["s3"],
        host=urlsplit(url).netloc,
        aws_ca=f"--ca-bundle {quoted} " if is_tls else "",
        boto_ca=f", verify={ca_file!r}" if is_tls else "",
        rclone_ca=f"--ca-cert {quoted} " if is_tls else "",
        restic_ca=f"--cacert {quoted} " if is_tls else "",
        s3cmd_tls=f"--ca-certs={quoted}" if is_tls else "--no-ssl",
        curl_ca=f"--cacert {quoted} " if is_tls else "",
        curl_location="" if is_home else _CURL_LOCATION.format(region=region),
    )
