"""What `objstore dev` prints to paste: five clients against this very cluster."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

_PLAIN = """
# aws-cli
export AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret_key}
export AWS_DEFAULT_REGION={region}{aws_ca}
aws --endpoint-url {url} s3 mb s3://photos
aws --endpoint-url {url} s3 cp README.md s3://photos/
aws --endpoint-url {other} s3 ls s3://photos/

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
export RCLONE_CONFIG_OBJSTORE_ACCESS_KEY_ID={access_key}
export RCLONE_CONFIG_OBJSTORE_SECRET_ACCESS_KEY={secret_key}
rclone {rclone_ca}copy README.md objstore:photos

# restic
export RESTIC_REPOSITORY=s3:{url}/backups RESTIC_PASSWORD=choose-one
export AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret_key}
restic {restic_ca}init && restic {restic_ca}backup README.md

# s3cmd
s3cmd --host={host} --host-bucket={host} {s3cmd_tls} --region={region} \\
  --access_key={access_key} --secret_key={secret_key} ls s3://photos
"""


def snippets(description: dict[str, Any]) -> str:
    """Lines to paste into a shell, for the cluster `description` (DIR/cluster.json)."""
    nodes = description["nodes"]
    url = nodes[0]["s3"]
    is_tls = url.startswith("https:")
    ca_file = description["ca_file"]
    return _PLAIN.format(
        access_key=description["access_key"],
        secret_key=description["secret_key"],
        region=description["region"],
        url=url,
        other=nodes[-1]["s3"],
        host=urlsplit(url).netloc,
        aws_ca=f" AWS_CA_BUNDLE={ca_file}" if is_tls else "",
        boto_ca=f', verify="{ca_file}"' if is_tls else "",
        rclone_ca=f"--ca-cert {ca_file} " if is_tls else "",
        restic_ca=f"--cacert {ca_file} " if is_tls else "",
        s3cmd_tls=f"--ca-certs={ca_file}" if is_tls else "--no-ssl",
    )
