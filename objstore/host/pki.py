"""Keys and certificates of a cluster: its own CA, and one certificate a node.

A node's certificate names its cluster and node id in a URI subject alternative name,
`objstore://CLUSTER_ID/NODE_ID`: addresses may change.  `real_pki` makes X.509 with
P-256 keys by the cryptography package; the simulator's makes marked bytes that its
network understands.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from objstore.host.network import TlsIdentity
from objstore.ids import ClusterId, NodeId, is_node_id

_URI_SCHEME = "objstore://"


def node_uri(cluster: ClusterId, node: NodeId) -> str:
    """The name of a node in its certificate."""
    return f"{_URI_SCHEME}{cluster}/{node}"


def node_of_uri(uri: str) -> NodeId | None:
    """The node that a certificate's URI names, or None where it names none."""
    cluster, slash, node = uri.removeprefix(_URI_SCHEME).partition("/")
    if not uri.startswith(_URI_SCHEME) or not slash or not cluster:
        return None
    return NodeId(node) if is_node_id(node) else None


@attrs.frozen
class Authority:
    """A cluster's CA."""

    certificate_pem: bytes = attrs.field(repr=False)
    private_key_pem: bytes = attrs.field(repr=False)


class Pki(Protocol):
    """Makes and reads them.  Validity is in days from `now_ms`."""

    def create_authority(
        self, cluster: ClusterId, *, now_ms: int, days: int
    ) -> Authority: ...

    def issue(
        self,
        authority: Authority,
        cluster: ClusterId,
        node: NodeId,
        *,
        now_ms: int,
        days: int,
    ) -> TlsIdentity:
        """A new key and a certificate for it, good as client and as server."""
        ...

    def issue_server(
        self,
        authority: Authority,
        names: tuple[str, ...],
        *,
        now_ms: int,
        days: int,
    ) -> TlsIdentity:
        """A certificate for the S3 front door, by DNS names or IP literals."""
        ...

    def fingerprint(self, certificate_pem: bytes) -> str:
        """SHA-256 of the certificate, hex: what a join token carries of the CA."""
        ...

    def expires_ms(self, certificate_pem: bytes) -> int: ...

    def check_identity(self, identity: TlsIdentity) -> None:
        """Raise ValueError unless its key is the certificate's, and both can be read."""
        ...
