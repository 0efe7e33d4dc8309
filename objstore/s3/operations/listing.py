"""Lists: ListObjects, ListObjectsV2, ListObjectVersions, ListMultipartUploads, ListParts.

Keys go through as bytes.  Where a page ends in the middle, the place to go on is the last
entry shown: its key, or its common prefix, which then stands for all keys under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress

from objstore.frozen import frozen
from objstore.http.message import Response
from objstore.ids import UploadId
from objstore.meta.payloads import unpack_traits
from objstore.meta.queries import ListAnswer, UploadsAnswer
from objstore.meta.values import ListedRow, ListedVersion, Part, Upload
from objstore.objects import listing
from objstore.objects.listing import KeysPage
from objstore.objects.requests import CHECKSUM_ALGORITHMS
from objstore.s3.authorize import authorize
from objstore.s3.call import S3Call
from objstore.s3.errors import S3Error
from objstore.s3.operations import arguments
from objstore.s3.operations.answers import (
    argument_text,
    key_text,
    owner_tag,
    part_checksum_tag,
    quoted,
    shown_keys,
    xml_response,
)
from objstore.s3.operations.tokens import (
    InvalidContinuation,
    decode_token,
    encode_token,
)
from objstore.s3.xml import document, element, flag, tag, tag_if
from objstore.units import iso_time

# What an entry says of its checksum: the algorithm and its kind, not the value.
_CHECKSUMS: dict[tuple[str | None, str | None], str] = {
    (algorithm, kind): tag("ChecksumAlgorithm", algorithm) + tag("ChecksumType", kind)
    for algorithm in CHECKSUM_ALGORITHMS
    for kind in ("FULL_OBJECT", "COMPOSITE")
}
_CHECKSUMS[None, None] = ""

_VersionEntry = tuple[bytes, ListedVersion | None]


@frozen
class _Arguments:
    """What all lists of a bucket's keys have in common."""

    prefix: str
    delimiter: str
    limit: int
    encoding: str | None  # "url"

    @classmethod
    def of(cls, call: S3Call, limit_name: str) -> _Arguments:
        return cls(
            prefix=call.query.get("prefix", ""),
            delimiter=call.query.get("delimiter", ""),
            limit=arguments.page_size(call, limit_name),
            encoding=arguments.encoding_type(call),
        )

    def page(self, after: bytes) -> KeysPage:
        return KeysPage(
            prefix=self.prefix.encode(),
            delimiter=self.delimiter.encode(),
            after=after,
            limit=self.limit,
        )

    def text(self, name: str, value: str) -> str:
        return tag(name, argument_text(value, self.encoding))

    def key(self, name: str, key: bytes) -> str:
        return tag(name, key_text(key, self.encoding))

    def echo(self) -> str:
        """The arguments that every list repeats at its end."""
        return (self.text("Delimiter", self.delimiter) if self.delimiter else "") + tag_if(
            "EncodingType", self.encoding
        )

    def common_prefixes(self, entries: Iterable[tuple[bytes, object | None]]) -> str:
        if not self.delimiter:
            return ""
        return "".join(
            element("CommonPrefixes", self.key("Prefix", name))
            for name, shown in entries
            if shown is None
        )


# ---- objects --------------------------------------------------------------------------


async def list_objects(call: S3Call) -> Response:
    """ListObjects: version 1, with markers."""
    listed = _Arguments.of(call, "max-keys")
    marker = call.query.get("marker", "")
    answer = await _list_keys(call, listed, marker.encode())
    objects = answer.objects()
    # AWS says where to go on only where a delimiter may have hidden it.
    shows_next = answer.is_truncated and bool(listed.delimiter)
    return xml_response(
        document(
            "ListBucketResult",
            tag("Name", call.bucket),
            listed.text("Prefix", listed.prefix),
            listed.text("Marker", marker),
            listed.key("NextMarker", answer.names[-1]) if shows_next else "",
            tag("MaxKeys", listed.limit),
            listed.echo(),
            flag("IsTruncated", answer.is_truncated),
            _contents(listed, answer.names, objects, shows_owner=True),
            listed.common_prefixes(zip(answer.names, objects, strict=True)),
        )
    )


async def list_objects_v2(call: S3Call) -> Response:
    """ListObjectsV2: with opaque tokens."""
    listed = _Arguments.of(call, "max-keys")
    token = call.query.get("continuation-token")
    start_after = call.query.get("start-after")
    after = (start_after or "").encode() if token is None else _place(call, token)
    answer = await _list_keys(call, listed, after)
    objects = answer.objects()
    following = None
    if answer.is_truncated:
        following = encode_token(arguments.bucket_name(call), answer.names[-1])
    return xml_response(
        document(
            "ListBucketResult",
            tag("Name", call.bucket),
            listed.text("Prefix", listed.prefix),
            tag_if("ContinuationToken", token),
            tag_if("NextContinuationToken", following),
            "" if start_after is None else listed.text("StartAfter", start_after),
            tag("KeyCount", len(answer.names)),
            tag("MaxKeys", listed.limit),
            listed.echo(),
            flag("IsTruncated", answer.is_truncated),
            _contents(
                listed,
                answer.names,
                objects,
                shows_owner=call.query.get("fetch-owner") == "true",
            ),
            listed.common_prefixes(zip(answer.names, objects, strict=True)),
        )
    )


def _place(call: S3Call, token: str) -> bytes:
    try:
        return decode_token(arguments.bucket_name(call), token)
    except InvalidContinuation as error:
        raise arguments.invalid_argument(
            "The continuation token provided is incorrect", "continuation-token", token
        ) from error


async def _list_keys(call: S3Call, listed: _Arguments, after: bytes) -> ListAnswer:
    capability = await authorize(call, "s3:ListBucket", arguments.bucket_name(call))
    arguments.check_expected_owner(call, capability.record)
    return await listing.list_keys(call.store, capability, listed.page(after))


def _contents(
    listed: _Arguments,
    keys: Sequence[bytes],
    objects: Sequence[ListedRow | None],
    *,
    shows_owner: bool,
) -> str:
    """The objects of a page.  Hot: only what a client chose is escaped."""
    rows = [row for row in objects if row is not None]
    if len(rows) < len(objects):
        keys = list(compress(keys, objects))
    names = shown_keys(keys, listed.encoding)
    kinds = {traits for _, _, _, traits in rows}  # Few, mostly one.
    shown = {traits: _traits(traits, shows_owner) for traits in kinds}
    return "".join(
        [
            f"<Contents><Key>{name}</Key><LastModified>{time}</LastModified>"
            f"<ETag>&quot;{etag}&quot;</ETag>{shown[traits][0]}"
            f"<Size>{size}</Size>{shown[traits][1]}</Contents>"
            for name, (time, size, etag, traits) in zip(names, rows, strict=True)
        ]
    )


def _traits(packed: bytes, shows_owner: bool) -> tuple[str, str]:
    """What a list shows of an object's traits, before its size and after."""
    owner, storage_class, algorithm, kind = unpack_traits(packed)
    by = owner_tag("Owner", owner) if shows_owner else ""
    return _CHECKSUMS[algorithm, kind], by + tag("StorageClass", storage_class)


# ---- versions -------------------------------------------------------------------------


async def list_object_versions(call: S3Call) -> Response:
    """ListObjectVersions: in a bucket without versioning, the null versions."""
    listed = _Arguments.of(call, "max-keys")
    key_marker = call.query.get("key-marker", "")
    version_marker = call.query.get("version-id-marker")
    within = None
    if version_marker is not None:
        if version_marker == "" or key_marker == "":
            raise arguments.invalid_argument(
                "A version-id marker cannot be specified without a key marker.",
                "version-id-marker",
                version_marker,
            )
        within = arguments.parse_version_id(version_marker)
    capability = await authorize(call, "s3:ListBucketVersions", arguments.bucket_name(call))
    arguments.check_expected_owner(call, capability.record)
    answer = await listing.list_versions(
        call.store, capability, listed.page(key_marker.encode()), after_version=within
    )
    entries = answer.versions()
    # Whoever goes on within a key has seen its latest version already.
    seen_key = key_marker.encode() if within is not None else None
    return xml_response(
        document(
            "ListVersionsResult",
            tag("Name", call.bucket),
            listed.text("Prefix", listed.prefix),
            listed.text("KeyMarker", key_marker),
            tag("VersionIdMarker", version_marker or ""),
            _next_version_markers(listed, entries) if answer.is_truncated else "",
            tag("MaxKeys", listed.limit),
            listed.echo(),
            flag("IsTruncated", answer.is_truncated),
            _versions(listed, entries, seen_key),
            listed.common_prefixes(entries),
        )
    )


def _next_version_markers(listed: _Arguments, entries: Sequence[_VersionEntry]) -> str:
    key, version = entries[-1]
    return listed.key("NextKeyMarker", key) + (
        "" if version is None else tag("NextVersionIdMarker", version.version_id)
    )


def _versions(
    listed: _Arguments, entries: Sequence[_VersionEntry], seen_key: bytes | None
) -> str:
    shown = []
    for key, version in entries:
        if version is None:
            continue
        name = "DeleteMarker" if version.is_delete_marker else "Version"
        head = "".join(
            (
                listed.key("Key", key),
                tag("VersionId", version.version_id),
                flag("IsLatest", key != seen_key),
            )
        )
        shown.append(element(name, head, _version(version)))
        seen_key = key
    return "".join(shown)


def _version(version: ListedVersion) -> str:
    modified = tag("LastModified", version.time)
    if version.is_delete_marker:
        return modified
    traits = unpack_traits(version.traits)
    return "".join(
        (
            modified,
            tag("ETag", quoted(version.etag)),
            tag("Size", version.size),
            owner_tag("Owner", traits.owner),
            tag("StorageClass", traits.storage_class),
        )
    )


# ---- uploads --------------------------------------------------------------------------


async def list_multipart_uploads(call: S3Call) -> Response:
    """ListMultipartUploads: by key, then by age."""
    listed = _Arguments.of(call, "max-uploads")
    key_marker = call.query.get("key-marker", "")
    # Without a key marker an upload marker says nothing: AWS ignores it.
    upload_marker = call.query.get("upload-id-marker", "") if key_marker else ""
    capability = await authorize(
        call, "s3:ListBucketMultipartUploads", arguments.bucket_name(call)
    )
    arguments.check_expected_owner(call, capability.record)
    answer = await listing.list_uploads(
        call.store,
        capability,
        listed.page(key_marker.encode()),
        after_upload=UploadId(upload_marker) if upload_marker else None,
    )
    return xml_response(
        document(
            "ListMultipartUploadsResult",
            tag("Bucket", call.bucket),
            listed.text("KeyMarker", key_marker),
            tag("UploadIdMarker", upload_marker),
            _next_upload_markers(listed, answer),
            listed.text("Prefix", listed.prefix),
            tag("MaxUploads", listed.limit),
            listed.echo(),
            flag("IsTruncated", answer.is_truncated),
            "".join(
                element("Upload", _upload(listed, upload))
                for _, upload in answer.entries
                if upload is not None
            ),
            listed.common_prefixes(answer.entries),
        )
    )


def _next_upload_markers(listed: _Arguments, answer: UploadsAnswer) -> str:
    if not answer.is_truncated:
        return ""
    key, upload = answer.entries[-1]
    return listed.key("NextKeyMarker", key) + tag(
        "NextUploadIdMarker", "" if upload is None else upload.upload
    )


def _upload(listed: _Arguments, upload: Upload) -> str:
    return "".join(
        (
            listed.key("Key", upload.key),
            tag("UploadId", upload.upload),
            owner_tag("Initiator", upload.initiator),
            owner_tag("Owner", upload.owner),
            tag("StorageClass", upload.storage_class),
            tag("Initiated", iso_time(upload.initiated_ms)),
            _upload_checksum(upload),
        )
    )


def _upload_checksum(upload: Upload) -> str:
    return tag_if("ChecksumAlgorithm", upload.checksum_algorithm) + tag_if(
        "ChecksumType", upload.checksum_kind
    )


# ---- parts ----------------------------------------------------------------------------


async def list_parts(call: S3Call) -> Response:
    """ListParts: of an upload in progress, by number."""
    upload_id = arguments.upload_id(call)
    limit = arguments.page_size(call, "max-parts")
    after = arguments.marker_number(
        call.query.get("part-number-marker"), "part-number-marker"
    )
    encoding = arguments.encoding_type(call)
    key = arguments.object_key(call)
    capability = await authorize(
        call, "s3:ListMultipartUploadParts", arguments.bucket_name(call), key
    )
    arguments.check_expected_owner(call, capability.record)
    answer = await listing.list_parts(
        call.store, capability, upload_id, after=after, limit=limit
    )
    upload = answer.upload
    if upload is None:
        raise S3Error("InternalError", "A list of parts came without its upload")
    last = answer.parts[-1].number if answer.parts else 0
    return xml_response(
        document(
            "ListPartsResult",
            tag("Bucket", call.bucket),
            tag("Key", key_text(key, encoding)),
            tag_if("EncodingType", encoding),
            tag("UploadId", upload_id),
            owner_tag("Initiator", upload.initiator),
            owner_tag("Owner", upload.owner),
            tag("StorageClass", upload.storage_class),
            tag("PartNumberMarker", after),
            tag("NextPartNumberMarker", last),
            tag("MaxParts", limit),
            flag("IsTruncated", answer.is_truncated),
            _upload_checksum(upload),
            *(element("Part", _part(part)) for part in answer.parts),
        )
    )


def _part(part: Part) -> str:
    return "".join(
        (
            tag("PartNumber", part.number),
            tag("LastModified", iso_time(part.time_ms)),
            tag("ETag", quoted(part.etag)),
            tag("Size", part.size),
            part_checksum_tag(part.checksum),
        )
    )
