"""objstore: an S3-compatible object store of N identical daemons."""

__version__ = "0.1.0"
