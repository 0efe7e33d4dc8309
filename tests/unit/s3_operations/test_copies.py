"""CopyObject and UploadPartCopy: what is copied, on which condition, by whom."""

import hashlib

import pytest

from objstore.units import MiB
from tests.unit.objects.composition import BOB, ROOT
from tests.unit.s3_operations.front import front_door
from tests.unit.s3_operations.test_multipart import complete, create, listed

LARGE = hashlib.shake_128(b"large").digest(5 * MiB + 1)
ETAG = f'"{hashlib.md5(b"hello").hexdigest()}"'
PAST, FUTURE = "Thu, 01 Dec 1994 16:00:00 GMT", "Thu, 01 Dec 2994 16:00:00 GMT"


async def source(front, body=b"hello"):
    await front.put("/photos/a%20b", body, content_type="text/x", x_amz_meta_colour="red")
    return "/photos/a%20b"


@pytest.mark.parametrize("body", [b"", b"hello", LARGE])
async def test_copy_keeps_bytes_and_metadata(body):
    async with front_door() as front:
        answer = await front.put(
            "/photos/copy", x_amz_copy_source=await source(front, body)
        )
        assert answer.status == 200
        assert answer.root.tag == "CopyObjectResult"
        assert answer.text("ETag") == f'"{hashlib.md5(body).hexdigest()}"'
        assert answer.text("LastModified").endswith("Z")
        copied = await front.get("/photos/copy")
        assert copied.body == body
        assert copied.headers["content-type"] == "text/x"
        assert copied.headers["x-amz-meta-colour"] == "red"


async def test_directive_says_whose_metadata_the_copy_has():
    async with front_door() as front:
        named = await source(front)
        await front.put(
            "/photos/copy",
            x_amz_copy_source=named,
            x_amz_metadata_directive="REPLACE",
            x_amz_meta_size="big",
        )
        copied = await front.head("/photos/copy")
        assert copied.headers["x-amz-meta-size"] == "big"
        assert "x-amz-meta-colour" not in copied.headers
        assert copied.headers["content-type"] == "binary/octet-stream"
        await front.put("/photos/kept", x_amz_copy_source=named, x_amz_meta_size="big")
        assert "x-amz-meta-size" not in (await front.head("/photos/kept")).headers
        odd = await front.put(
            "/photos/x", x_amz_copy_source=named, x_amz_metadata_directive="MERGE"
        )
        assert odd.code == "InvalidArgument"


async def test_copy_onto_itself_must_change_something():
    async with front_door() as front:
        named = await source(front)
        answer = await front.put(named, x_amz_copy_source=named)
        assert (answer.status, answer.code) == (400, "InvalidRequest")
        answer = await front.put(
            named, x_amz_copy_source=named, x_amz_metadata_directive="REPLACE"
        )
        assert answer.status == 200
        assert (await front.get(named)).body == b"hello"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": ETAG}, 200),
        ({"if-match": '"x"'}, 412),
        ({"if-none-match": ETAG}, 412),
        ({"if-none-match": '"x"'}, 200),
        ({"if-modified-since": FUTURE}, 412),
        ({"if-unmodified-since": PAST}, 412),
        ({"if-match": ETAG, "if-unmodified-since": PAST}, 200),
        ({"if-none-match": ETAG, "if-modified-since": PAST}, 412),
    ],
)
async def test_conditions_on_the_source(headers, status):
    async with front_door() as front:
        named = {f"x-amz-copy-source-{name}": value for name, value in headers.items()}
        named["x-amz-copy-source"] = await source(front)
        answer = await front.send("PUT", "/photos/copy", b"", named)
        assert answer.status == status


async def test_conditions_on_the_target():
    async with front_door() as front:
        named = await source(front)
        assert (
            await front.put("/photos/copy", x_amz_copy_source=named, if_none_match="*")
        ).status == 200
        again = await front.put("/photos/copy", x_amz_copy_source=named, if_none_match="*")
        assert (again.status, again.code) == (412, "PreconditionFailed")


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ("/photos/absent", "NoSuchKey"),
        ("/absent/k", "NoSuchBucket"),
        ("photos", "InvalidArgument"),
        ("", "InvalidArgument"),
        ("/", "InvalidArgument"),
        ("/photos/k?versionId=zzz", "InvalidArgument"),
        ("/photos/k?other=1", "InvalidArgument"),
        ("/photos/%ff", "InvalidArgument"),
    ],
)
async def test_bad_sources_are_refused(named, code):
    async with front_door() as front:
        answer = await front.put("/photos/copy", x_amz_copy_source=named)
        assert answer.code == code
        if code == "NoSuchKey":
            assert answer.text("Key") == "absent"  # The source; Resource is the target.
        if code == "NoSuchBucket":
            assert answer.text("BucketName") == "absent"


async def test_source_is_authorised_as_a_read_of_its_own():
    """CVE-2026-97731, CVE-2026-39360: the source is a resource like the target."""
    async with front_door() as front:
        named = await source(front)
        stranger = front.by(BOB)
        await stranger.put("/bobs")
        answer = await stranger.put("/bobs/copy", x_amz_copy_source=named)
        assert (answer.status, answer.code) == (403, "AccessDenied")
        absent = await stranger.put("/bobs/copy", x_amz_copy_source="/photos/absent")
        assert absent.code == "AccessDenied"
        upload_id = await create(stranger, "/bobs/copy")
        part = await stranger.put(
            f"/bobs/copy?partNumber=1&uploadId={upload_id}", x_amz_copy_source=named
        )
        assert part.code == "AccessDenied"
        assert (await stranger.head("/bobs/copy")).status == 404
        answer = await front.by(ROOT).put("/bobs/copy", x_amz_copy_source=named)
        assert answer.status == 200


async def test_parts_can_be_copied_with_ranges():
    async with front_door() as front:
        named = await source(front, LARGE)
        upload_id = await create(front)
        etags = []
        for number, copied in ((1, None), (2, "bytes=10-19")):
            headers = {} if copied is None else {"x_amz_copy_source_range": copied}
            answer = await front.put(
                f"/photos/k?partNumber={number}&uploadId={upload_id}",
                x_amz_copy_source=named,
                **headers,
            )
            assert answer.root.tag == "CopyPartResult"
            etags.append((number, answer.text("ETag")))
        assert (await complete(front, upload_id, listed(etags))).status == 200
        assert (await front.get("/photos/k")).body == LARGE + LARGE[10:20]
        again = await front.put("/photos/again", x_amz_copy_source="/photos/k")
        assert again.status == 200
        whole = LARGE + LARGE[10:20]
        assert again.text("ETag") == f'"{hashlib.md5(whole).hexdigest()}"'


@pytest.mark.parametrize(
    "copied", ["bytes=0-5", "bytes=3-2", "bytes=1-", "bytes=-1", "0-1", "bytes=0-1,2-3"]
)
async def test_bad_ranges_of_a_source_are_refused(copied):
    async with front_door() as front:
        named = await source(front)
        upload_id = await create(front)
        answer = await front.put(
            f"/photos/k?partNumber=1&uploadId={upload_id}",
            x_amz_copy_source=named,
            x_amz_copy_source_range=copied,
        )
        assert (answer.status, answer.code) == (400, "InvalidArgument")
