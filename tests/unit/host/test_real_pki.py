"""The certificates, judged by the cryptography package and by OpenSSL's rules."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from objstore.host.real_pki import RealPki
from objstore.ids import ClusterId, NodeId

CLUSTER, NODE = ClusterId("c" * 32), NodeId("a" * 16)
NOW_MS = 1_800_000_000_000
NOW = dt.datetime.fromtimestamp(NOW_MS / 1000, dt.UTC)


@pytest.fixture(scope="module")
def authority():
    return RealPki().create_authority(CLUSTER, now_ms=NOW_MS, days=3650)


def load(pem):
    return x509.load_pem_x509_certificate(pem)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind).value


def test_the_authority_signs_leaves_and_nothing_below(authority):
    certificate = load(authority.certificate_pem)
    constraints = extension(certificate, x509.BasicConstraints)
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert extension(certificate, x509.KeyUsage).key_cert_sign


def test_a_nodes_certificate_names_it_and_serves_both_ways(authority):
    identity = RealPki().issue(authority, CLUSTER, NODE, now_ms=NOW_MS, days=30)
    leaf = load(identity.certificate_pem)
    names = extension(leaf, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"objstore://{CLUSTER}/{NODE}"
    ]
    assert set(extension(leaf, x509.ExtendedKeyUsage)) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }
    assert not extension(leaf, x509.BasicConstraints).ca
    assert isinstance(leaf.public_key().curve, ec.SECP256R1)
    leaf.verify_directly_issued_by(load(authority.certificate_pem))


def test_certificates_begin_an_hour_early_for_clocks_that_are_behind(authority):
    identity = RealPki().issue(authority, CLUSTER, NODE, now_ms=NOW_MS, days=30)
    for pem in (authority.certificate_pem, identity.certificate_pem):
        assert load(pem).not_valid_before_utc == NOW - dt.timedelta(hours=1)


def test_key_identifiers_chain(authority):
    identity = RealPki().issue(authority, CLUSTER, NODE, now_ms=NOW_MS, days=30)
    above = extension(load(authority.certificate_pem), x509.SubjectKeyIdentifier)
    below = extension(load(identity.certificate_pem), x509.AuthorityKeyIdentifier)
    assert below.key_identifier == above.digest


@pytest.mark.parametrize("name", ["s3.example.org", "*.s3.example.org", "10.0.0.1", "::1"])
def test_a_servers_certificate_passes_a_strict_verifier(authority, name):
    identity = RealPki().issue_server(
        authority, (name, "localhost"), now_ms=NOW_MS, days=30
    )
    try:
        subject = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        subject = x509.DNSName(name.replace("*", "bucket"))
    store = Store([load(authority.certificate_pem)])
    verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(subject)
    verifier.verify(load(identity.certificate_pem), [])


def test_a_long_server_name_is_no_obstacle(authority):
    name = "a" * 60 + "." + "b" * 60 + ".example"
    identity = RealPki().issue_server(authority, (name,), now_ms=NOW_MS, days=30)
    names = extension(load(identity.certificate_pem), x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == [name]
