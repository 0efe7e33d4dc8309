"""X.509 certificates by the cryptography package.

                    CA                      node                      server
    key             P-256                   P-256                     P-256
    subject         CN=objstore CLUSTER     CN=NODE, O=CLUSTER        CN=first name
    alternative     -                       URI objstore://CLUSTER/   DNS names,
    names                                   NODE                      IP addresses
    basic constr.   CA, path length 0       not a CA                  not a CA
    key usage       sign certificates,CRLs  digital signature         digital signature
    ext. key usage  -                       client and server         server
    key ids         subject                 subject, authority        subject, authority

Validity begins an hour before `now_ms`, because the other end's clock may be behind, and
ends with the CA's at the latest.
"""

from __future__ import annotations

import datetime as dt
import ipaddress

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from objstore.host.network import TlsIdentity
from objstore.host.pki import Authority, node_uri
from objstore.ids import ClusterId, NodeId

CLOCK_SKEW = dt.timedelta(hours=1)
_COMMON_NAME_SIZE_MAX = 64  # RFC 5280, ub-common-name.


class RealPki:
    """Makes and reads real certificates."""

    def create_authority(self, cluster: ClusterId, *, now_ms: int, days: int) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([_attribute(NameOID.COMMON_NAME, f"objstore {cluster}")])
        usage = _key_usage(signs_certificates=True)
        certificate = (
            _builder(key, name, name, now_ms, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        return Authority(_certificate_pem(certificate), _key_pem(key))

    def issue(
        self,
        authority: Authority,
        cluster: ClusterId,
        node: NodeId,
        *,
        now_ms: int,
        days: int,
    ) -> TlsIdentity:
        subject = x509.Name(
            [
                _attribute(NameOID.ORGANIZATION_NAME, cluster),
                _attribute(NameOID.COMMON_NAME, node),
            ]
        )
        names = [x509.UniformResourceIdentifier(node_uri(cluster, node))]
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        return _issue(authority, subject, names, purposes, now_ms=now_ms, days=days)

    def issue_server(
        self,
        authority: Authority,
        names: tuple[str, ...],
        *,
        now_ms: int,
        days: int,
    ) -> TlsIdentity:
        assert names
        common_name = names[0][:_COMMON_NAME_SIZE_MAX]
        subject = x509.Name([_attribute(NameOID.COMMON_NAME, common_name)])
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH]
        alternatives = [_server_name(name) for name in names]
        return _issue(authority, subject, alternatives, purposes, now_ms=now_ms, days=days)

    def fingerprint(self, certificate_pem: bytes) -> str:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        return certificate.fingerprint(hashes.SHA256()).hex()

    def expires_ms(self, certificate_pem: bytes) -> int:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        return int(certificate.not_valid_after_utc.timestamp()) * 1000

    def check_identity(self, identity: TlsIdentity) -> None:
        certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
        try:
            key = serialization.load_pem_private_key(identity.private_key_pem, None)
        except TypeError as error:
            raise ValueError("the private key is encrypted") from error
        except UnsupportedAlgorithm as error:
            raise ValueError(f"the private key is of no use: {error}") from error
        if key.public_key() != certificate.public_key():
            raise ValueError("the private key is not the certificate's")


def _issue(
    authority: Authority,
    subject: x509.Name,
    names: list[x509.GeneralName] | list[x509.UniformResourceIdentifier],
    purposes: list[x509.ObjectIdentifier],
    *,
    now_ms: int,
    days: int,
) -> TlsIdentity:
    """A new key, and a certificate for it signed by `authority`."""
    issuer = x509.load_pem_x509_certificate(authority.certificate_pem)
    issuer_key = serialization.load_pem_private_key(authority.private_key_pem, None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    issuer_key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        issuer_key_id.value
    )
    key = ec.generate_private_key(ec.SECP256R1())
    end = issuer.not_valid_after_utc
    certificate = (
        _builder(key, subject, issuer.subject, now_ms, days, end=end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(authority_id, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return TlsIdentity(
        certificate_pem=_certificate_pem(certificate),
        private_key_pem=_key_pem(key),
        trust_pem=authority.certificate_pem,
    )


def _builder(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    now_ms: int,
    days: int,
    *,
    end: dt.datetime | None = None,
) -> x509.CertificateBuilder:
    """What all certificates have."""
    now = dt.datetime.fromtimestamp(now_ms // 1000, dt.UTC)
    last = now + dt.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(last if end is None else min(last, end))
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _attribute(oid: x509.ObjectIdentifier, value: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(oid, value)


def _server_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
