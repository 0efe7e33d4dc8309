"""One function per S3 operation."""
