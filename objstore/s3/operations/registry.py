"""The operations that are built, by the names of AWS's service model.

What is not here answers NotImplemented with its name.
"""

from __future__ import annotations

from types import MappingProxyType

from objstore.s3.call import OperationHandler
from objstore.s3.operations import (
    attributes,
    bucket,
    copy,
    delete,
    listing,
    multipart,
    object,  # noqa: A004 - S3's word.
)

OPERATIONS: MappingProxyType[str, OperationHandler] = MappingProxyType(
    {
        "ListBuckets": bucket.list_buckets,
        "CreateBucket": bucket.create_bucket,
        "HeadBucket": bucket.head_bucket,
        "GetBucketLocation": bucket.get_bucket_location,
        "GetBucketVersioning": bucket.get_bucket_versioning,
        "DeleteBucket": bucket.delete_bucket,
        "PutObject": object.put_object,
        "GetObject": object.get_object,
        "HeadObject": object.head_object,
        "DeleteObject": object.delete_object,
        "DeleteObjects": delete.delete_objects,
        "CopyObject": copy.copy_object,
        "GetObjectAttributes": attributes.get_object_attributes,
        "ListObjects": listing.list_objects,
        "ListObjectsV2": listing.list_objects_v2,
        "ListObjectVersions": listing.list_object_versions,
        "CreateMultipartUpload": multipart.create_multipart_upload,
        "UploadPart": multipart.upload_part,
        "UploadPartCopy": copy.upload_part_copy,
        "CompleteMultipartUpload": multipart.complete_multipart_upload,
        "AbortMultipartUpload": multipart.abort_multipart_upload,
        "ListParts": listing.list_parts,
        "ListMultipartUploads": listing.list_multipart_uploads,
    }
)
