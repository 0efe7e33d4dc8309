"""Shards of replicated rows: buckets, versions, uploads, and the cluster's state."""
