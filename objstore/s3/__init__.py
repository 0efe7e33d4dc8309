"""The S3 dialect over objstore.http."""
