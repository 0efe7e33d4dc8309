"""Multipart uploads from creation to completion, and what may go wrong between."""

import base64
import hashlib
import zlib

import pytest

from objstore.meta.queries import ReadSpans
from objstore.units import MiB
from tests.unit.objects.composition import BOB
from tests.unit.s3_operations.front import front_door

FIRST = hashlib.shake_128(b"first").digest(5 * MiB)
SECOND = hashlib.shake_128(b"second").digest(5 * MiB + 1)
LAST = b"the end"


async def create(front, target="/photos/k", **headers):
    answer = await front.post(f"{target}?uploads", **headers)
    assert answer.status == 200
    return answer.text("UploadId")


async def upload(front, upload_id, number, body, target="/photos/k", **headers):
    answer = await front.put(
        f"{target}?partNumber={number}&uploadId={upload_id}", body, **headers
    )
    assert answer.status == 200, answer.body
    return answer.headers["etag"]


def listed(parts, **checksums):
    items = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag>"
        + "".join(f"<{n}>{v}</{n}>" for n, v in checksums.get(f"p{number}", {}).items())
        + "</Part>"
        for number, etag in parts
    )
    return (
        '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{items}</CompleteMultipartUpload>"
    ).encode()


async def complete(front, upload_id, body, target="/photos/k", **headers):
    return await front.post(f"{target}?uploadId={upload_id}", body, **headers)


def multipart_etag(*parts):
    joined = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(joined).hexdigest()}-{len(parts)}"'


async def test_upload_in_parts_of_any_order_is_one_object():
    async with front_door() as front:
        upload_id = await create(front, content_type="text/plain", x_amz_meta_colour="red")
        etags = {}
        for number, body in ((7, LAST), (2, b"not this"), (2, SECOND), (1, FIRST)):
            etags[number] = await upload(front, upload_id, number, body)
        assert (await front.head("/photos/k")).status == 404
        done = await complete(front, upload_id, listed(sorted(etags.items())))
        assert done.status == 200
        assert done.text("ETag") == multipart_etag(FIRST, SECOND, LAST)
        assert done.text("Location") == "http://127.0.0.1:9000/photos/k"
        assert (done.text("Bucket"), done.text("Key")) == ("photos", "k")
        whole = await front.get("/photos/k")
        assert whole.body == FIRST + SECOND + LAST
        assert whole.headers["content-type"] == "text/plain"
        assert whole.headers["x-amz-meta-colour"] == "red"
        middle = await front.get("/photos/k", range=f"bytes={5 * MiB - 2}-{5 * MiB + 1}")
        assert middle.body == FIRST[-2:] + SECOND[:2]


async def test_part_of_an_object_can_be_read_by_its_number():
    async with front_door() as front:
        upload_id = await create(front)
        etags = [
            (number, await upload(front, upload_id, number, body))
            for number, body in ((1, FIRST), (2, LAST))
        ]
        await complete(front, upload_id, listed(etags))
        for send in (front.get, front.head):
            part = await send("/photos/k?partNumber=2")
            assert part.status == 206
            assert part.headers["x-amz-mp-parts-count"] == "2"
            size = len(FIRST) + len(LAST)
            assert part.headers["content-range"] == (
                f"bytes {len(FIRST)}-{size - 1}/{size}"
            )
        assert (await front.get("/photos/k?partNumber=2")).body == LAST
        assert (await front.get("/photos/k?partNumber=3")).code == "InvalidPartNumber"


async def test_completion_repeated_answers_the_same_until_overwritten():
    async with front_door() as front:
        upload_id = await create(front)
        body = listed([(1, await upload(front, upload_id, 1, LAST))])
        first = await complete(front, upload_id, body)
        again = await complete(front, upload_id, body)
        assert (again.status, again.text("ETag")) == (200, first.text("ETag"))
        await front.put("/photos/k", b"new")
        late = await complete(front, upload_id, body)
        assert (late.status, late.code) == (404, "NoSuchUpload")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "MalformedXML"),
        (b"<CompleteMultipartUpload/>", "MalformedXML"),
        (b"<CompleteMultipartUpload><Part/></CompleteMultipartUpload>", "MalformedXML"),
        (b"<!DOCTYPE x><CompleteMultipartUpload/>", "MalformedXML"),
        (listed([(1, "0" * 32)]), "InvalidPart"),
        (listed([(3, "0" * 32)]), "InvalidPart"),
        (listed([(2, "0" * 32), (1, "0" * 32)]), "InvalidPartOrder"),
        (listed([(1, "0" * 32), (1, "0" * 32)]), "InvalidPartOrder"),
        (listed([(0, "0" * 32)]), "InvalidArgument"),
        (listed([(10_001, "0" * 32)]), "InvalidArgument"),
    ],
)
async def test_bad_lists_of_parts_are_refused_and_the_upload_stays(body, code):
    async with front_door() as front:
        upload_id = await create(front)
        etag = await upload(front, upload_id, 1, LAST)
        answer = await complete(front, upload_id, body)
        assert (answer.status, answer.code) == (400, code)
        done = await complete(front, upload_id, listed([(1, etag)]))
        assert done.status == 200


async def test_small_part_before_the_last_is_too_small():
    async with front_door() as front:
        upload_id = await create(front)
        etags = [(n, await upload(front, upload_id, n, LAST)) for n in (1, 2)]
        answer = await complete(front, upload_id, listed(etags))
        assert (answer.status, answer.code) == (400, "EntityTooSmall")


async def test_conditional_completion():
    async with front_door() as front:
        upload_id = await create(front)
        body = listed([(1, await upload(front, upload_id, 1, LAST))])
        await front.put("/photos/k", b"first")
        late = await complete(front, upload_id, body, if_none_match="*")
        assert (late.status, late.code) == (412, "PreconditionFailed")
        etag = (await front.head("/photos/k")).headers["etag"]
        done = await complete(front, upload_id, body, if_match=etag)
        assert done.status == 200


async def test_aborted_upload_is_gone_with_its_parts():
    async with front_door() as front:
        upload_id = await create(front)
        etag = await upload(front, upload_id, 1, LAST)
        target = f"/photos/k?uploadId={upload_id}"
        assert (await front.delete(target)).status == 204
        assert (await front.delete(target)).code == "NoSuchUpload"
        assert (await front.get(target)).code == "NoSuchUpload"
        part = await front.put(f"/photos/k?partNumber=1&uploadId={upload_id}", b"x")
        assert part.code == "NoSuchUpload"
        answer = await complete(front, upload_id, listed([(1, etag)]))
        assert answer.code == "NoSuchUpload"
        assert (await front.delete("/photos")).status == 204


@pytest.mark.parametrize("upload_id", ["", "x", "0" * 32, "../../x"])
async def test_upload_that_never_was(upload_id):
    async with front_door() as front:
        answer = await front.put(f"/photos/k?partNumber=1&uploadId={upload_id}", b"x")
        assert (answer.status, answer.code) == (404, "NoSuchUpload")


async def test_upload_of_another_key_is_no_upload_of_this_one():
    async with front_door() as front:
        upload_id = await create(front)
        other = f"/photos/other?partNumber=1&uploadId={upload_id}"
        assert (await front.put(other, b"x")).code == "NoSuchUpload"
        stranger = front.by(BOB)
        same = f"/photos/k?partNumber=1&uploadId={upload_id}"
        assert (await stranger.put(same, b"x")).code == "AccessDenied"


@pytest.mark.parametrize("number", ["0", "10001", "x", "-1", ""])
async def test_part_numbers_are_1_to_10000(number):
    async with front_door() as front:
        upload_id = await create(front)
        answer = await front.put(
            f"/photos/k?partNumber={number}&uploadId={upload_id}", b"x"
        )
        assert answer.code == "InvalidArgument"


async def test_parts_are_listed_in_pages():
    async with front_door() as front:
        upload_id = await create(front)
        for number in (1, 3, 10_000):
            await upload(front, upload_id, number, b"%d" % number)
        target = f"/photos/k?uploadId={upload_id}"
        first = await front.get(f"{target}&max-parts=2")
        assert first.texts("Part/PartNumber") == ["1", "3"]
        assert first.text("IsTruncated") == "true"
        assert first.text("NextPartNumberMarker") == "3"
        assert first.text("Part/Size") == "1"
        assert first.text("Initiator/ID") == first.text("Owner/ID") == "a" * 64
        rest = await front.get(f"{target}&max-parts=2&part-number-marker=3")
        assert rest.texts("Part/PartNumber") == ["10000"]
        assert rest.text("IsTruncated") == "false"


# ---- checksums ------------------------------------------------------------------------


def base64_of(data):
    return base64.b64encode(data).decode()


def crc32(data):
    return zlib.crc32(data).to_bytes(4, "big")


async def test_composite_checksum_is_of_the_parts_checksums():
    async with front_door() as front:
        upload_id = await create(front, x_amz_checksum_algorithm="SHA256")
        digests = {n: hashlib.sha256(b).digest() for n, b in ((1, FIRST), (2, LAST))}
        etags = []
        for number, body in ((1, FIRST), (2, LAST)):
            value = base64_of(digests[number])
            answer = await front.put(
                f"/photos/k?partNumber={number}&uploadId={upload_id}",
                body,
                x_amz_checksum_sha256=value,
            )
            assert answer.headers["x-amz-checksum-sha256"] == value
            etags.append((number, answer.headers["etag"]))
        shown = await front.get(f"/photos/k?uploadId={upload_id}")
        assert shown.text("ChecksumAlgorithm") == "SHA256"
        assert shown.text("Part/ChecksumSHA256") == base64_of(digests[1])
        parts = {f"p{n}": {"ChecksumSHA256": base64_of(d)} for n, d in digests.items()}
        done = await complete(front, upload_id, listed(etags, **parts))
        whole = base64_of(hashlib.sha256(digests[1] + digests[2]).digest())
        assert done.text("ChecksumSHA256") == f"{whole}-2"
        assert done.text("ChecksumType") == "COMPOSITE"
        head = await front.head("/photos/k", x_amz_checksum_mode="ENABLED")
        assert head.headers["x-amz-checksum-sha256"] == f"{whole}-2"
        assert head.headers["x-amz-checksum-type"] == "COMPOSITE"


async def test_full_object_checksum_is_combined_and_compared():
    async with front_door() as front:
        upload_id = await create(
            front, x_amz_checksum_algorithm="CRC32", x_amz_checksum_type="FULL_OBJECT"
        )
        etags = [
            (n, await upload(front, upload_id, n, b)) for n, b in ((1, FIRST), (2, LAST))
        ]
        whole = base64_of(crc32(FIRST + LAST))
        wrong = await complete(
            front, upload_id, listed(etags), x_amz_checksum_crc32=base64_of(crc32(b"x"))
        )
        assert wrong.code == "BadDigest"
        other = await complete(
            front, upload_id, listed(etags), x_amz_checksum_type="COMPOSITE"
        )
        assert other.code == "InvalidRequest"
        done = await complete(
            front,
            upload_id,
            listed(etags),
            x_amz_checksum_crc32=whole,
            x_amz_checksum_type="FULL_OBJECT",
            x_amz_mp_object_size=str(len(FIRST + LAST)),
        )
        assert done.status == 200, done.body
        assert done.text("ChecksumCRC32") == whole
        assert done.text("ChecksumType") == "FULL_OBJECT"


async def test_wrong_object_size_is_refused():
    async with front_door() as front:
        upload_id = await create(front)
        body = listed([(1, await upload(front, upload_id, 1, LAST))])
        answer = await complete(front, upload_id, body, x_amz_mp_object_size="1")
        assert (answer.status, answer.code) == (400, "InvalidRequest")
        answer = await complete(front, upload_id, body, x_amz_mp_object_size="x")
        assert answer.code == "InvalidRequest"


async def test_upload_that_asks_for_none_keeps_crc64nvme_of_the_whole():
    async with front_door() as front:
        upload_id = await create(front)
        answer = await front.put(
            f"/photos/k?partNumber=1&uploadId={upload_id}",
            LAST,
            x_amz_checksum_crc32=base64_of(crc32(LAST)),
        )
        checksums = {"p1": {"ChecksumCRC32": base64_of(crc32(LAST))}}
        body = listed([(1, answer.headers["etag"])], **checksums)
        done = await complete(front, upload_id, body)
        assert done.status == 200
        head = await front.head("/photos/k", x_amz_checksum_mode="ENABLED")
        assert head.headers["x-amz-checksum-type"] == "FULL_OBJECT"
        assert "x-amz-checksum-crc64nvme" in head.headers


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-checksum-algorithm": "CRC8"}, "InvalidRequest"),
        ({"x-amz-checksum-type": "COMPOSITE"}, "InvalidRequest"),
        (
            {"x-amz-checksum-algorithm": "SHA256", "x-amz-checksum-type": "FULL_OBJECT"},
            "InvalidRequest",
        ),
        (
            {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "COMPOSITE"},
            "InvalidRequest",
        ),
        ({"x-amz-server-side-encryption": "aws:kms"}, "NotImplemented"),
    ],
)
async def test_what_an_upload_cannot_have(headers, code):
    async with front_door() as front:
        answer = await front.send("POST", "/photos/k?uploads", b"", headers)
        assert answer.code == code


async def test_part_with_another_checksum_than_the_uploads_is_refused():
    async with front_door() as front:
        upload_id = await create(front, x_amz_checksum_algorithm="SHA256")
        answer = await front.put(
            f"/photos/k?partNumber=1&uploadId={upload_id}",
            LAST,
            x_amz_checksum_crc32=base64_of(crc32(LAST)),
        )
        assert answer.code == "InvalidRequest"


# ---- attributes -----------------------------------------------------------------------


async def test_attributes_of_an_object_in_parts():
    async with front_door() as front:
        upload_id = await create(front, x_amz_checksum_algorithm="CRC32")
        etags = [
            (n, await upload(front, upload_id, n, b)) for n, b in ((1, FIRST), (2, LAST))
        ]
        await complete(front, upload_id, listed(etags))
        answer = await front.get(
            "/photos/k?attributes",
            x_amz_object_attributes="ETag,Checksum,ObjectParts,StorageClass,ObjectSize",
        )
        assert answer.status == 200
        assert answer.root.tag == "GetObjectAttributesResponse"
        assert answer.text("ETag") == multipart_etag(FIRST, LAST).strip('"')
        assert answer.text("ObjectSize") == str(len(FIRST + LAST))
        assert answer.text("StorageClass") == "STANDARD"
        assert answer.text("Checksum/ChecksumType") == "COMPOSITE"
        assert answer.text("ObjectParts/PartsCount") == "2"
        assert answer.texts("ObjectParts/Part/Size") == [str(len(FIRST)), str(len(LAST))]
        assert "last-modified" in answer.headers
        page = await front.get(
            "/photos/k?attributes",
            x_amz_object_attributes="ObjectParts",
            x_amz_max_parts="1",
            x_amz_part_number_marker="1",
        )
        assert page.texts("ObjectParts/Part/PartNumber") == ["2"]
        assert page.text("ETag") is None


async def test_attributes_must_be_named_and_known():
    async with front_door() as front:
        await front.put("/photos/k", b"x")
        for headers in ({}, {"x_amz_object_attributes": "ETag,Colour"}):
            answer = await front.get("/photos/k?attributes", **headers)
            assert answer.code in {"InvalidArgument", "InvalidRequest"}
        plain = await front.get(
            "/photos/k?attributes", x_amz_object_attributes="ObjectParts"
        )
        assert plain.texts("ObjectParts") == []


async def test_object_in_parts_that_is_overwritten_under_a_get_is_read_anew_f41():
    async with front_door() as front:
        upload_id = await create(front)
        body = listed([(1, await upload(front, upload_id, 1, LAST))])
        await complete(front, upload_id, body)
        meta = front.composition.meta

        async def overwrite(query):
            if isinstance(query, ReadSpans):
                meta.before_query = None
                assert (await front.put("/photos/k", b"new")).status == 200

        for target in ("/photos/k", "/photos/k?partNumber=1"):
            meta.before_query = overwrite
            answer = await front.get(target)
            assert answer.body == b"new"
            assert answer.headers["etag"] == f'"{hashlib.md5(b"new").hexdigest()}"'
