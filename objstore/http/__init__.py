"""HTTP/1.1 over h11. Knows nothing of S3."""
