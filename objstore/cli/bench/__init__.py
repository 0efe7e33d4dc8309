"""`objstore bench`: what operations cost on a running cluster, what the disk gives."""
