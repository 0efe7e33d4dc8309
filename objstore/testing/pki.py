"""Certificates that are marked JSON, and the rules of trust that real ones obey.

    -----BEGIN SIMULATED CERTIFICATE-----
    base64 of {"seal": SHA-256 of the body, "body": {the fields of Certificate}}
    -----END SIMULATED CERTIFICATE-----

A key's public half is the SHA-256 of its secret half, so that showing a certificate
without its key is found out.  There is no signature: a simulation has no forgers, only
wrong clusters, expired or foreign certificates and flipped bits.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re

import attrs

from objstore.host.entropy import Entropy
from objstore.host.network import TlsIdentity
from objstore.host.pki import Authority, node_of_uri, node_uri
from objstore.ids import ClusterId, NodeId

SKEW_MS = 3_600_000
_DAY_MS = 86_400_000
_SECRET_SIZE = 32
_BLOCK = re.compile(
    rb"-----BEGIN SIMULATED (CERTIFICATE|KEY)-----\n(.*?)\n-----END SIMULATED \1-----\n",
    re.DOTALL,
)


class BadCertificate(Exception):
    """It is not what it must be; the text says why."""


@attrs.frozen
class Certificate:
    public: str
    issuer: str  # The public half of the CA's key.
    is_authority: bool
    uri: str  # "" where it names no node.
    names: tuple[str, ...]
    for_client: bool
    for_server: bool
    begin_ms: int
    end_ms: int

    @property
    def node(self) -> NodeId | None:
        return node_of_uri(self.uri)


class SimulatedPki:
    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def create_authority(self, cluster: ClusterId, *, now_ms: int, days: int) -> Authority:
        secret = self._entropy.token(_SECRET_SIZE)
        public = _public(secret)
        certificate = Certificate(
            public=public,
            issuer=public,
            is_authority=True,
            uri="",
            names=(f"objstore {cluster}",),
            for_client=False,
            for_server=False,
            begin_ms=now_ms - SKEW_MS,
            end_ms=now_ms + days * _DAY_MS,
        )
        return Authority(encode_certificate(certificate), _encode_key(secret))

    def issue(
        self,
        authority: Authority,
        cluster: ClusterId,
        node: NodeId,
        *,
        now_ms: int,
        days: int,
    ) -> TlsIdentity:
        uri = node_uri(cluster, node)
        return self._issue(authority, uri, (), now_ms=now_ms, days=days)

    def issue_server(
        self,
        authority: Authority,
        names: tuple[str, ...],
        *,
        now_ms: int,
        days: int,
    ) -> TlsIdentity:
        assert names
        return self._issue(authority, "", names, now_ms=now_ms, days=days)

    def fingerprint(self, certificate_pem: bytes) -> str:
        encoded = encode_certificate(decode_certificates(certificate_pem)[0])
        return hashlib.sha256(encoded).hexdigest()

    def expires_ms(self, certificate_pem: bytes) -> int:
        return decode_certificates(certificate_pem)[0].end_ms

    def check_identity(self, identity: TlsIdentity) -> None:
        try:
            check_identity(identity)
        except (BadCertificate, IndexError) as error:
            raise ValueError(f"the certificate is of no use: {error}") from error

    def _issue(
        self,
        authority: Authority,
        uri: str,
        names: tuple[str, ...],
        *,
        now_ms: int,
        days: int,
    ) -> TlsIdentity:
        issuer = decode_certificates(authority.certificate_pem)[0]
        secret = self._entropy.token(_SECRET_SIZE)
        certificate = Certificate(
            public=_public(secret),
            issuer=issuer.public,
            is_authority=False,
            uri=uri,
            names=names,
            for_client=bool(uri),
            for_server=True,
            begin_ms=now_ms - SKEW_MS,
            end_ms=min(now_ms + days * _DAY_MS, issuer.end_ms),
        )
        return TlsIdentity(
            certificate_pem=encode_certificate(certificate),
            private_key_pem=_encode_key(secret),
            trust_pem=authority.certificate_pem,
        )


def check_identity(identity: TlsIdentity) -> None:
    """Raise BadCertificate unless the key is that of the certificate."""
    certificate = decode_certificates(identity.certificate_pem)[0]
    if _public(_decode_key(identity.private_key_pem)) != certificate.public:
        raise BadCertificate("the key is not that of the certificate")


def verify(
    certificate_pem: bytes, trust_pem: bytes, *, now_ms: int, as_server: bool
) -> Certificate:
    """The leaf, if `trust_pem` signed it and it is good for this, now."""
    leaf = decode_certificates(certificate_pem)[0]
    trusted = decode_certificates(trust_pem) if trust_pem else ()
    issuers = [ca for ca in trusted if ca.is_authority and ca.public == leaf.issuer]
    if not issuers:
        raise BadCertificate("the certificate is signed by nobody we trust")
    for certificate in (leaf, issuers[0]):
        if not certificate.begin_ms <= now_ms < certificate.end_ms:
            raise BadCertificate("the certificate has expired, or is not valid yet")
    if not (leaf.for_server if as_server else leaf.for_client):
        raise BadCertificate("the certificate is not made for this purpose")
    return leaf


def encode_certificate(certificate: Certificate) -> bytes:
    body = json.dumps(attrs.asdict(certificate), sort_keys=True)
    return _block("CERTIFICATE", json.dumps({"seal": _seal(body), "body": body}))


def decode_certificates(pem: bytes) -> list[Certificate]:
    """Those in `pem`, leaf first, at least one.  Raises BadCertificate."""
    certificates = [
        _decode_certificate(data) for kind, data in _BLOCK.findall(pem) if kind != b"KEY"
    ]
    if not certificates:
        raise BadCertificate("there is no certificate")
    return certificates


def _decode_certificate(data: bytes) -> Certificate:
    try:
        sealed = json.loads(base64.b64decode(data))
        if sealed["seal"] != _seal(sealed["body"]):
            raise BadCertificate("the certificate's seal is broken")
        fields = json.loads(sealed["body"])
        return Certificate(**{**fields, "names": tuple(fields["names"])})
    except (ValueError, KeyError, TypeError) as error:
        raise BadCertificate("the certificate cannot be read") from error


def _encode_key(secret: bytes) -> bytes:
    return _block("KEY", secret.hex())


def _decode_key(pem: bytes) -> bytes:
    for kind, data in _BLOCK.findall(pem):
        if kind == b"KEY":
            try:
                return bytes.fromhex(base64.b64decode(data).decode())
            except (binascii.Error, ValueError) as error:
                raise BadCertificate("the key cannot be read") from error
    raise BadCertificate("there is no key")


def _block(kind: str, text: str) -> bytes:
    data = base64.b64encode(text.encode()).decode()
    begin, end = f"-----BEGIN SIMULATED {kind}-----", f"-----END SIMULATED {kind}-----"
    return f"{begin}\n{data}\n{end}\n".encode()


def _public(secret: bytes) -> str:
    return hashlib.sha256(b"public half of " + secret).hexdigest()


def _seal(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
