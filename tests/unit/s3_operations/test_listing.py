"""Lists of objects, versions and uploads: what a page shows and where it ends."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.meta.listing import roll_up
from objstore.s3.operations.tokens import (
    InvalidContinuation,
    decode_token,
    encode_token,
)
from tests.unit.s3_operations.front import front_door

KEYS = ["a", "a/", "a/1", "a/2", "b/x/1", "b/x/2", "b/y", "c d+e", "z", "\N{SNOWMAN}"]


async def fill(front, keys=KEYS):
    for key in keys:
        assert (await front.put(f"/photos/{quote(key)}", b"x")).status == 200


def shown(keys, *, prefix="", delimiter="", after=""):
    """The entries of a whole list, by definition: sorted by bytes."""
    entries = {}
    for key in keys:
        if not key.startswith(prefix):
            continue
        group = roll_up(key.encode(), prefix.encode(), delimiter.encode())
        entries[group if group is not None else key.encode()] = group is not None
    return [e for e in sorted(entries.items()) if e[0] > after.encode()]


def entries(answer):
    keys = [(unquote(k).encode(), False) for k in answer.texts("Contents/Key")]
    prefixes = [(unquote(p).encode(), True) for p in answer.texts("CommonPrefixes/Prefix")]
    return sorted(keys + prefixes)


async def pages_v2(front, size, **query):
    found = []
    token = None
    while True:
        asked = {"list-type": "2", "max-keys": str(size), "encoding-type": "url", **query}
        if token is not None:
            asked["continuation-token"] = token
        target = "&".join(f"{k}={quote(v, safe='')}" for k, v in asked.items())
        answer = await front.get(f"/photos?{target}")
        assert answer.status == 200
        page = entries(answer)
        assert int(answer.text("KeyCount")) == len(page) <= size
        found += page
        token = answer.text("NextContinuationToken")
        assert (answer.text("IsTruncated") == "true") == (token is not None)
        if token is None:
            return found
        assert len(page) == size  # A page that is not the last is full.


async def pages_v1(front, size, **query):
    found = []
    marker = ""
    while True:
        asked = {"max-keys": str(size), "encoding-type": "url", "marker": marker, **query}
        target = "&".join(f"{k}={quote(v, safe='')}" for k, v in asked.items())
        answer = await front.get(f"/photos?{target}")
        found += entries(answer)
        if answer.text("IsTruncated") == "false":
            assert answer.text("NextMarker") is None
            return found
        following = answer.text("NextMarker")
        if query.get("delimiter"):
            marker = unquote(following)
        else:
            assert following is None
            marker = unquote(answer.texts("Contents/Key")[-1])


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    "query",
    [
        {},
        {"prefix": "a"},
        {"prefix": "a/"},
        {"delimiter": "/"},
        {"delimiter": "/", "prefix": "b/"},
        {"delimiter": "x/"},
        {"delimiter": "nowhere"},
    ],
)
async def test_pages_add_up_to_the_whole_list(size, query):
    async with front_door() as front:
        await fill(front)
        expected = shown(KEYS, **query)
        assert await pages_v2(front, size, **query) == expected
        assert await pages_v1(front, size, **query) == expected


async def test_what_a_page_says_of_an_object():
    async with front_door() as front:
        await front.put("/photos/a%26b", b"hello")
        page = await front.get("/photos?list-type=2")
        (content,) = page.root.findall("Contents")
        assert content.findtext("Key") == "a&b"
        assert content.findtext("Size") == "5"
        assert content.findtext("ETag") == '"5d41402abc4b2a76b9719d911017c592"'
        assert content.findtext("StorageClass") == "STANDARD"
        assert content.findtext("LastModified").endswith("Z")
        assert content.find("Owner") is None
        owned = await front.get("/photos?list-type=2&fetch-owner=true")
        assert owned.text("Contents/Owner/ID") == "a" * 64
        assert (await front.get("/photos")).text("Contents/Owner/ID") == "a" * 64


async def test_arguments_are_repeated_encoded_where_asked():
    async with front_door() as front:
        answer = await front.get(
            "/photos?list-type=2&prefix=a%20%2B&delimiter=%26&start-after=a%20&max-keys=7"
            "&encoding-type=url"
        )
        assert answer.text("Prefix") == "a%20%2B"
        assert answer.text("Delimiter") == "%26"
        assert answer.text("StartAfter") == "a%20"
        assert answer.text("MaxKeys") == "7"
        assert answer.text("EncodingType") == "url"
        assert answer.text("Name") == "photos"


async def test_start_after_need_not_exist():
    async with front_door() as front:
        await fill(front)
        answer = await front.get("/photos?list-type=2&start-after=b&encoding-type=url")
        assert entries(answer) == shown(KEYS, after="b")


async def test_bounds_of_a_page():
    async with front_door() as front:
        await fill(front)
        none = await front.get("/photos?list-type=2&max-keys=0")
        assert (none.text("KeyCount"), none.text("IsTruncated")) == ("0", "false")
        more = await front.get("/photos?list-type=2&max-keys=5000")
        assert more.text("MaxKeys") == "1000"
        exact = await front.get(f"/photos?list-type=2&max-keys={len(KEYS)}")
        assert exact.text("IsTruncated") == "false"
        for query in ("max-keys=-1", "max-keys=x", "max-keys=99999999999",
                      "encoding-type=base64"):  # fmt: skip
            assert (await front.get(f"/photos?list-type=2&{query}")).code == (
                "InvalidArgument"
            )


async def test_made_up_tokens_are_refused():
    async with front_door() as front:
        await fill(front)
        page = await front.get("/photos?list-type=2&max-keys=1")
        token = page.text("NextContinuationToken")
        for wrong in ("", "x", token[:-4], "B" + token[1:], "é", "a" * 3000):
            answer = await front.get(
                f"/photos?list-type=2&continuation-token={quote(wrong)}"
            )
            assert answer.code == "InvalidArgument"
        await front.put("/other")
        elsewhere = await front.get(f"/other?list-type=2&continuation-token={token}")
        assert elsewhere.code == "InvalidArgument"


@given(st.text(min_size=1, max_size=63), st.binary(max_size=1024))
@settings(max_examples=50)
def test_token_round_trip(scope, place):
    token = encode_token(scope, place)
    assert decode_token(scope, token) == place
    with pytest.raises(InvalidContinuation):
        decode_token(scope + "x", token)


# ---- versions -------------------------------------------------------------------------


async def test_versions_of_an_unversioned_bucket_are_null():
    async with front_door() as front:
        await fill(front)
        found = []
        key_marker = version_marker = ""
        while True:
            markers = f"&key-marker={quote(key_marker)}" + (
                f"&version-id-marker={version_marker}" if version_marker else ""
            )
            page = await front.get(f"/photos?versions&max-keys=3{markers}")
            found += page.texts("Version/Key")
            assert set(page.texts("Version/VersionId")) == {"null"}
            assert set(page.texts("Version/IsLatest")) == {"true"}
            if page.text("IsTruncated") == "false":
                break
            key_marker = page.text("NextKeyMarker")
            version_marker = page.text("NextVersionIdMarker")
        assert found == sorted(KEYS, key=str.encode)
        odd = await front.get("/photos?versions&version-id-marker=null")
        assert odd.code == "InvalidArgument"


# ---- uploads --------------------------------------------------------------------------


async def test_uploads_are_listed_in_pages():
    async with front_door() as front:
        made = []
        for key in ("a", "b", "b", "c/1", "c/2"):
            answer = await front.post(f"/photos/{key}?uploads")
            made.append((key, answer.text("UploadId")))
        found = []
        markers = ""
        while True:
            page = await front.get(f"/photos?uploads&max-uploads=2{markers}")
            keys, ids = page.texts("Upload/Key"), page.texts("Upload/UploadId")
            found += zip(keys, ids, strict=True)
            if page.text("IsTruncated") == "false":
                break
            markers = (
                f"&key-marker={quote(page.text('NextKeyMarker'), safe='')}"
                f"&upload-id-marker={page.text('NextUploadIdMarker')}"
            )
        assert found == made
        rolled = await front.get("/photos?uploads&delimiter=/")
        assert rolled.texts("CommonPrefixes/Prefix") == ["c/"]
        assert rolled.texts("Upload/Key") == ["a", "b", "b"]
        after = await front.get("/photos?uploads&key-marker=b")
        assert after.texts("Upload/Key") == ["c/1", "c/2"]
