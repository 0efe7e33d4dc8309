"""PutObject, GetObject, HeadObject, DeleteObject, in S3's words."""

import base64
import hashlib

import pytest
from structlog.testing import capture_logs

from objstore.ids import FragmentId
from objstore.meta.payloads import unpack_draft
from objstore.units import KiB, MiB
from tests.unit.objects.composition import BOB, ROOT
from tests.unit.s3_operations.front import front_door

LARGE = hashlib.shake_128(b"large").digest(3 * MiB + 5)


def md5_base64(data):
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def sha256_base64(data):
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


@pytest.mark.parametrize("body", [b"", b"hello", LARGE])
async def test_what_was_put_comes_back_with_what_it_was_put_with(body):
    async with front_door() as front:
        answer = await front.put(
            "/photos/a/b%20c",
            body,
            content_type="image/png",
            cache_control="max-age=60",
            content_encoding="aws-chunked,gzip",
            content_disposition="inline",
            content_language="de",
            expires="Thu, 01 Dec 2994 16:00:00 GMT",
            x_amz_meta_colour="r\xf6t",
        )
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        assert (answer.status, answer.headers["etag"]) == (200, etag)
        assert "x-amz-checksum-crc64nvme" in answer.headers
        assert answer.headers["x-amz-checksum-type"] == "FULL_OBJECT"
        for send in (front.get, front.head):
            answer = await send("/photos/a/b%20c")
            assert answer.status == 200
            assert answer.headers["etag"] == etag
            assert answer.headers["content-type"] == "image/png"
            assert answer.headers["cache-control"] == "max-age=60"
            assert answer.headers["content-encoding"] == "gzip"
            assert answer.headers["content-disposition"] == "inline"
            assert answer.headers["content-language"] == "de"
            assert answer.headers["expires"] == "Thu, 01 Dec 2994 16:00:00 GMT"
            assert answer.headers["x-amz-meta-colour"] == "r\xf6t"
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["last-modified"].endswith("GMT")
            assert "x-amz-version-id" not in answer.headers
        assert answer.headers["content-length"] == str(len(body))
        assert (await front.get("/photos/a/b%20c")).body == body


async def test_content_type_is_what_aws_says_where_nobody_did():
    async with front_door() as front:
        await front.put("/photos/k", b"x")
        answer = await front.get("/photos/k")
        assert answer.headers["content-type"] == "binary/octet-stream"


async def test_keys_are_flat_and_opaque():
    async with front_door() as front:
        keys = ["a", "a/", "a/b", "a//b", "..", "a/../b", "%C3%A9", "a%2Fc%00", "+"]
        for key in keys:
            assert (await front.put(f"/photos/{key}", key.encode())).status == 200
        for key in keys:
            assert (await front.get(f"/photos/{key}")).body == key.encode()
        assert (await front.get("/photos/b")).code == "NoSuchKey"


async def test_key_of_1024_bytes_is_the_longest():
    async with front_door() as front:
        assert (await front.put("/photos/" + "k" * 1024, b"x")).status == 200
        assert (await front.put("/photos/" + "k" * 1025, b"x")).code == "KeyTooLongError"


@pytest.mark.parametrize("body", [b"hello", LARGE])
async def test_wrong_digests_are_refused_and_nothing_becomes_visible(body):
    async with front_door() as front:
        wrong = [
            ({"content-md5": md5_base64(b"x")}, "BadDigest"),
            ({"content-md5": "not base64!"}, "InvalidDigest"),
            ({"x-amz-checksum-sha256": sha256_base64(b"x")}, "BadDigest"),
            ({"x-amz-checksum-sha256": "AAAA"}, "InvalidRequest"),
            ({"x-amz-checksum-md5": md5_base64(body)}, "NotImplemented"),
        ]
        for headers, code in wrong:
            answer = await front.send("PUT", "/photos/k", body, headers)
            assert (answer.code, answer.status) == (
                code,
                501 if code == "NotImplemented" else 400,
            )
        assert (await front.head("/photos/k")).status == 404


async def test_checksum_that_was_sent_is_kept_and_shown_in_checksum_mode():
    async with front_door() as front:
        value = sha256_base64(b"hello")
        answer = await front.put("/photos/k", b"hello", x_amz_checksum_sha256=value)
        assert answer.headers["x-amz-checksum-sha256"] == value
        shown = await front.head("/photos/k", x_amz_checksum_mode="ENABLED")
        assert shown.headers["x-amz-checksum-sha256"] == value
        assert shown.headers["x-amz-checksum-type"] == "FULL_OBJECT"
        assert "x-amz-checksum-sha256" not in (await front.head("/photos/k")).headers
        part = await front.get(
            "/photos/k", x_amz_checksum_mode="ENABLED", range="bytes=0-1"
        )
        assert "x-amz-checksum-sha256" not in part.headers


# ---- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("x-amz-server-side-encryption", "AES256", "NotImplemented"),
        ("x-amz-server-side-encryption-customer-key", "AAAA", "NotImplemented"),
        ("x-amz-object-lock-mode", "GOVERNANCE", "NotImplemented"),
        ("x-amz-object-lock-legal-hold", "ON", "NotImplemented"),
        ("x-amz-tagging", "a=b", "NotImplemented"),
        ("x-amz-website-redirect-location", "/x", "NotImplemented"),
        ("x-amz-write-offset-bytes", "5", "NotImplemented"),
        ("x-amz-acl", "public-read", "AccessControlListNotSupported"),
        ("x-amz-acl", "nonsense", "InvalidArgument"),
        ("x-amz-grant-read", "id=x", "AccessControlListNotSupported"),
        ("x-amz-storage-class", "GLACIER", "InvalidStorageClass"),
        ("if-none-match", '"abc"', "NotImplemented"),
        ("if-modified-since", "Thu, 01 Dec 1994 16:00:00 GMT", "NotImplemented"),
        ("x-amz-meta-big", "x" * 2048, "MetadataTooLarge"),
        ("x-amz-expected-bucket-owner", "123456789012", "AccessDenied"),
        ("x-amz-sdk-checksum-algorithm", "CRC8", "InvalidRequest"),
    ],
)
async def test_what_is_not_done_is_refused_by_name(header, value, code):
    async with front_door() as front:
        answer = await front.send("PUT", "/photos/k", b"x", {header: value})
        assert answer.code == code
        if code == "NotImplemented":
            assert answer.text("Header").lower() == header
        assert (await front.head("/photos/k")).status == 404


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-amz-acl", "private"),
        ("x-amz-acl", "bucket-owner-full-control"),
        ("x-amz-storage-class", "STANDARD"),
        ("x-amz-tagging", ""),
        ("x-amz-request-payer", "requester"),
        ("x-amz-expected-bucket-owner", "a" * 64),
    ],
)
async def test_what_is_the_case_anyway_is_accepted(header, value):
    async with front_door() as front:
        answer = await front.send("PUT", "/photos/k", b"x", {header: value})
        assert answer.status == 200


# ---- conditions -----------------------------------------------------------------------


async def test_conditional_put():
    async with front_door() as front:
        first = await front.put("/photos/k", b"1", if_none_match="*")
        assert first.status == 200
        again = await front.put("/photos/k", b"2", if_none_match="*")
        assert (again.status, again.code) == (412, "PreconditionFailed")
        assert again.text("Condition") == "If-None-Match"
        swapped = await front.put("/photos/k", b"3", if_match=first.headers["etag"])
        assert swapped.status == 200
        late = await front.put("/photos/k", b"4", if_match=first.headers["etag"])
        assert (late.status, late.code) == (412, "PreconditionFailed")
        assert (await front.put("/photos/l", b"5", if_match='"x"')).code == "NoSuchKey"
        assert (await front.get("/photos/k")).body == b"3"


PAST, FUTURE = "Thu, 01 Dec 1994 16:00:00 GMT", "Thu, 01 Dec 2994 16:00:00 GMT"
ETAG = f'"{hashlib.md5(b"hello").hexdigest()}"'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": ETAG}, 200),
        ({"if-match": '"x"'}, 412),
        ({"if-none-match": ETAG}, 304),
        ({"if-none-match": '"x"'}, 200),
        ({"if-modified-since": PAST}, 200),
        ({"if-modified-since": FUTURE}, 304),
        ({"if-unmodified-since": PAST}, 412),
        ({"if-unmodified-since": FUTURE}, 200),
        # An etag says more than a date (RFC 9110, 13.2.2).
        ({"if-match": ETAG, "if-unmodified-since": PAST}, 200),
        ({"if-none-match": '"x"', "if-modified-since": FUTURE}, 200),
        ({"if-none-match": ETAG, "if-modified-since": PAST}, 304),
        ({"if-match": '"x"', "if-none-match": ETAG}, 412),
    ],
)
async def test_conditions_of_reads(headers, status):
    async with front_door() as front:
        await front.put("/photos/k", b"hello")
        for method in ("GET", "HEAD"):
            answer = await front.send(method, "/photos/k", b"", headers)
            assert answer.status == status
            if status == 304:
                assert (answer.headers["etag"], answer.body) == (ETAG, b"")


# ---- ranges ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "offset", "size"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=2-", 2, None),
        ("bytes=-5", -5, None),
        (f"bytes={MiB - 1}-{MiB + 1}", MiB - 1, 3),
        (f"bytes={2 * MiB - 1}-{10 * MiB}", 2 * MiB - 1, None),
    ],
)
async def test_range_is_those_bytes(asked, offset, size):
    async with front_door() as front:
        await front.put("/photos/k", LARGE)
        offset %= len(LARGE)
        size = len(LARGE) - offset if size is None else size
        for send in (front.get, front.head):
            answer = await send("/photos/k", range=asked)
            assert answer.status == 206
            assert answer.headers["content-range"] == (
                f"bytes {offset}-{offset + size - 1}/{len(LARGE)}"
            )
        assert answer.headers["content-length"] == str(size)
        answer = await front.get("/photos/k", range=asked)
        assert answer.body == LARGE[offset : offset + size]


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "bytes=5-2", "bytes=x-", "lines=0-1"])
async def test_range_that_says_nothing_is_ignored(asked):
    async with front_door() as front:
        await front.put("/photos/k", b"hello")
        answer = await front.get("/photos/k", range=asked)
        assert (answer.status, answer.body) == (200, b"hello")


async def test_range_beyond_the_end_is_invalid():
    async with front_door() as front:
        await front.put("/photos/k", b"hello")
        answer = await front.get("/photos/k", range="bytes=5-9")
        assert (answer.status, answer.code) == (416, "InvalidRange")
        assert answer.headers["content-range"] == "bytes */5"
        assert answer.text("ActualObjectSize") == "5"
        await front.put("/photos/empty", b"")
        assert (await front.get("/photos/empty", range="bytes=0-")).status == 416


async def test_if_range_of_another_version_gets_it_whole():
    async with front_door() as front:
        await front.put("/photos/k", b"hello")
        old = await front.get("/photos/k", range="bytes=0-1", if_range='"old"')
        assert (old.status, old.body) == (200, b"hello")
        same = await front.get("/photos/k", range="bytes=0-1", if_range=ETAG)
        assert (same.status, same.body) == (206, b"he")


async def test_part_number_and_range_exclude_each_other():
    async with front_door() as front:
        await front.put("/photos/k", b"hello")
        both = await front.get("/photos/k?partNumber=1", range="bytes=0-1")
        assert both.code == "InvalidRequest"
        one = await front.get("/photos/k?partNumber=1")
        assert (one.status, one.body) == (206, b"hello")
        assert "x-amz-mp-parts-count" not in one.headers
        two = await front.get("/photos/k?partNumber=2")
        assert (two.status, two.code) == (416, "InvalidPartNumber")
        assert (await front.get("/photos/k?partNumber=0")).code == "InvalidArgument"


async def test_answer_headers_can_be_overridden():
    async with front_door() as front:
        await front.put("/photos/k", b"hello", content_type="text/plain")
        answer = await front.get(
            "/photos/k?response-content-type=text/html&response-expires=never"
            "&response-content-disposition=attachment%3B%20filename%3Dx"
        )
        assert answer.headers["content-type"] == "text/html"
        assert answer.headers["expires"] == "never"
        assert answer.headers["content-disposition"] == "attachment; filename=x"
        split = await front.get("/photos/k?response-content-type=a%0d%0aX-Y:%20z")
        assert split.code == "InvalidArgument"


# ---- deletion -------------------------------------------------------------------------


async def test_delete_answers_204_whether_it_was_there_or_not():
    async with front_door() as front:
        await front.put("/photos/k", b"hello")
        for _ in range(2):
            answer = await front.delete("/photos/k")
            assert (answer.status, answer.body) == (204, b"")
        assert (await front.get("/photos/k")).code == "NoSuchKey"


async def test_conditional_delete():
    async with front_door() as front:
        await front.put("/photos/k", b"hello")
        assert (await front.delete("/photos/k", if_match='"x"')).status == 412
        assert (await front.delete("/photos/k", if_match=ETAG)).status == 204
        assert (await front.delete("/photos/k", if_match="*")).status == 404
        await front.put("/photos/k", b"hello")
        assert (await front.delete("/photos/k", if_match="*")).status == 204


async def test_null_is_the_version_of_an_unversioned_object():
    async with front_door() as front:
        await front.put("/photos/k", b"hello")
        assert (await front.get("/photos/k?versionId=null")).body == b"hello"
        assert (await front.get("/photos/k?versionId=")).code == "InvalidArgument"
        assert (await front.get("/photos/k?versionId=zzz")).code == "InvalidArgument"
        unknown = await front.get("/photos/k?versionId=" + "0" * 32)
        assert (unknown.status, unknown.code) == (404, "NoSuchVersion")
        assert (await front.delete("/photos/k?versionId=null")).status == 204
        assert (await front.get("/photos/k")).code == "NoSuchKey"


# ---- who may --------------------------------------------------------------------------


async def test_stranger_learns_nothing_not_even_whether_a_key_exists():
    async with front_door() as front:
        await front.put("/photos/k", b"hello")
        stranger = front.by(BOB)
        for key in ("k", "absent"):
            for method in ("GET", "HEAD", "PUT", "DELETE"):
                headers = {"if-match": '"x"'} if method in {"GET", "HEAD"} else {}
                answer = await stranger.send(method, f"/photos/{key}", b"", headers)
                assert answer.status == 403
        assert (await front.by(None).get("/photos/k")).code == "AccessDenied"
        assert (await front.by(ROOT).get("/photos/k")).body == b"hello"
        assert (await stranger.get("/absent/k")).code == "NoSuchBucket"


async def test_damaged_object_is_an_error_before_its_first_byte(autojump_clock):
    async with front_door() as front:
        await front.put("/photos/k", LARGE[: 64 * KiB])
        draft = unpack_draft(front.composition.meta.proposed[-1].draft)
        (ref,) = draft.location.chunks  # type: ignore[union-attr]
        await front.composition.chunks.delete([FragmentId(ref.chunk, 0)])
        with capture_logs() as logs:
            answer = await front.get("/photos/k")
        assert answer.status >= 500
        assert any(line["event"] == "s3.request_done" for line in logs)
