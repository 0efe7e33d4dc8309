"""TLS by certificates of one's own: followed without a restart, old protocols refused."""

from __future__ import annotations

import datetime as dt
import http.client
import ipaddress
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.harness import Cluster, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

LIVE = "/-/health/live"


@attrs.define
class Files:
    """The two files that a node's configuration names."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    def write(self, certificate: bytes | None, key: bytes | None) -> None:
        """Replace them, as certbot and its like do: by a rename."""
        for path, content in ((self.certificate, certificate), (self.key, key)):
            if content is not None:
                fresh = path.with_suffix(".new")
                fresh.write_bytes(content)
                fresh.rename(path)


def made(name: str, *, is_rsa: bool = False) -> tuple[bytes, bytes]:
    """A self-signed certificate for loopback and its key, as PEM."""
    key: Any
    if is_rsa:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(name)]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> Files:
    files = Files(tmp_path_factory.mktemp("certificates"))
    files.write(*made("first.test"))
    return files


@pytest.fixture(scope="module")
def cluster(files: Files, tmp_path_factory: Any) -> Iterator[Cluster]:
    settings = {
        "s3.tls": "files",
        "s3.tls_certificate": str(files.certificate),
        "s3.tls_key": str(files.key),
    }
    folder = tmp_path_factory.mktemp("tls")
    with running_cluster(folder, nodes=1, settings=settings) as running:
        yield running


def address(cluster: Cluster) -> tuple[str, int]:
    parts = urlsplit(cluster.nodes[0].s3)
    assert parts.scheme == "https"
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def shown_name(cluster: Cluster) -> str:
    """The name in the certificate that a new connection is shown."""
    with socket.create_connection(address(cluster), timeout=10) as plain:
        with unverified().wrap_socket(plain) as tls:
            raw = tls.getpeercert(binary_form=True)
    assert raw is not None
    found = x509.load_der_x509_certificate(raw).subject
    return str(found.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_clients_that_trust_the_certificate_are_served(
    cluster: Cluster, files: Files
) -> None:
    s3 = cluster.s3(verify=str(files.certificate))
    s3.create_bucket(Bucket="by-tls")
    s3.put_object(Bucket="by-tls", Key="k", Body=b"x" * 100_000)
    assert s3.get_object(Bucket="by-tls", Key="k")["Body"].read() == b"x" * 100_000


def test_commands_find_their_node(cluster: Cluster) -> None:
    assert cluster.command("bucket", "list") is not None


def test_protocols_before_tls_1_2_are_refused(cluster: Cluster) -> None:
    for version, is_served in (
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ):
        context = unverified()
        context.set_ciphers("ALL:@SECLEVEL=0")  # Or OpenSSL itself would not offer 1.1.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = context.maximum_version = version
        with socket.create_connection(address(cluster), timeout=10) as plain:
            if is_served:
                with context.wrap_socket(plain) as tls:
                    assert tls.version() == version.name.replace("v1_", "v1.")
            else:
                with pytest.raises(OSError):
                    context.wrap_socket(plain)


def test_a_plain_request_at_a_tls_port_gets_no_answer(cluster: Cluster) -> None:
    with socket.create_connection(address(cluster), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"HTTP/" not in plain.recv(1000)


def test_replaced_files_are_used_without_a_restart(cluster: Cluster, files: Files) -> None:
    pid = cluster.nodes[0].pid
    assert shown_name(cluster) == "first.test"
    old = http.client.HTTPSConnection(*address(cluster), timeout=20, context=unverified())
    old.request("GET", LIVE)
    assert old.getresponse().read() is not None

    certificate, key = made("second.test", is_rsa=True)
    files.write(certificate, None)  # Without its key it is of no use yet.
    wait_until(
        lambda: "node.certificate_not_loaded" in cluster.nodes[0].log.read_text(),
        what="the refusal in the log",
    )
    assert shown_name(cluster) == "first.test"
    files.write(None, key)
    wait_until(lambda: shown_name(cluster) == "second.test", what="the new certificate")

    # What was connected goes on, with the certificate it was shown.
    old.request("GET", LIVE)
    assert old.getresponse().status == 200
    old.close()
    assert cluster.nodes[0].pid == pid
    assert cluster.nodes[0].is_running()
    s3 = cluster.s3(verify=str(files.certificate))
    assert s3.list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_a_node_whose_files_do_not_fit_does_not_start(
    cluster: Cluster, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    files.write(made("one.test")[0], made("other.test")[1])
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\ndata = "{tmp_path / "data"}"\n'
        '[s3]\naddress = "127.0.0.1:0"\ntls = "files"\n'
        f'tls_certificate = "{files.certificate}"\ntls_key = "{files.key}"\n'
        '[cluster]\naddress = "127.0.0.1:0"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "objstore", "serve", "--config", str(config)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "server.key" in done.stderr
    assert "not the certificate's" in done.stderr
