"""Names of the cluster's settings: rows of the cluster shard that every node has."""

from __future__ import annotations

CLUSTER_ID = "cluster_id"
AUTHORITY_CERTIFICATE = "authority_certificate"
AUTHORITY_KEY = "authority_key"
GOSSIP_SECRET = "gossip_secret"  # noqa: S105 - a setting's name.
ADMIN_TOKEN = "admin_token"  # noqa: S105 - a setting's name.

CERTIFICATE_DAYS = 90  # Renewed by the node itself when a third is left.
AUTHORITY_DAYS = 3650
