"""DeleteObjects: each key is authorised, decided and answered for itself."""

import base64
import hashlib

import pytest

from tests.unit.objects.composition import BOB
from tests.unit.s3_operations.front import front_door

ETAG = hashlib.md5(b"x").hexdigest()


def items(*keys, quiet=False):
    listed = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
    return f"<Delete>{listed}<Quiet>{str(quiet).lower()}</Quiet></Delete>".encode()


async def delete(front, body, target="/photos?delete"):
    digest = base64.b64encode(hashlib.md5(body).digest()).decode()
    return await front.post(target, body, content_md5=digest)


async def test_keys_there_or_not_are_deleted():
    async with front_door() as front:
        for key in ("a", "b", "c"):
            await front.put(f"/photos/{key}", b"x")
        answer = await delete(front, items("a", "b", "absent"))
        assert answer.status == 200
        assert answer.texts("Deleted/Key") == ["a", "b", "absent"]
        assert (await front.get("/photos?list-type=2")).texts("Contents/Key") == ["c"]


async def test_quiet_answers_failures_only():
    async with front_door() as front:
        await front.put("/photos/a", b"x")
        answer = await delete(front, items("a", "k" * 1025, quiet=True))
        assert answer.texts("Deleted/Key") == []
        assert answer.texts("Error/Code") == ["KeyTooLongError"]


async def test_keys_have_conditions_of_their_own():
    async with front_door() as front:
        for key in ("a", "b"):
            await front.put(f"/photos/{key}", b"x")
        body = (
            f"<Delete><Object><Key>a</Key><ETag>{ETAG}</ETag></Object>"
            '<Object><Key>b</Key><ETag>"other"</ETag></Object>'
            "<Object><Key>c</Key><ETag>*</ETag></Object>"
            "<Object><Key>d</Key><Size>5</Size></Object>"
            "<Object><Key>e</Key><VersionId>null</VersionId></Object></Delete>"
        ).encode()
        answer = await delete(front, body)
        assert answer.texts("Deleted/Key") == ["a", "e"]
        assert answer.texts("Error/Key") == ["b", "c", "d"]
        assert answer.texts("Error/Code") == [
            "PreconditionFailed",
            "NoSuchKey",
            "NotImplemented",
        ]


async def test_key_is_taken_as_it_is_written_and_never_as_a_path():
    """CVE-2026-58372: `../other/x` is a key like any other."""
    async with front_door() as front:
        await front.put("/other")
        await front.put("/other/x", b"x")
        answer = await delete(front, items("../other/x", "/x", "&lt;&amp;"))
        assert answer.texts("Deleted/Key") == ["../other/x", "/x", "<&"]
        assert (await front.get("/other/x")).body == b"x"


async def test_strangers_delete_nothing():
    async with front_door() as front:
        await front.put("/photos/a", b"x")
        answer = await delete(front.by(BOB), items("a"))
        assert (answer.status, answer.code) == (403, "AccessDenied")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Delete/>",
        b"<Delete><Object/></Delete>",
        b"<Delete><Object><Key>a</Key></Object>",
        b"<Other><Object><Key>a</Key></Object></Other>",
        items(*["k"] * 1001),
    ],
)
async def test_bad_documents_are_malformed(body):
    async with front_door() as front:
        assert (await delete(front, body)).code == "MalformedXML"


async def test_body_without_a_digest_is_not_acted_upon():
    async with front_door() as front:
        await front.put("/photos/a", b"x")
        answer = await front.post("/photos?delete", items("a"))
        assert (answer.status, answer.code) == (400, "InvalidRequest")
        wrong = base64.b64encode(bytes(16)).decode()
        answer = await front.post("/photos?delete", items("a"), content_md5=wrong)
        assert answer.code == "BadDigest"
        assert (await front.get("/photos/a")).body == b"x"


async def test_a_thousand_keys_at_once():
    async with front_door() as front:
        keys = [f"k{number}" for number in range(1000)]
        for key in keys[:20]:
            await front.put(f"/photos/{key}", b"x")
        answer = await delete(front, items(*keys))
        assert answer.texts("Deleted/Key") == keys
